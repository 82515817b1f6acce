"""The ensemble: every teacher sees the views as given, and no row depends on its batch."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dr_pipeline.config.cards import OutputKind
from dr_pipeline.errors import ModelError
from dr_pipeline.models.ensemble import Ensemble, check_output
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.networks.device import autocast, pick_device
from dr_pipeline.networks.images import ImageSpec, prepare

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
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
    assert together.dims == {"a": 24, "b": 16, "c": 8}
    assert together.image_teachers == together.text_teachers == ["a", "b", "c"]
    images, texts = together.embed_images(views), together.embed_texts(TEXTS)
    assert list(images) == list(texts) == ["a", "b", "c"]
    for pair in trio:
        name, single = pair[0], Ensemble([pair], CPU)
        assert images[name].shape == (6, together.dims[name])
        assert images[name].dtype == texts[name].dtype == np.float32
        np.testing.assert_array_equal(images[name], single.embed_images(views)[name])
        np.testing.assert_array_equal(texts[name], single.embed_texts(TEXTS)[name])


def test_each_column_is_the_teachers_own_unit_embedding_of_the_resampled_view(
    trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray
) -> None:
    columns = Ensemble(trio, CPU).embed_images(views)
    for name, single in trio:
        spec = single.spec
        pixels = torch.from_numpy(views).permute(0, 3, 1, 2).float()
        if spec.image_size != 64:
            pixels = F.interpolate(pixels, (spec.image_size,) * 2, mode="bicubic", antialias=True).clamp(0, 255)
        mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
        expected = F.normalize(single.encode_images((pixels / 255 - mean) / std), dim=1)
        column = torch.from_numpy(columns[name])
        torch.testing.assert_close(column, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(column.norm(dim=1), torch.ones(6))


def test_a_row_does_not_depend_on_its_batch(trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray) -> None:
    ensemble = Ensemble(trio, CPU)
    whole_images, whole_texts = ensemble.embed_images(views), ensemble.embed_texts(TEXTS)
    for size in (1, 2, 5):
        images = [ensemble.embed_images(views[start : start + size]) for start in range(0, 6, size)]
        texts = [ensemble.embed_texts(TEXTS[start : start + size]) for start in range(0, 4, size)]
        for name in ensemble.dims:
            np.testing.assert_allclose(np.concatenate([part[name] for part in images]), whole_images[name], atol=1e-5)
            np.testing.assert_allclose(np.concatenate([part[name] for part in texts]), whole_texts[name], atol=1e-5)
    order = [3, 0, 2, 1]
    for name, column in ensemble.embed_texts([TEXTS[index] for index in order]).items():
        np.testing.assert_allclose(column, whole_texts[name][order], atol=1e-5)


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
    exact, automatic, rounded = (
        Ensemble(trio[:1], CPU, precision).embed_images(views)["a"] for precision in ("float32", "auto", "bfloat16")
    )
    np.testing.assert_array_equal(automatic, exact)
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    with autocast(CPU, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert pick_device().type in ("cpu", "cuda")


@pytest.mark.filterwarnings("error")
def test_read_only_views_are_taken_as_they_are(trio: list[tuple[str, OpenClipTeacher]], views: np.ndarray) -> None:
    expected = Ensemble(trio, CPU).embed_images(views)
    views.setflags(write=False)
    for name, column in Ensemble(trio, CPU).embed_images(views).items():
        np.testing.assert_array_equal(column, expected[name])


class ImageClasses:
    """A small classifier: probabilities of images alone."""

    def __init__(self) -> None:
        self.spec = TeacherSpec(dim=5, image_size=32, mean=HALF, std=HALF, output="probabilities")
        self._weights = torch.randn(3 * 4 * 4, 5, generator=torch.Generator().manual_seed(0))

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return (F.adaptive_avg_pool2d(images_BCHW, 4).flatten(1) @ self._weights).softmax(dim=1)


class TextLength:
    """A score of texts alone, which may be zero or large."""

    spec = TeacherSpec(dim=1, output="scores")

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1e30 * len(text)] for text in texts])


def test_each_teacher_gives_columns_of_what_it_encodes_in_the_ensembles_order(
    trio: list[tuple[str, Any]], views: np.ndarray
) -> None:
    classes = ImageClasses()
    ensemble = Ensemble([("classes", classes), trio[0], ("length", TextLength()), trio[1]], CPU)
    assert ensemble.dims == {"classes": 5, "a": 24, "length": 1, "b": 16}
    assert ensemble.image_teachers == ["classes", "a", "b"]
    assert ensemble.text_teachers == ["a", "length", "b"]
    images, texts = ensemble.embed_images(views), ensemble.embed_texts(TEXTS)
    assert {name: column.shape for name, column in images.items()} == {"classes": (6, 5), "a": (6, 24), "b": (6, 16)}
    assert {name: column.shape for name, column in texts.items()} == {"a": (4, 24), "length": (4, 1), "b": (4, 16)}
    given = classes.encode_images(prepare(torch.from_numpy(views), classes.spec.images))
    np.testing.assert_array_equal(images["classes"], given.numpy())
    np.testing.assert_allclose(images["classes"].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(texts["length"][:, 0], [1e30 * len(text) for text in TEXTS], rtol=1e-6)
    pair = Ensemble(trio[:2], CPU)
    np.testing.assert_array_equal(images["b"], pair.embed_images(views)["b"])
    np.testing.assert_array_equal(texts["b"], pair.embed_texts(TEXTS)["b"])


def test_of_no_teacher_of_texts_there_is_no_column(views: np.ndarray) -> None:
    ensemble = Ensemble([("classes", ImageClasses())], CPU)
    assert ensemble.embed_texts(TEXTS) == {}
    assert ensemble.text_teachers == []
    assert Ensemble([("length", TextLength())], CPU).embed_images(views) == {}


def test_many_threads_may_wait_for_one_batch(trio: list[tuple[str, Any]]) -> None:
    ensemble = Ensemble(trio, CPU)
    started = ensemble.start_texts(ensemble.tokenize(TEXTS))
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda _: started.finish(), range(8))
    assert all(other is first for other in others)


def test_no_texts_need_no_tokenizer(trio: list[tuple[str, Any]]) -> None:
    """All samples of a pool may be skipped, and tokenizers of transformers fail on an empty list."""

    def fails(texts: list[str]) -> torch.Tensor:
        raise IndexError("list index out of range")

    trio[0][1].tokenizer = fails
    assert len(Ensemble(trio, CPU).tokenize([])) == 0


def test_teachers_with_the_same_tokenizer_share_its_tokens(trio: list[tuple[str, Any]]) -> None:
    ensemble = Ensemble([*trio, ("length", TextLength())], CPU)
    assert len({id(one.tokenizer) for _, one in trio}) == 3  # each of an architecture of its own
    assert len(ensemble.tokenize(TEXTS).tokens) == 3
    for _, other in trio:
        other.tokenizer = trio[0][1].tokenizer
    assert len(ensemble.tokenize(TEXTS).tokens) == 1
    for name, column in ensemble.embed_texts(TEXTS).items():
        alone = dict([*trio, ("length", TextLength())])[name].encode_texts(TEXTS)
        np.testing.assert_array_equal(column, (alone if name == "length" else F.normalize(alone, dim=1)).numpy())


class Returns:
    """A teacher whose methods return what they are told to."""

    def __init__(self, output: Any, kind: OutputKind = "embedding"):
        self.spec = TeacherSpec(image_size=64, mean=HALF, std=HALF, dim=4, output=kind)
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
    check_output(torch.full((2, 4), 6e4, dtype=torch.float16), TeacherSpec(dim=4), "teacher", rows=2)


@pytest.mark.parametrize("kind", ["probabilities", "scores"])
def test_zeros_are_values_where_rows_are_no_embeddings_and_nan_is_none(kind: OutputKind) -> None:
    assert not Ensemble([("zeros", Returns(torch.zeros(6, 4), kind))], CPU).embed_texts(["text"] * 6)["zeros"].any()
    with pytest.raises(ModelError, match="teacher nan: encode_texts returned NaN or infinity for 1 of 6 inputs"):
        Ensemble([("nan", Returns(NAN, kind))], CPU).embed_texts(["text"] * 6)
