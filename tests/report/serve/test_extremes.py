"""The lowest and highest samples are those of all tables, whatever the order is by."""

import os
from pathlib import Path

import pytest
from psutil import Process

from dr_pipeline.dataset import manifest
from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.serve.extremes import MOST_RANKED, Order, rank
from dr_pipeline.report.serve.walk import Cursor, SampleQuery, Walker
from dr_pipeline.storage import Storage
from tests.conftest import tar_bytes, write_tar

NUM_MANY = 2000


def write_tables(folder: Path, *shards: list[SampleRow]) -> DatasetReader:
    """Empty shards with these tables of samples."""
    for number, rows in enumerate(shards):
        write_tar(folder / f"{number}.tar", [])
        manifest.write_sample_table(Storage(), str(folder), f"{number}.tar", rows)
    return DatasetReader(str(folder), Storage())


def ranked(reader: DatasetReader, by: str, of: str = "", descends: bool = False) -> list[str]:
    samples, first = [], 0
    while first is not None:
        ranking = rank(reader, Order(by, of, descends), first, len(reader.shards))
        samples += ranking.samples
        first = ranking.next
    return [one.key for one in sorted(samples, key=lambda one: one.value, reverse=descends)]


def row(key: str, similarity: float | None, synthetic: float | None = None, **scores: float) -> SampleRow:
    """A sample with an alt-text and three captions."""
    return SampleRow(
        key, captions=1, synthetic_captions=3, similarity=similarity, synthetic_similarity=synthetic, scores=scores
    )


def test_orders_are_by_the_values_of_the_manifest(tmp_path: Path) -> None:
    names = {"similarity/t1/syn_a": 0.1, "similarity/t2/syn_a": 0.5, "similarity/t1/other_syn_a": 9.0, "aesthetic": 3.0}
    rows = [
        row("a", 0.5, 0.1, **{**names, "similarity/t1/other_syn_a": -9.0}),
        row("b", 0.2, 0.9, **{**names, "similarity/t2/syn_a": -0.5, "aesthetic": -1.0}),
        row("c", None, None),
    ]
    reader = write_tables(tmp_path, rows, [row("d", 0.3, 0.3, **{**names, "similarity/t1/syn_a": 0.0})])
    assert ranked(reader, "similarity", "text") == ["b", "d", "a"]
    assert ranked(reader, "similarity", "text", descends=True) == ["a", "d", "b"]
    assert ranked(reader, "similarity", "syn_a") == ["b", "d", "a"]
    assert ranked(reader, "similarity", "nothing") == []
    assert ranked(reader, "similarity") == ["a", "d", "b"]  # 0.2, 0.3, 0.725: each caption counts once
    assert ranked(reader, "score:aesthetic")[0] == "b"
    assert ranked(reader, "score:nothing") == []


def test_skipped_samples_and_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    rows = [
        SampleRow("skipped", captions=1, similarity=0.1, skip_reason="filtered"),
        row("nan", float("nan")),
        row("inf", float("inf")),
        row("good", 0.5),
    ]
    assert ranked(write_tables(tmp_path, rows), "similarity", "text") == ["good"]


def test_no_more_are_kept_than_are_shown(tmp_path: Path) -> None:
    shards = [[row(f"{shard}_{index}", (index * 7 % 90) + shard / 10) for index in range(90)] for shard in range(3)]
    ranking = rank(write_tables(tmp_path, *shards), Order("similarity", "text", True), 0, 3)
    assert len(ranking.samples) == MOST_RANKED
    assert [one.value for one in ranking.samples] == sorted((one.value for one in ranking.samples), reverse=True)
    assert ranking.samples[0].key == "2_77"


def test_tables_that_are_damaged_or_missing_are_passed_over(tmp_path: Path) -> None:
    reader = write_tables(tmp_path, [row("a", 0.5)], [row("b", 0.4)], [row("c", 0.3)])
    (tmp_path / "manifest/samples/0.parquet").unlink()
    (tmp_path / "manifest/samples/1.parquet").write_bytes(b"PAR1")
    ranking = rank(reader, Order("similarity", "text", False), 0, 3)
    assert [(one.shard, one.key) for one in ranking.samples] == [("2.tar", "c")]
    (problem,) = ranking.problems
    assert "1.parquet is no table of samples" in problem


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> DatasetReader:
    """Thousands of shards of one sample, which share a tar and a table but for those of the last one."""
    folder = tmp_path_factory.mktemp("many")
    tables = folder / "manifest" / "samples"
    one, last = (tar_bytes([(f"{key}.txt", f"a text of {key}".encode())]) for key in ("one", "last"))
    write_tables(folder, [row("one", 0.5)], [row("last", 0.4)])
    (folder / "0.tar").write_bytes(one)
    for number in range(2, NUM_MANY):
        os.link(folder / "0.tar", folder / f"{number:05}.tar")
        os.link(tables / "0.parquet", tables / f"{number:05}.parquet")
    (folder / "1.tar").rename(folder / "zz.tar")
    (folder / "zz.tar").write_bytes(last)
    (tables / "1.parquet").rename(tables / "zz.parquet")
    return DatasetReader(str(folder), Storage())


def test_thousands_of_shards_are_ranked_searched_and_looked_up(many: DatasetReader) -> None:
    assert len(many.shards) == NUM_MANY
    assert ranked(many, "similarity", "text")[0] == "last"
    assert many.find("last", many.shards)[1].record.shard == "zz.tar"
    walker, at = Walker(many), Cursor(0, 0)
    found: list[str] = []
    while at:
        stretch = walker.walk(SampleQuery.of_text("of last", "", in_one_shard=False), at)
        found += [shown.record.key for shown in stretch.samples]
        at = stretch.next
    assert found == ["last"]


def test_walks_that_nobody_goes_on_with_are_closed(tmp_path: Path) -> None:
    for number in range(40):
        write_tar(tmp_path / f"{number}.tar", [(f"{key}.txt", b"text") for key in "ab"])
    walker, process = Walker(DatasetReader(str(tmp_path), Storage())), Process()
    num_before = process.num_fds()
    for place in range(40):
        assert walker.walk(SampleQuery(), Cursor(place, 0), most=1).next == Cursor(place, 1)
    assert process.num_fds() < num_before + 12
