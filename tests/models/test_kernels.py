"""Kernels of decoding against torch's operators; without a GPU they run in Triton's interpreter (tests/conftest.py)."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dr_pipeline.config.cards import Sampling
from dr_pipeline.errors import ModelError
from dr_pipeline.models import kernels
from dr_pipeline.models.choose import Rule, TokensSeen
from dr_pipeline.models.operations import BY_TORCH, by_kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FARTHEST = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Relative to the largest value."""


@pytest.fixture(autouse=True, scope="module")
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert torch.all(ours.isfinite())
    farthest = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    assert farthest < FARTHEST[ours.dtype]


def test_without_triton_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    by_kernels()
    for name in ("attention", "norm", "choose"):
        monkeypatch.delattr(kernels, name)
        monkeypatch.delitem(sys.modules, f"{kernels.__name__}.{name}")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ModelError, match=r"^captions on a GPU .* Triton, .* not installed here: pip install triton"):
        by_kernels()


@pytest.mark.parametrize("dtype", FARTHEST)
@pytest.mark.parametrize(("heads", "width", "position"), [(1, 16, 0), (3, 24, 5), (2, 64, 31), (2, 8, 40), (1, 64, 69)])
def test_self_attention(heads: int, width: int, position: int, dtype: torch.dtype) -> None:
    rows, room, places = 5, 7, 71
    seen = TokensSeen(DEVICE)
    seen.set(position)
    mask_RT = randn(rows, places + 1, seed=3) > -0.5
    mask_RT[:, 0] = True
    for visible_RT in (None, mask_RT):
        parts_R3HD = randn(rows, 3, heads, width, dtype=dtype)
        whole = [randn(2, room, heads, places, width, dtype=dtype, seed=1) for _ in range(2)]
        caches = [cache[:, :rows] for cache in whole]
        ours = by_kernels().self_attention(parts_R3HD, caches[0], seen, visible_RT)
        theirs = BY_TORCH.self_attention(parts_R3HD, caches[1], seen, visible_RT)
        assert torch.equal(*whole), "the new keys and values lie in the same places, and nothing else has changed"
        assert_near(ours, theirs)


@pytest.mark.parametrize("dtype", FARTHEST)
@pytest.mark.parametrize(
    ("images", "captions", "heads", "tokens", "width"),
    [(2, 5, 3, 70, 16), (3, 1, 1, 6, 24), (1, 17, 2, 255, 64), (2, 70, 1, 33, 8)],
)
def test_cross_attention(
    images: int, captions: int, heads: int, tokens: int, width: int, dtype: torch.dtype
) -> None:  # fmt: skip
    if DEVICE.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies matrices of bfloat16 as if they were integers")
    queries_BNW = randn(images, captions, heads * width, dtype=dtype)
    keys_values_2BHSD = randn(2, images + 1, heads, tokens, width, dtype=dtype, seed=1)[:, :images]
    operations = by_kernels(), BY_TORCH
    assert_near(*(each.cross_attention(queries_BNW, keys_values_2BHSD) for each in operations))


@pytest.mark.parametrize("dtype", FARTHEST)
@pytest.mark.parametrize("width", [16, 24, 768])
def test_a_residual_and_its_norm(width: int, dtype: torch.dtype) -> None:
    norm = torch.nn.LayerNorm(width).to(DEVICE, dtype)
    norm.weight.copy_(randn(width, seed=1))
    norm.bias.copy_(randn(width, seed=2))
    x_RW, change_RW = 5 + randn(6, width, dtype=dtype, seed=3), randn(6, width, dtype=dtype, seed=4)
    ours, theirs = (each.add_norm(x_RW, change_RW, norm) for each in (by_kernels(), BY_TORCH))
    assert_near(ours[0], theirs[0])
    assert_near(ours[1], theirs[1])


ROWS = 512 if DEVICE.type == "cuda" else 3
END = 1
RULES = [
    {"method": "greedy"},
    {"method": "top_p"},
    {"method": "top_p", "top_p": 1.0, "temperature": 1.7},
    {"method": "top_p", "top_p": 0.3, "temperature": 0.4},
    {"method": "top_p", "top_p": 1e-6},
    {"method": "top_k"},
    {"method": "top_k", "top_k": 1},
    {"method": "top_k", "top_k": 3, "temperature": 2.0},
    {"method": "top_k", "top_k": 100_000},
]


def chosen(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, **options: object) -> tuple[torch.Tensor, ...]:
    """The kernel's tokens, torch's, and whether the kernel finds the logits finite."""
    seen, rule = TokensSeen(DEVICE), Rule(Sampling(**options), end_token=END)
    seen.set(2)
    (ours_R, finite_R), (theirs_R, as_torch_R) = (
        each.choose(logits_RV, uniforms_R, seen, rule) for each in (by_kernels(), BY_TORCH)
    )
    assert torch.equal(finite_R, as_torch_R)
    return ours_R, theirs_R, finite_R


@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("dtype", FARTHEST)
@pytest.mark.parametrize(("vocabulary", "spread"), [(7, 1.0), (2500, 3.0)])
def test_tokens_are_those_of_the_sorted_vocabulary(
    vocabulary: int, spread: float, dtype: torch.dtype, options: dict
) -> None:
    """But for numbers next to a boundary, which are not among these. Logits are of either sign, of one and of both."""
    logits_RV = (spread * randn(ROWS, vocabulary, seed=vocabulary)).to(dtype)
    logits_RV += torch.linspace(-15, 15, ROWS, device=DEVICE)[:, None].to(dtype)
    uniforms_R = torch.from_numpy(np.random.default_rng(0).random(ROWS)).to(DEVICE)
    ours_R, theirs_R, _ = chosen(logits_RV, uniforms_R, **options)
    assert torch.equal(ours_R, theirs_R)


@pytest.mark.parametrize("method", ["greedy", "top_p", "top_k"])
def test_no_token_ends_a_caption_too_early(method: str) -> None:
    logits_RV, uniforms_R = randn(ROWS, 300), torch.full((ROWS,), 0.5, dtype=torch.float64, device=DEVICE)
    logits_RV[:, END] = 20.0
    at_last_R, _, _ = chosen(logits_RV, uniforms_R, method=method, min_tokens=2)
    early_R, as_torch_R, finite_R = chosen(logits_RV, uniforms_R, method=method, min_tokens=3)
    assert (at_last_R == END).all()
    assert not (early_R == END).any()
    assert torch.equal(early_R, as_torch_R)
    assert finite_R.all()


@pytest.mark.parametrize("dtype", FARTHEST)
def test_any_end_is_given_as_one_and_none_comes_too_early(dtype: torch.dtype) -> None:
    logits_RV, uniforms_R = randn(3, 300, dtype=dtype), torch.full((3,), 0.5, dtype=torch.float64, device=DEVICE)
    logits_RV[:, [7, 9]] = torch.tensor([20.0, 30.0], dtype=dtype, device=DEVICE)
    before = logits_RV.clone()
    for operations in (by_kernels(), BY_TORCH):
        for tokens_so_far, ended in ((2, False), (3, True)):
            seen = TokensSeen(DEVICE)
            seen.set(tokens_so_far)
            rule = Rule(Sampling(min_tokens=3), end_token=END, other_ends=(7, 9))
            tokens_R, finite_R = operations.choose(logits_RV, uniforms_R, seen, rule)
            assert (tokens_R == END).all() == ended
            assert finite_R.all()
            assert not torch.isin(tokens_R, torch.tensor([7, 9], device=DEVICE)).any()
    assert torch.equal(logits_RV, before)


@pytest.mark.parametrize("dtype", FARTHEST)
def test_tied_tokens_are_kept_together(dtype: torch.dtype) -> None:
    logits_RV = torch.zeros(20, 2500, dtype=dtype, device=DEVICE)
    logits_RV[:, [3, 7, 2100, 2400]] = 9.0
    logits_RV[:, 2400] = 11.0
    logits_RV[:, 5] = -0.0
    uniforms_R = (torch.arange(20, dtype=torch.float64, device=DEVICE) + 0.5) / 20
    for options in ({"method": "top_k", "top_k": 2}, {"method": "top_p", "top_p": 0.7}):
        ours_R, theirs_R, _ = chosen(logits_RV, uniforms_R, **options)
        assert torch.equal(ours_R, theirs_R)
        assert ours_R.unique().tolist() == [3, 7, 2100, 2400]


def test_every_token_has_its_share_of_the_numbers() -> None:
    """At the boundaries themselves, and at the least and the largest number."""
    logits_1V = torch.tensor([[0.1, 0.4, 0.2, 0.3]], device=DEVICE).log()
    numbers = [0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001, 1 - 2.0**-53]
    uniforms_R = torch.tensor(numbers, dtype=torch.float64, device=DEVICE)
    ours_R, theirs_R, _ = chosen(logits_1V.expand(8, -1), uniforms_R, method="top_p", top_p=1.0)
    assert ours_R.tolist() == theirs_R.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    kept_R, _, _ = chosen(logits_1V.expand(8, -1), uniforms_R, method="top_k", top_k=2)
    assert set(kept_R.tolist()) == {1, 3}


@pytest.mark.parametrize("method", ["greedy", "top_p", "top_k"])
def test_logits_that_are_not_finite_are_found_and_give_a_token_of_the_vocabulary(method: str) -> None:
    logits_RV = randn(5, 2500)
    logits_RV[1, 2400], logits_RV[2, 0], logits_RV[3, 7], logits_RV[4] = torch.nan, torch.inf, -torch.inf, torch.nan
    uniforms_R = torch.full((5,), 0.5, dtype=torch.float64, device=DEVICE)
    ours_R, _, finite_R = chosen(logits_RV, uniforms_R, method=method)
    assert finite_R.tolist() == [True, False, False, False, False]
    assert ((ours_R >= 0) & (ours_R < 2500)).all()
