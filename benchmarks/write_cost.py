"""What writing a sample costs: encoding its members and adding them to a tar, against torch.save, gzip 9 and tarfile.

    python benchmarks/write_cost.py [--quick]

Both write the same members of the same samples (30 views, 1,536 dims in bfloat16, a 640 × 480 JPEG) to a file. Ours
computes the tar's digest as well. CPU time of one thread; median over rounds in which both take their turn.
"""

import argparse
import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path

import torch
from measure import cpu_seconds, figure, paired
from reinforced import AUGMENTATION, reinforced

from dr_pipeline.config.job import Output
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import IMAGE, TEXT, Sample
from dr_pipeline.dataset.shard_io import read_samples, write_samples
from dr_pipeline.views.recipe import Recipe


def write_ours(made: list[Sample], path: Path) -> None:
    """As the worker does."""
    output = Output(path=str(path.parent))
    recipe = Recipe(AUGMENTATION)
    write_samples(path, (Sample(one.key, layout.encode(one, output, recipe)) for one in made))


def write_theirs(made: list[Sample], path: Path) -> None:
    """As one would with what Python and torch bring along."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in made:
            views = [Recipe(AUGMENTATION).encode(view) for view in sample.views]
            members = {
                "jpg": sample.image,
                "txt": sample.caption.encode(),
                "syn.json": json.dumps(sample.synthetic).encode(),
                "paug.json": json.dumps({"param_aug": views}).encode(),
                "pth.gz": saved_embeddings(sample),
            }
            for ext, data in members.items():
                member = tarfile.TarInfo(f"{sample.key}.{ext}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def saved_embeddings(sample: Sample) -> bytes:
    kinds = (IMAGE, TEXT, *sample.synthetic)
    arrays = {layout.array_name(of): layout.side_by_side(sample.columns, of) for of in kinds}
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb", compresslevel=9) as packed:
        torch.save({name: torch.from_numpy(array).bfloat16() for name, array in arrays.items()}, packed)
    return buffer.getvalue()


def embedding_bytes(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(len(sample.members["pth.gz"]) for sample in read_samples(stream))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what writing a sample costs.")
    parser.add_argument("--quick", action="store_true", help="fewer samples and rounds")
    quick = parser.parse_args().quick
    num_samples, rounds = (32, 5) if quick else (128, 11)
    torch.set_num_threads(1)
    made = [reinforced(index) for index in range(num_samples)]
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = Path(name) / "ours.tar", Path(name) / "theirs.tar"
        milliseconds = 1000 / num_samples
        value, baseline, ratio = paired(
            lambda: milliseconds * cpu_seconds(lambda: write_ours(made, ours)),
            lambda: milliseconds * cpu_seconds(lambda: write_theirs(made, theirs)),
            rounds,
        )
        figure("writing a sample, CPU-ms ÷ torch.save + gzip 9 + tarfile", value, baseline, ratio)
        for what, size in (("tar", lambda path: path.stat().st_size), ("pth.gz", embedding_bytes)):
            value, baseline = size(ours) / num_samples, size(theirs) / num_samples
            figure(f"bytes a sample, {what} ÷ torch.save + gzip 9 + tarfile", value, baseline, value / baseline)


if __name__ == "__main__":
    main()
