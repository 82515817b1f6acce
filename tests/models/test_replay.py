"""Batches that are replayed give the rows that the function gives, whatever was replayed before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.replay import Replayed, ReplayedBatches

CPU = torch.device("cpu")


class Graph:
    """What a CUDA graph does: the captured work once more."""

    def __init__(self, work: Callable[[], None]):
        self.replay = work


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Work that was captured, as on a GPU."""
    works: list[Callable[[], None]] = []

    def capture(self: Replayed, work: Callable[[], None]) -> Graph:
        works.append(work)
        return Graph(work)

    monkeypatch.setattr(Replayed, "_captured", capture)
    return works


def on_gpu(batches: ReplayedBatches) -> ReplayedBatches:
    batches._replayed._on_gpu = True
    return batches


class Doubling:
    """A function of rows that notes how many it is given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, rows_BD: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(rows_BD))
        return 2 * rows_BD[:, :2]


def test_large_batches_are_filled_up_and_small_ones_are_not(captured: list[Callable[[], None]]) -> None:
    doubling = Doubling()
    batches = on_gpu(ReplayedBatches(doubling, 8, CPU))
    for size in (8, 5, 4, 1, 7, 9):
        rows_BD = torch.randn(size, 3)
        assert torch.equal(batches(rows_BD), 2 * rows_BD[:, :2])
    assert doubling.sizes == [8, 8, 4, 1, 8, 9]
    assert len(captured) == 1


def test_what_was_given_stays_when_the_next_batch_comes(captured: list[Callable[[], None]]) -> None:
    batches = on_gpu(ReplayedBatches(Doubling(), 4, CPU))
    first_BD, second_BD = torch.randn(4, 3), torch.randn(4, 3)
    given = batches(first_BD)
    batches(second_BD)
    assert torch.equal(given, 2 * first_BD[:, :2])


def test_each_shape_of_a_row_has_its_graph(captured: list[Callable[[], None]]) -> None:
    batches = on_gpu(ReplayedBatches(Doubling(), 4, CPU))
    for width in (3, 5, 3, 5):
        rows_BD = torch.randn(4, width)
        assert torch.equal(batches(rows_BD), 2 * rows_BD[:, :2])
    assert len(captured) == 2


def test_work_that_cannot_be_captured_is_launched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def capture(self: Replayed, work: Callable[[], None]) -> Graph:
        tries.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(Replayed, "_captured", capture)
    batches = on_gpu(ReplayedBatches(Doubling(), 4, CPU))
    for _ in range(3):
        rows_BD = torch.randn(3, 3)
        assert torch.equal(batches(rows_BD), 2 * rows_BD[:, :2])
    assert len(tries) == 1
    assert caplog.messages == [
        "models launch kernel by kernel, for their work cannot be captured as a graph: "
        "operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("causal", [True, False])
def test_a_teachers_replayed_towers_embed_as_before(causal: bool, tmp_path: Path) -> None:
    text = {
        "context_length": 40,
        "vocab_size": 1000,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": not causal,
    }
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    (tmp_path / "clip.json").write_text(json.dumps({"model_cfg": config}))
    words = "dr_pipeline.demo.tokenizer:WordTokenizer"
    teacher = OpenClipTeacher(CPU, str(tmp_path / "clip.json"), "random", tokenizer=words)
    images_BCHW, texts = torch.randn(7, 3, 32, 32), ["a dog", "", "two blue squares on a field " * 4]
    with torch.inference_mode():
        before = teacher.encode_images(images_BCHW), teacher.encode_texts(texts)
        teacher.replay_towers(8, 4)
        for _ in range(2):
            after = teacher.encode_images(images_BCHW), teacher.encode_texts(texts)
            for ours, theirs in zip(after, before, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert teacher._replayed["images"]._inputs.keys() == {torch.Size((3, 32, 32))}
    assert teacher._replayed["texts"]._inputs.keys() == {torch.Size((32 if causal else 40,))}
