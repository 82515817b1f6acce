"""MSCOCO Captions (cocodataset.org): annotations/captions_SPLIT2017.json, and images in SPLIT2017/ or SPLIT2017.zip.

{"images": [{"id", "file_name", "license", "flickr_url", …}], "annotations": [{"image_id", "caption"}],
 "licenses": [{"id", "name", "url"}]}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.errors import ConfigError, SampleSkipped, reason
from dr_pipeline.preparation.item import Item, key_of, string_of, texts_of
from dr_pipeline.preparation.source import Source, json_of

PERMISSIVE = {
    "http://creativecommons.org/licenses/by/2.0/",
    "http://creativecommons.org/licenses/by-sa/2.0/",
    "http://creativecommons.org/licenses/by-nd/2.0/",
}
"""Ids 4, 5 and 6 of MSCOCO: 38 k of its 123 k images (section 2.5)."""


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each image, with all its captions. Raises ConfigError."""
    name = f"captions_{settings.split or '*'}2017.json"
    files = source.annotations(f"annotations/{name}", name)
    return (item for path in files for item in _items(path, settings.permissive, source))


def _items(path: Path, permissive: bool, source: Source) -> Iterator[Item | SampleSkipped]:
    tree = json_of(path, dict)
    try:
        licences = {str(one["id"]): (one["name"], one["url"]) for one in tree["licenses"]}
        captions: dict[Any, list[str]] = {image["id"]: [] for image in tree["images"]}
        for annotation in tree["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not in the form of MSCOCO's captions, lists of licenses, images and annotations: "
            f"{reason(error)}: download it again"
        ) from error
    folder = path.stem.removeprefix("captions_")
    for image in tree["images"]:
        licence, url = licences.get(str(image.get("license")), ("unknown", ""))
        try:
            if permissive and url not in PERMISSIVE:
                raise SampleSkipped("not a permissive licence", licence)
            file = string_of(image, "file_name")
            record = {"id": image["id"], "licence": licence, "licence_url": url, "url": image.get("flickr_url")}
            yield Item(key_of(file), source.image(f"{folder}/{file}"), texts_of(*captions[image["id"]]), record=record)
        except SampleSkipped as skip:
            yield skip
