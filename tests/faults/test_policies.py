"""Buckets that are not there, and credentials that may do some things and not others: what is said, what goes on."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

from dr_pipeline.cli import main
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.doctor.examination import Diagnosis, run_check
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Lease, Storage, StorageError
from tests.conftest import make_job
from tests.demo_job import QUICKSTART, Silent, demo_job, make_scenes, small
from tests.faults.policies import PolicedProxy
from tests.faults.proxy import FaultyProxy
from tests.s3_server import s3_server
from tests.verification.datasets import write_dataset

pytestmark = [pytest.mark.s3, pytest.mark.faults]

READERS = ("status", "verify", "inspect", "look")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose bucket `data` has shards below `in` and a dataset below `set`."""
    folder = tmp_path_factory.mktemp("data")
    make_scenes(folder / "in", num_shards=2, samples_per_shard=1)
    write_dataset(folder / "set")
    with s3_server() as url, pytest.MonkeyPatch.context() as environment:
        for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}.items():
            environment.setenv(f"AWS_{name}", value)
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="data")
        for path in filter(Path.is_file, folder.rglob("*")):
            client.upload_file(str(path), "data", str(path.relative_to(folder)))
        yield url


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Calls a verb that fails, and gives what it says on standard error."""

    def call(verb: str, place: str, url: str, output: str = "s3://data/out") -> str:
        if verb in READERS:
            words = [verb, place, "--storage", f"endpoint_url={url}"]
            words += ["--html", str(tmp_path / "page.html")] if verb == "look" else []
        else:
            storage = [f"{side}.storage.endpoint_url={url}" for side in ("input", "output")]
            words = [verb, str(QUICKSTART), *small(place, output), *storage]
        capsys.readouterr()
        assert main(words) == 2
        assert not (tmp_path / "page.html").exists()
        return capsys.readouterr().err.splitlines()[-1]

    return call


def diagnosis(subject: str, url: str, shards: str = "s3://data/in", output: str = "s3://data/out") -> Diagnosis:
    storage = {"endpoint_url": url}
    job = make_job(input={"shards": shards, "storage": storage}, output={"path": output, "storage": storage})
    (found,) = run_check(subject, job)
    return found


@pytest.mark.parametrize("shards", ["in", "{0..3}.tar", "*.tar", "**/*.tar", "list.txt"])
def test_an_input_in_a_bucket_that_is_not_there(shards: str, server: str, said) -> None:
    for verb in ("plan", "run"):
        error = said(verb, f"s3://nobody/{shards}", server)
        assert "there is no bucket nobody: create it, or correct the address" in error
    assert "there is no bucket nobody" in diagnosis("input", server, shards=f"s3://nobody/{shards}").fact


def test_an_output_in_a_bucket_that_is_not_there(server: str, said) -> None:
    for verb in (*READERS, "plan", "run"):
        place = "s3://nobody/set" if verb in READERS else "s3://data/in"
        error = said(verb, place, server, output="s3://nobody/set")
        assert error.startswith("error: s3://nobody/set"), error
        assert "there is no bucket nobody: create it, or correct the address" in error
    assert "there is no bucket nobody" in diagnosis("output", server, output="s3://nobody/set").fact


def test_what_may_not_be_listed_is_named_with_the_right_to_it(server: str, said) -> None:
    with PolicedProxy(server, "list").running() as proxy:
        for verb in ("plan", "run"):
            for shards in ("s3://data/in", "s3://data/in/*.tar", "s3://data/in/{00000..00001}.tar"):
                error = said(verb, shards, proxy.url)
                assert error.startswith("error: s3://data/in")
                assert "cannot be listed: PermissionError: " in error
                assert "give them the right (s3:ListBucket)" in error
        for verb in READERS:
            assert "s3:ListBucket)" in said(verb, "s3://data/set", proxy.url)
        for subject in ("input", "output"):
            found = diagnosis(subject, proxy.url)
            assert (found.state, "s3:ListBucket" in found.fact) == ("fails", True)


def test_what_may_not_be_read_is_named_with_the_right_to_it(server: str, said) -> None:
    with PolicedProxy(server, "read").running() as proxy:
        for verb in (*READERS, "plan", "run"):
            error = said(verb, "s3://data/set" if verb in READERS else "s3://data/in", proxy.url)
            assert "PermissionError" in error
            assert "s3:GetObject" in error
        for subject in ("input", "output"):
            assert "s3:GetObject" in diagnosis(subject, proxy.url).fact
    assert "Contents" not in boto3.client("s3", endpoint_url=server).list_objects_v2(Bucket="data", Prefix="out")


def test_an_output_that_may_not_be_written_is_read_all_the_same(server: str, said, tmp_path: Path) -> None:
    with PolicedProxy(server, "write").running() as proxy:
        error = said("run", "s3://data/in", proxy.url)
        assert error.startswith("error: output.path s3://data/out cannot be written: s3://data/out/run.json cannot be")
        assert "give them the right (s3:PutObject)" in error
        assert "s3:PutObject" in diagnosis("output", proxy.url).fact
        assert diagnosis("input", proxy.url).state == "ok"
        for verb in READERS:
            page = ["--html", str(tmp_path / "page.html")] if verb == "look" else []
            assert main([verb, "s3://data/set", "--storage", f"endpoint_url={proxy.url}", *page]) == 0


def test_a_run_that_may_delete_nothing_has_ended_all_the_same(
    server: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with PolicedProxy(server, "delete").running() as proxy:
        found = diagnosis("output", proxy.url, output="s3://data/kept")
        assert (found.state, "s3:DeleteObject" in found.fact) == ("warning", True)
        storage = [f"{side}.storage.endpoint_url={proxy.url}" for side in ("input", "output")]
        job = demo_job("s3://data/in", "s3://data/kept", *storage)
        for _ in range(2):
            assert run(job, Silent()).num_samples == 2
        assert "s3://data/kept/run.json stays, marked as ended" in caplog.text
        assert main(["status", "s3://data/kept", "--storage", f"endpoint_url={proxy.url}"]) == 0
        assert "finished: 2 of 2 shards" in capsys.readouterr().out
        with Lease("s3://data/kept", "run.json", Storage({"endpoint_url": proxy.url})).held():
            assert main(["status", "s3://data/kept", "--storage", f"endpoint_url={proxy.url}"]) == 0
        assert "running since" in capsys.readouterr().out


def test_a_folder_that_may_not_be_listed_is_not_passed_over(server: str) -> None:
    client = boto3.client("s3", endpoint_url=server)
    for name in ("a/0.tar", "b/0.tar"):
        client.put_object(Bucket="data", Key=f"parts/{name}", Body=b"x")
    with FaultyProxy(server, seed=0, share=0.0).running() as proxy:
        storage = Storage({"endpoint_url": proxy.url})
        assert len(find_shards("s3://data/parts/*/*.tar", storage, "input.shards").sizes) == 2
        proxy.denied = "prefix=parts%2Fb%2F"
        for pattern in ("*/*.tar", "*/0*.tar"):
            with pytest.raises(StorageError, match="cannot be listed: PermissionError"):
                find_shards(f"s3://data/parts/{pattern}", storage, "input.shards")


def test_a_glob_asks_for_no_names_that_begin_otherwise(server: str) -> None:
    client = boto3.client("s3", endpoint_url=server)
    for name in ("a-1/x0.tar", "a-1/x1.tar", "a-1/y0.tar", "a-2/x0.tar", "b-1/x0.tar", "a-1/x/0.tar"):
        client.put_object(Bucket="data", Key=f"many/{name}", Body=b"x")
    with FaultyProxy(server, seed=0, share=0.0).running() as proxy:
        found = Storage({"endpoint_url": proxy.url}).glob("s3://data/many/a-*/x*.tar").sizes
        assert sorted(found) == [f"s3://data/many/{name}" for name in ("a-1/x0.tar", "a-1/x1.tar", "a-2/x0.tar")]
        prefixes = [parse_qs(urlsplit(path).query)["prefix"] for path in proxy.requests.elements()]
        assert prefixes == [["many/a-"], ["many/a-1/x"], ["many/a-2/x"]]
