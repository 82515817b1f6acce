"""What is taken of a sample: pixels, captions and rows that belong together, chosen by seed, key and epoch alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.train.data.dataset import open_dataset
from dr_pipeline.train.data.examples import Example, ExampleMaker
from dr_pipeline.train.data.stream import Raw
from dr_pipeline.views.render import decode, render
from tests.conftest import STANDARD, image_bytes, recipe_of, tar_bytes
from tests.foreign.released_trainer import Replay
from tests.train.data.loading import GOLDEN_SHARDS, SIZE, golden_job, stored_samples, train_job

V2 = GOLDEN_SHARDS[2]


def raw(key: str, fields: dict[str, bytes]) -> Raw:
    return Raw("s.tar", Sample(key, dict(fields)), None)


def maker(job: TrainJob) -> ExampleMaker:
    return ExampleMaker(job, open_dataset(job), SIZE)


def examples(job: TrainJob, epochs: int = 12) -> list[Example]:
    """Every sample of the job's shard in every epoch."""
    make = maker(job).make
    samples = stored_samples(Path(str(job.data.shards)))
    return [make(raw(key, fields), epoch) for key, (fields, _) in samples.items() for epoch in range(epochs)]


@pytest.mark.parametrize("shard", GOLDEN_SHARDS, ids=lambda path: path.stem)
def test_pixels_captions_and_rows_belong_together(shard: Path) -> None:
    stored = stored_samples(shard)
    for example in examples(golden_job(shard)):
        fields, made = stored[example.key]
        row = next(i for i, emb_D in enumerate(made.image_emb_ND) if np.array_equal(emb_D, example.image_emb_D))
        pixels_HWC = render(decode(fields["jpg"], 10**9), [made.views[row]], STANDARD, SIZE)[0]
        assert np.array_equal(example.image_HWC, pixels_HWC)
        assert example.caption == fields["txt"].decode()
        assert np.array_equal(example.text_emb_D, made.text_emb_TD[0])
        pairs = [
            (caption, emb_D)
            for key, captions in made.synthetic.items()
            for caption, emb_D in zip(captions, made.synthetic_emb_TD[key], strict=True)
        ]
        assert any(caption == example.synthetic_caption and np.array_equal(emb_D, example.synthetic_emb_D)
                   for caption, emb_D in pairs)  # fmt: skip
        assert example.image_emb_D is not None
        assert example.image_emb_D.dtype == np.float32
        assert example.teacher_view_HWC is None


def test_every_view_and_every_caption_has_its_turn() -> None:
    stored = stored_samples(V2)
    made = examples(golden_job(V2), epochs=60)
    for key, (_, reinforcement) in stored.items():
        mine = [example for example in made if example.key == key]
        assert len({example.image_emb_D.tobytes() for example in mine if example.image_emb_D is not None}) == 4
        captions = {caption for captions in reinforcement.synthetic.values() for caption in captions}
        assert {example.synthetic_caption for example in mine} == captions


def test_the_seed_and_the_epoch_change_the_choice_and_nothing_else_does() -> None:
    def chosen(job: TrainJob) -> list[tuple[str | None, bytes]]:
        return [(example.synthetic_caption, example.image_HWC.tobytes()) for example in examples(job, 6)]

    job = golden_job(V2)
    assert chosen(job) == chosen(job.model_copy(update={"data": job.data.model_copy(update={"workers": 3})}))
    assert chosen(job) != chosen(job.model_copy(update={"seed": 4}))


def test_sequential_views_follow_the_epoch() -> None:
    stored = stored_samples(V2)
    make = maker(golden_job(V2, data={"view": "sequential"})).make
    for key, (fields, made) in stored.items():
        for epoch in range(9):
            assert np.array_equal(make(raw(key, fields), epoch).image_emb_D, made.image_emb_ND[epoch % 4])


def test_one_synthetic_key_can_be_chosen() -> None:
    job = golden_job(V2, captions={"synthetic_key": "^syn_text_b$"})
    assert {str(example.synthetic_caption)[:11] for example in examples(job)} == {"captioner b"}


@pytest.mark.parametrize("shard", GOLDEN_SHARDS, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["ground_truth", "synthetic"])
def test_captions_that_do_not_count_are_not_needed(shard: Path, kind: str) -> None:
    member = {"ground_truth": "txt", "synthetic": "syn.json"}[kind]
    ((key, (fields, _)), *_) = stored_samples(shard).items()
    make = maker(golden_job(shard, captions={f"{kind}_weight": 0})).make
    example = make(raw(key, {ext: data for ext, data in fields.items() if ext != member}), 0)
    parts = {"ground_truth": (example.caption, example.text_emb_D),
             "synthetic": (example.synthetic_caption, example.synthetic_emb_D)}  # fmt: skip
    assert parts.pop(kind) == (None, None)
    ((caption, emb_D),) = parts.values()
    assert caption is not None
    assert emb_D is not None


@pytest.mark.parametrize("changes", [{"distillation": {"weight": 0}}, {"objective": "coca"}], ids=["clip", "coca"])
def test_embeddings_that_do_not_count_are_not_needed(changes: dict[str, Any]) -> None:
    ((key, (fields, _)), *_) = stored_samples(V2).items()
    example = maker(golden_job(V2, **changes)).make(raw(key, {**fields, "pth.gz": b"damaged"}), 0)
    assert (example.image_emb_D, example.text_emb_D, example.synthetic_emb_D) == (None, None, None)
    assert example.synthetic_caption


TEACHER = {"name": "t", "use": "lab:Clip"}


def test_teachers_in_memory_see_the_same_view_at_the_recorded_size() -> None:
    job = golden_job(V2, distillation={"online_teachers": [TEACHER]})
    ((key, (fields, made)), *_) = stored_samples(V2).items()
    make = ExampleMaker(job, replace(open_dataset(job), recipe=recipe_of(random_resized_crop={"size": 24})), SIZE).make
    example = make(raw(key, fields), 0)
    image = decode(fields["jpg"], 10**9)
    view = next(v for v in made.views if np.array_equal(render(image, [v], STANDARD, SIZE)[0], example.image_HWC))
    assert np.array_equal(example.teacher_view_HWC, render(image, [view], STANDARD, 24)[0])


def test_a_view_is_replayed_by_the_datasets_resampler() -> None:
    ((key, (fields, made)), *_) = stored_samples(V2).items()
    image = decode(fields["jpg"], 10**9)
    example: dict[str, Example] = {}
    for resampler in ("pillow", "fast"):
        recipe = recipe_of(random_resized_crop={"resampler": resampler})
        dataset = replace(open_dataset(golden_job(V2)), recipe=recipe)
        example[resampler] = ExampleMaker(golden_job(V2), dataset, 96).make(raw(key, fields), 0)
        pixels = [render(image, [view], recipe, 96)[0] for view in made.views]
        assert any(np.array_equal(example[resampler].image_HWC, view_HWC) for view_HWC in pixels)
    assert not np.array_equal(example["pillow"].image_HWC, example["fast"].image_HWC)


def test_fresh_views_need_no_reinforcement() -> None:
    recipe = {"random_resized_crop": {"size": 16}}
    job = golden_job(V2, data={"augmentation": recipe}, distillation={"weight": 0}, captions={"synthetic_weight": 0})
    make = maker(job).make
    fields = {"jpg": image_bytes(60, 40), "txt": b"a cat"}
    pixels = {make(raw("k", fields), epoch).image_HWC.tobytes() for epoch in range(20)}
    assert len(pixels) == 20
    assert make(raw("k", fields), 7).image_HWC.tobytes() in pixels


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
    pixels_HWC = maker(job).make(raw("k", fields), 0).image_HWC

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
        maker(job).make(raw("k", fields), 0)
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
    ((key, (fields, _)), *_) = stored_samples(V2).items()
    changed = {ext: data for ext, data in {**fields, **change}.items() if data is not None}
    make = maker(golden_job(V2)).make
    if reason is None:
        make(raw(key, changed), 0)
        return
    with pytest.raises(SampleSkipped) as caught:
        make(raw(key, changed), 0)
    assert caught.value.reason == reason


def test_embeddings_that_are_no_numbers_or_of_another_width_are_told() -> None:
    ((key, (fields, _)), *_) = stored_samples(GOLDEN_SHARDS[0]).items()
    job = golden_job(GOLDEN_SHARDS[0])
    narrow = replace(open_dataset(job), teachers=open_dataset(job).teachers[:1])
    with pytest.raises(SampleSkipped, match=r"expected \[4, 32\]"):
        ExampleMaker(job, narrow, SIZE).make(raw(key, fields), 0)
    import io

    with np.load(io.BytesIO(fields["npz"]), allow_pickle=False) as stored:
        arrays = {name: np.full_like(stored[name], np.nan) for name in stored.files}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(SampleSkipped, match="NaN"):
        maker(job).make(raw(key, {**fields, "npz": buffer.getvalue()}), 0)


def test_a_mixed_layout_stops_the_run() -> None:
    ((key, (fields, _)), *_) = stored_samples(GOLDEN_SHARDS[1]).items()
    with pytest.raises(ShardError, match=r"s\.tar: v10000 has layout v1 in a dataset of layout v2"):
        maker(golden_job(V2)).make(raw(key, fields), 0)
