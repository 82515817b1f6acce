"""Whether a dataset is whole: it is not while a run writes it, nor where its last run was stopped or killed."""

from typing import Any

from dr_pipeline.dataset.config_json import read_config
from dr_pipeline.dataset.paths import RUN
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from dr_pipeline.storage.lease import read_lease


def why_unfinished(root: str, config: dict[str, Any], storage: Storage) -> str:
    """Why a dataset with this config.json is not whole, and what to do; "" where it is, or another program made it.

    Whether the run that is named lives is not asked: where that takes half a minute, `status` takes it.
    """
    if "dr_pipeline" not in config:
        return ""
    lease = read_lease(root, RUN, storage)
    if lease is not None:
        host, _, _ = str(lease.get("host", "an unknown machine")).partition(",")
        run = f"the run that is process {lease.get('pid')} on {host} has not ended"
        return f"not whole: {run}, and writes it, or was killed: `dr-pipeline status {root}` tells which"
    if "manifest_sha256" not in config["dr_pipeline"]:
        return "not whole: its last run was stopped before its end: run the job again to go on"
    return ""


def no_shard(root: str, what_for: str, storage: Storage) -> ConfigError:
    """What to raise where a dataset has no shard to inspect, to verify, …"""
    why = why_unfinished(root, read_config(root, storage), storage)
    advice = "name the folder that a run writes, its output.path"
    return ConfigError(f"{root}: no shard here to {what_for}{' yet' if why else ''}: {why or advice}")
