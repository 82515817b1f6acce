"""The sample: what travels from tar to tar and from tar to batch; and what its members say."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from dr_pipeline import codecs
from dr_pipeline.config.cards import LONGEST_KEY_BYTES, MOST_CAPTIONS
from dr_pipeline.dataset.caption_faults import is_blank
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.transforms import View

if TYPE_CHECKING:
    import numpy as np


IMAGE, TEXT = "image", "text"
"""What a column is of, beside the keys of `syn.json`: the views, and the ground-truth caption."""


class Column(NamedTuple):
    """The name of a column: what one teacher makes of a sample's views, or of its captions of one kind."""

    teacher: str
    of: str
    """IMAGE, TEXT, or a key of `syn.json`."""


@dataclass(eq=False)
class Sample:
    """One image-text sample. Each stage fills in what it finds or makes, and passes the sample on."""

    key: str
    members: dict[str, bytes]
    """By extension: those that were read of its tar, and in the end those that are written."""
    index: int = 0
    """The place among the samples of its shard."""
    num_members: int = 0
    """Members in its tar, whether they were read or not."""
    span: tuple[int, int] = (0, 0)
    """The offsets of its first and behind its last byte in the tar."""
    hard_link: tuple[str, str] | None = None
    """A member that is a hard link, and the name of the earlier member that has its bytes."""
    skip: SampleSkipped | None = None
    """Why it is left out, once that is known."""
    caption: str = ""
    """The ground-truth caption."""
    synthetic: dict[str, list[str]] = field(default_factory=dict)
    """Synthetic captions by key of `syn.json`."""
    views: tuple[View, ...] = ()
    views_NHWC: Any = None
    """The views' pixels, uint8, until they are on their way to the device; or what a caller's transform makes of them.
    """
    teacher_views_NHWC: "np.ndarray | None" = None
    """The same views at the size of the dataset, for teachers that are in memory while a student trains."""
    squares: "dict[int, np.ndarray]" = field(default_factory=dict)
    """The image's central square by its side in pixels, uint8 [side, side, 3]: what captioners see."""
    columns: dict[Column, Any] = field(default_factory=dict)
    """What teachers make of it, [rows, dim] each: a row for each view or caption, in order; float32, or as stored."""

    @property
    def image_ext(self) -> str:
        """The extension of its image. Raises SampleSkipped where it has none."""
        return find_image(self.members)

    @property
    def image(self) -> bytes:
        """The bytes of its image. Raises SampleSkipped where it has none."""
        return self.members[self.image_ext]


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

# Far beyond what an image-text sample has, and small enough to be parsed, kept and embedded.
_LONGEST_TEXT = 1 << 20
_LARGEST_JSON_BYTES = 16 << 20


def split_name(name: str) -> tuple[str, str]:
    """A member's name → key and extension; one of both is empty where the name is no sample's."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ext = base.partition(".")
    return (folder + slash + stem if stem else "", _canonical(ext))


def parse_base_sample(sample: Sample, caption_rule: str) -> None:
    """Fill in the caption, by the job's `input.caption`, and the synthetic captions of a base dataset's sample.

    Members of an earlier reinforcement are dropped: a new one replaces them. Raises SampleSkipped where the sample
    cannot be reinforced.
    """
    _check_names(sample.key, sample.members)
    find_image(sample.members)
    sample.members = {ext: data for ext, data in sample.members.items() if ext not in _made_by_us()}
    sample.caption = read_caption(sample.members, caption_rule)
    if "syn.json" in sample.members:
        sample.synthetic = parse_synthetic(sample.members["syn.json"])


def has_image(fields: Iterable[str]) -> bool:
    """Whether one of these extensions is an image's."""
    return not set(IMAGE_EXTS).isdisjoint(fields)


def find_image(members: Iterable[str]) -> str:
    """The extension of the sample's image. Raises SampleSkipped when it has none."""
    image_ext = next((ext for ext in IMAGE_EXTS if ext in members), None)
    if image_ext is None:
        raise SampleSkipped(NO_IMAGE, f"members: {', '.join(sorted(members))}")
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
        if not key.isprintable() or len(key.encode()) > LONGEST_KEY_BYTES:  # it becomes the name of an array
            raise SampleSkipped("bad syn.json", f"{key!r} is no name for a list of captions")
        strings = isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)
        if not strings or not captions:
            raise SampleSkipped("bad syn.json", f"{key} is not a list of one or more strings")
        if key in (IMAGE, TEXT) or key.startswith("image_emb_"):
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
