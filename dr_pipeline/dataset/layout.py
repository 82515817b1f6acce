"""A sample and its reinforcement ↔ the members of a tar, in the contract's two layouts."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dr_pipeline import codecs
from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.config.job import Output
from dr_pipeline.dataset.sample import Reinforcement, Sample, parse_json, parse_synthetic
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe
from dr_pipeline.views.transforms import View

if TYPE_CHECKING:
    from dr_pipeline.codecs.codec import Array


def encode(
    sample: Sample, made: Reinforcement, output: Output, augmentation: Augmentation
) -> Iterator[tuple[str, bytes]]:
    """The members of one output sample, (name, bytes), in a fixed order."""
    if output.images == "copy":
        yield f"{sample.key}.{sample.image_ext}", sample.image
    yield f"{sample.key}.txt", sample.caption.encode()
    for ext in sorted(sample.others):
        yield f"{sample.key}.{ext}", sample.others[ext]
    yield f"{sample.key}.syn.json", _json(made.synthetic)
    recipe = Recipe(augmentation)
    yield f"{sample.key}.paug.json", _json({"param_aug": [recipe.encode(view) for view in made.views]})
    codec = codecs.codec_for(output.precision)
    yield f"{sample.key}.{codec.ext}", codec.encode(_arrays(made, output.layout))


def decode(fields: dict[str, bytes], recipe: Recipe = UNDESCRIBED) -> tuple[Reinforcement, str]:
    """The members of one sample of any writer, {extension: bytes} → what was added, and its layout (v1 or v2).

    `recipe` is the one that the dataset's config.json records.
    Raises SampleSkipped naming the member when one is missing or malformed. Shapes are the caller's to check.
    """
    synthetic = read_synthetic(fields)
    views = tuple(decode_view(entry, recipe) for entry in read_views(fields))
    stored = read_embeddings(fields)
    synthetic_emb_TD = {key: to_float32(array) for key, array in stored.synthetic(synthetic).items()}
    made = Reinforcement(views, synthetic, to_float32(stored.image), to_float32(stored.text), synthetic_emb_TD)
    return made, stored.layout


def read_synthetic(fields: dict[str, bytes]) -> dict[str, list[str]]:
    """The synthetic captions by key. Raises SampleSkipped."""
    return parse_synthetic(_member(fields, "syn.json"))


def read_views(fields: dict[str, bytes]) -> list[Any]:
    """The entries of `param_aug`, a list or a string that holds one, for `decode_view`. Raises SampleSkipped."""
    tree = parse_json(_member(fields, "paug.json"), "paug.json")
    try:
        entries = tree["param_aug"]
        if isinstance(entries, str):
            entries = json.loads(entries)
    except (ValueError, KeyError, RecursionError) as error:
        raise SampleSkipped("bad paug.json", str(error)) from error
    if not isinstance(entries, list):
        raise SampleSkipped("bad paug.json", f"param_aug is a list, found {type(entries).__name__}")
    return entries


def decode_view(entry: Any, recipe: Recipe) -> View:
    """One entry of `param_aug`. Raises SampleSkipped."""
    try:
        return recipe.decode(entry)
    except ValueError as error:
        raise SampleSkipped("bad paug.json", str(error)) from error


@dataclass(frozen=True)
class StoredEmbeddings:
    """The embeddings of one sample in their stored precision; `to_float32` takes whole arrays or rows of them."""

    arrays: dict[str, "Array"]

    @property
    def layout(self) -> str:
        """v1 or v2, as the consumers tell them apart."""
        return "v1" if len(self.arrays["text_emb"]) > 1 else "v2"

    @property
    def image(self) -> "Array":
        """[views, D]."""
        return self.arrays["image_emb"]

    @property
    def text(self) -> "Array":
        """The ground-truth captions', [T, D]."""
        return self.arrays["text_emb"][:1] if self.layout == "v1" else self.arrays["text_emb"]

    def synthetic(self, keys: Iterable[str]) -> dict[str, "Array"]:
        """The synthetic captions' by key, each [T, D]; `keys` are all those of `syn.json`. Raises SampleSkipped."""
        keys = list(keys)
        if self.layout == "v1":
            if len(keys) != 1:
                raise SampleSkipped("bad layout", f"v1 holds one synthetic key, found {', '.join(keys)}")
            return {keys[0]: self.arrays["text_emb"][1:]}
        missing = [f"{key}_emb" for key in keys if f"{key}_emb" not in self.arrays]
        if missing:
            raise SampleSkipped("missing embedding", ", ".join(missing))
        return {key: self.arrays[f"{key}_emb"] for key in keys}


def read_embeddings(fields: dict[str, bytes]) -> StoredEmbeddings:
    """The embeddings as stored, by the codec that `codecs.find_codec` gives. Raises SampleSkipped."""
    arrays = _read_arrays(fields)
    for name in ("image_emb", "text_emb"):
        if name not in arrays:
            raise SampleSkipped("missing embedding", name)
    for name, array in arrays.items():
        if array.ndim != 2:
            raise SampleSkipped("misshapen embedding", f"{name} has shape {list(array.shape)}")
    return StoredEmbeddings(arrays)


def _arrays(made: Reinforcement, layout: str) -> dict[str, np.ndarray]:
    if layout == "v1":
        (synthetic_emb_TD,) = made.synthetic_emb_TD.values()
        return {"image_emb": made.image_emb_ND, "text_emb": np.concatenate([made.text_emb_TD, synthetic_emb_TD])}
    synthetic = {f"{key}_emb": emb_TD for key, emb_TD in made.synthetic_emb_TD.items()}
    return {"image_emb": made.image_emb_ND, "text_emb": made.text_emb_TD, **synthetic}


def _member(fields: dict[str, bytes], ext: str) -> bytes:
    if ext not in fields:
        raise SampleSkipped("missing member", ext)
    return fields[ext]


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _read_arrays(fields: dict[str, bytes]) -> dict[str, "Array"]:
    codec = codecs.find_codec(fields)
    if codec is None:
        raise SampleSkipped("missing member", " or ".join(codecs.extensions()))
    try:
        return codec.decode(fields[codec.ext])
    except MemoryError:
        raise
    except Exception as error:  # isal, zipfile, zlib, NumPy's tokenizer and torch each have errors of their own
        detail = str(error).partition("\n")[0] or type(error).__name__
        raise SampleSkipped("unreadable embeddings", detail) from error
