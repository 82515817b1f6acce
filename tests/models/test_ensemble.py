"""The ensemble: every teacher sees the views as given, and no row depends on its batch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dr_pipeline.errors import ModelError
from dr_pipeline.models.ensemble import Ensemble, check_embeddings
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec
from dr_pipeline.networks.device import autocast, pick_device
from dr_pipeline.networks.images import prepare

CPU = torch.device("cpu")
TEXTS = ["a dog", "", "a small red circle on sand " * 6, "two blue squares"]


def teacher(folder: Path, name: str, dim: int, size: int, mean: float) -> OpenClipTeacher:
    config = {
        "model_cfg": {
            "embed_dim": dim,
            "vision_cfg": {"image_size": size, "layers": 2, "width": 64, "patch_size": 16},
            "text_cfg": {"context_length": 24, "vocab_size": 1000, "width": 32, "heads": 2, "layers": 2},
        },
        "preprocess_cfg": {"mean": [mean, 0.5, 0.4], "std": [0.25, mean, 0.5]},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return OpenClipTeacher(CPU, str(path), "random", tokenizer="dr_pipeline.demo.tokenizer:WordTokenizer")


@pytest.fixture
def trio(tmp_path: Path) -> list[tuple[str, OpenClipTeacher]]:
    """Sizes 48, 64 and 48: the first and last share a size but no mean, the middle one is the views' size."""
    made = [("a", 24, 48, 0.3), ("b", 16, 64, 0.5), ("c", 8, 48, 0.6)]
    return [(name, teacher(tmp_path, name, dim, size, mean)) for name, dim, size, mean in made]


@pytest.fixture
def views() -> np.ndarray:
    """Smooth uint8 views [6, 64, 64, 3]: noise alone would hide a resampling that is off by a pixel."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)) for image in coarse])


def test_teachers_of_different_sizes_equal_each_run_alone(
    trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray
) -> None:
    together = Ensemble(trio, CPU)
    assert together.names == ["a", "b", "c"]
    assert together.dims == [24, 16, 8]
    image_emb, text_emb = together.embed_images(views), together.embed_texts(TEXTS)
    assert image_emb.shape == (6, 48)
    assert image_emb.dtype == text_emb.dtype == torch.float32
    assert text_emb.shape == (4, 48)
    alone = [Ensemble([pair], CPU) for pair in trio]
    assert torch.equal(image_emb, torch.cat([single.embed_images(views) for single in alone], dim=1))
    assert torch.equal(text_emb, torch.cat([single.embed_texts(TEXTS) for single in alone], dim=1))


def test_each_slice_is_the_teachers_own_unit_embedding_of_the_resampled_view(
    trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray
) -> None:
    image_emb = Ensemble(trio, CPU).embed_images(views)
    start = 0
    for _, single in trio:
        spec = single.spec
        pixels = torch.from_numpy(views).permute(0, 3, 1, 2).float()
        if spec.image_size != 64:
            pixels = F.interpolate(pixels, (spec.image_size,) * 2, mode="bicubic", antialias=True).clamp(0, 255)
        mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
        expected = F.normalize(single.encode_images((pixels / 255 - mean) / std), dim=1)
        part = image_emb[:, start : start + spec.dim]
        torch.testing.assert_close(part, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(part.norm(dim=1), torch.ones(6))
        start += spec.dim


def test_a_row_does_not_depend_on_its_batch(trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray) -> None:
    ensemble = Ensemble(trio, CPU)
    whole_images, whole_texts = ensemble.embed_images(views), ensemble.embed_texts(TEXTS)
    for size in (1, 2, 5):
        images = [ensemble.embed_images(views[start : start + size]) for start in range(0, 6, size)]
        texts = [ensemble.embed_texts(TEXTS[start : start + size]) for start in range(0, 4, size)]
        torch.testing.assert_close(torch.cat(images), whole_images, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.cat(texts), whole_texts, atol=1e-5, rtol=0)
    order = [3, 0, 2, 1]
    torch.testing.assert_close(
        ensemble.embed_texts([TEXTS[index] for index in order]), whole_texts[order], atol=1e-5, rtol=0
    )


def test_prepare_is_within_two_grey_levels_of_pillow(views: np.ndarray) -> None:
    spec = ImageSpec(40, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    ours = prepare(torch.from_numpy(views), spec) * 255
    pillow = [np.asarray(Image.fromarray(view).resize((40, 40), Image.Resampling.BICUBIC)) for view in views]
    theirs = torch.from_numpy(np.stack(pillow)).permute(0, 3, 1, 2).float()
    assert ours.shape == (6, 3, 40, 40)
    assert ours.min() >= 0
    assert ours.max() <= 255
    assert (ours - theirs).abs().max() <= 2


def test_bfloat16_is_asked_for_or_left(trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray) -> None:
    exact = Ensemble(trio, CPU, "float32").embed_images(views)
    assert torch.equal(Ensemble(trio, CPU, "auto").embed_images(views), exact)
    rounded = Ensemble(trio, CPU, "bfloat16").embed_images(views)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    with autocast(CPU, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert pick_device().type in ("cpu", "cuda")


@pytest.mark.filterwarnings("error")
def test_read_only_views_are_taken_as_they_are(trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray) -> None:
    expected = Ensemble(trio, CPU).embed_images(views)
    views.setflags(write=False)
    assert torch.equal(Ensemble(trio, CPU).embed_images(views), expected)


class Returns:
    """A teacher whose methods return what they are told to."""

    spec = TeacherSpec(image_size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), dim=4)

    def __init__(self, output: Any):
        self.output = output

    def encode_images(self, images_BCHW: torch.Tensor) -> Any:
        return self.output

    def encode_texts(self, texts: list[str]) -> Any:
        return self.output


NAN = torch.ones(6, 4)
NAN[2, 1] = float("nan")
ZERO = torch.ones(6, 4)
ZERO[4:] = 0


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (torch.ones(6, 5), "returned shape [6, 5] for 6 inputs; its spec says [6, 4]"),
        (torch.ones(5, 4), "returned shape [5, 4] for 6 inputs"),
        (torch.ones(6, 2, 4), "returned shape [6, 2, 4]"),
        (NAN, "returned NaN or infinity for 1 of 6 inputs, first for input 2"),
        (ZERO, "returned a zero vector for 2 of 6 inputs, first for input 4"),
        (torch.ones(6, 4, dtype=torch.int64), "returned torch.int64; return floats"),
        ((torch.ones(6, 4), 1), "returned a tuple; return one tensor [6, 4]"),
    ],
)
def test_a_wrong_output_names_the_teacher_and_what_it_returned(
    trio: list[tuple[str, Any]], views: np.ndarray, output: Any, said: str
) -> None:
    ensemble = Ensemble([trio[0], ("wrong", Returns(output))], CPU)
    for method, call in [
        ("encode_images", lambda: ensemble.embed_images(views)),
        ("encode_texts", lambda: ensemble.embed_texts(["text"] * 6)),
    ]:
        with pytest.raises(ModelError) as caught:
            call()
        assert f"teacher wrong: {method} {said}" in str(caught.value)


def test_large_half_precision_embeddings_are_not_mistaken_for_infinity() -> None:
    check_embeddings(torch.full((2, 4), 6e4, dtype=torch.float16), "teacher", rows=2, dim=4)
