"""What the pages say is well-formed: links lead somewhere, Python parses, YAML is a job's, commands are known."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from pydantic import BaseModel

from dr_pipeline.cli import program
from dr_pipeline.config.evaluation import EvaluateJob
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.errors import ConfigError
from tests.commands import understood
from tests.conftest import merged
from tests.pages import ALL, PAGES, ROOT, anchors, blocks, inline_code, links, named

TEACHER = {"name": "t", "use": "a:B"}
LEAST: dict[type[BaseModel], dict[str, Any]] = {
    Job: {"name": "j", "input": {"shards": "a.tar"}, "output": {"path": "b"}, "teachers": [TEACHER]},
    TrainJob: {
        "name": "j",
        "data": {"shards": "a.tar"},
        "student": {"architecture": "ViT-B-32"},
        "schedule": {"steps": 1, "batch_size": 1, "warmup_steps": 0},
        "run": {"path": "b"},
    },
    EvaluateJob: {"name": "j"},
    TuneJob: {
        "name": "j",
        "train": "jobs/train_quickstart.yaml",
        "logit_scales": [1, 2],
        "metric": "a acc1",
        "path": "b",
    },
}
"""The least that each kind of job has: a page may show the part that it speaks of."""
OURS = re.compile(r"(?:.*\s)?(?:dr-pipeline|-m dr_pipeline)\s+(.*)")
each_page = pytest.mark.parametrize("page", ALL, ids=named)


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        if re.match(r"\w+:", link):
            address = urlsplit(link)
            assert address.scheme == "https", link
            assert re.fullmatch(r"[\w.-]+\.[a-z]+", address.netloc), link
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_python_parses_and_json_loads(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text, named(page))
        elif block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_yaml_is_what_a_job_or_a_card_has(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for block in blocks(page):
        tree = yaml.safe_load(block.text) if block.language == "yaml" else {}
        jobs = [*as_jobs(tree)] if isinstance(tree, dict) and "…" not in block.text else []  # … is a part left out
        refusals = [refusal for kind, job in jobs if (refusal := why_refused(job, kind, tmp_path / "job.yaml"))]
        assert not jobs or len(refusals) < len(jobs), f"{block.text}\n{refusals}"


def as_jobs(tree: dict[str, Any]) -> Iterator[tuple[type[BaseModel], dict[str, Any]]]:
    """What kinds of jobs may have these fields, or this card; none where it is another program's."""
    if "use" in tree:
        yield from ((Job, {role: [tree]}) for role in ("teachers", "captioners", "scorers"))
    elif tree:
        yield from ((kind, tree) for kind in LEAST if tree.keys() <= kind.model_fields.keys())


def why_refused(tree: dict[str, Any], kind: type[BaseModel], path: Path) -> str:
    """The message with which a job of this kind that has these fields is refused; "" where it is not."""
    path.write_text(yaml.safe_dump(merged(LEAST[kind], tree)))
    try:
        load(path, kind)
    except ConfigError as error:
        return str(error)
    return ""


@each_page
def test_commands_have_these_verbs_and_options(page: Path) -> None:
    for block in blocks(page):
        for command in block.commands() if block.language in ("sh", "console") else ():
            if match := OURS.fullmatch(command):
                words = shlex.split(match[1], comments=True)
                if words not in (["--help"], ["--version"]):
                    understood(words)
    for code in inline_code(page):
        if match := re.fullmatch(r"dr-pipeline ([a-z][\w-]*)(.*)", code):
            verb = program.commands.get(match[1])
            assert verb, code
            options = {name for option in verb.params if isinstance(option, click.Option) for name in option.opts}
            assert {"--help", *options} >= {*re.findall(r"(?<=\s)--?[a-z][\w-]*", match[2])}, code
