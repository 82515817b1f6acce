"""Groups of samples, the chunks whose views fill the device's batches, and errors that name the samples."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ModelError, SampleSkipped, ShardError
from dr_pipeline.reinforce.embed import Chunk, samples_per_chunk
from dr_pipeline.reinforce.in_flight import SampleStage, in_groups, keys_of, naming
from dr_pipeline.reinforce.rendering import HostRenderer
from dr_pipeline.reinforce.stats import ShardStats

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([1, 1, 1, 1, 1], [[1, 1], [1, 1], [1]]),
        ([0, 0, 1, 0, 1, 0], [[0, 0, 1, 0, 1], [0]]),
        ([5, 1, 0, 3], [[5], [1, 0, 3]]),
    ],
)
def test_a_group_ends_with_the_item_that_fills_it(sizes: list[int], groups: list[list[int]]) -> None:
    assert list(in_groups(sizes, lambda size: size, 2)) == groups


@pytest.mark.parametrize(
    ("view_batch", "num_views", "samples"),
    [(256, 30, 17), (256, 2, 128), (256, 1, 256), (256, 256, 1), (256, 1000, 1), (8, 3, 8), (4, 3, 4), (1, 3, 1)],
)
def test_a_chunk_fills_its_batches(view_batch: int, num_views: int, samples: int) -> None:
    assert samples_per_chunk(view_batch, num_views) == samples


def test_a_stage_s_stream_is_the_thread_s_while_its_models_work_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[bool] = []

    @contextmanager
    def on_stream(stream: object) -> Iterator[None]:
        entered.append(True)
        yield
        entered.pop()

    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    stage, seen = SampleStage("score", CPU, "float32", batch_size=2), []
    samples = [Sample(str(index), {}) for index in range(5)]
    for _ in stage.in_batches(samples, lambda sample: sample, lambda _: seen.append(len(entered)), ShardStats()):
        assert not entered
    assert seen == [1, 1, 1]


def test_pixels_are_packed_in_order_without_those_that_are_skipped_and_freed() -> None:
    samples = [Sample(str(index), {}) for index in range(4)]
    for index, sample in enumerate(samples):
        sample.views_NHWC = np.full((2, 3, 3, 3), index, np.uint8)
    samples[1].skip, samples[1].views_NHWC = SampleSkipped("no text"), None
    renderer = HostRenderer(Augmentation(), CPU)
    chunk = Chunk(samples, renderer)
    assert chunk.launch(CPU)[:, 0, 0, 0].tolist() == [0, 0, 2, 2, 3, 3]
    assert [sample.key for sample in chunk.kept] == ["0", "2", "3"]
    assert all(sample.views_NHWC is None for sample in samples)
    assert Chunk(samples[1:2], renderer).launch is None


def test_an_error_names_the_first_and_the_last_sample() -> None:
    with (
        pytest.raises(ShardError, match=r"no such luck \(samples a … c\)"),
        naming(keys_of([Sample(k, {}) for k in "abc"])),
    ):
        raise ModelError("no such luck")
