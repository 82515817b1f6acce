"""Every adapter computes on the device that it is given, here on a GPU that is not there (tests/pretend_gpu.py)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from dr_pipeline.config.cards import CaptionerCard, RewriterCard, Sampling, ScorerCard, TeacherCard
from dr_pipeline.models import decoding
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.models.coca_sampler import Samplers
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_captioner, load_scorer, load_teacher
from dr_pipeline.models.operations import BY_TORCH
from dr_pipeline.networks import pretrained
from dr_pipeline.networks.images import host_tensor
from tests.models import test_image_to_text, test_language_model, test_onnx, test_transformers
from tests.models.test_coca_decoder import ARCHITECTURES, CONTEXT, END, START, some_images, some_streams, tiny_coca
from tests.models.test_coca_sampler import SIZES
from tests.models.test_image_to_text import CHATS, UNASKED
from tests.models.test_scorers import CLIP, head
from tests.models.test_transformers_backbone import MODELS
from tests.models.test_transformers_backbone import folders as backbones
from tests.pretend_gpu import CUDA, PretendGpu, pretend_gpu

pytestmark = pytest.mark.usefixtures("inference")

CPU = torch.device("cpu")
TEXTS = ["a photo of a dog", "", "two blue squares a photo of dog " * 4]
files, clip = test_onnx.files, test_onnx.clip
family, saved, folder = test_transformers.family, test_image_to_text.saved, test_language_model.folder
__all__ = ["backbones", "clip", "family", "files", "folder", "saved"]

MakeGpu = Callable[[], AbstractContextManager[PretendGpu]]
"""Makes the GPU, once what is compared with it has been computed on the host."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> MakeGpu:
    load = pretrained.load_module

    def load_on_host(*arguments: Any, **options: Any) -> Any:
        with _disable_current_modes():  # in which the library would leave buffers unfilled
            return load(*arguments, **options)

    monkeypatch.setattr(pretrained, "load_module", load_on_host)
    monkeypatch.setattr(decoding, "operations_of", lambda device: BY_TORCH)
    return lambda: pretend_gpu(monkeypatch)


def check_teacher(gpu: MakeGpu, use: str, **options: Any) -> list[str]:
    """Columns of images and texts are the host's → what the thread that launches them has waited for."""
    card = TeacherCard(name="mine", use=f"dr_pipeline.models.{use}", options=options)
    views_BHWC = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)

    def columns(device: torch.device, launch: Callable[[], Any] = list) -> Any:
        ensemble = Ensemble([("mine", load_teacher(card, device))], device, "float32")
        ensemble.embed_images(views_BHWC)  # what is kept is made in the first call
        pinned, batch = host_tensor(views_BHWC, device), ensemble.tokenize(TEXTS)
        launch()
        started = ensemble.start_images(pinned), ensemble.start_texts(batch)
        launch()
        return [pending.finish() for pending in started]

    expected, waits = columns(CPU), []
    with gpu() as there:
        made = columns(CUDA, lambda: waits.append(list(there.waits)))
    for ours, theirs in zip(made, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, emb_BD in theirs.items():
            np.testing.assert_allclose(ours[name], emb_BD, atol=1e-5)
    before, after = waits
    return after[len(before) :]


def test_dual_encoders_of_transformers(gpu: MakeGpu, family: tuple[str, Any, Any]) -> None:
    waits = check_teacher(gpu, "transformers:TransformersTeacher", model=family[0])
    # The library asks whether a mask hides anything, but not where a graph is captured, as batches of a job are.
    assert all("get_text_features" in wait for wait in waits), waits


@pytest.mark.parametrize("name", MODELS)
def test_backbones_of_transformers(gpu: MakeGpu, name: str, backbones: dict[str, str]) -> None:
    use = "transformers_backbone:TransformersBackbone"
    assert not check_teacher(gpu, use, model=backbones[name], pooling="mean")


@pytest.mark.parametrize(
    ("use", "model"),
    [
        ("timm:TimmTeacher", "test_vit"),
        ("timm:TimmClassifier", "test_efficientnet"),
        ("torchvision:TorchvisionClassifier", "squeezenet1_1"),
    ],
)
def test_models_of_timm_and_torchvision(gpu: MakeGpu, use: str, model: str) -> None:
    assert not check_teacher(gpu, use, model=model, weights="random", image_size=64)


def test_models_of_open_clip(gpu: MakeGpu) -> None:
    assert not check_teacher(gpu, "open_clip:OpenClipTeacher", **CLIP)


def test_an_onnx_file_on_the_cpu_beside_a_gpu(gpu: MakeGpu, files: dict[str, str]) -> None:
    options = {
        "image_model": files["images"],
        "text_model": files["texts"],
        "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
        "providers": ["CPUExecutionProvider"],
        **test_onnx.HALVES,
    }
    assert check_teacher(gpu, "onnx:OnnxTeacher", **options)  # it computes on the host


def written(captioner: Any, device: torch.device, **options: Any) -> list[list[str]]:
    size = captioner.spec.image_size
    images_BCHW = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return captioner.caption(images_BCHW, some_streams(2, 2), Sampling(max_tokens=6, **options))


@pytest.mark.parametrize("kind", [*UNASKED, *CHATS], ids=lambda kind: kind.__name__)
def test_captioners_of_transformers(gpu: MakeGpu, kind: Any, saved: Callable[[Any], str]) -> None:
    use = "ChatCaptioner" if kind in CHATS else "ImageToTextCaptioner"
    card = CaptionerCard(name="mine", use=f"dr_pipeline.models.image_to_text:{use}", options={"model": saved(kind)})
    expected = written(load_captioner(card, CPU), CPU, method="greedy")
    with gpu(), torch.inference_mode(False), torch.no_grad():  # as where a job's models are loaded
        captioner = load_captioner(card, CUDA)
        assert written(captioner, CUDA, method="greedy") == expected
        captioner.to_precision(torch.bfloat16)
        assert all(written(captioner, CUDA, method=method) for method in ("top_p", "beam"))


def test_a_rewriter_of_transformers(gpu: MakeGpu, folder: Path) -> None:
    use, options = "dr_pipeline.models.language_model:LanguageModel", {"model": str(folder)}
    card = RewriterCard(name="mine", use=use, options=options, prompt="{alt_text}")

    def rewritten(device: torch.device) -> Any:
        prompts = ["a red dog", "grass looks blue ."]
        return load_captioner(card, device).rewrite(["", ""], prompts, some_streams(2, 2), Sampling(max_tokens=6))

    expected = rewritten(CPU)
    with gpu():
        assert rewritten(CUDA) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES[:2])
def test_a_step_of_coca(gpu: MakeGpu, architecture: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images_BCHW = tiny_coca(architecture, seed=4), some_images(5, seed=4)
    model.text_decoder.text_projection[:, END] *= 2.5
    sampling = Sampling(method="greedy", max_tokens=CONTEXT, repetition_penalty=1.3)

    def words(device: torch.device) -> torch.Tensor:
        samplers, where = Samplers(SIZES, BY_TORCH), images_BCHW.to(device)
        return generate(model.to(device), where, some_streams(5, 2), sampling, START, END, samplers)

    expected = words(CPU)
    with gpu() as there:
        made = words(CUDA)
        (waited,) = (wait for wait in there.waits if "in a test" not in wait)
        assert "if not are_finite" in waited
        assert torch.equal(made.cpu(), expected)


def test_scorers(gpu: MakeGpu, tmp_path: Path) -> None:
    head(tmp_path / "head.safetensors", {"layers.0": (8, 64), "layers.2": (1, 8)})
    images_BCHW, texts = some_images(3, seed=1).repeat(1, 1, 4, 4), ["a red circle", "", "blue"]

    def scores(device: torch.device) -> list[float]:
        fits, pleases = (
            load_scorer(ScorerCard(name="mine", use=f"dr_pipeline.models.scorers:{kind}", options=options), device)
            for kind, options in (
                ("SimilarityScorer", CLIP),
                ("AestheticScorer", {**CLIP, "head": str(tmp_path / "head.safetensors"), "activation": "relu"}),
            )
        )
        here = images_BCHW.to(device)
        return [*fits.score(here, texts).tolist(), *pleases.score_images(here).tolist()]

    expected = scores(CPU)
    with gpu():
        np.testing.assert_allclose(scores(CUDA), expected, atol=1e-5)


def test_what_the_pretence_finds(gpu: MakeGpu) -> None:
    def asks(there: PretendGpu, work: Callable[[], Any]) -> int:
        there.waits.clear()
        work()
        return len(there.waits)

    with gpu() as there:
        on_gpu, on_host = torch.arange(4.0, device=CUDA), torch.arange(4.0)
        with pytest.raises(RuntimeError, match=r"on the GPU, of shapes .* on the host"):
            on_gpu + on_host
        with pytest.raises(RuntimeError):
            on_gpu.numpy()
        pinned = on_host.pin_memory()
        waiting = (
            lambda: on_gpu.sum().item(),
            lambda: bool(on_gpu.all()),
            lambda: on_gpu[on_gpu > 1],
            lambda: on_gpu[torch.tensor([1])],
            lambda: on_gpu.nonzero(),
            lambda: on_gpu.cpu(),
            lambda: on_host.to(CUDA),
            lambda: on_host.to(CUDA, non_blocking=True),
            lambda: pinned.view(2, 2)[:, :1].to(CUDA, non_blocking=True),
        )
        assert [asks(there, work) for work in waiting] == [1] * len(waiting)
        assert asks(there, lambda: pinned.to(CUDA, non_blocking=True)) == 0
        assert asks(there, lambda: on_gpu.masked_fill(on_gpu > 1, 0) * 2) == 0
