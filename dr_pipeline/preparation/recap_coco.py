"""Recap-COCO-30K (huggingface.co/datasets/UCSC-VLAA/Recap-COCO-30K): Parquet files that hold the images.

    image {bytes, path}, recaption, and perhaps caption, image_id, coco_url

The sample's text is the recaption, by LLaVA-1.5 with LLaMA-3.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.dataset.sample import NO_IMAGE
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.preparation.item import Item, key_of, texts_of
from dr_pipeline.preparation.source import Source

LICENCE = "CC BY 4.0"

_NEEDED = {"image", "recaption"}
_KEPT = ("image_id", "coco_url", "caption")


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each row. Raises ConfigError."""
    files = source.annotations("**/*.parquet")
    return (_item(row, f"{path.stem}_{number:06d}") for path in files for number, row in enumerate(_rows(path)))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        table = pq.ParquetFile(path)
        names = set(table.schema_arrow.names)
        if not names >= _NEEDED:
            raise ConfigError(f"{path} has the columns {', '.join(sorted(names))}, needed are image and recaption")
        for batch in table.iter_batches(batch_size=64, columns=[*_NEEDED, *names.intersection(_KEPT)]):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): download it again") from error


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
