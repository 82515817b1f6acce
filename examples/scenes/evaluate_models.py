"""How good the demo's models are on scenes that they have not seen.

    python examples/scenes/evaluate_models.py [--scenes 400]

prints the zero-shot (shape × colour) accuracy of each teacher and the share of scenes whose greedy caption names the
main object's shape and colour.
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import load_file

import dr_pipeline.demo
from dr_pipeline.demo.captioner import ConvCoCa
from dr_pipeline.demo.grammar import COLOURS, SHAPES
from dr_pipeline.demo.held_out import CLASSES, PROMPTS
from dr_pipeline.demo.scenes import HELD_OUT_SEED, Scene, draw_scene
from dr_pipeline.demo.tokenizer import WordTokenizer

FOLDER = Path(dr_pipeline.demo.__file__).parent
"""Where the configs and weights are."""
TEACHERS = ("scene_clip_a", "scene_clip_b")
CAPTIONER = "scene_coca"
MAIN_OBJECT = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Preprocess:
    """Short side to `size` (bicubic, antialiased), centre crop, (x / 255 - mean) / std."""

    size: int
    mean: list[float]
    std: list[float]

    def normalise(self, images_BHWC: np.ndarray) -> torch.Tensor:
        """uint8 images of `size` → float32 [B, 3, size, size]."""
        images_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).float() / 255
        return (images_BCHW - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def __call__(self, images: list[Image.Image]) -> torch.Tensor:
        return self.normalise(np.stack([self._centre(image) for image in images]))

    def _centre(self, image: Image.Image) -> np.ndarray:
        short = min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        box = (left, top, left + short, top + short)
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))


def build(config_path: Path) -> tuple[CLIP | ConvCoCa, Preprocess, WordTokenizer]:
    """The untrained model of a config, its preprocessing and its tokenizer."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    model_cfg = config["model_cfg"]
    model = ConvCoCa(**model_cfg) if "multimodal_cfg" in model_cfg else CLIP(**model_cfg)
    return model, Preprocess(**config["preprocess_cfg"]), WordTokenizer(model_cfg["text_cfg"]["context_length"])


def load(name: str, folder: Path = FOLDER) -> tuple[CLIP | ConvCoCa, Preprocess, WordTokenizer]:
    """A trained model of the demo in float32 (weights are stored in float16), ready for inference."""
    model, preprocess, tokenizer = build(FOLDER / f"{name}.json")
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return model.eval(), preprocess, tokenizer


def held_out_scenes(count: int) -> list[Scene]:
    return [draw_scene(HELD_OUT_SEED, index) for index in range(count)]


@torch.inference_mode()
def zero_shot_accuracy(
    encode_image: Encode, encode_text: Encode, preprocess: Preprocess, tokenizer: WordTokenizer, scenes: list[Scene]
) -> float:
    """The part of scenes whose main object is the class, of all (shape × colour), whose prompts are nearest."""
    prompts = [prompt.format(name) for name in CLASSES for prompt in PROMPTS]
    prompts_KPD = F.normalize(encode_text(tokenizer(prompts)), dim=-1).unflatten(0, (len(CLASSES), len(PROMPTS)))
    classes_KD = F.normalize(prompts_KPD.mean(1), dim=-1)
    right = 0
    for start in range(0, len(scenes), 100):
        batch = scenes[start : start + 100]
        nearest = (encode_image(preprocess([scene.image for scene in batch])) @ classes_KD.T).argmax(1).tolist()
        right += sum(CLASSES[index] == scene.truth.main.name for index, scene in zip(nearest, batch, strict=True))
    return right / len(scenes)


def main_object(caption: str) -> str | None:
    """The object that a caption names first, such as "red circle". The scenes' captions name the main one first."""
    match = MAIN_OBJECT.search(caption)
    return match.group(0) if match else None


def caption_accuracy(captions: list[str], scenes: list[Scene]) -> float:
    """The part of captions that name the right shape and colour of the main object."""
    return sum(main_object(c) == s.truth.main.name for c, s in zip(captions, scenes, strict=True)) / len(scenes)


@torch.inference_mode()
def greedy_captions(model: ConvCoCa, images_BCHW: torch.Tensor, tokenizer: WordTokenizer) -> list[str]:
    """The likeliest next word until the end, without a cache: the plain meaning of greedy decoding."""
    latent, embs = model._encode_image(images_BCHW)
    tokens_BL = torch.full((len(images_BCHW), 1), tokenizer.sot_token_id)
    while tokens_BL.shape[1] < tokenizer.context_length:
        logits = model(None, tokens_BL, image_latent=latent, image_embs=embs, output_labels=False)["logits"]
        tokens_BL = torch.cat([tokens_BL, logits[:, -1:].argmax(-1)], 1)
        if (tokens_BL == tokenizer.eot_token_id).any(1).all():
            break
    rows = [[*row, tokenizer.eot_token_id] for row in tokens_BL.tolist()]
    return [tokenizer.decode(row[: row.index(tokenizer.eot_token_id)]) for row in rows]


def figures(folder: Path, scenes: list[Scene]) -> dict[str, float]:
    """Each model's figure, by name; weights from `folder`."""
    result = {}
    for name in TEACHERS:
        model, preprocess, tokenizer = load(name, folder)
        result[name] = zero_shot_accuracy(model.encode_image, model.encode_text, preprocess, tokenizer, scenes)
    model, preprocess, tokenizer = load(CAPTIONER, folder)
    captions = greedy_captions(model, preprocess([scene.image for scene in scenes]), tokenizer)
    return {**result, CAPTIONER: caption_accuracy(captions, scenes)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the demo's models on held-out scenes.")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--weights", type=Path, default=FOLDER, help="the folder of the *.safetensors")
    arguments = parser.parse_args()
    print(json.dumps(figures(arguments.weights, held_out_scenes(arguments.scenes))))


if __name__ == "__main__":
    main()
