"""The sample, which travels from tar to tar and from tar to batch, and the parsers of its members."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dr_pipeline import codecs
from dr_pipeline.config.cards import LONGEST_KEY_BYTES, MOST_CAPTIONS
from dr_pipeline.config.job import WITHOUT_TEXTS
from dr_pipeline.dataset.caption_faults import is_blank
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.transforms import View

IMAGE, TEXT = "image", "text"
"""What a column is of, beside the keys of `syn.json`: the views, and the ground-truth caption."""

PROBS_VALUES, PROBS_INDICES = "probs values", "probs indices"
"""In the place of a teacher: the largest of the classifiers' mean probabilities, and whose classes they are, int32. No
teacher is called so, for names hold no blank.
"""

LABEL_VALUES, LABEL_INDICES = "label values", "label indices"
"""In the place of a teacher: the parts of a view that its own image and the one that it is mixed with have, and the
classes of both.
"""

SYNTHETIC = "synthetic"
"""The kind of captions that a student's batch calls so, whatever their key."""

CONSUMERS_IMAGE_EXTS = ("jpg", "png", "jpeg", "webp")
"""The only images that the contract's consumers look for, in their order."""

IMAGE_EXTS = (
    *CONSUMERS_IMAGE_EXTS,
    *("jpe", "jfif", "apng", "gif", "bmp", "tif", "tiff", "avif", "avifs"),
    *("jp2", "j2k", "jpc", "jpf", "jpx", "j2c", "pbm", "pgm", "ppm", "pnm", "pfm", "ico"),
)
"""All that `views.render.decode` takes, in the order in which a sample's image is looked for."""

NO_IMAGE, NO_TEXT = "no image", "no text"
"""The reasons to skip a sample that lacks a part, or whose caption is blank."""

FILTERED = "filtered"
"""The reason to skip a sample whose score is outside of a scorer's thresholds: nothing is wrong with it."""

_CAPTION_FIELDS = ("caption", "text")

# Far more than an image-text sample has, and little enough to be parsed, kept and embedded.
_LONGEST_TEXT = 1 << 20
_MOST_DIGITS = 9
_LARGEST_JSON_BYTES = 16 << 20


class Column(NamedTuple):
    """The name of a column: the embeddings by one teacher of a sample's views, or of its captions of one kind."""

    teacher: str
    """Or PROBS_VALUES, PROBS_INDICES."""
    of: str
    """IMAGE, TEXT, or a key of `syn.json`."""


@dataclass(eq=False)
class Sample:
    """One sample: an image with texts, or with a class or nothing.

    `read_samples` gives the fields from `key` to `skip`, later stages fill in the others.
    N: views; H, W: height and width in pixels; C: 3 colours.
    """

    key: str
    members: dict[str, bytes]
    """Extension → bytes: the members that were read from a tar, or that are to be written to one."""
    index: int = 0
    """The place among the samples of its shard."""
    num_members: int = 0
    """All that its tar has, read or not."""
    span: tuple[int, int] = (0, 0)
    """The offsets of its first byte and behind its last byte in the unpacked tar."""
    hard_link: tuple[str, str] | None = None
    """A member that was a hard link, and the earlier member that has its bytes."""
    skip: SampleSkipped | None = None
    """Why it is left out, once a stage has found that out; later stages pass it on."""
    caption: str = ""
    """The ground-truth caption; "" of a sample without texts."""
    synthetic: dict[str, list[str]] = field(default_factory=dict)
    """Key of `syn.json` → synthetic captions."""
    views: tuple[View, ...] = ()
    """The drawn parameters of each view."""
    views_NHWC: Any = None
    """The views' pixels, uint8, or what a caller's transform makes of them; None before they are made and once they are
    on their way to the device.
    """
    decoded: Any = None
    """Its image, decoded, while its views wait to be mixed; None before and after."""
    earlier: "dict[int, Sample]" = field(default_factory=dict)
    """Place in its shard → a sample before it, where a student's views may be mixed with those of such samples."""
    image_HWC: np.ndarray | None = None
    """The decoded pixels of its image, or of what its one view shows, uint8, where a device renders the views; None
    before and after.
    """
    teacher_views_NHWC: np.ndarray | None = None
    """The same views at the dataset's size, for teachers that are in memory while a student trains."""
    squares: dict[int, np.ndarray] = field(default_factory=dict)
    """Side in pixels → the image's central square, uint8 [side, side, C]: what captioners see."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scorer → the sample's score."""
    columns: dict[Column, Any] = field(default_factory=dict)
    """The embeddings, [rows, dim] each, a row for each view or caption in order; float32, or as a codec gives them."""

    @property
    def texts(self) -> dict[str, list[str]]:
        """Its captions by kind: TEXT, and the keys of `syn.json`; {} of a sample without texts."""
        return {TEXT: [self.caption], **self.synthetic} if self.caption else {}

    def find_image(self) -> str:
        """The extension of its image. Raises SampleSkipped where it has none."""
        for ext in IMAGE_EXTS:
            if ext in self.members:
                return ext
        raise SampleSkipped(NO_IMAGE, f"members: {', '.join(sorted(self.members))}")

    @property
    def image(self) -> bytes:
        """The bytes of its image. Raises SampleSkipped where it has none."""
        return self.members[self.find_image()]


def split_name(name: str) -> tuple[str, str]:
    """A member's name → key and extension; one of both is empty where the name is no sample's.

    Extensions that are read here are read in any case, and given in small letters; all others stay as they are.
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ext = base.partition(".")
    is_read = ext.lower() in {*IMAGE_EXTS, *_reinforced_exts(), "txt", "json", "syn.json"}
    return (folder + slash + stem if stem else "", ext.lower() if is_read else ext)


def parse_base_sample(sample: Sample, caption_rule: str) -> None:
    """Fill in the caption, by the job's `input.caption`, and the synthetic captions of a sample to be reinforced.

    Members of an earlier reinforcement are dropped: a new one replaces them; in a job without texts, all texts are.
    Raises SampleSkipped where the sample cannot be reinforced.
    """
    for name in (sample.key, *(f"{sample.key}.{ext}" for ext in sample.members)):
        # Who unpacks the output must stay below the folder, also on Windows; a NUL would cut the member's name.
        folders = re.split(r"[/\\]", name)
        if not folders[0] or ".." in folders or "\0" in name:
            raise SampleSkipped("unsafe name", repr(name))
    sample.find_image()
    sample.members = {ext: data for ext, data in sample.members.items() if ext not in _reinforced_exts()}
    if caption_rule == WITHOUT_TEXTS:
        read_class(sample.members)
        return
    sample.caption = read_caption(sample.members, caption_rule)
    if "syn.json" in sample.members:
        sample.synthetic = parse_synthetic(sample.members["syn.json"])


def has_image(exts: Iterable[str]) -> bool:
    """Whether one of these extensions is an image's."""
    return not set(IMAGE_EXTS).isdisjoint(exts)


def read_caption(members: dict[str, bytes], rule: str) -> str:
    """The ground-truth caption by the job's `caption` rule. Raises SampleSkipped when there is none."""
    if rule in ("auto", "txt") and "txt" in members:
        text = _utf8(members["txt"], "txt")
    elif rule == "txt" or "json" not in members:
        raise SampleSkipped(NO_TEXT, f"members: {', '.join(sorted(members))}")
    else:
        tree = parse_json(members["json"], "json")
        names = _CAPTION_FIELDS if rule == "auto" else (rule,)
        text = next((tree[name] for name in names if isinstance(tree.get(name), str)), "")
    if is_blank(text):
        raise SampleSkipped(NO_TEXT, "the caption shows nothing")
    check_text(text, "caption")
    return text


def read_class(members: dict[str, bytes]) -> int | None:
    """The class that the `cls` member holds as a decimal number; None where there is none. Raises SampleSkipped."""
    if "cls" not in members:
        return None
    text = members["cls"].strip()
    if not text.isdigit() or len(text) > _MOST_DIGITS:
        raise SampleSkipped("bad cls", f"a class is a decimal number, found {text[:40]!a}")
    return int(text)


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


def _reinforced_exts() -> tuple[str, ...]:
    """The extensions of the members that a reinforcement adds, but for `syn.json`, which it extends."""
    return ("paug.json", *codecs.extensions())


def _utf8(data: bytes, ext: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleSkipped("text is not UTF-8", f"{ext}: {error}") from error
