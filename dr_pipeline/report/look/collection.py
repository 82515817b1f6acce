"""Collects what the page of a dataset shows: counts of the manifest, and a bounded, seeded choice of its samples."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from itertools import islice
from typing import Any

from dr_pipeline.dataset.caption_faults import faults
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.dataset.sample import TEXT, split_name
from dr_pipeline.errors import ShardError
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.report.look.cards import make_card
from dr_pipeline.report.look.sample_counts import SampleCounts, count_samples
from dr_pipeline.report.look.shard_counts import ShardCounts, count_shards
from dr_pipeline.words import plural

SEED = 0
_READERS = 16
_MOST_TABLES = 64
"""Tables of samples, and reports, that are read."""
_MOST_SHARDS = 8
"""Shards that are read."""
_MOST_WALKED = 2000
"""Samples of one shard whose texts are read."""
_MOST_SAMPLES = 256
_LOWEST_AND_HIGHEST = 16
"""Of each of both, among the shown samples."""
_MOST_BYTES = 32 << 20
"""Of the shown samples with their pictures."""
_TEXTS = ("txt", "syn.json", "cls")
_LONGEST_LABEL = 40
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_MOST_LETTERS = 10_000
"""Of one caption that are looked at."""
_MOST_WORDS = 200_000
"""That are kept apart; when there are more, those that came once are forgotten."""
_COMMON = "a an and are as at by for from in is it its of on or s that the this to with"
"""Words that no caption is told by."""


@dataclass
class CaptionCounts:
    """The captions of one kind: the alt-texts, or those of a key of `syn.json`."""

    num_samples: int = 0
    num_captions: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Words of a caption → captions."""
    words: Counter[str] = field(default_factory=Counter)
    """Word, in small letters → captions that have it; without articles and the like."""
    faults: Counter[str] = field(default_factory=Counter)
    """Fault, as of `caption_faults`, that the texts show → captions."""

    def add(self, captions: Iterable[str]) -> None:
        """Count those of one sample."""
        captions = [*captions]
        self.num_samples += 1
        self.num_captions += len(captions)
        self.faults.update(faults(captions))
        for caption in captions:
            words = [word.casefold() for word in _WORD.findall(caption[:_MOST_LETTERS])]
            self.lengths[len(words)] += 1
            self.words.update({*words}.difference(_COMMON.split()))
        if len(self.words) > _MOST_WORDS:
            self.words = Counter({word: count for word, count in self.words.items() if count > 1})


@dataclass
class Collection:
    """All that the page is made of."""

    reader: DatasetReader
    shards: ShardCounts | None
    """None where there is no table of shards."""
    tables: list[str]
    """The shards whose tables of samples, and reports, are read."""
    samples: SampleCounts
    reports: list[ShardReport]
    captions: dict[str, CaptionCounts] = field(default_factory=dict)
    """`text`, or key of `syn.json` → counts of the samples that were walked."""
    labels: Counter[str] = field(default_factory=Counter)
    """Class → samples that were walked."""
    member_bytes: Counter[str] = field(default_factory=Counter)
    """Extension → bytes, of the shown samples."""
    cards: list[dict[str, Any]] = field(default_factory=list)
    num_walked: int = 0
    num_shards_read: int = 0
    problems: list[str] = field(default_factory=list)
    """Shards that could not be read to their end."""

    def models(self, kind: str) -> list[dict[str, Any]]:
        """The cards of `teachers`, `captioners`, `rewriters` or `scorers`, by config.json."""
        identity = self.reader.ours.get("identity")
        told = self.reader.ours if kind == "teachers" else identity if isinstance(identity, dict) else {}
        models = told.get(kind)
        return models if isinstance(models, list) and all(isinstance(card, dict) for card in models) else []

    @property
    def of_tables(self) -> str:
        """What the figures of the tables of samples are about."""
        if self.samples.num_tables >= len(self.reader.shards):
            return f"Of all {self.samples.num_rows:,} samples."
        tables = f"{self.samples.num_tables:,} of {plural(len(self.reader.shards), 'shard')}"
        return f"Of {self.samples.num_rows:,} samples of {tables}, chosen by chance."


def count(reader: DatasetReader, rng: random.Random) -> Collection:
    """What the manifest tells, without any sample. Raises ShardError or StorageError where it cannot be read."""
    counted = None if reader.is_tar else count_shards(reader.storage, reader.root)
    tables = sorted(rng.sample(reader.shards, min(_MOST_TABLES, len(reader.shards))))
    samples = count_samples(reader.storage, reader.root, tables)
    with ThreadPoolExecutor(_READERS) as pool:
        reports = [*pool.map(reader.reports.find, tables)] if reader.reports else []
    return Collection(reader, counted, tables, samples, [report for report in reports if report])


def collect(reader: DatasetReader, key: str | None) -> Collection:
    """The collection, with the sample `key` in it where one is given.

    Raises ConfigError where there is no such sample, ShardError or StorageError where the manifest, or none of the
    shards, can be read.
    """
    rng = random.Random(SEED)
    named = reader.find(key, reader.shards) if key is not None else None
    collection = count(reader, rng)
    room = _MOST_BYTES
    if named:
        room -= _show(collection, named[1])
    chosen = sorted(rng.sample(collection.tables, min(_MOST_SHARDS, len(collection.tables))))
    for number, shard in enumerate(chosen):
        quota = _MOST_SAMPLES // len(chosen) + (number < _MOST_SAMPLES % len(chosen))
        try:
            for shown in _walk(collection, shard, quota, rng):
                if shown.record.key != key and room > 0:
                    room -= _show(collection, shown)
        except ShardError as error:
            collection.problems.append(str(error))
        collection.num_shards_read += 1
    if collection.problems and not collection.cards:
        raise ShardError(collection.problems[0])
    collection.cards.sort(key=lambda card: (reader.places[card["shard"]], card["index"]))
    return collection


def _walk(collection: Collection, shard: str, quota: int, rng: random.Random) -> Iterator[Shown]:
    """The samples of a shard that are chosen to be shown; the texts of all others before the last one are counted."""
    reader = collection.reader
    keys = _choose(reader, shard, quota, rng)
    takes_all = not keys or bool(reader.recipe.mixings)  # a mixed view needs samples before its own

    def is_wanted(name: str) -> bool:
        key, ext = split_name(name)
        return takes_all or ext in _TEXTS or key in keys

    for shown in islice(reader.read(shard, is_wanted), _MOST_WALKED if keys else quota):
        collection.num_walked += 1
        members, synthetic = (shown.sample.members, shown.sample.synthetic) if shown.sample else ({}, {})
        texts = {TEXT: [members["txt"].decode(errors="replace")]} if "txt" in members else {}
        for of, captions in {**texts, **synthetic}.items():
            collection.captions.setdefault(of, CaptionCounts()).add(captions)
        if "cls" in members:
            collection.labels[members["cls"].decode(errors="replace").strip()[:_LONGEST_LABEL]] += 1
        if not keys or shown.record.key in keys:
            yield shown


def _choose(reader: DatasetReader, shard: str, quota: int, rng: random.Random) -> set[str]:
    """The keys of a shard to be shown, by its table of samples: those that fit best and worst, and others by chance.

    No keys where there is no table.
    """
    rows = [row for row in reader.rows(shard).values() if not row.skip_reason][:_MOST_WALKED]
    if len(rows) <= quota:
        return {row.key for row in rows}
    scored = [(row.similarity, row.key) for row in rows if row.similarity is not None]
    num_extreme = min(_LOWEST_AND_HIGHEST, quota // 4)
    keys = {key for _, key in (*nsmallest(num_extreme, scored), *nlargest(num_extreme, scored))}
    others = [row.key for row in rows if row.key not in keys]
    return keys | set(rng.sample(others, quota - len(keys)))


def _show(collection: Collection, shown: Shown) -> int:
    """Add a sample to those that are shown; the bytes that it takes."""
    card = make_card(shown, collection.reader)
    collection.cards.append(card)
    collection.member_bytes.update(shown.record.members)
    return len(json.dumps(card))


def kind(of: str) -> str:
    """What a kind of captions is called."""
    return "alt-text" if of == TEXT else of
