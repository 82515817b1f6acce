"""The images and the RayJob, as far as neither a container engine nor a cluster is needed.

That an image builds, and that a cluster takes the job, is not shown here.
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from dr_pipeline.cli import main
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from tests.conftest import GOLDEN

ROOT = Path(__file__).parent.parent
DOCKERFILES = [ROOT / "docker/Dockerfile.cpu", ROOT / "docker/Dockerfile.cuda"]
WORKDIR = "/opt/dr-pipeline"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"dr-pipeline:{PROJECT['version']}-cuda"

every_image = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix[1:])


@every_image
def test_the_linter_has_nothing_to_say(path: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([linter, "--no-color", path], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@every_image
def test_what_the_build_needs_is_copied_and_let_through(path: Path) -> None:
    lines = [line.split() for line in path.read_text().splitlines()]
    copied = {word for name, *words in filter(None, lines) if name == "COPY" for word in words[:-1]}
    recipes_and_package = {"jobs", "teachers", "dr_pipeline"}
    assert {"pyproject.toml", "setup.py", PROJECT["readme"], *PROJECT["license-files"], *recipes_and_package} <= copied
    let_through = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{name}" for name in copied if not name.startswith(("-", "/"))} <= {*let_through}


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker/rayjob.yaml").read_text())["spec"]


@pytest.fixture(scope="module")
def others() -> list[dict[str, Any]]:
    """The cluster that stays, and what is beside it in its file."""
    return [*yaml.safe_load_all((ROOT / "docker/raycluster.yaml").read_text())]


@pytest.fixture(scope="module")
def clusters(rayjob: dict[str, Any], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The specs of the RayJob's cluster and of the one that stays."""
    return [rayjob["rayClusterSpec"], others[0]["spec"]]


@pytest.fixture(scope="module")
def templates(clusters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of all pods: the heads' and the workers'."""
    groups = [group for cluster in clusters for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return [group["template"] for group in groups]


def test_pods_are_valid_and_what_is_beside_them(templates: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    """KubeRay's own schema is no part of Kubernetes'; that of its pods is."""
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", **found.get("metadata", {})},
            "spec": found["spec"],
        }
        for found in templates
    ]
    for thing in [*pods, *others[1:]]:
        kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)


def test_versions_are_those_of_the_project(clusters: list[dict[str, Any]], templates: list[dict[str, Any]]) -> None:
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert {f"ray=={cluster['rayVersion']}" for cluster in clusters} <= {*map(str, pins)}
    containers = [container for template in templates for container in template["spec"]["containers"]]
    assert {container["image"] for container in containers} == {IMAGE}
    for path in DOCKERFILES:
        assert f"dr-pipeline:{PROJECT['version']}-{path.suffix[1:]}" in path.read_text()


def test_pods_run_as_the_images_user(templates: list[dict[str, Any]]) -> None:
    for template in templates:
        context = template["spec"]["securityContext"]
        assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in DOCKERFILES[1].read_text()


def test_the_head_that_stays_is_neither_evicted_nor_on_spot(others: list[dict[str, Any]]) -> None:
    cluster, budget, *priorities = others
    head, *workers = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    assert budget["spec"]["maxUnavailable"] == 0
    assert budget["spec"]["selector"]["matchLabels"].items() <= head["template"]["metadata"]["labels"].items()
    values = {priority["metadata"]["name"]: priority["value"] for priority in priorities}
    specs = [group["template"]["spec"] for group in (head, *workers)]
    assert [values[spec["priorityClassName"]] for spec in specs] == [1000, -10, -10]
    assert [spec["nodeSelector"]["dr-pipeline/pool"] for spec in specs] == ["on-demand", "spot", "on-demand"]
    for group in workers:
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]


def entrypoint(rayjob: dict[str, Any]) -> tuple[Path, list[str]]:
    """The job file here, and the overrides behind it."""
    job, *overrides = rayjob["entrypoint"].split()
    return ROOT / Path(job).relative_to(WORKDIR), overrides


@pytest.mark.slow
def test_entry_point_plans(rayjob: dict[str, Any], tmp_path: Path) -> None:
    job, overrides = entrypoint(rayjob)
    elsewhere = [f"input.shards={GOLDEN / 'shards'}", f"output.path={tmp_path / 'out'}"]
    assert main(["plan", str(job), *overrides, *elsewhere]) == 0


def test_entry_point_is_safe_in_a_shell(rayjob: dict[str, Any]) -> None:
    """KubeRay puts it into a shell line unquoted: a brace pattern would become a thousand arguments."""
    assert not set(rayjob["entrypoint"]) & set("{}*?[]$`'\"\\;&|<>()#~!")


def test_a_pod_holds_one_actor_and_its_group_all_of_them(rayjob: dict[str, Any]) -> None:
    (group,) = rayjob["rayClusterSpec"]["workerGroupSpecs"]
    path, overrides = entrypoint(rayjob)
    wanted = load(path, Job, overrides).workers
    (container,) = group["template"]["spec"]["containers"]
    for limits in container["resources"].values():
        assert (int(limits["nvidia.com/gpu"]), int(limits["cpu"])) == (wanted.gpus, wanted.cpus)
    assert group["minReplicas"] >= wanted.min
    assert group["maxReplicas"] == wanted.max
