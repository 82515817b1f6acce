"""Models of transformers as their authors save them, in a folder, package://module/folder or hf-hub:org/repo."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor
from transformers.utils.logging import disable_progress_bar

from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.errors import HubError, ModelError
from dr_pipeline.networks.files import HUB, how_to_get, hub_place, packaged
from dr_pipeline.networks.images import ImageSpec

COMPARED_PARAMETERS = 1_000_000_000
"""A model with more parameters is not loaded in float32 where it is to be rounded, only to be compared with it."""
_PROBE = 256
"""Pixels of a side of the images from which a processor's mean and std are found."""


def load_module(loader: Any, model: str, unused: tuple[str, ...] = (), weights_dtype: torch.dtype | None = None) -> Any:
    """The module that an `AutoModel…` class of transformers makes of a model, in float32 and on the CPU.

    One with more than COMPARED_PARAMETERS is in `weights_dtype`, where that is given: the one that its weights will be
    rounded to, tensor by tensor as they are read.
    Raises ModelError where it cannot be read, and where its weights leave out a part of it, which transformers would
    fill with random numbers; parts whose names begin with one of `unused` may be left out.
    """
    disable_progress_bar()  # as long as the process lives: a worker's log is no terminal
    dtype = weights_dtype or torch.float32
    module, found = read_pretrained(loader, model, dtype=dtype, output_loading_info=True)
    if dtype != torch.float32 and module.num_parameters() <= COMPARED_PARAMETERS:
        module, found = read_pretrained(loader, model, dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(unused))
    if missing:
        shown = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
        raise ModelError(f"model {model}: its weights lack {len(missing)} of {type(module).__name__}'s: {shown}")
    return module


def build_without_weights(loader: Any, model: str) -> Any:
    """The module of a model on the meta device, which takes no memory. Raises as `read_pretrained`."""
    config = read_pretrained(AutoConfig, model)
    with torch.device("meta"):
        return loader.from_config(config)


def image_spec(model: str) -> ImageSpec:
    """The images that a model's own processor makes, found by having it make a black and a white one.

    Raises ModelError where there is no processor, or where it makes no squares.
    """
    processor = read_pretrained(AutoImageProcessor, model)
    made = [processor(Image.new("RGB", (_PROBE, _PROBE), colour), return_tensors="pt") for colour in ("black", "white")]
    black, white = (one["pixel_values"] for one in made)
    if "spatial_shapes" in made[0]:  # SigLIP 2 with NaFlex: rows of patches, each pixel after pixel
        height, width = (side * processor.patch_size for side in made[0]["spatial_shapes"][0].tolist())
        black_3, white_3 = black[0, 0, :3], white[0, 0, :3]
    else:
        height, width = black.shape[2:]
        black_3, white_3 = black[0, :, height // 2, width // 2], white[0, :, height // 2, width // 2]
    if height != width:
        raise ModelError(f"model {model}: takes images of {height}×{width}; only square views are made")
    std_3 = 1 / (white_3 - black_3)
    named = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    if torch.allclose(-black_3 * std_3, named[0], atol=1e-4) and torch.allclose(std_3, named[1], atol=1e-4):
        return ImageSpec(height, tuple(processor.image_mean), tuple(processor.image_std))  # to the last digit
    return ImageSpec(height, tuple((-black_3 * std_3).tolist()), tuple(std_3.tolist()))


def read_pretrained(loader: Any, model: str, **options: Any) -> Any:
    """What a class of transformers, such as AutoConfig, reads of a model. No code that lies beside the model is run.

    Raises HubError where the hub cannot be reached, else ModelError: each says what is missing, and how to get it.
    """
    if model.startswith(HUB):
        place = hub_place(model.removeprefix(HUB))
    else:
        folder = packaged(model) if model.startswith(PACKAGE_SCHEME) else Path(model).expanduser()
        if not folder.is_dir():
            raise ModelError(f"model {model}: no folder there; write {HUB}org/repo for a model of the hub")
        place = hub_place(str(folder))
    where, revision = place["repo_id"], place["revision"] or "main"
    try:
        return loader.from_pretrained(where, revision=revision, trust_remote_code=False, **options)
    except Exception as error:
        what = {"AutoConfig": "configuration", "AutoTokenizer": "tokenizer", "AutoImageProcessor": "image processor"}
        part = what.get(loader.__name__, "weights")
        kind = HubError if model.startswith(HUB) and isinstance(error, OSError) else ModelError
        raise kind(f"model {model}: its {part}: {how_to_get(where, loader.__name__, error)}") from error
