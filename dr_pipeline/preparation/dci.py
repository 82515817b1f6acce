"""Densely Captioned Images (github.com/facebookresearch/DCI): a JSON file an image in annotations/ or complete/, and in
photos/ the images of SA-1B that they name.

    {"image": "sa_1.jpg", "short_caption": "…", "extra_caption": "…", "mask_data": {"0": {"label": "…", "caption": "…",
     "mask_quality": 0, …}}}

short, extended (short and extra) and complete (all regions behind these) are the three sorts of captions that its own
reader gives. Of a region of low quality (1) the label alone is told, of an unusable one (2) nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.preparation.item import BAD_ANNOTATION, Item, key_of, object_of, string_of, texts_of
from dr_pipeline.preparation.source import Source

LICENCE = "CC BY-NC 4.0 (captions); SA-1B's own terms (images)"


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each annotated image. Raises ConfigError."""
    files = source.annotations("annotations/*.json", "complete/*.json")
    return (_item(path, str(settings.captions), source) for path in files)


def _item(path: Path, captions: str, source: Source) -> Item | SampleSkipped:
    try:
        tree = object_of(path.read_bytes())
        name = string_of(tree, "image")
        parts = [string_of(tree, "short_caption")]
        if captions != "short":
            parts.append(tree.get("extra_caption") or "")
        if captions == "complete":
            parts += _regions(tree)
        record = {"annotation": path.name, "licence": LICENCE}
        return Item(key_of(name), source.image(f"photos/{name}"), texts_of(" ".join(parts)), record=record)
    except SampleSkipped as skip:
        return skip


def _regions(tree: dict[str, Any]) -> list[str]:
    """What is said of each region, as a sentence. Raises SampleSkipped."""
    told = []
    try:
        for region in tree.get("mask_data", {}).values():
            label, caption, quality = region["label"].strip(), region["caption"].strip(), region["mask_quality"]
            if quality == 0 and caption:
                told.append(f"{label}: {caption}" if label else caption)
            elif quality != 2 and label:
                told.append(label)
    except (AttributeError, KeyError, TypeError) as error:
        raise SampleSkipped(BAD_ANNOTATION, f"mask_data: {error!r}") from error
    return [sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in told]
