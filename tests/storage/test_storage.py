"""A file is published whole or not at all, on this machine and elsewhere."""

import copy
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from aiohttp import ClientError
from safetensors.torch import save_file

from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage, StorageError, cache_folder, refuse_ray_working_dir
from dr_pipeline.storage.errors import storage_errors

REMOTE = "memory://storage-test"


@pytest.fixture(params=["local", "remote"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder, here or in a remote file system."""
    if request.param == "local":
        yield str(tmp_path)
        return
    memory = fsspec.filesystem("memory")
    yield REMOTE
    if memory.exists("/storage-test"):
        memory.rm("/storage-test", recursive=True)


def test_write_read_exists(root: str) -> None:
    storage, uri = Storage(), f"{root}/a/b/c.json"
    assert not storage.exists(uri)
    storage.write(uri, b"one")
    storage.write(uri, b"two")
    assert storage.exists(uri)
    assert storage.exists(f"{root}/a")
    assert storage.read(uri) == b"two"
    with storage.open(uri) as stream:
        assert stream.read(2) + stream.read() == b"two"


def test_a_staged_file_is_not_visible_before_its_end(root: str) -> None:
    storage, uri = Storage(), f"{root}/deep/x.tar"
    with storage.staged(uri) as path:
        path.write_bytes(b"half")
        assert not storage.exists(uri)
        assert not [name for name in storage.files(root) if name.endswith(".tar")]
    assert storage.files(root) == {"deep/x.tar": 4}


def test_an_error_leaves_nothing_and_the_old_file_as_it_was(root: str, tmp_path: Path) -> None:
    storage, uri = Storage(), f"{root}/x.tar"

    def fail() -> None:
        with storage.staged(uri) as path:
            path.write_bytes(b"half of the new")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert storage.files(root) == {}
    storage.write(uri, b"old")
    with pytest.raises(RuntimeError):
        fail()
    assert storage.files(root) == {"x.tar": 3}
    assert storage.read(uri) == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in (["x.tar"], [])


def test_listings(root: str) -> None:
    storage = Storage()
    for name in ("a.tar", "d/b.tar", "d/e/c.txt"):
        storage.write(f"{root}/{name}", name.encode())
    assert storage.files(root) == {"a.tar": 5, "d/b.tar": 7, "d/e/c.txt": 9}
    assert storage.files(f"{root}/d") == {"b.tar": 7, "e/c.txt": 9}
    assert storage.siblings(root) == {"a.tar": 5}
    assert storage.siblings(f"{root}/d") == {"b.tar": 7}
    assert storage.glob(f"{root}/*/*.tar").sizes == {f"{root}/d/b.tar": 7}
    assert storage.glob(f"{root}/**/*.t*").sizes == {
        f"{root}/{name}": len(name) for name in ("a.tar", "d/b.tar", "d/e/c.txt")
    }
    assert storage.read(next(iter(storage.glob(f"{root}/a*").sizes))) == b"a.tar"


def test_listings_of_what_is_not_there(root: str) -> None:
    storage = Storage()
    storage.write(f"{root}/file", b"x")
    assert storage.files(f"{root}/file") == {}
    for uri in (f"{root}/absent", f"{root}/file/below"):
        assert storage.files(uri) == {}
        assert storage.siblings(uri) == {}
        assert storage.glob(f"{uri}/*").sizes == {}


def test_links_are_what_they_lead_to_and_what_is_gone_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"four")
    (tmp_path / "b.tar").symlink_to("a.tar")
    (tmp_path / "c.tar").symlink_to("gone.tar")
    (tmp_path / "d.tar").mkdir()
    expected, root = {"a.tar": 4, "b.tar": 4}, str(tmp_path)
    assert Storage().files(root) == Storage().siblings(root) == Storage().shards(root) == expected
    listing = Storage().glob(f"{root}/*.tar")
    assert listing.sizes == {f"{root}/{name}": size for name, size in expected.items()}
    assert listing.others == {f"{root}/c.tar": "links that lead nowhere", f"{root}/d.tar": "empty folders"}
    assert Storage().listing(root).others == {"c.tar": "links that lead nowhere", "d.tar": "empty folders"}


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    for name in ("in/a/0.tar", "in/b/0.tar", "elsewhere/deep/0.tar"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    for name, target in {
        "in/linked": "../elsewhere",
        "in/self": "self",
        "in/up": "..",
        "in/a/to_b": "../b",
        "in/b/to_a": "../a",
        "elsewhere/deep/top": "../../in",
    }.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "in" / "pipe.tar")
    listing = Storage().listing(f"{tmp_path}/in")
    assert sorted(listing.sizes) == [
        "a/0.tar",
        "a/to_b/0.tar",
        "b/0.tar",
        "b/to_a/0.tar",
        "linked/deep/0.tar",
        "up/elsewhere/deep/0.tar",
    ]
    assert listing.others == {
        "self": "links that lead nowhere",
        "pipe.tar": "neither files nor folders",
        "a/to_b/to_a": "folders that a link leads back to",
        "b/to_a/to_b": "folders that a link leads back to",
        "linked/deep/top": "folders that a link leads back to",
        "up/elsewhere/deep/top": "folders that a link leads back to",
        "up/in": "folders that a link leads back to",
    }
    assert sorted(Storage().glob(f"{tmp_path}/in/**/*.tar").sizes) == [
        f"{tmp_path}/in/{name}" for name in sorted(listing.sizes)
    ]
    assert listing.linked[f"{tmp_path}/in/linked"] == f"{tmp_path}/elsewhere"


def test_sweeping_does_not_follow_links(tmp_path: Path) -> None:
    leftover = f".x.tar.{'0' * 32}.tmp"
    for folder in ("out/deep", "mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / leftover).write_bytes(b"x")
    (tmp_path / "out" / "linked").symlink_to(tmp_path / "mine")
    Storage().sweep(f"{tmp_path}/out")
    assert not (tmp_path / "out" / "deep" / leftover).exists()
    assert (tmp_path / "mine" / leftover).exists()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=f"{tmp_path} cannot be listed: Permission denied"):
        Storage().files(str(tmp_path))


def test_every_error_of_a_storage_names_the_uri_and_what_could_not_be_done(root: str, tmp_path: Path) -> None:
    storage = Storage()
    storage.write(f"{root}/file", b"x")
    for uri in (f"{root}/absent", f"{tmp_path}/absent/below"):
        for read in (storage.open, storage.read, lambda uri: storage.read_range(uri, 0, 1), storage.download):
            with pytest.raises(FileNotFoundError, match=f"^{uri} cannot be (read|downloaded)") as caught:
                read(uri)
            assert isinstance(caught.value, StorageError)
            assert copy.copy(caught.value).args == caught.value.args, "so that it passes between processes"
    with pytest.raises(StorageError, match=f"^{tmp_path} cannot be read: Is a directory$") as caught:
        storage.read(str(tmp_path))
    assert caught.value.errno == errno.EISDIR
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"^{tmp_path}/file/deep/below cannot be written: Not a directory"):
        storage.write(f"{tmp_path}/file/deep/below", b"")


def test_an_error_in_the_middle_of_a_local_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^/proc/self/mem cannot be read: OSError") as caught:
        Storage().open("/proc/self/mem").read(1)  # no memory lies at its start
    assert caught.value.errno == errno.EIO


def test_no_error_of_a_storage_shows_a_secret() -> None:
    with pytest.raises(StorageError) as caught, storage_errors("https://u:CANARY@h/a?sig=CANARY", "read"):
        raise ClientError("GET https://h/a?X-Amz-Signature=CANARY failed")
    assert "CANARY" not in str(caught.value)
    assert str(caught.value).startswith("https://u:***@h/a?sig=*** cannot be read: ClientError: GET")


def test_a_file_that_another_process_adds_is_seen(root: str) -> None:
    storage = Storage()
    storage.write(f"{root}/a.tar", b"a")
    assert list(storage.files(root)) == ["a.tar"]
    Storage().write(f"{root}/b.tar", b"b")
    assert sorted(storage.files(root)) == sorted(storage.siblings(root)) == ["a.tar", "b.tar"]
    assert storage.exists(f"{root}/b.tar")


def test_delete_folder(root: str) -> None:
    storage = Storage()
    storage.write(f"{root}/reports/x/y.json", b"{}")
    storage.write(f"{root}/reports.txt", b"stays")
    storage.delete_folder(f"{root}/reports")
    storage.delete_folder(f"{root}/never")
    assert list(storage.files(root)) == ["reports.txt"]


def test_local_paths_are_made_absolute_and_others_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage()
    assert storage.absolute("in/{00..03}.tar") == f"{tmp_path}/in/{{00..03}}.tar"
    assert storage.absolute("in/") == f"{tmp_path}/in"
    assert storage.absolute(f"file://{tmp_path}/in") == f"{tmp_path}/in"
    assert storage.absolute("memory://bucket/in/") == "memory://bucket/in"
    storage.write("in/a.tar", b"x")
    assert storage.glob("in/*.tar").sizes == {f"{tmp_path}/in/a.tar": 1}


def test_a_finished_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((number, (tmp_path / "x").exists())))
    Storage().write(str(tmp_path / "x"), b"x")
    assert [existed for _, existed in synced] == [False]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_is_as_readable_as_the_umask_has_it_whatever_its_writer_does(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with Storage().staged(str(tmp_path / "weights.safetensors")) as path:
            save_file({"weight": torch.zeros(2)}, path)
        Storage().write(str(tmp_path / "config.json"), b"{}")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"weights.safetensors": 0o666 & ~umask, "config.json": 0o666 & ~umask}


def test_an_unknown_protocol_is_a_config_error_without_the_options() -> None:
    with pytest.raises(ConfigError, match="cannot open nosuch://bucket/x") as caught:
        Storage({"secret": "CANARY-f00d"}).exists("nosuch://bucket/x")
    assert "CANARY" not in str(caught.value)


def test_options_reach_the_file_system() -> None:
    assert Storage({"anon": True, "endpoint_url": "http://127.0.0.1:9"}).absolute("s3://b/k/") == "s3://b/k"
    assert (
        Storage({"endpoint_url": "http://127.0.0.1:9"})._at("s3://b/k").filesystem.endpoint_url == "http://127.0.0.1:9"
    )


def test_part_of_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    for uri in (str(tmp_path / "f"), f"file://{tmp_path}/f"):
        assert Storage().read_range(uri, 2, 5) == b"234"
        assert Storage().read_range(uri, 8, 20) == b"89"


def test_a_place_in_rays_copy_of_a_working_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1f2e"
    copy.mkdir(parents=True)
    (tmp_path / "link").symlink_to(copy)
    monkeypatch.chdir(copy)
    for path in ("out", "deep/out", str(copy / "out"), str(tmp_path / "link" / "out")):
        with pytest.raises(ConfigError, match=r"output\.path: .*out lies in the copy .* give an absolute path"):
            refuse_ray_working_dir(path, "output.path")
    for path in (str(tmp_path / "out"), "../../../out", "s3://bucket/runtime_resources/working_dir_files/x/out"):
        refuse_ray_working_dir(path, "output.path")


def test_the_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DR_PIPELINE_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache/dr_pipeline"
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
