"""The student's network: built by the code of open_clip or timm, and written so that the same library loads it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.transformer import Transformer
from safetensors.torch import save_file

from dr_pipeline.config.plugins import load_class
from dr_pipeline.config.training import Student, TrainJob
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.networks.architecture import Architecture, build, read_architecture
from dr_pipeline.networks.classifier import CLASSIFIER_FILES, TIMM, Classifier, describe_classifier
from dr_pipeline.networks.device import memory_format
from dr_pipeline.networks.files import RANDOM
from dr_pipeline.networks.launching import runs_kernels
from dr_pipeline.networks.network import Network, assemble, fill
from dr_pipeline.networks.positions import fit_image_positions, fit_text_positions
from dr_pipeline.networks.timm_models import build_timm, load_timm
from dr_pipeline.networks.weights import Fit, find_weights
from dr_pipeline.storage import Storage


def build_student(job: TrainJob, device: torch.device) -> Network | Classifier:
    """The network that the job trains, in training mode on its device. Raises ConfigError, ModelError."""
    return _build_classifier(job, device) if job.objective == "classify" else _build_clip(job, device)


def _build_classifier(job: TrainJob, device: torch.device) -> Classifier:
    """See `build_student`."""
    student, num_classes = job.student, job.student.num_classes
    assert num_classes is not None, "the job was checked"
    name = student.architecture.removeprefix(TIMM)
    if student.weights == RANDOM:
        module, image = build_timm(name, num_classes, student.image_size, job.seed)
    else:
        module, image = load_timm(name, student.weights, num_classes, student.image_size)
    module = _placed(module, student, device)
    if student.compile:
        module.compile()
    return Classifier(name, module, image, num_classes)


def _build_clip(job: TrainJob, device: torch.device) -> Network:
    """See `build_student`."""
    student = job.student
    if student.tokenizer is not None:
        load_class(student.tokenizer, job.plugin_dirs)
    architecture = read_architecture(student.architecture, student.weights)
    fits: list[Fit] = [partial(fit_text_positions, positions=student.positions)]
    if student.image_size is not None:
        architecture.config["vision_cfg"]["image_size"] = student.image_size
        fits.append(fit_image_positions)
    _lengthen(architecture, student)
    module: Any = build(architecture, job.seed)
    if student.weights != RANDOM:
        checkpoint = find_weights(student.architecture, student.weights)
        assert checkpoint is not None, "only random weights have no file"
        fill(module, student.architecture, checkpoint, *fits)
    if getattr(module, "logit_bias", None) is not None:
        # A constant that is added to every logit changes no softmax: no loss here trains it, and it stays as it is.
        module.logit_bias.requires_grad_(False)
    module = _placed(module, student, device)
    if device.type == "cuda" and runs_kernels(device):
        from dr_pipeline.networks.depthwise import use_own_gradients  # Triton, which torch has for GPUs alone

        use_own_gradients(module)
    if student.compile:
        # In place, so that the names of the weights stay: the image tower, and every text transformer.
        module.visual.compile()
        for name, part in module.named_modules():
            if isinstance(part, Transformer) and not name.startswith("visual."):
                part.compile()
    return assemble(architecture, module, student.tokenizer, student.context_length)


def _placed(module: Any, student: Student, device: torch.device) -> Any:
    """The module on its device, in training mode. Raises ModelError where it cannot compute activations twice."""
    if student.grad_checkpointing:
        try:
            module.set_grad_checkpointing()
        except Exception as error:
            raise ModelError(f"student.grad_checkpointing: this architecture cannot: {error}") from error
    module = module.to(device)
    return module.to(memory_format=memory_format(module)).train()


def _lengthen(architecture: Architecture, student: Student) -> None:
    """Have the architecture take texts of `student.context_length` where that is more than it does by itself.

    CoCa's decoder, which has no positions of its own, takes as many tokens. Raises ConfigError where the job does not
    say how the positions become more.
    """
    length, limit = student.context_length, architecture.context_length
    if length is None or length <= limit:
        return
    if student.positions is None:
        raise ConfigError(
            f"student.context_length is {length}; the text tower of {student.architecture} takes {limit}: set that or "
            "less, or student.positions to interpolate, stretch or extend, which gives it more positions"
        )
    for tower in ("text_cfg", "multimodal_cfg"):
        if tower in architecture.config:
            architecture.config[tower]["context_length"] = length


def export(network: Network | Classifier, state: dict[str, torch.Tensor], interpolation: str, folder: Path) -> None:
    """Write two files, which open_clip's `create_model_and_transforms("local-dir:FOLDER")` reads, or for a classifier
    timm's `create_model("local-dir:FOLDER", pretrained=True)`.

    `state` is the state dict of the module, or of its moving average; `interpolation` is that of the views. The weights
    are written last: a folder that has them is whole.
    """
    if isinstance(network, Classifier):
        config_name, weights_name = CLASSIFIER_FILES
        config = describe_classifier(network, interpolation)
    else:
        config_name, weights_name = HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
        architecture = network.architecture
        preprocess = {"mean": architecture.mean, "std": architecture.std, "interpolation": interpolation}
        config = {"model_cfg": architecture.config, "preprocess_cfg": preprocess}
    storage = Storage()
    storage.write(str(folder / config_name), json.dumps(config, indent=1).encode())
    with storage.staged(str(folder / weights_name)) as path:
        save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, path)
