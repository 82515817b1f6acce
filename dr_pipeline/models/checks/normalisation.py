"""Whether a model gets images normalised as its library records that they must be.

Two images of one colour each go in, and what arrives at the library's module tells mean and std, whatever the class
around it does with images. Shapes: B = 2 images, C = 3 channels, H = W pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dr_pipeline.config.strict import Triple, triple
from dr_pipeline.networks.images import ImageSpec

_COLOURS = ((0.2, 0.5, 0.7), (0.8, 0.3, 0.1))
_TOLERANCE = 0.02
"""Of values from 0 to 1: more than bfloat16's rounding, less than the means of any two libraries differ by."""
_DEPTH = 4
"""How many objects a module may be in, below a teacher's attributes."""
_PLAIN = (type, ModuleType, FunctionType, MethodType, torch.Tensor, str, bytes, int, float)


class Recorded(NamedTuple):
    """A library's module in a model, and what the library records of its images."""

    library: str
    module: nn.Module
    mean: Triple
    std: Triple


def check_normalisation(model: Any, spec: ImageSpec, run: Callable[[torch.Tensor], object]) -> tuple[str, list[str]]:
    """What is known of the images that a model takes, in a few words, and what is wrong with them, a sentence each.

    `run` computes a batch of normalised images in host memory.
    """
    problems, confirmed = [], ""
    for record in (record for module in _modules_in(model, _DEPTH) for record in _recorded(module)):
        arriving = _arriving(record.module, spec, run)
        if arriving is None:
            continue
        recorded = f"mean {_shown(record.mean)} and std {_shown(record.std)}"
        pairs = zip((*arriving[0], *arriving[1]), (*record.mean, *record.std), strict=True)
        if all(abs(found - wanted) < _TOLERANCE for found, wanted in pairs):
            confirmed = f"; they reach {record.library} with {recorded}, as it records"
        else:
            problems.append(
                f"images reach {record.library}'s {type(record.module).__name__} with mean {_shown(arriving[0])} and "
                f"std {_shown(arriving[1])}, but {record.library} records {recorded} for it: correct spec or, where "
                "the weights were trained otherwise, that record"
            )
    known = f"{spec.image_size} px, mean {_shown(spec.mean)}, std {_shown(spec.std)}"
    return known + (confirmed if not problems else ""), problems


def _modules_in(value: Any, depth: int) -> Iterator[nn.Module]:
    """The modules among an object's attributes, and those of the objects and collections there."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and not isinstance(value, _PLAIN):
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        for part in [*inner, *getattr(value, "__dict__", {}).values()]:
            yield from _modules_in(part, depth - 1)


def _recorded(module: nn.Module) -> Iterator[Recorded]:
    """A module's record, or those of the modules in it."""
    home = type(module).__module__.partition(".")[0]
    if home == "transformers":
        record, library = _processor_of(module), "transformers"
    elif home == "open_clip" and isinstance(getattr(module, "visual", None), nn.Module):
        record, library = getattr(module.visual, "preprocess_cfg", None), "open_clip"
    else:
        record, library = getattr(module, "pretrained_cfg", None), "timm"
        if not isinstance(record, Mapping):
            for child in module.children():
                yield from _recorded(child)
    if isinstance(record, Mapping) and record.get("mean") and record.get("std"):
        yield Recorded(library, module, tuple(record["mean"]), tuple(record["std"]))


def _processor_of(module: Any) -> Mapping[str, Any] | None:
    """What the image processor beside a model's files says; None where there is none."""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(module.name_or_path, local_files_only=True)
    except Exception:  # a model of texts, or one that was never saved: each is another error
        return None
    normalises = getattr(processor, "do_normalize", True)
    return {
        "mean": processor.image_mean if normalises else (0.0, 0.0, 0.0),
        "std": processor.image_std if normalises else (1.0, 1.0, 1.0),
    }


def _arriving(
    module: nn.Module, spec: ImageSpec, run: Callable[[torch.Tensor], object]
) -> tuple[Triple, Triple] | None:
    """The mean and std with which images arrive at a module; None where it is not seen to get any."""
    seen: list[torch.Tensor] = []
    parts = {id(part) for part in module.modules()}

    def look(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        images = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
        if id(part) in parts and not seen and images is not None and images.ndim == 4 and images.shape[1] == 3:
            seen.append(images[:, :, images.shape[2] // 2, images.shape[3] // 2].detach().float().cpu())

    mean_C, std_C, colours_BC = torch.tensor(spec.mean), torch.tensor(spec.std), torch.tensor(_COLOURS)
    images_BCHW = ((colours_BC - mean_C) / std_C)[..., None, None].expand(-1, -1, spec.image_size, spec.image_size)
    hook = register_module_forward_pre_hook(look)
    try:
        run(images_BCHW.contiguous())
    finally:
        hook.remove()
    if not seen or len(seen[0]) != len(_COLOURS):
        return None
    arrived_BC = seen[0]
    found_std_C = (colours_BC[0] - colours_BC[1]) / (arrived_BC[0] - arrived_BC[1])
    found_mean_C = colours_BC[0] - arrived_BC[0] * found_std_C
    return triple(found_mean_C.tolist()), triple(found_std_C.tolist())


def _shown(triple: Triple) -> str:
    return "/".join(f"{value:.3f}".rstrip("0").rstrip(".") for value in triple)
