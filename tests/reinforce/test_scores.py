"""Samples are scored before all else, and left out by their scores, with the demo's models."""

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.manifest import EARLIER_SAMPLE_SCHEMA, SAMPLE_SCHEMA
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.precision import load_ensemble
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.report.inspect import inspect
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.recompute import recompute
from dr_pipeline.verification.verify import verify
from dr_pipeline.views.render import render_center
from tests.demo_job import Silent, demo_job, digests, make_scenes
from tests.tars import group, read_members

FILTER: dict[str, Any] = {"card": "package://dr_pipeline.demo/cards/scene_filter.yaml"}
MIN = 0.3
PLUGINS = """
import torch
from dr_pipeline.models.protocol import ImageSpec

class Words:
    def __init__(self, device):
        pass
    def score_texts(self, texts):
        return torch.tensor([float(len(text.split())) for text in texts])

class Broken:
    def __init__(self, device, fault, from_batch=1):
        self.spec, self.fault, self.left = ImageSpec(16, (0.5,) * 3, (0.5,) * 3), fault, from_batch
    def score(self, images_BCHW, texts):
        self.left -= 1
        right = torch.ones(len(texts))
        return right if self.left >= 0 else {
            "nan": right.where(torch.arange(len(texts)) != 1, torch.nan),
            "column": right[:, None],
            "one": right[:1],
            "whole": right.long(),
            "list": right.tolist(),
        }[self.fault]

class Small:
    def __init__(self, device):
        pass
    def score_texts(self, texts):
        if len(texts) > 3:
            raise torch.OutOfMemoryError
        return torch.full((len(texts),), float(len(texts)))

class Nothing:
    def __init__(self, device):
        pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, plug-ins, and the files of a head."""
    folder = tmp_path_factory.mktemp("scores")
    make_scenes(folder / "in", num_shards=1, samples_per_shard=12)
    (folder / "lab_of_scores.py").write_text(PLUGINS)
    generator = torch.Generator().manual_seed(0)
    head = {"weight": torch.randn(1, 64, generator=generator), "bias": torch.tensor([5.0])}
    save_file(head, folder / "head.safetensors")
    return folder


def scored_job(folder: Path, output: Path, *scorers: dict[str, Any], overrides: tuple[str, ...] = ()) -> Job:
    changes = [f"scorers={json.dumps(scorers)}", f"plugin_dirs=[{folder}]", *overrides]
    return demo_job(folder / "in", output, *changes)


def one_shard(job: Job) -> ShardReport:
    observer = Silent()
    run(job, observer)
    (report,) = observer.reports
    return report


def rows(output: Path) -> dict[str, dict[str, Any]]:
    """Key → its row of the manifest, with the scores as a dictionary."""
    table = pq.read_table(output / "manifest/samples/00000.parquet").to_pylist()
    return {row["key"]: {**row, "scores": dict(row["scores"])} for row in table}


def samples(tar: Path) -> dict[str, dict[str, bytes]]:
    with tar.open("rb") as stream:
        return dict(group(read_members(stream)))


@pytest.fixture(scope="module")
def filtered(folder: Path) -> tuple[Job, ShardReport, Path]:
    """Three scorers; the first and the last have thresholds."""
    aesthetic = {
        "name": "aesthetic",
        "use": "dr_pipeline.models.scorers:AestheticScorer",
        "options": {**load_options(), "head": str(folder / "head.safetensors")},
    }
    scorers = [{**FILTER, "min": MIN}, aesthetic, {"use": "lab_of_scores:Words", "max": 8}]
    job = scored_job(folder, folder / "filtered", *scorers)
    return job, one_shard(job), folder / "filtered"


def deep(output: Path, plugins: Path) -> Findings:
    """What is found when all samples are made again."""
    findings = Findings()
    recompute(str(output), Storage(), findings, plugin_dirs=(str(plugins),))
    return findings


def load_options() -> dict[str, Any]:
    return dict(demo_job("in", "out", f"scorers=[{json.dumps(FILTER)}]").scorers[0].options)


def test_a_report_tells_how_long_the_scorers_waited(filtered) -> None:
    _, report, _ = filtered
    assert report.waited_seconds["scores"] > 0


def test_scores_are_those_of_the_central_square_and_the_alt_text(filtered, folder: Path) -> None:
    job, _, output = filtered
    ensemble, _ = load_ensemble(job.teachers[:1], torch.device("cpu"), "float32")
    weight_D = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))[0].numpy()
    table = rows(output)
    for key, members in samples(folder / "in/00000.tar").items():
        square_1HWC = render_center(Image.open(io.BytesIO(members["jpg"])), 64)[None]
        (image_emb_D,) = ensemble.embed_images(square_1HWC)["scene_clip_a"]
        text = members["txt"].decode()
        (text_emb_D,) = ensemble.embed_texts([text])["scene_clip_a"]
        scores = table[key]["scores"]
        assert scores["scene_filter"] == pytest.approx(image_emb_D @ text_emb_D, abs=1e-5)
        if scores["scene_filter"] >= MIN:
            assert scores["aesthetic"] == pytest.approx(image_emb_D @ weight_D + 5, abs=1e-4)
            assert scores["Words"] == len(text.split())


def test_exactly_those_outside_of_the_thresholds_are_filtered(filtered, folder: Path) -> None:
    _, report, output = filtered
    kept, reasons = [], []
    for key, row in rows(output).items():
        scores = {name: score for name, score in row["scores"].items() if not name.startswith("similarity/")}
        if scores["scene_filter"] < MIN:
            assert row["skip_detail"] == f"scene_filter {scores['scene_filter']:.6g} is below min 0.3"
            assert row["scores"].keys() == {"scene_filter"}, "what one has filtered, the next ones do not see"
        elif scores["Words"] > 8:
            assert row["skip_detail"] == f"Words {scores['Words']:g} is above max 8"
        else:
            kept.append(key)
            assert row["skip_reason"] is None
            continue
        assert row["skip_reason"] == "filtered"
        reasons.append(row["skip_detail"].split()[0])
    assert set(reasons) == {"scene_filter", "Words"}
    assert list(samples(output / "00000.tar")) == kept
    assert report.skipped == {"filtered": len(reasons)}
    assert (report.status, report.num_read, report.num_written, report.num_skipped) == ("done", 12, len(kept), 0)
    assert verify(str(output), Storage()).problems == []


def test_what_is_kept_is_as_without_scorers(filtered, folder: Path) -> None:
    _, _, output = filtered
    one_shard(scored_job(folder, folder / "whole"))
    whole = samples(folder / "whole/00000.tar")
    for key, members in samples(output / "00000.tar").items():
        assert {ext: data for ext, data in members.items() if ext != "pth.gz"} == {
            ext: data for ext, data in whole[key].items() if ext != "pth.gz"
        }


def test_neither_batches_nor_a_second_run_change_the_output(filtered, folder: Path, tmp_path: Path) -> None:
    job, _, output = filtered
    other = job.model_copy(
        update={
            "output": job.output.model_copy(update={"path": str(tmp_path)}),
            "workers": job.workers.model_copy(update={"view_batch": 5}),
        }
    )
    one_shard(other)
    scores, again = rows(output), rows(tmp_path)
    assert [row["skip_reason"] for row in scores.values()] == [row["skip_reason"] for row in again.values()]
    for key, row in scores.items():
        assert again[key]["scores"] == pytest.approx(row["scores"], abs=1e-5)
    before, observer = digests(output), Silent()
    run(job, observer)
    assert (observer.reports, digests(output)) == ([], before)
    stricter = scored_job(folder, output, {**FILTER, "min": 0.4}, overrides=())
    with pytest.raises(ConfigError, match=r"scorers\.0\.min: 0\.3 → 0\.4"):
        run(stricter)


def test_a_deep_verification_scores_again(filtered, folder: Path, tmp_path: Path) -> None:
    _, _, output = filtered
    assert deep(output, folder).problems == []
    changed = shutil.copytree(output, tmp_path / "changed")
    path = changed / "manifest/samples/00000.parquet"
    stored = pq.read_table(path).to_pylist()
    key, scores = next((row["key"], dict(row["scores"])) for row in stored if not row["skip_reason"])
    for name in ("scene_filter", "Words", "similarity/scene_clip_b/text"):
        scores[name] += 0.1
    pq.write_table(pa.Table.from_pylist([row | {"scores": scores} for row in stored], SAMPLE_SCHEMA), path)
    problems = [problem for _, found, problem in deep(changed, folder).problems if found == key]
    assert len(problems) == 3
    assert "similarity/scene_clip_b/text is" in problems[0]
    assert "scorer scene_filter now gives" in problems[1]
    assert "scorer Words now gives" in problems[2]


def test_inspect_tells_the_scores_of_a_shard(filtered) -> None:
    _, report, output = filtered
    shown = [line for line in inspect(str(output), Storage(), 0).lines if line.startswith("00000.tar: ")]
    scores = [row["scores"]["scene_filter"] for row in rows(output).values()]
    low, median, high = np.quantile(scores, (0.05, 0.5, 0.95))
    values = f"{low:.3g} (5 %), {median:.3g} (median), {high:.3g} (95 %) of 12 samples"
    assert f"00000.tar: scene_filter: {values}" in shown
    assert f"00000.tar: {report.num_filtered} samples filtered" in shown


def test_a_table_without_scores_is_read_as_before(folder: Path, tmp_path: Path) -> None:
    """As an output that was made before samples had scores has it."""
    job = scored_job(folder, tmp_path)
    report = one_shard(job)
    path = tmp_path / "manifest/samples/00000.parquet"
    table = pq.read_table(path).drop_columns("scores")
    assert table.schema.names == EARLIER_SAMPLE_SCHEMA.names
    pq.write_table(table, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    Reports.of(make_plan(job).job).commit(dataclasses.replace(report, samples_sha256=sha256))
    assert verify(str(tmp_path), Storage()).problems == []
    assert deep(tmp_path, folder).problems == []
    assert [line for line in inspect(str(tmp_path), Storage(), 0).lines if "(median)" in line] == []
    observer = Silent()
    run(job, observer)
    assert observer.reports == []


def test_a_shard_of_which_nothing_is_kept_is_done(folder: Path, tmp_path: Path) -> None:
    report = one_shard(scored_job(folder, tmp_path, {**FILTER, "min": 1.5}))
    assert (report.status, report.num_written, report.num_views) == ("done", 0, 0)
    assert report.skipped == {"filtered": 12}
    assert "embed_images" not in report.seconds
    assert "caption" not in report.seconds
    assert verify(str(tmp_path), Storage()).problems == []


def test_scorers_without_thresholds_filter_nothing(folder: Path, tmp_path: Path) -> None:
    report = one_shard(scored_job(folder, tmp_path, FILTER))
    assert (report.num_written, report.skipped) == (12, {})
    assert all("scene_filter" in row["scores"] for row in rows(tmp_path).values())


def test_a_batch_that_is_too_large_is_halved(folder: Path, tmp_path: Path) -> None:
    assert one_shard(scored_job(folder, tmp_path, {"use": "lab_of_scores:Small"})).status == "done"
    assert {row["scores"]["Small"] for row in rows(tmp_path).values()} <= {1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", r"score returned NaN or infinity for 1 of 12 samples, first for sample 1"),
        ("column", r"score returned torch.float32 of shape \[12, 1\] for 12 samples; return floats \[12\]"),
        ("one", r"score returned torch.float32 of shape \[1\] for 12"),
        ("whole", r"score returned torch.int64 of shape \[12\] for 12 samples; return floats"),
        ("list", r"score returned a list; return one tensor \[12\]"),
    ],
)
def test_a_broken_scorer_fails_the_shard_with_its_name_and_the_keys(
    fault: str, message: str, folder: Path, tmp_path: Path
) -> None:
    card = {"name": "lately", "use": "lab_of_scores:Broken", "options": {"fault": fault}}
    worker = Worker(make_plan(scored_job(folder, tmp_path, card)).job)
    worker.load()
    report = worker.run(make_plan(scored_job(folder, tmp_path, card)).todo[0])
    assert report.status == "failed"
    with pytest.raises(AssertionError, match=rf"scorer lately: {message}.* \(samples 000000000 … 000000011\)"):
        raise AssertionError(report.error)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (
            {"use": "lab_of_scores:Broken", "options": {"fault": "column", "from_batch": 0}},
            r"scorer Broken: score returned",
        ),
        (
            {"use": "lab_of_scores:Nothing"},
            r"card Nothing: lab_of_scores:Nothing has none of score, score_images and score_texts",
        ),
        ({**FILTER, "image_size": 32}, r"card scene_filter: image_size is 32 in the card but 64 in the model"),
    ],
)
def test_a_scorer_that_is_none_is_refused_at_the_start(
    card: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        Worker(make_plan(scored_job(folder, tmp_path, card)).job).load()


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        ([{**FILTER, "min": float("nan")}], "scorers.0.min: expected a finite number"),
        ([{**FILTER, "min": 0.5, "max": 0.4}], r"min \(0.5\) is more than max \(0.4\)"),
        ([FILTER, FILTER], r"two scorers have the same name \(scene_filter, scene_filter\)"),
        ([{**FILTER, "name": "similarity/x"}], r"similarity/… is what teachers' similarities are called"),
        ([{**FILTER, "mim": 0.5}], r"scorers.0.mim: unknown key; did you mean min\?"),
    ],
)
def test_scorers_that_cannot_be_are_refused(scorers: list[dict[str, Any]], message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        scored_job(folder, folder / "none", *scorers)


def test_without_scorers_the_identity_is_as_it_was(folder: Path) -> None:
    assert "scorers" not in demo_job("in", "out").identity()
    scorer = scored_job(folder, folder / "none", {**FILTER, "min": MIN}).identity()["scorers"][0]
    assert (scorer["name"], scorer["min"], scorer["max"]) == ("scene_filter", MIN, None)
