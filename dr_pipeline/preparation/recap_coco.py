"""Recap-COCO-30K (huggingface.co/datasets/UCSC-VLAA/Recap-COCO-30K): Parquet files that hold the images.

    image {bytes, path}, recaption, and perhaps caption, image_id, coco_url

The sample's text is the recaption, by LLaVA-1.5 with LLaMA-3.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.dataset.sample import NO_IMAGE
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.preparation.item import Item, key_of, texts_of
from dr_pipeline.preparation.source import Source, rows_of

LICENCE = "CC BY 4.0"

_NEEDED = ("image", "recaption")
_KEPT = ("image_id", "coco_url", "caption")


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each row. Raises ConfigError."""
    files = source.annotations("**/*.parquet")
    numbered = ((path.stem, enumerate(rows_of(path, _NEEDED, _KEPT))) for path in files)
    return (_item(row, f"{stem}_{number:06d}") for stem, rows in numbered for number, row in rows)


def _item(row: dict[str, Any], name: str) -> Item | SampleSkipped:
    image = row["image"]
    data = image.get("bytes") if isinstance(image, dict) else image
    try:
        if not isinstance(data, bytes):
            raise SampleSkipped(NO_IMAGE, name)
        record = {field: row[field] for field in _KEPT if field in row}
        # Not by the field caption, which trainers would take for the sample's text.
        if "caption" in record:
            record["coco_caption"] = record.pop("caption")
        return Item(key_of(f"{name}."), partial(bytes, data), texts_of(row["recaption"]), record=record)
    except SampleSkipped as skip:
        return skip
