"""The contract's form of a sample: its members with the captions, views and columns in them, in two layouts.

Paired teachers embed both images and texts. Their columns lie side by side, [rows, sum(dims)]: the views' in
`image_emb`, the ground-truth caption's in `text_emb`, the captions' of a key of `syn.json` in `KEY_emb` (v2), or behind
the ground-truth caption's in `text_emb` (v1). A column of a teacher of images or of texts alone is an array of its own,
such as `image_emb_TEACHER`. The classifiers' mean probabilities are two arrays, `image_probs_values` and
`image_probs_indices`. A sample without texts has no `txt`, no `syn.json` and no embeddings of texts.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dr_pipeline import codecs
from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.config.job import Output
from dr_pipeline.dataset.sample import (
    IMAGE,
    PROBS_INDICES,
    PROBS_VALUES,
    TEXT,
    Column,
    Sample,
    parse_json,
    parse_synthetic,
)
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe
from dr_pipeline.views.transforms import View

if TYPE_CHECKING:
    from dr_pipeline.codecs.codec import Array


def encode(sample: Sample, output: Output, recipe: Recipe) -> dict[str, bytes]:
    """A reinforced sample → its members by extension, in a fixed order. `recipe`: by which its views were drawn."""
    image_ext = sample.find_image()
    members = {image_ext: sample.image} if output.images == "copy" else {}
    others = {ext: sample.members[ext] for ext in sorted(sample.members.keys() - {image_ext, "txt", "syn.json"})}
    if sample.texts:
        others = {"txt": sample.caption.encode(), **others, "syn.json": json.dumps(sample.synthetic).encode()}
    members |= others
    members["paug.json"] = json.dumps({"param_aug": [recipe.encode(view) for view in sample.views]}).encode()
    paired = paired_teachers(sample.columns)
    kinds = (IMAGE, TEXT, *sample.synthetic) if paired else ()
    arrays = {array_name(of): side_by_side(sample.columns, of) for of in kinds}
    if output.layout == "v1":
        (key,) = sample.synthetic
        arrays["text_emb"] = np.concatenate([arrays["text_emb"], arrays.pop(array_name(key))])
    for (teacher, of), array in sample.columns.items():
        if teacher not in paired:
            arrays[array_name(of, teacher)] = array
    codec = codecs.codec_for(output.precision)
    members[codec.ext] = codec.encode(arrays)
    return members


def array_name(of: str, teacher: str = "") -> str:
    """The name in layout v2 of the array with the paired teachers' columns `of` these views or captions; with
    `teacher`, of the array with that one's own column, or with the classifiers' together.
    """
    if teacher in (PROBS_VALUES, PROBS_INDICES):
        return f"{of}_{teacher.replace(' ', '_')}"
    return f"{of}_emb_{teacher}" if teacher else f"{of}_emb"


def paired_teachers(columns: "Mapping[Column, Array]") -> set[str]:
    """The teachers that embed both images and texts."""
    return {teacher for teacher, of in columns if of == IMAGE} & {teacher for teacher, of in columns if of == TEXT}


def side_by_side(columns: "Mapping[Column, Array]", of: str) -> np.ndarray:
    """The paired teachers' columns `of` the views or the captions of one kind, [rows, sum(dims)]."""
    paired = paired_teachers(columns)
    arrays = [array for (teacher, kind), array in columns.items() if kind == of and teacher in paired]
    return np.concatenate(arrays, axis=1)


def decode(sample: Sample, recipe: Recipe = UNDESCRIBED, dims: Mapping[str, int] | None = None) -> str:
    """Fill in the captions, views and columns of a sample of any writer, these as float32 → the layout, v1 or v2.

    `recipe`: as the dataset's config.json records it; `dims`: as `decode_columns` takes it. Raises SampleSkipped.
    """
    decode_synthetic(sample)
    sample.views = tuple(decode_view(entry, recipe) for entry in read_views(sample))
    layout = decode_columns(sample, dims)
    for column, array in sample.columns.items():
        sample.columns[column] = np.asarray(array) if column.teacher == PROBS_INDICES else to_float32(array)
    return layout


def drop_texts(sample: Sample) -> None:
    """Remove the texts that a sample of a dataset without them has got from its base."""
    for ext in ("txt", "syn.json"):
        sample.members.pop(ext, None)


def decode_synthetic(sample: Sample) -> None:
    """Fill in the synthetic captions, none where the sample has no texts at all. Raises SampleSkipped."""
    has_texts = "txt" in sample.members or "syn.json" in sample.members
    sample.synthetic = parse_synthetic(_member(sample, "syn.json")) if has_texts else {}


def read_views(sample: Sample) -> list[Any]:
    """The entries of `param_aug`, a list or a string that holds one, for `decode_view`. Raises SampleSkipped."""
    tree = parse_json(_member(sample, "paug.json"), "paug.json")
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


def decode_columns(sample: Sample, dims: Mapping[str, int] | None = None) -> str:
    """Fill in the columns, as stored → the layout, v1 or v2. Those of captions need the synthetic captions first.

    `dims`: the paired teachers in order, with the lengths of their vectors; None: one column of the teacher "" holds
    all of theirs. Raises SampleSkipped where a member is missing or malformed; the caller checks the numbers of rows.
    """
    arrays = _read_arrays(sample)
    layout = "v1" if len(arrays.get("text_emb", ())) > 1 else "v2"
    if layout == "v1":
        if len(sample.synthetic) > 1:
            raise SampleSkipped("bad layout", f"v1 holds one synthetic key, found {', '.join(sample.synthetic)}")
        for key in sample.synthetic:
            arrays[array_name(key)] = arrays["text_emb"][1:]
        arrays["text_emb"] = arrays["text_emb"][:1]
    sample.columns = {}
    kinds = (IMAGE, TEXT, *sample.synthetic)
    for of in kinds if "image_emb" in arrays else ():
        if array_name(of) not in arrays:
            raise SampleSkipped("missing embedding", array_name(of))
        for teacher, array in _split(arrays[array_name(of)], of, dims).items():
            sample.columns[Column(teacher, of)] = array
    own = [name for name in arrays if name not in map(array_name, kinds)]
    for of in kinds:
        prefix = f"{array_name(of)}_"
        for name in own:
            if name.startswith(prefix):
                sample.columns[Column(name.removeprefix(prefix), of)] = arrays[name]
    for teacher in (PROBS_VALUES, PROBS_INDICES):
        if (name := array_name(IMAGE, teacher)) in arrays:
            sample.columns[Column(teacher, IMAGE)] = arrays[name]
    return layout


def _split(array: "Array", of: str, dims: Mapping[str, int] | None) -> "dict[str, Array]":
    """An array cut into the paired teachers' columns. Raises SampleSkipped where it is not as wide as all of them."""
    if dims is None:
        return {"": array}
    if array.shape[1] != sum(dims.values()):
        expected = [len(array), sum(dims.values())]
        raise SampleSkipped("misshapen embedding", f"{array_name(of)} is {list(array.shape)}, expected {expected}")
    ends = np.cumsum(list(dims.values()))
    return {teacher: array[:, end - dim : end] for (teacher, dim), end in zip(dims.items(), ends, strict=True)}


def _read_arrays(sample: Sample) -> "dict[str, Array]":
    """The arrays of the member that holds them. Raises SampleSkipped."""
    codec = codecs.find_codec(sample.members)
    if codec is None:
        raise SampleSkipped("missing member", " or ".join(codecs.extensions()))
    try:
        arrays = codec.decode(sample.members[codec.ext])
    except MemoryError:
        raise
    except Exception as error:  # isal, zipfile, zlib, NumPy's tokenizer and torch each have errors of their own
        detail = str(error).partition("\n")[0] or type(error).__name__
        raise SampleSkipped("unreadable embeddings", detail) from error
    has_others = any("_emb_" in name or "_probs_" in name for name in arrays)
    for name in ("image_emb", "text_emb"):
        if name not in arrays and not has_others:
            raise SampleSkipped("missing embedding", name)
    for name, array in arrays.items():
        if array.ndim != 2:
            raise SampleSkipped("misshapen embedding", f"{name} has shape {list(array.shape)}")
    values, indices = (arrays.get(array_name(IMAGE, teacher)) for teacher in (PROBS_VALUES, PROBS_INDICES))
    shapes = [None if array is None else tuple(array.shape) for array in (values, indices)]
    if shapes[0] != shapes[1]:
        raise SampleSkipped(
            "misshapen probabilities", f"values are {shapes[0]}, and the indices of classes {shapes[1]}"
        )
    return arrays


def _member(sample: Sample, ext: str) -> bytes:
    if ext not in sample.members:
        raise SampleSkipped("missing member", ext)
    return sample.members[ext]
