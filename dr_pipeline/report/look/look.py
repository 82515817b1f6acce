"""Makes the page of a dataset: a file with some of its samples, or one that asks a server for all of them."""

import random
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.errors import ShardError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look.collection import SEED, collect, count, kind
from dr_pipeline.report.look.sections import RECTANGLES, make_sections, orders_by
from dr_pipeline.report.page.frame import Page, Section, find_place, write_page
from dr_pipeline.report.page.parts import browser, note
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
    captions = [caption for card in found.cards for caption in card["captions"]]
    cosines = [value for caption in captions for value in (caption["similarity"], *caption["similarities"].values())]
    cosines = [value for value in cosines if value is not None]
    page = Page(
        title=reader.title,
        lead=without_secrets(reader.uri),
        sections=make_sections(found),
        data={
            "samples": found.cards,
            "teachers": list(dict.fromkeys(name for caption in captions for name in caption["similarities"])),
            "lowest": min(cosines, default=0.0),
            "highest": max(cosines, default=1.0),
            "open": key,
        },
        assets=("samples.css", "samples.js"),
    )
    write_page(path, page)
    return Looked(path, found.problems, reader.unfinished)


def served_page(reader: DatasetReader, key: str | None) -> Page:
    """The page that a server gives: what the manifest counts, and the browser of all samples, which opens at `key`.

    Raises ShardError or StorageError where the manifest cannot be read.
    """
    found = count(reader, random.Random(SEED))
    kinds = {of: kind(of) for columns in found.samples.teachers.values() for of in columns}
    with suppress(ShardError):  # whoever looks at this shard is told
        for shown in reader.read(reader.shards[0]):
            texts = [TEXT] if shown.record.alt_text else []
            kinds |= {of: kind(of) for of in (*texts, *shown.record.captions)}
            break
    kinds = dict(sorted(kinds.items(), key=lambda item: item[0] != TEXT))
    orders = orders_by(found.samples.scorers, bool(found.samples.teachers))
    samples = Section("Samples", [note(RECTANGLES), browser(None, kinds, orders)])
    overview, *others = make_sections(found)
    columns = [values_S for of in found.samples.teachers.values() for values_S in of.values()]
    cosines = np.concatenate([np.empty(0), *columns])
    cosines = cosines[np.isfinite(cosines)]
    return Page(
        title=reader.title,
        lead=without_secrets(reader.uri),
        sections=[overview, samples, *others],
        data={
            "num_shards": len(reader.shards),
            "num_samples": found.shards.sums["num_written"] if found.shards else None,
            "teachers": [*(reader.dims or ())],
            "lowest": float(cosines.min()) if len(cosines) else 0.0,
            "highest": float(cosines.max()) if len(cosines) else 1.0,
            "open": key,
        },
        assets=("samples.css", "served.js", "samples.js"),
        sources={"img-src": "'self' data:", "connect-src": "'self'"},
    )
