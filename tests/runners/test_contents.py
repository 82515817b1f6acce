"""A dataset is made by the same weights from its first shard to its last, whatever happens to the files meanwhile."""

import json
import shutil
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from dr_pipeline.cli import main
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.demo import scenes
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.load import load_teacher
from dr_pipeline.networks.digests import with_digests
from dr_pipeline.runners.on_ray import RayRunner
from dr_pipeline.runners.run import execute, run
from dr_pipeline.storage import Lease, Storage
from tests.demo_job import QUICKSTART, Silent, demo_job, digests, make_scenes, small

WEIGHTS = Path(scenes.__file__).parent / "scene_clip_a.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=2)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The first teacher's weights, where somebody could replace them."""
    return Path(shutil.copy(WEIGHTS, tmp_path / "weights.safetensors"))


def overrides(weights: Path) -> str:
    return f"teachers.0.options.weights={weights}"


def replace_weights(path: Path) -> None:
    """Other numbers, in a file of the same size."""
    tensors = load_file(path)
    save_file({name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}, path)


def lose_a_shard(output: Path) -> None:
    (output / "00000.tar").unlink()
    next(output.glob("reports/*/00000.json")).unlink()


def sha256_of(job: Job, name: str = "weights") -> str:
    return with_digests(job).teachers[0].digests[name]


def test_other_weights_at_the_same_path_are_refused(
    base: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    command = [str(QUICKSTART), *small(base, output), overrides(weights)]
    assert main(["run", *command]) == 0
    job = demo_job(base, output, overrides(weights))
    before, made = sha256_of(job), digests(output)
    stored = json.loads((output / "config.json").read_text())["dr_pipeline"]["identity"]["teachers"]
    assert stored[0]["digests"]["weights"] == before
    assert stored[1]["digests"].keys() == {"weights", "model"}
    lose_a_shard(output)
    replace_weights(weights)
    capsys.readouterr()
    assert main(["run", *command]) == 2
    said = capsys.readouterr().err
    assert f"teachers.0.digests.weights of scene_clip_a: {before} → {sha256_of(job)}" in said
    assert len([line for line in said.splitlines() if " → " in line]) == 1
    assert main(["plan", *command]) == 2
    assert main(["verify", str(output), "--deep"]) == 2  # the models of config.json are not there
    assert "weights" in capsys.readouterr().err
    assert digests(output) == {"00001.tar": made["00001.tar"]}
    shutil.copy(WEIGHTS, weights)
    assert main(["run", *command]) == 0
    assert digests(output) == made


def test_a_worker_that_finds_other_weights_than_the_run_refuses_them(base: Path, weights: Path, tmp_path: Path) -> None:
    job = with_digests(demo_job(base, tmp_path / "out", overrides(weights)))
    load_teacher(job.teachers[0], torch.device("cpu"))
    replace_weights(weights)
    with pytest.raises(ModelError, match=f"card scene_clip_a: weights: {weights} is not what it was"):
        load_teacher(job.teachers[0], torch.device("cpu"))


@pytest.mark.ray
def test_a_worker_on_ray_refuses_them_too(base: Path, weights: Path, tmp_path: Path) -> None:
    on_ray = ("workers.engine=ray", "workers.max=1", "workers.cpus=1", "workers.gpus=0")
    job = with_digests(demo_job(base, tmp_path / "out", overrides(weights), *on_ray))
    replace_weights(weights)
    runner = RayRunner(job)
    try:
        with pytest.raises(ModelError, match=f"card scene_clip_a: weights: {weights} is not what it was"):
            runner.start()
    finally:
        runner.close()
        ray.shutdown()


def run_without_digests(job: Job) -> None:
    """As where only the workers can read the models' files."""
    plan = make_plan(job)
    with Lease(job.output.path, "run.json", Storage()).held() as lease:
        ConfigJson(plan.job).claim(force=False)
        execute(plan, lease, Silent())


def test_an_output_whose_driver_could_not_read_the_weights_is_gone_on_with(
    base: Path, weights: Path, tmp_path: Path
) -> None:
    job = demo_job(base, tmp_path / "out", overrides(weights))
    run_without_digests(job)
    made = digests(tmp_path / "out")
    lose_a_shard(tmp_path / "out")
    again = Silent()
    run(job, again)
    assert [report.name for report in again.reports] == ["00000.tar"]
    assert digests(tmp_path / "out") == made
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_a_file_that_cannot_be_read_here_any_more_stays_known(base: Path, weights: Path, tmp_path: Path) -> None:
    job = demo_job(base, tmp_path / "out", overrides(weights))
    run(job, Silent())
    known = sha256_of(job)
    weights.unlink()
    with pytest.raises(ModelError, match="no file at"):
        with_digests(job) and load_teacher(job.teachers[0], torch.device("cpu"))
    assert make_plan(job).job.teachers[0].digests["weights"] == known
    assert [*map(len, (make_plan(job).todo, make_plan(job).done))] == [0, 2]


def test_repair_is_refused_too(base: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out"
    run(demo_job(base, output, overrides(weights)), Silent())
    (output / "00000.tar").write_bytes(b"damaged")
    (output / "config.json").write_text("{")  # so that only the reports' folder says by what
    replace_weights(weights)
    command = [str(QUICKSTART), *small(base, output), overrides(weights)]
    assert main(["verify", str(output), "--repair", "--job", *command]) == 2
    assert "no reports of this job" in capsys.readouterr().err


def test_force_makes_all_of_it_by_the_new_weights(base: Path, weights: Path, tmp_path: Path) -> None:
    job = demo_job(base, tmp_path / "out", overrides(weights))
    run(job, Silent())
    made = digests(tmp_path / "out")
    replace_weights(weights)
    with pytest.raises(ConfigError, match="--force"):
        run(job, Silent())
    run(job, Silent(), force=True)
    assert not {*made.values()} & {*digests(tmp_path / "out").values()}
    assert main(["verify", str(tmp_path / "out"), "--deep"]) == 0
