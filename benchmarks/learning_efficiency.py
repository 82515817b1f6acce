"""How many samples reinforcement saves: table 2 of the paper in miniature, on the demo's scenes.

    python benchmarks/learning_efficiency.py [--work outputs/learning_efficiency] [--steps 800] [--seeds 3]

Four students are trained from scratch on the same stored views, for the same number of steps: {no distillation,
distillation} × {no synthetic captions, synthetic captions}. Each cell's learning rate is tuned on scenes of its own.
Prints one JSON line a figure; draws WORK/learning_efficiency.png. Runs that ended are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from matplotlib.figure import Figure

from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.demo.scenes import write_scenes
from dr_pipeline.training.metrics import read_metrics

CELLS = {
    "neither": {"distillation.weight": 0, "captions.synthetic_weight": 0},
    "synthetic captions": {"distillation.weight": 0, "captions.synthetic_weight": 1},
    "distillation": {"distillation.weight": 1, "captions.synthetic_weight": 0},
    "both": {"distillation.weight": 1, "captions.synthetic_weight": 1},
}
LEARNING_RATES = (1e-3, 2e-3)  # 5e-4 and 4e-3 are worse for every cell
TUNING_STEPS = 187
TUNING_SEED = 100
BATCH_SIZE = 128
NUM_SHARDS, SAMPLES_PER_SHARD = 16, 512
FIGURES = {"zero-shot": "scenes acc1", "text to image R@1": "captions text_to_image_r1"}
# Two runs side by side, each with one thread; and memory that glibc would give back to the system at every step.
PROCESSES = 2
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


@dataclass(frozen=True)
class Trial:
    """One training run."""

    cell: str
    learning_rate: float
    seed: int
    steps: int
    scenes: str
    """Which half of the held-out scenes it is measured on: tuning or result."""

    @property
    def name(self) -> str:
        return f"{self.cell.replace(' ', '-')}-lr{self.learning_rate:g}-seed{self.seed}-{self.steps}"


@dataclass(frozen=True)
class Learned:
    """What a run's student could do after so many samples."""

    samples: list[int]
    figures: dict[str, list[float]]


def prepare(work: Path) -> None:
    """The scenes, their reinforcement and the held-out scenes; what is there is left."""
    if not (work / "scenes" / f"{NUM_SHARDS - 1:05d}.tar").exists():
        write_scenes(work / "scenes", NUM_SHARDS, SAMPLES_PER_SHARD, seed=1)
    write_held_out(work / "held_out", 800)
    overrides = ["name=bench", f"input.shards={work / 'scenes'}", f"output.path={work / 'reinforced'}"]
    command("run", "jobs/quickstart.yaml", *overrides)


def command(verb: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dr_pipeline", verb, *arguments], check=True, env=ENVIRONMENT)


def job(work: Path, trial: Trial) -> dict[str, Any]:
    """The training job of a trial. Views, steps, batch and schedule are the same for all."""
    tars = {"tuning": (0, 1), "result": (2, 3)}[trial.scenes]
    return {
        "name": trial.name,
        "seed": trial.seed,
        "data": {"shards": str(work / "reinforced"), "workers": 0},
        "student": {
            "architecture": "package://dr_pipeline.demo/scene_clip_a.json",
            "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
        },
        "schedule": {
            "steps": trial.steps,
            "batch_size": BATCH_SIZE,
            "warmup_steps": 50,
            "learning_rate": trial.learning_rate,
            "min_learning_rate": 0.0,
            "weight_decay": 0.1,
        },
        "evaluation": {
            "every": 20,
            "classification": [
                {"name": "scenes", "data": [f"{work}/held_out/classification/test/{tar}.tar" for tar in tars]}
            ],
            "retrieval": [{"name": "captions", "data": [f"{work}/held_out/retrieval/test/{tar}.tar" for tar in tars]}],
        },
        "run": {"path": str(work / "runs" / trial.name), "checkpoint_every": 250},
    }


def learn(work: Path, trials: Iterable[Trial]) -> dict[Trial, Learned]:
    """Train them all, some side by side."""
    trials = list(trials)
    with ThreadPoolExecutor(PROCESSES) as pool:
        return dict(zip(trials, pool.map(lambda trial: learn_one(work, trial), trials), strict=True))


def learn_one(work: Path, trial: Trial) -> Learned:
    folder = work / "runs" / trial.name
    if not (folder / "model" / "open_clip_model.safetensors").exists():
        path = work / "jobs" / f"{trial.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        tree = job(work, trial)
        path.write_text(yaml.safe_dump(tree))
        overrides = [f"{key}={value}" for key, value in CELLS[trial.cell].items()]
        command("train", str(path), *overrides)
    records = [record for record in read_metrics(folder) if record["event"] == "evaluation"]
    return Learned(
        [record["samples"] for record in records],
        {name: [record[key] for record in records] for name, key in FIGURES.items()},
    )


def tune(work: Path) -> dict[str, float]:
    """Each cell's best learning rate in shorter runs: the mean of the last three evaluations decides."""
    trials = [Trial(cell, rate, TUNING_SEED, TUNING_STEPS, "tuning") for cell in CELLS for rate in LEARNING_RATES]
    learned = learn(work, trials)
    best = {}
    for cell in CELLS:
        scores = {t.learning_rate: mean(learned[t].figures["zero-shot"][-3:]) for t in trials if t.cell == cell}
        best[cell] = max(scores, key=scores.__getitem__)
        print(json.dumps({"metric": f"learning rate, {cell}", "value": best[cell], "tried": scores}), flush=True)
    return best


def samples_to_reach(target: float, learned: Learned) -> int | None:
    """The samples seen at the first evaluation from which on all are as good as `target`; None when the last is not."""
    reached = None
    for seen, value in zip(reversed(learned.samples), reversed(learned.figures["zero-shot"]), strict=True):
        if value < target:
            break
        reached = seen
    return reached


def report(results: dict[str, list[Learned]]) -> None:
    """The table, and how many samples the reinforced student needs for plain training's final accuracy."""
    for figure in FIGURES:
        plain = mean(run.figures[figure][-1] for run in results["neither"])
        for cell, runs in results.items():
            finals = [run.figures[figure][-1] for run in runs]
            spread = stdev(finals) if len(finals) > 1 else 0.0
            line = {"metric": f"{figure}, {cell}", "value": mean(finals), "spread": spread, "runs": finals}
            print(json.dumps({**line, "baseline": plain, "ratio": mean(finals) / plain if plain else None}))
    target = mean(run.figures["zero-shot"][-1] for run in results["neither"])
    total = results["neither"][0].samples[-1]
    for cell, runs in results.items():
        needed = [samples_to_reach(target, run) for run in runs]
        known = [seen for seen in needed if seen is not None]
        value = mean(known) if len(known) == len(needed) else None
        line = {"metric": f"samples to reach {target:.3f} zero-shot, {cell}", "value": value, "runs": needed}
        print(json.dumps({**line, "baseline": total, "ratio": value / total if value else None}))


def draw(results: dict[str, list[Learned]], path: Path) -> None:
    """Accuracy against samples seen, a band from the worst to the best seed."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(FIGURES)), FIGURES, strict=True):
        for cell, runs in results.items():
            per_step = list(zip(*(run.figures[name] for run in runs), strict=True))
            axes.plot(runs[0].samples, [mean(values) for values in per_step], label=cell)
            axes.fill_between(runs[0].samples, [min(v) for v in per_step], [max(v) for v in per_step], alpha=0.2)
        axes.set(title=name, xlabel="samples seen", xscale="log")
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how many samples reinforcement saves.")
    parser.add_argument("--work", type=Path, default=Path("outputs/learning_efficiency"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    work = options.work.absolute()
    prepare(work)
    rates = tune(work)
    trials = [
        Trial(cell, rates[cell], seed, options.steps, "result") for seed in range(options.seeds) for cell in CELLS
    ]
    learned = learn(work, trials)
    results = {cell: [learned[trial] for trial in trials if trial.cell == cell] for cell in CELLS}
    report(results)
    draw(results, work / "learning_efficiency.png")


if __name__ == "__main__":
    main()
