"""The command line: verbs, exit codes, what it prints for people and for machines."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from dr_pipeline.cli import main
from tests.conftest import GOLDEN, job_tree, make_sample_members, merged, write_tar
from tests.verify.datasets import write_dataset

SECRET = "CANARY-f00d"

# A real, small, deterministic plug-in: what it embeds is the mean colour, or the letters.
PLUGIN = """
import torch
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec

class Clip:
    def __init__(self, device, dim):
        self.spec = TeacherSpec(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), dim=dim)

    def encode_images(self, images_BCHW):
        pooled = images_BCHW.mean(dim=(2, 3))
        return torch.stack([pooled[:, i % 3] + i + 1 for i in range(self.spec.dim)], dim=1)

    def encode_texts(self, texts):
        rows = [[1.0 + sum(text.encode()[i :: self.spec.dim]) for i in range(self.spec.dim)] for text in texts]
        return torch.tensor(rows)

class Coca:
    def __init__(self, device):
        self.spec = ImageSpec(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def caption(self, images_BCHW, streams, sampling):
        return [[f"caption {stream.integer(1000)}" for stream in row] for row in streams]

class Mute(Coca):
    def caption(self, images_BCHW, streams, sampling):
        return [[" " for stream in row] for row in streams]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a job, its plug-in and two shards of four samples."""
    monkeypatch.chdir(tmp_path)
    Path("lab_of_cli.py").write_text(PLUGIN)
    for shard in range(2):
        members = [
            m for index in range(4) for m in make_sample_members(f"{shard}_{index}", f"caption of {index}", index)
        ]
        write_tar(tmp_path / "in" / f"{shard}.tar", members)
    write_job()
    return tmp_path


def write_job(**changes: Any) -> None:
    models = {
        "captioners": [{"name": "coca", "use": "lab_of_cli:Coca", "num_captions": 2}],
        "teachers": [
            {"name": f"clip{dim}", "use": "lab_of_cli:Clip", "dim": dim, "options": {"dim": dim}} for dim in (3, 5)
        ],
        "workers": {"engine": "local", "gpus": 0, "cpus": 1, "view_batch": 8},
    }
    Path("job.yaml").write_text(yaml.safe_dump(merged(job_tree(**models), changes)))


def call(*arguments: str) -> int:
    return main(arguments)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("reinforce", "job.yaml"),
        ("run",),
        ("plan", "job.yaml", "--views", "3"),
        ("verify",),
        ("inspect", "out", "--count", "many"),
        ("run", "absent.yaml"),
        ("plan", "absent.yaml"),
        ("run", "job.yaml", "sed=1"),
        ("run", "job.yaml", "seed"),
        ("plan", "job.yaml", "augmentation.num_views=none"),
        ("run", "job.yaml", "input.shards=nowhere/{0..3}.tar"),
        ("plan", "job.yaml", "input.shards=nowhere/*.tar"),
        ("run", "job.yaml", "input.shards=nolist.txt"),
        ("run", "job.yaml", "teachers.0.card=nowhere.yaml"),
        ("run", "job.yaml", "teachers.0.use=lab_of_cli:Klip"),
        ("run", "job.yaml", "teachers.0.dim=4"),
        ("run", "job.yaml", "output.path=job.yaml/out"),
        ("run", "job.yaml", "input.shards=nosuch://x/y.tar"),
        ("verify", "nowhere"),
        ("verify", "out", "--storage", "endpoint"),
        ("inspect", "nowhere"),
        ("check-teacher", "absent.yaml"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_told_in_a_line_and_writes_nothing(
    arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(folder)
    code = call(*arguments)
    out, error = capsys.readouterr()
    assert code == 2
    assert "error" in error
    assert "Traceback" not in out + error
    written = {name for name in files(folder) - before if "__pycache__" not in name}
    found_by_loading = any(argument.startswith(("teachers.0.use", "teachers.0.dim")) for argument in arguments)
    assert written == ({"out/config.json"} if found_by_loading else set())  # the claim comes before the models


def test_a_bad_job_names_field_and_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "augmentation.num_veiws=3") == 2
    error = capsys.readouterr().err
    assert error == "error: job.yaml:\n  augmentation.num_veiws: unknown key; did you mean num_views?\n"


def test_a_corrected_model_may_use_the_output_that_the_wrong_one_claimed() -> None:
    assert call("run", "job.yaml", "teachers.0.use=lab_of_cli:Klip") == 2
    assert call("run", "job.yaml") == 0
    assert call("run", "job.yaml", "seed=2") == 2


def test_an_input_that_is_not_there_names_the_first_shard(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "input.shards=in/{00000007..00000009}.tar") == 2
    assert f"{folder}/in/00000007.tar" in capsys.readouterr().err


def test_run_verify_inspect_and_run_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    out, error = capsys.readouterr()
    counted = "syn_text: 16 captions, none blank, repeating itself or cut"
    assert out == f"8 samples in 2 shards at {folder}/out\n{counted}\n"
    assert "done 0.tar: 4 of 4 samples, 16 views" in error
    assert {"out/0.tar", "out/1.tar", "out/config.json", "out/manifest/shards.parquet"} <= files(folder)

    assert call("verify", "out") == 0
    assert capsys.readouterr().out == "8 samples in 2 shards read: no problem\n"
    assert call("verify", "out", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "num_shards": 2,
        "num_samples": 8,
        "problems": [],
        "num_recomputed": 0,
        "remarks": [],
    }

    assert call("inspect", "out", "--count", "1") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "0.tar: syn_text: 8 captions, none blank, repeating itself or cut"
    assert shown[1] == "0_0: 4 views, embeddings of 8 dims"
    assert shown[2].endswith("caption of 0")
    assert len(shown) == 5

    before = {name: (folder / name).read_bytes() for name in files(folder) if name.endswith(".tar")}
    assert call("run", "job.yaml") == 0
    out, error = capsys.readouterr()
    assert out == f"8 samples in 2 shards at {folder}/out\n"
    assert "0 shards to do, 2 done" in error
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_run_prints_json_lines_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["planned", "shard", "shard", "finished"]
    assert events[0] == {"event": "planned", "todo": 2, "done": 0, "left_out": []}
    assert events[1]["status"] == "done"
    captions = {"syn_text": {"drawn": 16}}
    assert events[3] == {"event": "finished", "num_samples": 8, "captions": captions, "failed": []}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_failed_shard_is_named_and_the_others_are_done(
    options: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "in" / "0.tar"
    path.write_bytes(path.read_bytes()[:3000])
    assert call("run", "job.yaml", *options) == 1
    out = capsys.readouterr().out
    if options:
        finished = json.loads(out.splitlines()[-1])
        assert (finished["num_samples"], finished["failed"]) == (4, ["0.tar"])
        assert finished["captions"] == {"syn_text": {"drawn": 8}}
    else:
        assert "4 samples in 1 shards" in out
        assert "failed 0.tar: truncated" in out
    assert "out/0.tar" not in files(folder)
    assert "out/1.tar" in files(folder)


def test_captions_that_say_nothing_are_stored_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml", "captioners.0.use=lab_of_cli:Mute", "captioners.0.redraws=1") == 0
    assert "syn_text: 16 captions, 16 blank\n" in capsys.readouterr().out
    assert call("inspect", "out", "--count", "1") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "0.tar: syn_text: 8 captions, 8 blank"
    assert [line.endswith("  [blank]") for line in shown[3:]] == [True, True]
    assert call("verify", "out") == 0
    rows = pq.read_table(folder / "out" / "manifest" / "samples" / "0.parquet").to_pylist()
    assert {row["poor_captions"] for row in rows} == {'{"syn_text": {"blank": 2}}'}


def test_another_configuration_is_refused_unless_forced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    first = (folder / "out" / "0.tar").read_bytes()
    capsys.readouterr()
    assert call("run", "job.yaml", "seed=2") == 2
    assert "seed: 1 → 2" in capsys.readouterr().err
    assert call("plan", "job.yaml", "seed=2") == 2
    assert "refused  " in capsys.readouterr().out
    assert (folder / "out" / "0.tar").read_bytes() == first
    assert call("run", "job.yaml", "seed=2", "--force") == 0
    assert (folder / "out" / "0.tar").read_bytes() != first
    assert call("verify", "out") == 0


def test_plan_starts_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(folder)
    assert call("plan", "job.yaml") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"tiny → {folder}/out\nshards   2 to do, 0 done")
    assert out.endswith("refused  nothing\n")
    assert call("plan", "job.yaml", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["num_todo"], shown["num_done"], shown["num_missing"], shown["refused"]) == (2, 0, 0, [])
    assert abs(shown["num_samples"] - 8) <= 1
    assert {name for name in files(folder) - before if "__pycache__" not in name} == set()


def test_plan_names_a_card_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "job.yaml", "teachers.1.use=lab_of_cli:Klip") == 2
    assert "card clip5: lab_of_cli:Klip: lab_of_cli has no Klip; did you mean Clip?" in capsys.readouterr().out


def test_plan_refuses_what_would_fail_in_every_shard_or_at_start(capsys: pytest.CaptureFixture[str]) -> None:
    options = "options: {model: ViT-B-32, weights: random}"
    clip = f"{{name: big, use: 'dr_pipeline.models.open_clip:OpenClipTeacher', {options}}}"
    coca = f"{{name: big, use: 'dr_pipeline.models.coca:CocaCaptioner', {options}}}"
    for override, said in (
        ("captioners=[]", "refused  every shard would fail: 4 of the first 4 samples of "),
        (f"teachers=[{clip}]", "refused  card big: takes 224 px but views are rendered at 24 px"),
        (f"captioners=[{coca}]", "refused  card big: captioner 'ViT-B-32' is a CLIP, which has no text decoder"),
    ):
        assert call("plan", "job.yaml", override) == 2
        assert said in capsys.readouterr().out


def test_verify_lists_problems_by_shard_and_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(folder / "bad", lambda key, members: members[1:] if key == "s1_2" else members)
    (folder / "bad" / "00" / "0.tar").write_bytes(b"")
    assert call("verify", "bad") == 1
    assert capsys.readouterr().out.splitlines() == [
        "00/0.tar: the file is empty: copy or download it again",
        "00/1.tar: s1_2: no image: a consumer drops the sample",
        "3 samples in 2 shards read: 2 problems",
    ]
    assert call("verify", "bad", "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"][1] == [
        "00/1.tar",
        "s1_2",
        "no image: a consumer drops the sample",
    ]


def test_verify_and_inspect_take_a_single_tar_of_any_writer(capsys: pytest.CaptureFixture[str]) -> None:
    shard = str(GOLDEN / "shards" / "v1_bf16.tar")
    assert call("verify", shard) == 0
    assert capsys.readouterr().out == "8 samples in 1 shards read: no problem\n"
    assert call("inspect", shard) == 0
    assert capsys.readouterr().out.startswith("v10000: 4 views, embeddings of 80 dims")


def test_verify_looks_omitted_images_up_in_the_base(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(folder / "cache"))
    images = write_dataset(folder / "whole").output.path
    write_dataset(folder / "omitted", output={"images": "omit"})
    assert call("verify", "omitted", "--base", images, "--base-match", "key") == 0
    assert capsys.readouterr().out == "6 samples in 2 shards read: no problem\n"
    assert call("verify", "omitted", "--base", images) == 2  # nobody has a uid
    assert call("verify", "omitted", "--base", images, "--base-match", "no word") == 2
    assert call("verify", "omitted", "--base", "absent", "--base-storage", "auto_mkdir=1") == 2
    assert call("verify", "omitted", "--base-match", "key") == 2
    assert capsys.readouterr().err.count("error: --base: ") == 3


def test_storage_options_reach_the_storage(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(GOLDEN / "shards" / "v1_bf16.tar", "one.tar")
    assert call("verify", "one.tar", "--storage", "auto_mkdir=1", "--storage", "key=a=b") == 0


def test_check_teacher_finds_the_plug_in_beside_its_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cards = folder / "cards"
    cards.mkdir()
    (cards / "lab_beside_card.py").write_text(PLUGIN)
    card = {"use": "lab_beside_card:Clip", "dim": 4, "options": {"dim": 4}}
    (cards / "good.yaml").write_text(yaml.safe_dump(card))
    (cards / "bad.yaml").write_text(yaml.safe_dump({**card, "dim": 5}))
    assert call("check-teacher", "cards/good.yaml") == 0
    assert capsys.readouterr().out == "cards/good.yaml: ready to teach\n"
    assert call("check-teacher", "cards/bad.yaml") == 1
    out = capsys.readouterr().out
    assert "dim is 5 in the card but 4 in the model" in out
    assert out.endswith("cards/bad.yaml: 1 problems\n")


def test_check_teacher_takes_a_captioners_card_with_how_to_sample(folder: Path, capsys: pytest.CaptureFixture) -> None:
    card = {"use": "lab_of_cli:Coca", "tag": "mine", "num_captions": 2, "sampling": {"method": "greedy"}}
    (folder / "coca.yaml").write_text(yaml.safe_dump(card))
    assert call("check-teacher", "coca.yaml") == 0
    assert capsys.readouterr().out == "coca.yaml: ready to teach\n"
    (folder / "coca.yaml").write_text(yaml.safe_dump({**card, "num_caption": 2}))
    assert call("check-teacher", "coca.yaml") == 2
    assert "num_caption: unknown key; did you mean num_captions?" in capsys.readouterr().err


def test_credentials_are_neither_printed_nor_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(input={"storage": {"secret": SECRET}}, output={"storage": {"key": SECRET}})
    (folder / "in" / "1.tar").write_bytes(b"")
    for arguments in (("plan",), ("plan", "--json"), ("run", "--json"), ("run",), ("run", "seed=2"), ("run", "sed=2")):
        call(arguments[0], "job.yaml", *arguments[1:])
    out, error = capsys.readouterr()
    assert "0.tar" in out
    assert SECRET not in out + error
    written = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert len(written) >= 5
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_the_module_and_the_console_script_are_the_same_program(folder: Path) -> None:
    script = Path(sys.executable).with_name("dr-pipeline")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for program in ([sys.executable, "-m", "dr_pipeline"], [str(script)]):
        done = subprocess.run(
            [*program, "plan", "job.yaml", "sed=1"], capture_output=True, text=True, env=environment, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: job.yaml:\n  sed: unknown key; did you mean seed?\n"


def test_help_and_version_are_answered_before_anything_is_loaded() -> None:
    heavy = "{'torch', 'ray', 'numpy', 'pydantic', 'fsspec', 'rich'}"
    code = "import sys; from dr_pipeline.cli import main; main(['run', '-h']); main(['--version']); "
    code += f"print({heavy} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown = ran.stdout.splitlines()
    assert shown[0] == "Usage: dr-pipeline run [OPTIONS] JOB [KEY.PATH=VALUE]..."
    assert shown[-2:] == [f"dr-pipeline {version('dr-pipeline')}", "set()"]


@pytest.mark.parametrize(("option", "logged"), [("-v", "iwe we"), ("--no-plugins", "we we"), ("--quiet", "e e")])
def test_the_log_shows_what_is_asked_for_and_escapes_it(option: str, logged: str) -> None:
    """Of this package: information, warnings, errors; of a library never information."""
    code = f"""
import logging
from dr_pipeline.cli import main
main(["init", "mine", {option!r}])
for name in ("dr_pipeline.x", "library"):
    log = logging.getLogger(name)
    log.info("i\x07"), log.warning("w\x07"), log.error("e\x07")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    levels = {"i": "INFO", "w": "WARNING", "e": "ERROR"}
    expected = [f"{levels[letter]} {letter}\\x07" for letter in logged.replace(" ", "")]
    assert ran.stderr.splitlines() == expected


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tr", ["plain,train", "plain,trainer-flags"]),
        ("run jobs/qu", ["file,jobs/qu"]),
        ("verify out --base-", ["plain,--base-match", "plain,--base-storage"]),
    ],
)
def test_a_shell_completes_verbs_files_and_options(
    typed: str, completed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_DR_PIPELINE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"dr-pipeline {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    assert call() == 0
    assert capsys.readouterr().out.splitlines() == completed


def test_verify_takes_overrides_of_a_job_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "job.yaml") == 0
    assert call("verify", "out", "--job", "job.yaml", "--json", "seed=1") == 0
    assert call("verify", "out", "--job", "job.yaml", "sed=1") == 2
    assert call("verify", "out", "seed=1") == 2
    assert capsys.readouterr().err.endswith("error: seed=1: overrides are of a job: say with --job which\n")
