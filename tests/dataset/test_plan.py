"""The plan of a job: its shards' names in the output, which are done, and where the output may not lie."""

from pathlib import Path

import pytest

from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from tests.conftest import make_job
from tests.dataset.finding import found, refusal

pytestmark = pytest.mark.usefixtures("folder")


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


def test_two_shards_of_one_output_are_refused_with_both_names(folder: Path) -> None:
    for one, other in (("x.tar", "x.tar.gz"), ("x.tar", "x.TAR"), ("y.tgz", "y.tar.gz"), ("z", "z.tar")):
        for name in (one, other):
            (folder / name).write_bytes(b"x")
        both = sorted((one, other))
        message = refusal((one, other))
        assert message.startswith(f"input.shards: {both[0]} and {both[1]} would both be ")
        assert message.endswith(f"{one[0]}.tar in the output: leave one out, or rename it")


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


def test_a_shard_cannot_lead_out_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "siblings", lambda storage, folder: {"0.tar": 1, "x.tar": 1})
    with pytest.raises(ConfigError, match="would lead out of the output"):
        found(("memory://base/00/0.tar", "memory://base/00/../../x.tar"), root="memory://base/00")


def test_urls_that_differ_in_their_queries_only_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "_size", lambda storage, uri: 1)
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
