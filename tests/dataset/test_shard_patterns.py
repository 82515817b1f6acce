"""What an input pattern names: braces, globs, folders, lists, links, and what is refused or left out."""

import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dr_pipeline.config.job import Input
from dr_pipeline.dataset.plan import find_tasks, make_plan
from dr_pipeline.dataset.shard_patterns import expand_braces, find_shards
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from tests.conftest import make_job
from tests.dataset.finding import found, refusal
from tests.web import Handler, served

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{00..02}.tar", ["00.tar", "01.tar", "02.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{00000998..00001001}", ["00000998", "00000999", "00001000", "00001001"]),
        ("a{x,yy,}b", ["axb", "ayyb", "ab"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("{5..5}", ["5"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    ("shards", "names"),
    [
        ("in/00/{000..001}.tar", ["000.tar", "001.tar"]),
        ("in/{00,01}/000.tar", ["00/000.tar", "01/000.tar"]),
        ("in/*/000.tar", ["00/000.tar", "01/000.tar"]),
        ("in/*.tar", ["010.tar", "9.tar"]),
        ("in/0?0.tar", ["010.tar"]),
        ("in/[0-8]*/*.tar", ["00/000.tar", "00/001.tar", "01/000.tar"]),
        ("in", ["00/000.tar", "00/001.tar", "01/000.tar", "010.tar", "9.tar"]),
        ("in/", ["00/000.tar", "00/001.tar", "01/000.tar", "010.tar", "9.tar"]),
        ("in/00/001.tar", ["001.tar"]),
        (("in/00", "in/01"), ["00/000.tar", "00/001.tar", "01/000.tar"]),
        (("in/00/000.tar", "in/01/000.tar", "in/00/000.tar"), ["00/000.tar", "01/000.tar"]),
        (("in/00/*.tar", "in/{9..9}.tar"), ["00/000.tar", "00/001.tar", "9.tar"]),
        (("in/9.tar", "in/010.tar"), ["010.tar", "9.tar"]),
    ],
)
def test_every_form_of_a_pattern(shards: str | tuple[str, ...], names: list[str], folder: Path) -> None:
    sizes = found(shards)
    assert list(sizes) == names
    assert all(sizes.values())
    for task in find_tasks(Input(shards=shards), Storage())[1]:
        assert Path(task.uri).is_absolute()
        assert task.size_bytes == Path(task.uri).stat().st_size
        assert task.uri.endswith("/" + task.name)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("shards", ["in", "in/01/*.tar", "in/**/*.tar", "in/*/*"])
def test_hidden_shards_and_those_in_hidden_folders_are_left_out(shards: str, remote: bool, folder: Path) -> None:
    root = "memory://plan-hidden" if remote else str(folder)
    for name in ("in/01/0.tar", "in/01/.hidden.tar", "in/01/.ipynb_checkpoints/0-checkpoint.tar", "in/.trash/1.tar"):
        Storage().write(f"{root}/{name}", b"x")
    assert "0.tar" in [name.rpartition("/")[2] for name in found(f"{root}/{shards}")]
    assert not [
        name for name in found(f"{root}/{shards}") if {"hidden", "0-checkpoint", "1"} & set(re.split(r"[./]", name))
    ]
    assert found(f"{root}/in/.trash") == found(f"{root}/in/.t*/*.tar", root=f"{root}/in/.trash") == {"1.tar": 1}
    assert "trash/1.tar" in found((f"{root}/in/.trash/1.tar", f"{root}/in/01"))  # not hidden from who reads the output


def test_a_file_lists_the_shards() -> None:
    Path("in/with space").mkdir()
    Path("in/with space/x.tar").write_bytes(b"x")
    Path("list.txt").write_text("in/00/000.tar\n\n  in/01/{000..000}.tar \r\nin/with space/x.tar\n")
    assert list(found("list.txt")) == ["00/000.tar", "01/000.tar", "with space/x.tar"]


@pytest.mark.parametrize(
    ("shards", "folders"),
    [
        ("in/{00,01}/{000..999}.tar", ["in/00", "in/01"]),
        (("in/00/000.tar", "in/01/000.tar", "in/00/001.tar") * 300, ["in/00", "in/01"]),
        ("in", ["in"]),
        ("in/*/*.tar", ["in/*/*.tar"]),
    ],
)
def test_a_folder_is_listed_once_however_many_shards_it_has(
    shards: str | tuple[str, ...], folders: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    for method in ("siblings", "listing", "glob"):
        listing = getattr(Storage, method)
        monkeypatch.setattr(
            Storage,
            method,
            lambda storage, uri, listing=listing: listed.append(uri) or listing(storage, uri),
        )
    assert found(shards)
    assert listed == [f"{folder}/{name}" for name in folders]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_list_that_cannot_be_read_is_named(content: bytes | None) -> None:
    if content:
        Path("list.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"input\.shards: list\.txt cannot be read as a list of shards"):
        found("list.txt")


@pytest.mark.parametrize(
    ("shards", "why"),
    [
        ("in/02/{07..09}.tar", "none of the 3 files that it names is there, the first being in/02/07.tar"),
        ("in/{5..3}.tar", "nothing is there"),
        ("nowhere/*.tar", "nothing is there"),
        ("nowhere", "nothing is there"),
        ("nowhere/x.tar", "nothing is there"),
        ("none", "what is there is left out, 1: empty folders; the first is none/deep"),
        (
            "images",
            "what is there is left out, 1: an image, no tar: `tar --sort=name -cf 00000.tar FOLDER` packs KEY.jpg and "
            "KEY.txt, side by side; the first is images/0.jpg",
        ),
        ("in/*", "what is there is left out, 2: folders, where the pattern asks for files; the first is in/00"),
    ],
)
def test_a_pattern_that_names_nothing_is_named_with_what_is_there(shards: str, why: str) -> None:
    Path("none/deep").mkdir(parents=True)
    Path("images").mkdir()
    Path("images/0.jpg").write_bytes(b"an image")
    for shard in ("in/010.tar", "in/9.tar"):
        Path(shard).rename(f"in/00/{Path(shard).name}")
    assert refusal(shards) == f"input.shards: no shard found at {shards}: {why}"


@pytest.mark.parametrize(
    ("shards", "lost"),
    [
        (("in/00", "part2"), ["part2: nothing is there"]),
        (("in/00/000.tar", "in/00/9.tar", "in/7.tar"), ["in/00/9.tar: nothing is there", "in/7.tar: nothing is there"]),
        (("in/00/*.tar", "in/00/x*.tar"), ["in/00/x*.tar: nothing is there"]),
        ("in/{00,03}/*.tar", ["in/03/*.tar of in/{00,03}/*.tar: nothing is there"]),
        ("in/{00,03}", ["in/03 of in/{00,03}: nothing is there"]),
        (("in/00", "texts"), ["texts: what is there is left out, 2: not named .tar"]),
        (("in/00", "texts/*"), ["texts/*: what is there is left out, 2: not named .tar"]),
        ("list.txt", ["in/01/9.tar (line 4 of list.txt): nothing is there", "in/02 (line 6 of list.txt): nothing is"]),
        (("in/00", "list.txt"), ["in/01/9.tar (line 4 of list.txt): nothing is there", "in/02 (line 6 of list.txt)"]),
    ],
)  # fmt: skip
def test_every_entry_that_names_nothing_is_an_error_that_names_it(
    shards: str | tuple[str, ...], lost: list[str]
) -> None:
    Path("texts").mkdir()
    for name in ("1", "2"):
        Path("texts", name).write_text("no tar")
    Path("list.txt").write_text(
        "# all\n\nin/00/000.tar\nin/01/9.tar\nin/01/000.tar # one\nin/02#\n".replace("02#", "02 #")
    )
    message = refusal(shards)
    head, *lines = message.splitlines()
    assert head.startswith(f"input.shards: no shard found at {len(lost)} of ")
    assert len(lines) == len(lost)
    for line, expected in zip(lines, lost, strict=True):
        assert expected in line


def test_many_entries_that_name_nothing_are_counted() -> None:
    message = refusal(("in/00", *(f"absent/{number}" for number in range(40))))
    assert message.startswith("input.shards: no shard found at 40 of 41 entries:\n  absent/0: nothing is there\n")
    assert message.endswith("\n  and 35 more")


def test_comments_and_blank_lines_of_a_list_are_no_shards() -> None:
    Path("in/00/a#b.tar").write_bytes(b"x")
    Path("list.txt").write_bytes(
        b"\xef\xbb\xbf# shards\n  # more\nin/00/000.tar  # checked\nin/00/a#b.tar\n\tin/01\t#\n\n"
    )
    assert list(found("list.txt")) == ["00/000.tar", "00/a#b.tar", "01/000.tar"]
    assert list(found(("list.txt", "in/9.tar"))) == ["00/000.tar", "00/a#b.tar", "01/000.tar", "9.tar"]


def test_an_empty_list_is_refused() -> None:
    Path("list.txt").write_text("\n# none\n")
    for shards in ("list.txt", (), ("in", "list.txt")):
        with pytest.raises(ConfigError, match=r"no shard found: .*an empty list"):
            found(shards)


ENDINGS = {"a.TAR": "a.tar", "b.tar.gz": "b.tar", "c.tgz": "c.tar", "d.Tar.GZ": "d.tar", "e.tar": "e.tar"}


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("shards", ["all", "all/*", "all/*.[tT]*", "all/{a.TAR,b.tar.gz,c.tgz,d.Tar.GZ,e.tar}", "list"])
def test_capitals_and_gzip_in_a_name_are_a_shard_s(shards: str, remote: bool, folder: Path) -> None:
    root = "memory://plan-endings" if remote else str(folder)
    for name in (*ENDINGS, "f.tar.zst", "g.parquet", ".h.tar"):
        Storage().write(f"{root}/all/{name}", b"x")
    each = tuple(f"{root}/all/{name}" for name in ENDINGS)
    plan = make_plan(make_job(input={"shards": each if shards == "list" else f"{root}/{shards}"}))
    assert {task.uri.rpartition("/")[2]: task.name for task in plan.todo} == ENDINGS
    for name, written in ENDINGS.items():
        assert found(f"{root}/all/{name}") == {written: 1}


def test_a_file_that_is_named_exactly_is_taken_whatever_its_name() -> None:
    for name in ("in/part-0001", "in/9.tar.gz.part", "in/shard.wds", "in/.hidden"):
        Path(name).write_bytes(b"x")
        assert found(name) == {f"{Path(name).name.removeprefix('.')}.tar": 1}
    assert found(("in/part-0001", "in/01")) == {"01/000.tar": 10, "part-0001.tar": 1}
    assert found("in/{part-0001,shard.wds}") == {"part-0001.tar": 1, "shard.wds.tar": 1}


ODD = ["a[1].tar", "a{1,2}.tar", "a?.tar", "a*.tar", "odd [0-9]{x}/b.tar", "odd [0-9]{x}/{c}.TAR"]


@pytest.mark.parametrize("remote", [False, True])
def test_a_path_that_exists_is_taken_as_it_is_written(remote: bool, folder: Path) -> None:
    root = "memory://plan-odd" if remote else f"{folder}/odd"
    for name in (*ODD, "a1.tar", "a2.tar", "odd 1x/b.tar"):
        Storage().write(f"{root}/{name}", name.encode())
    for name in ODD:
        _, tasks = find_tasks(Input(shards=f"{root}/{name}"), Storage())
        assert [(task.uri, task.name) for task in tasks] == [(f"{root}/{name}", Path(name).stem + ".tar")]
        assert Storage().read(tasks[0].uri) == name.encode()
    assert list(found(f"{root}/odd [0-9]{{x}}")) == ["b.tar", "{c}.tar"]
    assert list(found((f"{root}/a[1].tar", f"{root}/odd [0-9]{{x}}"))) == [
        "a[1].tar",
        "odd [0-9]{x}/b.tar",
        "odd [0-9]{x}/{c}.tar",
    ]
    assert list(found(f"{root}/[a]2.tar")) == ["a2.tar"]
    assert list(found(f"{root}/a{{1,2}}.ta[r]")) == ["a1.tar", "a2.tar"]


def test_what_is_left_out_is_counted_by_reason(folder: Path) -> None:
    for name in ("notes.md", "b/0.parquet", "b/0.tar.zst", "b/.0.tar", "b/.x/1.tar", "empty/x"):
        (folder / "in" / name).parent.mkdir(exist_ok=True)
        (folder / "in" / name).write_bytes(b"")
    (folder / "in/empty/x").unlink()
    (folder / "in/gone.tar").symlink_to("nowhere.tar")
    (folder / "in/round").symlink_to(".")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/7.tar").write_bytes(b"x")
    (folder / "in/linked").symlink_to("../elsewhere")
    plan = make_plan(make_job(input={"shards": "in"}))
    assert "linked/7.tar" in [task.name for task in plan.todo]
    assert [str(left_out).replace(f"{folder}/", "") for left_out in plan.left_out] == [
        "3: hidden, as files are that are still being written, or in a hidden folder; the first is in/01/.hidden.tar",
        "3: not named .tar, .tar.gz or .tgz; the first is in/01/notes.txt",
        "1: empty folders; the first is in/empty",
        "1: folders that a link leads back to; the first is in/round",
        "1: links that lead nowhere; the first is in/gone.tar",
        "1: packed in a form that is not read: unpack them and write plain tars; the first is in/b/0.tar.zst",
    ]
    assert make_plan(make_job(input={"shards": "in/*.tar"})).left_out[0].why == "links that lead nowhere"
    assert make_plan(make_job(input={"shards": ["in/01", "in/b/0.parquet"]})).left_out[0].count == 1
    with pytest.raises(ConfigError, match=r"data\.shards: not there: 1 of 7 shards; the first is .*in/gone\.tar"):
        find_shards("in", Storage(), "data.shards").all_present()


@pytest.fixture
def buckets() -> Iterator[None]:
    memory = fsspec.filesystem("memory")
    for name in ("one/00/a.tar", "one/01/a.tar", "two/a.tar"):
        memory.pipe(f"/plan-{name}", b"abc")
    yield
    for bucket in ("one", "two"):
        memory.rm(f"/plan-{bucket}", recursive=True)


@pytest.mark.usefixtures("buckets")
@pytest.mark.parametrize(
    ("shards", "names"),
    [
        ("memory://plan-one/{00..01}/a.tar", ["00/a.tar", "01/a.tar"]),
        ("memory://plan-one/*/a.tar", ["00/a.tar", "01/a.tar"]),
        ("memory://plan-one", ["00/a.tar", "01/a.tar"]),
        ("memory://plan-one/01/", ["a.tar"]),
        (("memory://plan-one", "memory://plan-two"), ["plan-one/00/a.tar", "plan-one/01/a.tar", "plan-two/a.tar"]),
    ],
)
def test_remote_shards(shards: str | tuple[str, ...], names: list[str]) -> None:
    assert found(shards) == dict.fromkeys(names, 3)
    for task in find_tasks(Input(shards=shards), Storage())[1]:
        assert Storage().read(task.uri) == b"abc"


class WithoutListings(Handler):
    """Does not show what is in a folder."""

    def list_directory(self, path: object) -> None:
        self.send_error(403, "no listing")


def test_shards_on_the_web_are_asked_for_one_by_one(folder: Path) -> None:
    with served(folder, WithoutListings) as url:
        Path("list.txt").write_text(f"{url}/in/9.tar\n{url}/in/00/{{000..001}}.tar # two\n")
        assert found(f"{url}/in/{{9,010}}.tar") == {"010.tar": 7, "9.tar": 5}
        assert found((f"{url}/in/9.tar?sig=a/b*[1]", f"{url}/in/00/000.tar?sig={{x}}")) == {
            "00/000.tar": 10,
            "9.tar": 5,
        }
        assert found(f"{url}/list.txt?sig=1") == {"00/000.tar": 10, "00/001.tar": 10, "9.tar": 5}
        assert found(f"{url}/in/{{9,8}}.tar") == {"8.tar": None, "9.tar": 5}
        assert "1 of 2 entries:\n  " + f"{url}/in/7.tar: nothing is there" in refusal(
            (f"{url}/in/9.tar", f"{url}/in/7.tar")
        )
        assert "none of the 2 files that it names is there" in refusal(f"{url}/in/{{7,8}}.tar")


def test_a_folder_on_the_web_is_what_its_page_lists(folder: Path) -> None:
    with served(folder) as url:
        assert list(found(f"{url}/in/00")) == ["000.tar", "001.tar"]
        assert list(found(f"{url}/in/0?/*.tar".replace("?", "*"))) == ["00/000.tar", "00/001.tar", "01/000.tar"]
        assert f"{url}/absent: nothing is there" in refusal(f"{url}/absent")
