"""Tells a few samples of a dataset: alt-texts, synthetic captions, and their image-text cosines."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dr_pipeline.config.cards import SIMILARITY
from dr_pipeline.dataset.caption_faults import describe_faults
from dr_pipeline.dataset.config_json import describe_float8
from dr_pipeline.dataset.manifest import read_sample_table, score_columns
from dr_pipeline.dataset.reports import describe_usage
from dr_pipeline.errors import ShardError
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.report.sample_record import CaptionRecord, SampleRecord
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

_SHOWN_CLASSES = 3


@dataclass(frozen=True)
class Inspection:
    """What was asked to be seen of a dataset."""

    reader: DatasetReader
    head: Iterable[str]
    """Lines about the shard, or about where the key was found."""
    samples: Iterable[Shown]

    @property
    def lines(self) -> Iterator[str]:
        """All as text. Raises ShardError where a sample is damaged, or its shard cannot be read."""
        yield from self.head
        shown: Shown | None = None
        for shown in self.samples:
            if shown.record.problem:
                raise ShardError(f"{self.reader.paths.shard(shown.record.shard)}: {shown.record.problem}")
            yield from describe(shown.record)
        if shown is None:
            yield "no sample is in this shard: verify of its dataset tells why"


def inspect(uri: str, storage: Storage, count: int, key: str | None = None, shard: str | None = None) -> Inspection:
    """The first `count` samples of a dataset's first shard, of a named one or of one tar; with `key` that sample alone.

    Raises ConfigError where there is no such shard or sample, ShardError or StorageError where something that tells of
    them cannot be read.
    """
    reader = DatasetReader(uri, storage)
    if shard is not None:
        reader.place(shard)  # or none of this name
    if key is None:
        name = shard or reader.shards[0]
        return Inspection(reader, _describe_shard(reader, name), islice(reader.read(name), count))
    place, shown = reader.find(key, [shard] if shard else reader.shards)
    searched = "by the manifest" if place.by_manifest else f"after {place.num_searched} tables and shards were read"
    return Inspection(reader, [f"{key} lies in {place.shard}, {searched}"], [shown])


def _describe_shard(reader: DatasetReader, name: str) -> Iterator[str]:
    """Lines about a shard of a dataset, by its config.json, report and table of samples; none about one tar."""
    if reader.is_tar:
        return
    yield from describe_float8(reader.ours)
    report = reader.reports.find(name) if reader.reports else None
    if report is None:
        return
    for key, found in report.captions.items():
        yield f"{name}: {describe_faults(key, found, found['drawn'])}"
    for key, used in report.usage.items():
        yield f"{name}: {describe_usage(key, used)}"
    scores = score_columns(read_sample_table(reader.storage, reader.root, name))
    for score, values_S in scores.items():
        if not score.startswith(SIMILARITY):
            low, median, high = np.nanquantile(values_S, (0.05, 0.5, 0.95))
            said = f"{low:.3g} (5 %), {median:.3g} (median), {high:.3g} (95 %)"
            yield f"{name}: {score}: {said} of {plural(int(np.count_nonzero(~np.isnan(values_S))), 'sample')}"
    if report.num_filtered:
        yield f"{name}: {plural(report.num_filtered, 'sample')} filtered"


def describe(record: SampleRecord) -> Iterator[str]:
    """A line about a sample, and one about its class, each view's probabilities and each of its captions.

    A caption's cosine is the mean over the sample's views and the teachers of both images and texts.
    """
    if record.index is None:
        yield f"{record.key}: skipped: {record.skip}"
        return
    if record.problem:
        yield f"{record.key}: damaged: {record.problem}"
        return
    paired = (record.alt_text and record.alt_text.similarities) or ("",)
    num_dims = sum(record.dims.get(teacher, 0) for teacher in paired)
    told = (
        f"embeddings of {plural(num_dims, 'dim')}"
        if num_dims
        else "no cosines: no teacher embeds both images and texts"
    )
    yield f"{record.key}: {plural(len(record.views), 'view')}, {told}"
    width = max(map(len, ("alt-text", *record.captions)))
    if record.label is not None:
        yield f"  {'class':<{width}} {record.label}"
    for view, classes in enumerate(record.classes):
        largest = ", ".join(f"class {index}: {value:.3f}" for index, value in classes[:_SHOWN_CLASSES])
        yield f"  {f'view {view}':<{width}} {largest}"
    if record.alt_text:
        yield _describe_caption(f"{'alt-text':<{width}}", record.alt_text)
    for key, captions in record.captions.items():
        yield from (_describe_caption(f"{key:<{width}}", caption) for caption in captions)


def _describe_caption(of: str, caption: CaptionRecord) -> str:
    cosine = "" if caption.similarity is None else f"{caption.similarity:+.3f}"
    return f"  {of} {cosine:<6}  {caption.text}{''.join(f'  [{fault}]' for fault in caption.faults)}"
