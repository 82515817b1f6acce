"""The host's part: decoding and rendering on threads, which share the interpreter's lock, and on processes."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

from measure import wall_seconds
from photos import photo

from dr_pipeline.config import Augmentation, Resampler
from dr_pipeline.views.params import draw
from dr_pipeline.views.render import decode, render
from on_gpu.bench import Bench

_SIZE = 224
_MOST_PIXELS = 1 << 24


def measure(bench: Bench) -> None:
    """Print images and views a second; the baseline is one thread's times the workers."""
    jpegs = [photo(index)[0] for index in range(bench.size(8, 1))]
    counts = [count for count in bench.size((1, 4, 8, 16), (1, 2)) if count <= (os.cpu_count() or 1) or bench.dry]
    images_each = bench.size(100, 2)
    _scale(bench, "decoding, images", "images/s", _threads, counts, partial(_decode, jpegs), images_each, 1)
    num_views = bench.size(30, 2)
    resamplers: Sequence[Resampler] = ("pillow", "fast")
    for resampler in resamplers:
        work, label = partial(_render, jpegs, num_views, resampler), f"rendering by {resampler}"
        _scale(bench, f"{label}, threads", "views/s", _threads, counts, work, bench.size(6, 1), num_views)
    work = partial(_render, jpegs, num_views, "pillow")
    _scale(
        bench, "rendering by pillow, processes", "views/s", _processes, counts[1:], work, bench.size(6, 1), num_views
    )


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
) -> None:
    """So many calls a worker; each process keeps the pixels that it makes."""
    one = bench.bare.get(f"host {unit}")
    for count in counts:
        with bench.attempt(f"{label}, {count}"), executor(count) as workers:
            list(workers.map(work, range(count)))  # the workers start
            seconds = wall_seconds(
                lambda workers=workers, count=count: list(workers.map(work, range(count * calls_each)))
            )
            rate = count * calls_each * things_a_call / seconds
            one = rate if count == 1 else one
            bench.figure(f"{label}, {count} at once", rate, unit, count * one if one else None)
    if one and unit == "views/s" and "pillow, threads" in label:
        bench.bare[f"host {unit}"] = one


def _decode(jpegs: Sequence[bytes], index: int) -> None:
    decode(jpegs[index % len(jpegs)], _MOST_PIXELS)


def _render(jpegs: Sequence[bytes], num_views: int, resampler: Resampler, index: int) -> None:
    recipe = Augmentation(num_views=num_views)
    image = decode(jpegs[index % len(jpegs)], _MOST_PIXELS)
    render(image, draw(image.width, image.height, recipe, 0, str(index)), _SIZE, "bicubic", resampler)
