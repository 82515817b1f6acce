"""The images and the RayJob, parsed: what they copy, name and run exists here, and they agree with each other.

No container engine is needed, and none is replaced: that an image builds is not shown here.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dr_pipeline.arguments import parse
from dr_pipeline.cli import main
from dr_pipeline.config import Job
from dr_pipeline.jobfile import load
from tests.conftest import GOLDEN

ROOT = Path(__file__).parent.parent
DOCKERFILES = [ROOT / "docker/Dockerfile.cpu", ROOT / "docker/Dockerfile.cuda"]
RAYJOB = ROOT / "docker/rayjob.yaml"
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
PAGES = [ROOT / "docs/jobs.md", ROOT / "docs/ray.md"]

every_image = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix[1:])


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, (name, arguments), comments gone and continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def arguments(path: Path, name: str) -> list[str]:
    """The arguments of every instruction of one name."""
    return [rest for instruction, rest in instructions(path) if instruction == name]


def shell_commands(path: Path) -> list[list[str]]:
    """Every command of the RUN instructions, as words."""
    return [shlex.split(command) for run in arguments(path, "RUN") for command in run.split("&&")]


def documented(path: Path, program: str) -> list[list[str]]:
    """The words of each command line for `program` in a file's comments or `sh` blocks."""
    text = re.sub(r"\\\n#?\s*", "", path.read_text())
    block, flags = (r"```sh\n(.*?)```", re.DOTALL) if path.suffix == ".md" else (r"^# +(.*)", re.MULTILINE)
    lines = [line for found in re.findall(block, text, flags) for line in found.splitlines()]
    return [shlex.split(line) for line in lines if line.split()[:1] == [program]]


def documented_tag(path: Path) -> str:
    """The tag that a file's own build command gives the image."""
    build = documented(path, "docker")[0]
    return build[build.index("-t") + 1]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(package: str) -> str:
    """A package's version in constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    (version,) = [str(pin.specifier) for pin in map(Requirement, lines) if pin.name == package]
    return version.removeprefix("==")


def in_git(path: str | Path) -> str:
    """Mode and name of each file that git has there, a line each; nothing when it has none."""
    command = ["git", "ls-files", "--stage", path]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@every_image
def test_what_is_copied_is_in_the_repository_and_in_the_build_context(path: Path) -> None:
    ignored, *let_through = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert ignored == "*"
    copies = [rest.split() for rest in arguments(path, "COPY") if not rest.startswith("--from")]
    sources = [source for *sources, _ in copies for source in sources]
    needed = {"constraints.txt", "pyproject.toml", "setup.py", project()["readme"], "dr_pipeline", "jobs", "teachers"}
    assert needed <= set(sources)
    for source in sources:
        assert in_git(source), source
        assert f"!{source}" in let_through, source


@every_image
def test_has_two_stages_of_one_python(path: Path) -> None:
    build, final = arguments(path, "FROM")
    base, _, name = build.partition(" AS ")
    assert final == base
    assert f"--from={name} /usr/local /usr/local" in arguments(path, "COPY")


def test_every_python_version_is_the_same_and_supported() -> None:
    bases = {base.partition(" AS ")[0] for path in DOCKERFILES for base in arguments(path, "FROM")}
    (version,) = {re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", base)[1] for base in bases}
    assert version in SpecifierSet(project()["requires-python"])


def test_the_images_differ_only_in_torch_and_the_gpus_environment() -> None:
    cpu, cuda = (
        [
            (name, re.sub(r" --index-url \S+", "", rest))
            for name, rest in instructions(path)
            if name not in ("ENV", "ARG")
        ]
        for path in DOCKERFILES
    )
    assert cpu == cuda


@every_image
def test_runs_as_a_numbered_user_without_rights(path: Path) -> None:
    last_user = arguments(path, "USER")[-1]
    uid, gid = map(int, last_user.split(":"))
    assert min(uid, gid) > 0
    assert f"--uid {uid} " in " ".join(arguments(path, "RUN"))


@every_image
def test_installs_by_the_constraints(path: Path) -> None:
    installs = [words for words in shell_commands(path) if words[:2] == ["pip", "install"]]
    assert installs[-1][-1] == "."
    for words in installs:
        assert words[words.index("--constraint") + 1] == "constraints.txt"
    assert {"torch", "torchvision"} <= set(installs[0])
    assert all(map(pinned, ("torch", "torchvision")))


@pytest.mark.skipif(not shutil.which("apt-get"), reason="the images are Debian's, this system is not")
@every_image
def test_the_commands_of_the_build_exist_and_know_their_options(path: Path) -> None:
    for words in shell_commands(path):
        program = ("pip", "install") if words[0] == "pip" else (words[0],)
        shown = help_of(program)
        if words[0] == "apt-get":  # its help does not list options
            continue
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert option in shown, f"{words[0]} {option}"


@cache
def help_of(program: tuple[str, ...]) -> str:
    ran = subprocess.run([*program, "--help"], capture_output=True, text=True, env=environment(), check=True)
    return ran.stdout


@every_image
def test_the_entry_point_runs(path: Path) -> None:
    (entry,) = json.loads(arguments(path, "ENTRYPOINT")[0])
    assert entry in project()["scripts"]
    assert json.loads(arguments(path, "CMD")[0]) == ["--help"]
    assert "reinforce the shards" in help_of((entry,))


@every_image
def test_its_documented_commands_hold(path: Path) -> None:
    build, run = documented(path, "docker")
    assert build[build.index("-f") + 1] == str(path.relative_to(ROOT))
    assert documented_tag(path) == f"dr-pipeline:{project()['version']}-{path.suffix[1:]}"
    verb, job, *_ = run[run.index(documented_tag(path)) + 1 :]
    assert (ROOT / job).is_file()
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])


def environment() -> dict[str, str]:
    """This process's, with the console scripts of its own Python first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load(RAYJOB.read_text())


@pytest.fixture(scope="module")
def cluster(rayjob: dict[str, Any]) -> dict[str, Any]:
    return rayjob["spec"]["rayClusterSpec"]


def entrypoint(rayjob: dict[str, Any]) -> tuple[Path, list[str]]:
    """The job file here, and the overrides behind it."""
    job, *overrides = rayjob["spec"]["entrypoint"].split()
    (workdir,) = arguments(DOCKERFILES[1], "WORKDIR")[1:]
    return ROOT / Path(job).relative_to(workdir), overrides


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_rayjob_runs_an_executable_job_of_the_repository(rayjob: dict[str, Any]) -> None:
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    job, _ = entrypoint(rayjob)
    assert in_git(job).startswith("100755 ")


@pytest.mark.slow
def test_rayjobs_entry_point_plans(rayjob: dict[str, Any], tmp_path: Path) -> None:
    job, overrides = entrypoint(rayjob)
    elsewhere = [f"input.shards={GOLDEN / 'shards'}", f"output.path={tmp_path / 'out'}"]
    assert main(["plan", str(job), *overrides, *elsewhere]) == 0


def test_rayjobs_entry_point_is_safe_in_a_shell(rayjob: dict[str, Any]) -> None:
    """KubeRay puts it into a shell line unquoted: a brace pattern would become a thousand arguments."""
    assert not set(rayjob["spec"]["entrypoint"]) & set("{}*?[]$`'\"\\;&|<>()#~!")


def test_rayjob_uses_the_built_image_and_the_pinned_ray(cluster: dict[str, Any]) -> None:
    assert cluster["rayVersion"] == pinned("ray")
    images = {container["image"] for pod in pods(cluster) for container in pod["containers"]}
    assert images == {documented_tag(DOCKERFILES[1])} == {documented_tag(RAYJOB)}


def test_rayjobs_pod_holds_one_actor_and_its_group_all_of_them(rayjob: dict[str, Any], cluster: dict[str, Any]) -> None:
    (group,) = cluster["workerGroupSpecs"]
    path, overrides = entrypoint(rayjob)
    wanted = load(path, Job, overrides).workers
    (container,) = group["template"]["spec"]["containers"]
    for limits in container["resources"].values():
        assert int(limits["nvidia.com/gpu"]) == wanted.gpus
        assert int(limits["cpu"]) == wanted.cpus
    assert group["minReplicas"] >= wanted.min
    assert group["maxReplicas"] == wanted.max


def test_rayjob_scales_and_leaves_nothing_behind(rayjob: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True
    assert rayjob["spec"]["activeDeadlineSeconds"] > 0


def test_rayjob_exposes_nothing_and_holds_no_secret(cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["enableIngress"] is False
    for pod in pods(cluster):
        assert pod["securityContext"]["runAsNonRoot"] is True
        user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
        assert user == arguments(DOCKERFILES[1], "USER")[-1]
        for container in pod["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "dr-pipeline-storage"}}]
            assert "env" not in container
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("path", [*PAGES, *JOBS], ids=lambda path: path.name)
def test_documented_dr_pipeline_commands_are_understood(path: Path) -> None:
    for _, *words in documented(path, "dr-pipeline"):
        options = parse(words)
        if words[0] in ("run", "plan") and "JOB.yaml" not in words:
            load(ROOT / options.job, Job, options.overrides)


def test_documented_ray_commands_are_rays() -> None:
    lines = documented(ROOT / "docs/ray.md", "ray")
    assert ["ray", "job", "submit", "jobs/reinforce_dfn.yaml"] in lines
    assert ["ray", "job", "submit", "--working-dir", ".", "--", "jobs/reinforce_dfn.yaml"] in lines
    for words in lines:
        check_ray_command(words[1:])


@pytest.mark.parametrize(
    "command", ["start --head", "health-check", "kuberay-autoscaler", "job submit --no-wait", "job logs --follow"]
)
def test_what_kuberay_starts_in_the_image_is_rays(command: str) -> None:
    check_ray_command(command.split())


def check_ray_command(words: list[str]) -> None:
    """Each word up to `--` is a sub-command of Ray's, an option of the one that is reached, or an argument."""
    from ray.scripts.scripts import cli

    command: click.Command = cli
    for word in words:
        if word == "--":
            return
        if word.startswith("--"):
            options = {option for parameter in command.params for option in parameter.opts}
            assert word.partition("=")[0] in options, f"ray {' '.join(words)}: {word}"
        elif isinstance(command, click.Group):
            assert word in command.commands, f"ray {' '.join(words)}: {word}"
            command = command.commands[word]
