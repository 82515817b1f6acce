"""On the CPU one model runs at a time, and the time of the models is what the device was busy."""

import threading
import time

import torch

from dr_pipeline.networks.launching import BusyClock, HostCopy, device_turn, make_stream

CPU = torch.device("cpu")


def test_on_the_cpu_one_thread_at_a_time_runs_a_model_and_its_time_counts() -> None:
    at_once, most = 0, 0

    def compute() -> None:
        nonlocal at_once, most
        with device_turn(CPU):
            at_once += 1
            most = max(most, at_once)
            time.sleep(0.02)
            at_once -= 1

    before = BusyClock(CPU).seconds
    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert BusyClock(CPU).seconds >= before + 4 * 0.02


def test_the_turn_ends_with_an_error() -> None:
    for _ in range(2):
        try:
            with device_turn(CPU):
                raise torch.OutOfMemoryError
        except torch.OutOfMemoryError:
            continue


def test_on_the_cpu_there_is_one_stream_and_a_copy_is_the_tensor_itself() -> None:
    with torch.cuda.stream(make_stream(CPU)):
        tensor = torch.arange(3)
    assert HostCopy(tensor).wait() is tensor
