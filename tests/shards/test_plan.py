"""What an input pattern names, under which names, and what of it is still to do."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dr_pipeline.config import Input
from dr_pipeline.errors import ConfigError
from dr_pipeline.records import ShardReport
from dr_pipeline.shards.ledger import Ledger
from dr_pipeline.shards.plan import expand_braces, find_shards, make_plan
from dr_pipeline.shards.storage import Storage
from tests.conftest import make_job


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
    return {task.name: task.size_bytes for task in find_shards(Input(shards=shards, root=root), Storage())[1]}


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
    for task in find_shards(Input(shards=shards), Storage())[1]:
        assert Path(task.uri).is_absolute()
        assert task.size_bytes == Path(task.uri).stat().st_size
        assert task.uri.endswith("/" + task.name)


@pytest.mark.parametrize("shards", ["in", "in/01/*.tar", "in/**/*.tar", "in/*/*"])
def test_hidden_shards_are_left_out(shards: str) -> None:
    assert not [name for name in found(shards) if "hidden" in name]


def test_an_output_that_holds_its_input_is_refused() -> None:
    for output in (".", "in", "in/00"):
        with pytest.raises(ConfigError, match="holds the input shard"):
            make_plan(make_job(input={"shards": "in"}, output={"path": output}))
    assert len(make_plan(make_job(input={"shards": "in/0*/*.tar"}, output={"path": "in/0"})).todo) == 3


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
        (tuple(f"in/0{i % 2}/{i:03d}.tar" for i in range(1000)), ["in/00", "in/01"]),
        ("in", ["in"]),
        ("in/*/*.tar", ["in/*/*.tar"]),
    ],
)
def test_a_folder_is_listed_once_however_many_shards_it_has(
    shards: str | tuple[str, ...], folders: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    for method in ("siblings", "files", "glob"):
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


@pytest.mark.parametrize(
    ("shards", "first"),
    [
        ("in/02/{00000007..00000009}.tar", "in/02/00000007.tar"),
        ("nowhere/{a,b}/*.tar", "nowhere/a/*.tar"),
        ("nowhere/*.tar", "nowhere/*.tar"),
        ("nowhere", "nowhere"),
        ("nowhere/x.tar", "nowhere/x.tar"),
        (("nowhere/{3..4}.tar", "nowhere/x.tar"), "nowhere/3.tar"),
        ("in/{5..3}.tar", "in/{5..3}.tar"),
    ],
)
def test_nothing_found_says_what_was_looked_for_first(shards: str | tuple[str, ...], first: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        found(shards)
    assert str(caught.value).endswith(f"the first one looked for is {folder}/{first}")
    assert caught.value.exit_code == 2


def test_an_empty_list_is_refused() -> None:
    Path("list.txt").write_text("\n")
    for shards in ("list.txt", ()):
        with pytest.raises(ConfigError, match="no shard found"):
            found(shards)


def test_done_shards_are_left_out_and_only_this_jobs(folder: Path) -> None:
    job = make_plan(make_job(input={"shards": "in/00"})).job
    other = make_plan(make_job(input={"shards": "in/00"}, seed=99)).job
    for each, name in ((job, "000.tar"), (other, "001.tar")):
        Ledger(each).commit(ShardReport(name, "uri", "done", each.fingerprint()))
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
    for task in find_shards(Input(shards=shards), Storage())[1]:
        assert Storage().read(task.uri) == b"abc"


def test_a_shard_cannot_lead_out_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "siblings", lambda storage, folder: {"0.tar": 1, "x.tar": 1})
    with pytest.raises(ConfigError, match="would lead out of the output"):
        found(("memory://base/00/0.tar", "memory://base/00/../../x.tar"), root="memory://base/00")


def test_urls_that_differ_in_their_queries_only_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "glob", lambda storage, pattern: {pattern: 1})
    with pytest.raises(ConfigError, match="differ only in their queries"):
        found(("https://h/a.tar?part=1", "https://h/a.tar?part=2"))
    assert found(("https://h/a.tar?sig=1", "https://h/b.tar?sig=2")) == {"a.tar": 1, "b.tar": 1}


@pytest.mark.parametrize("place", ["run", "run/model/out"])
def test_an_output_inside_a_training_run_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/job.json").write_text("{}")
    job = make_job(input={"shards": str(tmp_path / "in")}, output={"path": str(tmp_path / place)})
    with pytest.raises(ConfigError, match=f"output.path .* lies in the training run {tmp_path}/run: choose"):
        make_plan(job)
