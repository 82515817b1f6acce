"""The student's network: built by open_clip's code, trained here, and written so that plain open_clip loads it."""

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.transformer import Transformer
from safetensors.torch import save_file
from torch import nn

from dr_pipeline.config.plugins import load_class
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.device import memory_format
from dr_pipeline.networks.files import RANDOM
from dr_pipeline.networks.network import Network, assemble, fill
from dr_pipeline.networks.weights import find_weights
from dr_pipeline.storage import Storage


def build_student(job: TrainJob, device: torch.device) -> Network:
    """The network that the job trains, in training mode on its device. Raises ConfigError, ModelError."""
    student = job.student
    if student.tokenizer is not None:
        load_class(student.tokenizer, job.plugin_dirs)
    architecture = read_architecture(student.architecture, student.weights)
    if student.image_size is not None:
        architecture.config["vision_cfg"]["image_size"] = student.image_size
    module = build(architecture, job.seed)
    _check_objective(job, module)
    if student.weights != RANDOM:
        checkpoint = find_weights(student.architecture, student.weights)
        assert checkpoint is not None, "only random weights have no file"
        fill(module, student.architecture, checkpoint)
    _freeze_logit_bias(module)
    if student.grad_checkpointing:
        _save_memory(module)
    module = module.to(device)
    module = module.to(memory_format=memory_format(module)).train()
    if student.compile:
        _compile(module)
    return assemble(architecture, module, student.tokenizer, student.context_length)


def export(network: Network, state: dict[str, torch.Tensor], interpolation: str, folder: Path) -> None:
    """Write the hub's two files, which `open_clip.create_model_and_transforms("local-dir:FOLDER")` reads.

    `state` is the module's state dict, or the averaged one of the same keys; `interpolation` is the views'. The weights
    come last: a folder that has them is whole.
    """
    architecture = network.architecture
    preprocess = {"mean": architecture.mean, "std": architecture.std, "interpolation": interpolation}
    config = {"model_cfg": architecture.config, "preprocess_cfg": preprocess}
    storage = Storage()
    storage.write(str(folder / HF_CONFIG_NAME), json.dumps(config, indent=1).encode())
    with storage.staged(str(folder / HF_SAFE_WEIGHTS_NAME)) as path:
        save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, path)


def _check_objective(job: TrainJob, module: nn.Module) -> None:
    """A CoCa has a decoder, which only its own objective trains."""
    if isinstance(module, CoCa) != (job.objective == "coca"):
        other = "clip" if job.objective == "coca" else "coca"
        raise ConfigError(
            f"objective {job.objective}: student.architecture {job.student.architecture} is a {type(module).__name__}: "
            f"name another architecture, or set objective={other}"
        )


def _freeze_logit_bias(module: Any) -> None:
    """What is added to every logit changes no softmax, so no objective here trains it, and ranks need not agree on it.

    A sigmoid loss has given it its value, which is published as it is.
    """
    if getattr(module, "logit_bias", None) is not None:
        module.logit_bias.requires_grad_(False)


def _save_memory(module: Any) -> None:
    try:
        module.set_grad_checkpointing()
    except Exception as error:
        raise ModelError(f"student.grad_checkpointing: this architecture cannot: {error}") from error


def _compile(module: Any) -> None:
    """In place, so that the names of the weights stay. What runs: the image tower, and every text transformer."""
    module.visual.compile()
    for name, part in module.named_modules():
        if isinstance(part, Transformer) and not name.startswith("visual."):
            part.compile()
