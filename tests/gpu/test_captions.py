"""What the CPU's tests of captions cannot show: graphs that are replayed, kernels that are compiled, a full GPU.

Models are those of tests/models; the kernels themselves are tested in tests/models/test_kernels.py, on a GPU too.
"""

import gc
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from dr_pipeline.config.cards import Sampling
from dr_pipeline.models.choose import TokensSeen
from dr_pipeline.models.coca_decoder import CocaDecoder
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.models.coca_sampler import Sampler, Samplers, Shapes
from dr_pipeline.models.operations import BY_TORCH, by_kernels
from dr_pipeline.models.replay import Replayed
from dr_pipeline.networks.launching import make_stream
from dr_pipeline.reinforce.in_flight import DeviceBatches
from tests.models.test_coca_decoder import ARCHITECTURES, CONTEXT, END, START, some_images, some_streams, tiny_coca
from tests.models.test_decoding import PROMPTS_BL, Rows, tiny_gpt2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

CUDA = torch.device("cuda")
SIZES = Shapes(images=(1, 2, 3, 5, 8), positions=(4, 9, 16), at_once=2, lag=2)


@pytest.fixture(autouse=True, scope="module")
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def on_gpu(architecture: tuple, seed: int = 4, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A model whose captions end at different places."""
    model = tiny_coca(architecture, seed)
    model.text_decoder.text_projection[:, END] *= 2.5
    return model.to(CUDA, dtype)


def written(
    model: torch.nn.Module, samplers: Samplers | None, images: range = range(7), captions: int = 2, **options: object
) -> torch.Tensor:
    """The words [B, N, T] of these of some images."""
    images_BCHW = some_images(images.stop, seed=4)[images.start :].to(CUDA)
    streams = some_streams(images.stop, captions)[images.start :]
    sampling = Sampling(**{"max_tokens": CONTEXT, **options})
    return generate(model, images_BCHW, streams, sampling, START, END, samplers).cpu()


def same(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The share of words that are the same."""
    return float((ours == theirs).float().mean())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_uncached_model(architecture: tuple, dtype: torch.dtype) -> None:
    model, images = tiny_coca(architecture, seed=1).to(CUDA), some_images(3, seed=1).to(CUDA)
    tokens_BNT = torch.randint(0, 4, (3, 2, CONTEXT), generator=torch.Generator().manual_seed(2)).to(CUDA)
    tokens_BNT[..., 0] = START
    plain = model(images.repeat_interleave(2, 0), tokens_BNT.flatten(0, 1), output_labels=False)["logits"]
    decoder = CocaDecoder(model.to(dtype), num_captions=2, num_positions=CONTEXT)
    decoder.begin(images, room=5, at_once=2)
    cached_BNTV = torch.stack([decoder.step(tokens_BNT[..., t]) for t in range(CONTEXT)], dim=2)
    error = (cached_BNTV.flatten(0, 1).float() - plain).norm() / plain.norm()
    assert error < {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]


@pytest.mark.parametrize("method", ["greedy", "top_p", "top_k"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_replayed_graphs_write_what_their_kernels_write_one_by_one(
    architecture: tuple, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samplers = on_gpu(architecture), Samplers(SIZES)
    options = {"method": method, "repetition_penalty": 1.3 if architecture is ARCHITECTURES[1] else 1.0}
    captured = [written(model, samplers, **options) for _ in range(3)]
    assert all(sampler._replayed._graphs for sampler in samplers._kept.values() if sampler.size)
    monkeypatch.setattr(Replayed, "run", lambda self, name, work: work())
    eager = written(model, Samplers(SIZES), **options)
    assert all(torch.equal(words, eager) for words in captured)


@pytest.mark.parametrize("method", ["greedy", "top_p", "top_k"])
def test_captions_are_those_of_torch_s_operators_in_a_batch_that_no_image_leaves(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = set()
    step = Sampler.step

    def noting(sampler: Sampler, *arguments: object) -> None:
        sizes.add((sampler.size, sampler.decoder.num_positions))
        step(sampler, *arguments)

    monkeypatch.setattr(Sampler, "step", noting)
    model = on_gpu(ARCHITECTURES[1])
    ours = written(model, Samplers(SIZES), method=method)
    assert len({size for size, _ in sizes}) > 1, "images left the batch"
    assert len({positions for _, positions in sizes}) > 1, "the batch moved to longer caches"
    monkeypatch.setattr(Replayed, "run", lambda self, name, work: work())
    theirs = written(model, Samplers(Shapes(), BY_TORCH), method=method)
    assert same(ours, theirs) >= 0.98


def test_bfloat16_weights_and_autocast_write_nearly_the_same() -> None:
    exact = written(on_gpu(ARCHITECTURES[1]), None, method="greedy")
    rounded = written(on_gpu(ARCHITECTURES[1], dtype=torch.bfloat16), None, method="greedy")
    with torch.autocast("cuda", torch.bfloat16):
        cast = written(on_gpu(ARCHITECTURES[1]), None, method="greedy")
    assert same(rounded, exact) > 0.5
    assert same(cast, exact) > 0.5


def test_a_step_does_not_wait_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samplers = on_gpu(ARCHITECTURES[1]), Samplers(SIZES)
    expected = written(model, samplers)
    step = Sampler.step

    def watched(sampler: Sampler, *arguments: object) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(sampler, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Sampler, "step", watched)
    assert torch.equal(written(model, samplers), expected)


def test_captures_while_another_thread_computes() -> None:
    stop, failed = threading.Event(), []
    stream = make_stream(CUDA)

    def compute() -> None:
        try:
            while not stop.is_set():
                one = torch.ones(1 << 20, device=CUDA)
                two = (one * 2).sum()
                torch.cuda.current_stream().synchronize()
                del one, two
        except RuntimeError as error:
            failed.append(error)

    expected = written(on_gpu(ARCHITECTURES[1]), Samplers(SIZES))
    thread = threading.Thread(target=compute)
    thread.start()
    try:
        with torch.cuda.stream(stream):
            for _ in range(5):
                samplers = Samplers(SIZES)
                assert torch.equal(written(on_gpu(ARCHITECTURES[1]), samplers), expected)
                assert torch.equal(written(on_gpu(ARCHITECTURES[1]), samplers), expected)
    finally:
        stop.set()
        thread.join()
    assert not failed


def test_memory_stays_flat_over_batches_of_many_sizes() -> None:
    model, samplers = on_gpu(ARCHITECTURES[1]), Samplers()
    allocated = []
    for _ in range(4):
        for count in (40, 7, 23, 1):
            written(model, samplers, range(count))
            written(model, samplers, range(count), captions=1, max_tokens=5)
        torch.cuda.synchronize()
        allocated.append(torch.cuda.memory_allocated())
    assert max(allocated[1:]) <= allocated[0] + (1 << 20)


def limited(work: Callable[[], object], more_bytes: int) -> None:
    """Call it while no more memory can be taken than so many bytes."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more_bytes) / total)
    try:
        work()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_for_which_there_is_no_memory_leaves_none_taken_and_is_halved() -> None:
    count = 64
    model, samplers = on_gpu(ARCHITECTURES[1]), Samplers()
    expected = written(model, None, range(count))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    sizes, batches = [], DeviceBatches("images to caption", count)

    def caption(images: range) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > count // 2:  # as much more as no GPU has
            torch.empty(1 << 45, dtype=torch.uint8, device=CUDA)
        return written(model, samplers, images)

    made = batches.run(caption, range(count))
    assert sizes[:2] == [count, count // 2]
    assert same(torch.cat(made), expected) >= 0.98

    with pytest.raises(torch.OutOfMemoryError):
        limited(lambda: written(model, samplers, range(4096)), 64 << 20)
    assert not samplers._kept
    gc.collect()  # pytest's account of the error holds the frames that held the memory
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + (8 << 20)
    assert same(written(model, samplers, range(count)), expected) >= 0.98


@pytest.mark.parametrize("method", ["greedy", "top_p", "beam"])
def test_decode_writes_what_it_writes_on_a_cpu(method: str) -> None:
    model = tiny_gpt2()
    options = {"method": method, "max_tokens": 16, "repetition_penalty": 1.2, "ends": (END, *range(20, 25))}
    expected = Rows(model, PROMPTS_BL).captions(some_streams(6, 3), **options)
    ours = Rows(model.to(CUDA), PROMPTS_BL.to(CUDA)).captions(some_streams(6, 3), **options)
    texts = [list(itertools.chain(*captions)) for captions in (ours, expected)]
    assert sum(one == other for one, other in zip(*texts, strict=True)) >= 16


def test_a_position_on_the_gpu_is_the_host_s() -> None:
    seen = TokensSeen(CUDA)
    for count in range(3):
        assert (seen.on_host, int(seen.on_device)) == (count, count)
        seen.advance()
    seen.set(7)
    assert (seen.on_host, int(seen.on_device)) == (7, 7)
    assert by_kernels() is not BY_TORCH
