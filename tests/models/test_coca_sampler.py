"""Batches of captions in buffers of fixed sizes: whatever these are, the captions are those of a batch without them."""

import itertools
from collections.abc import Callable

import pytest
import torch

from dr_pipeline.config.cards import Sampling
from dr_pipeline.errors import ModelError
from dr_pipeline.models.coca_decoder import CocaDecoder
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.models.coca_sampler import Sampler, Samplers, Shapes
from dr_pipeline.models.operations import by_kernels
from dr_pipeline.models.replay import LateReader, Replayed
from tests.models.test_coca_decoder import (
    ARCHITECTURES,
    CONTEXT,
    END,
    START,
    some_images,
    some_streams,
    spoken,
    tiny_coca,
)

pytestmark = pytest.mark.usefixtures("inference")

CPU = torch.device("cpu")
SIZES = Shapes(images=(1, 2, 3, 5, 8), positions=(4, 9, 16), at_once=2, lag=2)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Images of the batch and positions of its caches at each step."""
    seen = []
    step = Sampler.step

    def noting(sampler: Sampler, *arguments: object) -> None:
        seen.append((sampler.size, sampler.decoder.num_positions))
        step(sampler, *arguments)

    monkeypatch.setattr(Sampler, "step", noting)
    return seen


def stopping_coca(architecture: tuple, seed: int = 4) -> torch.nn.Module:
    """A model whose captions end at different places."""
    model = tiny_coca(architecture, seed)
    model.text_decoder.text_projection[:, END] *= 2.5
    return model


def written(
    model: torch.nn.Module, images_BCHW: torch.Tensor, samplers: Samplers | None, captions: int = 2, **options: object
) -> list:
    streams = some_streams(len(images_BCHW), captions)
    sampling = Sampling(**{"max_tokens": CONTEXT, **options})
    return generate(model, images_BCHW, streams, sampling, START, END, samplers).tolist()


@pytest.mark.parametrize("method", ["greedy", "top_p", "top_k"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_images_whose_captions_have_ended_leave(
    architecture: tuple, method: str, sizes: list[tuple[int, int]]
) -> None:  # fmt: skip
    model, images = stopping_coca(architecture), some_images(7, seed=4)
    expected = written(model, images, None, method=method)
    assert len(set(sizes)) == 1, "without sizes a batch keeps its own"
    sizes.clear()
    assert written(model, images, Samplers(SIZES), method=method) == expected
    ends = [max(len(spoken(words)) + 1 for words in captions) for captions in expected]
    assert sizes[0] == (8, 4)
    for step, (size, positions) in enumerate(sizes):
        late = sum(end > step - SIZES.lag for end in ends) if step > SIZES.lag else 7
        assert size == SIZES.room(late), "as many as had words to come when the host learnt of it"
        assert positions == min(length for length in SIZES.positions if length > step)
    assert len(sizes) == min(max(ends) + SIZES.lag, CONTEXT - 2)


def test_batches_do_leave_images_behind_and_move_to_longer_caches(sizes: list[tuple[int, int]]) -> None:
    model = stopping_coca(ARCHITECTURES[1])
    samplers = Samplers(SIZES)
    for method in ("top_p", "top_k"):
        written(model, some_images(7, seed=4), samplers, method=method)
    assert {size for size, _ in sizes} >= {8, 5, 2}
    assert {positions for _, positions in sizes} == set(SIZES.positions)


def test_buffers_are_used_again_by_batches_of_any_size(sizes: list[tuple[int, int]]) -> None:
    model, samplers = stopping_coca(ARCHITECTURES[1]), Samplers(SIZES)
    for number, (count, captions, options) in enumerate(
        [
            (7, 2, {}),
            (2, 2, {"top_p": 0.5}),
            (7, 2, {"method": "greedy"}),
            (3, 1, {}),
            (11, 2, {"min_tokens": 6}),
            (4, 2, {"max_tokens": 4}),
        ]
    ):
        images = some_images(count, seed=number)
        expected = written(model, images, None, captions, **options)
        assert written(model, images, samplers, captions, **options) == expected, number
    assert len(samplers._kept) == 2 * len(SIZES.positions), "one for each number of captions and each length"


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "penalty"), [(ARCHITECTURES[1], 1.0), (ARCHITECTURES[4], 1.5)])
def test_kernels_write_the_same_and_need_nothing_of_the_host_when_they_are_replayed(
    architecture: tuple, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a graph would, every step after the first of its size finds the host's side of its work as it was."""
    model, images = stopping_coca(architecture), some_images(3, seed=6)
    options = {"max_tokens": 7, "repetition_penalty": penalty}
    expected = written(model, images, None, **options)
    replayed = []

    def run(self: Replayed, name: object, work: Callable[[], None]) -> None:
        if name in self._graphs:
            work.__self__.decoder.position.on_host = -1000  # type: ignore[attr-defined]
            replayed.append(name)
        work()
        self._graphs[name] = None  # type: ignore[index,assignment]

    monkeypatch.setattr(Replayed, "run", run)
    samplers = Samplers(SIZES, by_kernels())
    assert written(model, images, samplers, **options) == expected
    assert len(replayed) > 2


@pytest.mark.parametrize("operations", [None, by_kernels()], ids=["torch", "kernels"])
def test_logits_that_are_not_finite_are_refused_though_their_image_has_left(operations: object) -> None:
    model, images = stopping_coca(ARCHITECTURES[0]), some_images(3, seed=4)
    images[1] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        written(model, images, Samplers(SIZES, operations), max_tokens=6)


@pytest.mark.parametrize("failing", [0, 1])
def test_too_little_memory_leaves_nothing_held(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and where a batch moves to longer caches."""
    model, images = stopping_coca(ARCHITECTURES[1]), some_images(7, seed=4)
    expected = written(model, images, None)
    samplers, calls = Samplers(SIZES), itertools.count()
    reserve = CocaDecoder.reserve

    def failing_once(decoder: CocaDecoder, num_images: int, image_tokens: int) -> None:
        lacks = not decoder._image_keys_values_2BHSD
        if lacks and next(calls) == failing:
            raise torch.OutOfMemoryError("none")
        reserve(decoder, num_images, image_tokens)

    monkeypatch.setattr(CocaDecoder, "reserve", failing_once)
    with pytest.raises(torch.OutOfMemoryError):
        written(model, images, samplers)
    assert next(calls) == failing + 1
    assert not samplers._kept
    halves = written(model, images[:4], samplers)
    assert halves == expected[:4]


def test_a_late_reader_is_late() -> None:
    for lag in (0, 1, 3):
        reader, number_1 = LateReader(CPU, lag), torch.zeros(1, dtype=torch.int64)
        read = []
        for value in range(10, 16):
            number_1.fill_(value)
            read.append(reader.read(number_1, default=99))
        assert read == [99] * lag + list(range(10, 16 - lag))


def test_sizes_of_a_gpu() -> None:
    shapes = Shapes.of(torch.device("cuda"))
    assert [shapes.room(count) for count in (1, 5, 24, 25, 300, 512, 513, 5000)] == [8, 8, 24, 32, 384, 512, 768, 5000]
    assert [shapes.lengths(count) for count in (1, 32, 33, 75, 300)] == [
        [32],
        [32],
        [32, 80],
        [32, 80],
        [32, 80, 256, 300],
    ]
    assert Shapes.of(CPU) == Shapes()
    assert Shapes().lengths(75) == [75]
