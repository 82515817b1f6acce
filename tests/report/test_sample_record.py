"""The record of a sample, and the reader that gives it: in order, by key, of a dataset or one tar."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dr_pipeline.codecs.npz import Npz
from dr_pipeline.errors import ConfigError, ShardError
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.sample_record import SampleRecord, Skip
from dr_pipeline.storage import Storage
from tests.conftest import GOLDEN, make_sample_members, write_tar
from tests.tars import read_reinforced
from tests.verification.datasets import replaced, write_dataset

REINFORCED = ("syn.json", "paug.json", "pth.gz")


def open_reader(uri: Path) -> DatasetReader:
    return DatasetReader(str(uri), Storage())


def first(uri: Path) -> SampleRecord:
    reader = open_reader(uri)
    return next(reader.read(reader.shards[0])).record


def test_a_record_has_all_that_is_known_of_a_sample(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    record = first(tmp_path)
    assert (record.key, record.shard, record.index) == ("s0_0", "00/0.tar", 0)
    assert list(record.members) == ["jpg", "txt", "json", *REINFORCED]
    assert record.dims == {"one": 3, "two": 5}
    assert record.alt_text is not None
    assert record.alt_text.text == "alt-text of s0_0"
    assert [caption.text for caption in record.captions["syn_text"]] == ["a cube", "a red thing"]
    assert len(record.views) == job.augmentation.num_views
    assert list(record.views[0]) == ["random_resized_crop", "rand_augment"]
    assert json.loads(json.dumps(record.to_json()))["members"]["txt"] == len("alt-text of s0_0")


def test_each_teacher_has_its_similarity(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    sample = next(iter(read_reinforced(tmp_path / "00" / "0.tar").values()))
    image_ND, text_TD = sample.columns["", "image"], sample.columns["", "syn_text"]
    caption = first(tmp_path).captions["syn_text"][1]
    expected = [float((image_ND[:, dims] @ text_TD[1, dims]).mean()) for dims in (slice(0, 3), slice(3, 8))]
    assert list(caption.similarities) == ["one", "two"]
    assert [*caption.similarities.values()] == pytest.approx(expected, abs=1e-5)
    assert caption.similarity == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_tar_within_a_dataset_is_described_by_it(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    assert first(tmp_path / "00" / "0.tar") == first(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert first(tmp_path / "00" / "0.tar").dims == {"": 8}


def test_a_tar_of_unnamed_teachers_has_their_mean_similarity() -> None:
    record = first(GOLDEN / "shards" / "v2_bf16.tar")
    assert record.alt_text is not None
    assert record.alt_text.similarity is not None
    assert record.alt_text.similarities == {}
    assert record.dims == {"": 80}


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_key_is_found_wherever_it_lies(with_manifest: bool, tmp_path: Path) -> None:
    write_dataset(tmp_path, num_shards=3)
    if not with_manifest:
        for path in (tmp_path / "manifest" / "samples").rglob("*.parquet"):
            path.unlink()
    reader = open_reader(tmp_path)
    place, shown = reader.find("s2_1", reader.shards)
    assert (place.shard, place.by_manifest, place.num_searched) == ("00/2.tar", with_manifest, 3)
    (expected,) = [shown.record for shown in reader.read("00/2.tar") if shown.record.key == "s2_1"]
    assert shown.record == expected


def test_a_shard_by_whose_name_a_key_begins_is_searched_first(tmp_path: Path) -> None:
    for shard in ("00000", "00001", "00002"):
        write_tar(tmp_path / f"{shard}.tar", make_sample_members(f"{shard}0007"))
    reader = open_reader(tmp_path)
    assert reader.find("000020007", reader.shards)[0] == ("00002.tar", False, 1)


def test_a_skipped_sample_tells_its_reason(tmp_path: Path) -> None:
    write_dataset(tmp_path, lambda key, members: [] if key == "s1_2" else members)
    reader = open_reader(tmp_path)
    _, shown = reader.find("skipped 0", reader.shards)
    assert shown.sample is None
    assert (shown.record.shard, shown.record.skip) == ("00/1.tar", Skip("no text"))


def test_an_unknown_key_is_answered_with_keys_that_are_there(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    reader = open_reader(tmp_path)
    with pytest.raises(ConfigError, match=r"keys are such as 's0_0', 's0_1', 's0_2'; did you mean s1_[012]\?"):
        reader.find("s1_9", reader.shards)
    with pytest.raises(ConfigError, match=r"no sample 'elephant'; keys are such as 's0_0', 's0_1', 's0_2'$"):
        reader.find("elephant", reader.shards)


def test_a_key_with_dots_is_found(tmp_path: Path) -> None:
    members = [(name.replace("a.", "a.512.", 1), data) for name, data in make_sample_members("a")]
    reader = open_reader(write_tar(tmp_path / "a.tar", members))
    _, shown = reader.find("a.512", reader.shards)
    assert shown.record.skip is not None
    assert shown.record.skip.reason == "dots in key"


def test_a_sample_that_cannot_be_decoded_has_its_problem(tmp_path: Path) -> None:
    write_dataset(tmp_path, replaced("paug.json", lambda data: b"{"))
    problems = [shown.record.problem for shown in open_reader(tmp_path).read("00/1.tar")]
    assert problems[0] is None
    assert str(problems[1]).startswith("bad paug.json: ")


def views_of(**arrays: Any) -> dict[str, bytes]:
    return {"paug_json": b'{"param_aug": []}', "syn_json": b'{"syn_text": ["a cube"]}', "npz": Npz().encode(arrays)}


@pytest.mark.parametrize(("num_texts", "dim"), [(2, 3), (1, 4)])
def test_embeddings_that_do_not_fit_their_texts_are_a_problem(num_texts: int, dim: int, tmp_path: Path) -> None:
    image, text = np.ones((2, 3), np.float32), np.ones((1, 3), np.float32)
    captions = np.ones((num_texts, dim), np.float32)
    members = make_sample_members("a", **views_of(image_emb=image, text_emb=text, syn_text_emb=captions))
    assert str(first(write_tar(tmp_path / "a.tar", members)).problem).startswith("misshapen embedding: syn_text: ")


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    nan = np.full((1, 3), np.nan, np.float32)
    members = make_sample_members("a", **views_of(image_emb=nan, text_emb=nan, syn_text_emb=nan))
    record = first(write_tar(tmp_path / "a.tar", members))
    assert record.to_json()["alt_text"]["similarity"] is None
    assert record.to_json()["captions"]["syn_text"][0]["similarity"] is None


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "00" / "1.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ShardError, match=r"00/1\.tar: truncated"):
        list(open_reader(tmp_path).read("00/1.tar"))


def test_a_shard_that_was_replaced_while_it_is_read_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    reader = open_reader(tmp_path)
    _, (sample, _), _ = reader.walk("00/0.tar", lambda name: False)
    assert reader.read_whole("00/0.tar", sample).members.keys() == {"jpg", "txt", "json", *REINFORCED}
    for data in (b"", (tmp_path / "00" / "1.tar").read_bytes()):
        (tmp_path / "00" / "0.tar").write_bytes(data)
        with pytest.raises(ShardError, match=r"0\.tar: s0_1 is no longer where it was"):
            reader.read_whole("00/0.tar", sample)
