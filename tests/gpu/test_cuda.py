"""What the CPU's tests cannot show: that a GPU computes the same, and what it does when its memory is full.

`make test-gpu` runs these, and the views that a GPU renders; where torch sees no GPU these are skipped.
"""

import json
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.codecs.npz import Npz
from dr_pipeline.config.cards import CaptionerCard, Sampling, TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.demo.painting import paint
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.errors import ConfigError
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.models.precision import load_ensemble, load_ready_captioner
from dr_pipeline.networks import device as devices
from dr_pipeline.networks.depthwise import use_own_gradients, weight_gradient
from dr_pipeline.networks.device import Precision, autocast, precision_context
from dr_pipeline.networks.float8 import Float8Linear, quantise_rows
from dr_pipeline.networks.images import host_tensor, prepare
from dr_pipeline.reinforce.in_flight import DeviceBatches
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.training import trainer
from dr_pipeline.training.data.rendering import DeviceViews, views_for
from dr_pipeline.training.data.training_set import open_training_set
from dr_pipeline.training.distributed import Rank, _Gather, joined_ranks
from dr_pipeline.views.seeding import Stream
from tests.conftest import GOLDEN, STANDARD
from tests.demo_job import demo_job, make_scenes
from tests.training.conftest import CLIP, GOLDEN_TEACHERS, WORDS, take_step
from tests.training.data.loading import golden_job, make_loader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FARTHEST: dict[Precision, float] = {"float32": 1e-5, "bfloat16": 1e-4, "float8": 0.02}
"""1 - cosine between the CPU's embedding in float32 and the GPU's: convolutions may round to TF32 there."""


@pytest.fixture
def job() -> Job:
    """The demo's, for its cards."""
    return demo_job("none", "none")


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    """uint8 [24, 96, 96, 3]."""
    streams = [Stream(3, "view", index) for index in range(24)]
    return np.stack([np.asarray(paint(draw_truth(stream), 96, 96, stream)) for stream in streams])


def ensemble(cards: tuple[TeacherCard, ...], device: torch.device, precision: Precision) -> Ensemble:
    return load_ensemble(cards, device, precision)[0]


def farthest(columns: dict[Any, np.ndarray], others: dict[Any, np.ndarray]) -> float:
    """The largest 1 - cosine of any row and any teacher."""
    pairs = [(torch.from_numpy(emb_ND).double(), torch.from_numpy(others[name])) for name, emb_ND in columns.items()]
    return max(float((1 - F.cosine_similarity(one, other.double())).max()) for one, other in pairs)


def has_float8() -> bool:
    return torch.cuda.get_device_capability() >= (8, 9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8"])
def test_teachers_see_what_they_see_on_the_cpu(job: Job, views: np.ndarray, precision: Precision) -> None:
    if precision == "float8" and not has_float8():
        with pytest.raises(ConfigError, match="does not multiply matrices of float8"):
            ensemble(job.teachers, CUDA, precision)
        return
    on_cpu, on_gpu = ensemble(job.teachers, CPU, "float32"), ensemble(job.teachers, CUDA, precision)
    weight_dtype = torch.float32 if precision == "float32" else torch.bfloat16
    for teacher in on_gpu._of_texts.values():
        assert teacher._network.module.token_embedding.weight.dtype == weight_dtype  # type: ignore[attr-defined]
    texts = ["a red circle", "", "two blue squares on a green background " * 3]
    assert farthest(on_gpu.embed_images(views), on_cpu.embed_images(views)) < FARTHEST[precision]
    assert farthest(on_gpu.embed_texts(texts), on_cpu.embed_texts(texts)) < FARTHEST[precision]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_who_launches_the_teachers_waits_for_nothing(job: Job, views: np.ndarray, precision: Precision) -> None:
    on_gpu, texts = ensemble(job.teachers, CUDA, precision), ["a red circle", "two blue squares"]
    expected = on_gpu.embed_images(views), on_gpu.embed_texts(texts)  # what is kept is made in the first call
    pinned, batch = host_tensor(views, CUDA), on_gpu.tokenize(texts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        started = on_gpu.start_images(pinned), on_gpu.start_texts(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for columns, before in zip((one.finish() for one in started), expected, strict=True):
        assert farthest(columns, before) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available() or not has_float8(), reason="this GPU has no float8")
def test_float8_on_the_card_is_what_it_is_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    values_RI = torch.randn(1000, 1024, generator=generator).to(torch.bfloat16)
    values_RI[7] = 0
    (ours, our_scale), (theirs, their_scale) = quantise_rows(values_RI.to(CUDA)), quantise_rows(values_RI)
    assert torch.equal(our_scale.cpu(), their_scale)
    assert float((ours.cpu().view(torch.uint8) != theirs.view(torch.uint8)).float().mean()) < 1e-3
    for bias_O in (None, torch.randn(4096, generator=generator).to(torch.bfloat16)):
        weight_OI = (0.03 * torch.randn(4096, 1024, generator=generator)).to(torch.bfloat16)
        on_cpu = Float8Linear(weight_OI, bias_O)(values_RI)
        on_gpu = Float8Linear(weight_OI.to(CUDA), bias_O if bias_O is None else bias_O.to(CUDA))(values_RI.to(CUDA))
        assert float((on_gpu.cpu().float() - on_cpu.float()).norm() / on_cpu.float().norm()) < 0.01


@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
def test_compiled_towers_embed_as_before(tmp_path: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    if precision == "float8" and not has_float8():
        pytest.skip("this GPU has no float8")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    (tmp_path / "clip.json").write_text(json.dumps({"model_cfg": CLIP}))
    teacher = OpenClipTeacher(CUDA, str(tmp_path / "clip.json"), "random", tokenizer=WORDS)
    teacher.to_precision(torch.bfloat16)
    if precision == "float8":
        teacher.to_float8()
    size = teacher.spec.images.image_size
    images_BCHW = torch.randn(7, 3, size, size, generator=torch.Generator().manual_seed(0)).to(CUDA)
    texts = ["a red circle", "", "two blue squares"]
    with torch.inference_mode():
        before = {"images": teacher.encode_images(images_BCHW), "texts": teacher.encode_texts(texts)}
        teacher.compile_towers(8, 8)
        after = {"images": teacher.encode_images(images_BCHW), "texts": teacher.encode_texts(texts)}
    assert teacher._compiled is not None
    assert teacher._compiled._parts, "it was compiled"
    assert farthest(*({name: made.cpu().numpy() for name, made in one.items()} for one in (after, before))) < 0.01


def test_replayed_towers_embed_as_before(job: Job, views: np.ndarray) -> None:
    texts = ["a red circle", "", "two blue squares on a green background"]
    on_gpu = ensemble(job.teachers, CUDA, "bfloat16")
    before = on_gpu.embed_images(views), on_gpu.embed_texts(texts)
    on_gpu.replay(len(views), len(texts))
    for size in (len(views), len(views) - 3, len(views)):
        images = on_gpu.embed_images(views[:size])
        assert farthest(images, {name: emb_ND[:size] for name, emb_ND in before[0].items()}) < 1e-4
        assert farthest(on_gpu.embed_texts(texts), before[1]) < 1e-4
    for teacher in on_gpu._of_images.values():
        for batches in teacher._replayed.values():  # type: ignore[attr-defined]
            assert batches._replayed._graphs, "they were captured"


def words_of(card: CaptionerCard, device: torch.device, precision: Precision, views: np.ndarray) -> torch.Tensor:
    """The tokens of two captions of each image [B, 2, T]."""
    ready = load_ready_captioner(card, device, precision)
    captioner: Any = ready.captioner
    streams = [[Stream(1, "caption", image, caption) for caption in range(2)] for image in range(len(views))]
    with torch.inference_mode(), precision_context(device, precision, ready.needs_autocast):
        images_BCHW = prepare(torch.from_numpy(views).to(device), captioner.spec)
        tokenizer = captioner._tokenizer
        sampling = Sampling(method="top_p", top_p=0.9, max_tokens=32)
        words = generate(
            captioner._model, images_BCHW, streams, sampling, tokenizer.sot_token_id, tokenizer.eot_token_id
        )
    return words.cpu()


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.98), ("bfloat16", 0.8)])
def test_captions_are_those_of_the_cpu_but_for_rounding(
    job: Job, views: np.ndarray, precision: Precision, least: float
) -> None:
    (card,) = job.captioners
    ours, theirs = words_of(card, CUDA, precision, views), words_of(card, CPU, "float32", views)
    said = (ours != ours[0, 0, -1]) | (theirs != ours[0, 0, -1])  # the fill at the end is no word
    assert float((ours == theirs)[said].float().mean()) >= least


def student_of(folder: Path, precision: Precision, network: dict[str, Any] = CLIP) -> trainer.Trainer:
    """The trainer of a small student on a golden shard."""
    architecture = folder / "architecture.json"
    architecture.write_text(json.dumps({"model_cfg": network}))
    job = TrainJob.model_validate(
        {
            "name": "tiny",
            "data": {"shards": str(GOLDEN / "shards/v2_bf16.tar"), "teachers": GOLDEN_TEACHERS, "workers": 0},
            "student": {"architecture": str(architecture), "tokenizer": WORDS},
            "schedule": {"steps": 4, "batch_size": 4, "warmup_steps": 1, "learning_rate": 1e-3, "ema_decay": 0.9},
            "run": {"path": str(folder / "run"), "precision": precision},
        }
    )
    return trainer.Trainer(job, open_training_set(job), Rank(), None)


def losses(
    folder: Path, device: torch.device, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[float, float]]:
    """The loss and the gradient's norm of four steps, each launched before the one before it is awaited."""
    monkeypatch.setattr(trainer, "pick_device", lambda: device)
    records = student_of(folder, precision).steps(lambda step: False)
    return [(record.loss, record.gradient_norm) for record in records]


@pytest.mark.parametrize("causal", [True, False])
def test_a_step_waits_for_nothing_that_the_gpu_does(tmp_path: Path, causal: bool) -> None:
    text = {**CLIP["text_cfg"], "no_causal_mask": not causal}
    student = student_of(tmp_path, "bfloat16", {**CLIP, "custom_text": True, "text_cfg": text})
    take_step(student)  # what is kept for later steps is made in the first
    assert student._batches is not None
    batch = next(student._batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = student.launch(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert student.finish(launched).step == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_student_s_views_are_those_of_the_cpu(workers: int) -> None:
    job = golden_job(GOLDEN / "shards/v2_bf16.tar", data={"workers": workers})
    on_gpu, on_cpu = (views_for(job, STANDARD, 32, device) for device in (CUDA, CPU))
    assert isinstance(on_gpu, DeviceViews)
    pairs = zip(make_loader(job, 4, views=on_gpu), make_loader(job, 4, views=on_cpu), strict=True)
    for ours, theirs in islice(pairs, 4):
        assert isinstance(ours.pixels, list)
        assert all(part.pixels.is_pinned() and part.parameters.is_pinned() for part in ours.pixels)
        assert torch.equal(ours.to(CUDA).images_BHWC.cpu(), theirs.images_BHWC)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("bfloat16", 0.1)])
def test_a_student_learns_what_it_learns_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, tolerance: float
) -> None:
    on_cpu = losses(tmp_path, CPU, "float32", monkeypatch)
    on_gpu = losses(tmp_path, CUDA, precision, monkeypatch)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)


@pytest.mark.parametrize(
    ("channels", "multiplier", "side", "size", "stride"),
    [
        (64, 1, 128, 3, 2),
        (64, 1, 64, 1, 1),
        (64, 2, 64, 7, 2),
        (128, 1, 32, 7, 1),
        (256, 1, 16, 3, 1),
        (512, 1, 8, 7, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weight_gradients_of_depthwise_convolutions_are_as_exact_as_cudnn_s(
    channels: int, multiplier: int, side: int, size: int, stride: int, dtype: torch.dtype
) -> None:
    shape, how = (channels * multiplier, 1, size, size), ([stride] * 2, [size // 2] * 2, [1, 1])
    torch.manual_seed(1)
    input_BCHW = torch.randn(32, channels, side, side, device=CUDA, dtype=dtype)
    input_BCHW = input_BCHW.to(memory_format=torch.channels_last)
    weight_O1KK = torch.randn(shape, device=CUDA, dtype=dtype)
    output_BOYX = F.conv2d(input_BCHW, weight_O1KK, None, *how, groups=channels)
    gradient_BOYX = torch.randn_like(output_BOYX)
    exact, cudnn_s = (
        conv2d_weight(input_BCHW.to(kind), shape, gradient_BOYX.to(kind), *how, groups=channels)
        for kind in (torch.float64, dtype)
    )
    own = weight_gradient(input_BCHW, gradient_BOYX, [size] * 2, *how)
    assert torch.equal(own, weight_gradient(input_BCHW, gradient_BOYX, [size] * 2, *how)), "adds in a fixed order"
    error, cudnn_error = (float((made.double() - exact).norm() / exact.norm()) for made in (own, cudnn_s))
    assert error < max(1e-6, cudnn_error)


def test_mobileclip2_s_gradients_are_those_of_torch() -> None:
    gradients = []
    for prepare_module in (use_own_gradients, lambda module: None):
        torch.manual_seed(0)
        module: Any = open_clip.create_model("MobileCLIP2-S0").to(CUDA, memory_format=torch.channels_last)
        prepare_module(module)
        with autocast(CUDA, "bfloat16"):
            module.encode_image(torch.rand(8, 3, 256, 256, device=CUDA)).float().square().sum().backward()
        kernels = {name: value.grad for name, value in module.visual.named_parameters() if value.ndim == 4}
        # A factor in front of a norm has no gradient but what rounding makes of it.
        gradients.append({name: grad for name, grad in kernels.items() if grad.shape[1:] != (1, 1, 1)})
    own, torch_s = gradients
    assert own.keys() == torch_s.keys()
    for name, gradient in torch_s.items():
        assert float((own[name] - gradient).norm()) <= 0.1 * float(gradient.norm()), name


def reinforced(job: Job, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Every member of the job's tars."""
    monkeypatch.setattr(devices, "pick_device", lambda: device)
    worker = Worker(job)
    worker.load()
    for task in make_plan(job).todo:
        report = worker.run(task)
        assert report.status == "done", report.error
        assert report.arithmetic is not None
        assert report.arithmetic.startswith(device.type)
    members = {}
    for path in sorted(Path(job.output.path).rglob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    return members


def test_a_shard_has_the_cpu_s_views_and_its_embeddings_but_for_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=1, samples_per_shard=6)
    changes = ("output.precision=float32", "workers.precision=float32")
    on_cpu = reinforced(demo_job(scenes, tmp_path / "cpu", *changes), CPU, monkeypatch)
    on_gpu = reinforced(demo_job(scenes, tmp_path / "gpu", *changes), CUDA, monkeypatch)
    assert on_gpu.keys() == on_cpu.keys()
    dims = [card.dim or 0 for card in demo_job("none", "none").teachers]
    for name, data in on_cpu.items():
        if name.endswith("npz"):
            ours, theirs = (to_float32(Npz().decode(one)["image_emb"]) for one in (on_gpu[name], data))
            ends = np.cumsum(dims)[:-1]
            columns = [dict(enumerate(np.split(array, ends, axis=1))) for array in (ours, theirs)]
            assert farthest(*columns) < FARTHEST["float32"]
        elif not name.endswith("syn.json"):
            assert on_gpu[name] == data, name
    for kind in ("paug.json", "npz"):
        assert sum(name.endswith(kind) for name in on_cpu) == 6, kind


def test_a_batch_that_the_memory_does_not_hold_is_halved(job: Job, views: np.ndarray) -> None:
    many = np.concatenate([views] * 86)[:2048]
    on_gpu = ensemble(job.teachers, CUDA, "bfloat16")
    expected = on_gpu.embed_images(views)
    batches = DeviceBatches("views", len(many))
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (256 << 20)) / total)
    try:
        started = batches.run(on_gpu.start_images, host_tensor(many, CUDA))
        finished = [batch.finish() for batch in started]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert batches.size < len(many)
    made = {name: np.concatenate([columns[name] for columns in finished]) for name in expected}
    assert {name: emb_ND.shape for name, emb_ND in made.items()} == {
        name: (len(many), dim) for name, dim in on_gpu.dims.items()
    }
    repeated = {name: np.concatenate([emb_ND] * 86)[: len(many)] for name, emb_ND in expected.items()}
    assert farthest(made, repeated) < FARTHEST["bfloat16"]


def test_memory_stays_flat_over_twenty_shards(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "scenes", num_shards=20, samples_per_shard=4)
    job = demo_job(scenes, tmp_path / "out", "captioners.0.sampling.max_tokens=8")
    worker = Worker(job)
    worker.load()
    allocated, peaks = [], []
    for task in make_plan(job).todo:
        torch.cuda.reset_peak_memory_stats()
        report = worker.run(task)
        assert report.status == "done", report.error
        torch.cuda.synchronize()
        allocated.append(torch.cuda.memory_allocated())
        peaks.append(torch.cuda.max_memory_allocated())
    assert len(allocated) == 20
    assert max(allocated[5:]) <= max(allocated[:5]) + (1 << 20)
    assert max(peaks[5:]) <= 1.1 * max(peaks[:5])


@pytest.fixture
def one_nccl_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rank]:
    """NCCL refuses two ranks on one GPU, so one process is the whole group. It needs no network but itself."""
    for library in ("GLOO", "NCCL"):
        monkeypatch.setenv(f"{library}_SOCKET_IFNAME", "lo")
    torch.cuda.set_device(0)
    meeting, patience = f"file://{tmp_path}/ranks", timedelta(seconds=30)
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=meeting, timeout=patience, rank=0, world_size=1)
    yield Rank()
    dist.destroy_process_group()


def test_rows_travel_by_nccl_and_their_gradients_come_back(one_nccl_rank: Rank) -> None:
    rows_BD = torch.randn(5, 3, device=CUDA, requires_grad=True)
    gathered: Any = _Gather.apply(rows_BD, one_nccl_rank)
    assert torch.equal(gathered, rows_BD)
    (gathered * torch.arange(15, device=CUDA).view(5, 3)).sum().backward()
    assert rows_BD.grad is not None
    assert torch.equal(rows_BD.grad, torch.arange(15.0, device=CUDA).view(5, 3))


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    num_gpus = torch.cuda.device_count()
    for name, value in (("WORLD_SIZE", num_gpus + 1), ("RANK", num_gpus), ("LOCAL_RANK", num_gpus)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigError, match=f"a machine with {num_gpus} GPUs"), joined_ranks():
        pass
