"""The account of a shard: counts, similarities, reasons, and when there are too many of these."""

import io
import json
import time
from dataclasses import asdict

import numpy as np
import pytest

from dr_pipeline.dataset.raw import NOT_ADJACENT
from dr_pipeline.dataset.reports import ShardTask
from dr_pipeline.dataset.sample import Reinforcement, Sample
from dr_pipeline.dataset.tar import DigestStream
from dr_pipeline.dataset.texts import CutCaption
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.reinforce.tally import Tally
from tests.conftest import make_job, make_reinforcement


def sample(key: str) -> Sample:
    return Sample(key, "jpg", b"", "c", {}, {})


def filled(num_good: int, num_bad: int) -> Tally:
    tally, job = Tally(), make_job()
    for index in range(num_good):
        made = make_reinforcement(job, f"k{index}", syn_text=["a", "b"], syn_text_x=["c"])
        tally.written(sample(f"k{index}"), made, num_teachers=2)
    for index in range(num_bad):
        tally.skipped(f"bad{index}", SampleSkipped("no text" if index else "corrupt image", "why"), 2)
    return tally


def test_the_report_adds_up() -> None:
    stream = DigestStream(io.BytesIO())
    stream.write(b"abc")
    tally = filled(4, 3)
    tally.account.num_members = 9
    tally.account.passed_over["folder"] += 1
    with tally.stage("read"):
        time.sleep(0.01)
    tally.waited_seconds["embed"] = 0.5
    report = tally.report(ShardTask("0.tar", "in/0.tar", 99), "print", stream)
    assert (report.name, report.uri, report.status, report.fingerprint) == ("0.tar", "in/0.tar", "done", "print")
    assert (report.num_read, report.num_written, report.num_views, report.num_synthetic) == (7, 4, 16, 12)
    assert report.skipped == {"corrupt image": 1, "no text": 2}
    assert (report.num_members, report.passed_over) == (9, {"folder": 1})
    assert report.num_skipped == 3
    assert (report.size_bytes, report.sha256) == (3, stream.sha256)
    assert 0.01 <= report.seconds["read"] <= report.seconds["total"]
    assert report.waited_seconds == {"embed": 0.5}


def test_rows_are_samples_in_order_with_reasons() -> None:
    rows = filled(1, 1).rows
    assert [row.key for row in rows] == ["k0", "bad0"]
    assert (rows[0].captions, rows[0].synthetic_captions, rows[0].skip_reason) == (1, 3, None)
    assert asdict(rows[1]) | {"key": ""} == {
        "key": "",
        "members": 2,
        "captions": 0,
        "synthetic_captions": 0,
        "similarity": None,
        "synthetic_similarity": None,
        "skip_reason": "corrupt image",
        "skip_detail": "why",
        "poor_captions": None,
    }


def test_captions_are_counted_by_captioner_but_not_those_that_came_with_the_input() -> None:
    tally, job = Tally(), make_job()
    synthetic = {"syn_text": ["a dog", "", CutCaption("a dog on")], "syn_text_x": ["c"], "syn_text_old": [""]}
    for key in ("k0", "k1"):
        given = Sample(key, "jpg", b"", "c", {"syn_text_old": [""]}, {})
        tally.written(given, make_reinforcement(job, key, **synthetic), num_teachers=2)
    report = tally.report(ShardTask("0.tar", "in/0.tar", 99), "print", DigestStream(io.BytesIO()))
    assert report.captions == {"syn_text": {"drawn": 6, "blank": 2, "cut": 2}, "syn_text_x": {"drawn": 2}}
    assert [json.loads(row.poor_captions or "") for row in tally.rows] == [{"syn_text": {"blank": 1, "cut": 1}}] * 2


def test_similarity_is_the_mean_cosine_over_views_and_teachers() -> None:
    def unit(angle: float) -> list[float]:
        return [np.cos(angle), np.sin(angle)]

    image = np.array([unit(0.0) + unit(0.0), unit(0.2) + unit(0.4)], np.float32)  # two views, two teachers of 2 dims
    text = np.array([unit(0.5) + unit(1.0)], np.float32)
    synthetic = {"syn_text": np.array([unit(0.0) + unit(0.0)], np.float32), "syn_text_x": text}
    made = Reinforcement((), {"syn_text": ["a"], "syn_text_x": ["b"]}, image, text, synthetic)
    tally = Tally()
    tally.written(sample("k"), made, num_teachers=2)
    ground_truth = np.mean(np.cos([0.5, 1.0, 0.3, 0.6]))
    first = np.mean(np.cos([0.0, 0.0, 0.2, 0.4]))
    assert tally.rows[0].similarity == pytest.approx(ground_truth, abs=1e-6)
    assert tally.rows[0].synthetic_similarity == pytest.approx((first + ground_truth) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("good", "bad", "allowed"),
    [(80, 20, 0.2), (10, 0, 0.0), (0, 0, 0.0), (0, 3, 1.0), (1, 1, 0.5), (3, 1, 0.2), (99, 1, 0.01), (20, 1, 0.01)],
)
def test_up_to_the_limit_is_tolerated(good: int, bad: int, allowed: float) -> None:
    filled(good, bad).check(allowed)


@pytest.mark.parametrize(
    ("good", "bad", "allowed"), [(79, 21, 0.2), (9, 1, 0.0), (0, 3, 0.99), (1, 3, 0.2), (0, 1, 0.2), (20, 2, 0.01)]
)
def test_beyond_it_the_shard_fails_and_says_why(good: int, bad: int, allowed: float) -> None:
    with pytest.raises(ShardError) as caught:
        filled(good, bad).check(allowed)
    message = str(caught.value)
    assert f"{bad} of {good + bad} samples skipped, more than errors.max_skipped = {allowed}" in message
    assert "corrupt image (1)" in message
    assert message.endswith("first bad0: corrupt image: why")


def test_a_shard_of_images_or_texts_alone_is_told_where_the_others_may_lie() -> None:
    tally = Tally()
    tally.skipped("a", SampleSkipped("no text", "members: jpg"), 1)
    with pytest.raises(ShardError, match="members: jpg; do the members of a sample lie in one tar, side by side"):
        tally.check(0.2)
    with pytest.raises(ShardError, match=r"first bad0: corrupt image: why$"):
        filled(0, 3).check(0.2)


def test_scattered_members_are_one_sample() -> None:
    tally = Tally()
    apart = SampleSkipped(NOT_ADJACENT, "sort them")
    for reason, num_members in (("no text", 1), ("corrupt image", 2)):
        for key in "ab":
            tally.skipped(f"{key} {reason}", SampleSkipped(reason), num_members)
    for key in ("a no text", "a no text", "b no text", "a corrupt image"):
        tally.skipped(key, apart, 1)
    assert [(row.key, row.skip_reason, row.members) for row in tally.rows] == [
        ("a no text", NOT_ADJACENT, 3),
        ("b no text", NOT_ADJACENT, 2),
        ("a corrupt image", "corrupt image", 2),
        ("b corrupt image", "corrupt image", 2),
        ("a corrupt image", NOT_ADJACENT, 1),
    ]
    with pytest.raises(ShardError, match=r"members not adjacent \(3\), corrupt image \(2\); first a no text: members"):
        tally.check(0.5)


def test_members_without_a_sample_fail_the_shard_whatever_is_tolerated() -> None:
    tally = Tally()
    tally.account.num_members = 3
    tally.account.passed_over.update({"folder": 1, "symbolic link": 2})
    with pytest.raises(ShardError, match=r"none of its 3 members .* symbolic link \(2\), folder \(1\)"):
        tally.check(1.0)


def test_a_stage_is_timed_though_it_fails() -> None:
    tally = Tally()
    with pytest.raises(ValueError, match="x"), tally.stage("decode"):
        raise ValueError("x")
    assert tally._seconds["decode"] > 0
