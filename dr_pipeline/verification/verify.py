"""Check a dataset against the contract, and its files against each other."""

import hashlib
import io
from typing import Any, BinaryIO, cast

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import dataset_card
from dr_pipeline.dataset.base_index import BaseReader
from dr_pipeline.dataset.paths import CARD, SAMPLES, OutputPaths
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.unfinished import no_shard, why_unfinished
from dr_pipeline.errors import ShardError
from dr_pipeline.storage import Storage
from dr_pipeline.storage.naming import is_hidden, is_shard
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.inputs import InputComparison
from dr_pipeline.verification.manifest import ShardTableComparison, check_sample_table
from dr_pipeline.verification.metadata import Metadata
from dr_pipeline.verification.samples import SampleChecker
from dr_pipeline.views.recipe import UNDESCRIBED
from dr_pipeline.words import plural


def verify(
    uri: str, storage: Storage | None = None, base: BaseReader | None = None, job: Job | None = None
) -> Findings:
    """Read a dataset folder, or one tar; images that it lacks are looked up in its base dataset.

    The input is counted again where it can be reached; `job` is the one that knows how.
    Raises ConfigError when there is nothing to read, or the base cannot be.
    """
    storage = storage or Storage()
    root = storage.absolute(uri)
    findings = Findings()
    if storage.is_file(root):
        samples = SampleChecker(None, UNDESCRIBED, base)
        _check_shard(root, root.rpartition("/")[2], None, storage, samples, findings)
        samples.close(findings)
    else:
        _check_folder(root, storage, base, job, findings)
    return findings


def _check_folder(root: str, storage: Storage, base: BaseReader | None, job: Job | None, findings: Findings) -> None:
    """Check a dataset's shards, each against its report and tables, and then the dataset as a whole.

    Raises ConfigError where it has no shard.
    """
    paths, listing = OutputPaths(root), storage.listing(root)
    tars = {name for name in listing.sizes if is_shard(name) and not is_hidden(name)}
    if not tars:
        raise no_shard(root, "verify", storage)
    metadata = Metadata(paths, storage, listing.sizes, findings)
    if why := why_unfinished(root, metadata.config, storage):
        findings.remarks.append(why)
    names = tars | metadata.committed
    sha256 = metadata.config.get("dr_pipeline", {}).get("manifest_sha256")
    shard_table = ShardTableComparison(paths, storage, sha256, findings) if metadata.fingerprint else None
    samples = SampleChecker(metadata.job, metadata.recipe, base)
    inputs = InputComparison(job, findings)

    for name in sorted(names):
        report = metadata.read_report(name)
        if shard_table:
            shard_table.check(name, report)
        if name not in tars:
            findings.add(name, "the tar is missing, but its report says that it is done: --repair makes it again")
            continue
        keys = _check_shard(paths.shard(name), name, report, storage, samples, findings)
        if report and keys is not None:
            members_by_key = check_sample_table(report, keys, paths, storage, findings)
            if members_by_key is not None:
                inputs.check(report, members_by_key)

    for name in sorted(filter(is_shard, listing.others.keys() - metadata.committed)):
        findings.add(name, f"cannot be read: {listing.others[name]}")
    if shard_table:
        shard_table.close()
        tables = {file for file in listing.sizes if file.startswith(f"{SAMPLES}/") and file.endswith(".parquet")}
        for file in sorted(tables - {paths.relative(paths.samples(name)) for name in names}):
            findings.add(file, "lists the samples of a shard that is not there")
    metadata.close()
    samples.close(findings)
    inputs.close(metadata.committed)
    if dataset_card.is_edited(root, storage):
        findings.remarks.append(f"{CARD} was changed since a run wrote it; what it says is not checked")


def _check_shard(
    uri: str, name: str, report: ShardReport | None, storage: Storage, samples: SampleChecker, findings: Findings
) -> list[str] | None:
    """Check every sample of a tar, and the tar against its report; the samples' keys.

    None where the tar cannot be read to its end.
    """
    findings.num_shards += 1
    keys: list[str] = []
    num_not_in_base = samples.num_not_in_base
    try:
        with storage.open(uri) as file:
            stream = _HashedStream(file)
            for sample in read_samples(cast("BinaryIO", stream)):
                keys.append(sample.key)
                for problem in samples.problems(sample):
                    findings.add(name, problem, sample.key)
            stream.read()
    except (ShardError, OSError) as error:
        findings.add(name, str(error))
        return None
    findings.num_samples += len(keys)
    if keys and samples.num_not_in_base - num_not_in_base == len(keys):
        findings.add(
            name,
            f"none of its {plural(len(keys), 'sample')} is in the base: is that its base dataset, and "
            "--base-match what both sides name their samples by?",
        )
    if report and stream.sha256.hexdigest() != report.sha256:
        findings.add(name, "its SHA-256 is not the one that its report gives: the file was changed")
    if report and len(keys) != report.num_written:
        findings.add(name, f"{plural(len(keys), 'sample')}, but its report says {report.num_written}")
    return keys


class _HashedStream(io.RawIOBase):
    """A stream that hashes what is read from it."""

    def __init__(self, file: Any):
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data
