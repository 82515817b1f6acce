"""Models of every adapter, a job's views that are mixed, and what tells of a GPU; what the CPU's tests cannot show.

Models are the tiny ones of tests/models. Where tensors lie is tested on any machine by test_where_models_compute.py.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from dr_pipeline.config.cards import CaptionerCard, RewriterCard, Sampling, ScorerCard, TeacherCard
from dr_pipeline.doctor.examination import run_check
from dr_pipeline.doctor.gpu import read_driver
from dr_pipeline.errors import ModelError
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.models.precision import load_ensemble, load_ready_captioner, load_ready_scorer
from dr_pipeline.networks.device import Precision, precision_context
from dr_pipeline.networks.images import host_tensor
from dr_pipeline.networks.launching import BusyClock
from dr_pipeline.report.status import dataset_status
from dr_pipeline.runners.dry_run import dry_run
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from tests.demo_job import Silent, demo_job, make_scenes
from tests.gpu.test_cuda import reinforced
from tests.models import test_image_to_text, test_language_model, test_onnx, test_transformers
from tests.models.test_coca_decoder import some_images, some_streams
from tests.models.test_image_to_text import CHATS, UNASKED
from tests.models.test_scorers import CLIP, head
from tests.models.test_transformers_backbone import MODELS
from tests.models.test_transformers_backbone import folders as backbones
from tests.reinforce.classification import job_of, write_digits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TEXTS = ["a photo of a dog", "", "two blue squares a photo of dog " * 4, "dog"]
BATCH = len(TEXTS)
FARTHEST: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.02, "float8": 0.05}
"""1 - cosine to the CPU in float32, with weights that are random; TF32 counts as float32."""

files, clip = test_onnx.files, test_onnx.clip
family, saved, folder = test_transformers.family, test_image_to_text.saved, test_language_model.folder
__all__ = ["backbones", "clip", "family", "files", "folder", "saved"]


def some_views(count: int = BATCH) -> np.ndarray:
    """uint8 [count, 40, 40, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), np.uint8)


def columns(ensemble: Ensemble) -> list[np.ndarray]:
    """What the teachers make of images and of texts."""
    return [*ensemble.embed_images(some_views()).values(), *ensemble.embed_texts(TEXTS).values()]


def assert_near(ours: list[np.ndarray], theirs: list[np.ndarray], farthest: float) -> None:
    assert len(ours) == len(theirs) > 0
    for one_BD, other_BD in zip(ours, theirs, strict=True):
        one, other = torch.from_numpy(one_BD).double(), torch.from_numpy(other_BD).double()
        assert float((1 - torch.cosine_similarity(one, other, dim=1)).max()) < farthest


def check_teacher(precision: Precision, use: str, **options: Any) -> None:
    """Its columns are the CPU's but for rounding, also as a replayed graph, which is launched without waiting."""
    card = TeacherCard(name="mine", use=f"dr_pipeline.models.{use}", options=options)
    if precision == "float8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    expected = columns(Ensemble([("mine", load_teacher(card, CPU))], CPU, "float32"))
    ensemble, _ = load_ensemble([card], CUDA, precision)
    assert_near(columns(ensemble), expected, FARTHEST[precision])
    ensemble.replay(BATCH, BATCH)
    assert_near(columns(ensemble), expected, FARTHEST[precision])  # captured, behind a run kernel by kernel
    pinned, batch = host_tensor(some_views(), CUDA), ensemble.tokenize(TEXTS)
    torch.cuda.set_sync_debug_mode("error")
    try:
        started = ensemble.start_images(pinned), ensemble.start_texts(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    replayed = [column for pending in started for column in pending.finish().values()]
    assert_near(replayed, expected, FARTHEST[precision])


each_precision = pytest.mark.parametrize("precision", FARTHEST)


@pytest.fixture(autouse=True)
def captured(caplog: pytest.LogCaptureFixture) -> Any:
    """Whatever is to be replayed can be captured."""
    yield
    assert "cannot be captured" not in caplog.text


@each_precision
def test_dual_encoders_of_transformers(family: tuple[str, Any, Any], precision: Precision) -> None:
    check_teacher(precision, "transformers:TransformersTeacher", model=family[0])


@each_precision
@pytest.mark.parametrize("name", MODELS)
def test_backbones_of_transformers(name: str, backbones: dict[str, str], precision: Precision) -> None:
    use = "transformers_backbone:TransformersBackbone"
    check_teacher(precision, use, model=backbones[name], pooling="mean")


@each_precision
@pytest.mark.parametrize(
    ("use", "model"),
    [
        ("timm:TimmTeacher", "test_vit"),
        ("timm:TimmClassifier", "test_efficientnet"),
        ("timm:TimmTeacher", "test_convnext"),
        ("torchvision:TorchvisionClassifier", "squeezenet1_1"),
        ("torchvision:TorchvisionClassifier", "swin_t"),
    ],
)
def test_models_of_timm_and_torchvision(use: str, model: str, precision: Precision) -> None:
    check_teacher(precision, use, model=model, weights="random", image_size=64)


def onnx_columns(files: dict[str, str], device: torch.device, **options: Any) -> list[np.ndarray]:
    given = {
        "image_model": files["images"],
        "text_model": files["texts"],
        "tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer",
        **test_onnx.HALVES,
        **options,
    }
    card = TeacherCard(name="mine", use="dr_pipeline.models.onnx:OnnxTeacher", options=given)
    return columns(Ensemble([("mine", load_teacher(card, device))], device, "float32"))


def test_an_onnx_file_runs_on_the_gpu_or_says_what_to_install(files: dict[str, str]) -> None:
    expected = onnx_columns(files, CPU)
    assert_near(onnx_columns(files, CUDA, providers=["CPUExecutionProvider"]), expected, 1e-5)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        assert_near(onnx_columns(files, CUDA), expected, FARTHEST["float32"])
    else:
        with pytest.raises(ModelError, match=r"has no CUDAExecutionProvider here.*install onnxruntime-gpu"):
            onnx_columns(files, CUDA)


def written(device: torch.device, precision: Precision, card: CaptionerCard, **options: Any) -> list[str]:
    """Captions of four images, three of each."""
    ready = load_ready_captioner(card, device, precision)
    size = ready.captioner.spec.image_size
    images_BCHW = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode(), precision_context(device, precision, ready.needs_autocast):
        captions = ready.captioner.caption(images_BCHW, some_streams(4, 3), Sampling(max_tokens=9, **options))
    return [caption for of_image in captions for caption in of_image]


@pytest.mark.parametrize("kind", [*UNASKED, *CHATS], ids=lambda kind: kind.__name__)
def test_captioners_of_transformers(kind: Any, saved: Callable[[Any], str]) -> None:
    use = "ChatCaptioner" if kind in CHATS else "ImageToTextCaptioner"
    card = CaptionerCard(name="mine", use=f"dr_pipeline.models.image_to_text:{use}", options={"model": saved(kind)})
    greedy = [written(device, "float32", card, method="greedy") for device in (CUDA, CPU)]
    assert sum(ours == theirs for ours, theirs in zip(*greedy, strict=True)) >= 6
    for method in ("top_p", "top_k", "beam"):
        assert len(written(CUDA, "bfloat16", card, method=method)) == 12


def test_a_rewriter_of_transformers(folder: Path) -> None:
    use, options = "dr_pipeline.models.language_model:LanguageModel", {"model": str(folder)}
    card = RewriterCard(name="mine", use=use, options=options, prompt="{alt_text}")
    prompts = ["a red dog", "grass looks blue .", "the image", "a"]

    def rewritten(device: torch.device, precision: Precision, **how: Any) -> list[list[str]]:
        rewriter = load_ready_captioner(card, device, precision).captioner
        return rewriter.rewrite([""] * 4, prompts, some_streams(4, 3), Sampling(max_tokens=9, **how))

    ours, theirs = (rewritten(device, "float32", method="greedy") for device in (CUDA, CPU))
    assert sum(one == other for one, other in zip(ours, theirs, strict=True)) >= 2
    for _ in range(5):  # all of one prompt's may have ended before the host learns of it
        assert [len(texts) for texts in rewritten(CUDA, "bfloat16", temperature=3.0)] == [3] * 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scorers(precision: Precision, tmp_path: Path) -> None:
    head(tmp_path / "head.safetensors", {"layers.0": (8, 64), "layers.2": (1, 8)})
    images_BCHW, texts = some_images(3, seed=1).repeat(1, 1, 4, 4), ["a red circle", "", "blue"]

    def scores(device: torch.device, precision: Precision) -> list[float]:
        found: list[float] = []
        for kind, options in (
            ("SimilarityScorer", CLIP),
            ("AestheticScorer", {**CLIP, "head": str(tmp_path / "head.safetensors"), "activation": "relu"}),
        ):
            card = ScorerCard(name="mine", use=f"dr_pipeline.models.scorers:{kind}", options=options)
            ready, images = load_ready_scorer(card, device, precision), images_BCHW.to(device)
            scorer: Any = ready.scorer
            with torch.inference_mode(), precision_context(device, precision, ready.needs_autocast):
                made = scorer.score(images, texts) if kind == "SimilarityScorer" else scorer.score_images(images)
            found += made.tolist()
        return found

    np.testing.assert_allclose(scores(CUDA, precision), scores(CPU, "float32"), atol=0.05)


def test_mixed_views_of_classified_images_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for device in (CPU, CUDA):
        folder = tmp_path / device.type
        write_digits(folder / "in", samples_per_shard=8)
        mixing = {"num_views": 6, "mixup": {"div_by": 2, "p": 0.5}, "cutmix": {"p": 0.5}}
        job = job_of(folder, augmentation=mixing, errors={"max_skipped": 0.5}, workers={"precision": "float32"})
        made.append(reinforced(job, device, monkeypatch))
    on_cpu, on_gpu = made
    assert on_gpu.keys() == on_cpu.keys()
    same = [name for name in on_cpu if not name.endswith(("npz", "pth.gz"))]
    assert {name: on_gpu[name] for name in same} == {name: on_cpu[name] for name in same}
    assert on_cpu["d0001.paug.json"].startswith(b'{"param_aug": [[0,'), "its first view is mixed with image 0"


def test_a_run_tells_how_busy_the_gpu_was(tmp_path: Path) -> None:
    job = demo_job(make_scenes(tmp_path / "scenes", num_shards=2, samples_per_shard=12), tmp_path / "out")
    observer = Silent()
    run(job, observer)
    assert all(report.arithmetic.startswith("cuda bfloat16") for report in observer.reports)
    status = dataset_status(job.output.path, Storage(job.output.storage))
    assert (status.num_samples, status.failures) == (24, ())
    assert status.device_busy is not None
    assert 0 < status.device_busy <= 1


def test_a_calibration_measures_this_gpu(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=2, samples_per_shard=12)
    job = demo_job(scenes, tmp_path / "out", "workers.caption_batch=16", "workers.text_batch=64", "workers.gpus=1")
    found = dry_run(job, "00001.tar").calibration
    assert found is not None
    assert torch.cuda.get_device_name() in found.device
    assert all(figure.measured > 0 for figure in found.figures)


def test_the_driver_tells_how_busy_a_gpu_is() -> None:
    clock, end = BusyClock(CUDA), time.monotonic() + 10
    matrix = torch.randn(4096, 4096, device=CUDA)
    while (clock.seconds or 0) < 0.2 and time.monotonic() < end:
        (matrix @ matrix).sum().item()
    assert clock.seconds is None or clock.seconds >= 0.2  # None: this machine does not let one ask


@pytest.mark.parametrize("subject", ["GPUs", "compiler"])
def test_doctor_finds_what_this_gpu_needs(subject: str) -> None:
    (found,) = run_check(subject, None)
    assert found.state == "ok", found
    driver = read_driver()
    if subject == "GPUs" and driver is not None:
        assert torch.cuda.get_device_name() in found.fact
