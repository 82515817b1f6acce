"""Bad samples are skipped with their reason and never take their neighbours along."""

import io
import json
from typing import Any

import pytest
import torch
from PIL import Image

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ShardError
from dr_pipeline.reinforce.prepare import Preparer, read
from dr_pipeline.reinforce.rendering import HostRenderer
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode, render
from tests.conftest import image_bytes, make_job, make_sample_members, tar_bytes
from tests.tars import Member

NO_LIMIT = 10**9


def prepare(members: list[Member], job: Job | None = None) -> list[Sample]:
    """What becomes of each sample of a tar."""
    job = job or make_job()
    renderer = HostRenderer(job.augmentation, torch.device("cpu"))
    stats, preparer = ShardStats(), Preparer(job, renderer, square_sides=[16])
    stream = io.BytesIO(tar_bytes(members))
    return [preparer.prepare(sample, stats) for sample in read(stream, stats, job.errors.max_member_bytes)]


def sort_out(members: list[Member], job: Job | None = None) -> tuple[list[Sample], dict[str, str]]:
    """The good samples, and the skipped ones as key → reason."""
    samples = prepare(members, job)
    good = [sample for sample in samples if not sample.skip]
    return good, {sample.key: sample.skip.reason for sample in samples if sample.skip}


def good_keys(members: list[Member], job: Job | None = None) -> list[str]:
    return [sample.key for sample in sort_out(members, job)[0]]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
def test_every_mode_of_image_becomes_rgb_views(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (9, 7)).save(buffer, "PNG")
    first, second = prepare([("a.png", buffer.getvalue()), ("a.txt", b"t"), *make_sample_members("b")])
    assert [(one.key, one.skip) for one in (first, second)] == [("a", None), ("b", None)]
    assert first.image == buffer.getvalue()  # untouched
    side, num_views = make_job().augmentation.random_resized_crop.size, make_job().augmentation.num_views
    assert len(first.views) == num_views
    assert first.views_NHWC is not None
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
def test_of_equal_keys_the_second_is_skipped(between: list[Member]) -> None:
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
    samples = prepare([member for index in range(5) for member in make_sample_members(f"k{index}")] + BAD["no text"])
    assert len(samples) == 6
    assert samples[5].skip
    assert samples[5].skip.detail == "members: jpg"


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
def test_samples_whose_captions_do_not_fit_the_job_are_skipped(
    changes: dict[str, Any], members: list[Member], reason: str
) -> None:
    assert sort_out(members, make_job(**changes)) == ([], {"a": reason})


@pytest.mark.parametrize(
    "changes", [{"captioners": []}, {"captioners": [], "output": {"layout": "v1"}}], ids=["v2", "v1"]
)
def test_a_job_without_a_captioner_takes_existing_captions(changes: dict[str, Any]) -> None:
    good, skipped = sort_out(with_synthetic(syn_text=["x", "y"]), make_job(**changes))
    assert not skipped
    assert good[0].synthetic == {"syn_text": ["x", "y"]}


def test_existing_captions_are_kept_beside_a_captioner_of_another_tag() -> None:
    job = make_job(captioners=[{"name": "c", "use": "m:C", "tag": "new"}])
    assert sort_out(with_synthetic(syn_text=["x"]), job)[0][0].synthetic == {"syn_text": ["x"]}


def test_a_truncated_tar_is_an_error_after_its_readable_samples() -> None:
    data = tar_bytes(make_sample_members("a") + make_sample_members("b") + make_sample_members("c"))
    samples = read(io.BytesIO(data[: len(data) * 3 // 4]), ShardStats(), NO_LIMIT)
    assert next(samples).key == "a"
    with pytest.raises(ShardError, match="truncated"):
        list(samples)


def test_each_stage_is_timed() -> None:
    renderer = HostRenderer(make_job().augmentation, torch.device("cpu"))
    stats, preparer = ShardStats(), Preparer(make_job(), renderer)
    for sample in read(io.BytesIO(tar_bytes(make_sample_members("a"))), stats, NO_LIMIT):
        preparer.prepare(sample, stats)
    assert set(stats._seconds) == {"read", "decode", "draw", "render"}
    assert all(seconds > 0 for seconds in stats._seconds.values())


def test_views_are_rendered_by_the_jobs_recipe() -> None:
    bicubic, bilinear = (
        make_job(augmentation={"random_resized_crop": {"size": 24, "interpolation": name}, "num_views": 4})
        for name in ("bicubic", "bilinear")
    )
    members = make_sample_members("a")
    (one,), (other,) = prepare(members, bicubic), prepare(members, bilinear)
    assert one.views_NHWC is not None
    expected = render(decode(one.image, 10**6), one.views, Recipe(bicubic.augmentation))
    assert (one.views_NHWC == expected).all()
    assert (one.views_NHWC != other.views_NHWC).any()
