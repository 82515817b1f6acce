"""Train the demo's two CLIP teachers and its captioner from scratch on generated scenes with clean captions.

    python -m dr_pipeline.demo.train_teachers [--out DIR] [--only NAME]

Seeded; each model trains in a process of its own with one thread, so the weights depend on neither the machine's
load nor its number of cores. Arithmetic is bfloat16, so another kind of processor gives slightly other weights.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from open_clip.loss import ClipLoss, CoCaLoss
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dr_pipeline.demo.evaluate import FOLDER, build, figures, held_out_scenes
from dr_pipeline.demo.training_data import SceneArrays, render_scenes

NUM_SCENES = 16_000
MAX_LOG_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `smallest_crop` is the least part of the image's area that a crop keeps."""

    name: str
    num_steps: int
    batch_size: int
    learning_rate: float
    smallest_crop: float
    seed: int


# The longest first, so that two processes end together.
RECIPES = (
    Recipe("scene_coca", num_steps=1000, batch_size=96, learning_rate=1e-3, smallest_crop=0.5, seed=3),
    Recipe("scene_clip_b", num_steps=600, batch_size=128, learning_rate=2e-3, smallest_crop=0.2, seed=2),
    Recipe("scene_clip_a", num_steps=700, batch_size=128, learning_rate=2e-3, smallest_crop=0.2, seed=1),
)


def caption_objective(model: nn.Module, images_BCHW: torch.Tensor, tokens_BL: torch.Tensor) -> torch.Tensor:
    """CoCa's loss: next words (padding does not count) and, for a well-formed image tower, image with text."""
    out = model(images_BCHW, tokens_BL)
    loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=0.5, pad_id=0)
    return sum(
        loss(out["image_features"], out["text_features"], out["logits"].float(), out["labels"], out["logit_scale"])
    )


def contrastive_objective(model: nn.Module, images_BCHW: torch.Tensor, tokens_BL: torch.Tensor) -> torch.Tensor:
    """CLIP's loss."""
    image_features, text_features, logit_scale = model(images_BCHW, tokens_BL)
    return ClipLoss()(image_features.float(), text_features.float(), logit_scale)


def initialise(model: nn.Module) -> None:
    """open_clip leaves the decoder's output projection as uninitialised memory; everything else it draws."""
    if hasattr(model, "text_decoder"):
        projection = model.text_decoder.text_projection
        nn.init.normal_(projection, std=projection.shape[0] ** -0.5)


def learning_rate(recipe: Recipe, step: int) -> float:
    """A linear warm-up of 60 steps, then a cosine to zero."""
    progress = step / recipe.num_steps
    return recipe.learning_rate * min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; gains, biases and the logit scale are not decayed."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def train(recipe: Recipe, data_folder: Path, out_folder: Path) -> str:
    """Train one model and write out_folder/<name>.safetensors in float16. Returns a line that says how it went."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    start = time.monotonic()
    data = SceneArrays(data_folder)
    model, preprocess, tokenizer = build(FOLDER / f"{recipe.name}.json")
    initialise(model)
    model.train().to(memory_format=torch.channels_last)
    objective: Callable[..., torch.Tensor] = (
        caption_objective if hasattr(model, "text_decoder") else contrastive_objective
    )
    optimizer = make_optimizer(model, recipe)
    tokens_NCL = torch.stack([tokenizer(captions) for captions in data.captions])
    order: list[int] = []
    for step in range(recipe.num_steps):
        while len(order) < recipe.batch_size:
            order += rng.permutation(len(tokens_NCL)).tolist()
        indices_B, order = np.array(order[: recipe.batch_size]), order[recipe.batch_size :]
        images_BCHW = preprocess.normalise(data.crops(indices_B, preprocess.size, recipe.smallest_crop, rng))
        images_BCHW = jitter(images_BCHW, rng).contiguous(memory_format=torch.channels_last)
        tokens_BL = tokens_NCL[indices_B, rng.integers(tokens_NCL.shape[1], size=recipe.batch_size)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        # Fused attention's bfloat16 gradient is slow on CPUs: a third of this speed for sequences this short.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = objective(model, images_BCHW, tokens_BL)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOG_LOGIT_SCALE)
        if step % 50 == 0 or step == recipe.num_steps - 1:
            print(f"{recipe.name} step {step} loss {loss.item():.3f} {time.monotonic() - start:.0f} s", flush=True)
    save(model, out_folder / f"{recipe.name}.safetensors")
    scale = model.logit_scale.exp().item()
    return f"{recipe.name}: logit scale {scale:.2f}, {time.monotonic() - start:.0f} s"


def jitter(images_BCHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Contrast and brightness of each normalised image, a little changed."""
    batch = len(images_BCHW)
    contrast_B, brightness_B = rng.uniform(0.8, 1.25, batch), rng.uniform(-0.25, 0.25, batch)
    scale, shift = (
        torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1) for values in (contrast_B, brightness_B)
    )
    return images_BCHW * scale + shift


def save(model: nn.Module, path: Path) -> None:
    """The weights in float16 (whole numbers as they are), written atomically."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    temporary = path.with_suffix(".partial")
    save_file({key: value.contiguous() for key, value in state.items()}, temporary)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's teachers.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the *.safetensors go")
    parser.add_argument("--only", nargs="*", default=[recipe.name for recipe in RECIPES], help="names of models")
    parser.add_argument("--data", type=Path, help="a folder that keeps the rendered scenes for the next run")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipes = [recipe for recipe in RECIPES if recipe.name in arguments.only]
    with tempfile.TemporaryDirectory() if arguments.data is None else nullcontext(arguments.data) as data_folder:
        folder = Path(data_folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "captions.txt").exists():
            render_scenes(folder, NUM_SCENES)
        # Else glibc gives every large tensor back to the system at once, and half the time goes to page faults.
        os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(2**40))
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(train, recipe, folder, arguments.out) for recipe in recipes]
            for job in jobs:
                print(job.result(), flush=True)
    if len(recipes) == len(RECIPES):
        print(figures(arguments.out, held_out_scenes(400)))


if __name__ == "__main__":
    main()
