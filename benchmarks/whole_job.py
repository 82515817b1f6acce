"""The whole job's speed: against its own models alone, and against what a user would write with Ray Data and with Daft.

    python benchmarks/whole_job.py [--quick]

The job: read tars of 640 × 480 JPEGs, decode, draw and render 10 views, embed them and two captions with the teachers,
write tars of bfloat16 embeddings, views and all that came in. The rivals are in rivals/: about fifty lines each of what
a user who knows torchvision and open_clip would write, with the fastest settings found for each. Nobody captions.

Every contender has two cores and processes of its own, and takes its turn in every round; the ratios are medians over
rounds. Its clock starts when all its workers hold their models, and again with its process; it stops with its last
tar. dr-pipeline also hashes and compresses what it writes, and could resume. Peak memory is that of all its processes,
with shared memory counted once. The quick form: one round of the demo's teachers, and the models alone.

Rivals need `pip install -c constraints.txt -e '.[bench]'`; those that are missing are left out.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from contenders import Contender, Took, Work, measure
from measure import figure
from photos import write_shards

import dr_pipeline.demo

OWN = Contender("dr-pipeline", "own_job", workers=2, threads=1)
LOCAL = Contender("dr-pipeline, local engine", "own_job", workers=1, threads=2, engine="local")
RIVALS = {
    "pandas": Contender("Ray Data", "ray_data", workers=2, threads=1),
    "daft": Contender("Daft", "daft_job", workers=2, threads=1),
}
"""By the package that each needs besides dr-pipeline's own. One worker of two threads is slower for both."""
MODELS = Contender("the models alone", "bare_models", workers=1, threads=2, writes=False)


def rivals() -> list[Contender]:
    """Those whose packages are there."""
    missing = [package for package in RIVALS if find_spec(package) is None]
    if missing:
        names = " and ".join(RIVALS[package].name for package in missing)
        print(f"left out: {names}; they need pip install -c constraints.txt -e '.[bench]'", file=sys.stderr)
    return [contender for package, contender in RIVALS.items() if package not in missing]


def in_turn(contenders: list[Contender], work: Work, rounds: int) -> dict[Contender, list[Took]]:
    runs: dict[Contender, list[Took]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            runs[contender].append(measure(contender, work))
    return runs


def compare(label: str, work: Work, rounds: int) -> None:
    """Print how ours does against each rival."""
    others = rivals()
    runs = in_turn([OWN, *others], work, rounds)
    for rival in others:
        pairs = list(zip(runs[OWN], runs[rival], strict=True))
        names = f"{OWN.name} ÷ {rival.name}, {label}"
        print_speed(f"views/s once loaded, {names}", work, [(a.loaded_s, b.loaded_s) for a, b in pairs])
        print_speed(f"views/s with start and loading, {names}", work, [(a.whole_s, b.whole_s) for a, b in pairs])
        print_memory(f"peak GiB, {names}", [(a.peak_gib, b.peak_gib) for a, b in pairs])


def print_speed(metric: str, work: Work, seconds: list[tuple[float, float]]) -> None:
    """Rates of two things that were timed in the same rounds."""
    ours, others = (median(work.total_views / one for one in side) for side in zip(*seconds, strict=True))
    figure(metric, ours, others, median(b / a for a, b in seconds))


def print_memory(metric: str, gib: list[tuple[float, float]]) -> None:
    ours, others = (median(side) for side in zip(*gib, strict=True))
    figure(metric, ours, others, median(a / b for a, b in gib))


def model_efficiency(work: Work, host_work: Work, rounds: int) -> None:
    """Print the whole job's speed against its models alone, and how much of the cores the rest of the job needs."""
    runs = in_turn([LOCAL, MODELS], work, rounds)
    seconds = [(a.loaded_s, b.loaded_s) for a, b in zip(runs[LOCAL], runs[MODELS], strict=True)]
    label = " and ".join(work.teachers)
    print_speed(f"views/s once loaded, whole job ÷ its models alone, {label}", work, seconds)
    host = host_work.total_views / measure(LOCAL, host_work).loaded_s
    alone = median(work.total_views / models_s for _, models_s in seconds)
    figure(f"views/s, all but the models ÷ the models alone, {label}", host, alone, host / alone)


def demo_teachers(folder: Path) -> tuple[str, ...]:
    """The demo's teachers as open_clip finds them in a folder."""
    source = Path(dr_pipeline.demo.__file__).parent
    for name in ("scene_clip_a", "scene_clip_b"):
        (folder / name).mkdir()
        shutil.copy(source / f"{name}.json", folder / name / "open_clip_config.json")
        shutil.copy(source / f"{name}.safetensors", folder / name / "open_clip_model.safetensors")
    return str(folder / "scene_clip_a"), str(folder / "scene_clip_b")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the whole job against its models and against rivals.")
    parser.add_argument("--quick", action="store_true", help="one round of fewer samples")
    quick = parser.parse_args().quick
    rounds, light_shards, light, heavy = (1, 8, 16, 2) if quick else (5, 8, 64, 6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = write_shards(folder / "few", 4, heavy)
        many = write_shards(folder / "many", light_shards, light)
        demo = Work(many, light_shards * light, demo_teachers(folder), view_size=96, num_views=10, samples_per_batch=16)
        slow = Work(few, 4 * heavy, ("ViT-B-32",), view_size=224, num_views=10, samples_per_batch=2)
        compare("the demo's two teachers", demo, rounds)
        if not quick:
            compare("ViT-B/32", slow, rounds)
        model_efficiency(slow, replace(demo, teachers=("weightless",), view_size=224), rounds)


if __name__ == "__main__":
    main()
