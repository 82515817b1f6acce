"""Shards without images train on the base dataset's, matched by key or by a field, and say what is not there."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.config.training import Base
from dr_pipeline.dataset.base_index import BaseReader, open_index
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ConfigError, PipelineError, SampleSkipped, ShardError
from dr_pipeline.training.data.training_set import open_training_set
from tests.conftest import image_bytes, write_tar
from tests.tars import Member
from tests.training.data.loading import make_loader, same, texts, train_job
from tests.verification.datasets import write_dataset

KEYS = [f"s{shard}_{index}" for shard in range(2) for index in range(3)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def uid(key: str) -> bytes:
    return json.dumps({"uid": f"uid of {key}", "other": 1}).encode()


def without_image(key: str, members: list[Member]) -> list[Member]:
    return [(f"{key}.json", uid(key)), *(m for m in members if not m[0].endswith((".jpg", ".json")) or "paug" in m[0]
                                         or "syn" in m[0])]  # fmt: skip


def without_texts(key: str, members: list[Member]) -> list[Member]:
    return [member for member in without_image(key, members) if not member[0].endswith(".txt")]


def base_members(key: str, by_key: bool = False) -> list[Member]:
    """A sample of the base; unless matched by key it has a key of its own, too long for a tar's header."""
    name = key if by_key else f"{'base/' * 30}{key}"
    return [
        (f"{name}.jpg", image_bytes(seed=KEYS.index(key))),
        ("README", b"a name that is no sample's"),
        (f"{name}.txt", f"base of {key}".encode()),
        (f"{name}.json", uid(key)),
    ]


def write_base(folder: Path, keys: list[str], by_key: bool = False) -> Path:
    """Two shards, in another order than the reinforced ones."""
    backwards = keys[::-1]
    for shard, part in enumerate((backwards[: len(keys) // 2], backwards[len(keys) // 2 :])):
        write_tar(folder / f"{shard}.tar", [member for key in part for member in base_members(key, by_key)])
    return folder


def joined_job(reinforced: str, base: Path, match: str = "uid", **changes: Any) -> Any:
    return train_job(reinforced, data={"base": {"shards": str(base), "match": match}}, **changes)


@pytest.mark.parametrize("match", ["uid", "key"])
def test_a_joined_dataset_is_the_one_with_images(tmp_path: Path, match: str) -> None:
    base = write_base(tmp_path / "base", KEYS, by_key=match == "key")
    job = write_dataset(tmp_path / "omitted", without_image)

    def with_base_image(key: str, members: list[Member]) -> list[Member]:
        return [(f"{key}.jpg", image_bytes(seed=KEYS.index(key))), *without_image(key, members)]

    whole = write_dataset(tmp_path / "whole", with_base_image)
    loaders = make_loader(joined_job(job.output.path, base, match)), make_loader(train_job(whole.output.path))
    for joined, plain, _ in zip(*loaders, range(6), strict=False):
        assert same(joined, plain)


def test_images_of_other_forms_are_joined(tmp_path: Path) -> None:
    members = [
        (name.replace(".jpg", ".gif"), image_bytes(form="GIF") if name.endswith(".jpg") else data)
        for key in KEYS
        for name, data in base_members(key)
    ]
    base = write_tar(tmp_path / "base.tar", members)
    job = write_dataset(tmp_path / "omitted", without_image)
    assert sorted(next(iter(make_loader(joined_job(job.output.path, base), batch_size=6))).keys) == KEYS


def test_a_caption_that_is_not_there_comes_from_the_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", KEYS)
    job = write_dataset(tmp_path / "omitted", without_texts)
    batch = next(iter(make_loader(joined_job(job.output.path, base), batch_size=6)))
    assert texts(batch.tokens_BL["text"]) == [f"base of {key}" for key in batch.keys]


def test_samples_that_the_base_lacks_are_counted(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", ["s0_1", "s1_0"])
    job = joined_job(write_dataset(tmp_path / "omitted", without_image).output.path, base)
    batches = iter(make_loader(job))
    first = next(batches)
    assert sorted(first.keys) == ["s0_1", "s1_0"]
    skipped = [first.skipped, *(next(batches).skipped for _ in range(3))]
    assert 12 <= sum(each.get("not in base", 0) for each in skipped) <= 16  # 4 an epoch


def test_a_shard_of_which_nothing_matches_stops_the_run(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", ["s0_0", "s0_1", "s0_2"])
    job = joined_job(write_dataset(tmp_path / "omitted", without_image).output.path, base)
    with pytest.raises(ShardError, match=r"00/1\.tar: none of 3 samples is in data\.base\.shards"):
        for _, _ in zip(make_loader(job), range(5), strict=False):
            pass


@pytest.mark.parametrize("by_key", [True, False])
def test_the_index_is_made_once_until_the_base_changes(tmp_path: Path, cache: Path, by_key: bool) -> None:
    folder = write_base(tmp_path / "base", KEYS, by_key)
    base = Base(shards=str(folder), match="key" if by_key else "uid")
    path = open_index(base, cache).path
    stamp = path.stat().st_mtime_ns
    assert open_index(base, cache).path.stat().st_mtime_ns == stamp
    assert [file.name for file in cache.iterdir()] == [path.name]
    write_tar(folder / "2.tar", base_members("s0_0"))
    assert open_index(base, cache).path != path


def test_a_base_that_changed_under_its_index_is_noticed(tmp_path: Path, cache: Path) -> None:
    folder = write_base(tmp_path / "base", KEYS)
    index = open_index(Base(shards=str(folder)), cache)
    shard = folder / "0.tar"
    shard.write_bytes(shard.read_bytes().replace(b"uid of s1_2", b"uid of s9_9"))
    with pytest.raises(ShardError, match=r"0\.tar: data\.base: at byte 0 lies uid of s9_9, not uid of s1_2"):
        BaseReader(index).add_image(Sample("s1_2", {"json": uid("s1_2")}))
    shard.write_bytes(b"")
    with pytest.raises(ShardError, match=r"0\.tar: data\.base: at byte \d+ lies nothing, not uid of s1_1"):
        BaseReader(index).add_image(Sample("s1_1", {"json": uid("s1_1")}))
    shard.unlink()
    with pytest.raises(ShardError, match=r"0\.tar: data\.base: uid of s1_1 cannot be read"):
        BaseReader(index).add_image(Sample("s1_1", {"json": uid("s1_1")}))


def test_ten_thousand_ids_are_all_found(tmp_path: Path, cache: Path) -> None:
    members = [(f"k{number}.txt", str(number).encode()) for number in range(10_000)]
    index = open_index(Base(shards=str(write_tar(tmp_path / "base.tar", members)), match="key"), cache)
    reader = BaseReader(index)
    for number in range(10_000):  # one hash in 256 ends in a zero byte, which NumPy cuts off
        sample = Sample(f"k{number}", {})
        reader.add_image(sample)
        assert sample.members == {"txt": str(number).encode()}
    with pytest.raises(SampleSkipped, match="not in base"):
        reader.add_image(Sample("k10000", {}))


def refusal(job: Any) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        open_training_set(job)
    return caught.value


def test_a_field_that_nobody_has_is_said_before_the_first_step(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", KEYS)
    reinforced = write_dataset(tmp_path / "omitted", without_image).output.path
    error = refusal(joined_job(reinforced, base, "sha256"))
    assert isinstance(error, ConfigError)
    assert "data.base.match: no sample of data.base.shards has the field 'sha256'" in str(error)
    plain = write_dataset(tmp_path / "plain", lambda key, members: [m for m in members if not m[0].endswith(".jpg")])
    assert "no uid in json: its fields are none" in str(refusal(joined_job(plain.output.path, base)))
    assert "data.base.shards: no shard found" in str(refusal(joined_job(reinforced, tmp_path / "nowhere")))


def test_a_base_that_is_packed_is_refused(tmp_path: Path) -> None:
    reinforced = write_dataset(tmp_path / "omitted", without_image).output.path
    base = write_base(tmp_path / "base", KEYS)
    shard = base / "1.tar"
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    message = "1.tar: data.base: its samples are looked up by their place, and it is packed by gzip: gunzip it"
    assert message in str(refusal(joined_job(reinforced, base)))


def test_a_base_whose_images_are_hard_links_is_refused(tmp_path: Path) -> None:
    reinforced = write_dataset(tmp_path / "omitted", without_image).output.path
    base = write_base(tmp_path / "base", KEYS)
    with tarfile.open(base / "1.tar", "w") as archive:
        for name, target in (("a.jpg", ""), ("b.jpg", "a.jpg"), ("b.json", "")):
            item = tarfile.TarInfo(name)
            item.linkname, item.type = target, tarfile.LNKTYPE if target else tarfile.REGTYPE
            data = b"" if target else b'{"uid": "b"}'
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    message = str(refusal(joined_job(reinforced, base)))
    assert (
        "1.tar: data.base: b.jpg is a hard link, and a.jpg does not lie with its sample: write the tar with" in message
    )
