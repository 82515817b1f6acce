"""A sample as the browser of a page has it: its record with pictures small enough for a page of hundreds."""

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from typing import Any, get_args

import numpy as np
from PIL import Image

from dr_pipeline.config.augmentation import OpName
from dr_pipeline.dataset.sample import NO_IMAGE, TEXT
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.report.pictures import Outlines, draw_pictures
from dr_pipeline.report.sample_record import SampleRecord
from dr_pipeline.views.mixing import PAIR

_IMAGE_SIDE = 384
_FEW_VIEWS = 12
_VIEW_SIDE, _SMALL_VIEW_SIDE = 80, 64
"""Pixels of a shown view, of few and of many: of WebP's blocks of 16, so that neighbours in a strip do not mix."""
_QUALITY = 65
_LONGEST_TEXT = 2000
MOST_VIEWS = 60
_MOST_CAPTIONS = 40
"""Of a kind."""
_MOST_CLASSES = 3
_OPS = get_args(OpName)


def make_card(shown: Shown, reader: DatasetReader) -> dict[str, Any]:
    """A sample with its pictures. What cannot be shown of it is told in its `problem`, or in `why_no_image`."""
    card = describe_card(shown.record)
    try:
        pictures = draw_pictures(shown, reader.recipe, MOST_VIEWS)
    except SampleSkipped as error:
        card["why_no_image"] = why_no_image(error)
        return card
    strip = encode_strip(pictures.views_NHWC)
    add_pictures(card, pictures.outlines, _url(encode_image(pictures.image)), _url(strip) if strip else None)
    return card


def describe_card(record: SampleRecord) -> dict[str, Any]:
    """A sample without its pictures, as JSON has it."""
    return {
        "key": record.key,
        "shard": record.shard,
        "index": -1 if record.index is None else record.index,
        "label": record.label,
        "scores": {name: _rounded(score) for name, score in record.scores.items()},
        "captions": [*_captions(record)],
        "more_captions": sum(max(0, len(captions) - _MOST_CAPTIONS) for captions in record.captions.values()),
        "views": [*_views(record)],
        "num_views": len(record.views),
        "image": None,
        "strip": None,
        "why_no_image": None,
        "problem": record.problem or (f"skipped: {record.skip}" if record.skip else None),
    }


def add_pictures(card: dict[str, Any], outlines: Outlines, image: str, strip: str | None) -> None:
    """Add the URLs of its image, and of its views side by side, to a card. Boxes count pixels of the stored image."""
    card["image"] = {"src": image, "width": outlines.width, "height": outlines.height}
    card["strip"] = strip
    for view, box in zip(card["views"], outlines.boxes, strict=True):
        view["box"] = box


def why_no_image(error: SampleSkipped) -> str:
    """Why a card has no pictures, in words."""
    return "its shard does not hold the image" if error.reason == NO_IMAGE else str(error)


def encode_image(image: Image.Image) -> bytes:
    """An image, made as small as it is shown, as WebP."""
    small = image.copy()
    small.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    return _encode(small)


def encode_strip(views_NHWC: np.ndarray) -> bytes:
    """Views side by side, made as small as they are shown, as WebP; b"" of none.

    One picture takes less room than one a view would, and less time.
    """
    if not len(views_NHWC):
        return b""
    side = min(views_NHWC.shape[1], _VIEW_SIDE if len(views_NHWC) <= _FEW_VIEWS else _SMALL_VIEW_SIDE)
    strip = Image.new("RGB", (side * len(views_NHWC), side))
    for place, view_HWC in enumerate(views_NHWC):
        strip.paste(Image.fromarray(view_HWC).resize((side, side), Image.Resampling.BILINEAR), (side * place, 0))
    return _encode(strip)


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()


def _url(picture: bytes) -> str:
    """A URL that holds a picture."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def _captions(record: SampleRecord) -> Iterator[dict[str, Any]]:
    """The texts of a sample, the alt-text first."""
    alt_texts = (record.alt_text,) if record.alt_text else ()
    for of, captions in {TEXT: alt_texts, **record.captions}.items():
        for caption in captions[:_MOST_CAPTIONS]:
            yield {
                "of": of,
                "text": caption.text[:_LONGEST_TEXT],
                "cut": max(0, len(caption.text) - _LONGEST_TEXT),
                "similarity": _rounded(caption.similarity),
                "similarities": {name: _rounded(value) for name, value in caption.similarities.items()},
                "faults": caption.faults,
            }


def _rounded(value: float | None) -> float | None:
    """A number that JSON has, with the digits that are shown."""
    return None if value is None or value != value or abs(value) == float("inf") else round(value, 4)


def _views(record: SampleRecord) -> Iterator[dict[str, Any]]:
    """The views of a sample, without their pixels."""
    for view, classes in zip(record.views[:MOST_VIEWS], chain(record.classes, repeat(())), strict=False):
        likely = [f"class {index} {value:.3f}" for index, value in classes[:_MOST_CLASSES]]
        yield {
            "told": "; ".join([_describe(dict(view)), *([", ".join(likely)] if likely else [])]),
            "box": None,
        }


def _describe(view: Mapping[str, Any]) -> str:
    """A view's parameters in words."""
    parts = []
    for name, stored in view.items():
        if name == "random_resized_crop":
            top, left, height, width = stored
            parts.append(f"crop {width} × {height} px at {left}, {top}")
        elif name == "rand_augment":
            parts += [f"{_OPS[op]} {magnitude:.4g}" if magnitude else _OPS[op] for op, magnitude in stored]
        elif name == "random_horizontal_flip":
            parts += ["flipped"] * bool(stored)
        elif name == PAIR:
            parts.append(f"with a view of sample {stored['id2']} of the shard ({_describe(stored['view'])})")
        else:
            numbers = stored if isinstance(stored, list | tuple) else [stored]
            parts.append(f"{name} {', '.join(f'{number:.4g}' for number in numbers)}")
    return ", ".join(parts).replace("_", " ") or "the whole image"
