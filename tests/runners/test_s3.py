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
from dr_pipeline.report.trainer_flags import trainer_flags
from dr_pipeline.runners.run import run
from dr_pipeline.shards.plan import make_plan
from dr_pipeline.shards.storage import Storage
from tests.demo_job import QUICKSTART, Silent, demo_job, digests, make_scenes, small
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
    from dr_pipeline.config import Input
    from dr_pipeline.shards.plan import find_shards
    from dr_pipeline.shards.storage import Storage

    for name in ("a/0.tar", "a/1.tar", "b/0.tar", "b/readme.txt"):
        client.put_object(Bucket="base", Key=f"all/{name}", Body=b"x")
    storage = Storage({"endpoint_url": endpoint})
    for pattern in ("s3://base/all", "s3://base/all/*/*.tar", "s3://base/all/**/*.tar"):
        root, tasks = find_shards(Input(shards=pattern), storage)
        assert root == "s3://base/all"
        assert [task.name for task in tasks] == ["a/0.tar", "a/1.tar", "b/0.tar"]
        assert tasks[0].uri == "s3://base/all/a/0.tar"


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
        assert set(requests) == {"GET /base True"}
        assert len(requests) <= most


def test_a_missing_bucket_and_a_wrong_endpoint_are_said_at_once(
    client: "boto3.client", endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = [f"input.storage.endpoint_url={endpoint}"]
    assert main(["run", str(QUICKSTART), *small("s3://nobody/{0..3}.tar", tmp_path / "out"), *options]) == 2
    assert "s3://nobody/0.tar" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
