"""What an input pattern names, under which names, and what of it is still to do."""

import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dr_pipeline.config.job import Input
from dr_pipeline.dataset.plan import find_tasks, make_plan
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.dataset.shards import expand_braces, find_shards
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from tests.conftest import make_job
from tests.web import Handler, served


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with shards of two equal base names, and others beside them."""
    monkeypatch.chdir(tmp_path)
    for name in ("00/000.tar", "00/001.tar", "01/000.tar", "01/.hidden.tar", "01/notes.txt", "010.tar", "9.tar"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def found(shards: str | tuple[str, ...], root: str | None = None) -> dict[str, int | None]:
    _, tasks = find_tasks(Input(shards=shards, root=root), Storage())
    return {task.name: task.size_bytes for task in tasks}


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


def test_an_output_that_holds_its_input_is_refused() -> None:
    for output in (".", "in", "in/00"):
        with pytest.raises(ConfigError, match="holds the input shard"):
            make_plan(make_job(input={"shards": "in"}, output={"path": output}))
    assert len(make_plan(make_job(input={"shards": "in/0*/*.tar"}, output={"path": "in/0"})).todo) == 3


def test_an_output_on_a_web_server_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"output\.path http://localhost:1/out: a web server takes no files"):
        make_plan(make_job(input={"shards": "in"}, output={"path": "http://localhost:1/out"}))


def test_an_output_that_ray_removes_after_the_job_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = folder / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match=r"output\.path: .*/outputs lies in the copy .* give an absolute path"):
        make_plan(make_job(input={"shards": f"{folder}/in"}, output={"path": "outputs"}))
    assert make_plan(make_job(input={"shards": f"{folder}/in"}, output={"path": f"{folder}/out"})).todo


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


def test_the_root_decides_the_names(folder: Path) -> None:
    assert list(found("in/00/*.tar", root=".")) == ["in/00/000.tar", "in/00/001.tar"]
    assert list(found("in/00/*.tar", root=f"{folder}/in/")) == ["00/000.tar", "00/001.tar"]
    with pytest.raises(ConfigError, match=r"input\.root: .*in/00/000\.tar does not lie below .*in/0$"):
        found("in/00/*.tar", root="in/0")


def test_shards_that_a_pattern_names_but_no_listing_shows_are_missing() -> None:
    assert found("in/00/{000..003}.tar") == {"000.tar": 10, "001.tar": 10, "002.tar": None, "003.tar": None}
    plan = make_plan(make_job(input={"shards": "in/00/{000..002}.tar"}))
    assert [task.name for task in plan.missing] == ["002.tar"]
    assert len(plan.todo) == 3


def refusal(shards: str | tuple[str, ...]) -> str:
    with pytest.raises(ConfigError) as caught:
        found(shards)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{Path.cwd()}/", "")


@pytest.mark.parametrize(
    ("shards", "why"),
    [
        ("in/02/{07..09}.tar", "none of the 3 files that it names is there, the first being in/02/07.tar"),
        ("in/{5..3}.tar", "nothing is there"),
        ("nowhere/*.tar", "nothing is there"),
        ("nowhere", "nothing is there"),
        ("nowhere/x.tar", "nothing is there"),
        ("none", "what is there is left out, 1: empty folders; the first is none/deep"),
        ("in/*", "what is there is left out, 2: folders, where the pattern asks for files; the first is in/00"),
    ],
)
def test_a_pattern_that_names_nothing_is_named_with_what_is_there(shards: str, why: str) -> None:
    Path("none/deep").mkdir(parents=True)
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


def test_two_shards_of_one_output_are_refused_with_both_names(folder: Path) -> None:
    for one, other in (("x.tar", "x.tar.gz"), ("x.tar", "x.TAR"), ("y.tgz", "y.tar.gz"), ("z", "z.tar")):
        for name in (one, other):
            (folder / name).write_bytes(b"x")
        both = sorted((one, other))
        message = refusal((one, other))
        assert message.startswith(f"input.shards: {both[0]} and {both[1]} would both be ")
        assert message.endswith(f"{one[0]}.tar in the output: leave one out, or rename it")


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
    with pytest.raises(ConfigError, match=r"data\.shards: 1 of 7 shards are not there; the first is .*in/gone\.tar"):
        find_shards("in", Storage(), "data.shards").all_present()


@pytest.mark.parametrize(
    ("shards", "output"),
    [
        ("in", "in/out"),
        ("in", "in/00/deep/out"),
        ("in", "link/out"),
        ("link", "in/out"),
        ("link/00", "in/../in/00/out"),
        ("in", "elsewhere"),
        ("in", "elsewhere/out"),
        (("in/00", "in/01"), "in/01/out"),
        ("in/**/*.tar", "in/out"),
        ("in/**/*.tar", "elsewhere/out"),
        ("in/*/*.tar", "in/out"),
        ("in/*/*.tar", "link/out"),
        ("in/*/*.tar", "elsewhere"),
        ("link/**/*.tar", "in/out"),
        (("in/00/000.tar", "in/**/*.tar"), "in/out"),
    ],
)
def test_an_output_among_the_input_is_refused_before_the_first_run(
    shards: str | tuple[str, ...], output: str, folder: Path
) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "in/linked").symlink_to("../elsewhere")
    (folder / "link").symlink_to("in")
    for name in ("010.tar", "9.tar"):
        (folder / "in" / name).unlink()
    root = "in/00" if shards == "in/*/*.tar" else None
    if root:
        (folder / "in/01/000.tar").unlink()
    with pytest.raises(ConfigError, match=r"output\.path .* lies where input\.shards looks, in .*: a later run"):
        make_plan(make_job(input={"shards": shards, "root": root}, output={"path": output}))


@pytest.mark.parametrize(
    ("shards", "output"),
    [
        ("in/*.tar", "in/out"),
        ("in/00/{000..001}.tar", "in/00/out"),
        ("in/0*/*.tar", "in/0"),
        (("in/9.tar", "in/010.tar"), "in/out"),
        ("in/00", "in/out"),
        ("in/00", "in/000"),
        ("in", "in2"),
    ],
)
def test_an_output_beside_the_input_is_not_refused(shards: str | tuple[str, ...], output: str) -> None:
    assert make_plan(make_job(input={"shards": shards}, output={"path": output})).todo


def test_an_input_that_links_to_the_output_is_refused(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/x.tar").write_bytes(b"x")
    (folder / "links").mkdir()
    (folder / "links/x.tar").symlink_to("../out/x.tar")
    with pytest.raises(ConfigError, match=r"output\.path .*/out holds the input shard .*/links/x\.tar"):
        make_plan(make_job(input={"shards": "links"}, output={"path": "out"}))


def test_done_shards_are_left_out_and_only_this_jobs(folder: Path) -> None:
    job = make_plan(make_job(input={"shards": "in/00"})).job
    other = make_plan(make_job(input={"shards": "in/00"}, seed=99)).job
    for each, name in ((job, "000.tar"), (other, "001.tar")):
        Reports.of(each).commit(ShardReport(name, "uri", "done", each.fingerprint()))
    plan = make_plan(make_job(input={"shards": "in/00"}))
    assert [task.name for task in plan.done] == ["000.tar"]
    assert [task.name for task in plan.todo] == ["001.tar"]


def test_a_plans_paths_hold_wherever_a_worker_runs(folder: Path) -> None:
    plan = make_plan(make_job(input={"shards": "in"}, output={"path": "out"}))
    assert plan.job.output.path == f"{folder}/out"
    assert plan.job.input.root == f"{folder}/in"
    assert not Path("out").exists()


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


def test_a_shard_cannot_lead_out_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "siblings", lambda storage, folder: {"0.tar": 1, "x.tar": 1})
    with pytest.raises(ConfigError, match="would lead out of the output"):
        found(("memory://base/00/0.tar", "memory://base/00/../../x.tar"), root="memory://base/00")


def test_urls_that_differ_in_their_queries_only_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "_size_on_the_web", lambda storage, uri: 1)
    with pytest.raises(ConfigError, match=r"would both be a\.tar in the output"):
        found(("https://h/a.tar?part=1", "https://h/a.tar?part=2"))
    assert found(("https://h/a.tar?sig=1", "https://h/b.tar?sig=2")) == {"a.tar": 1, "b.tar": 1}


@pytest.mark.parametrize("place", ["run", "run/model/out"])
def test_an_output_inside_a_training_run_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/job.json").write_text("{}")
    job = make_job(input={"shards": str(tmp_path / "in")}, output={"path": str(tmp_path / place)})
    with pytest.raises(ConfigError, match=f"output.path .* lies in the training run {tmp_path}/run: choose"):
        make_plan(job)
