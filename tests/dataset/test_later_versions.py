"""What a later minor version of the format adds is passed over, as docs/format.md promises."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dr_pipeline.cli import main
from dr_pipeline.dataset import checksum
from dr_pipeline.storage import Storage
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.verification.verify import verify
from tests.training.data.loading import train_job
from tests.verification.datasets import write_dataset


def add_column(path: Path) -> str:
    """Add a column at the end of a table → the table's SHA-256."""
    table = pq.read_table(path)
    pq.write_table(table.append_column("mood", pa.array(["good"] * len(table))), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(path: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    tree = checksum.load(path.read_bytes())
    how(tree)
    path.write_bytes(checksum.dump({**tree, "mood": "good"}))


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """A dataset of format 1.9: a key more in config.json and each report, a column more in each table, and a file."""
    folder = tmp_path / "out"
    write_dataset(folder)
    for report in folder.glob("reports/*/**/*.json"):
        name = report.relative_to(next(folder.glob("reports/*"))).with_suffix("").with_suffix(".parquet")
        sha256 = add_column(folder / "manifest/samples" / name)
        change(report, lambda tree, sha256=sha256: tree.update(samples_sha256=sha256))
    sha256 = add_column(folder / "manifest/shards.parquet")
    change(folder / "config.json", lambda tree: tree["dr_pipeline"].update(format="1.9", manifest_sha256=sha256))
    (folder / "manifest/moods.json").write_text("{}")
    return folder


def test_what_a_later_minor_version_adds_is_passed_over(
    later: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = verify(str(later), Storage())
    assert found.problems == []
    assert found.num_samples == 6
    assert main(["inspect", str(later), "--json"]) == 0
    assert main(["status", str(later)]) == 0
    assert "finished: 2 of 2 shards, 6 samples" in capsys.readouterr().out
    assert main(["look", str(later), "--html", str(tmp_path / "page.html")]) == 0
    assert open_training_set(train_job(later)).num_samples == 6
