"""What workers get where the job does not say, and what is refused since no node can ever hold it."""

import logging
from pathlib import Path

import pytest
import torch

from dr_pipeline.config.job import Workers
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.cpus import usable_cpus
from dr_pipeline.runners.local import LocalRunner
from dr_pipeline.runners.resources import Cluster, Node, fit_workers, local_workers
from tests.demo_job import demo_job, make_scenes

LAPTOP, GPU_BOX, HEAD = Node(2, 0), Node(32, 8), Node(0, 0)


@pytest.mark.parametrize(
    ("nodes", "grows", "declared", "gpus", "cpus"),
    [
        ([LAPTOP], False, {}, 0, 2),
        ([Node(64, 0)], False, {}, 0, 8),
        ([GPU_BOX], False, {}, 1, 4),
        ([GPU_BOX], False, {"gpus": 0.5}, 0.5, 2),
        ([GPU_BOX], False, {"gpus": 0}, 0, 8),
        ([GPU_BOX], False, {"gpus": 2, "cpus": 3}, 2, 3),
        ([LAPTOP, GPU_BOX], False, {}, 1, 4),
        ([LAPTOP], False, {"cpus": 1}, 0, 1),
        ([HEAD], True, {}, 1, 8),
        ([], True, {}, 1, 8),
        ([HEAD, GPU_BOX], True, {}, 1, 4),
        ([LAPTOP], True, {"gpus": 0, "cpus": 64, "min": 9}, 0, 64),
    ],
)
def test_what_is_left_open_follows_the_cluster(
    nodes: list[Node], grows: bool, declared: dict[str, float], gpus: float, cpus: int
) -> None:
    settled = fit_workers(Workers.model_validate(declared), Cluster(tuple(nodes), grows))
    assert (settled.gpus, settled.cpus) == (gpus, cpus)


@pytest.mark.parametrize(
    ("nodes", "declared", "advice"),
    [
        ([LAPTOP], {"gpus": 1}, "workers.gpus=0"),
        ([LAPTOP], {"gpus": 1, "cpus": 8}, "workers.gpus=0 workers.cpus=2"),
        ([LAPTOP], {"cpus": 8}, "workers.cpus=2"),
        ([LAPTOP, GPU_BOX], {"gpus": 16}, "workers.gpus=8"),
        ([GPU_BOX], {"min": 9}, "workers.min=8"),
        ([HEAD], {}, "ray start --num-cpus="),
        ([], {}, "ray start --num-cpus="),
    ],
)
def test_what_can_never_be_is_refused_with_what_can(nodes: list[Node], declared: dict[str, float], advice: str) -> None:
    cluster = Cluster(tuple(nodes), grows=False)
    with pytest.raises(ConfigError, match="none will join by itself") as refused:
        fit_workers(Workers.model_validate(declared), cluster)
    assert f"say {advice}" in str(refused.value)
    if not advice.startswith("ray"):
        mended = dict(override.removeprefix("workers.").split("=") for override in advice.split())
        fit_workers(Workers.model_validate({**declared, **mended}), cluster)


def test_one_process_has_no_more_threads_than_it_may_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert local_workers(Workers(cpus=1)).cpus == 1
    assert local_workers(Workers()).cpus == min(8, usable_cpus())
    before = torch.get_num_threads()
    job = demo_job(make_scenes(tmp_path / "in", 1, 1), tmp_path / "out", "workers.cpus=4096")
    with caplog.at_level(logging.WARNING):
        runner = LocalRunner(job)
    try:
        runner.start()
        assert torch.get_num_threads() == usable_cpus()
    finally:
        runner.close()
        torch.set_num_threads(before)
    assert f"workers.cpus=4096, but this process may use {usable_cpus()} cores" in caplog.text
