"""Batches: every sample once an epoch over ranks and processes, the same again from any point, and errors as said."""

import json
import multiprocessing
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import IMAGE, TEXT
from dr_pipeline.errors import ConfigError, PipelineError, ShardError
from dr_pipeline.storage import Storage
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.distributed import Rank
from tests.conftest import image_bytes, rename_as_others_do, write_tar
from tests.runners.test_s3 import client, endpoint  # noqa: F401  (fixtures)
from tests.tars import Member, read_reinforced, stored
from tests.training.data.loading import (
    GOLDEN_SHARDS,
    SIZE,
    golden_job,
    joined,
    make_loader,
    same,
    texts,
    train_job,
)
from tests.verification.datasets import sample_members, write_dataset

NUM_SAMPLES = 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of three samples."""
    folder = tmp_path_factory.mktemp("dataset") / "out"
    write_dataset(folder, num_shards=5)
    return folder


def batches(job: TrainJob, count: int, batch_size: int = 2, rank: Rank | None = None) -> list[Batch]:
    return list(islice(make_loader(job, batch_size, rank), count))


@pytest.mark.parametrize("shard", GOLDEN_SHARDS, ids=lambda path: path.stem)
def test_golden_shards_make_batches(shard: Path) -> None:
    samples = read_reinforced(shard)
    (batch,) = batches(golden_job(shard), 1, batch_size=8)
    assert sorted(batch.keys) == sorted(samples)
    assert batch.images_BHWC.shape == (8, SIZE, SIZE, 3)
    assert batch.images_BHWC.dtype == torch.uint8
    assert batch.tokens_BL["text"].dtype == torch.int64
    assert all(emb_BD.dtype == torch.float32 for emb_BD in batch.columns.values())
    for of in (IMAGE, TEXT):
        for key, emb_D in zip(batch.keys, joined(batch.columns, of), strict=True):
            assert (stored(samples[key], of) == emb_D).all(axis=1).any()
    assert texts(batch.tokens_BL["text"]) == [samples[key].members["txt"].decode() for key in batch.keys]
    for key, caption in zip(batch.keys, texts(batch.tokens_BL["synthetic"]), strict=True):
        assert caption in [text for captions in samples[key].synthetic.values() for text in captions]
    assert batch.skipped == batch.texts == {}
    assert batch.teacher_views_BHWC is None


def first_epoch(job: TrainJob, rank: Rank) -> list[str]:
    """The keys that a rank's loading processes give before their second epochs."""
    loader = make_loader(job, 1, rank)
    keys, behind = [], set[int]()
    for batch in loader:
        process = (loader.state()["next"] - 1) % len(loader.state()["positions"])
        if loader.state()["positions"][process]["epoch"] == 0:
            keys += batch.keys
        else:
            behind.add(process)
        if len(behind) == len(loader.state()["positions"]):
            break
    return keys


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 0), (3, 0), (1, 2)])
def test_each_sample_is_seen_once_an_epoch(folder: Path, ranks: int, workers: int) -> None:
    job = train_job(folder, data={"workers": workers})
    seen = Counter(key for index in range(ranks) for key in first_epoch(job, Rank(index, ranks)))
    assert len(seen) == NUM_SAMPLES
    assert set(seen.values()) == {1}


def test_epochs_follow_each_other_within_a_batch(folder: Path) -> None:
    keys = [key for batch in batches(train_job(folder), NUM_SAMPLES, 4) for key in batch.keys]
    epochs = [keys[start : start + NUM_SAMPLES] for start in range(0, 4 * NUM_SAMPLES, NUM_SAMPLES)]
    assert all(len(set(epoch)) == NUM_SAMPLES for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("sampling", ["epoch", "resampled"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_loader_goes_on_to_the_bit(folder: Path, workers: int, sampling: str) -> None:
    job = train_job(folder, data={"workers": workers, "sampling": sampling})
    loader = make_loader(job, 4)
    states, whole = [loader.state()], []
    for batch in islice(loader, 9):
        whole.append(batch)
        states.append(json.loads(json.dumps(loader.state())))
    for done in (0, 1, 4, 5) if workers else range(9):
        resumed = make_loader(job, 4)
        resumed.restore(states[done])
        assert all(same(*pair) for pair in zip(islice(resumed, 9 - done), whole[done:], strict=True))


def test_iterating_again_goes_on(folder: Path) -> None:
    whole = batches(train_job(folder), 5)
    loader = make_loader(train_job(folder))
    parts = [*islice(loader, 2), *islice(loader, 3)]
    assert all(same(*pair) for pair in zip(parts, whole, strict=True))


def test_a_sample_is_the_same_whoever_loads_it(folder: Path) -> None:
    def by_key(workers: int, rank: Rank) -> dict[str, bytes]:
        job = train_job(folder, data={"workers": workers, "shuffle_buffer": 100})
        first = batches(job, 3, 1, rank)
        return {batch.keys[0]: batch.images_BHWC.numpy().tobytes() for batch in first}

    whole = {batch.keys[0]: batch.images_BHWC.numpy().tobytes() for batch in batches(train_job(folder), NUM_SAMPLES, 1)}
    for workers, rank in ((0, Rank(1, 2)), (2, Rank()), (2, Rank(1, 2))):
        mine = by_key(workers, rank)
        assert mine == {key: whole[key] for key in mine}


def test_a_state_of_other_processes_is_refused(folder: Path) -> None:
    state = make_loader(train_job(folder, data={"workers": 2})).state()
    with pytest.raises(ConfigError, match=r"dealt to 2 loading processes .* now there are 1"):
        make_loader(train_job(folder)).restore(state)


def test_teachers_in_memory_get_views_and_captions() -> None:
    job = golden_job(GOLDEN_SHARDS[2], distillation={"online_teachers": [{"name": "t", "use": "lab:Clip"}]})
    (batch,) = batches(job, 1)
    assert batch.teacher_views_BHWC is not None
    assert batch.teacher_views_BHWC.shape == (2, 224, 224, 3)
    assert batch.texts == {kind: texts(tokens_BL) for kind, tokens_BL in batch.tokens_BL.items()}
    assert batch.texts.keys() == {"text", "synthetic"}
    assert batch.columns == {}


def test_batches_move_with_all_their_tensors() -> None:
    (batch,) = batches(golden_job(GOLDEN_SHARDS[2]), 1)
    moved = batch.to(torch.device("meta"))
    tensors = [moved.images_BHWC, *moved.tokens_BL.values(), *moved.columns.values()]
    assert len(tensors) == 1 + 2 + 2 * 3
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.keys == batch.keys


def damaged(bad: set[str]) -> Any:
    """Samples with half an image."""

    def change(key: str, members: list[Member]) -> list[Member]:
        (name, data), *rest = members
        return [(name, data[: len(data) // 2]), *rest] if key in bad else members

    return change


def test_skipped_samples_are_counted_with_their_reason(tmp_path: Path) -> None:
    write_dataset(tmp_path, damaged({"s1_1"}))
    found = batches(train_job(tmp_path, data={"max_skipped": 0.5}), 5, 5)  # a batch is an epoch's good samples
    assert all(set(batch.keys) == {"s0_0", "s0_1", "s0_2", "s1_0", "s1_2"} for batch in found)
    skipped = [batch.skipped.get("corrupt image", 0) for batch in found]
    assert 4 <= sum(skipped) <= 5
    assert all(set(batch.skipped) <= {"corrupt image"} for batch in found)


def failure(job: TrainJob) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        batches(job, 20)
    return caught.value


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_skips_stop_the_run_with_a_plain_message(tmp_path: Path, workers: int) -> None:
    write_dataset(tmp_path, damaged({"s1_1", "s1_2"}), num_shards=4)
    error = failure(train_job(tmp_path, data={"workers": workers}))
    assert type(error) is ShardError
    assert str(error).startswith(f"{tmp_path}/00/1.tar: 2 of 3 samples cannot be used")
    assert "corrupt image (2)" in str(error)
    assert "Traceback" not in str(error)
    assert not multiprocessing.active_children()


def test_a_mixed_layout_stops_the_run_with_shard_and_key(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    other = job.model_copy(update={"output": job.output.model_copy(update={"layout": "v1"})})
    write_tar(tmp_path / "00" / "2.tar", sample_members(other, "odd"))
    assert f"{tmp_path}/00/2.tar: odd has layout v1 in a dataset of layout v2" in str(failure(train_job(tmp_path)))


def test_an_epoch_without_a_sample_ends(tmp_path: Path) -> None:
    write_dataset(tmp_path / "bad", damaged({f"s{shard}_{index}" for shard in range(2) for index in range(3)}))
    error = failure(train_job(tmp_path / "bad", data={"max_skipped": 1.0}))
    assert "a whole epoch has no usable sample: corrupt image (6)" in str(error)
    write_dataset(tmp_path / "few", num_shards=1)
    job = train_job(tmp_path / "few")
    with pytest.raises(ShardError, match=r"loader 4 of 5 .* has no sample in a whole epoch"):
        batches(job, 1, 1, Rank(4, 5))


def test_images_alone_can_be_trained_on(tmp_path: Path) -> None:
    members = [
        member
        for index in range(4)
        for member in ((f"{index}.jpg", image_bytes(seed=index)), (f"{index}.json", b'{"caption": "a cat"}'))
    ]
    write_tar(tmp_path / "0.tar", members)
    job = train_job(
        tmp_path,
        data={"augmentation": {"random_resized_crop": {"size": SIZE}}},
        distillation={"weight": 0},
        captions={"synthetic_weight": 0},
    )
    (batch,) = batches(job, 1, 4)
    assert {kind: texts(tokens_BL) for kind, tokens_BL in batch.tokens_BL.items()} == {"text": ["a cat"] * 4}
    assert batch.columns == {}


@pytest.mark.s3
def test_shards_on_s3_load_as_those_on_a_disk(folder: Path, client: Any, endpoint: str) -> None:  # noqa: F811
    for path in folder.rglob("*.tar"):
        client.upload_file(str(path), "reinforced", f"d/00/{path.name}")
    client.upload_file(str(folder / "config.json"), "reinforced", "d/config.json")
    job = train_job(folder)
    storage = {"endpoint_url": endpoint}
    remote = train_job("s3://reinforced/d", data={"workers": 1, "storage": storage})
    assert all(same(*pair) for pair in zip(batches(remote, 4), batches(job, 4), strict=True))
    part = Storage(storage).read_range("s3://reinforced/d/00/0.tar", 512, 600)
    assert part == (folder / "00" / "0.tar").read_bytes()[512:600]


def test_capitals_and_gzip_give_the_batches_of_plain_tars(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "out")
    rename_as_others_do(tmp_path / "out")
    ours, theirs = batches(train_job(folder), 9), batches(train_job(tmp_path / "out"), 9)
    assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))
    loader = make_loader(train_job(tmp_path / "out"))
    list(islice(loader, 4))
    again = make_loader(train_job(tmp_path / "out"))
    again.restore(loader.state())
    assert same(next(iter(again)), ours[4])
