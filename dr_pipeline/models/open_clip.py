"""Any model of open_clip (CLIP, SigLIP, CoCa, …) as a teacher, and its loading for the captioner."""

import hashlib
import json
import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.factory import get_model_config, get_tokenizer, list_models
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import TextTransformer

from dr_pipeline.errors import ModelError, nearest
from dr_pipeline.models.load import load_class, resource
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec, Triple
from dr_pipeline.models.weights import HUB, find_weights, hub_file, load_weights, pretrained_cfg

Tokenizer = Callable[[list[str]], torch.Tensor]
"""T texts → int64 tokens [T, context_length], padded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip module on its device, in eval mode, without gradients; `dim` is its embedding's width."""

    name: str
    module: torch.nn.Module
    image: ImageSpec
    tokenizer: Tokenizer
    dim: int


def load_open_clip(
    model: str,
    weights: str,
    device: torch.device,
    *,
    tokenizer: str | None = None,
    context_length: int | None = None,
) -> LoadedModel:
    """Build a model of open_clip and fill it.

    `model`: an architecture of open_clip, hf-hub:org/repo, or a JSON in the form of the hub's open_clip_config.json
    (path, package:// or URL). `weights`: see `weights.find_weights`; nothing defaults to random. `tokenizer`:
    "module:Class", constructed with context_length; default the model's own. `context_length`: texts are cut to that
    many tokens; default the model's. Raises ModelError naming the option.
    """
    config, mean, std = _configuration(model, weights)
    checkpoint = find_weights(model, weights)
    module = _build(model, config)
    if checkpoint is not None:
        _fill(module, model, checkpoint)
    module = module.to(device).eval().requires_grad_(False)
    limit = config["text_cfg"].get("context_length", 77)
    length = limit if context_length is None else context_length
    if length > limit or (length < limit and not _pools_at_end_of_text(module)):
        raise ModelError(f"model {model}: context_length is {length}; its text tower takes {limit}")
    return LoadedModel(
        name=model,
        module=module,
        image=ImageSpec(_image_size(model, module), mean, std),
        tokenizer=_tokenizer(model, config, tokenizer, length),
        dim=config["embed_dim"],
    )


def count_parameters(model: str, weights: str, **_: Any) -> int:
    """The parameters of the options' architecture, built without memory for them and without its weights."""
    config = _configuration(model, weights)[0]
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _build(model, config).parameters())


class OpenClipTeacher:
    """A teacher's card: `use: dr_pipeline.models.open_clip:OpenClipTeacher`; options as for `load_open_clip`."""

    count_parameters = staticmethod(count_parameters)

    def __init__(
        self,
        device: torch.device,
        model: str,
        weights: str,
        tokenizer: str | None = None,
        context_length: int | None = None,
    ):
        loaded = load_open_clip(model, weights, device, tokenizer=tokenizer, context_length=context_length)
        image = loaded.image
        self.spec = TeacherSpec(image.image_size, image.mean, image.std, loaded.dim)
        self._module: Any = loaded.module
        self._tokenize = loaded.tokenizer
        self._device = device

    def encode_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised float images → embeddings [B, dim], any scale."""
        return _features(self._module.encode_image(images_BCHW), "image_features")

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """T texts → embeddings [T, dim], any scale. Padding is cut where that is exact."""
        tokens_TL = self._tokenize(texts).to(self._device)
        if _pools_at_end_of_text(self._module):
            return encode_to_end_of_text(self._module, tokens_TL)
        return _features(self._module.encode_text(tokens_TL), "text_features")


def encode_to_end_of_text(module: Any, tokens_TL: torch.Tensor) -> torch.Tensor:
    """The text embedding of a causal tower that pools one token, run only as far as the batch's last pooled token.

    Exact: under a causal mask no position sees a later one, and the pooled position is the last that matters.
    """
    tower = module.text if isinstance(module, CustomTextCLIP) else module
    pool_type = tower.pool_type if tower is not module else tower.text_pool_type
    eos_id = tower.eos_id if tower is not module else tower.text_eos_id
    pooled_T = (tokens_TL if pool_type == "argmax" else (tokens_TL == eos_id).int()).argmax(dim=1)
    length = int(pooled_T.max()) + 1
    dtype = tower.transformer.get_cast_dtype()
    hidden_TLW = tower.token_embedding(tokens_TL[:, :length]).to(dtype) + tower.positional_embedding[:length].to(dtype)
    hidden_TLW = tower.transformer(hidden_TLW, attn_mask=tower.attn_mask[:length, :length])
    rows_T = torch.arange(len(tokens_TL), device=tokens_TL.device)
    features_TW = tower.ln_final(hidden_TLW[rows_T, pooled_T])
    if tower.text_projection is None:
        return features_TW
    if isinstance(tower.text_projection, torch.nn.Linear):
        return tower.text_projection(features_TW)
    return features_TW @ tower.text_projection


def _pools_at_end_of_text(module: torch.nn.Module) -> bool:
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
    """The embedding in what open_clip's models return: a tensor, (embedding, tokens), or a dict."""
    if isinstance(output, dict):
        return output[key]
    return output[0] if isinstance(output, tuple | list) else output


def _configuration(model: str, weights: str) -> tuple[dict[str, Any], Triple, Triple]:
    """A model's `model_cfg`, mean and std."""
    if model.startswith(HUB):
        return _read_config(model, hub_file(model.removeprefix(HUB), ("open_clip_config.json",)))
    if model.endswith(".json"):
        return _read_config(model, resource(model))
    config = get_model_config(model)
    if config is None:
        known = nearest(model, list_models()) or "; open_clip.list_models() lists what there is"
        raise ModelError(f"model {model}: open_clip has no such architecture{known}")
    preprocess = pretrained_cfg(model, weights) or _common_preprocess(model)
    return config, *_mean_and_std(preprocess)


def _read_config(model: str, path: Path) -> tuple[dict[str, Any], Triple, Triple]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        config = dict(tree["model_cfg"])
        return config, *_mean_and_std(tree.get("preprocess_cfg", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = '{"model_cfg": {…}, "preprocess_cfg": {"mean": [r, g, b], "std": [r, g, b]}}'
        raise ModelError(f"model {model}: expected JSON {expected}: {error!r}") from error


def _mean_and_std(preprocess: dict[str, Any]) -> tuple[Triple, Triple]:
    return _triple(preprocess.get("mean", OPENAI_DATASET_MEAN)), _triple(preprocess.get("std", OPENAI_DATASET_STD))


def _common_preprocess(model: str) -> dict[str, Any]:
    """The mean and std of all of an architecture's tags, for weights that bring none."""
    records = [get_pretrained_cfg(model, tag) for tag in list_pretrained_tags_by_model(model)]
    if len({(record["mean"], record["std"]) for record in records}) == 1:
        return records[0]
    if records:
        log.warning("model %s: its tags differ in mean and std; using OpenAI's. A JSON config can say others", model)
    return {}


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _build(model: str, config: dict[str, Any]) -> torch.nn.Module:
    """The module with random weights that depend on nothing but the model's name."""
    arguments = deepcopy(config)
    custom = arguments.pop("custom_text", False) or "hf_model_name" in arguments.get("text_cfg", {})
    kind = CoCa if "multimodal_cfg" in arguments else CustomTextCLIP if custom else CLIP
    seed = int.from_bytes(hashlib.blake2b(model.encode(), digest_size=7).digest(), "little")
    try:
        if "timm_model_name" in arguments["vision_cfg"]:
            arguments["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in arguments["text_cfg"]:
            arguments["text_cfg"]["hf_model_pretrained"] = False
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = kind(**arguments)
            if isinstance(module, CoCa):  # the one parameter that open_clip leaves as uninitialised memory
                torch.nn.init.normal_(module.text_decoder.text_projection, std=module.text_decoder.width**-0.5)
            return module
    except Exception as error:
        raise ModelError(
            f"model {model}: open_clip cannot build a {kind.__name__} of it: {type(error).__name__}: {error}"
        ) from error


def _fill(module: torch.nn.Module, model: str, checkpoint: Path) -> None:
    try:
        load_weights(module, checkpoint)
    except ModelError as error:
        raise ModelError(f"model {model}, weights: {error}") from error


def _image_size(model: str, module: Any) -> int:
    size = module.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise ModelError(f"model {model}: takes images of {height}×{width}; only square views are made")
    return int(height)


def _tokenizer(model: str, config: dict[str, Any], tokenizer: str | None, context_length: int) -> Tokenizer:
    text = config["text_cfg"]
    hub_name, options = text.get("hf_tokenizer_name"), text.get("tokenizer_kwargs") or {}
    own = load_class(tokenizer) if tokenizer is not None else None
    try:
        if own is not None:
            made = own(context_length=context_length)
        elif model in list_models():
            made = get_tokenizer(model, context_length=context_length)
        elif hub_name:
            mode = text.get("tokenizer_mode")
            made = HFTokenizer(hub_name, context_length=context_length, tokenizer_mode=mode, **options)
        else:
            made = SimpleTokenizer(context_length=context_length, **options)
    except Exception as error:
        raise ModelError(
            f"model {model}: tokenizer {tokenizer or hub_name or 'of open_clip'} cannot be made: {error}"
        ) from error
    held, known = getattr(made, "vocab_size", 0), text.get("vocab_size", 49408)
    if held > known and "hf_model_name" not in text:
        raise ModelError(
            f"model {model}: its tokenizer has {held} tokens but the model knows {known}: set options.tokenizer to the "
            "module:Class that the model was trained with"
        )
    return made
