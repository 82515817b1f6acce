"""What is shown holds no credentials and steers no terminal."""

import io
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from dr_pipeline.cli import main
from dr_pipeline.dataset.plan import Plan
from dr_pipeline.dataset.reports import ShardReport, ShardTask
from dr_pipeline.errors import ConfigError
from dr_pipeline.redaction import printable, without_secrets, without_secrets_in
from dr_pipeline.report.log import Lines
from dr_pipeline.report.progress import BarProgress, JsonProgress, LineProgress
from tests.conftest import image_bytes, make_job, write_tar

CANARY = "canary-5ecr3t"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://bob:canary-5ecr3t@host/a.tar", "https://bob:***@host/a.tar"),
        ("https://canary-5ecr3t@host/a.tar", "https://***@host/a.tar"),
        ("sftp://bob:canary-5ecr3t@host/x and ftp://a:canary-5ecr3t@b", "sftp://bob:***@host/x and ftp://a:***@b"),
        ("abfs://container@account/a.tar", "abfs://container@account/a.tar"),
        (
            "403, url='https://h/a.tar?X-Amz-Credential=canary-5ecr3t%2F1&X-Amz-Signature=canary-5ecr3t&part=2'",
            "403, url='https://h/a.tar?X-Amz-Credential=***&X-Amz-Signature=***&part=2'",
        ),
        ("https://h/a?sv=2022&sig=canary-5ecr3t", "https://h/a?sv=2022&sig=***"),
        ("https://h/a?access_token=canary-5ecr3t#x", "https://h/a?access_token=***"),
        ("GET /a?AWSAccessKeyId=canary-5ecr3t&Signature=canary-5ecr3t", "GET /a?AWSAccessKeyId=***&Signature=***"),
        ("input.storage.secret=canary-5ecr3t", "input.storage.secret=***"),
        ("https://h/download?file=a.pt s3://bucket/a?.tar max_tokens=77", None),
    ],
)
def test_credentials_are_hidden_and_all_else_stays(text: str, shown: str | None) -> None:
    assert without_secrets(text) == (text if shown is None else shown)
    assert without_secrets(without_secrets(text)) == without_secrets(text)


def test_trees_are_gone_through() -> None:
    tree = {"a": ["ftp://b:canary-5ecr3t@c", 1, None], "b": {"c": ("https://canary-5ecr3t@d",)}}
    assert CANARY not in json.dumps(without_secrets_in(tree))
    assert without_secrets_in({"a": (1.5, True)}) == {"a": [1.5, True]}


@pytest.mark.parametrize("part", ["x", "a-", "a.", "X-Amz-", "a://", "token"])
def test_a_long_text_takes_no_longer_than_its_length(part: str) -> None:
    """In a quadratic search this text would be the last of the suite."""
    assert without_secrets(part * 50_000) == part * 50_000


def test_our_errors_hold_none_also_after_a_journey() -> None:
    error = ConfigError(f"cannot open https://u:{CANARY}@h/a?sig={CANARY}")
    assert CANARY not in f"{error!r} {pickle.loads(pickle.dumps(error))!r}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten\x08", "over\\rwritten\\x08"),
        ("\x9b31m \u202egnp.exe \u2028", "\\x9b31m \\u202egnp.exe \\u2028"),
        ("half \ud83d of it", "half \\ud83d of it"),
        ("[bold]a “caption”, ein Hund 🐶\n\t大きな犬", None),
    ],
)
def test_what_steers_a_terminal_is_escaped(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\u202e[red]x[/red]"


def shown_by(capsys: pytest.CaptureFixture) -> str:
    shown = capsys.readouterr()
    return shown.out + shown.err


def is_tame(text: str) -> bool:
    return not {letter for letter in text if not letter.isprintable()} - {"\n", "\t"}


def test_what_verify_and_inspect_print_of_data_is_tame(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    key = HOSTILE.replace("/", "").replace(".", "")
    members = [
        (f"{key}.jpg", image_bytes()),
        (f"{key}.txt", HOSTILE.encode()),
        (f"{key}.syn.json", json.dumps({"syn_text": [HOSTILE]}).encode()),
        (f"{key}.paug.json", json.dumps({"param_aug": [[[0, 0, 9, 9], []]]}).encode()),
    ]
    write_tar(tmp_path / "bad.tar", [*members, (f"{key}.npz", b"no")])
    arrays = io.BytesIO()
    unit = np.eye(1, 4, dtype=np.float32)
    np.savez(arrays, image_emb=unit, text_emb=unit, syn_text_emb=unit)
    write_tar(tmp_path / "good.tar", [*members, (f"{key}.npz", arrays.getvalue())])
    assert main(["verify", str(tmp_path / "bad.tar")]) == 1
    assert main(["verify", str(tmp_path / "bad.tar"), "--json"]) == 1
    assert main(["inspect", str(tmp_path / "good.tar")]) == 0
    assert main(["inspect", str(tmp_path / "bad.tar")]) == 1
    assert main(["verify", f"{tmp_path}/{HOSTILE}"]) == 2
    shown = shown_by(capsys)
    assert shown.count("\\x1b]0;owned\\x07") >= 4
    assert is_tame(shown)


@pytest.mark.parametrize("display", [LineProgress, BarProgress, JsonProgress])
def test_what_the_progress_prints_of_data_is_tame(display: type, capsys: pytest.CaptureFixture) -> None:
    shown = display()
    job = make_job(name=HOSTILE)
    shown.planned(Plan(job, (ShardTask("a", "a", 1),), ()))
    shown.reported(ShardReport(HOSTILE, "a", "failed", "f", error=HOSTILE))
    shown.close()
    text = shown_by(capsys)
    assert "owned" in text
    assert "[red]x[/red]" in text
    assert is_tame(text)


def test_logs_are_tame() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    assert is_tame(Lines("%(message)s").format(record))
