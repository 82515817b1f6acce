"""The files around the package say what the package, the Makefile and the tree are."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_every_file_names_one_version_and_one_licence() -> None:
    citation = read("CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert f"\n## [{PROJECT['version']}] – " in (ROOT / "CHANGELOG.md").read_text()
    (licence,) = PROJECT["license-files"]
    assert "Apache License\n                           Version 2.0," in (ROOT / licence).read_text()


def test_the_methods_papers_are_cited() -> None:
    cited = {reference["url"].rpartition("/")[2] for reference in read("CITATION.cff")["references"]}
    assert cited == {"2508.20691", "2311.17049", "2303.08983"}


def test_the_hosted_tests_run_make_with_few_rights_and_pinned_actions() -> None:
    workflow = read(".github/workflows/test.yml")
    assert workflow["permissions"] == {"contents": "read"}
    steps = {name: job["steps"] for name, job in workflow["jobs"].items()}
    runs = {name: [step["run"] for step in of_job if "run" in step] for name, of_job in steps.items()}
    assert runs == {"test": ["make test"], "package": ["make package", "make try-package"]}
    used = [step["uses"] for of_job in steps.values() for step in of_job if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)


def test_a_commit_is_held_to_what_make_lint_does() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    hooks = {hook["entry"] for hook in repository["hooks"]}
    rule = (ROOT / "Makefile").read_text().split("\nlint:\n")[1].split("\n\n")[0]
    assert hooks == {line.strip().replace("$(BIN)", ".venv/bin") for line in rule.splitlines()}


def test_readme_is_short_and_its_figures_stand_in_benchmarks() -> None:
    page = (ROOT / "README.md").read_text()
    assert len(page.splitlines()) <= 200
    beside, measured = (
        page.split("\n## Beside others\n")[1].split("\n## ")[0],
        (ROOT / "benchmarks/README.md").read_text(),
    )
    figures = re.findall(r"\b\d+\.\d+\b", beside)
    assert len(figures) >= 5
    assert [figure for figure in figures if figure not in measured] == []


def test_the_contributors_page_is_short_and_has_a_line_for_every_folder() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(page.splitlines()) <= 80
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in listed.splitlines() if "/" in line}
    folders |= {line.split("/")[1] for line in listed.splitlines() if re.match("dr_pipeline/.+/", line)}
    tree = re.findall(r"^ *([\w.]+)/ ", page, re.MULTILINE)
    assert sorted(tree) == sorted(folders)


def test_processes_of_a_divided_run_see_which_tests_belong_together(request: pytest.FixtureRequest) -> None:
    is_divided = "PYTEST_XDIST_WORKER" in os.environ
    assert request.node.nodeid.endswith("@tests/test_project.py") == is_divided
