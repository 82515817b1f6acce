"""Labelled images: a folder for each class, as ImageNet is unpacked. A label is the folder's place in the alphabet."""

import hashlib
from collections.abc import Iterator

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.dataset.sample import IMAGE_EXTS
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.preparation.item import Item, key_of
from dr_pipeline.preparation.source import Source


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each image, in an order that mixes the classes and depends on the names alone. Raises ConfigError."""
    labels = {
        name: label
        for label, names in enumerate(source.folders.values())
        for name in names
        if name.rpartition(".")[2].lower() in IMAGE_EXTS
    }
    if not labels:
        raise ConfigError(f"{source.images} has no folders of images ({', '.join(IMAGE_EXTS)}), one a class")
    digests = {name: hashlib.blake2b(name.encode(errors="backslashreplace"), digest_size=8).digest() for name in labels}
    return (
        Item(
            key_of(name), source.image(name), label=labels[name], record={"file": name, "class": name.partition("/")[0]}
        )
        for name in sorted(labels, key=digests.__getitem__)
    )
