"""What a network of open_clip costs, before it is built: parameters, and the operations of one forward pass.

Transformers are computed from their config, without importing torch; every other architecture is built on torch's meta
device, where tensors have shapes and no memory, and its operations are counted. An operation is a multiplication or an
addition in a matrix product, an attention or a convolution; all else is left out, as is usual.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dr_pipeline.errors import ModelError
from dr_pipeline.networks.files import HUB, RANDOM, SUFFIXES, hub_file, resource
from dr_pipeline.plugins import load_class

_COMMON_KEYS = {"width", "layers", "output_tokens"}
_VISION_KEYS = _COMMON_KEYS | {"image_size", "head_width", "mlp_ratio", "patch_size"}
_POOLER_KEYS = {"attentional_pool", "attn_pooler_heads", "attn_pooler_queries"}
_TEXT_KEYS = _COMMON_KEYS | {"context_length", "vocab_size", "heads", "embed_cls", "no_causal_mask"}
_DECODER_KEYS = _COMMON_KEYS | {"context_length", "vocab_size", "heads", "attn_pooler_heads"}


@dataclass(frozen=True)
class Cost:
    """A network in figures. Operations are floating-point ones: a multiplication and an addition are two."""

    parameters: int
    image_flops: int
    """One image → embedding; a captioner's: one image → the keys and values that its decoder looks at."""
    text_flops: int = 0
    """One text of the full context length → embedding."""
    token_flops: int = 0
    """A captioner's next token of one caption, when half the context is written. Its parameters are read for it."""
    image_size: int | None = None
    """Pixels of the square images that it takes, where that is known; `dim` is its embeddings' length."""
    dim: int | None = None


def network_cost(
    model: str, weights: str, tokenizer: str | None = None, context_length: int | None = None
) -> Cost | None:
    """The cost of a teacher or captioner by its options; None where its operations cannot be counted.

    Looks for what its construction would miss, too: raises ModelError where open_clip has no such architecture or
    weights, where a file of this machine is not there, and where the forward pass fails.
    """
    config = _config(model)
    _check_weights(model, weights)
    if tokenizer is not None:
        load_class(tokenizer)
    if config is not None and _is_plain(config):
        limit = config["text_cfg"].get("context_length", 77)
        if context_length is not None and context_length > limit:
            raise ModelError(f"model {model}: context_length is {context_length}; its text tower takes {limit}")
        return _computed(config)
    from dr_pipeline.networks.counting import count_architecture

    return count_architecture(model, weights)


def _check_weights(model: str, weights: str) -> None:
    """Raise ModelError where there are no such weights, as far as this machine and open_clip's table tell."""
    if weights == RANDOM or weights.startswith(HUB):
        return
    if not weights.startswith("package://") and "://" in weights:
        return
    if "/" in weights or weights.endswith(SUFFIXES):
        try:
            resource(weights)
        except ModelError as error:
            raise ModelError(f"model {model}, weights: {error}") from error
    else:
        from dr_pipeline.networks.weights import pretrained_cfg, unknown_tag

        if not pretrained_cfg(model, weights):
            raise unknown_tag(model, weights)


def _config(model: str) -> dict[str, Any] | None:
    """The architecture's model_cfg; None where open_clip is to say what it is, or that there is none."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    try:
        if model.startswith(HUB):
            return json.loads(hub_file(model.removeprefix(HUB), ("open_clip_config.json",)).read_text())["model_cfg"]
        if model.endswith(".json"):
            return json.loads(resource(model).read_text())["model_cfg"]
        own = Path(spec.origin).parent / "model_configs" / f"{model}.json"
        return json.loads(own.read_text()) if own.is_file() else None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f'model {model}: expected JSON {{"model_cfg": {{…}}, …}}: {error!r}') from error


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether the model is made of the transformers that are computed here."""
    known = {"embed_dim", "quick_gelu", "custom_text", "vision_cfg", "text_cfg", "multimodal_cfg"}
    parts = (("vision_cfg", _VISION_KEYS | _POOLER_KEYS), ("text_cfg", _TEXT_KEYS), ("multimodal_cfg", _DECODER_KEYS))
    return (
        config.keys() <= known
        and all(config.get(name, {}).keys() <= keys for name, keys in parts)
        and all(isinstance(config[name].get("layers", 12), int) for name in ("vision_cfg", "text_cfg"))
        and isinstance(config["vision_cfg"].get("image_size", 224), int)
    )


def _computed(config: dict[str, Any]) -> Cost:
    image_parameters, image_flops, image_tokens = _image_tower(config["vision_cfg"], config["embed_dim"])
    text_parameters, text_flops = _text_tower(config["text_cfg"], config["embed_dim"])
    parameters = image_parameters + text_parameters + 1  # the logit scale
    image_size, dim = config["vision_cfg"].get("image_size", 224), config["embed_dim"]
    if "multimodal_cfg" not in config:
        return Cost(parameters, image_flops, text_flops, image_size=image_size, dim=dim)
    decoder = config["multimodal_cfg"]
    width, layers, vocabulary = decoder.get("width", 512), decoder.get("layers", 12), decoder.get("vocab_size", 49408)
    block_weights, block_parameters = _block(width)
    parameters += layers * (2 * block_parameters + 2 * width) + 2 * width + width * vocabulary
    memory_flops = layers * 2 * image_tokens * 2 * width**2
    written = config["text_cfg"].get("context_length", 77) // 2
    text_layers, text_width = config["text_cfg"].get("layers", 12), config["text_cfg"].get("width", 512)
    token_flops = text_layers * (2 * _block(text_width)[0] + 4 * written * text_width)
    token_flops += layers * (2 * block_weights + 4 * written * width)
    token_flops += layers * (2 * (block_weights - 2 * width**2) + 4 * image_tokens * width)
    token_flops += 2 * width * vocabulary
    return Cost(parameters, image_flops + memory_flops, token_flops=token_flops, image_size=image_size, dim=dim)


def _block(width: int, mlp_ratio: float = 4.0) -> tuple[int, int]:
    """A transformer block's weights in its matrices, and all its parameters."""
    weights = round((4 + 2 * mlp_ratio) * width**2)
    return weights, weights + round((9 + mlp_ratio) * width)


def _blocks_flops(tokens: int, width: int, layers: int, mlp_ratio: float = 4.0) -> int:
    return layers * (2 * tokens * _block(width, mlp_ratio)[0] + 4 * tokens**2 * width)


def _image_tower(vision: dict[str, Any], dim: int) -> tuple[int, int, int]:
    """Parameters, operations, and the tokens that a decoder sees of a vision transformer."""
    width, layers, ratio = vision.get("width", 768), vision.get("layers", 12), vision.get("mlp_ratio", 4.0)
    patch = vision.get("patch_size", 16)
    patches = (vision.get("image_size", 224) // patch) ** 2
    tokens = patches + 1
    parameters = 3 * patch**2 * width + width + tokens * width + 2 * width + layers * _block(width, ratio)[1]
    flops = 2 * patches * 3 * patch**2 * width + _blocks_flops(tokens, width, layers, ratio)
    if not vision.get("attentional_pool"):
        return parameters + 2 * width + width * dim, flops + 2 * width * dim, tokens - 1
    queries = vision.get("attn_pooler_queries", 256)
    pooler = queries * dim + 2 * dim**2 + 2 * dim * width + 4 * dim + 2 * dim + 2 * width
    projections = 2 * (2 * queries * dim**2 + 2 * tokens * width * dim)
    flops += projections + 4 * queries * tokens * dim + 2 * dim**2
    return parameters + pooler + 2 * dim + dim**2, flops, queries - 1


def _text_tower(text: dict[str, Any], dim: int) -> tuple[int, int]:
    """Parameters, and operations of one text of full length."""
    width, layers = text.get("width", 512), text.get("layers", 12)
    tokens = text.get("context_length", 77) + bool(text.get("embed_cls"))
    parameters = text.get("vocab_size", 49408) * width + tokens * width + layers * _block(width)[1] + 2 * width
    parameters += width * dim + (width if text.get("embed_cls") else 0)
    return parameters, _blocks_flops(tokens, width, layers) + 2 * width * dim
