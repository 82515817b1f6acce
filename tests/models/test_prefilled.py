"""Models of transformers that keep more than plain keys and values go on from their prompts as `generate` would."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    OPTConfig,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    SiglipVisionConfig,
)

from dr_pipeline.config.cards import Sampling
from dr_pipeline.models.decoding import decode
from dr_pipeline.models.prefilled import prefill
from tests.models.test_coca_decoder import some_streams

IMAGE, ENDS = 7, [2, 3, 4]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_key_value_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 16}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}

Built = tuple[Any, dict[str, torch.Tensor]]


def prompts(image_tokens: int) -> dict[str, torch.Tensor]:
    """Three prompts of different lengths, padded on the left."""
    rows = [[0] * left + [1] + [IMAGE] * image_tokens + list(range(10 + left, 16)) for left in (2, 0, 1)]
    ids_BL = torch.tensor(rows)
    return {"input_ids": ids_BL, "attention_mask": (ids_BL != 0).long()}


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(3))


def sliding_windows() -> Built:
    kinds = ["sliding_attention", "full_attention"]
    text = Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8, layer_types=kinds)
    config = Gemma3Config(
        text_config=text, vision_config=SiglipVisionConfig(**VISION), mm_tokens_per_image=4, image_token_id=IMAGE,
        boi_token_index=8, eoi_token_index=9,
    )  # fmt: skip
    inputs = prompts(4)
    inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    return Gemma3ForConditionalGeneration(config), {**inputs, "pixel_values": pixels(3, 32, 32)}


def cross_attention() -> Built:
    vision = {
        "hidden_size": 32, "attention_heads": 4, "num_hidden_layers": 2, "num_global_layers": 1, "image_size": 32,
        "intermediate_size": 48, "patch_size": 16, "max_num_tiles": 1, "intermediate_layers_indices": [0],
        "vision_output_dim": 64, "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    text = {**TEXT, "cross_attention_layers": [1], "rope_parameters": ROPE}
    inputs = prompts(1)
    ones = {"aspect_ratio_ids": (3, 1), "aspect_ratio_mask": (3, 1, 1)}
    ones["cross_attention_mask"] = (3, inputs["input_ids"].shape[1], 1, 1)
    inputs |= {name: torch.ones(shape, dtype=torch.int64) for name, shape in ones.items()}
    model = MllamaForConditionalGeneration(
        MllamaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    )
    return model, {**inputs, "pixel_values": pixels(1, 1, 3, 32, 32)}


def prompts_as_embeddings() -> Built:
    text = OPTConfig(
        vocab_size=60, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    queries = Blip2QFormerConfig(**SMALL, vocab_size=60, encoder_hidden_size=32, cross_attention_frequency=1)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION), qformer_config=queries, text_config=text, num_query_tokens=4,
        image_token_index=IMAGE,
    )  # fmt: skip
    return Blip2ForConditionalGeneration(config), {**prompts(4), "pixel_values": pixels(3, 32, 32)}


def linear_attention() -> Built:
    linear = {f"linear_{kind}_head_dim": 8 for kind in ("key", "value")}
    linear |= {f"linear_num_{kind}_heads": 2 for kind in ("key", "value")}
    rope = {**ROPE, "mrope_section": [1, 0, 0], "partial_rotary_factor": 0.25}
    kinds = ["linear_attention", "full_attention"]
    text = {**TEXT, **linear, "head_dim": 8, "layer_types": kinds, "rope_parameters": rope}
    vision = {
        "depth": 1, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "intermediate_size": 48, "out_hidden_size": 32,
        "num_position_embeddings": 16,
    }  # fmt: skip
    config = Qwen3_5Config(text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=6)
    inputs = prompts(4)
    inputs |= {
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
        "pixel_values": pixels(16, 3 * 2 * 64).flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * 3),
    }
    return Qwen3_5ForConditionalGeneration(config), inputs


@pytest.mark.parametrize(
    "build", [sliding_windows, cross_attention, prompts_as_embeddings, linear_attention], ids=lambda one: one.__name__
)
def test_captions_go_on_from_one_prompt_as_generate_does(build: Callable[[], Built]) -> None:
    model, inputs = build()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim >= 2:  # what it says depends on image and prompt
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    model.eval()
    with torch.inference_mode():
        ids_BT = model.generate(**inputs, do_sample=False, max_new_tokens=8, eos_token_id=ENDS)
        seen = prefill(model, inputs, max_tokens=9)
        captions = decode(
            seen.logits_BV, seen.step, seen.select, some_streams(3, 3), Sampling(method="greedy", max_tokens=9),
            end_tokens=ENDS, spell=lambda tokens: " ".join(map(str, tokens)),
        )  # fmt: skip
    num_prompt = inputs["input_ids"].shape[1] if ids_BT.shape[1] > 8 else 0  # some give the prompt too
    expected = [" ".join(map(str, _until_end(words))) for words in ids_BT[:, num_prompt:].tolist()]
    assert captions == [[text] * 3 for text in expected]
    assert len(set(expected)) > 1


def _until_end(words: list[int]) -> list[int]:
    return words[: next((place for place, word in enumerate(words) if word in ENDS), len(words))]
