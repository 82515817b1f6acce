"""Bad samples are skipped with their reason and never take their neighbours along."""

import io
import json
from typing import Any

import pytest
from PIL import Image

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.tar import Member
from dr_pipeline.errors import ShardError
from dr_pipeline.reinforce.prepare import Prepared, Preparer, Skipped
from dr_pipeline.reinforce.reader import read
from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode, render
from tests.conftest import image_bytes, make_job, make_sample_members, tar_bytes

NO_LIMIT = 10**9


def prepare(members: list[Member], job: Job | None = None) -> list[Prepared | Skipped]:
    """What becomes of each sample of a tar."""
    job = job or make_job()
    tally, preparer = Tally(), Preparer(job, square_sides=[16])
    stream = io.BytesIO(tar_bytes(members))
    return [preparer.prepare(raw, tally) for raw in read(stream, tally, job.errors.max_member_bytes)]


def sort_out(members: list[Member], job: Job | None = None) -> tuple[list[Sample], dict[str, str]]:
    """The good samples, and the skipped ones as key → reason."""
    outcomes = prepare(members, job)
    good = [outcome.drawn.sample for outcome in outcomes if isinstance(outcome, Prepared)]
    return good, {outcome.key: outcome.skip.reason for outcome in outcomes if isinstance(outcome, Skipped)}


def good_keys(members: list[Member], job: Job | None = None) -> list[str]:
    return [sample.key for sample in sort_out(members, job)[0]]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
def test_every_mode_of_image_becomes_rgb_views(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (9, 7)).save(buffer, "PNG")
    first, second = prepare([("a.png", buffer.getvalue()), ("a.txt", b"t"), *make_sample_members("b")])
    assert isinstance(first, Prepared)
    assert isinstance(second, Prepared)
    assert [one.drawn.sample.key for one in (first, second)] == ["a", "b"]
    assert first.drawn.sample.image == buffer.getvalue()  # untouched
    side, num_views = make_job().augmentation.random_resized_crop.size, make_job().augmentation.num_views
    assert len(first.drawn.views) == num_views
    assert first.views_NHWC.shape == (num_views, side, side, 3)
    assert first.squares[16].shape == (16, 16, 3)


JPEG = image_bytes(90, 90)
BAD = {  # every other kind: tests/bad_input/
    "member too large": [("bad.jpg", image_bytes()), ("bad.txt", b"t"), ("bad.mp4", bytes(100_001))],
    "corrupt image": [("bad.jpg", JPEG[: len(JPEG) // 2]), ("bad.txt", b"t")],
    "no text": [("bad.jpg", JPEG)],
}


@pytest.mark.parametrize(("reason", "bad"), BAD.items(), ids=BAD)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_bad_sample_is_skipped_alone(reason: str, bad: list[Member], position: int) -> None:
    parts = [make_sample_members("x", "cap x", seed=1), make_sample_members("y", "cap y", seed=2)]
    parts.insert(position, bad)
    good, skipped = sort_out(
        [member for part in parts for member in part],
        make_job(errors={"max_member_bytes": 100_000}),
    )
    assert list(skipped.values()) == [reason]
    assert [(sample.key, sample.caption) for sample in good] == [("x", "cap x"), ("y", "cap y")]
    assert [sample.image for sample in good] == [image_bytes(seed=1), image_bytes(seed=2)]


@pytest.mark.parametrize("between", [[], make_sample_members("b")], ids=["neighbours", "apart"])
def test_of_equal_keys_the_second_is_skipped_and_named(between: list[Member]) -> None:
    members = [
        *make_sample_members("a", "first"),
        *between,
        *make_sample_members("a", "second"),
        *make_sample_members("c"),
    ]
    good, skipped = sort_out(members)
    assert [sample.key for sample in good] == ["a", *(["b"] if between else []), "c"]
    assert good[0].caption == "first"
    assert skipped == {"a": "duplicate key"}


def test_equal_base_names_in_other_folders_are_other_keys() -> None:
    assert good_keys(make_sample_members("0/a") + make_sample_members("1/a")) == ["0/a", "1/a"]


def test_the_key_of_a_bad_sample_is_taken_too() -> None:
    _, skipped = sort_out([("a.jpg", b""), ("a.txt", b"t"), *make_sample_members("b"), *make_sample_members("a")])
    assert skipped["a"] == "duplicate key"


def test_every_input_sample_comes_out_once() -> None:
    outcomes = prepare([member for index in range(5) for member in make_sample_members(f"k{index}")] + BAD["no text"])
    assert len(outcomes) == 6
    assert isinstance(outcomes[5], Skipped)
    assert outcomes[5].skip.detail == "members: jpg"


def with_synthetic(**captions: Any) -> list[Member]:
    return make_sample_members("a", syn_json=json.dumps(captions).encode())


@pytest.mark.parametrize(
    ("changes", "members", "reason"),
    [
        ({}, with_synthetic(syn_text=["x"]), "synthetic key taken"),
        ({"captioners": []}, make_sample_members("a"), "no synthetic captions"),
        ({"captioners": []}, with_synthetic(), "no synthetic captions"),
        ({"output": {"layout": "v1"}}, with_synthetic(syn_text_old=["x"]), "too many synthetic keys"),
        (
            {"output": {"layout": "v1"}, "captioners": []},
            with_synthetic(syn_text=["x"], syn_text_b=["y"]),
            "too many synthetic keys",
        ),
        ({"output": {"layout": "v1"}, "captioners": []}, with_synthetic(syn_text_b=["y"]), "other synthetic key"),
    ],
)
def test_captions_that_do_not_fit_the_job(changes: dict[str, Any], members: list[Member], reason: str) -> None:
    assert sort_out(members, make_job(**changes)) == ([], {"a": reason})


@pytest.mark.parametrize(
    "changes", [{"captioners": []}, {"captioners": [], "output": {"layout": "v1"}}], ids=["v2", "v1"]
)
def test_existing_captions_serve_a_job_without_a_captioner(changes: dict[str, Any]) -> None:
    good, skipped = sort_out(with_synthetic(syn_text=["x", "y"]), make_job(**changes))
    assert not skipped
    assert good[0].synthetic == {"syn_text": ["x", "y"]}


def test_existing_captions_are_extended_under_another_tag() -> None:
    job = make_job(captioners=[{"name": "c", "use": "m:C", "tag": "new"}])
    assert sort_out(with_synthetic(syn_text=["x"]), job)[0][0].synthetic == {"syn_text": ["x"]}


def test_a_truncated_tar_is_an_error_after_its_readable_samples() -> None:
    data = tar_bytes(make_sample_members("a") + make_sample_members("b") + make_sample_members("c"))
    samples = read(io.BytesIO(data[: len(data) * 3 // 4]), Tally(), NO_LIMIT)
    assert next(samples).key == "a"
    with pytest.raises(ShardError, match="truncated"):
        list(samples)


def test_stages_are_timed() -> None:
    tally, preparer = Tally(), Preparer(make_job(), [])
    for raw in read(io.BytesIO(tar_bytes(make_sample_members("a"))), tally, NO_LIMIT):
        preparer.prepare(raw, tally)
    assert set(tally._seconds) == {"read", "decode", "draw", "render"}
    assert all(seconds > 0 for seconds in tally._seconds.values())


def test_views_are_rendered_by_the_jobs_resampler() -> None:
    crop = make_job().augmentation.random_resized_crop.model_dump()
    fast = make_job(augmentation={"random_resized_crop": {**crop, "resampler": "fast"}, "num_views": 4})
    pillow = make_job(augmentation={"random_resized_crop": {**crop, "resampler": "pillow"}, "num_views": 4})
    members = make_sample_members("a")
    (by_fast,), (by_pillow,) = prepare(members, fast), prepare(members, pillow)
    assert isinstance(by_fast, Prepared)
    assert isinstance(by_pillow, Prepared)
    image = decode(by_fast.drawn.sample.image, 10**6)
    expected = render(image, by_fast.drawn.views, Recipe(fast.augmentation))
    assert (by_fast.views_NHWC == expected).all()
    assert (by_fast.views_NHWC != by_pillow.views_NHWC).any()
