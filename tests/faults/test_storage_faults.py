"""Runs from S3 to S3 through a proxy that lets requests go wrong: the same bytes, and no waiting in vain."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from dr_pipeline.runners.run import run
from tests.demo_job import Silent, demo_job, digests, make_scenes
from tests.faults.proxy import FAULTS, FaultyProxy
from tests.s3_server import s3_server

pytestmark = [pytest.mark.s3, pytest.mark.faults]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> "boto3.client":
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "tester")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="work")
    yield client
    for entry in client.list_objects_v2(Bucket="work").get("Contents", []):
        client.delete_object(Bucket="work", Key=entry["Key"])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=4, samples_per_shard=6)


@pytest.fixture(scope="module")
def expected(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("local")
    run(demo_job(scenes, output), Silent())
    return digests(output)


def upload(client: "boto3.client", scenes: Path) -> None:
    for path in scenes.glob("*.tar"):
        client.upload_file(str(path), "work", f"in/{path.name}")


def download(client: "boto3.client", folder: Path) -> Path:
    for entry in client.list_objects_v2(Bucket="work", Prefix="out/")["Contents"]:
        path = folder / entry["Key"].removeprefix("out/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file("work", entry["Key"], str(path))
    return folder


def s3_job(proxy: FaultyProxy, *overrides: str):
    storage = [f"{side}.storage.client_kwargs.endpoint_url={proxy.url}" for side in ("input", "output")]
    return demo_job("s3://work/in", "s3://work/out", *storage, *overrides)


def test_a_fifth_of_all_requests_may_go_wrong(
    server: str, bucket: "boto3.client", scenes: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    upload(bucket, scenes)
    with FaultyProxy(server, seed=0, share=0.2).running() as proxy:
        outcome = run(s3_job(proxy), Silent())
    assert outcome.failed == ()
    assert digests(download(bucket, tmp_path)) == expected
    assert set(proxy.faults) == set(FAULTS)
    assert not bucket.list_objects_v2(Bucket="work", Prefix="out/run.json").get("Contents")


def test_an_outage_is_waited_out(
    server: str, bucket: "boto3.client", scenes: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    upload(bucket, scenes)
    with FaultyProxy(server, seed=1, share=0.0).running() as proxy:
        watching = Silent()
        done = watching.reported

        def go_down_after_the_first(report: object) -> None:
            if not watching.reports:
                proxy.go_down(12.0)
            done(report)

        watching.reported = go_down_after_the_first  # type: ignore[method-assign]
        outcome = run(s3_job(proxy), watching)
    assert proxy.faults["outage"] > 3
    assert outcome.failed == ()
    assert digests(download(bucket, tmp_path)) == expected


@pytest.mark.parametrize("fault", ["reset in mid-body", "truncated body"])
def test_a_shard_whose_body_breaks_off_again_and_again(
    fault: str, server: str, bucket: "boto3.client", scenes: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    upload(bucket, scenes)
    with FaultyProxy(server, seed=2, share=0.0).running() as proxy:
        fates = iter([fault] * 6)
        unfaulty = proxy.fate

        def break_shards(path: str) -> str:
            unfaulty(path)
            return next(fates, "") if ".tar" in path and "/in/" in path else ""

        proxy.fate = break_shards  # type: ignore[method-assign]
        outcome = run(s3_job(proxy), Silent())
        assert next(fates, None) is None, "all of them were met"
    assert outcome.failed == ()
    assert digests(download(bucket, tmp_path)) == expected


def test_what_is_forbidden_or_gone_is_named_at_once(server: str, bucket: "boto3.client", scenes: Path) -> None:
    upload(bucket, scenes)
    with FaultyProxy(server, seed=3, share=0.0).running() as proxy:
        proxy.denied = "in/00001.tar"
        watching = Silent()
        planned = watching.planned

        def delete_one(plan: object) -> None:
            bucket.delete_object(Bucket="work", Key="in/00002.tar")
            planned(plan)

        watching.planned = delete_one  # type: ignore[method-assign]
        outcome = run(s3_job(proxy), watching)
    errors = {report.name: str(report.error) for report in outcome.failed}
    assert set(errors) == {"00001.tar", "00002.tar"}
    assert "PermissionError" in errors["00001.tar"]
    assert "FileNotFoundError" in errors["00002.tar"]
    assert proxy.requests["/work/in/00001.tar"] <= 2
    assert proxy.requests["/work/in/00002.tar"] <= 2
