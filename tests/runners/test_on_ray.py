"""Runs on a real Ray cluster of two raylets: the same bytes as one process, whatever dies on the way."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from dr_pipeline.cli import main
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.reinforce.tally import Tally, WorkerProgress
from dr_pipeline.runners import on_ray
from dr_pipeline.runners.on_ray import RayRunner
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.verify import verify
from tests.conftest import make_job
from tests.demo_job import QUICKSTART, Silent, demo_job, digests, make_scenes, small
from tests.ray_cluster import ray_cluster, ray_workers
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

ON_RAY = ("workers.engine=ray", "workers.min=1", "workers.max=2", "workers.cpus=1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster(1, 1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=6)


@pytest.fixture(scope="module")
def expected(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("local")
    run(demo_job(scenes, output), Silent())
    return digests(output)


def test_ray_and_local_give_the_same_bytes(cluster: Cluster, scenes: Path, expected: dict, tmp_path: Path) -> None:
    outcome = run(demo_job(scenes, tmp_path, *ON_RAY), Silent())
    assert outcome.num_samples == 30
    assert digests(tmp_path) == expected
    assert verify(str(tmp_path), Storage()).problems == []
    wait_until(lambda: not ray_workers())  # Ray ends killed actors by and by


def test_a_killed_worker_only_means_that_its_shards_are_done_again(
    cluster: Cluster, scenes: Path, expected: dict, tmp_path: Path
) -> None:
    class Killing(Silent):
        """Kills a worker at the first report, when there are shards left."""

        def reported(self, report: object) -> None:
            if not self.reports:
                os.kill(ray_workers()[0].pid, signal.SIGKILL)
            super().reported(report)

    outcome = run(demo_job(scenes, tmp_path, *ON_RAY), Killing())
    assert outcome.failed == ()
    assert digests(tmp_path) == expected


SLEEPER = '''
import time

import torch

from dr_pipeline.models.protocol import TeacherSpec


class Sleeper:
    """Hangs on the text of one sample."""

    def __init__(self, device):
        self.spec = TeacherSpec(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=4)

    def encode_images(self, images_BCHW):
        return torch.ones(len(images_BCHW), 4)

    def encode_texts(self, texts):
        if "hang" in texts:
            time.sleep(3600)
        return torch.ones(len(texts), 4)
'''


def test_a_hang_ends_at_the_deadline_and_the_rest_is_done(cluster: Cluster, tmp_path: Path) -> None:
    import io
    import tarfile

    (tmp_path / "sleeper.py").write_text(SLEEPER)
    shards = make_scenes(tmp_path / "in", num_shards=3, samples_per_shard=2)
    with tarfile.open(shards / "00001.tar") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]
    with tarfile.open(shards / "00001.tar", "w") as tar:
        for member, data in members:
            data = b"hang" if member.name.endswith(".txt") else data
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    overrides = ["teachers=[{use: 'sleeper:Sleeper'}]", "captioners.0.num_captions=1", f"plugin_dirs=[{tmp_path}]"]
    limits = ["errors.shard_deadline_s=8", "errors.attempts=2"]
    outcome = run(demo_job(shards, tmp_path / "out", *ON_RAY, *overrides, *limits), Silent())
    assert [report.name for report in outcome.failed] == ["00001.tar"]
    assert "shard_deadline_s" in outcome.failed[0].error
    assert list(digests(tmp_path / "out")) == ["00000.tar", "00002.tar"]


def test_a_node_that_joins_is_used(cluster: Cluster, tmp_path: Path) -> None:
    """`max` is more than the cluster holds: the pending worker starts as soon as a node has room for it."""

    class Waiting:
        """Says which node it works on; no shard ends before the test has seen the node that joins."""

        def __init__(self, job: Job, log_level: int) -> None: ...

        def load(self) -> tuple[str, ...]:
            return ("card",)

        def run(self, task: ShardTask) -> ShardReport:
            node = ray.get_runtime_context().get_node_id()
            (tmp_path / node).touch()
            while not (tmp_path / "seen").exists():
                time.sleep(0.02)
            return ShardReport(task.name, node, "done", "f")

    runner = runner_of(Waiting, most=3)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(lambda: list(runner.run([ShardTask(f"{i:02d}.tar", "fine", 1) for i in range(12)])))
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        joined = cluster.add_node(num_cpus=1)
        wait_until((tmp_path / joined.node_id).exists)
        (tmp_path / "seen").touch()
        assert joined.node_id in {report.uri for report in running.result()}
    runner.close()
    cluster.remove_node(joined)


def test_a_wrong_card_stops_at_start_on_ray_too(cluster: Cluster, scenes: Path, tmp_path: Path) -> None:
    from dr_pipeline.errors import ModelError

    with pytest.raises(ModelError, match="scene_clip_a"):
        run(demo_job(scenes, tmp_path, *ON_RAY, "teachers.0.dim=65"), Silent())


def test_it_says_what_it_waits_for(
    cluster: Cluster, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guest:
        """Somebody else's actor, which has a node's only core."""

        def begin(self) -> None: ...

    guests = [ray.remote(num_cpus=1)(Guest).remote() for _ in range(2)]
    ray.get([guest.begin.remote() for guest in guests])
    monkeypatch.setattr(on_ray, "_WARN_AFTER_SECONDS", 2.0)
    runner = on_ray.RayRunner(demo_job(scenes, tmp_path, *ON_RAY))
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(runner.start)
        wait_until(lambda: caplog.messages)
        runner.close()
        with pytest.raises(PipelineError, match="closed"):
            starting.result()
    assert "workers.cpus=1" in caplog.messages[0]
    assert "1 CPU, 0 GPU; 1 CPU, 0 GPU" in caplog.messages[0]
    for guest in guests:
        ray.kill(guest)


@pytest.mark.parametrize(
    ("override", "advice"),
    [("workers.cpus=64", "workers.cpus=1"), ("workers.gpus=1", "workers.gpus=0"), ("workers.min=9", "workers.min=2")],
)
def test_what_such_a_cluster_can_never_hold_is_refused(
    override: str, advice: str, cluster: Cluster, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=f"say {advice}, or start more nodes first"):
        run(demo_job(scenes, tmp_path, *ON_RAY, "workers.max=9", override), Silent())
    overrides = [*small(scenes, tmp_path), *ON_RAY, "workers.max=9", override]
    assert main(["plan", str(QUICKSTART), *overrides]) == 2
    assert advice in capsys.readouterr().err


def test_a_job_that_says_nothing_of_workers_takes_what_the_cluster_has(
    cluster: Cluster, scenes: Path, expected: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*small(scenes, tmp_path), "workers={engine: ray, view_batch: 12}"]
    assert main(["plan", str(QUICKSTART), *overrides]) == 0
    assert (
        "workers  up to 6 on Ray, each with 1 CPU and 0 GPUs, in the cluster at hand: 1 CPU" in capsys.readouterr().out
    )
    assert main(["run", str(QUICKSTART), *overrides]) == 0
    assert digests(tmp_path) == expected


def runner_of(worker: type, most: int) -> RayRunner:
    """A runner of two to `most` actors that do what `worker` does."""
    workers = {"engine": "ray", "min": 2, "max": most, "cpus": 1, "gpus": 0}
    runner = RayRunner(make_job(workers=workers, errors={"attempts": 2}), worker)
    runner.start()
    return runner


def test_many_short_shards_are_reported_once_each_though_one_kills_its_workers(cluster: Cluster) -> None:
    class Mortal:
        def __init__(self, job: Job, log_level: int) -> None: ...

        def load(self) -> tuple[str, ...]:
            return ("card",)

        def run(self, task: ShardTask) -> ShardReport:
            if task.uri == "poison":
                os._exit(1)
            return ShardReport(task.name, task.uri, "done", "f")

    runner = runner_of(Mortal, most=2)
    tasks = [ShardTask(f"{i:03d}.tar", "poison" if i == 100 else "fine", 1) for i in range(300)]
    reports = list(runner.run(tasks))
    runner.close()
    assert sorted(report.name for report in reports) == [task.name for task in tasks]
    assert [report.name for report in reports if report.status == "failed"] == ["100.tar"]


def test_at_the_end_no_shard_waits_behind_a_slow_one(cluster: Cluster, tmp_path: Path) -> None:
    class Slow:
        def __init__(self, job: Job, log_level: int) -> None: ...

        def load(self) -> tuple[str, ...]:
            return ("card",)

        def run(self, task: ShardTask) -> ShardReport:
            while task.uri == "slow" and not (tmp_path / "the others are done").exists():
                time.sleep(0.02)
            return ShardReport(task.name, task.uri, "done", "f")

    runner = runner_of(Slow, most=2)
    reports = runner.run([ShardTask(f"{i}.tar", uri, 1) for i, uri in enumerate(["slow", "quick", "quick"])])
    assert {next(reports).name, next(reports).name} == {"1.tar", "2.tar"}
    (tmp_path / "the others are done").touch()
    assert [report.name for report in reports] == ["0.tar"]
    runner.close()


def test_workers_tell_how_far_they_are_while_their_shards_are_in_work(cluster: Cluster, tmp_path: Path) -> None:
    class Busy:
        def __init__(self, job: Job, log_level: int) -> None: ...

        def load(self) -> tuple[str, ...]:
            return ("card",)

        def progress(self) -> WorkerProgress:
            while not (tmp_path / "answer").exists():
                time.sleep(0.02)
            (tmp_path / "asked").touch()
            return WorkerProgress(counts=Tally({"samples_read": 1.0}))

        def run(self, task: ShardTask) -> ShardReport:
            while not (tmp_path / "asked").exists():
                time.sleep(0.02)
            return ShardReport(task.name, task.uri, "done", "f")

    runner = runner_of(Busy, most=2)
    assert runner.progress().num_pending == 2, "nobody waits for the answers"
    (tmp_path / "answer").touch()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(lambda: list(runner.run([ShardTask(f"{i}.tar", "u", 1) for i in range(8)])))
        wait_until(lambda: runner.progress().counts["samples_read"] >= 2)
        assert len(running.result()) == 8
    runner.close()
    assert runner.progress().gone["samples_read"] == 2


def test_what_workers_have_counted_neither_falls_nor_counts_twice_while_they_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    class Asking(Tally):
        """Has the runner asked by another thread, at the very moment when a worker goes."""

        def __init__(self, counts: Tally):
            super().__init__(counts)
            seen.append(asking.submit(lambda: runner.progress().counts["samples_read"]))
            wait([seen[-1]], timeout=0.5)  # it may have to wait for what is done here

    monkeypatch.setattr(ray, "kill", lambda handle: None)
    runner = RayRunner(make_job())
    counted = WorkerProgress(counts=Tally({"samples_read": 1.0}))
    runner._actors += [on_ray._Actor(None, progress=counted, asked=Future()) for _ in range(2)]
    with ThreadPoolExecutor(2) as asking:
        monkeypatch.setattr(on_ray, "Tally", Asking)
        runner.close()
    assert [one.result() for one in seen] == [2, 2]
    assert runner.progress().gone["samples_read"] == 2


def test_workers_that_do_not_tell_hold_nothing_up(cluster: Cluster) -> None:
    class Mute:
        def __init__(self, job: Job, log_level: int) -> None: ...

        def load(self) -> tuple[str, ...]:
            return ("card",)

        def progress(self) -> WorkerProgress:
            while True:
                time.sleep(60)

        def run(self, task: ShardTask) -> ShardReport:
            return ShardReport(task.name, task.uri, "done", "f")

    runner = runner_of(Mute, most=2)
    reports = runner.run([ShardTask(f"{i}.tar", "u", 1) for i in range(8)])
    for _ in reports:
        assert runner.progress().workers == ()
    runner.close()
