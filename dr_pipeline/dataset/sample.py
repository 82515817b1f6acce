"""From tar members to samples: the contract's key rule, image, caption and existing synthetic captions."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dr_pipeline import codecs
from dr_pipeline.config.cards import LONGEST_KEY_BYTES, MOST_CAPTIONS
from dr_pipeline.dataset.texts import is_blank
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.views.transforms import View

Data = TypeVar("Data")


@dataclass(frozen=True)
class Sample:
    """One sample of the base dataset, its bytes untouched."""

    key: str
    image_ext: str
    """One of `dataset.sample.IMAGE_EXTS`, in lower case."""
    image: bytes
    caption: str
    synthetic: dict[str, list[str]]
    """Captions that the input already has in `syn.json`, by key."""
    others: dict[str, bytes]
    """Every other member by its extension, passed through byte for byte."""
    num_members: int = 0
    """How many the input has of it, those of an earlier pass included."""


@dataclass(frozen=True)
class Reinforcement:
    """What the pipeline adds to one sample. Embeddings are float32 with each teacher's slice L2-normalised."""

    views: tuple[View, ...]
    synthetic: dict[str, list[str]]
    """All synthetic captions, by key of `syn.json`."""
    image_emb_ND: np.ndarray
    """Row i belongs to view i; D is the sum of the teachers' dims."""
    text_emb_TD: np.ndarray
    """The ground-truth captions' embeddings."""
    synthetic_emb_TD: dict[str, np.ndarray]
    """The synthetic captions' embeddings, by key of `syn.json`."""


IMAGE_EXTS_OF_ALL = ("jpg", "png", "jpeg", "webp")
"""In the order in which other trainers look for an image; they look for no other."""

IMAGE_EXTS = (
    *IMAGE_EXTS_OF_ALL,
    *("jpe", "jfif", "apng", "gif", "bmp", "tif", "tiff", "avif", "avifs"),
    *("jp2", "j2k", "jpc", "jpf", "jpx", "j2c", "pbm", "pgm", "ppm", "pnm", "pfm", "ico"),
)
"""Whatever `views.render.decode` takes."""

NO_IMAGE, NO_TEXT = "no image", "no text"
"""The reasons of a sample that lacks a part, or whose caption shows nothing."""

_CAPTION_FIELDS = ("caption", "text")
_EMBEDDED_OTHERWISE = ("image", "text")

# Far beyond what an image-text sample has, and small enough to be parsed, kept and embedded.
_LONGEST_TEXT = 1 << 20
_MOST_MEMBERS = 1000
_LARGEST_JSON_BYTES = 16 << 20


def split_name(name: str) -> tuple[str, str]:
    """A member's name → key and extension; one of both is empty where the name is no sample's."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ext = base.partition(".")
    return (folder + slash + stem if stem else "", _canonical(ext))


def group(members: Iterable[tuple[str, Data]]) -> Iterator[tuple[str, dict[str, Data]]]:
    """Neighbouring members of one key: (name, data) → (key, {extension: data}).

    The key is the name up to the first dot of its last part; a name without one (`._x`, `README`) is no sample's.
    An extension that comes twice starts a new sample of the same key. Raises ShardError where a key has more members
    than any sample, which would all be held in memory.
    """
    key = ""
    fields: dict[str, Data] = {}
    for name, data in members:
        its_key, ext = split_name(name)
        if not its_key or not ext:
            continue
        if key != its_key or ext in fields:
            if fields:
                yield key, fields
            key, fields = its_key, {}
        fields[ext] = data
        if len(fields) > _MOST_MEMBERS:
            raise ShardError(
                f"more than {_MOST_MEMBERS} members have the key {key}, such as {name}: a key ends at the first dot of "
                "a file's name; rename the files so that their keys hold no dot"
            )
    if fields:
        yield key, fields


def to_sample(key: str, fields: dict[str, bytes], caption: str) -> Sample:
    """One group → Sample, by the job's `input.caption` rule. Raises SampleSkipped when it cannot be one."""
    _check_names(key, fields)
    image_ext = find_image(fields)
    kept = {ext: data for ext, data in fields.items() if ext not in _made_by_us()}
    others = {ext: data for ext, data in kept.items() if ext not in (image_ext, "txt", "syn.json")}
    return Sample(
        key=key,
        image_ext=image_ext,
        image=fields[image_ext],
        caption=read_caption(fields, caption),
        synthetic=parse_synthetic(fields["syn.json"]) if "syn.json" in fields else {},
        others=others,
        num_members=len(fields),
    )


def has_image(fields: Iterable[str]) -> bool:
    """Whether one of these extensions is an image's."""
    return not set(IMAGE_EXTS).isdisjoint(fields)


def find_image(fields: dict[str, bytes]) -> str:
    """The extension of the sample's image. Raises SampleSkipped when it has none."""
    image_ext = next((ext for ext in IMAGE_EXTS if ext in fields), None)
    if image_ext is None:
        raise SampleSkipped(NO_IMAGE, f"members: {', '.join(sorted(fields))}")
    return image_ext


def read_caption(fields: dict[str, bytes], rule: str) -> str:
    """The ground-truth caption by the job's `caption` rule. Raises SampleSkipped when there is none."""
    if rule in ("auto", "txt") and "txt" in fields:
        text = _utf8(fields["txt"], "txt")
    elif rule == "txt" or "json" not in fields:
        raise SampleSkipped(NO_TEXT, f"members: {', '.join(sorted(fields))}")
    else:
        tree = parse_json(fields["json"], "json")
        names = _CAPTION_FIELDS if rule == "auto" else (rule,)
        text = next((tree[name] for name in names if isinstance(tree.get(name), str)), "")
    if is_blank(text):
        raise SampleSkipped(NO_TEXT, "the caption shows nothing")
    check_text(text, "caption")
    return text


def parse_synthetic(data: bytes) -> dict[str, list[str]]:
    """`syn.json` → captions by key. Raises SampleSkipped unless every key holds one or more strings."""
    tree = parse_json(data, "syn.json")
    for key, captions in tree.items():
        _check_caption_key(key)
        strings = isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)
        if not strings or not captions:
            raise SampleSkipped("bad syn.json", f"{key} is not a list of one or more strings")
        if key in _EMBEDDED_OTHERWISE:
            raise SampleSkipped("bad syn.json", f"{key}_emb is another embedding's name: call the key syn_text_{key}")
        if len(captions) > MOST_CAPTIONS:
            raise SampleSkipped("bad syn.json", f"{key} holds {len(captions)} captions, more than {MOST_CAPTIONS}")
        for caption in captions:
            check_text(caption, "syn.json")
    return tree


def parse_json(data: bytes, ext: str) -> dict[str, Any]:
    """The object that a JSON member holds. Raises SampleSkipped."""
    if len(data) > _LARGEST_JSON_BYTES:
        raise SampleSkipped(f"bad {ext}", f"{len(data)} bytes, more than {_LARGEST_JSON_BYTES}")
    try:
        tree = json.loads(_utf8(data, ext).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise SampleSkipped(f"bad {ext}", str(error)) from error
    if not isinstance(tree, dict):
        raise SampleSkipped(f"bad {ext}", f"an object is expected, found {type(tree).__name__}")
    return tree


def _made_by_us() -> tuple[str, ...]:
    """The extensions of members that an earlier reinforcement left, and that a new one replaces."""
    return ("paug.json", *codecs.extensions())


def _canonical(ext: str) -> str:
    """Extensions that we read are read in any case; all others stay as they are."""
    lower = ext.lower()
    return lower if lower in {*IMAGE_EXTS, *_made_by_us(), "txt", "json", "syn.json"} else ext


def _check_names(key: str, fields: Iterable[str]) -> None:
    """Whoever unpacks the output must stay below his folder, also on Windows; a NUL would cut a member's name."""
    for name in (key, *(f"{key}.{ext}" for ext in fields)):
        folders = re.split(r"[/\\]", name)
        if not folders[0] or ".." in folders or "\0" in name:
            raise SampleSkipped("unsafe name", repr(name))


def _check_caption_key(key: str) -> None:
    """It becomes the name of an array."""
    if not key.isprintable() or len(key.encode()) > LONGEST_KEY_BYTES:
        raise SampleSkipped("bad syn.json", f"{key!r} is no name for a list of captions")


def check_text(text: str, where: str) -> None:
    """Raise SampleSkipped for a text that is too long, or holds half of a surrogate pair, as JSON can where a caption
    was cut in the middle of an emoji.
    """
    if len(text) > _LONGEST_TEXT:
        raise SampleSkipped("text too long", f"{where}: {len(text)} characters, more than {_LONGEST_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SampleSkipped("text is not UTF-8", f"{where}: {error}") from error


def _utf8(data: bytes, ext: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleSkipped("text is not UTF-8", f"{ext}: {error}") from error
