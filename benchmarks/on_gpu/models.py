"""The recipe's architectures with random weights, made on the device itself: there it takes a second, not a minute."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.models.coca import CocaCaptioner
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.precision import load_ensemble
from dr_pipeline.networks.device import Precision
from on_gpu.bench import Bench

TEACHER, CAPTIONER = "ViT-L-14", "coca_ViT-L-14"

_PEAK = 12.0
_COMMON = ("red", "large", "striped", "circle", "on", "plain", "green", "seen", "from", "left", "with", "small", "blue")
_VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


class Teacher(OpenClipTeacher):
    """A teacher of the job's cards."""

    def __init__(self, device: torch.device, model: str, weights: str = "random"):
        torch.manual_seed(0)  # the device's generator, too: the same weights each time
        with device:
            super().__init__(device, model, weights)


class Captioner(CocaCaptioner):
    """A captioner as sure of its words as a trained one, whose top-p sets are some words and not half of them all."""

    def __init__(self, device: torch.device, model: str, weights: str = "random"):
        with device:
            super().__init__(device, model, weights)
        self._model.text_decoder.text_projection.mul_(_PEAK)


JOB_FORMS: dict[str, tuple[Precision, bool]] = {
    "bfloat16 weights": ("bfloat16", False),
    "bfloat16 weights, compiled": ("bfloat16", True),
    "float8": ("float8", False),
    "float8, compiled": ("float8", True),
}
"""The precisions of a job's teachers, and whether they are compiled."""


def two_teachers(bench: Bench, model: str, precision: Precision) -> Ensemble:
    """As a job of two teachers has them."""
    cards = [
        TeacherCard(name=str(number), use="on_gpu.models:Teacher", options={"model": model}) for number in range(2)
    ]
    return load_ensemble(cards, bench.device, precision)[0]


def largest_error(columns: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """The mean of 1 - cosine, of the teacher that has the larger one; all rows have norm 1."""
    return max(float((1 - (columns[name].astype(float) * exact[name]).sum(axis=1)).mean()) for name in exact)


def write_tiny(folder: Path) -> tuple[str, str]:
    """Architectures of a teacher and a captioner for dry runs: files that a card names."""
    vision = {**_VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**_TEXT, "embed_cls": True, "output_tokens": True, "context_length": 76}
    trees: dict[str, dict[str, Any]] = {
        "clip.json": {"embed_dim": 32, "vision_cfg": _VISION, "text_cfg": _TEXT},
        "coca.json": {
            "embed_dim": 32,
            "vision_cfg": vision,
            "text_cfg": text,
            "multimodal_cfg": {**_TEXT, "context_length": 76},
            "custom_text": True,
        },
    }
    for name, tree in trees.items():
        (folder / name).write_text(json.dumps({"model_cfg": tree}))
    return str(folder / "clip.json"), str(folder / "coca.json")


def texts_of(num_texts: int, num_words: int) -> list[str]:
    """Distinct texts of so many common words."""
    length = len(_COMMON)
    return [
        " ".join(
            [f"{number:04d}"]
            + [_COMMON[(number * 7 + place * (1 + number % 5)) % length] for place in range(num_words)]
        )
        for number in range(num_texts)
    ]
