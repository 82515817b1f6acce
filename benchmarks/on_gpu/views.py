"""Views and images: the device's views, against the host's best; the host's threads, which share the interpreter's
lock, and its processes, against one thread.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from measure import wall_seconds
from photos import photo

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.views.recipe import Recipe, draw
from dr_pipeline.views.render import decode
from dr_pipeline.views.render import render as render_on_host
from on_gpu.bench import Bench

_SIZE = 224
_MOST_PIXELS = 1 << 24
_CALLS_IN_A_ROW = 10


def measure(bench: Bench) -> None:
    """Print images and views a second; the host's baseline is one thread's times the workers."""
    jpegs = [photo(index)[0] for index in range(bench.size(8, 1))]
    counts = [count for count in bench.size((1, 4, 8, 16), (1, 2)) if count <= (os.cpu_count() or 1) or bench.dry]
    num_views, calls_each = bench.size(30, 2), bench.size(3, 1)
    by_pillow = partial(_render, jpegs, num_views)
    label = "rendering on the host"
    threads = _scale(bench, f"{label}, threads", "views/s", _threads, counts, by_pillow, calls_each, num_views)
    one = threads.get(1)
    processes = _scale(
        bench, f"{label}, processes", "views/s", _processes, counts[1:], by_pillow, calls_each, num_views, one
    )
    best = max([*threads.values(), *processes.values()], default=None)
    for num_images in bench.size((9, 36), (1,)):
        with bench.attempt(f"rendering on the device, {num_images} images a call"):
            _on_device(bench, jpegs, num_images, num_views, best)
    _scale(bench, "decoding", "images/s", _threads, counts, partial(_decode, jpegs), bench.size(60, 2), 1)


def _on_device(bench: Bench, jpegs: Sequence[bytes], num_images: int, num_views: int, best: float | None) -> None:
    """From decoded images in the host's memory to views on the device: whole, planned by another thread, and what the
    host's planning, the launching thread and the device itself take.
    """
    from dr_pipeline.views.device.render import plan, render

    size, label = bench.size(_SIZE, 8), f"{num_images * num_views} views a call"
    images = [
        decode(jpegs[index % len(jpegs)], _MOST_PIXELS).resize(bench.size((640, 480), (12, 9)))
        for index in range(num_images)
    ]
    settings = Augmentation(num_views=num_views)
    pixels, recipe = [np.asarray(image) for image in images], Recipe(settings)
    views = [draw(image.width, image.height, recipe, num_views, 0, str(index)) for index, image in enumerate(images)]
    planned = plan(pixels, views, recipe, size, bench.device.type == "cuda")
    calls, views_a_call = range(bench.size(_CALLS_IN_A_ROW, 1)), num_images * num_views

    def launches() -> None:
        for _ in calls:
            planned.launch(bench.device)

    seconds = bench.seconds(lambda: [render(pixels, views, recipe, size, bench.device) for _ in calls]) / len(calls)
    bench.figure(f"rendering on the device, {label}", views_a_call / seconds, "views/s", best)
    seconds = bench.seconds(launches) / len(calls)
    bench.figure(f"the same, planned before, {label}", views_a_call / seconds, "views/s", best)
    seconds = wall_seconds(launches) / len(calls)  # the device is not waited for
    bench.wait()
    bench.figure(f"the launching thread's time, {label}", 1e3 * seconds, "ms a call")
    seconds = wall_seconds(lambda: [plan(pixels, views, recipe, size, bench.device.type == "cuda") for _ in calls])
    bench.figure(f"planning, {label}", 1e3 * seconds / len(calls), "ms a call")
    if bench.device.type == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            launches()
            bench.wait()
        events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        seconds = 1e-6 * sum(event.time_range.elapsed_us() for event in events) / len(calls)
        bench.figure(f"by its kernels' and copies' own time, {label}", views_a_call / seconds, "views/s")


def _threads(count: int) -> Executor:
    return ThreadPoolExecutor(count)


def _processes(count: int) -> Executor:
    return ProcessPoolExecutor(count, multiprocessing.get_context("fork"))


def _scale(
    bench: Bench,
    label: str,
    unit: str,
    executor: Callable[[int], Executor],
    counts: Sequence[int],
    work: Callable[[int], None],
    calls_each: int,
    things_a_call: int,
    one: float | None = None,
) -> dict[int, float]:
    """So many calls a worker; each process keeps the pixels that it makes. The rates by the number of workers."""
    rates = {}
    for count in counts:
        with bench.attempt(f"{label}, {count}"), executor(count) as workers:
            list(workers.map(work, range(count)))  # the workers start
            seconds = wall_seconds(
                lambda workers=workers, count=count: list(workers.map(work, range(count * calls_each)))
            )
            rates[count] = count * calls_each * things_a_call / seconds
            one = rates[count] if count == 1 else one
            bench.figure(f"{label}, {count} at once", rates[count], unit, count * one if one else None)
    return rates


def _decode(jpegs: Sequence[bytes], index: int) -> None:
    decode(jpegs[index % len(jpegs)], _MOST_PIXELS)


def _render(jpegs: Sequence[bytes], num_views: int, index: int) -> None:
    image = decode(jpegs[index % len(jpegs)], _MOST_PIXELS)
    recipe = Recipe(Augmentation())
    views = draw(image.width, image.height, recipe, num_views, 0, str(index))
    render_on_host(image, views, recipe, _SIZE)
