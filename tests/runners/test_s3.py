"""From S3 to S3 over HTTP: a real server on loopback, credentials from the environment."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from aiobotocore.httpsession import AIOHTTPSession

from dr_pipeline.cli import main
from dr_pipeline.config.job import Input
from dr_pipeline.dataset.paths import RUN
from dr_pipeline.dataset.plan import find_tasks, make_plan
from dr_pipeline.errors import ConfigError
from dr_pipeline.report.trainer_flags import trainer_flags
from dr_pipeline.runners.dry_run import dry_run
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Lease, Storage
from tests.demo_job import Silent, demo_job, digests, make_scenes
from tests.s3_server import s3_server

pytestmark = pytest.mark.s3

CANARY = "canary-secret-9c31"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> "boto3.client":
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    for bucket in ("base", "reinforced"):
        client.create_bucket(Bucket=bucket)
    yield client
    for bucket in ("base", "reinforced"):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=bucket, Key=entry["Key"])


def objects(client: "boto3.client", bucket: str) -> dict[str, bytes]:
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_s3_gives_the_same_bytes_as_a_local_disk(client: "boto3.client", endpoint: str, tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=2, samples_per_shard=3)
    run(demo_job(scenes, tmp_path / "local"), Silent())
    for path in scenes.glob("*.tar"):
        client.upload_file(str(path), "base", f"scenes/{path.name}")
    options = [f"input.storage.endpoint_url={endpoint}", f"output.storage.endpoint_url={endpoint}"]
    job = demo_job("s3://base/scenes/{00000..00001}.tar", "s3://reinforced/demo", *options)
    outcome = run(job, Silent())
    assert outcome.num_samples == 6
    client_objects = objects(client, "reinforced")
    for name, digest in digests(tmp_path / "local").items():
        import hashlib

        assert hashlib.sha256(client_objects[f"demo/{name}"]).hexdigest() == digest
    assert json.loads(client_objects["demo/config.json"])["dr_pipeline"]["num_samples"] == 6
    assert b"| samples | 6 |" in client_objects["demo/README.md"]
    flags = str(trainer_flags("s3://reinforced/demo", Storage(job.output.storage)))
    assert "'pipe:aws s3 cp s3://reinforced/demo/{00000..00001}.tar -'" in flags
    assert not [key for key, data in client_objects.items() if CANARY.encode() in data or b"endpoint" in data]
    again = Silent()
    run(job, again)
    assert again.reports == []
    assert main(["verify", "s3://reinforced/demo", "--storage", f"endpoint_url={endpoint}"]) == 0


def test_globs_and_folders_list_a_bucket(client: "boto3.client", endpoint: str, tmp_path: Path) -> None:
    for name in ("a/0.tar", "a/1.tar", "b/0.tar", "b/readme.txt"):
        client.put_object(Bucket="base", Key=f"all/{name}", Body=b"x")
    storage = Storage({"endpoint_url": endpoint})
    for pattern in ("s3://base/all", "s3://base/all/*/*.tar", "s3://base/all/**/*.tar"):
        shards, tasks = find_tasks(Input(shards=pattern), storage)
        assert shards.root == "s3://base/all"
        assert [task.name for task in tasks] == ["a/0.tar", "a/1.tar", "b/0.tar"]
        assert tasks[0].uri == "s3://base/all/a/0.tar"


def test_names_in_a_bucket_are_taken_as_they_are(client: "boto3.client", endpoint: str) -> None:
    names = ["a[1].TAR", "a{1,2}.tar.gz", "b?.tar", "d[0]/x*.tar"]
    for name in (*names, "a1.tar", "notes.md"):
        client.put_object(Bucket="base", Key=f"odd/{name}", Body=b"x")
    storage = Storage({"endpoint_url": endpoint})
    for name in (*names, "d[0]"):
        _, tasks = find_tasks(Input(shards=f"s3://base/odd/{name}"), storage)
        assert [task.uri.removeprefix("s3://base/odd/") for task in tasks] == [
            name if name != "d[0]" else "d[0]/x*.tar"
        ]
        with storage.open(tasks[0].uri) as stream:
            assert stream.read() == b"x"
    shards, tasks = find_tasks(Input(shards="s3://base/odd"), storage)
    assert [task.name for task in tasks] == ["a1.tar", "a[1].tar", "a{1,2}.tar", "b?.tar", "d[0]/x*.tar"]
    assert [(left_out.count, left_out.first) for left_out in shards.left_out] == [(1, "s3://base/odd/notes.md")]
    with pytest.raises(ConfigError, match=r"no shard found at 2 of 3 entries:\n  s3://base/absent: nothing is there"):
        find_tasks(Input(shards=("s3://base/odd", "s3://base/absent", "s3://base/odd/c.tar")), storage)


def test_an_output_among_the_input_is_refused_in_a_bucket_too(client: "boto3.client", endpoint: str) -> None:
    client.put_object(Bucket="base", Key="all/0.tar", Body=b"x")
    options = [f"input.storage.endpoint_url={endpoint}", f"output.storage.endpoint_url={endpoint}"]
    for shards in ("s3://base/all", "s3://base", "s3://base/**/*.tar"):
        with pytest.raises(ConfigError, match=r"s3://base/all/out lies where input\.shards looks, in s3://base"):
            make_plan(demo_job(shards, "s3://base/all/out", *options))
    assert make_plan(demo_job("s3://base/all/*.tar", "s3://base/all/out", *options)).todo
    elsewhere = [f"input.storage.endpoint_url={endpoint}", f"output.storage.endpoint_url={endpoint}/"]
    assert make_plan(demo_job("s3://base/all", "s3://base/all/out", *elsewhere)).todo


def test_planning_asks_for_listings_and_not_for_shards(
    client: "boto3.client", endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for shard in range(1200):
        client.put_object(Bucket="base", Key=f"all/{shard // 600:02d}/{shard % 600:04d}.tar", Body=b"x")
    requests: list[str] = []
    send = AIOHTTPSession.send

    async def counted(session: AIOHTTPSession, request: Any) -> Any:
        requests.append(f"{request.method} {urlsplit(request.url).path} {'list-type=2' in request.url}")
        return await send(session, request)

    monkeypatch.setattr(AIOHTTPSession, "send", counted)
    for pattern, most in (("all", 2), ("all/{00..01}/{0000..0599}.tar", 2), ("all/*/*.tar", 3)):  # 1,000 to a page
        requests.clear()
        plan = make_plan(demo_job(f"s3://base/{pattern}", tmp_path, f"input.storage.endpoint_url={endpoint}"))
        assert len(plan.todo) == 1200
        questions = [request for request in requests if request.startswith("HEAD")]
        assert len(questions) == (pattern != "all")  # whether there is a shard of that very name
        assert {*requests} - {*questions} == {"GET /base True"}
        assert len(requests) <= most + 2 * len(questions)


def test_of_two_runs_that_begin_at_once_the_store_lets_one(client: "boto3.client", endpoint: str) -> None:
    storage = Storage({"endpoint_url": endpoint})
    storage.create("s3://reinforced/demo/run.json", b"first")
    with pytest.raises(FileExistsError):
        storage.create("s3://reinforced/demo/run.json", b"second")
    assert objects(client, "reinforced") == {"demo/run.json": b"first"}
    client.delete_object(Bucket="reinforced", Key="demo/run.json")
    with Lease("s3://reinforced/demo", "run.json", storage).held(), pytest.raises(FileExistsError):
        storage.create("s3://reinforced/demo/run.json", b"third")
    assert objects(client, "reinforced") == {}


def test_status_reads_a_bucket(client: "boto3.client", endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    place, options = "s3://reinforced/watched", ["--storage", f"endpoint_url={endpoint}"]
    assert main(["status", place, *options]) == 1
    with Lease(place, RUN, Storage({"endpoint_url": endpoint})).held() as lease:
        lease.note({"num_done": 3})
        assert main(["status", place, *options]) == 0
    never, running = capsys.readouterr().out.splitlines()
    assert never == f"{place}: never run: no run has written here"
    assert running.startswith(f"{place}: running since ")


def test_a_calibration_reads_a_bucket_and_leaves_nothing_in_it(
    client: "boto3.client", endpoint: str, tmp_path: Path
) -> None:
    for path in make_scenes(tmp_path / "scenes", num_shards=2, samples_per_shard=4).glob("*.tar"):
        client.upload_file(str(path), "base", f"in/{path.name}")
    before = objects(client, "base")
    options = [f"{side}.storage.endpoint_url={endpoint}" for side in ("input", "output")]
    job = demo_job("s3://base/in", "s3://reinforced/out", *options, "workers.caption_batch=4", "workers.text_batch=4")
    for shard in ("00001.tar", "s3://base/in/00001.tar"):
        found = dry_run(job, shard)
        assert not found.refused
        assert found.calibration is not None
        assert (found.calibration.shard, found.calibration.num_samples) == ("00001.tar", 4 * 4)
    assert objects(client, "reinforced") == {}
    assert objects(client, "base") == before
