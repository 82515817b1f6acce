"""A walk finds every sample once, page by page, whatever the shards are like."""

import json
from pathlib import Path

from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.serve.walk import PAGE_SAMPLES, Cursor, SampleQuery, Stretch, Walker
from dr_pipeline.storage import Storage
from tests.conftest import make_sample_members, rename_as_others_do, write_tar
from tests.verification.datasets import replaced, write_dataset

START = Cursor(0, 0)


def make_walker(folder: Path) -> Walker:
    return Walker(DatasetReader(str(folder), Storage()))


def stretches(walker: Walker, query: SampleQuery, at: Cursor | None = START) -> list[Stretch]:
    found = []
    while at:
        found.append(walker.walk(query, at))
        at = found[-1].next
    return found


def keys(found: list[Stretch]) -> list[str]:
    return [shown.record.key for stretch in found for shown in stretch.samples]


def test_pages_follow_each_other_through_all_shards(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_shards=5)
    walker = make_walker(tmp_path)
    first = walker.walk(SampleQuery(), START)
    assert len(first.samples) == PAGE_SAMPLES
    assert first.next == Cursor(3, 1)
    second = walker.walk(SampleQuery(), first.next)
    assert second.next is None
    assert keys([first, second]) == [f"s{shard}_{index}" for shard in range(5) for index in range(3)]
    assert keys(stretches(make_walker(tmp_path), SampleQuery(), Cursor(3, 1))) == keys([second])
    assert first.samples[0].record == next(DatasetReader(str(tmp_path), Storage()).read("00/0.tar")).record


def test_a_full_page_at_the_end_is_the_last(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    assert make_walker(tmp_path).walk(SampleQuery(), START, most=6).next is None
    assert make_walker(tmp_path).walk(SampleQuery(), START, most=3).next == Cursor(1, 0)


def test_one_shard_is_walked_alone(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_shards=3)
    assert keys(stretches(make_walker(tmp_path), SampleQuery(in_one_shard=True), Cursor(1, 1))) == ["s1_1", "s1_2"]


def test_words_are_searched_in_keys_classes_and_captions(tmp_path: Path) -> None:
    captions = {"syn_text": ["a cube"], "syn_other": ["ein Würfel", "CUBE two"]}
    for shard in range(3):
        members = []
        for index in range(4):
            extra = {"syn_json": json.dumps(captions).encode()} if (shard, index) == (1, 2) else {}
            members += make_sample_members(f"k{shard}{index}", f"text {shard} {index}", cls=b"7" * (index + 1), **extra)
        write_tar(tmp_path / f"{shard}.tar", members)

    def found(words: str, of: str = "") -> list[str]:
        return keys(stretches(make_walker(tmp_path), SampleQuery.of_text(words, of, in_one_shard=False)))

    assert found("K21") == ["k21"]
    assert found("WÜRFEL two") == ["k12"]
    assert found("cube 1") == ["k12"]
    assert found("7777") == ["k03", "k13", "k23"]
    assert found("würfel", "syn_text") == []
    assert found("", "syn_other") == ["k12"]
    assert found("text", "text") == [f"k{shard}{index}" for shard in range(3) for index in range(4)]
    assert found("nothing") == []


def test_shards_that_are_packed_or_whose_names_differ_are_walked(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_shards=3)
    expected = stretches(make_walker(tmp_path), SampleQuery())
    rename_as_others_do(tmp_path)
    found = stretches(make_walker(tmp_path), SampleQuery())
    assert keys(found) == keys(expected)
    assert all(shown.sample and shown.sample.image for stretch in found for shown in stretch.samples)


def test_damage_is_told_and_passed_over(tmp_path: Path) -> None:
    write_dataset(tmp_path, replaced("syn.json", lambda data: b"{"), num_shards=3)
    path = tmp_path / "00" / "0.tar"
    path.write_bytes(path.read_bytes()[:5000])
    (tmp_path / "manifest" / "samples" / "00" / "2.parquet").write_bytes(b"PAR1")
    (stretch,) = stretches(make_walker(tmp_path), SampleQuery())
    assert keys([stretch]) == ["s1_0", "s1_1", "s1_2"]
    assert [problem.partition(": ")[0].rpartition("/")[2] for problem in stretch.problems] == [
        "0.tar",
        "2.parquet is no table of samples",
    ]
    assert str(stretch.samples[1].record.problem).startswith("bad syn.json")
    assert keys(stretches(make_walker(tmp_path), SampleQuery.of_text("cube", "", in_one_shard=False))) == [
        "s1_0",
        "s1_2",
    ]


def test_one_sample_is_read_by_its_place(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    walker = make_walker(tmp_path)
    shown = walker.sample_at(Cursor(1, 2))
    assert shown
    assert (shown.record.key, shown.record.index) == ("s1_2", 2)
    assert walker.sample_at(Cursor(1, 3)) is None
