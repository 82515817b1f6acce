"""Train the demo's two CLIP teachers and its captioner from scratch on generated scenes with clean captions.

    python examples/scenes/train_teachers.py [--out FOLDER]

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
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from evaluate_models import FOLDER, build, figures, held_out_scenes
from open_clip.loss import ClipLoss, CoCaLoss
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from training_data import ATTRIBUTES, TrainingData, render_scenes

from dr_pipeline.demo.grammar import SHAPES
from dr_pipeline.demo.held_out import CLASSES
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.storage import Storage

NUM_SCENES = 16_000


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `smallest_crop` is the least part of the image's area that a crop keeps.

    A teacher's first `warmup_steps` train its image tower to tell the main object's attributes, by linear heads that
    are then thrown away: a batch of detailed captions is told apart by backgrounds and colours, and a tower that starts
    with captions learns shapes only much later.
    """

    name: str
    num_steps: int
    batch_size: int
    learning_rate: float
    smallest_crop: float
    seed: int
    warmup_steps: int = 0


TEACHERS = (
    Recipe("scene_clip_a", 300, 96, learning_rate=3e-3, smallest_crop=0.35, seed=1, warmup_steps=800),
    Recipe("scene_clip_b", 300, 96, learning_rate=3e-3, smallest_crop=0.35, seed=2, warmup_steps=700),
)
CAPTIONER = Recipe("scene_coca", 500, 96, learning_rate=2e-3, smallest_crop=0.5, seed=3)
CAPTIONER_EYES = "scene_clip_a"
"""The teacher whose image tower, frozen, is the captioner's."""


class AttributeHeads(nn.Module):
    """Linear classifiers of the main object's attributes on image features that are not normalised."""

    def __init__(self, dim: int):
        super().__init__()
        self._sizes = [len(choices) for choices in ATTRIBUTES.values()]
        self.linear = nn.Linear(dim, sum(self._sizes))

    def forward(self, image_features_BD: torch.Tensor, attributes_BA: torch.Tensor) -> torch.Tensor:
        """The sum over attributes of the cross-entropy; `attributes_BA` are the true ones' indices."""
        heads = self.linear(image_features_BD).float().split(self._sizes, dim=1)
        return torch.stack([F.cross_entropy(*pair) for pair in zip(heads, attributes_BA.T, strict=True)]).sum()


def learning_rate(peak: float, step: int, num_steps: int) -> float:
    """A linear rise of 60 steps and a cosine to zero."""
    return peak * min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def fit(label: str, module: nn.Module, num_steps: int, peak: float, next_loss: Callable[[], torch.Tensor]) -> None:
    """AdamW on `module` with the losses of `next_loss`, in bfloat16; gains, biases and scales are not decayed."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    start = time.monotonic()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, num_steps)
        # Fused attention's bfloat16 gradient is slow on CPUs: a third of this speed for sequences this short.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = next_loss()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == num_steps - 1:
            print(f"{label} step {step} loss {loss.item():.3f} {time.monotonic() - start:.0f} s", flush=True)


def prepare(recipe: Recipe, data_folder: Path) -> tuple[Any, WordTokenizer, TrainingData]:
    """A fresh model in training mode, its tokenizer and its data; the same every time."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    model, preprocess, tokenizer = build(FOLDER / f"{recipe.name}.json")
    data = TrainingData(data_folder, preprocess, tokenizer, recipe.batch_size, recipe.smallest_crop, recipe.seed)
    return model.train().to(memory_format=torch.channels_last), tokenizer, data


def train_teacher(recipe: Recipe, data_folder: Path, out_folder: Path) -> None:
    """Train one CLIP teacher and write out_folder/<name>.safetensors."""
    model, tokenizer, data = prepare(recipe, data_folder)
    for name, parameter in model.named_parameters():
        # open_clip starts residual branches at zero, which helps deep towers but not ones so shallow.
        if name.endswith("bn3.weight"):
            nn.init.ones_(parameter)
    heads = AttributeHeads(model.visual.output_dim)

    def attribute_loss() -> torch.Tensor:
        images_BCHW, indices_B = data.draw_images()
        return heads(model.encode_image(images_BCHW, normalize=False), data.attributes_NA[indices_B])

    both = nn.ModuleList([model.visual, heads])
    fit(f"{recipe.name} warm-up", both, recipe.warmup_steps, recipe.learning_rate, attribute_loss)

    prompts_KL = tokenizer([f"a {name}" for name in CLASSES])
    class_N = data.attributes_NA[:, 0] * len(SHAPES) + data.attributes_NA[:, 1]
    contrast = ClipLoss()

    def caption_loss() -> torch.Tensor:
        """The contrastive loss, and the cross-entropy of zero-shot classification by prompts."""
        images_BCHW, indices_B = data.draw_images()
        images_BD, texts_BD, scale = model(images_BCHW, data.draw_captions(indices_B))
        classes_KD = model.encode_text(prompts_KL, normalize=True).float()
        logits_BK = model.logit_scale.exp() * images_BD.float() @ classes_KD.T
        return F.cross_entropy(logits_BK, class_N[indices_B]) + contrast(images_BD.float(), texts_BD.float(), scale)

    fit(f"{recipe.name} captions", model, recipe.num_steps, recipe.learning_rate / 2, caption_loss)
    save(model, out_folder / f"{recipe.name}.safetensors")


def train_captioner(recipe: Recipe, data_folder: Path, out_folder: Path) -> None:
    """Train the captioner on out_folder/<CAPTIONER_EYES>.safetensors and write its own weights beside them."""
    model, tokenizer, data = prepare(recipe, data_folder)
    teacher = load_file(out_folder / f"{CAPTIONER_EYES}.safetensors")
    eyes = {key.removeprefix("visual."): value for key, value in teacher.items() if key.startswith("visual.")}
    model.visual.trunk.load_state_dict(eyes)
    model.visual.trunk.eval().requires_grad_(False)
    coca_loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=0.5, pad_id=tokenizer.pad_token_id)

    def next_loss() -> torch.Tensor:
        images_BCHW, indices_B = data.draw_images()
        out = model(images_BCHW, data.draw_captions(indices_B))
        return sum(coca_loss(**{key: out[key].float() if key != "labels" else out[key] for key in out}))

    fit(recipe.name, model, recipe.num_steps, recipe.learning_rate, next_loss)
    save(model, out_folder / f"{recipe.name}.safetensors")


def save(model: Any, path: Path) -> None:
    """The weights in float16 (whole numbers as they are), written atomically."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    with Storage().staged(str(path)) as temporary:
        save_file({key: value.contiguous() for key, value in state.items()}, temporary)


def train_all(data_folder: Path, out_folder: Path) -> None:
    """Both teachers at once, and the captioner as soon as the teacher that it sees through is there."""
    # Else glibc gives every large tensor back to the system at once, and half the time goes to page faults.
    os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(2**40))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {recipe.name: pool.submit(train_teacher, recipe, data_folder, out_folder) for recipe in TEACHERS}
        jobs[CAPTIONER_EYES].result()
        jobs[CAPTIONER.name] = pool.submit(train_captioner, CAPTIONER, data_folder, out_folder)
        for job in jobs.values():
            job.result()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's teachers.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the *.safetensors go")
    out_folder: Path = parser.parse_args().out
    out_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data_folder:
        render_scenes(Path(data_folder), NUM_SCENES)
        train_all(Path(data_folder), out_folder)
    print(figures(out_folder, held_out_scenes(400)))


if __name__ == "__main__":
    main()
