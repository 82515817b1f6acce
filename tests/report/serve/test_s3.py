"""A dataset in a bucket is looked at as one on a disk is, and so is one tar."""

import io
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from PIL import Image

from dr_pipeline.cli import main
from tests.s3_server import s3_server
from tests.served import served
from tests.verification.datasets import write_dataset

pytestmark = pytest.mark.s3

CANARY = "canary-secret-5e77"


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with a dataset in the bucket `data`; credentials come from the environment."""
    for name, value in {"ACCESS_KEY_ID": "tester", "SECRET_ACCESS_KEY": CANARY, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    write_dataset(tmp_path / "set", num_shards=5)
    with s3_server() as url:
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="data")
        for path in (tmp_path / "set").rglob("*.*"):
            client.upload_file(str(path), "data", f"a/{path.relative_to(tmp_path)}")
        yield url


def test_a_bucket_is_served(endpoint: str) -> None:
    with served("s3://data/a/set", "--storage", f"endpoint_url={endpoint}") as server:
        page = server.ask("")
        assert b"s3://data/a/set" in page.body
        keys = [card["key"] for card in server.page()[0]]
        assert keys == [f"s{shard}_{index}" for shard in range(4) for index in range(3)][:10]
        assert len(server.page("3.1")[0]) == 5
        (card,) = server.ask("sample", key="s4_2").json["samples"]
        (found,) = server.ask("samples", words="s4_2 cube").json["samples"]
        assert found == card
        for source, size in ((card["image"]["src"], (40, 30)), (card["strip"], (4 * 24, 24))):
            assert Image.open(io.BytesIO(server.ask(source[1:]).body)).size == size
        assert server.ask("ranking", by="similarity").json == {"samples": [], "next": None, "problems": []}
        assert server.ask("samples", shard="00/3.tar", most=1).json["samples"][0]["key"] == "s3_0"
        assert CANARY.encode() not in page.body


def test_one_tar_of_a_bucket_is_inspected(endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = ("--storage", f"endpoint_url={endpoint}")
    sheet = tmp_path / "sheet.png"
    assert main(["inspect", "s3://data/a/set/00/3.tar", "--key", "s3_1", "--views", str(sheet), *storage]) == 0
    assert "s3_1 lies in 00/3.tar, by the manifest\ns3_1: 4 views, embeddings of 8 dims" in capsys.readouterr().out
    assert Image.open(sheet).format == "PNG"
