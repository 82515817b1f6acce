"""Makes the page of a dataset."""

from pathlib import Path
from typing import Any, NamedTuple

from dr_pipeline.redaction import without_secrets
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look.collection import Collection, collect
from dr_pipeline.report.look.sections import make_sections
from dr_pipeline.report.page.frame import Page, find_place, write_page
from dr_pipeline.storage import Storage


class Looked(NamedTuple):
    """What came of looking at a dataset."""

    path: Path
    """Of the page."""
    problems: list[str]
    """Shards that could not be read to their end; the page tells them too."""
    unfinished: str
    """Why the dataset is not whole, or ""; the page tells it too."""


def look(uri: str, storage: Storage, path: Path | None = None, key: str | None = None) -> Looked:
    """Write the page of a dataset, or of one tar; by default it has the dataset's name, in the working folder.

    `key`: a sample at which the page opens. Raises ConfigError where there is no shard or no such sample, the page
    cannot be written or jinja2 is missing; ShardError or StorageError where the manifest, or no shard, can be read.
    """
    reader = DatasetReader(uri, storage)
    path = find_place(path, reader.name)
    found = collect(reader, key)
    write_page(
        path,
        Page(
            title=reader.title,
            lead=without_secrets(reader.uri),
            sections=make_sections(found),
            data=page_data(found, key),
            assets=("samples.css", "samples.js"),
        ),
    )
    return Looked(path, found.problems, reader.unfinished)


def page_data(found: Collection, key: str | None) -> dict[str, Any]:
    """What `samples.js` shows."""
    captions = [caption for card in found.cards for caption in card["captions"]]
    cosines = [value for caption in captions for value in (caption["similarity"], *caption["similarities"].values())]
    cosines = [value for value in cosines if value is not None]
    return {
        "samples": found.cards,
        "teachers": list(dict.fromkeys(name for caption in captions for name in caption["similarities"])),
        "lowest": min(cosines, default=0.0),
        "highest": max(cosines, default=1.0),
        "open": key,
    }
