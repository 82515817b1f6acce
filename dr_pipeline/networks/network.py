"""An open_clip model that is ready to use: its module, preprocessing and tokenizer, and how its towers are run.

Shapes: B images, T texts, L tokens, W width of a transformer, C = 3 channels, H and W pixels of an image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg
from open_clip.transformer import TextTransformer

from dr_pipeline.errors import ModelError
from dr_pipeline.networks.architecture import Architecture, build, read_architecture
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.networks.tokenizer import Tokenizer, make_tokenizer
from dr_pipeline.networks.weights import Fit, find_weights, load_weights


@dataclass(frozen=True)
class Network:
    """An open_clip module on its device, in eval mode, without gradients; its embeddings have `dim` columns."""

    architecture: Architecture
    module: torch.nn.Module
    image: ImageSpec
    tokenizer: Tokenizer
    dim: int

    @property
    def name(self) -> str:
        """The architecture's."""
        return self.architecture.name


def load_network(
    model: str,
    weights: str,
    device: torch.device,
    *,
    tokenizer: str | None = None,
    context_length: int | None = None,
) -> Network:
    """Build a model of open_clip and load its weights. Raises ModelError naming the option.

    `model`: see `read_architecture`. `weights`: see `weights.find_weights`; there is no default. `tokenizer`:
    "module:Class", constructed with context_length; default the model's own. `context_length`: texts are cut to that
    many tokens; default the model's.
    """
    architecture = read_architecture(model, weights)
    checkpoint = find_weights(model, weights)
    module = build(architecture)
    if checkpoint is not None:
        fill(module, model, checkpoint)
    return assemble(architecture, module.to(device).eval().requires_grad_(False), tokenizer, context_length)


def assemble(architecture: Architecture, module: Any, tokenizer: str | None, context_length: int | None) -> Network:
    """The network of a module. Raises ModelError where context_length or tokenizer do not fit the architecture."""
    limit = architecture.context_length
    length = limit if context_length is None else context_length
    if length > limit or (length < limit and not pools_at_end_of_text(module)):
        raise architecture.wrong_context_length(length)
    size: Any = module.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise ModelError(f"model {architecture.name}: takes images of {height}×{width}; only square views are made")
    set_model_preprocess_cfg(module, {"mean": architecture.mean, "std": architecture.std})  # as open_clip does
    return Network(
        architecture=architecture,
        module=module,
        image=ImageSpec(int(height), architecture.mean, architecture.std),
        tokenizer=make_tokenizer(architecture, tokenizer, length),
        dim=architecture.config["embed_dim"],
    )


def fill(module: torch.nn.Module, model: str, checkpoint: Path, *fits: Fit) -> None:
    """Load a checkpoint, which `fits` change before, into a module. Raises ModelError naming the model."""
    try:
        load_weights(module, checkpoint, *fits)
    except ModelError as error:
        raise ModelError(f"model {model}, weights: {error}") from error


def embed_images(module: Any, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalised float images → embeddings [B, dim], not scaled."""
    return _features(module.encode_image(images_BCHW), "image_features")


def embed_texts(module: Any, tokens_TL: torch.Tensor, length_multiple: int = 1) -> torch.Tensor:
    """Tokens → embeddings [T, dim], not scaled. Padding is cut off where that changes nothing.

    Tokens in host memory are copied to the module's device, and a GPU that computes is not waited for. What is left of
    the padding makes the length a multiple of `length_multiple`, or leaves it whole.
    """
    return embed_cut_texts(module, cut_texts(module, tokens_TL, length_multiple))


def cut_texts(module: Any, tokens_TL: torch.Tensor, length_multiple: int = 1) -> torch.Tensor:
    """The tokens on the module's device, without the padding that changes nothing; see `embed_texts`."""
    on_device_TL = tokens_TL.to(next(module.parameters()).device, non_blocking=True)
    if not pools_at_end_of_text(module):
        return on_device_TL
    needed = int(_pooled_positions(module, tokens_TL).max()) + 1
    return on_device_TL[:, : -(-needed // length_multiple) * length_multiple]


def embed_cut_texts(module: Any, tokens_TL: torch.Tensor) -> torch.Tensor:
    """Embeddings of tokens that `cut_texts` gives.

    A causal tower that pools one token runs on the first positions, which hold all pooled ones. It is exact: under a
    causal mask no position sees a later one.
    """
    if not pools_at_end_of_text(module):
        return _features(module.encode_text(tokens_TL), "text_features")
    tower, length = _text_tower(module), tokens_TL.shape[1]
    pooled_T = _pooled_positions(module, tokens_TL)
    dtype = tower.transformer.get_cast_dtype()
    hidden_TLW = tower.token_embedding(tokens_TL).to(dtype) + tower.positional_embedding[:length].to(dtype)
    hidden_TLW = tower.transformer(hidden_TLW, attn_mask=tower.attn_mask[:length, :length])
    rows_T = torch.arange(len(tokens_TL), device=tokens_TL.device)
    features_TW = tower.ln_final(hidden_TLW[rows_T, pooled_T])
    if tower.text_projection is None:
        return features_TW
    if isinstance(tower.text_projection, torch.nn.Linear):
        return tower.text_projection(features_TW)
    return features_TW @ tower.text_projection


def _pooled_positions(module: Any, tokens_TL: torch.Tensor) -> torch.Tensor:
    """The position of each text that a causal tower pools [T], computed where the tokens lie."""
    tower = _text_tower(module)
    pool_type = tower.pool_type if tower is not module else tower.text_pool_type
    eos_id = tower.eos_id if tower is not module else tower.text_eos_id
    return (tokens_TL if pool_type == "argmax" else (tokens_TL == eos_id).int()).argmax(dim=1)


def _text_tower(module: Any) -> Any:
    return module.text if isinstance(module, CustomTextCLIP) else module


def pools_at_end_of_text(module: torch.nn.Module) -> bool:
    """Whether the text tower is causal and pools one token, so that `embed_texts` cuts off the padding behind it."""
    if isinstance(module, CLIP):
        return module.attn_mask is not None and module.text_pool_type in ("argmax", "eos")
    tower = getattr(module, "text", None)
    return (
        isinstance(module, CustomTextCLIP)
        and isinstance(tower, TextTransformer)
        and tower.attn_mask is not None
        and tower.cls_emb is None
        and tower.pool_type in ("argmax", "eos")
    )


def _features(output: Any, key: str) -> torch.Tensor:
    """The embedding in an output of open_clip: a tensor, (embedding, tokens), or a dict."""
    if isinstance(output, dict):
        return output[key]
    return output[0] if isinstance(output, tuple | list) else output
