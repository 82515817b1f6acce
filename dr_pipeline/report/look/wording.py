"""What kinds, shares and choices are called on the page of a dataset."""

from dr_pipeline.dataset.sample import TEXT
from dr_pipeline.report.look.collection import Collection

RECTANGLES = "A rectangle on an image is what the view of its colour shows: choose a view for it alone."


def kind(of: str) -> str:
    """What a kind of captions is called."""
    return "alt-text" if of == TEXT else of


def of_tables(found: Collection) -> str:
    """What the figures of the tables of samples are about."""
    total = len(found.reader.shards)
    if found.samples.num_tables >= total:
        return f"Of all {found.samples.num_rows:,} samples."
    tables = f"{found.samples.num_tables:,} of {plural(total, 'shard')}"
    return f"Of {found.samples.num_rows:,} samples of {tables}, chosen by chance."


def with_share(count: int, total: int) -> str:
    """A count, and what part of all it is."""
    return f"{count:,} ({share(count, total)})" if count and total else f"{count:,}"


def share(part: float, whole: float) -> str:
    """A part in per cent."""
    return f"{100 * part / whole:.3g} %" if whole else "–"


def plural(count: int, noun: str) -> str:
    """A count of things."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
