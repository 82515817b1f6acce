"""Train the demo's two CLIP teachers and its captioner from scratch on generated scenes with clean captions.

    python -m dr_pipeline.demo.train_teachers [--out DIR]

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

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, CoCaLoss
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dr_pipeline.demo.evaluate import CLASSES, FOLDER, Preprocess, build, figures, held_out_scenes
from dr_pipeline.demo.grammar import ATTRIBUTES, SHAPES
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.demo.training_data import SceneArrays, render_scenes
from dr_pipeline.storage import Storage

NUM_SCENES = 16_000


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. `smallest_crop` is the least part of the image's area that a crop keeps."""

    name: str
    num_steps: int
    batch_size: int
    learning_rate: float
    smallest_crop: float
    seed: int


@dataclass(frozen=True)
class TeacherRecipe(Recipe):
    """A CLIP teacher's. First, `warmup_steps` train its image tower to tell the main object's attributes.

    That is done with linear heads, which are then thrown away. A batch of detailed captions is told apart by
    backgrounds and colours, and a tower that starts with captions learns shapes only much later.
    """

    warmup_steps: int


TEACHERS = (
    TeacherRecipe("scene_clip_a", 300, 96, learning_rate=3e-3, smallest_crop=0.35, seed=1, warmup_steps=800),
    TeacherRecipe("scene_clip_b", 300, 96, learning_rate=3e-3, smallest_crop=0.35, seed=2, warmup_steps=700),
)
# The captioner sees through the first teacher's image tower, which stays as it is.
CAPTIONER = Recipe("scene_coca", 500, 96, learning_rate=2e-3, smallest_crop=0.5, seed=3)
CAPTIONER_EYES = "scene_clip_a"


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


def class_loss(model: Any, image_features_BD: torch.Tensor, class_B: torch.Tensor, tokens_KL: Any) -> Any:
    """The cross-entropy of zero-shot classification by prompts; image features are unit vectors."""
    classes_KD = model.encode_text(tokens_KL, normalize=True).float()
    return F.cross_entropy(model.logit_scale.exp() * image_features_BD.float() @ classes_KD.T, class_B)


def initialise(model: CLIP) -> None:
    """Turn residual branches on: open_clip starts them at zero, which helps deep towers but not ones so shallow."""
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(parameter)


class Batches:
    """Random crops of scenes, every scene once before any comes again."""

    def __init__(self, data: SceneArrays, preprocess: Preprocess, recipe: Recipe):
        self._data, self._preprocess, self._recipe = data, preprocess, recipe
        self.rng = np.random.default_rng(recipe.seed)
        self._order: list[int] = []

    def draw(self) -> tuple[torch.Tensor, np.ndarray]:
        """Normalised images [B, 3, size, size] and the indices [B] of their scenes."""
        batch_size = self._recipe.batch_size
        while len(self._order) < batch_size:
            self._order += self.rng.permutation(len(self._data.images_NHWC)).tolist()
        indices_B, self._order = np.array(self._order[:batch_size]), self._order[batch_size:]
        crops_BHWC = self._data.crops(indices_B, self._preprocess.size, self._recipe.smallest_crop, self.rng)
        images_BCHW = jitter(self._preprocess.normalise(crops_BHWC), self.rng)
        return images_BCHW.contiguous(memory_format=torch.channels_last), indices_B


class Captions:
    """The tokens of every caption of every scene."""

    def __init__(self, data: SceneArrays, tokenizer: WordTokenizer):
        self._tokens_NCL = torch.stack([tokenizer(captions) for captions in data.captions])

    def draw(self, indices_B: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """One caption's tokens [B, L] for each scene."""
        return self._tokens_NCL[indices_B, rng.integers(self._tokens_NCL.shape[1], size=len(indices_B))]


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


def prepare(recipe: Recipe, data_folder: Path) -> tuple[Any, WordTokenizer, SceneArrays, Batches]:
    """A fresh model in training mode, its tokenizer and its data; the same every time."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    data = SceneArrays(data_folder)
    model, preprocess, tokenizer = build(FOLDER / f"{recipe.name}.json")
    return model.train().to(memory_format=torch.channels_last), tokenizer, data, Batches(data, preprocess, recipe)


def train_teacher(recipe: TeacherRecipe, data_folder: Path, out_folder: Path) -> None:
    """Train one CLIP teacher and write out_folder/<name>.safetensors."""
    model, tokenizer, data, batches = prepare(recipe, data_folder)
    initialise(model)
    warm_up(recipe, model, data, batches)
    captions = Captions(data, tokenizer)
    prompts_KL = tokenizer([f"a {name}" for name in CLASSES])
    class_N = torch.from_numpy(data.attributes_NA[:, 0] * len(SHAPES) + data.attributes_NA[:, 1])
    contrast = ClipLoss()

    def next_loss() -> torch.Tensor:
        images_BCHW, indices_B = batches.draw()
        tokens_BL = captions.draw(indices_B, batches.rng)
        images_BD, texts_BD, scale = model(images_BCHW, tokens_BL)
        loss = class_loss(model, images_BD, class_N[indices_B], prompts_KL)
        return loss + contrast(images_BD.float(), texts_BD.float(), scale)

    fit(f"{recipe.name} captions", model, recipe.num_steps, recipe.learning_rate / 2, next_loss)
    save(model, out_folder / f"{recipe.name}.safetensors")


def warm_up(recipe: TeacherRecipe, model: CLIP, data: SceneArrays, batches: Batches) -> None:
    """Train the image tower on the main object's attributes."""
    heads = AttributeHeads(model.visual.output_dim)
    attributes_NA = torch.from_numpy(data.attributes_NA)

    def next_loss() -> torch.Tensor:
        images_BCHW, indices_B = batches.draw()
        return heads(model.encode_image(images_BCHW, normalize=False), attributes_NA[indices_B])

    both = nn.ModuleList([model.visual, heads])
    fit(f"{recipe.name} warm-up", both, recipe.warmup_steps, recipe.learning_rate, next_loss)


def train_captioner(recipe: Recipe, data_folder: Path, out_folder: Path) -> None:
    """Train the captioner on out_folder/<CAPTIONER_EYES>.safetensors and write its own weights beside them."""
    model, tokenizer, data, batches = prepare(recipe, data_folder)
    teacher = load_file(out_folder / f"{CAPTIONER_EYES}.safetensors")
    eyes = {key.removeprefix("visual."): value for key, value in teacher.items() if key.startswith("visual.")}
    model.visual.trunk.load_state_dict(eyes)
    model.visual.trunk.eval().requires_grad_(False)
    captions = Captions(data, tokenizer)
    caption_loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=0.5, pad_id=tokenizer.pad_token_id)

    def next_loss() -> torch.Tensor:
        images_BCHW, indices_B = batches.draw()
        out = model(images_BCHW, captions.draw(indices_B, batches.rng))
        return sum(caption_loss(**{key: out[key].float() if key != "labels" else out[key] for key in out}))

    fit(recipe.name, model, recipe.num_steps, recipe.learning_rate, next_loss)
    save(model, out_folder / f"{recipe.name}.safetensors")


def jitter(images_BCHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Contrast and brightness of each normalised image, a little changed."""
    batch = len(images_BCHW)
    contrast_B, brightness_B = rng.uniform(0.8, 1.25, batch), rng.uniform(-0.25, 0.25, batch)
    scale, shift = (
        torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1) for values in (contrast_B, brightness_B)
    )
    return images_BCHW * scale + shift


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
