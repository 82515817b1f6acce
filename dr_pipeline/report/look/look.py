"""Makes the page of a dataset."""

from pathlib import Path
from typing import Any

from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look.cards import VIEW_SIDE
from dr_pipeline.report.look.collection import Collection, collect
from dr_pipeline.report.look.sections import make_sections
from dr_pipeline.report.page.frame import Page, environment, write_page
from dr_pipeline.storage import Storage


def look(uri: str, storage: Storage, path: Path | None, key: str | None) -> Path:
    """Write the page of a dataset, or of one tar → its path; by default the dataset's name in the working folder.

    `key`: a sample at which the page opens. Raises ConfigError where there is no shard or no such sample, or jinja2 is
    missing; ShardError or StorageError where the manifest cannot be read.
    """
    environment()  # before minutes of reading
    reader = DatasetReader(uri, storage)
    name = reader.uri.rstrip("/").rpartition("/")[2] or "dataset"
    path = path or Path(f"{name}.html")
    found = collect(reader, key)
    write_page(
        path,
        Page(
            title=str(reader.config.get("dr_pipeline", {}).get("name") or name),
            lead=reader.uri,
            sections=make_sections(found),
            data=page_data(found, key),
            assets=("samples.css", "samples.js"),
        ),
    )
    return path


def page_data(found: Collection, key: str | None) -> dict[str, Any]:
    """What `samples.js` shows."""
    captions = [caption for card in found.cards for caption in card["captions"]]
    cosines = [value for caption in captions for value in caption["similarities"].values() if value is not None]
    return {
        "samples": found.cards,
        "teachers": list(dict.fromkeys(name for caption in captions for name in caption["similarities"])),
        "lowest": min(cosines, default=0.0),
        "highest": max(cosines, default=1.0),
        "view_side": VIEW_SIDE,
        "open": key,
    }
