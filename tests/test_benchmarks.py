"""The benchmarks' own parts that could rot or deceive; the benchmarks themselves run by hand."""

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from dr_pipeline.config.jobfile import load
from dr_pipeline.config.training import TrainJob
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.views.seeding import Stream

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
README = BENCHMARKS / "README.md"


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


@pytest.mark.parametrize("script", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.stem)
def test_what_a_script_imports_of_the_package_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dr_pipeline"):
            loaded = importlib.import_module(node.module)
            for name in node.names:
                if hasattr(loaded, "__path__") and not hasattr(loaded, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                assert hasattr(loaded, name.name), f"{node.module} has no {name.name}"


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


@pytest.fixture(scope="module")
def run_all() -> ModuleType:
    return module("run_all")


def test_every_script_is_in_the_list_of_make_bench_and_has_a_quick_form(run_all: ModuleType) -> None:
    scripts = {path.stem: path.read_text() for path in BENCHMARKS.glob("*.py") if '"__main__"' in path.read_text()}
    assert scripts.keys() - {"run_all"} == run_all.BUDGETS_S.keys() | run_all.LEFT_OUT.keys()
    assert not [name for name in run_all.BUDGETS_S if '"--quick"' not in scripts[name]]
    assert sum(run_all.BUDGETS_S.values()) < 660


def test_the_table_of_quick_figures_replaces_the_last_one_alone(run_all: ModuleType) -> None:
    figures = run_all.read_figures(
        'a warning\n{"metric": "ms ÷ theirs", "value": 3.14159, "baseline": 159600, "ratio": 0.0000123}\n'
        '{"metric": "of nothing else", "value": 250.4, "baseline": null, "ratio": null}\n{"metric": "cut off'
    )
    rows = [run_all.row("write_cost", figure) for figure in figures]
    assert rows == [
        "| `write_cost` | ms ÷ theirs | 3.14 | 160,000 | 1.2e-05 |",
        "| `write_cost` | of nothing else | 250 |  |  |",
    ]
    page = README.read_text()
    written = run_all.write_section(page, run_all.table(rows))
    assert rows[0] in written
    assert run_all.machine() in written
    again = run_all.write_section(written, run_all.table(rows[1:]))
    assert rows[0] not in again
    before, _, rest = page.partition("<!-- quick figures -->")
    assert again.startswith(before)
    assert again.endswith(rest.partition("<!-- end of quick figures -->")[2])
    with pytest.raises(ValueError, match="lacks the marks"):
        run_all.write_section("no marks", "")


def test_a_script_that_fails_is_said_to_and_its_figures_are_kept(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = '{"metric": "a", "value": 1, "baseline": null, "ratio": null}'
    (tmp_path / "broken.py").write_text(f"print('{figure}', flush=True)\nraise SystemExit(3)")
    (tmp_path / "endless.py").write_text(f"print('{figure}', flush=True)\nwhile True: pass")
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.setattr(run_all, "BUDGETS_S", {"broken": 20, "endless": 0.5})
    assert run_all.run_quick("broken") == ([json.loads(figure)], "exit code 3")
    assert run_all.run_quick("endless") == ([json.loads(figure)], "stopped after 1.5 s")


def test_the_table_of_scaling_is_what_the_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    for what, values in module("scaling_model").table([]):
        assert f"| {what} | {' | '.join(values)} |" in page


@pytest.mark.slow
def test_the_gpu_s_sections_run_dry(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--dry", "--seconds", "3600", "--only"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sections = importlib.import_module("gpu").SECTIONS
    done = subprocess.run([*command, ",".join(sections)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {line["section"] for line in lines} == sections.keys()
    assert all(line["device"] == "CPU" for line in lines if line["figure"] != "the section itself")
    (recipe,) = (line for line in lines if line["figure"] == "samples/s, the recipe, 30 views")
    assert recipe["ratio"] == pytest.approx(recipe["value"] / recipe["baseline"]), "the sum of the bare times is known"
    (ours,) = (line for line in lines if line["figure"] == "samples/s, ours by the DataLoader's")
    assert ours["value"] == pytest.approx(recipe["value"]), "the peer is compared with the same run's job"


def test_a_section_that_fails_or_hangs_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu = importlib.import_module("gpu")
    fails, hangs = gpu.Section("ceilings", "no_such_function", 1), gpu.Section("ceilings", "measure", 1)
    monkeypatch.setattr(gpu, "SECTIONS", {"fails": fails, "hangs": hangs})
    limits = {"fails": 600, "hangs": 0}
    said = [[line.get("error") for line in gpu.run(name, True, {}, limit)] for name, limit in limits.items()]
    assert "no_such_function" in str(said[0])
    assert "stopped after 0 s" in str(said[1])


def test_the_bare_decoder_says_what_ours_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    captions, models = (importlib.import_module(f"on_gpu.{name}") for name in ("captions", "models"))
    model = models.Captioner(torch.device("cpu"), models.write_tiny(tmp_path)[1])._model
    images_BCHW = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    greedy = captions.sampling(6).model_copy(update={"method": "greedy"})
    with torch.inference_mode():
        bare = captions.BareDecoder(model, images_BCHW, 2, 6, top_p=0.0)
        ours = generate(model, images_BCHW, [[Stream(0)] * 2] * 3, greedy, 49406, 49407)
        assert torch.equal(bare.run(), ours.flatten(0, 1))
        assert torch.equal(bare.run(), ours.flatten(0, 1)), "again"


def test_the_simulated_accelerator_works_in_order_and_takes_no_more_than_a_queue_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    overlap = importlib.import_module("overlap")
    monkeypatch.setattr(overlap, "QUEUED_LAUNCHES", 2)
    now = 100.0

    def sleep_until(moment: float) -> None:
        nonlocal now
        now = max(now, moment)

    monkeypatch.setattr(overlap, "sleep_until", sleep_until)
    monkeypatch.setattr(overlap.time, "perf_counter", lambda: now)
    accelerator = overlap.Accelerator()
    accelerator.launch(1, 0.2)
    assert (now, accelerator.end) == (100, pytest.approx(100.2))
    accelerator.launch(2, 0.4)  # the second of these has no room before the first launch is done
    assert (now, accelerator.end) == (pytest.approx(100.2), pytest.approx(100.6))
    assert accelerator.busy_seconds == pytest.approx(0.6)
    assert len(accelerator.lock_waits) == 3


def test_growth_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    exponent = module("many_shards").exponent
    assert exponent([(n, 3e-5 * n**1.2) for n in (10_000, 100_000, 1_000_000)]) == pytest.approx(1.2)


def test_a_contender_that_leaves_something_out_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    members = ("jpg", "txt", "syn.json", "paug.json", "pth")
    for number, left_out in enumerate((None, "paug.json", "pth")):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for member in members:
                if member != left_out:
                    tar.addfile(tarfile.TarInfo(f"{number}.{member}"))
    assert module("contenders").count_samples(tmp_path) == 1


def test_the_peak_of_memory_is_that_of_all_descendants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    hold = "import time; held = bytearray(b'1') * 2**28; time.sleep(1)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    process = subprocess.Popen([sys.executable, "-c", start])
    with module("memory_of_tree").PeakMemory(process.pid) as memory:
        assert process.wait() == 0
    assert 0.25 < memory.peak_gib < 0.35
