"""What is taken of a sample: pixels, captions and rows that belong together, chosen by seed, key and epoch alone."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import IMAGE, TEXT, Sample
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.training.data.rendering import views_for
from dr_pipeline.training.data.selection import Selector
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.views.render import decode, render
from tests.conftest import STANDARD, image_bytes, recipe_of, tar_bytes
from tests.foreign.released_trainer import Replay
from tests.tars import read_reinforced, stored
from tests.training.data.loading import GOLDEN_SHARDS, SIZE, golden_job, joined, train_job

V2 = GOLDEN_SHARDS[2]


def selected(job: TrainJob, key: str, members: dict[str, bytes], epoch: int = 0, **changes: Any) -> Sample:
    """What the job takes of a sample; `changes` replace fields of its training set."""
    sample = Sample(key, dict(members))
    selector_of(job, **changes).select("s.tar", sample, epoch)
    return sample


def selector_of(job: TrainJob, **changes: Any) -> Selector:
    training_set = replace(open_training_set(job), **changes)
    return Selector(job, training_set, views_for(job, training_set.recipe, SIZE, torch.device("cpu")).prepare)


def selections(job: TrainJob, epochs: int = 12) -> list[Sample]:
    """Every sample of the job's shard in every epoch."""
    selector = selector_of(job)
    samples = []
    for key, made in read_reinforced(Path(str(job.data.shards))).items():
        for epoch in range(epochs):
            samples.append(Sample(key, made.members))
            selector.select("s.tar", samples[-1], epoch)
    return samples


def pixels(sample: Sample) -> np.ndarray:
    """Of the one view, [H, W, 3]."""
    assert sample.views_NHWC is not None
    (pixels_HWC,) = sample.views_NHWC
    return pixels_HWC


def synthetic(sample: Sample) -> tuple[str, str]:
    """The one key, and its one caption."""
    ((key, (caption,)),) = sample.synthetic.items()
    return key, caption


@pytest.mark.parametrize("shard", GOLDEN_SHARDS, ids=lambda path: path.stem)
def test_pixels_captions_and_rows_belong_together(shard: Path) -> None:
    samples = read_reinforced(shard)
    for sample in selections(golden_job(shard)):
        made = samples[sample.key]
        (image_emb_D,) = joined(sample.columns, IMAGE)
        row = next(i for i, emb_D in enumerate(stored(made, IMAGE)) if np.array_equal(emb_D, image_emb_D))
        assert sample.views == (made.views[row],)
        pixels_HWC = render(decode(made.members["jpg"], 10**9), [made.views[row]], STANDARD, SIZE)[0]
        assert np.array_equal(pixels(sample), pixels_HWC)
        assert sample.caption == made.members["txt"].decode()
        assert np.array_equal(joined(sample.columns, TEXT), stored(made, TEXT))
        key, caption = synthetic(sample)
        row = made.synthetic[key].index(caption)
        assert np.array_equal(joined(sample.columns, key)[0], stored(made, key)[row])
        assert all(row_1D.dtype == np.float32 for row_1D in sample.columns.values())
        assert sample.teacher_views_NHWC is None
        assert sample.members == {}


def test_every_view_and_every_caption_has_its_turn() -> None:
    chosen = selections(golden_job(V2), epochs=60)
    for key, made in read_reinforced(V2).items():
        mine = [sample for sample in chosen if sample.key == key]
        assert len({joined(sample.columns, IMAGE).tobytes() for sample in mine}) == 4
        assert {synthetic(sample)[1] for sample in mine} == {one for many in made.synthetic.values() for one in many}


def test_the_seed_and_the_epoch_change_the_choice_and_nothing_else_does() -> None:
    def chosen(job: TrainJob) -> list[tuple[str, bytes]]:
        return [(synthetic(sample)[1], pixels(sample).tobytes()) for sample in selections(job, 6)]

    job = golden_job(V2)
    assert chosen(job) == chosen(job.model_copy(update={"data": job.data.model_copy(update={"workers": 3})}))
    assert chosen(job) != chosen(job.model_copy(update={"seed": 4}))


def test_sequential_views_follow_the_epoch() -> None:
    for key, made in read_reinforced(V2).items():
        for epoch in range(9):
            sample = selected(golden_job(V2, data={"view": "sequential"}), key, made.members, epoch)
            assert np.array_equal(joined(sample.columns, IMAGE)[0], stored(made, IMAGE)[epoch % 4])


def test_one_synthetic_key_can_be_chosen() -> None:
    job = golden_job(V2, captions={"synthetic_key": "^syn_text_b$"})
    assert {synthetic(sample)[1][:11] for sample in selections(job)} == {"captioner b"}


@pytest.mark.parametrize("shard", GOLDEN_SHARDS, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["ground_truth", "synthetic"])
def test_captions_that_do_not_count_are_not_needed(shard: Path, kind: str) -> None:
    member = {"ground_truth": "txt", "synthetic": "syn.json"}[kind]
    ((key, made), *_) = read_reinforced(shard).items()
    members = {ext: data for ext, data in made.members.items() if ext != member}
    sample = selected(golden_job(shard, captions={f"{kind}_weight": 0}), key, members)
    of = {column.of for column in sample.columns}
    if kind == "synthetic":
        assert (sample.caption, sample.synthetic, of) == (made.members["txt"].decode(), {}, {IMAGE, TEXT})
    else:
        assert (sample.caption, of) == ("", {IMAGE, synthetic(sample)[0]})


@pytest.mark.parametrize("changes", [{"distillation": {"weight": 0}}, {"objective": "coca"}], ids=["clip", "coca"])
def test_embeddings_that_do_not_count_are_not_needed(changes: dict[str, Any]) -> None:
    ((key, made), *_) = read_reinforced(V2).items()
    sample = selected(golden_job(V2, **changes), key, {**made.members, "pth.gz": b"damaged"})
    assert sample.columns == {}
    assert synthetic(sample)


TEACHER = {"name": "t", "use": "lab:Clip"}


def test_teachers_in_memory_see_the_same_view_at_the_recorded_size() -> None:
    job = golden_job(V2, distillation={"online_teachers": [TEACHER]})
    ((key, made), *_) = read_reinforced(V2).items()
    sample = selected(job, key, made.members, recipe=recipe_of(random_resized_crop={"size": 24}))
    image = decode(made.members["jpg"], 10**9)
    view = next(v for v in made.views if np.array_equal(render(image, [v], STANDARD, SIZE)[0], pixels(sample)))
    assert np.array_equal(sample.teacher_views_NHWC, render(image, [view], STANDARD, 24))


def test_fresh_views_need_no_reinforcement() -> None:
    recipe = {"random_resized_crop": {"size": 16}}
    job = golden_job(V2, data={"augmentation": recipe}, distillation={"weight": 0}, captions={"synthetic_weight": 0})
    members = {"jpg": image_bytes(60, 40), "txt": b"a cat"}
    fresh = {pixels(selected(job, "k", members, epoch)).tobytes() for epoch in range(20)}
    assert len(fresh) == 20
    assert pixels(selected(job, "k", members, 7)).tobytes() in fresh


def paug(*views: Any) -> bytes:
    return json.dumps({"param_aug": views}).encode()


CROP, OPS = [3, 4, 30, 20], [[5, 9.0], [6, 0.27]]
FOREIGN: dict[str, tuple[dict[str, Any] | None, list[Any]]] = {
    "a flip": ({"random_resized_crop": {}, "random_horizontal_flip": {}, "rand_augment": {}}, [CROP, True, OPS]),
    "no flip": ({"random_resized_crop": {}, "random_horizontal_flip": {}, "rand_augment": {}}, [CROP, False, OPS]),
    "no operations": ({"random_resized_crop": {}, "rand_augment": {"p": 0.5}}, [CROP, None]),
    "an erased rectangle": ({"random_resized_crop": {}, "random_erase": {}}, [CROP, [2, 3, 5, 4]]),
    "nothing erased": ({"random_resized_crop": {}, "rand_augment": {}, "random_erase": {}}, [CROP, OPS, None]),
    "a random crop": ({"random_crop": {"size": SIZE}, "random_horizontal_flip": {}}, [[1, 2], True]),
    "a random crop of a random crop": ({"random_crop": {"size": 40}, "random_resized_crop": {}}, [[1, 2], CROP]),
    "a flip, without a config.json": (None, [CROP, True, OPS]),
    "an erased rectangle, without a config.json": (None, [CROP, None, OPS, [2, 3, 5, 4]]),
}


@pytest.mark.parametrize(("transforms", "entry"), FOREIGN.values(), ids=FOREIGN)
def test_views_of_another_writer_are_replayed(
    transforms: dict[str, Any] | None, entry: list[Any], tmp_path: Path
) -> None:
    shard = tmp_path / "0.tar"
    image = image_bytes(60, 50)
    fields = {"jpg": image, "txt": b"a cat", "paug.json": paug(entry)}
    shard.write_bytes(tar_bytes([(f"k.{ext}", data) for ext, data in fields.items()]))
    standard = {"random_resized_crop": {}, "random_horizontal_flip": {}, "rand_augment": {}, "random_erase": {}}
    described = {name: dict(settings) for name, settings in (transforms or standard).items()}
    if "random_resized_crop" in described:
        described["random_resized_crop"] |= {"size": SIZE, "interpolation": "bicubic"}
    if transforms is not None:
        tree = {"reinforce": {"image_augmentation": {**described, "normalize": {"mean": [0, 0, 0]}}}}
        (tmp_path / "config.json").write_text(json.dumps(tree))
    job = train_job(shard, distillation={"weight": 0}, captions={"synthetic_weight": 0}, schedule={"batch_size": 1})
    pixels_HWC = pixels(selected(job, "k", fields))

    described.setdefault("random_resized_crop", {"enable": False})
    theirs = Replay({"reinforce": {"image_augmentation": {**described, "normalize": {}}}})
    for stage in theirs.stages.values():
        stage.num_ops = len(OPS)
    expected = theirs.view(decode(image, 10**9), entry)
    assert np.array_equal(pixels_HWC, np.asarray(expected))


@pytest.mark.parametrize(
    ("transforms", "entry", "words"),
    [
        (
            {"random_resized_crop": {}, "rand_augment": {}},
            [CROP, True, OPS],
            "the parameters of random_resized_crop, rand",
        ),
        ({"random_resized_crop": {}, "random_horizontal_flip": {}}, [CROP, OPS], "a flip is true or false, found"),
        ({"random_crop": {"size": 40}}, [[11, 0]], "random_crop [11, 0] lies outside the image of 60 × 50 px"),
        ({}, [[1, 2], OPS], "a crop is four integers"),
    ],
)
def test_views_that_are_not_their_datasets_are_told(
    transforms: dict[str, Any], entry: list[Any], words: str, tmp_path: Path
) -> None:
    fields = {"jpg": image_bytes(60, 50), "txt": b"a cat", "paug.json": paug(entry)}
    (tmp_path / "0.tar").write_bytes(tar_bytes([(f"k.{ext}", data) for ext, data in fields.items()]))
    (tmp_path / "config.json").write_text(json.dumps({"reinforce": {"image_augmentation": transforms}}))
    job = train_job(tmp_path, distillation={"weight": 0}, captions={"synthetic_weight": 0}, schedule={"batch_size": 1})
    with pytest.raises(SampleSkipped) as caught:
        selected(job, "k", fields)
    assert caught.value.reason == "bad paug.json"
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"jpg": None}, "no image"),
        ({"jpg": b"x"}, "corrupt image"),
        ({"txt": None, "json": None}, "no text"),
        ({"syn.json": None}, "missing member"),
        ({"syn.json": b'{"other": ["x"]}'}, "no synthetic key"),
        ({"paug.json": None}, "missing member"),
        ({"paug.json": paug()}, "bad paug.json"),
        ({"paug.json": paug([[0, 0, 9, 9], []])}, "misshapen embedding"),
        ({"paug.json": paug(*[[[0, 0, 9, 9999], []]] * 4)}, "bad paug.json"),
        ({"paug.json": paug(*[[[0, 0, 0, 9], []]] * 4)}, "bad paug.json"),
        ({"paug.json": paug(*[[[0, 0, 9, 9], [[10, 99.0]]]] * 4)}, "bad paug.json"),
        ({"paug.json": paug(*[[[0, 0, 9, 9], [[1, 1e300]]]] * 4)}, None),
        ({"pth.gz": None}, "missing member"),
        ({"pth.gz": b"x"}, "unreadable embeddings"),
        ({"syn.json": b'{"syn_text_a": ["x"], "syn_text_b": ["y"]}'}, "misshapen embedding"),
    ],
)
def test_a_bad_sample_is_told_not_raised(change: dict[str, bytes | None], reason: str | None) -> None:
    ((key, made), *_) = read_reinforced(V2).items()
    changed = {ext: data for ext, data in {**made.members, **change}.items() if data is not None}
    if reason is None:
        selected(golden_job(V2), key, changed)
        return
    with pytest.raises(SampleSkipped) as caught:
        selected(golden_job(V2), key, changed)
    assert caught.value.reason == reason


def test_embeddings_that_are_no_numbers_or_of_another_width_are_told() -> None:
    ((key, made), *_) = read_reinforced(GOLDEN_SHARDS[0]).items()
    job = golden_job(GOLDEN_SHARDS[0])
    with pytest.raises(SampleSkipped, match=r"expected \[4, 32\]"):
        selected(job, key, made.members, teachers=open_training_set(job).teachers[:1])
    with np.load(io.BytesIO(made.members["npz"]), allow_pickle=False) as file:
        arrays = {name: np.full_like(file[name], np.nan) for name in file.files}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(SampleSkipped, match="NaN"):
        selected(job, key, {**made.members, "npz": buffer.getvalue()})


def test_a_mixed_layout_stops_the_run() -> None:
    ((key, made), *_) = read_reinforced(GOLDEN_SHARDS[1]).items()
    with pytest.raises(ShardError, match=r"s\.tar: v10000 has layout v1 in a dataset of layout v2"):
        selected(golden_job(V2), key, made.members)
