"""Captions: the job's captioner, against the same decoder as bare as it gets, replayed from a CUDA graph."""

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dr_pipeline.config.cards import Sampling
from dr_pipeline.models.coca_sampler import Samplers
from dr_pipeline.networks.device import no_autocast
from dr_pipeline.views.seeding import Stream
from on_gpu.bench import Bench
from on_gpu.models import CAPTIONER, Captioner, write_tiny

_CAPTIONS, _WORDS = 5, 25
_CANDIDATES = 256
_GROUPS = {
    "attention": ("_attend_to", "attention", "flash", "fmha"),
    "the choice of words": ("_choose", "softmax", "topk", "cumsum", "searchsorted"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "splitK", "cublas", "addmm", "aten::mm"),
    "norms": ("_add_norm", "layer_norm"),
}
"""Words in the names of kernels, and of operators where there is no GPU."""


def sampling(num_words: int) -> Sampling:
    """The recipe's, for captions of exactly so many words: no end before the last place."""
    return Sampling(method="top_p", min_tokens=num_words + 1, max_tokens=num_words + 1)


class BareDecoder:
    """CoCa's captions with nothing around them: a static cache, and each step one replay of a CUDA graph.

    R rows are captions, N of each image; T words, H heads of width D, S image tokens. A step takes top-p words among
    the likeliest 256. Left out: the mask for padding tokens, the end of a caption, and every check.
    """

    def __init__(self, model: Any, images_BCHW: torch.Tensor, num_captions: int, num_words: int, top_p: float = 0.9):
        self._model, self._images_BCHW, self._num_captions, self._top_p = model, images_BCHW, num_captions, top_p
        self._num_words = num_words
        rows, weight = len(images_BCHW) * num_captions, model.text.token_embedding.weight
        heads = model.text.transformer.resblocks[0].attn.num_heads
        blocks = [*model.text.transformer.resblocks, *model.text_decoder.resblocks]
        places = -(-num_words // 8) * 8  # masked attention is fastest with these
        shape = (2, rows, heads, places, weight.shape[1] // heads)
        self._caches_2RHTD = [weight.new_zeros(shape) for _ in blocks]
        self._memories = self._encode()
        self._start_R = torch.full((rows,), 49406, device=weight.device)
        self._tokens_R, self._position = self._start_R.clone(), torch.zeros(1, dtype=torch.long, device=weight.device)
        self._words_RT = torch.zeros(rows, num_words, dtype=torch.long, device=weight.device)
        self._uniforms_R1 = torch.rand(rows, 1, device=weight.device)
        self._graph = self._captured() if weight.is_cuda else None

    def run(self) -> torch.Tensor:
        """Encode the images and write all words [R, T]."""
        for memory, made in zip(self._memories, self._encode(), strict=True):
            memory.copy_(made)
        self._tokens_R.copy_(self._start_R)
        self._position.zero_()
        for _ in range(self._num_words):
            self.step()
        return self._words_RT

    def step(self) -> None:
        """One word of every caption."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            self._step()
        torch.cuda.synchronize()
        self._position.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def _encode(self) -> list[torch.Tensor]:
        """Keys and values of each cross-attention, [2, B, H, S, D]."""
        _, image_embs_BSW = self._model._encode_image(self._images_BCHW)
        blocks = self._model.text_decoder.cross_attn
        return [_heads(block.attn, block.ln_1_kv(image_embs_BSW), 1, 3) for block in blocks]

    def _step(self) -> None:
        text, decoder = self._model.text, self._model.text_decoder
        places = torch.arange(self._caches_2RHTD[0].shape[3], device=self._position.device)
        seen_1T = (places <= self._position)[None]
        x_RLW = (text.token_embedding(self._tokens_R) + text.positional_embedding.index_select(0, self._position))[
            :, None
        ]
        caches = iter(self._caches_2RHTD)
        for block in text.transformer.resblocks:
            x_RLW = self._attend(block, x_RLW, next(caches), seen_1T)
        x_RLW = x_RLW if text.cls_emb is not None else text.ln_final(x_RLW)
        for block, cross, memory in zip(decoder.resblocks, decoder.cross_attn, self._memories, strict=True):
            x_RLW = self._attend(block, x_RLW, next(caches), seen_1T)
            x_BNW = x_RLW.view(len(self._images_BCHW), self._num_captions, -1)
            queries = _heads(cross.attn, cross.ln_1(x_BNW), 0, 1)[0]
            x_RLW = _rest(cross, x_BNW, F.scaled_dot_product_attention(queries, memory[0], memory[1])).view_as(x_RLW)
        self._choose(decoder.ln_final(x_RLW[:, 0]) @ decoder.text_projection)

    def _attend(
        self, block: Any, x_R1W: torch.Tensor, cache_2RHTD: torch.Tensor, seen_1T: torch.Tensor
    ) -> torch.Tensor:
        queries_keys_values = _heads(block.attn, block.ln_1(x_R1W), 0, 3)
        cache_2RHTD.index_copy_(3, self._position, queries_keys_values[1:])
        return _rest(
            block, x_R1W, F.scaled_dot_product_attention(queries_keys_values[0], *cache_2RHTD, attn_mask=seen_1T)
        )

    def _choose(self, logits_RV: torch.Tensor) -> None:
        likeliest_RK, words_RK = logits_RV.float().softmax(-1).topk(_CANDIDATES)
        before_RK = likeliest_RK.cumsum(-1) - likeliest_RK
        sums_RK = likeliest_RK.where((before_RK < self._top_p) | (before_RK == 0), 0.0).cumsum(-1)
        drawn_R1 = torch.searchsorted(sums_RK, self._uniforms_R1 * sums_RK[:, -1:], right=True)
        self._tokens_R.copy_(words_RK.gather(1, drawn_R1.clamp(max=_CANDIDATES - 1))[:, 0])
        self._words_RT.index_copy_(1, self._position, self._tokens_R[:, None])
        self._position += 1


def _heads(attention: Any, x_RLW: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Those of (queries, keys, values), stacked: [., R, H, L, D]."""
    rows = slice(first * attention.embed_dim, last * attention.embed_dim)
    projected = F.linear(x_RLW, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
    heads = (last - first, attention.num_heads, attention.head_dim)
    return projected.unflatten(-1, heads).permute(2, 0, 3, 1, 4)


def _rest(block: Any, x_RLW: torch.Tensor, attended_RHLD: torch.Tensor) -> torch.Tensor:
    x_RLW = x_RLW + block.ls_1(block.attn.out_proj(attended_RHLD.transpose(1, 2).flatten(2)))
    return x_RLW + block.ls_2(block.mlp(block.ln_2(x_RLW)))


def measure(bench: Bench) -> None:
    """Print captions a second, milliseconds and launches a step, and what of a step's time goes where."""
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        captioner = Captioner(bench.device, bench.size(CAPTIONER, write_tiny(Path(name))[1]))
        captioner.to_precision(torch.bfloat16)
        words = bench.size(_WORDS, 3)
        for batch in bench.size((8, 32, 128, 512), (2,)):
            size = captioner.spec.image_size
            images_BCHW = torch.randn(batch, 3, size, size, device=bench.device, dtype=torch.bfloat16)
            baseline = None
            with bench.attempt(f"bare, {batch} images"):
                bare = BareDecoder(captioner._model, images_BCHW, _CAPTIONS, words)
                baseline = _bare(bench, bare, batch, words)
                del bare
            with bench.attempt(f"the job's, {batch} images"):
                _ours(bench, captioner, images_BCHW, words, baseline)
            with bench.attempt(f"the job's, kernels of {batch} images"):
                _kernels(bench, captioner, images_BCHW, words)


def _bare(bench: Bench, bare: BareDecoder, batch: int, words: int) -> tuple[float, float]:
    """Captions a second and milliseconds a step."""
    seconds = bench.seconds(bare.run)
    bench.remember("caption", seconds / (batch * _CAPTIONS))
    steps = bench.seconds(lambda: _steps(bare, words))
    bench.figure(f"bare, {batch} images", batch * _CAPTIONS / seconds, "captions/s")
    bench.figure(f"bare, a step of {batch} images", 1e3 * steps / words, "ms")
    return batch * _CAPTIONS / seconds, 1e3 * steps / words


def _steps(bare: BareDecoder, words: int) -> None:
    bare._position.zero_()
    for _ in range(words):
        bare.step()


def _ours(
    bench: Bench, captioner: Captioner, images_BCHW: torch.Tensor, words: int, baseline: tuple[float, float] | None
) -> None:
    batch = len(images_BCHW)
    captioner._samplers = Samplers()
    begun = time.perf_counter()
    _caption(bench, captioner, images_BCHW, words)
    bench.wait()
    first = time.perf_counter() - begun
    seconds = bench.seconds(lambda: _caption(bench, captioner, images_BCHW, words))
    few = bench.seconds(lambda: _caption(bench, captioner, images_BCHW, 1))
    rate, step_ms = baseline or (None, None)
    bench.figure(f"the job's, {batch} images", batch * _CAPTIONS / seconds, "captions/s", rate)
    bench.figure(f"the job's, a step of {batch} images", 1e3 * (seconds - few) / (words - 1), "ms", step_ms)
    bench.figure(f"the job's, captures and compilations for {batch} images", first - seconds, "s")


def _caption(bench: Bench, captioner: Captioner, images_BCHW: torch.Tensor, words: int) -> None:
    streams = [
        [Stream(0, "caption", image, caption) for caption in range(_CAPTIONS)] for image in range(len(images_BCHW))
    ]
    with no_autocast(bench.device):
        captioner.caption(images_BCHW, streams, sampling(words))


def _kernels(bench: Bench, captioner: Captioner, images_BCHW: torch.Tensor, words: int) -> None:
    """What a step launches, and whose the device's time is: the difference of many words and one."""
    many, one = (_profiled(bench, captioner, images_BCHW, count) for count in (words, 1))
    label, steps = f"the job's, {len(images_BCHW)} images", words - 1
    seconds = {name: many[name][1] - one[name][1] for name in many}
    total = sum(seconds.values())
    launches = sum(many[name][0] - one[name][0] for name in many)
    bench.figure(f"{label}: launches a step", launches / steps, "")
    bench.figure(f"{label}: the device's time of a step", 1e3 * total / steps, "ms")
    left = total
    for group, words_of_names in _GROUPS.items():
        spent = sum(took for name, took in seconds.items() if any(word in name for word in words_of_names))
        left -= spent
        bench.figure(f"{label}: of that {group}", spent / total, "")
    bench.figure(f"{label}: of that the rest", left / total, "")


def _profiled(
    bench: Bench, captioner: Captioner, images_BCHW: torch.Tensor, words: int
) -> dict[str, tuple[int, float]]:
    """Launches and seconds by the names of kernels and copies; on a CPU of operators, without their parts."""
    on_gpu = bench.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    _caption(bench, captioner, images_BCHW, words)  # captures what the second one replays
    with torch.profiler.profile(activities=[activity]) as profile:
        _caption(bench, captioner, images_BCHW, words)
        bench.wait()
    spent: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for event in profile.events():
        if event.device_type == kind and not event.is_user_annotation:
            launches, seconds = spent[event.name]
            parts = sum(part.time_range.elapsed_us() for part in event.cpu_children)
            spent[event.name] = launches + 1, seconds + (event.time_range.elapsed_us() - parts) / 1e6
    return spent
