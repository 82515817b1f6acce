"""Walks through the samples of a dataset, shard by shard, for whoever reads page after page of them.

A walk ends after a page of samples, or after a second, with a cursor at which the next one goes on. So a search of a
dataset of any size is a row of short requests, whose progress is seen, and which may be ended.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from threading import Lock
from typing import NamedTuple, Self

from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.dataset.sample import TEXT, Sample, parse_synthetic
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.storage import StorageError

PAGE_SAMPLES = 10
_SECONDS = 1.0
_MOST_OPEN = 8
"""Walks that are kept open for their next page."""
_TEXT_EXTS = (".txt", ".syn.json", ".cls")


class Cursor(NamedTuple):
    """Where a walk goes on."""

    shard: int
    """The place among the shards, which are sorted by name."""
    sample: int
    """The place of a sample in it."""


@dataclass(frozen=True)
class SampleQuery:
    """What samples are looked for: those that hold all words in their key, class or captions."""

    words: tuple[str, ...] = ()
    of: str = ""
    """TEXT or a key of `syn.json`: only samples with captions of this kind, and only these are searched."""
    in_one_shard: bool = False

    @classmethod
    def of_text(cls, text: str, of: str, in_one_shard: bool) -> Self:
        """The query of words as they are typed."""
        return cls(tuple(text.casefold().split()), of, in_one_shard)

    def fits(self, sample: Sample) -> bool:
        """Whether a sample is looked for, by those of its members that hold text."""
        if not self.words and not self.of:
            return True
        try:
            texts = {TEXT: [sample.members["txt"].decode(errors="replace")]} if "txt" in sample.members else {}
            if "syn.json" in sample.members:
                texts |= parse_synthetic(sample.members["syn.json"])
        except SampleSkipped:
            texts = {}
        if self.of:
            texts = {of: captions for of, captions in texts.items() if of == self.of}
        if self.of and not texts:
            return False
        label = sample.members.get("cls", b"").decode(errors="replace")
        hay = "\n".join([sample.key, label, *chain.from_iterable(texts.values())]).casefold()
        return all(word in hay for word in self.words)


@dataclass
class Stretch:
    """What one walk has found."""

    samples: list[Shown] = field(default_factory=list)
    next: Cursor | None = None
    """None where the dataset, or the one shard, is at its end."""
    problems: list[str] = field(default_factory=list)
    """Of shards that could not be read on, which are passed over."""


class Walker:
    """Walks through one dataset. Threads may share it: they walk one after the other."""

    def __init__(self, reader: DatasetReader):
        self._reader = reader
        self._lock = Lock()
        self._open: OrderedDict[tuple[SampleQuery, Cursor], Iterator[Shown | None]] = OrderedDict()

    def walk(self, query: SampleQuery, at: Cursor, most: int = PAGE_SAMPLES) -> Stretch:
        """Go on from the cursor until `most` samples are found, a second has passed, or the dataset is at its end."""
        with self._lock:
            return self._walk(query, at, min(most, PAGE_SAMPLES))

    def _walk(self, query: SampleQuery, at: Cursor, most: int) -> Stretch:
        stretch, deadline = Stretch(next=at), time.monotonic() + _SECONDS
        while stretch.next and len(stretch.samples) < most and time.monotonic() < deadline:
            at = stretch.next
            samples = self._open.pop((query, at), None) or self._samples(query, at)
            is_last = query.in_one_shard or at.shard + 1 == len(self._reader.shards)
            stretch.next = None if is_last else Cursor(at.shard + 1, 0)
            try:
                for shown in samples:
                    at = Cursor(at.shard, at.sample + 1)
                    stretch.samples += [shown] if shown else []
                    if len(stretch.samples) == most or time.monotonic() > deadline:
                        stretch.next = self._keep(query, at, samples) or stretch.next
                        break
            except (ShardError, StorageError) as error:
                stretch.problems.append(str(error))
        return stretch

    def sample_at(self, at: Cursor) -> Shown | None:
        """One sample; None where there is none. Raises ShardError or StorageError where its shard cannot be read."""
        return next(self._samples(SampleQuery(), at), None)

    def _keep(self, query: SampleQuery, at: Cursor, samples: Iterator[Shown | None]) -> Cursor | None:
        """Keep a walk for its next page, and forget the oldest ones. None where its shard is at its end."""
        for ahead in samples:
            self._open[query, at] = chain([ahead], samples)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
            return at
        return None

    def _samples(self, query: SampleQuery, at: Cursor) -> Iterator[Shown | None]:
        """The samples of a shard from the cursor on, None for those that do not fit.

        Of a plain tar only texts are read, and then the whole of what fits.
        """
        reader, shard = self._reader, self._reader.shards[at.shard]
        reads_all = bool(reader.recipe.mixings) or reader.is_packed(shard)
        rows: dict[str, SampleRow] | None = None
        for sample, earlier in reader.walk(shard, lambda name: reads_all or name.lower().endswith(_TEXT_EXTS)):
            if sample.index < at.sample:
                continue
            if not query.fits(sample):
                yield None
                continue
            rows = reader.rows(shard) if rows is None else rows  # of a shard where nothing fits the table is not read
            whole = sample if reads_all else reader.read_whole(shard, sample)
            yield reader.show(shard, whole, rows, earlier)
