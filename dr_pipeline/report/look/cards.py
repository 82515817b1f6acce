"""A sample as the browser of a page has it: its record with pictures small enough for a page of hundreds."""

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any, get_args

from PIL import Image

from dr_pipeline.config.augmentation import OpName
from dr_pipeline.dataset.sample import NO_IMAGE, TEXT
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.report.pictures import Pictures, draw_pictures
from dr_pipeline.report.sample_record import CaptionRecord, SampleRecord
from dr_pipeline.views.mixing import PAIR

VIEW_SIDE = 112
"""Pixels of a shown view."""
_IMAGE_SIDE = 384
_QUALITY = 80
_LONGEST_TEXT = 2000
_MOST_VIEWS = 60
_MOST_CAPTIONS = 40
"""Of a kind."""
_MOST_CLASSES = 3
_OPS = get_args(OpName)


def make_card(shown: Shown, reader: DatasetReader) -> dict[str, Any]:
    """The sample as JSON has it. What cannot be shown of it is told in its `problem`, or in `why_no_image`."""
    record = shown.record
    card: dict[str, Any] = {
        "key": record.key,
        "shard": record.shard,
        "index": -1 if record.index is None else record.index,
        "label": record.label,
        "scores": {name: _rounded(score) for name, score in record.scores.items()},
        "captions": [*_captions(record)],
        "views": [*_views(record)],
        "image": None,
        "why_no_image": None,
        "problem": record.problem or (f"skipped: {record.skip}" if record.skip else None),
    }
    try:
        _add_pictures(card, draw_pictures(shown, reader.recipe, _MOST_VIEWS))
    except SampleSkipped as error:
        card["why_no_image"] = "its shard does not hold the image" if error.reason == NO_IMAGE else str(error)
    return card


def _captions(record: SampleRecord) -> Iterator[dict[str, Any]]:
    """The texts of a sample, the alt-text first."""
    alt_texts = (record.alt_text,) if record.alt_text else ()
    for of, captions in {TEXT: alt_texts, **record.captions}.items():
        for caption in captions[:_MOST_CAPTIONS]:
            yield _caption(of, caption)


def _caption(of: str, caption: CaptionRecord) -> dict[str, Any]:
    return {
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
    for view, classes in zip_longest(record.views[:_MOST_VIEWS], record.classes[:_MOST_VIEWS], fillvalue=()):
        likely = [f"class {index} {value:.3f}" for index, value in classes[:_MOST_CLASSES]]
        yield {
            "told": "; ".join([_describe(dict(view)), *([", ".join(likely)] if likely else [])]),
            "box": None,
            "src": None,
        }


def _add_pictures(card: dict[str, Any], pictures: Pictures) -> None:
    """Add image and views as URLs that hold them. Boxes count pixels of the stored image."""
    image = pictures.image.copy()
    image.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    card["image"] = {"src": _url(image), "width": pictures.image.width, "height": pictures.image.height}
    for view, box, pixels_HWC in zip(card["views"], pictures.boxes, pictures.views_NHWC, strict=True):
        small = Image.fromarray(pixels_HWC)
        small.thumbnail((VIEW_SIDE, VIEW_SIDE))
        view |= {"box": box, "src": _url(small)}


def _url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
            parts.append(f"{name} {stored}")
    return ", ".join(parts) or "the whole image"
