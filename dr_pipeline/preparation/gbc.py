"""Graph-based captions, GBC1M and GBC10M (huggingface.co/graph-based-captions): graphs in Parquet or JSON lines.

    {"img_url": "…", "img_path": "…", "short_caption": "…", "detail_caption": "…",
     "vertices": [{"label": "image", "descs": [{"label": "short", "text": "…"}, …]}, {"label": "relation", …}, …]}

Captions are the image's short one, its detailed one (long), or the short one with all descriptions of relations behind
it (relation). The images come by URL and are not fetched here. They are read by `img_path` below the images' folder; or
from tars in it, as img2dataset writes them, whose json members have the URL in the field `url`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dr_pipeline.config.preparation import Preparation
from dr_pipeline.config.training import Base
from dr_pipeline.dataset.base_index import BaseReader, open_index
from dr_pipeline.dataset.sample import NO_IMAGE, Sample
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.preparation.item import BAD_ANNOTATION, Item, object_of, texts_of
from dr_pipeline.preparation.source import Source, lines_of, rows_of
from dr_pipeline.storage import Storage, cache_folder

LICENCE = "CC BY-NC 4.0 (captions)"

_FIELDS = ("img_url", "img_path", "short_caption", "detail_caption", "vertices")


def read(settings: Preparation, source: Source) -> Iterator[Item | SampleSkipped]:
    """An item for each graph. Raises ConfigError."""
    files = source.annotations("**/*.parquet", "**/*.jsonl")
    has_tars = bool(Storage().shards(str(source.images)))
    tars = BaseReader(open_index(Base(shards=str(source.images), match="url"), cache_folder())) if has_tars else None
    trees = (tree for path in files for tree in _trees(path))
    return (_item(tree, str(settings.captions), source, tars) for tree in trees)


def _trees(path: Path) -> Iterator[dict[str, Any] | SampleSkipped]:
    if path.suffix == ".parquet":
        yield from rows_of(path, (), _FIELDS)
        return
    for line in lines_of(path):
        try:
            yield object_of(line)
        except SampleSkipped as skip:
            yield skip


def _item(
    tree: dict[str, Any] | SampleSkipped, captions: str, source: Source, tars: BaseReader | None
) -> Item | SampleSkipped:
    if isinstance(tree, SampleSkipped):
        return tree
    url, path = tree.get("img_url"), tree.get("img_path")
    name = next((name for name in (url, path) if isinstance(name, str) and name), "")
    if not name:
        return SampleSkipped(BAD_ANNOTATION, "neither img_url nor img_path")
    try:
        texts = texts_of(_caption(tree, captions))
    except SampleSkipped as skip:
        return skip
    key = hashlib.blake2b(name.encode(errors="backslashreplace"), digest_size=12).hexdigest()
    image: Callable[[], bytes] = partial(_missing, name)
    if tars and url == name:
        image = partial(_from_tars, tars, url)
    elif isinstance(path, str) and path:
        image = source.image(path)
    return Item(key, image, texts, record={"url": url, "licence": LICENCE})


def _caption(tree: dict[str, Any], captions: str) -> str:
    """The wanted caption of a graph; "" where it has none. Raises SampleSkipped."""
    try:
        descriptions = [
            (vertex["label"], one["label"], str(one["text"])) for vertex in tree["vertices"] for one in vertex["descs"]
        ]
    except (KeyError, TypeError) as error:
        raise SampleSkipped(BAD_ANNOTATION, f"vertices: {error!r}") from error
    wanted = "detail" if captions == "long" else "short"
    of_image = (text for vertex, label, text in descriptions if (vertex, label) == ("image", wanted))
    caption = tree.get(f"{wanted}_caption") or next(of_image, "")
    if captions == "relation":
        return " ".join([str(caption), *(text for _, label, text in descriptions if label == "relation")])
    return str(caption)


def _from_tars(tars: BaseReader, url: str) -> bytes:
    sample = Sample("", {"json": json.dumps({"url": url}).encode()})
    tars.add_image(sample)
    return sample.image


def _missing(name: str) -> bytes:
    raise SampleSkipped(NO_IMAGE, name)
