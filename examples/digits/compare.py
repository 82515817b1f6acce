"""What reinforcement is worth to a small student: the same steps on the same digits, with and without it.

    python examples/digits/compare.py [--seeds 5]

writes the digits to outputs/digits/, trains the teachers, reinforces, trains each student once a seed, and prints the
accuracies on the test digits. What is done already is not done again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from write_digits import write_digits

import dr_pipeline

HERE = Path(__file__).parent
OUT = Path("outputs/digits")
TEACHERS = ("test_resnet", "test_efficientnet", "test_convnext")
VIEWS = "{random_resized_crop: {size: 32, scale: [0.6, 1.0]}, rand_augment: {num_ops: 1, magnitude: 5}}"
STUDENTS = {
    "labels": [f"data.shards={OUT}/few", f"data.augmentation={VIEWS}", "distillation.weight=0"],
    "reinforced": [],
}


def accuracy(job_file: str, path: Path, *overrides: str) -> float:
    """Train by a job in a folder → the share of test digits that are told right."""
    job = dr_pipeline.load_train_job(str(HERE / job_file), [f"run.path={path}", *overrides])
    dr_pipeline.train(job)
    last = (path / "log.jsonl").read_text().splitlines()[-1]
    return json.loads(last)["test acc1"]


def main(num_seeds: int, *overrides: str) -> dict[str, list[float]]:
    """The students' accuracies by what they learn from, one a seed. `overrides` change every training job."""
    write_digits(OUT)
    for name in TEACHERS:
        told = accuracy("teacher.yaml", OUT / name, f"student.architecture=timm:{name}", *overrides)
        print(f"teacher {name}: {told:.1%}", flush=True)
    dr_pipeline.run(dr_pipeline.load_job(str(HERE / "reinforce.yaml")))
    found: dict[str, list[float]] = {}
    for kind, changes in STUDENTS.items():
        for seed in range(num_seeds):
            path = OUT / f"student {kind} {seed}"
            found.setdefault(kind, []).append(accuracy("student.yaml", path, f"seed={seed}", *changes, *overrides))
        mean, deviation = np.mean(found[kind]), np.std(found[kind], ddof=min(1, num_seeds - 1))
        seeds = ", ".join(f"{one:.1%}" for one in found[kind])
        print(f"student of {kind}: {mean:.1%} ± {deviation:.1%} ({seeds})", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    main(parser.parse_args().seeds)
