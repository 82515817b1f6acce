"""The benchmarks' own parts that could rot or deceive; the benchmarks themselves run by hand."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from dr_pipeline.jobfile import load
from dr_pipeline.student.config import TrainJob

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def efficiency() -> ModuleType:
    return module("learning_efficiency")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_cells_differ_in_what_they_are_named_after_alone(efficiency: ModuleType, tmp_path: Path) -> None:
    jobs = {}
    for cell, changes in efficiency.CELLS.items():
        trial = efficiency.Trial(cell, 1e-3, 0, 100, "result")
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(efficiency.job(tmp_path, trial)))
        jobs[cell] = load(path, TrainJob, [f"{key}={value}" for key, value in changes.items()])
    shared = [
        {key: value for key, value in job.identity().items() if key not in ("distillation", "captions")}
        for job in jobs.values()
    ]
    assert all(tree == shared[0] for tree in shared)
    weights = {cell: (job.distillation.weight, job.captions.synthetic_weight) for cell, job in jobs.items()}
    assert weights == {"neither": (0, 0), "synthetic captions": (0, 1), "distillation": (1, 0), "both": (1, 1)}


def test_samples_to_reach_an_accuracy(
    efficiency: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def learned(*accuracies: float) -> object:
        samples = [1000 * step for step in range(1, len(accuracies) + 1)]
        return efficiency.Learned(samples, {figure: list(accuracies) for figure in efficiency.FIGURES})

    plain, reinforced, poor = learned(0.1, 0.2, 0.3), learned(0.1, 0.4, 0.9), learned(0.1, 0.1, 0.2)
    assert efficiency.samples_to_reach(0.3, reinforced) == 2000
    assert efficiency.samples_to_reach(0.3, poor) is None
    assert efficiency.samples_to_reach(0.3, learned(0.4, 0.2, 0.5, 0.3)) == 3000, "for good, not by luck"
    results = {"neither": [plain, plain], "both": [reinforced, reinforced], "distillation": [reinforced, poor]}
    efficiency.report(results)
    lines = {line["metric"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert lines["zero-shot, both"]["ratio"] == pytest.approx(3)
    assert lines["samples to reach 0.300 zero-shot, both"]["ratio"] == pytest.approx(2 / 3)
    assert lines["samples to reach 0.300 zero-shot, distillation"]["ratio"] is None, "not every run came there"
    efficiency.draw(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
