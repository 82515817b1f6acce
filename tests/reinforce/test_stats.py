"""The counts of a shard: members, similarities, skipped samples, and when these are too many."""

import json
import time
from dataclasses import asdict

import numpy as np
import pytest

from dr_pipeline.dataset.caption_faults import CutCaption
from dr_pipeline.dataset.reports import ShardTask
from dr_pipeline.dataset.sample import FILTERED, IMAGE, TEXT, Column, Sample
from dr_pipeline.dataset.shard_io import NOT_ADJACENT
from dr_pipeline.dataset.tar import TarDigest
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.words import plural
from tests.conftest import make_job, make_sample

TASK = ShardTask("0.tar", "in/0.tar", 99)


def skipped(key: str, reason: str, detail: str = "", num_members: int = 1) -> Sample:
    return Sample(key, {}, num_members=num_members, skip=SampleSkipped(reason, detail))


def filled(num_good: int, num_bad: int) -> ShardStats:
    stats, job = ShardStats(), make_job()
    for index in range(num_good):
        stats.written(make_sample(job, f"k{index}", syn_text=["a", "b"], syn_text_x=["c"]))
    for index in range(num_bad):
        stats.skipped(skipped(f"bad{index}", "no text" if index else "corrupt image", "why", num_members=2))
    return stats


def test_the_report_adds_up() -> None:
    stats = filled(4, 3)
    stats.passed_over["folder"] += 1
    with stats.stage("read"):
        time.sleep(0.01)
    stats.waited("views", 0.2)
    stats.waited("views", 0.3)
    report = stats.report(TASK, "print", TarDigest(3, "abc"))
    assert (report.name, report.uri, report.status, report.fingerprint) == ("0.tar", "in/0.tar", "done", "print")
    assert (report.num_read, report.num_written, report.num_views, report.num_synthetic) == (7, 4, 16, 12)
    assert report.skipped == {"corrupt image": 1, "no text": 2}
    assert (report.num_members, report.passed_over) == (4 * 3 + 3 * 2 + 1, {"folder": 1})
    assert report.num_skipped == 3
    assert (report.size_bytes, report.sha256) == (3, "abc")
    assert 0.01 <= report.seconds["read"] <= report.seconds["total"]
    assert report.waited_seconds == {"views": 0.5}


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
        "scores": {},
    }


def test_captions_are_counted_by_captioner_but_not_those_that_came_with_the_input() -> None:
    stats, job = ShardStats(["syn_text", "syn_text_x"]), make_job()
    synthetic = {"syn_text": ["a dog", "", CutCaption("a dog on")], "syn_text_x": ["c"], "syn_text_old": [""]}
    for key in ("k0", "k1"):
        stats.written(make_sample(job, key, **synthetic))
    report = stats.report(TASK, "print", TarDigest(0, ""))
    assert report.captions == {"syn_text": {"drawn": 6, "blank": 2, "cut": 2}, "syn_text_x": {"drawn": 2}}
    assert [json.loads(row.poor_captions or "") for row in stats.rows] == [{"syn_text": {"blank": 1, "cut": 1}}] * 2


def test_similarity_is_the_mean_cosine_over_views_and_teachers() -> None:
    def unit(*angles: float) -> np.ndarray:
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)

    columns = {
        Column(teacher, of): unit(*angles)
        for teacher, its in {
            "one": {IMAGE: (0.0, 0.2), TEXT: (0.5,), "syn_text": (0.0,), "syn_text_x": (0.5,)},
            "two": {IMAGE: (0.0, 0.4), TEXT: (1.0,), "syn_text": (0.0,), "syn_text_x": (1.0,)},
            "images alone": {IMAGE: (0.3, 0.1)},
        }.items()
        for of, angles in its.items()
    }
    stats = ShardStats()
    stats.written(Sample("k", {}, synthetic={"syn_text": ["a"], "syn_text_x": ["b"]}, columns=columns))
    ground_truth = np.mean(np.cos([0.5, 1.0, 0.3, 0.6]))
    first = np.mean(np.cos([0.0, 0.0, 0.2, 0.4]))
    assert stats.rows[0].similarity == pytest.approx(ground_truth, abs=1e-6)
    assert stats.rows[0].synthetic_similarity == pytest.approx((first + ground_truth) / 2, abs=1e-6)
    assert stats.rows[0].scores == pytest.approx(
        {
            "similarity/one/text": np.mean(np.cos([0.5, 0.3])),
            "similarity/one/syn_text": np.mean(np.cos([0.0, 0.2])),
            "similarity/one/syn_text_x": np.mean(np.cos([0.5, 0.3])),
            "similarity/two/text": np.mean(np.cos([1.0, 0.6])),
            "similarity/two/syn_text": np.mean(np.cos([0.0, 0.4])),
            "similarity/two/syn_text_x": np.mean(np.cos([1.0, 0.6])),
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("good", "bad", "allowed"),
    [(80, 20, 0.2), (10, 0, 0.0), (0, 0, 0.0), (0, 3, 1.0), (1, 1, 0.5), (3, 1, 0.2), (99, 1, 0.01), (20, 1, 0.01)],
)
def test_skips_up_to_the_limit_are_tolerated(good: int, bad: int, allowed: float) -> None:
    filled(good, bad).check(allowed)


@pytest.mark.parametrize(
    ("good", "bad", "allowed"), [(79, 21, 0.2), (9, 1, 0.0), (0, 3, 0.99), (1, 3, 0.2), (0, 1, 0.2), (20, 2, 0.01)]
)
def test_more_skips_fail_the_shard_with_their_reasons(good: int, bad: int, allowed: float) -> None:
    with pytest.raises(ShardError) as caught:
        filled(good, bad).check(allowed)
    message = str(caught.value)
    assert f"{bad} of {plural(good + bad, 'sample')} skipped, more than errors.max_skipped = {allowed}" in message
    assert "corrupt image (1)" in message
    assert message.endswith("first bad0: corrupt image: why")


def test_a_shard_of_images_alone_fails_with_where_the_texts_may_lie() -> None:
    stats = ShardStats()
    stats.skipped(skipped("a", "no text", "members: jpg"))
    with pytest.raises(ShardError, match="members: jpg; do the members of a sample lie in one tar, side by side"):
        stats.check(0.2)
    with pytest.raises(ShardError, match=r"first bad0: corrupt image: why$"):
        filled(0, 3).check(0.2)


def test_scattered_members_are_counted_as_one_sample() -> None:
    stats = ShardStats()
    for reason, num_members in (("no text", 1), ("corrupt image", 2)):
        for key in "ab":
            stats.skipped(skipped(f"{key} {reason}", reason, num_members=num_members))
    for key in ("a no text", "a no text", "b no text", "a corrupt image"):
        stats.skipped(skipped(key, NOT_ADJACENT, "sort them"))
    assert [(row.key, row.skip_reason, row.members) for row in stats.rows] == [
        ("a no text", NOT_ADJACENT, 3),
        ("b no text", NOT_ADJACENT, 2),
        ("a corrupt image", "corrupt image", 2),
        ("b corrupt image", "corrupt image", 2),
        ("a corrupt image", NOT_ADJACENT, 1),
    ]
    with pytest.raises(ShardError, match=r"members not adjacent \(3\), corrupt image \(2\); first a no text: members"):
        stats.check(0.5)


def test_members_without_a_sample_fail_the_shard_whatever_is_tolerated() -> None:
    stats = ShardStats()
    stats.passed_over.update({"folder": 1, "symbolic link": 2})
    with pytest.raises(ShardError, match=r"none of its 3 members .* symbolic link \(2\), folder \(1\)"):
        stats.check(1.0)


def test_a_stage_that_fails_is_timed() -> None:
    stats = ShardStats()
    with pytest.raises(ValueError, match="x"), stats.stage("decode"):
        raise ValueError("x")
    assert stats._seconds["decode"] > 0


def test_without_a_paired_teacher_there_is_no_similarity() -> None:
    stats = ShardStats()
    columns = {Column("dino", IMAGE): np.ones((2, 3), np.float32)}
    stats.written(Sample("k", {}, synthetic={"syn_text": ["a"]}, columns=columns))
    assert (stats.rows[0].similarity, stats.rows[0].synthetic_similarity) == (None, None)
    assert stats.rows[0].scores == {}


def test_filtered_samples_are_counted_but_are_no_faults() -> None:
    stats = filled(1, 1)
    for index in range(98):
        sample = skipped(f"f{index}", FILTERED, "dfn: 0.1 is below min 0.2")
        sample.scores["dfn"] = 0.1
        stats.skipped(sample)
    stats.check(0.01)
    report = stats.report(TASK, "print", TarDigest(3, "abc"))
    assert report.skipped == {"corrupt image": 1, FILTERED: 98}
    assert (report.num_read, report.num_written, report.num_skipped, report.num_filtered) == (100, 1, 1, 98)
    assert stats.rows[-1].scores == {"dfn": 0.1}
    with pytest.raises(ShardError, match=r"1 of 100 samples skipped, .*: corrupt image \(1\); first bad0: corrupt"):
        stats.check(0.0)
