"""The page that the server gives: what the manifest counts, and the browser of all samples."""

import random
from contextlib import suppress

import numpy as np

from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.errors import ShardError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.report.dataset_reader import DatasetReader
from dr_pipeline.report.look.collection import SEED, Collection, count, kind
from dr_pipeline.report.look.sections import RECTANGLES, make_sections, orders_by
from dr_pipeline.report.page.frame import Page, Section
from dr_pipeline.report.page.parts import browser, note

_SOURCES = {"img-src": "'self' data:", "connect-src": "'self'"}


def make_page(reader: DatasetReader, key: str | None) -> Page:
    """The page of a dataset, which opens at the sample `key`.

    Raises ShardError or StorageError where the manifest cannot be read.
    """
    found = count(reader, random.Random(SEED))
    kinds = _kinds(found)
    orders = orders_by(found.samples.scorers, bool(found.samples.teachers))
    samples = Section("Samples", [note(RECTANGLES), browser(None, {of: kind(of) for of in kinds}, orders)])
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
        sources=_SOURCES,
    )


def _kinds(found: Collection) -> list[str]:
    """The kinds of captions that the dataset has, by its first sample and the manifest."""
    kinds = {of: None for columns in found.samples.teachers.values() for of in columns}
    with suppress(ShardError):  # whoever looks at this shard is told
        for shown in found.reader.read(found.reader.shards[0]):
            kinds |= {TEXT: None} if shown.record.alt_text else {}
            kinds |= dict.fromkeys(shown.record.captions)
            break
    return sorted(kinds, key=lambda of: of != TEXT)
