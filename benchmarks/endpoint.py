"""How much of an endpoint's capacity a worker uses: requests a second against what the server can take.

    python benchmarks/endpoint.py [--quick]

The server, a process of its own on loopback, has 64 slots. A request carries a JPEG of 90 kB. First the client alone:
the endpoint's captioner with 64 in flight, and 0.25 s for each, which is 256 requests a second. Then a whole job in the
local engine, with 1 s for each, as a model takes: tars of these images, 5 captions (so 5 requests) of each, one view,
and a teacher that costs little; two shards in work, timed from loaded models to the last tar. The baseline of both
is the server's capacity. The quick form has fewer requests.
"""

import argparse
import asyncio
import json
import multiprocessing
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from aiohttp import web
from measure import figure
from PIL import Image

from dr_pipeline.config.cards import Sampling
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import validate
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import write_samples
from dr_pipeline.demo.painting import encode_jpeg
from dr_pipeline.models.endpoint import EndpointCaptioner
from dr_pipeline.models.protocol import WriteRequest
from dr_pipeline.runners.local import LocalRunner

SLOTS, CAPTIONS = 64, 5
CLIENT_S, JOB_S = 0.25, 1.0
"""Seconds that a request stays in a slot."""
ANSWER = json.dumps(
    {
        "choices": [{"message": {"content": "a grey thing on a noisy table"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 7},
    }
)
TEACHER = """
import torch
from dr_pipeline.models.protocol import TeacherSpec

class Colours:
    def __init__(self, device):
        self.spec = TeacherSpec(dim=3, image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def encode_images(self, images_BCHW):
        return images_BCHW.mean(dim=(2, 3)) + 0.01

    def encode_texts(self, texts):
        return torch.tensor([[1.0, len(text) + 1.0, 1.0] for text in texts])
"""


def serve(pipe: Connection) -> None:
    """Answer until the process is ended; the port goes through the pipe. The model's name is a request's seconds."""

    async def main() -> None:
        slots = asyncio.Semaphore(SLOTS)

        async def answer(request: web.Request) -> web.Response:
            seconds = float(re.search(rb'"model": "([\d.]+)"', await request.read())[1])
            async with slots:
                await asyncio.sleep(seconds)
            return web.Response(text=ANSWER, content_type="application/json")

        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def noisy_jpeg(index: int) -> bytes:
    """640 × 480 pixels, about 100 kB."""
    pixels_HWC = np.random.default_rng(index).integers(88, 168, (480, 640, 3), dtype=np.uint8)
    return encode_jpeg(Image.fromarray(pixels_HWC), quality=75)


def client_alone(base_url: str, images: list[bytes], num_requests: int) -> float:
    """Requests a second."""

    async def ask_all() -> float:
        captioner = EndpointCaptioner(torch.device("cpu"), base_url, str(CLIENT_S), max_in_flight=SLOTS)
        requests = [
            WriteRequest(
                key=str(index),
                image=images[index % len(images)],
                prompt="Describe the image.",
                alt_text="",
                seeds=(index,),
                sampling=Sampling(),
            )
            for index in range(num_requests)
        ]
        started = time.perf_counter()
        written = await asyncio.gather(*map(captioner.write, requests))
        seconds = time.perf_counter() - started
        await captioner.close()
        assert not [one.failure for one in written if one.failure]
        return num_requests / seconds

    return asyncio.run(ask_all())


def whole_job(base_url: str, images: list[bytes], samples_per_shard: int, folder: Path) -> float:
    """Requests a second, of two shards."""
    (folder / "colours.py").write_text(TEACHER)
    for shard in range(2):
        samples = [
            Sample(f"{shard}{index:06d}", {"jpg": images[index % len(images)], "txt": f"picture {index}".encode()})
            for index in range(samples_per_shard)
        ]
        (folder / "in").mkdir(exist_ok=True)
        write_samples(folder / "in" / f"{shard:05d}.tar", samples)
    captioner = {
        "name": "vlm",
        "use": "dr_pipeline.models.endpoint:EndpointCaptioner",
        "options": {"model": str(JOB_S)},
        "connection": {"base_url": base_url, "max_in_flight": SLOTS},
        "num_captions": CAPTIONS,
        "prompt": "Describe the image.",
    }
    tree = {
        "name": "endpoint",
        "input": {"shards": str(folder / "in")},
        "output": {"path": str(folder / "out")},
        "captioners": [captioner],
        "teachers": [{"name": "colours", "use": "colours:Colours"}],
        "augmentation": {"num_views": 1, "random_resized_crop": {"size": 32}},
        "workers": {"engine": "local"},
        "plugin_dirs": [str(folder)],
    }
    plan = make_plan(validate(Job, tree, "endpoint"))
    runner = LocalRunner(plan.job)
    runner.start()
    started = time.perf_counter()
    reports = [*runner.run(plan.todo)]
    seconds = time.perf_counter() - started
    runner.close()
    assert [report.error for report in reports] == [None, None]
    return sum(used["requests"] for report in reports for used in report.usage.values()) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how much of an endpoint's capacity is used.")
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    quick = parser.parse_args().quick
    images = [noisy_jpeg(index) for index in range(16)]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    base_url = f"http://127.0.0.1:{ours.recv()}/v1"
    kilobytes = sum(map(len, images)) / len(images) / 1000
    with tempfile.TemporaryDirectory() as folder:
        alone = client_alone(base_url, images, 1500 if quick else 6000)
        job = whole_job(base_url, images, 150 if quick else 300, Path(folder))
    for who, rate, seconds in (("the client alone", alone, CLIENT_S), ("a whole job", job, JOB_S)):
        what = f"{SLOTS} in flight for {seconds:g} s, images of {kilobytes:.0f} kB"
        figure(f"requests/s of {who} ÷ the server's capacity, {what}", rate, SLOTS / seconds, rate * seconds / SLOTS)
    server.terminate()


if __name__ == "__main__":
    main()
