"""A calibration runs the real worker on one shard, and what it measures stands for what was assumed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.errors import ConfigError, ModelError, PipelineError
from dr_pipeline.report.preview import Calibration, Preview
from dr_pipeline.report.sample_time import Models
from dr_pipeline.runners.calibration import calibrate, find_shard
from dr_pipeline.runners.dry_run import dry_run
from tests.chat_server import always, chat_server
from tests.conftest import make_sample_members, write_tar
from tests.demo_job import QUICKSTART, demo_job, make_scenes, small


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=3, samples_per_shard=6)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; none is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not [path for path in folder.iterdir() if "calibration" in path.name]


def job_on(shards: Path | str, output: Path, *overrides: str) -> Job:
    """The demo's job with few captions and texts at once, which are timed sooner."""
    return demo_job(shards, output, "workers.caption_batch=4", "workers.text_batch=4", *overrides)


def measured(found: Preview) -> Calibration:
    assert found.calibration is not None
    return found.calibration


def test_the_plan_follows_from_what_was_measured(scenes: Path, tmp_path: Path) -> None:
    job = job_on(scenes, tmp_path / "out", "teachers.1.dim=null", "prices.worker_hour=1")
    found, plain = dry_run(job, "00001.tar"), dry_run(job)
    assert found.cost is not None
    assert plain.cost is not None
    assert found.bill is not None
    assert not (tmp_path / "out").exists()
    calibration = measured(found)
    assert (calibration.shard, calibration.num_samples, calibration.num_skipped) == ("00001.tar", 4 * 6, 0)
    by_name = {figure.name: figure for figure in calibration.figures}
    rate = by_name["samples/s of a worker"]
    assert (rate.measured, rate.assumed) == pytest.approx((1000 / found.cost.sample_ms, 1000 / plain.cost.sample_ms))
    assert found.num_samples is not None
    seconds = found.num_samples * found.cost.sample_ms / 1000 + calibration.assumptions["start_s"]
    assert found.cost.hours == pytest.approx(seconds / 3600)
    assert found.bill.total == pytest.approx(found.cost.hours)
    assert {"scene_coca, ms a sample", "scene_clip_a, ms a sample", "decode_ms", "view_ms"} <= by_name.keys()
    assert all(figure.measured > 0 for figure in calibration.figures)
    assert found.output_bytes == plain.output_bytes, "what a teacher's card does not say, its model does"
    assert "\nmeasured 24 samples of 00001.tar on CPU" in str(found)


def test_what_is_kept_in_the_job_gives_the_same_plan_again(scenes: Path, tmp_path: Path) -> None:
    overrides = [*small(scenes, tmp_path / "out"), "workers.caption_batch=4", "workers.text_batch=4"]
    found = dry_run(load(QUICKSTART, Job, overrides), str(scenes / "00000.tar"))
    tree = yaml.safe_load(QUICKSTART.read_text()) | yaml.safe_load(measured(found).as_yaml())
    kept = tmp_path / "kept.yaml"
    kept.write_text(yaml.safe_dump(tree))
    job = load(kept, Job, overrides)
    again = dry_run(job)
    assert again.cost == found.cost
    assert job.fingerprint() == load(QUICKSTART, Job, overrides).fingerprint()
    fewer = dry_run(load(kept, Job, [*overrides, "augmentation.num_views=1"]))
    assert fewer.cost is not None
    assert found.cost is not None
    assert fewer.cost.sample_ms < found.cost.sample_ms


def test_a_model_whose_cost_nobody_knows_is_timed(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "mean_colour.py").write_text(
        "import torch\n"
        "from dr_pipeline.models.protocol import ImageSpec, TeacherSpec\n"
        "class Mean:\n"
        "    def __init__(self, device):\n"
        "        self.spec = TeacherSpec(dim=3, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "    def encode_images(self, images_BCHW):\n"
        "        return images_BCHW.mean(dim=(2, 3)) + 2\n"
    )
    teacher = "{name: mean, use: 'mean_colour:Mean', encodes: [images]}"
    job = job_on(scenes, tmp_path / "out", f"teachers=[{teacher}]", f"plugin_dirs=[{tmp_path}]")
    assert dry_run(job).cost.not_counted == ("mean",)  # type: ignore[union-attr]
    found = dry_run(job, "00000.tar")
    assert found.cost is not None
    assert found.cost.not_counted == ()
    assert measured(found).assumptions["models"]["mean"]["image_ms"] > 0
    (figure,) = [figure for figure in measured(found).figures if figure.name.startswith("mean, ")]
    assert figure.assumed is None


ENDPOINT: dict[str, Any] = {
    "name": "vlm",
    "use": "dr_pipeline.models.endpoint:EndpointCaptioner",
    "options": {"model": "m"},
    "num_captions": 2,
    "prompt": "What?",
    "prices": {"prompt": 10, "completion": 10},
}


def test_endpoints_are_asked_timed_and_counted(scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with chat_server() as server:
        card = {**ENDPOINT, "connection": {"base_url": server.base_url, "max_in_flight": 4}}
        job = job_on(scenes, tmp_path / "out", f"captioners=[{card}]")
        assert dry_run(job).cost.not_timed == ("vlm",)  # type: ignore[union-attr]
        assert server.bodies == []
        found = dry_run(job, "00000.tar")
        calibration = measured(found)
        num_asked = len(server.bodies)
        assert calibration.assumptions["models"]["vlm"]["text_ms"] > 0
        used = calibration.usage["syn_text"]
        assert used["requests"] == num_asked - 2, "two workers' first questions about a blank image are in no report"
        assert used["cost"] == pytest.approx(used["requests"] * 107 * 10 / 1e6)
        assert "--calibrate asks the endpoints of vlm, which may cost money" in caplog.text
        assert calibration.assumptions["tokens"] == {"syn_text": {"prompt": 100, "completion": 7}}
        (asked,) = found.requests
        assert (asked.prompt_tokens, asked.completion_tokens) == (100 * asked.requests, 7 * asked.requests)
        assert asked.cost == pytest.approx(asked.requests * 107 * 10 / 1e6)
        assert "7 out; costs about " in str(asked).replace(f"{asked.completion_tokens:,}", "7")
        assert any(line.startswith("asked of endpoints for syn_text: ") for line in calibration.lines())
        server.answer = always("no", status=401)
        with pytest.raises(ModelError, match="card vlm: a first request failed"):
            dry_run(job, "00000.tar")


def test_a_shard_that_cannot_be_measured_is_named(scenes: Path, tmp_path: Path) -> None:
    folder = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=4)
    no_image = [(f"{key}.{ext}", b"x") for key in "ab" for ext in ("jpg", "txt")]
    write_tar(folder / "bad.tar", no_image)
    write_tar(folder / "none.tar", [("readme", b"x")])
    (folder / "torn.tar").write_bytes((folder / "00000.tar").read_bytes()[:5000])
    job = job_on(folder, tmp_path / "out")
    for shard, said in (
        ("bad.tar", r"bad.tar: none of its first 2 samples can be reinforced; a: corrupt image"),
        ("none.tar", r"none.tar: it has no sample that can be read: name another shard"),
        ("torn.tar", r"torn.tar: it cannot be read: truncated"),
        ("00001.tar", r"--calibrate 00001.tar: no shard of the job's input; did you mean 00000.tar\?"),
        ("elsewhere/00000.tar", r"--calibrate elsewhere/00000.tar: no shard of the job's input"),
    ):
        with pytest.raises(ConfigError, match=said):
            dry_run(job, shard)
    gone = job_on(f"{folder}/{{00000,gone}}.tar", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"gone.tar: it cannot be read: .*gone.tar"):
        dry_run(gone, "gone.tar")


def test_samples_that_a_run_would_not_write_end_it(scenes: Path, tmp_path: Path) -> None:
    bad = [(f"b{index}.{ext}", b"x") for index in range(6) for ext in ("jpg", "txt")]
    good = [member for index in range(2) for member in make_sample_members(f"g{index}", seed=index)]
    write_tar(tmp_path / "in" / "mostly_bad.tar", [*good, *bad])
    with pytest.raises(PipelineError, match="a run would fail with this shard: 6 of 8 samples skipped"):
        dry_run(job_on(tmp_path / "in", tmp_path / "out"), "mostly_bad.tar")
    scorer = "{card: package://dr_pipeline.demo/cards/scene_filter.yaml, min: 2}"
    with pytest.raises(PipelineError, match="the job's scorers filter all of these samples: name another shard"):
        dry_run(job_on(scenes, tmp_path / "out", f"scorers=[{scorer}]"), "00000.tar")


def test_a_shard_has_a_name_and_an_address(scenes: Path, tmp_path: Path) -> None:
    deep = tmp_path / "in"
    for part in ("a", "b"):
        (deep / part).mkdir(parents=True)
        (deep / part / "0.tar").write_bytes((scenes / "00000.tar").read_bytes())
    plan = make_plan(job_on(deep, tmp_path / "out"))
    for named in ("b/0.tar", str(deep / "b" / "0.tar")):
        assert find_shard(plan, named).name == "b/0.tar"
    with pytest.raises(ConfigError, match=r"several shards are called so: a/0.tar, b/0.tar"):
        find_shard(plan, "0.tar")


def test_another_device_than_the_run_s_is_not_measured(scenes: Path, tmp_path: Path) -> None:
    plan = make_plan(job_on(scenes, tmp_path / "out", "workers.gpus=1"))
    with pytest.raises(ConfigError, match="the run's workers have 1 GPU each, and this process sees none"):
        calibrate(plan, "00000.tar", Models())


def test_nothing_is_measured_for_a_run_that_would_be_refused(scenes: Path, tmp_path: Path) -> None:
    found = dry_run(job_on(scenes, tmp_path / "out", "captioners=[]"), "00000.tar")
    assert found.refused
    assert found.calibration is None
    assert "--calibrate 00000.tar: nothing was measured, since a run would be refused" in found.warnings
