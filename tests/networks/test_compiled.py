"""Compiled towers give what they gave before, and run as before where they cannot be compiled."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.networks.compiled import filled_up
from dr_pipeline.networks.float8 import Float8Linear
from tests.networks.test_network import FAMILIES, OWN_WORDS, write_config

CPU = torch.device("cpu")
MANY_TEXTS = [f"{'a small circle ' * (index % 4)}on {index}" for index in range(13)]


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiled code of other tests, and a cache of this one's own."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)


def teacher(folder: Path, family: str) -> Any:
    return OpenClipTeacher(CPU, write_config(folder, family), "random", **OWN_WORDS)


def images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def embedded(teacher: Any) -> dict[str, torch.Tensor]:
    """Batches of several sizes, a full one first."""
    size = teacher.spec.image_size
    with torch.inference_mode():
        made = {f"{count} images": teacher.encode_images(images(count, size)) for count in (8, 7, 3, 1, 9)}
        return made | {f"{count} texts": teacher.encode_texts(MANY_TEXTS[:count]) for count in (13, 16, 2)}


@pytest.mark.parametrize("family", ["clip", "siglip", "coca"])
def test_compiled_towers_give_what_they_gave(family: str, tmp_path: Path) -> None:
    one = teacher(tmp_path, family)
    expected = embedded(one)
    one.compile_towers(8, 16, backend="aot_eager")
    assert counters["stats"]["unique_graphs"] > 0
    for name, made in embedded(one).items():
        torch.testing.assert_close(made, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_a_compilation_serves_all_blocks_and_batches_near_in_size(tmp_path: Path) -> None:
    one = teacher(tmp_path, "clip")

    def graphs(work: Callable[[], object]) -> int:
        before = counters["stats"]["unique_graphs"]
        with torch.inference_mode():
            work()
        return int(counters["stats"]["unique_graphs"] - before)

    assert graphs(lambda: one.compile_towers(64, 64, backend="aot_eager")) == 1, "two blocks"
    assert graphs(lambda: one.encode_images(images(64, 32))) == 0
    assert graphs(lambda: [one.encode_images(images(count, 32)) for count in (33, 40, 63)]) == 0
    assert graphs(lambda: [one.encode_images(images(count, 32)) for count in (1, 2, 7, 8)]) == 1
    assert graphs(lambda: [one.encode_texts(["a dog"] * count) for count in (64, 50)]) == 1
    assert graphs(lambda: one.encode_texts(["a small red dog"] * 40)) == 0, "as long, filled up"
    assert graphs(lambda: one.encode_texts(["many words " * 9] * 64)) == 1, "more than 16 tokens"


def test_batches_are_filled_up_to_few_sizes() -> None:
    rows = torch.arange(300.0)[:, None]
    sizes = {count: len(filled_up(rows[:count], 256)) for count in (1, 32, 33, 64, 65, 129, 200, 256, 300)}
    assert sizes == {1: 32, 32: 32, 33: 64, 64: 64, 65: 128, 129: 256, 200: 256, 256: 256, 300: 300}
    assert filled_up(rows[:3], 30).tolist() == [[0], [1], [2], [2]]


def fails(*_: Any) -> Any:
    raise RuntimeError("no compiler is installed here\nand here is why")


def test_a_model_that_cannot_be_compiled_runs_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = teacher(tmp_path, "clip")
    expected = embedded(one)
    with caplog.at_level(logging.WARNING, "dr_pipeline"):
        one.compile_towers(8, 16, backend=fails)  # a backend may be a function
        made = embedded(one)
    (record,) = [record for record in caplog.records if record.name == "dr_pipeline.networks.compiled"]
    assert "open_clip_config.json runs without torch.compile: " in record.getMessage()
    assert "no compiler is installed here" in record.getMessage()
    assert "\n" not in record.getMessage()
    for name, embeddings in made.items():
        assert torch.equal(embeddings, expected[name]), name


def test_memory_that_runs_out_is_not_taken_for_a_failed_compilation(tmp_path: Path) -> None:
    one = teacher(tmp_path, "clip")
    one.compile_towers(8, 16, backend="aot_eager")

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    hook = one._network.module.visual.conv1.register_forward_pre_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        one.encode_images(images(8, 32))
    hook.remove()
    assert len(one.encode_images(images(4, 32))) == 4
    assert one._compiled._parts


def test_compiled_code_is_kept_in_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher(tmp_path, "clip").compile_towers(8, 16, backend="aot_eager")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    teacher(tmp_path, "clip").compile_towers(8, 16, backend="aot_eager")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"


@pytest.mark.slow
def test_inductor_compiles_towers_in_float8(tmp_path: Path) -> None:
    config = {**FAMILIES["clip"], "vision_cfg": {**FAMILIES["clip"]["vision_cfg"], "layers": 1}}
    (tmp_path / "small.json").write_text(json.dumps({"model_cfg": config}))
    one: Any = OpenClipTeacher(CPU, str(tmp_path / "small.json"), "random", **OWN_WORDS)
    one.to_precision(torch.bfloat16)
    one.to_float8()
    assert any(isinstance(part, Float8Linear) for part in one._network.module.modules())
    with torch.inference_mode():
        expected = one.encode_images(images(8, 32))
        one.compile_towers(8, 8)
        made = one.encode_images(images(8, 32))
    assert one._compiled._parts, "it was compiled"
    assert any(path.is_file() for path in (tmp_path / "cache" / "inductor").rglob("*"))
    assert float((1 - torch.nn.functional.cosine_similarity(made, expected)).max()) < 0.01
