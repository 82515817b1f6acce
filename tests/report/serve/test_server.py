"""The server answers its user alone, tells all of a dataset, and ends at an interrupt."""

import asyncio
import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import pytest
from PIL import Image

from dr_pipeline.cli import main
from dr_pipeline.dataset.key_search import Place
from dr_pipeline.errors import ConfigError
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look.cards import make_card
from dr_pipeline.report.look.look import served_page
from dr_pipeline.report.serve.server import DatasetServer, _serve
from dr_pipeline.report.serve.shelf import Shelf
from dr_pipeline.report.serve.walk import Walker
from dr_pipeline.storage import Storage
from tests.served import Server, get, served
from tests.verification.datasets import replaced, write_dataset
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of three samples; one sample is damaged, and a secret lies beside them."""
    folder = tmp_path_factory.mktemp("served")
    write_dataset(folder / "data", replaced("jpg", lambda data: data[:200]), num_shards=5)
    (folder / "secret.txt").write_text("SECRET")
    (folder / "data" / "secret.tar.txt").write_text("SECRET")
    return folder / "data"


@pytest.fixture(scope="module")
def server(dataset: Path) -> Iterator[Server]:
    with served(str(dataset)) as running:
        yield running


PATHS = ("", "samples", "sample?key=s0_0", "ranking?by=similarity", "shards", "image/0/0", "views/0/0")


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_answered(path: str, server: Server) -> None:
    name, _, token = server.cookie.partition("=")
    wrong = ("", f"{name}=", f"{name}={token[:-1]}", f"{name}={token[:-1]}é", f"other={token}", token)
    for cookie in wrong:
        refused = get(f"{server.origin}/{path}", **({"Cookie": cookie} if cookie else {}))
        assert refused.status == 403
        assert token.encode() not in refused.body
        assert "default-src 'none'" in refused.headers["Content-Security-Policy"]
    assert get(f"{server.origin}/{path}", Cookie=server.cookie).status == 200


@pytest.mark.parametrize("token", ["", "wrong", "%00", "../enter", "é"])
def test_a_wrong_token_gives_no_cookie(token: str, server: Server) -> None:
    from urllib.parse import quote

    refused = get(f"{server.origin}/enter/{quote(token, safe='%')}")
    assert refused.status in (403, 404)
    assert "Set-Cookie" not in refused.headers


def test_a_foreign_host_is_refused(server: Server) -> None:
    port = server.origin.rpartition(":")[2]
    for host in (
        "example.com",
        f"example.com:{port}",
        f"127.0.0.1.example.com:{port}",
        "127.0.0.1",
        f"127.0.0.1:{port}.x",
    ):
        assert get(f"{server.origin}/samples", Cookie=server.cookie, Host=host).status == 403
        assert get(server.address, Host=host).status == 403
    assert get(f"{server.origin}/samples", Cookie=server.cookie, Host=f"localhost:{port}").status == 200


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    for site in ("cross-site", "same-site"):
        refused = get(
            f"{server.origin}/samples", Cookie=server.cookie, **{"Sec-Fetch-Site": site, "Origin": "http://x"}
        )
        assert refused.status == 403
        assert not [name for name in refused.headers if name.lower().startswith("access-control")]
    assert get(server.address, **{"Sec-Fetch-Site": "cross-site"}).status == 200  # a click in a terminal's page


def test_answers_restrict_what_a_browser_does_with_them(server: Server) -> None:
    page, entrance, data = server.ask(""), get(server.address), server.ask("samples")
    for answer in (page, entrance, data, server.ask("nowhere")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert {"HttpOnly", "SameSite=Strict"} <= {part.strip() for part in entrance.headers["Set-Cookie"].split(";")}
    token = server.address.rpartition("/")[2].encode()
    assert token not in page.body + data.body


def test_it_listens_on_loopback_alone(server: Server) -> None:
    port = int(server.origin.rpartition(":")[2])
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}
    for address in [other for other in others if not str(other).startswith("127.")]:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((str(address), port), timeout=5)


@pytest.mark.parametrize(
    "path",
    [
        "image/0/../../../secret.txt",
        "image/..%2f..%2fsecret.txt/0",
        "%2e%2e/secret.txt",
        "../secret.txt",
        "/etc/passwd",
        "samples?shard=../secret.txt",
        "samples?shard=secret.tar.txt",
        "sample?key=x&shard=%2fetc%2fpasswd",
        "samples?at=../../secret.txt",
        "samples?at=99999.0",
        "samples?at=" + "9" * 5000 + ".1",
        "image/99999/0",
        "image/0/99999",
        "view/0/0/99999",
        "image/-1/0",
        "ranking?by=" + "x" * 5000,
        "ranking?first=99999&by=similarity",
        "samples?words=%00%ff%fe&of=%0d%0aSet-Cookie:x=y",
    ],
    ids=lambda path: path[:30],
)
def test_no_request_reaches_a_file_or_breaks_the_server(path: str, server: Server) -> None:
    answer = get(f"{server.origin}/{path}", Cookie=server.cookie)
    assert answer.status in (200, 400, 404)
    assert b"SECRET" not in answer.body
    assert b"root:" not in answer.body
    assert b"Traceback" not in answer.body


def test_other_methods_are_refused(server: Server) -> None:
    from urllib.request import Request, urlopen

    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        request = Request(f"{server.origin}/samples", method=method, headers={"Cookie": server.cookie})
        with pytest.raises(OSError, match="405"):
            urlopen(request)


def test_samples_come_page_by_page(server: Server) -> None:
    samples, after = server.page()
    assert [card["key"] for card in samples][:4] == ["s0_0", "s0_1", "s0_2", "s1_0"]
    assert after == [3, 1]
    samples, after = server.page("3.1")
    assert [card["key"] for card in samples] == ["s3_1", "s3_2", "s4_0", "s4_1", "s4_2"]
    assert after is None
    assert [card["key"] for card in server.ask("samples", shard="00/2.tar", most=2).json["samples"]] == ["s2_0", "s2_1"]
    assert [card["key"] for card in server.ask("samples", words="S4_ alt-text", of="text").json["samples"]] == [
        f"s4_{index}" for index in range(3)
    ]


def test_a_sample_is_found_by_its_key(server: Server) -> None:
    found = server.ask("sample", key="s3_2").json
    assert ([card["shard"] for card in found["samples"]], found["by_manifest"]) == (["00/3.tar"], True)
    assert "no sample 's3_9'; keys are such as" in server.ask("sample", key="s3_9").json["problem"]
    assert "no shard 00/9.tar; did you mean" in server.ask("samples", shard="00/9.tar").json["problem"]


def test_names_of_shards_are_suggested(server: Server) -> None:
    assert server.ask("shards", like="/3").json["shards"] == ["00/3.tar"]
    assert len(server.ask("shards").json["shards"]) == 5


def test_pictures_are_those_of_the_sample(server: Server) -> None:
    (card,) = server.ask("sample", key="s2_1").json["samples"]
    assert (card["image"]["src"], card["image"]["width"]) == ("/image/2/1", 40)
    image = server.ask("image/2/1")
    assert image.headers["Content-Type"] == "image/webp"
    assert Image.open(io.BytesIO(image.body)).size == (40, 30)
    assert card["strip"] == "/views/2/1"
    assert Image.open(io.BytesIO(server.ask("views/2/1").body)).size == (4 * 24, 24)
    assert server.ask("view/2/1").status == 404


def test_a_damaged_image_is_a_picture_of_the_reason(server: Server) -> None:
    (card,) = server.ask("sample", key="s1_1").json["samples"]
    for source in [*([card["image"]["src"]] if card["image"] else []), "/image/1/1", "/views/1/1", "/image/0/9"]:
        answer = server.ask(source.removeprefix("/"))
        assert answer.status == 200
        assert Image.open(io.BytesIO(answer.body)).width > 300


def test_what_is_asked_wrongly_is_told(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, told in {
            ("--serve", "--html", "x.html"): "--html writes the page to a file, and --serve gives it out",
            ("--port", "8000"): "--port is the server's: add --serve",
            ("--serve", "--port", port): f"port {port} cannot be had",
            ("--serve", "--port", "70000"): "70000",
        }.items():
            assert main(["look", str(dataset), *words]) == 2
            assert told in capsys.readouterr().err
    assert main(["look", str(tmp_path), "--serve"]) == 2
    assert "no shard here" in capsys.readouterr().err


def test_a_sample_whose_members_are_damaged_is_shown_with_its_image(tmp_path: Path) -> None:
    write_dataset(tmp_path, replaced("pth.gz", lambda data: b"no archive"))
    reader = DatasetReader(str(tmp_path), Storage())
    shown = [*reader.read("00/1.tar")][1]
    for card in (Shelf(reader, Walker(reader)).card(shown), make_card(shown, reader)):
        assert str(card["problem"]).startswith("unreadable embeddings")
        assert card["image"]["width"] == 40
        assert card["views"] == []


def test_of_what_is_no_http_nothing_is_logged(dataset: Path) -> None:
    with served(str(dataset)) as quiet:  # which sees that nothing but its end is told
        port = int(quiet.origin.rpartition(":")[2])
        for line in (f"Cookie: {quiet.cookie}\0", "Host: a\r\nHost: b", "X: " + "a" * 100_000):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(f"GET / HTTP/1.1\r\n{line}\r\n\r\n".encode())
                assert b" 400 " in client.recv(100)


def test_the_search_for_a_key_ends_with_whoever_asked_for_it(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = Event(), Event()

    def search(storage: Storage, root: str, shards: list[str], key: str, is_given_up: Callable[[], bool]) -> Place:
        begun.set()
        wait_until(is_given_up)
        ended.set()
        raise ConfigError("given up")

    async def ask_and_leave(address: str) -> None:
        parts = urlsplit(address)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        cookie = next(line for line in head.splitlines() if line.startswith("Set-Cookie: ")).split()[1]
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"GET /sample?key=x HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookie}\r\n\r\n".encode())
        await asyncio.to_thread(begun.wait, 60)
        writer.close()
        await asyncio.to_thread(ended.wait, 60)

    async def serve_once() -> None:
        address = asyncio.get_running_loop().create_future()
        listening = socket.create_server(("127.0.0.1", 0))
        reader = DatasetReader(str(dataset), Storage())
        serving = asyncio.create_task(
            _serve(DatasetServer(reader, served_page(reader, None)), listening, address.set_result)
        )
        await ask_and_leave(await address)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    monkeypatch.setattr("dr_pipeline.report.dataset_reader.find_key", search)
    asyncio.run(serve_once())
    assert ended.is_set()


def test_a_search_that_is_given_up_reads_no_further_shard(dataset: Path) -> None:
    asked: list[int] = []
    reader = DatasetReader(str(dataset), Storage())
    with pytest.raises(ConfigError, match="the search for 'x' was given up after 2 shards"):
        reader.find("x", reader.shards, lambda: bool(asked.append(1)) or len(asked) == 2)
