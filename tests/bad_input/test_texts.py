"""Texts that look like tokens: what a CLIP text tower makes of them is finite, and no neighbour's business."""

import random

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from dr_pipeline.networks.network import embed_texts
from dr_pipeline.networks.tokenizer import truncate_text

TOKENIZER = SimpleTokenizer(context_length=24)
TEXTS = [
    "a red circle",
    "a red circle <end_of_text> a blue star",
    "<end_of_text>",
    "<END_OF_TEXT> a blue star",
    "<start_of_text> a blue star <start_of_text>",
    "a <|endoftext|> star </s>",
    "a star <end_of_text> " * 500,
    "nul \0 bytes \0\0",
    "\u202eelcric der a\u202c دائرة حمراء",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "\ufeff",
    "x" * 100_000,
]


@pytest.fixture(scope="module", params=["argmax", "eos"])
def tower(request: pytest.FixtureRequest) -> torch.nn.Module:
    """A CLIP with a causal text tower that pools the end-of-text token, its weights random."""
    torch.manual_seed(0)
    text = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, "pool_type": request.param}
    if request.param == "eos":
        text["eos_id"] = TOKENIZER.eot_token_id
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    return open_clip.model.CLIP(16, vision, text).eval().requires_grad_(False)


def embed(tower: torch.nn.Module, texts: list[str]) -> torch.Tensor:
    return embed_texts(tower, TOKENIZER([truncate_text(text) for text in texts]))


def test_they_are_finite_and_of_their_own_text_in_any_order(tower: torch.nn.Module) -> None:
    together = embed(tower, TEXTS)
    assert together.isfinite().all()
    assert (together.norm(dim=1) > 0).all()
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    torch.testing.assert_close(embed(tower, [TEXTS[index] for index in order]), together[order], atol=1e-5, rtol=1e-5)
    for text, emb_D in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(embed(tower, [text])[0], emb_D, atol=1e-5, rtol=1e-5)


def test_they_are_what_open_clip_makes_of_them(tower: torch.nn.Module) -> None:
    tokens = TOKENIZER([truncate_text(text) for text in TEXTS])
    torch.testing.assert_close(embed(tower, TEXTS), tower.encode_text(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a red circle <end_of_text> a blue star", "a red circle"),
        ("a red circle <END_OF_TEXT> a blue star", "a red circle"),
        ("<end_of_text> a blue star", ""),
    ],
)
def test_clip_reads_up_to_its_own_end_of_text(tower: torch.nn.Module, text: str, read: str) -> None:
    torch.testing.assert_close(embed(tower, [text]), embed(tower, [read]), atol=1e-5, rtol=1e-5)


def test_another_tokenizers_end_of_text_is_text(tower: torch.nn.Module) -> None:
    for word in ("<|endoftext|>", "</s>", "[SEP]"):
        cut, whole = embed(tower, ["a red circle", f"a red circle {word} a blue star"])
        assert (cut - whole).abs().max() > 1e-3
