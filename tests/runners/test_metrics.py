"""What a real Prometheus has of a real cluster that runs a job: every panel of Grafana's dashboard shows something."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from dr_pipeline.runners.metrics import COUNTERS, GROUPS
from tests.chat_server import chat_server
from tests.conftest import make_sample_members, write_tar
from tests.demo_job import QUICKSTART, REPOSITORY, make_scenes, small
from tests.faults.kills import PLAIN_MODELS
from tests.ports import free_port
from tests.ray_head import RayHead, ray_head
from tests.waiting import wait_until

DASHBOARD = REPOSITORY / "docker" / "grafana" / "dr_pipeline.json"
PANELS = {panel["title"]: panel for panel in json.loads(DASHBOARD.read_text())["panels"]}
QUERIES = {
    f"{title}: {target['legendFormat']}": target["expr"]
    for title, panel in PANELS.items()
    for target in panel["targets"]
}
ENDPOINT = {
    "use": "dr_pipeline.models.endpoint:EndpointCaptioner",
    "options": {"model": "m"},
    "num_captions": 1,
    "tag": "asked",
    "prompt": "What?",
    "prices": {"prompt": 10, "completion": 10},
}


@contextmanager
def prometheus(head: RayHead, folder: Path) -> Iterator[str]:
    """A server that scrapes the nodes that Ray lists; its URL."""
    config = (REPOSITORY / "docker" / "grafana" / "prometheus.yaml").read_text()
    config = config.replace("/tmp/ray/", f"{head.folder}/").replace("15s", "1s")
    (folder / "prometheus.yaml").write_text(config)
    port = free_port()
    words = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(["prometheus", *words])
    try:
        yield f"http://127.0.0.1:{port}/api/v1/query"
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def run_in_work(head: RayHead, folder: Path, endpoint: str) -> Iterator[None]:
    """A job whose workers read, skip, caption, ask and embed, of more shards than are needed; one of them fails."""
    make_scenes(folder / "in", num_shards=60, samples_per_shard=12)
    (folder / "in" / "0-torn.tar").write_bytes(b"")
    members = [member for index in range(6) for member in make_sample_members(f"a{index}", seed=index)]
    write_tar(folder / "in" / "0-some.tar", [*members, ("bad.jpg", b"no image"), ("bad.txt", b"a text")])
    (folder / "plain_models.py").write_text(PLAIN_MODELS)
    card = {**ENDPOINT, "connection": {"base_url": endpoint, "max_in_flight": 4}}
    models = ["teachers=[{use: 'plain_models:Teacher'}]", f"plugin_dirs=[{folder}]"]
    models += [f"captioners=[{{use: 'plain_models:Captioner', num_captions: 2}}, {card}]"]
    words = [word for word in small(folder / "in", folder / "out") if "captioners" not in word]
    command = [sys.executable, "-m", "dr_pipeline", "run", str(QUICKSTART), *words, *models]
    command += ["workers={engine: ray, max: 1, cpus: 1, gpus: 0, view_batch: 6}"]
    process = subprocess.Popen(command, env={**head.environment, "RAY_ADDRESS": head.address}, cwd=REPOSITORY)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def answer(server: str, expression: str) -> list[dict[str, Any]]:
    """What the server finds for a panel's query."""
    for variable, value in {"$__rate_interval": "1m", "$__range": "10m", "$job": ".*"}.items():
        expression = expression.replace(variable, value)
    with urlopen(f"{server}?query={quote(expression)}") as response:
        return json.loads(response.read())["data"]["result"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs a prometheus")
def test_every_panel_has_data(tmp_path: Path) -> None:
    with ExitStack() as running:
        chat = running.enter_context(chat_server())
        head = running.enter_context(ray_head(tmp_path, RAY_metrics_report_interval_ms="500"))
        server = running.enter_context(prometheus(head, tmp_path))
        running.enter_context(run_in_work(head, tmp_path, chat.base_url))
        for title, expression in QUERIES.items():
            wait_until(lambda: found(title, server, expression))  # noqa: B023
        (busy,) = answer(server, PANELS["Device busy"]["targets"][0]["expr"])
        assert 0 < float(busy["value"][1]) <= 1.01
        skipped = answer(server, PANELS["Samples skipped"]["targets"][0]["expr"])
        assert {series["metric"]["reason"] for series in skipped} == {"corrupt image"}


def found(title: str, server: str, expression: str) -> bool:
    """Whether a query has an answer that is a number, with the tags of its legend."""
    tags = re.findall(r"{{(\w+)}}", title)
    series = answer(server, expression)
    return bool(series) and all(set(tags) <= one["metric"].keys() and one["value"][1] != "NaN" for one in series)


def test_the_dashboard_shows_and_the_docs_list_every_metric() -> None:
    names = {metric for metric, *_ in (*COUNTERS.values(), *GROUPS.values())}
    names |= {"dr_pipeline_shards_done_total", "dr_pipeline_shards_failed_total", "dr_pipeline_shards_left"}
    shown = {name.removeprefix("ray_") for name in re.findall(r"ray_dr_pipeline_\w+", " ".join(QUERIES.values()))}
    assert shown == {*names, "dr_pipeline_workers"}
    listed = re.findall(r"^\| `ray_(dr_pipeline_\w+)`", (REPOSITORY / "docs" / "watching.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(shown)
