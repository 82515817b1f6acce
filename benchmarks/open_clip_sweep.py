"""Every architecture of open_clip as a teacher: its spec, its tokenizer, and its embeddings against open_clip's own.

    python benchmarks/open_clip_sweep.py [NAME …] [--most-parameters N]

Weights are random. A line an architecture says its size, the largest difference between the teacher's embeddings and
those of `encode_image` and `encode_text` (a share of the largest value), where its tokenizer comes from, and how it was
tried:

    whole    as it is
    reduced  two layers, a small vocabulary, or a small text tower of the same kind in the place of one whose
             configuration is on the hub
    meta     its parameters, operations and sizes alone, because it has more parameters than N and none of its own
             settings makes it smaller

The module's class and the shapes of its parameters are compared with those of `open_clip.create_model` too, for whole
ones. The exit code is 1 where something differs. It takes hours on two cores, and 6 GB with the default N.
"""

import argparse
import gc
import json
import sys
import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from transformers import AutoConfig

from dr_pipeline.errors import ModelError
from dr_pipeline.models.open_clip import OpenClipTeacher
from dr_pipeline.networks.architecture import read_architecture
from dr_pipeline.networks.tokenizer import make_tokenizer

CPU = torch.device("cpu")
ALLOWED = 1e-4
"""Of the largest value: the towers run texts of other lengths than open_clip does, which changes the last bits."""
FAMILIES = {"mt5": "mt5", "nllb": "m2m_100", "xlm-roberta": "xlm-roberta", "roberta": "roberta"}
"""A part of a text tower's name on the hub → its kind in transformers."""
TINY = {
    "mt5": {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "m2m_100": {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
}
OTHERS_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


class Bytes:
    """A tokenizer that needs no file, for teachers whose own is on the hub: a byte a token."""

    def __init__(self, context_length: int):
        self._context_length = context_length

    def __call__(self, texts: list[str]) -> torch.Tensor:
        tokens_TL = torch.zeros(len(texts), self._context_length, dtype=torch.int64)
        for row_L, text in zip(tokens_TL, texts, strict=True):
            data = text.encode()[: self._context_length]
            row_L[: len(data)] = torch.tensor(list(data))
        return tokens_TL


@dataclass
class Tried:
    """What became of an architecture. Sizes are None where its cost is not known, differences where it was not run."""

    name: str
    tokenizer: str
    how: str
    parameters: int | None = None
    image_size: int | None = None
    dim: int | None = None
    image_difference: float | None = None
    text_difference: float | None = None
    fault: str = ""


def try_architecture(name: str, most_parameters: int, folder: Path) -> Tried:
    """Build a teacher of an architecture and compare it with open_clip's module."""
    model, how, tokenizer = name, "whole", own_tokenizer(name)
    config = open_clip.get_model_config(name)
    if needed := config["text_cfg"].get("hf_model_name"):
        model, how = reduced(config, folder, tower_in_place_of(needed, folder)), "reduced"
    cost = OpenClipTeacher.cost(model, "random")
    tried = Tried(name, tokenizer, how)
    if cost is not None:
        tried.parameters, tried.image_size, tried.dim = cost.parameters, cost.image_size, cost.dim
    if (tried.parameters or 0) > most_parameters:
        if "layers" not in config["vision_cfg"]:
            tried.how = "meta"
            return tried
        model, tried.how = reduced(config, folder), "reduced"
    compare(model, tried)
    return tried


def own_tokenizer(name: str) -> str:
    """Where an architecture's own tokenizer comes from: open_clip, or the hub."""
    architecture = read_architecture(name, "random")
    try:
        make_tokenizer(architecture, None, architecture.context_length)
    except ModelError:
        return f"hub: {architecture.config['text_cfg']['hf_tokenizer_name']}"
    return "own"


def reduced(config: dict[str, Any], folder: Path, tower: str | None = None) -> str:
    """The file of an architecture of the same widths, but two layers, 1,000 tokens, and another text tower if given."""
    config = deepcopy(config)
    for part in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        if isinstance(config.get(part, {}).get("layers"), int):
            config[part]["layers"] = 2
    if tower:
        config["text_cfg"] |= {"hf_model_name": tower, "hf_tokenizer_name": None}
    else:
        config["text_cfg"] |= {"vocab_size": 1000, "hf_tokenizer_name": None}
    path = folder / "model.json"
    path.write_text(json.dumps({"model_cfg": config}))
    return str(path)


def tower_in_place_of(name: str, folder: Path) -> str:
    """The folder of a small text tower's configuration, of the same kind as one on the hub."""
    kind = next(kind for part, kind in FAMILIES.items() if part in name)
    sizes = TINY.get(kind, OTHERS_TINY)
    AutoConfig.for_model(kind, vocab_size=1000, **sizes).save_pretrained(folder / kind)
    return str(folder / kind)


@torch.inference_mode()
def compare(model: str, tried: Tried) -> None:
    """Fill in the differences and faults of a teacher that runs."""
    teacher = OpenClipTeacher(CPU, model, "random", tokenizer="open_clip_sweep:Bytes")
    network = teacher._network  # a second one would need as much memory again
    module: Any = network.module
    spec, faults = teacher.spec, []
    if tried.parameters and (spec.dim, spec.image_size) != (tried.dim, tried.image_size):
        faults.append(f"its spec says {spec.dim} dims and {spec.image_size} px")
    if tried.how == "whole":
        with torch.device("meta"):
            theirs = open_clip.create_model(model, load_weights=False, device="meta")
        shapes, own = ({key: value.shape for key, value in one.state_dict().items()} for one in (theirs, module))
        if type(theirs) is not type(module) or shapes != own:
            faults.append("open_clip.create_model builds another module")
    images_BCHW = torch.randn(2, 3, spec.images.image_size, spec.images.image_size)
    tokens_TL = tokens_for(module, network.architecture.context_length)
    tried.image_difference = difference(teacher.encode_images(images_BCHW), module.encode_image(images_BCHW))
    tried.text_difference = difference(teacher.encode_tokens(tokens_TL), module.encode_text(tokens_TL))
    if not max(tried.image_difference, tried.text_difference) <= ALLOWED:
        faults.append("its embeddings differ")
    tried.fault = "; ".join(faults)


def tokens_for(module: Any, length: int) -> torch.Tensor:
    """Tokens [T, L] of a short, a middling and a full text, each with an end where the tower looks for one."""
    text = module.text if hasattr(module, "text") else module
    vocabulary = text.token_embedding.num_embeddings if hasattr(text, "token_embedding") else 1000
    end = getattr(text, "eos_id", getattr(text, "text_eos_id", None)) or vocabulary - 1
    pad = text.config.pad_token_id if hasattr(text, "config") else 0
    tokens_TL = torch.full((3, length), pad)
    for row_L, count in zip(tokens_TL, (3, length // 2, length), strict=True):
        row_L[: count - 1] = torch.randint(3, min(vocabulary - 1, 256), (count - 1,))
        row_L[count - 1] = min(end, vocabulary - 1)
    return tokens_TL


def difference(ours: torch.Tensor, theirs: Any) -> float:
    """The largest difference, as a share of the largest value."""
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    return float((ours - theirs).abs().max() / theirs.abs().max())


def main() -> None:
    """Try the architectures, print a line each, and how many of each kind there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=open_clip.list_models())
    parser.add_argument("--most-parameters", type=float, default=1.3e9)
    options = parser.parse_args()
    counts: dict[str, int] = {}
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                tried = try_architecture(name, options.most_parameters, Path(folder))
            except Exception as error:
                tried = Tried(name, "", "failed", fault=f"{type(error).__name__}: {error}")
        print(json.dumps(vars(tried)), flush=True)
        for label in (tried.how, f"tokenizer {tried.tokenizer.partition(':')[0]}", "fault" if tried.fault else "equal"):
            counts[label] = counts.get(label, 0) + 1
        gc.collect()
    print(json.dumps(counts))
    sys.exit("fault" in counts)


if __name__ == "__main__":
    main()
