"""Bad samples are skipped with their reason and never take their neighbours along."""

import io
import json
from typing import Any

import pytest
from PIL import Image

from dr_pipeline.config import Job
from dr_pipeline.errors import ShardError
from dr_pipeline.reinforce.reader import Decoded, read_decoded
from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.shards.tar import Member
from tests.conftest import image_bytes, make_job, make_sample_members, tar_bytes


def read(members: list[Member], job: Job | None = None) -> tuple[list[Decoded], dict[str, str]]:
    """The good samples, and the skipped ones as key → reason."""
    tally = Tally()
    good = list(read_decoded(io.BytesIO(tar_bytes(members)), job or make_job(), tally))
    return good, {row.key: str(row.skip_reason) for row in tally.rows}


def good_keys(members: list[Member], job: Job | None = None) -> list[str]:
    return [decoded.sample.key for decoded in read(members, job)[0]]


def test_samples_come_in_order_with_their_rgb_images() -> None:
    for mode in ("RGB", "L", "RGBA", "P", "LA", "1"):
        buffer = io.BytesIO()
        Image.new(mode, (9, 7)).save(buffer, "PNG")
        good, skipped = read([("a.png", buffer.getvalue()), ("a.txt", b"t"), *make_sample_members("b")])
        assert not skipped
        assert [(sample.key, image.mode, image.size) for sample, image in good] == [
            ("a", "RGB", (9, 7)),
            ("b", "RGB", (40, 30)),
        ]
        assert good[0].sample.image == buffer.getvalue()  # untouched


JPEG = image_bytes(90, 90)
BAD = {
    "empty image": [("bad.jpg", b""), ("bad.txt", b"t")],
    "corrupt image": [("bad.jpg", JPEG[: len(JPEG) // 2]), ("bad.txt", b"t")],
    "image too large": [("bad.jpg", image_bytes(200, 200)), ("bad.txt", b"t")],
    "no text": [("bad.jpg", JPEG)],
    "no image": [("bad.txt", b"t")],
    "text is not UTF-8": [("bad.jpg", image_bytes()), ("bad.txt", b"\xff")],
    "bad json": [("bad.jpg", image_bytes()), ("bad.json", b"[]")],
    "bad syn.json": [("bad.jpg", image_bytes()), ("bad.txt", b"t"), ("bad.syn.json", b"{}x")],
    "unsafe name": [("../bad.jpg", image_bytes()), ("../bad.txt", b"t")],
}


@pytest.mark.parametrize(("reason", "bad"), BAD.items(), ids=BAD)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_bad_sample_is_skipped_alone(reason: str, bad: list[Member], position: int) -> None:
    parts = [make_sample_members("x", "cap x", seed=1), make_sample_members("y", "cap y", seed=2)]
    parts.insert(position, bad)
    good, skipped = read([member for part in parts for member in part], make_job(errors={"max_image_pixels": 10_000}))
    assert list(skipped.values()) == [reason]
    assert [(sample.key, sample.caption) for sample, _ in good] == [("x", "cap x"), ("y", "cap y")]
    assert [sample.image for sample, _ in good] == [image_bytes(seed=1), image_bytes(seed=2)]


@pytest.mark.parametrize("between", [[], make_sample_members("b")], ids=["neighbours", "apart"])
def test_of_equal_keys_the_second_is_skipped_and_named(between: list[Member]) -> None:
    members = [
        *make_sample_members("a", "first"),
        *between,
        *make_sample_members("a", "second"),
        *make_sample_members("c"),
    ]
    good, skipped = read(members)
    assert [sample.key for sample, _ in good] == ["a", *(["b"] if between else []), "c"]
    assert good[0].sample.caption == "first"
    assert skipped == {"a": "duplicate key"}


def test_equal_base_names_in_other_folders_are_other_keys() -> None:
    assert good_keys(make_sample_members("0/a") + make_sample_members("1/a")) == ["0/a", "1/a"]


def test_the_key_of_a_bad_sample_is_taken_too() -> None:
    _, skipped = read([("a.jpg", b""), ("a.txt", b"t"), *make_sample_members("b"), *make_sample_members("a")])
    assert skipped["a"] == "duplicate key"


def test_every_input_sample_is_accounted_for_once() -> None:
    tally = Tally()
    members = [member for index in range(5) for member in make_sample_members(f"k{index}")] + BAD["no text"]
    good = list(read_decoded(io.BytesIO(tar_bytes(members)), make_job(), tally))
    assert len(good) + len(tally.rows) == 6
    assert tally.rows[0].skip_detail == "members: jpg"


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
    ],
)
def test_captions_that_do_not_fit_the_job(changes: dict[str, Any], members: list[Member], reason: str) -> None:
    assert read(members, make_job(**changes)) == ([], {"a": reason})


@pytest.mark.parametrize(
    "changes", [{"captioners": []}, {"captioners": [], "output": {"layout": "v1"}}], ids=["v2", "v1"]
)
def test_existing_captions_serve_a_job_without_a_captioner(changes: dict[str, Any]) -> None:
    good, skipped = read(with_synthetic(syn_text=["x", "y"]), make_job(**changes))
    assert not skipped
    assert good[0].sample.synthetic == {"syn_text": ["x", "y"]}


def test_existing_captions_are_extended_under_another_tag() -> None:
    job = make_job(captioners=[{"name": "c", "use": "m:C", "tag": "new"}])
    assert read(with_synthetic(syn_text=["x"]), job)[0][0].sample.synthetic == {"syn_text": ["x"]}


def test_a_truncated_tar_is_an_error_after_its_readable_samples() -> None:
    data = tar_bytes(make_sample_members("a") + make_sample_members("b") + make_sample_members("c"))
    tally = Tally()
    reader = read_decoded(io.BytesIO(data[: len(data) * 3 // 4]), make_job(), tally)
    assert next(reader).sample.key == "a"
    with pytest.raises(ShardError, match="truncated"):
        list(reader)


def test_stages_are_timed() -> None:
    tally = Tally()
    list(read_decoded(io.BytesIO(tar_bytes(make_sample_members("a"))), make_job(), tally))
    assert set(tally._seconds) == {"read", "decode"}
    assert all(seconds > 0 for seconds in tally._seconds.values())
