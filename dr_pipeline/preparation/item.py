"""One image of a published dataset, on its way to a sample."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dr_pipeline.dataset.caption_faults import is_blank
from dr_pipeline.dataset.sample import NO_TEXT, check_text
from dr_pipeline.errors import SampleSkipped

BAD_ANNOTATION = "bad annotation"
"""The reason to skip an image that its dataset does not describe in the dataset's own form."""

_UNSAFE = re.compile(r"[^\w-]+")
_LONGEST_KEY = 120


@dataclass(frozen=True)
class Item:
    """An image, its captions or its label, and what else is to be kept of it."""

    key: str
    read_image: Callable[[], bytes]
    """Its bytes as they were published. Raises SampleSkipped."""
    captions: tuple[str, ...] = ()
    """The first is the sample's `txt`."""
    label: int | None = None
    record: dict[str, Any] = field(default_factory=dict)
    """The fields of the sample's `json`: where it comes from, its licence."""


def key_of(name: str) -> str:
    """A sample's key from a file's name: its path without the extension, with nothing that has a meaning in a tar.

    A long one is cut, and ends with a digest of the whole.
    """
    stem = name.rpartition(".")[0] or name
    key = _UNSAFE.sub("_", stem).strip("_")
    if len(key.encode()) <= _LONGEST_KEY and key:
        return key
    return f"{key[:40]}_{hashlib.blake2b(name.encode(errors='backslashreplace'), digest_size=8).hexdigest()}"


def texts_of(*texts: Any) -> tuple[str, ...]:
    """The captions that show something, each on one line, for evaluation sets hold one a line. Raises SampleSkipped."""
    lines = [" ".join(text.split()) for text in texts if isinstance(text, str)]
    captions = tuple(line for line in lines if not is_blank(line))
    if not captions:
        raise SampleSkipped(NO_TEXT)
    for caption in captions:
        check_text(caption, "caption")
    return captions


def object_of(text: str | bytes) -> dict[str, Any]:
    """A JSON object that describes an image. Raises SampleSkipped."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleSkipped(BAD_ANNOTATION, str(error)) from error
    if not isinstance(tree, dict):
        raise SampleSkipped(BAD_ANNOTATION, f"an object is expected, found {type(tree).__name__}")
    return tree


def string_of(tree: dict[str, Any], name: str) -> str:
    """A field that has to be a string. Raises SampleSkipped."""
    value = tree.get(name)
    if not isinstance(value, str) or not value:
        raise SampleSkipped(BAD_ANNOTATION, f"{name} is {type(value).__name__}, a string is expected")
    return value
