"""The files that start clusters: each by the schema of the program that reads it, and what they must not have.

What runs of them here is run by the other tests of this folder; no container, cloud or Kubernetes is needed.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from dr_pipeline.cli import main
from tests.conftest import GOLDEN
from tests.s3_server import s3_server

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "docker/compose.yaml"
CLUSTERS = ROOT / "examples/clusters"
LAUNCHED = [CLUSTERS / "aws.yaml", CLUSTERS / "gcp.yaml"]
WITH_SUBMISSION = [ROOT / "docker/raycluster.yaml", CLUSTERS / "slurm.sh", *LAUNCHED]
IN_THE_IMAGE = "/opt/dr-pipeline/"


def tool(*command: str | Path, stdin: str | None = None) -> str:
    """What a linter says; nothing where it is content."""
    ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr if ran.returncode else ""


def test_compose_is_valid() -> None:
    assert tool(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE) == ""


def test_compose_publishes_on_loopback_and_has_no_secret_of_its_own() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    settings = [
        (name, value) for service in services.values() for name, value in service.get("environment", {}).items()
    ]
    secrets = {value for name, value in settings if re.search("TOKEN$|SECRET", name)}
    assert len(secrets) == 2
    assert all(re.fullmatch(r"\$\{\w+:\?.+\}", secret) for secret in secrets), "a missing secret must end `up`"


@pytest.mark.parametrize("script", ["slurm.sh", "skypilot.yaml: setup", "skypilot.yaml: run"])
def test_the_shells_linter_has_nothing_to_say(script: str) -> None:
    name, _, field = script.partition(": ")
    text = (CLUSTERS / name).read_text()
    text = yaml.safe_load(text)[field] if field else text
    shellcheck = Path(sys.executable).with_name("shellcheck")
    assert tool(shellcheck, "--shell=bash", "--exclude=SC1091", "-", stdin=text) == ""


@pytest.fixture(params=LAUNCHED, ids=lambda path: path.stem)
def launched(request: pytest.FixtureRequest) -> dict[str, Any]:
    config = prepare_config(yaml.safe_load(request.param.read_text()))
    validate_config(config)
    return config


def test_rays_launcher_takes_the_file_and_starts_ray_by_flags_that_there_are(launched: dict[str, Any]) -> None:
    for field in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, (ray, verb, *flags) = map(shlex.split, launched[field])
        assert (stop, ray, verb) == (["ray", "stop"], "ray", "start")
        assert start.make_context("start", flags).params["dashboard_host"] == "127.0.0.1"


def test_rays_launcher_gives_the_token_and_no_keys_to_the_nodes(launched: dict[str, Any]) -> None:
    assert "--env=RAY_AUTH_MODE=token" in launched["docker"]["run_options"]
    assert set(launched["file_mounts"]) == {"/home/pipeline/.ray/auth_token"}
    assert not re.search("KEY|SECRET", str(launched["docker"]))


def test_amazons_api_takes_the_instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray's own provider, from a server that checks requests as Amazon does."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps the key that it makes
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "for-the-test")
    config = prepare_config(yaml.safe_load((CLUSTERS / "aws.yaml").read_text()))
    with s3_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        iam = boto3.client("iam")
        iam.create_role(RoleName="dr-pipeline", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="dr-pipeline")
        iam.add_role_to_instance_profile(InstanceProfileName="dr-pipeline", RoleName="dr-pipeline")
        config = bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(config))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, kind in config["available_node_types"].items():
            provider.create_node(kind["node_config"], {"ray-user-node-type": name, "ray-node-name": name}, 1)
        reservations = boto3.client("ec2").describe_instances()["Reservations"]
    instances = {instance["InstanceType"]: instance for made in reservations for instance in made["Instances"]}
    assert {name: one.get("InstanceLifecycle") for name, one in instances.items()} == {
        "m7i.xlarge": None,
        "g6e.2xlarge": "spot",
    }
    for instance in instances.values():
        assert instance["IamInstanceProfile"]["Arn"].endswith("instance-profile/dr-pipeline")
        assert instance["MetadataOptions"]["HttpTokens"] == "required"


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_SUBMISSION, ids=lambda path: path.stem)
def test_the_submitted_job_plans(path: Path, tmp_path: Path) -> None:
    text = re.sub(r"\\\n#\s*", "", path.read_text())
    (line,) = re.findall(r"^#   .*(?:ray job submit .* --|sbatch \S+) (\S*jobs/.*)$", text, re.MULTILINE)
    job, *overrides = shlex.split(line)
    elsewhere = [f"input.shards={GOLDEN / 'shards'}", f"output.path={tmp_path / 'out'}"]
    assert main(["plan", str(ROOT / job.removeprefix(IN_THE_IMAGE)), *overrides, *elsewhere]) == 0
