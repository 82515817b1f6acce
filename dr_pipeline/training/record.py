"""about.json: what a run's folder says of the run beside its identity: what it is called, how large it is, what it is
measured on, and each start of its processes.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

from dr_pipeline.config.training import TrainJob
from dr_pipeline.networks.classifier import Classifier
from dr_pipeline.networks.device import used_precision
from dr_pipeline.networks.network import Network
from dr_pipeline.redaction import without_secrets_in
from dr_pipeline.storage import Storage
from dr_pipeline.training.data.training_set import TrainingSet

_FILE = "about.json"
_WITHOUT_STORAGE: dict[str, Any] = {kind: {"__all__": {"storage"}} for kind in ("classification", "retrieval")}


def record_start(
    job: TrainJob, training_set: TrainingSet, network: Network | Classifier, step: int, world_size: int
) -> None:
    """Write about.json anew, with this start behind the earlier ones; `step`: the steps that were taken before."""
    folder, device = Path(job.run.path), next(network.module.parameters()).device
    starts = read_record(folder).get("starts", [])
    start = {
        "step": step,
        "time": round(time.time(), 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "ranks": world_size,
        "precision": used_precision(device, job.run.precision),
    }
    tasks = job.evaluation.model_dump(mode="json", exclude={"every": True, **_WITHOUT_STORAGE})
    record = {
        "name": job.name,
        "last_step": job.schedule.last_step,
        "student": {
            "name": network.name,
            "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
            "image_size": network.image.image_size,
        },
        "data": {"num_shards": len(training_set.uris), "num_samples": training_set.num_samples},
        "teachers": [_describe(training_set, teacher.name, teacher.dim) for teacher in training_set.compared],
        "evaluation": without_secrets_in(tasks),
        "starts": [*starts, start] if step < job.schedule.last_step else starts,
    }
    Storage().write(str(folder / _FILE), json.dumps(record, indent=1).encode())


def read_record(folder: Path) -> dict[str, Any]:
    """The content of about.json; empty for a run of an earlier version, which wrote none."""
    try:
        record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _describe(training_set: TrainingSet, name: str, dim: int) -> dict[str, Any]:
    """A teacher of the loss: its dims, its logit scale, and the weight of its affinity loss where it has one."""
    said: dict[str, Any] = {"name": name, "dim": dim}
    if name in training_set.scales:
        said["logit_scale"] = training_set.scales[name]
    if name in training_set.affinities:
        said["affinity_weight"], said["affinity_logit_scale"] = training_set.affinities[name]
    return said
