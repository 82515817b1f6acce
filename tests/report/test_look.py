"""What the page of a dataset is made of: counts of all shards, and a bounded, seeded choice of samples."""

import base64
import io
import json
import re
from collections import Counter
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dr_pipeline.codecs.npz import Npz
from dr_pipeline.dataset.manifest import EARLIER_SHARD_SCHEMA, SampleRow, ShardTable, write_sample_table
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.errors import ConfigError, ShardError
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look import cards, collection
from dr_pipeline.report.look.captions import captions_section, scores_section
from dr_pipeline.report.look.collection import CaptionCounts, Collection, collect
from dr_pipeline.report.look.look import look
from dr_pipeline.report.look.sample_counts import count_samples
from dr_pipeline.report.look.shard_counts import count_shards
from dr_pipeline.report.pictures import draw_pictures
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from tests.conftest import GOLDEN, make_sample_members, write_tar
from tests.demo_job import Silent
from tests.reinforce.classification import job_of, write_digits
from tests.report.test_page import embedded
from tests.verification.datasets import replaced, write_dataset


def collected(uri: Path, key: str | None = None) -> Collection:
    return collect(DatasetReader(str(uri), Storage()), key)


def page(uri: Path, folder: Path, key: str | None = None) -> tuple[str, dict[str, Any]]:
    """The page of a dataset, and the data in it."""
    html = look(str(uri), Storage(), folder / "page.html", key).path.read_text()
    data = embedded(html)
    assert isinstance(data, dict)
    return html, data


def shown(found: Collection) -> list[str]:
    return [card["key"] for card in found.cards]


def test_all_of_a_small_dataset_is_shown_in_its_order(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    html, data = page(tmp_path / "out", tmp_path)
    assert [sample["key"] for sample in data["samples"]] == [
        f"s{shard}_{index}" for shard in range(2) for index in range(3)
    ]
    assert "All 6 samples." in html
    sample = data["samples"][0]
    assert [caption["text"] for caption in sample["captions"]] == ["alt-text of s0_0", "a cube", "a red thing"]
    assert data["teachers"] == ["one", "two"]
    cosines = sample["captions"][0]["similarities"]
    assert sample["captions"][0]["similarity"] == pytest.approx(np.mean([*cosines.values()]), abs=1e-4)
    assert (sample["image"]["width"], sample["image"]["height"]) == (40, 30)
    assert len(sample["views"]) == 4
    top, left, height, width = sample["views"][0]["box"]
    assert sample["views"][0]["told"].startswith(f"crop {width} × {height} px at {left}, {top}, ")


def test_views_lie_side_by_side_in_their_order(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    found = collected(tmp_path / "out")
    _, shown = found.reader.find("s0_1", found.reader.shards)
    views_NHWC = draw_pictures(shown, found.reader.recipe, 60).views_NHWC
    card = next(card for card in found.cards if card["key"] == "s0_1")
    strip = Image.open(io.BytesIO(base64.b64decode(card["strip"].partition(",")[2])))
    assert strip.size == (4 * 24, 24)
    tiles_NHWC = np.stack(np.split(np.asarray(strip.convert("RGB"), float), 4, axis=1))
    distances_NN = np.abs(tiles_NHWC[:, None] - views_NHWC[None]).mean(axis=(2, 3, 4))
    assert distances_NN.argmin(axis=1).tolist() == [0, 1, 2, 3]


def test_views_and_captions_that_are_too_many_to_be_shown_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "out")
    monkeypatch.setattr(cards, "MOST_VIEWS", 3)
    monkeypatch.setattr(cards, "_MOST_CAPTIONS", 1)
    card = collected(tmp_path / "out").cards[0]
    assert (len(card["views"]), card["num_views"]) == (3, 4)
    assert (len(card["captions"]), card["more_captions"]) == (2, 1)


def test_a_choice_is_bounded_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "out", num_shards=6)
    monkeypatch.setattr(collection, "_MOST_SHARDS", 2)
    monkeypatch.setattr(collection, "_MOST_SAMPLES", 4)
    found = collected(tmp_path / "out")
    assert len(found.cards) == 4
    assert len({card["shard"] for card in found.cards}) == found.num_shards_read == 2
    assert shown(found) == shown(collected(tmp_path / "out"))
    html, _ = page(tmp_path / "out", tmp_path)
    assert "4 of 18 samples, of 2 of 6 shards" in html


def test_a_page_stops_to_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "out")
    monkeypatch.setattr(collection, "_MOST_BYTES", 1)
    assert len(collected(tmp_path / "out", "s1_1").cards) == 1
    assert shown(collected(tmp_path / "out", "s1_1")) == ["s1_1"]


def test_those_that_fit_worst_and_best_are_among_the_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write_dataset(tmp_path / "out", num_shards=1)
    members = [m for index in range(40) for m in make_sample_members(f"k{index:02}")]
    write_tar(tmp_path / "out/00/0.tar", members)
    similarities = np.random.default_rng(0).permutation(40) / 40
    rows = [SampleRow(f"k{index:02}", similarity=float(value)) for index, value in enumerate(similarities)]
    write_sample_table(Storage(), job.output.path, "00/0.tar", rows)
    monkeypatch.setattr(collection, "_MOST_SAMPLES", 8)
    keys = shown(collected(tmp_path / "out"))
    assert len(keys) == 8
    assert {f"k{index:02}" for index in [*similarities.argsort()[:2], *similarities.argsort()[-2:]]} <= {*keys}


def test_a_key_is_shown_whatever_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "out", num_shards=4)
    monkeypatch.setattr(collection, "_MOST_SHARDS", 1)
    for shard in range(4):
        found = collected(tmp_path / "out", f"s{shard}_1")
        assert shown(found).count(f"s{shard}_1") == 1
    with pytest.raises(ConfigError, match="no sample 'absent'"):
        collected(tmp_path / "out", "absent")
    assert page(tmp_path / "out", tmp_path, "s2_0")[1]["open"] == "s2_0"


def test_a_damaged_shard_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    path = tmp_path / "out/00/1.tar"
    path.write_bytes(path.read_bytes()[:5000])
    looked = look(str(tmp_path / "out"), Storage(), tmp_path / "page.html")
    (problem,) = looked.problems
    assert problem.startswith(f"{path}: truncated")
    assert problem in unescape(looked.path.read_text())
    (tmp_path / "out/00/0.tar").write_bytes(b"")
    path.write_bytes(b"")
    with pytest.raises(ShardError, match="the file is empty"):
        look(str(tmp_path / "out"), Storage(), tmp_path / "page.html")


def test_what_cannot_be_shown_of_a_sample_says_why(tmp_path: Path) -> None:
    write_dataset(tmp_path / "image", replaced("jpg", lambda data: b"no image"))
    (card,) = [card for card in collected(tmp_path / "image").cards if card["key"] == "s1_1"]
    assert (card["image"], len(card["views"])) == (None, 4)
    assert card["why_no_image"].startswith("corrupt image")
    write_dataset(tmp_path / "json", replaced("syn.json", lambda data: b"{"))
    (card,) = [card for card in collected(tmp_path / "json").cards if card["key"] == "s1_1"]
    assert card["problem"].startswith("bad syn.json")


def test_a_dataset_without_images_is_shown(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", output={"images": "omit"})
    cards = collected(tmp_path / "out").cards
    assert {card["why_no_image"] for card in cards} == {"its shard does not hold the image"}
    assert all(card["captions"] and card["views"][0]["told"].startswith("crop") for card in cards)


@pytest.mark.parametrize("name", ["v1_fp32", "v2_bf16"])
def test_tars_of_other_writers_are_shown(name: str, tmp_path: Path) -> None:
    html, data = page(GOLDEN / "shards" / f"{name}.tar", tmp_path)
    assert len(data["samples"]) == 8
    assert data["lowest"] < data["highest"]
    assert all(sample["strip"].startswith("data:image/webp") for sample in data["samples"])
    assert "There is no manifest here" in html


def test_of_shards_without_a_table_no_more_is_read_than_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "_MOST_SAMPLES", 7)
    found = collected(GOLDEN / "shards")
    assert Counter(card["shard"] for card in found.cards) == {"v1_bf16.tar": 3, "v1_fp32.tar": 2, "v2_bf16.tar": 2}
    assert found.num_walked == 7


def test_of_a_large_shard_the_first_samples_are_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "out", num_shards=1)
    monkeypatch.setattr(collection, "_MOST_WALKED", 2)
    found = collected(tmp_path / "out")
    assert (shown(found), found.num_walked) == (["s0_0", "s0_1"], 2)


def test_labelled_images_are_shown_with_their_classes(tmp_path: Path) -> None:
    write_digits(tmp_path / "in")
    mixed = {"mixup": {"p": 0.5}, "cutmix": {"p": 0.5}}
    run(job_of(tmp_path, augmentation=mixed), Silent())
    html, data = page(tmp_path / "out", tmp_path)
    assert [sample["label"] for sample in data["samples"]] == ["0", "1", "2", "3", "4", None]
    views = [view for sample in data["samples"] for view in sample["views"]]
    assert all("; class " in view["told"] and view["box"] for view in views)
    assert any("with a view of sample" in view["told"] for view in views)
    assert "Commonest classes" in html
    assert "probabilities of images" in html
    assert 'id="captions"' not in html


def test_image_only_teachers_leave_no_cosines(tmp_path: Path) -> None:
    views = {"paug_json": b'{"param_aug": []}', "syn_json": b'{"syn_text": ["a cube", ""]}'}
    arrays = Npz().encode({"image_emb_dino": np.ones((2, 3), np.float32)})
    path = write_tar(tmp_path / "a.tar", make_sample_members("a", "a thing", **views, npz=arrays))
    html, data = page(path, tmp_path)
    assert [caption["similarity"] for caption in data["samples"][0]["captions"]] == [None, None, None]
    assert data["samples"][0]["captions"][2]["faults"] == ["blank"]
    assert "worst first" not in html


def report(number: int, **fields: Any) -> ShardReport:
    made = ShardReport(f"{number}.tar", "", "done", "f" * 12, 10, 8, 80, 24, {"no text": 1, "filtered": 1}, 1000)
    seconds = {"read": 1.0, "total": 10.0, "device": 5.0}
    return replace(made, seconds=seconds, finished_at=1000.0 + 10 * number, **fields)


def test_shards_are_summed_and_their_time_is_told(tmp_path: Path) -> None:
    table = ShardTable(Storage(), str(tmp_path))
    failed = replace(report(9), status="failed", error="no disk")
    table.add([report(1), report(2), report(4), failed])  # nothing is at work from 20 to 30 s
    table.publish()
    counts = count_shards(Storage(), str(tmp_path))
    assert counts
    assert (counts.num_done, counts.num_failed, counts.errors) == (3, 1, [("9.tar", "no disk")])
    assert (counts.sums["num_written"], counts.sums["size_bytes"]) == (24, 3000)
    assert counts.skipped == {"no text": 3, "filtered": 3}
    assert counts.seconds == {"read": 3.0, "total": 30.0, "device": 15.0}
    line = counts.timeline
    assert line
    assert (line.began_at, line.ended_at) == (1000, 1040)
    busy_T = np.array(line.busy_T)
    assert np.isnan(busy_T).sum() == len(busy_T) // 4
    np.testing.assert_allclose(busy_T[~np.isnan(busy_T)], 50)
    assert np.nansum(line.samples_per_s_T) * 40 / len(busy_T) == pytest.approx(24)
    assert counts.work_seconds == pytest.approx(30)


def test_tables_that_do_not_tell_when_shards_ended_are_summed_too(tmp_path: Path) -> None:
    table = ShardTable(Storage(), str(tmp_path))
    table.add([report(1)])
    table.publish()
    path = tmp_path / "manifest/shards.parquet"
    pq.write_table(pq.read_table(path).select(EARLIER_SHARD_SCHEMA.names), path)
    counts = count_shards(Storage(), str(tmp_path))
    assert counts
    assert counts.num_done == 1
    assert counts.timeline is None
    assert counts.work_seconds == 0
    whole = path.read_bytes()
    for damaged in (b"no parquet", whole[:40] + bytes(8) + whole[48:]):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"shards\.parquet is damaged: .*: copy it again, or have"):
            count_shards(Storage(), str(tmp_path))


def test_scores_of_tables_are_put_together(tmp_path: Path) -> None:
    rows = {
        "0.tar": [SampleRow("a", scores={"similarity/one/text": 0.5, "words": 3.0}), SampleRow("b")],
        "1.tar": [SampleRow("c", scores={"similarity/one/syn/text": 0.25}), SampleRow("d", skip_reason="no text")],
    }
    for shard, of_shard in rows.items():
        write_sample_table(Storage(), str(tmp_path), shard, of_shard)
    counts = count_samples(Storage(), str(tmp_path), ["0.tar", "1.tar", "absent.tar"])
    assert (counts.num_tables, counts.num_rows, counts.num_skipped) == (2, 4, 1)
    nan = float("nan")
    np.testing.assert_array_equal(counts.scorers["words"], np.array([3, nan, nan, nan], np.float32))
    np.testing.assert_array_equal(counts.teachers["one"]["text"], np.array([0.5, nan, nan, nan], np.float32))
    assert counts.skipped == {"no text": [("d", "1.tar", "no text", "")]}


def test_many_filtered_samples_hide_no_damaged_one(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", num_shards=2)
    for shard in range(2):
        rows = [SampleRow(f"f{shard}_{index:03}", skip_reason="filtered") for index in range(300)]
        rows.append(SampleRow(f"broken{shard}", skip_reason="corrupt image"))
        write_sample_table(Storage(), str(tmp_path / "out"), f"00/{shard}.tar", rows)
    html, _ = page(tmp_path / "out", tmp_path)
    named = re.findall(r"<bdi>(broken\d|f\d_\d+)</bdi>", html)
    assert named[:2] == ["broken0", "broken1"]
    assert "The first of each reason: 102 of 602." in html


def test_one_long_caption_leaves_the_lengths_of_the_others_to_be_told_apart(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    found = collected(tmp_path / "out")
    found.captions = {"text": CaptionCounts()}
    found.captions["text"].add(["word " * 5] * 500 + ["word " * 8] * 500 + ["w" * 900 + " word" * 1000])
    html = "".join(captions_section(found))
    assert "of up to 1,001 words" in html
    assert re.search(r"8 to 9</bdi></td><td class=\"number\"><bdi>501<", html)
    assert "w" * 33 not in html


def test_shards_that_failed_are_the_first_that_is_told(tmp_path: Path) -> None:
    job = write_dataset(tmp_path / "out")
    table = ShardTable(Storage(), job.output.path)
    table.add([report(1), replace(report(9), status="failed", error="no disk")])
    table.publish()
    html, _ = page(tmp_path / "out", tmp_path)
    assert html.index("1 of 2 shards failed: their samples are missing;") < html.index("synthetic captions")


def test_of_a_run_that_goes_on_the_shards_that_are_there_are_shown(tmp_path: Path) -> None:
    job = write_dataset(tmp_path / "out")
    write_sample_table(Storage(), job.output.path, "00/0.tar", [SampleRow("s0_0", scores={"similarity/one/text": 0.5})])
    (tmp_path / "out/manifest/shards.parquet").unlink(missing_ok=True)
    html, _ = page(tmp_path / "out", tmp_path)
    assert "What follows is about the shards that are there by now: a run writes their table at its end." in html
    assert 'id="similarity"' in html
    html, _ = page(tmp_path / "out/00/0.tar", tmp_path)
    assert "that are there by now" not in html


def test_that_a_dataset_is_not_whole_is_told_once(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    del config["dr_pipeline"]["manifest_sha256"]
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    (tmp_path / "out/manifest/shards.parquet").unlink()
    html, _ = page(tmp_path / "out", tmp_path)
    assert "not whole: its last run was stopped before its end" in html
    assert html.count('class="warning wide"') == 1


def test_limits_of_a_scorer_are_marked(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    found = collected(tmp_path / "out")
    found.reader.config["dr_pipeline"]["identity"]["scorers"] = [{"name": "words", "min": 2.0, "max": None}]
    found.samples.scores = {"words": np.arange(5, dtype=np.float32)}
    (chart,) = scores_section(found)
    assert "The job keeps samples from 2: dashed." in chart
    assert 'class="mark" d="M50.0 0V100"' in chart
    found.samples.scores = {"words": np.arange(3, 5, dtype=np.float32)}
    (chart,) = scores_section(found)
    assert "The job keeps samples from 2." in chart, "what no score comes near is not drawn, and not said to be"


def test_words_and_lengths_of_captions_are_counted() -> None:
    counts = CaptionCounts()
    counts.add(["A red cube, a RED ball", "the cube's 3 sides", ""])
    assert counts.lengths == {6: 1, 4: 1, 0: 1}
    assert counts.words["red"] == 1
    assert counts.words["cube's"] == 1
    assert not counts.words.keys() & {"a", "the"}
    assert counts.faults == {"blank": 1}
    counts.add(["word " * 100_000])
    assert counts.words["word"] == 1


def test_text_of_a_caption_is_cut_and_says_how_much(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", replaced("txt", lambda data: b"x" * 5000))
    (card,) = [card for card in collected(tmp_path / "out").cards if card["key"] == "s1_1"]
    assert (len(card["captions"][0]["text"]), card["captions"][0]["cut"]) == (2000, 3000)


def test_a_page_s_folder_must_be_there(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    with pytest.raises(ConfigError, match="there is no folder"):
        look(str(tmp_path / "out"), Storage(), tmp_path / "absent" / "page.html")


def test_a_page_has_the_dataset_s_name_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert look("out/", Storage()).path == Path("out.html")
    assert Path("out.html").is_file()


def test_bytes_of_members_are_those_of_the_shown_samples(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    found = collected(tmp_path / "out")
    expected: Counter[str] = Counter()
    for card in DatasetReader(str(tmp_path / "out"), Storage()).shards:
        for one in DatasetReader(str(tmp_path / "out"), Storage()).read(card):
            expected.update(one.record.members)
    assert found.member_bytes == expected
    assert json.dumps(found.cards)


@pytest.mark.parametrize("value", [0.0, 0.3, 1e17, 3e38, -3e38, np.inf, np.nan])
def test_scores_that_are_all_the_same_are_shown(value: float, tmp_path: Path) -> None:
    write_dataset(tmp_path / "out")
    names = ("words", "similarity/one/text", "similarity/two/text")
    for shard in range(2):
        rows = [SampleRow(f"s{shard}_{index}", scores=dict.fromkeys(names, value)) for index in range(3)]
        write_sample_table(Storage(), str(tmp_path / "out"), f"{shard}.tar", rows)
    page(tmp_path / "out", tmp_path)
