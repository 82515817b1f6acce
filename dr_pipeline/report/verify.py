"""Check a dataset against the contract and its own books: every shard, every sample, every published file."""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

from dr_pipeline.errors import ConfigError, ShardError
from dr_pipeline.records import ShardReport
from dr_pipeline.report.books import Books
from dr_pipeline.report.findings import Findings
from dr_pipeline.report.samples import Expected, sample_problems
from dr_pipeline.shards.sample import group
from dr_pipeline.shards.storage import Storage
from dr_pipeline.shards.tar import read_members


def verify(uri: str, storage: Storage) -> Findings:
    """Read a dataset folder, or one tar. Raises ConfigError when there is nothing to read."""
    root = storage.absolute(uri)
    findings = Findings()
    if root.endswith(".tar"):
        _read_shard(root, root.rpartition("/")[2], storage, Expected({}), findings)
        return findings
    tars = storage.shards(root)
    if not tars:
        raise ConfigError(f"{root}: no shard here to verify")
    books = Books(root, storage, findings)
    expected = Expected(books.config)
    for name in sorted(tars.keys() | books.committed):
        report = books.report(name)
        books.check_row(name, report)
        if name not in tars:
            findings.add(name, "", "its report says done, but the tar is missing: the shard is to be made again")
            continue
        shard = _read_shard(f"{root}/{name}", name, storage, expected, findings)
        if report and shard:
            _compare(name, shard, report, findings)
            books.check_samples(report, shard.keys)
    books.close()
    return findings


@dataclass(frozen=True)
class _Shard:
    """What a tar holds."""

    keys: list[str]
    sha256: str


def _read_shard(uri: str, name: str, storage: Storage, expected: Expected, findings: Findings) -> _Shard | None:
    """Check every sample; None when the tar cannot be read to its end."""
    findings.num_shards += 1
    keys: list[str] = []
    seen: set[str] = set()
    try:
        with storage.open(uri) as file:
            stream = _Digested(file)
            for key, fields in group(read_members(stream)):  # type: ignore[arg-type]
                if key in seen:
                    findings.add(name, key, "the key comes twice")
                keys.append(key)
                seen.add(key)
                for problem in sample_problems(fields, expected):
                    findings.add(name, key, problem)
            stream.read()
    except (ShardError, OSError) as error:
        findings.add(name, "", str(error))
        return None
    findings.num_samples += len(keys)
    return _Shard(keys, stream.hexdigest())


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
