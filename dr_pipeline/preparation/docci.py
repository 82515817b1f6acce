"""DOCCI (google.github.io/docci): docci_descriptions.jsonlines, and docci_images.tar.gz unpacked to images/.

{"example_id": "train_00000", "split": "train", "image_file": "train_00000.jpg", "description": "…"}
"""

from collections.abc import Iterator

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.preparation.item import Item, key_of, object_of, string_of, texts_of
from dr_pipeline.preparation.source import Source, lines_of

LICENCE = "CC BY 4.0"


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each description of the split. Raises ConfigError."""
    (path,) = source.annotations("docci_descriptions.jsonlines")
    return (item for line in lines_of(path) for item in _item(line, settings, source))


def _item(line: bytes, settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    try:
        tree = object_of(line)
        if tree.get("split") != settings.split:
            return
        name = string_of(tree, "image_file")
        record = {"id": tree.get("example_id"), "licence": LICENCE}
        yield Item(key_of(name), source.image(f"images/{name}"), texts_of(tree.get("description")), record=record)
    except SampleSkipped as skip:
        yield skip
