"""Check a dataset against the contract, and its files against each other."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import card
from dr_pipeline.dataset.base import NOT_IN_BASE, BaseReader
from dr_pipeline.dataset.paths import CARD, CONFIG, OutputPaths
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.dataset.sample import Sample, has_image
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.storage import Storage
from dr_pipeline.storage.naming import is_hidden, is_shard
from dr_pipeline.verify.books import Books
from dr_pipeline.verify.findings import Findings
from dr_pipeline.verify.inputs import Inputs
from dr_pipeline.verify.samples import Expected, missing_problems, sample_problems
from dr_pipeline.views.recipe import UNDESCRIBED, read_recipe


def verify(uri: str, storage: Storage, base: BaseReader | None = None, job: Job | None = None) -> Findings:
    """Read a dataset folder, or one tar; images that it lacks are looked up in its base dataset.

    The input is counted again where it can be reached; `job` is the one that knows how.
    Raises ConfigError when there is nothing to read, or the base cannot be.
    """
    root = storage.absolute(uri)
    findings = Findings()
    if storage.is_file(root):
        shards = _Shards(storage, Expected({}), base, findings)
        shards.read(root, root.rpartition("/")[2])
        shards.close()
        return findings
    listing = storage.listing(root)
    tars = {name for name in listing.sizes if is_shard(name) and not is_hidden(name)}
    if not tars:
        raise ConfigError(f"{root}: no shard here to verify")
    books = Books(root, storage, findings)
    try:
        recipe = read_recipe(books.config)
    except ConfigError as error:
        findings.add(CONFIG, "", str(error))
        recipe = UNDESCRIBED
    shards = _Shards(storage, Expected(books.config, recipe), base, findings)
    inputs = Inputs(job, findings)
    for name in sorted(tars | books.committed):
        report = books.report(name)
        books.check_row(name, report)
        if name not in tars:
            findings.add(name, "", "its report says done, but the tar is missing: the shard is to be made again")
            continue
        shard = shards.read(OutputPaths(root).shard(name), name)
        if report and shard:
            _compare(name, shard, report, findings)
            members_by_key = books.check_samples(report, shard.keys)
            if members_by_key is not None:
                inputs.check(report, members_by_key)
    for name in sorted(filter(is_shard, listing.others.keys() - books.committed)):
        findings.add(name, "", f"cannot be read: {listing.others[name]}")
    books.close()
    shards.close()
    inputs.close(books.committed)
    if card.is_edited(root, storage):
        findings.remarks.append(f"{CARD} was changed since a run wrote it; what it says is not checked")
    return findings


@dataclass(frozen=True)
class _Shard:
    """What a tar holds."""

    keys: list[str]
    sha256: str


class _Shards:
    """Reads the shards of a dataset and checks every sample, with what the base dataset has of it."""

    def __init__(self, storage: Storage, expected: Expected, base: BaseReader | None, findings: Findings):
        self._storage, self._expected, self._base, self._findings = storage, expected, base, findings
        self._num_imageless = self._num_unmatched = 0

    def read(self, uri: str, name: str) -> _Shard | None:
        """Check every sample; None when the tar cannot be read to its end."""
        self._findings.num_shards += 1
        keys: list[str] = []
        num_unmatched_before = self._num_unmatched
        try:
            with self._storage.open(uri) as file:
                stream = _Digested(file)
                for sample in read_samples(cast("BinaryIO", stream)):
                    keys.append(sample.key)
                    for problem in self._problems(sample):
                        self._findings.add(name, sample.key, problem)
                stream.read()
        except (ShardError, OSError) as error:
            self._findings.add(name, "", str(error))
            return None
        self._findings.num_samples += len(keys)
        if keys and self._num_unmatched - num_unmatched_before == len(keys):
            self._findings.add(
                name,
                "",
                f"none of its {len(keys)} samples is in the base: is that its base dataset, and --base-match what both "
                "sides name their samples by?",
            )
        return _Shard(keys, stream.hexdigest())

    def close(self) -> None:
        """Say what could not be checked."""
        if self._num_unmatched:
            self._findings.remarks.append(f"{self._num_unmatched} samples are not in the base: no image to check")
        if self._num_imageless and self._num_imageless == self._findings.num_samples:
            self._findings.remarks.append(
                "none of its samples holds its image, so no view was checked: --base names the dataset that does"
            )

    def _problems(self, sample: Sample) -> Iterator[str]:
        if sample.skip:
            yield str(sample.skip)
        if self._base:
            try:
                self._base.add_image(sample)
            except ShardError as error:
                raise ConfigError(f"--base: {error}") from error
            except SampleSkipped as skip:
                if skip.reason == NOT_IN_BASE:
                    self._num_unmatched += 1
                    yield from sample_problems(sample, self._expected)
                    return
                yield str(skip)
        elif not has_image(sample.members):
            self._num_imageless += 1
        yield from missing_problems(sample, self._expected)
        yield from sample_problems(sample, self._expected)


def _compare(name: str, shard: _Shard, report: ShardReport, findings: Findings) -> None:
    if shard.sha256 != report.sha256:
        findings.add(name, "", "its SHA-256 is not the one that its report gives: the file was changed")
    if len(shard.keys) != report.num_written:
        findings.add(name, "", f"{len(shard.keys)} samples, but its report says {report.num_written}")


class _Digested(io.RawIOBase):
    """A stream that hashes what is read from it."""

    def __init__(self, file: Any):
        self._file, self._sha256 = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()
