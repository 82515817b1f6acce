"""examples/digits from its start to its end, with fewer digits and steps."""

import importlib
from pathlib import Path

import pytest

import dr_pipeline
from dr_pipeline.training.metrics import read_metrics

EXAMPLE = Path(__file__).parent.parent / "examples/digits"
SMALL = {"test": slice(0, 30), "many": slice(30, 94), "few": slice(94, 110)}
FEW_STEPS = ["schedule.steps=3", "schedule.batch_size=16", "schedule.warmup_steps=1", "run.log_every=1"]


def test_the_digits_are_written_taught_reinforced_and_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    compare = importlib.import_module("compare")
    monkeypatch.setattr(importlib.import_module("write_digits"), "SPLIT", SMALL)
    found = compare.main(1, *FEW_STEPS)
    assert found.keys() == {"labels", "reinforced"}
    assert all(0 <= accuracy <= 1 for (accuracy,) in found.values())
    assert not dr_pipeline.verify("outputs/digits/plus").problems
    first = {kind: read_metrics(Path(f"outputs/digits/student {kind} 0"))[0]["loss"] for kind in found}
    assert first["labels"] != first["reinforced"]
