"""The job's places: credentials, whether its input can be listed and read, and its output written."""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.doctor.examination import Diagnosis
from dr_pipeline.report.units import in_bytes
from dr_pipeline.storage import Storage, StorageError
from dr_pipeline.storage.credentials import source_of_credentials
from dr_pipeline.words import plural

_PROBE = ".dr-pipeline-doctor-"


def credentials(job: Job) -> Iterator[Diagnosis]:
    """Where the credentials for remote input and output come from; they are not shown, and not tried here."""
    yield from credentials_for(
        [(job.input.shards, "input", job.input.storage), (job.output.path, "output", job.output.storage)]
    )


def credentials_for(places: Iterable[tuple[str | tuple[str, ...], str, dict[str, Any]]]) -> Iterator[Diagnosis]:
    """Where the credentials for some places come from: each one's addresses, field and options of its storage."""
    sources = {
        (field, source_of_credentials(uri, options))
        for uris, field, options in places
        for uri in ((uris,) if isinstance(uris, str) else uris)
    }
    for field, source in sorted((field, source) for field, source in sources if source):
        yield Diagnosis("ok", f"{field}: {source}")


def job_input(job: Job) -> Iterator[Diagnosis]:
    """Whether the shards can be listed, and one of them be read."""
    storage = Storage(job.input.storage)
    sizes = find_shards(job.input.shards, storage, "input.shards").sizes
    present = {uri: size for uri, size in sizes.items() if size is not None}
    with storage.open(next(iter(present))) as stream:
        stream.read(1)
    said = f"{plural(len(present), 'shard')}, {in_bytes(sum(present.values()))}, and the first can be read"
    if len(present) == len(sizes):
        yield Diagnosis("ok", said)
    else:
        yield Diagnosis("warning", f"{said}; not there: {len(sizes) - len(present):,}", "see `plan`")


def job_output(job: Job) -> Iterator[Diagnosis]:
    """Whether a file can be listed, made, read and removed in the output, or where its folder would be made."""
    yield from writable(job.output.path, Storage(job.output.storage))


def writable(path: str, storage: Storage) -> Iterator[Diagnosis]:
    """Whether a file can be listed, made, read and removed in a folder, or where it would be made."""
    if "://" not in path:  # no folder is left behind
        absolute = Path(path).absolute()
        path = str(next(place for place in (absolute, *absolute.parents) if place.exists()))
    storage.siblings(OutputPaths(path).reports)
    probe, lacks = f"{path}/{_PROBE}{uuid.uuid4().hex}", ""
    try:
        storage.create(probe, b"")
    except StorageError as error:
        storage.write(probe, b"")  # where the storage lacks create-if-absent alone
        lacks = str(error)
    try:
        storage.read(probe)
    except StorageError:
        with suppress(StorageError):
            storage.delete(probe)
        raise
    try:
        storage.delete(probe)
    except StorageError as error:
        advice = "a run leaves its run.json behind, marked as ended, and --force the shards of another configuration"
        yield Diagnosis("warning", f"{path} can be written, but {error}", advice)
        return
    if lacks:
        advice = "start one run at a time on an output: of two that start at once, neither may see the other"
        yield Diagnosis("warning", f"{path} can be written, but has no create-if-absent ({lacks})", advice)
    else:
        yield Diagnosis("ok", f"{path} can be written")


def views(job: Job) -> Iterator[Diagnosis]:
    """Whether this Pillow makes the views that the job's output has already: another major version makes others."""
    with suppress(StorageError):  # of which the output's own line tells
        ConfigJson(job).check_pillow()
    yield Diagnosis("ok", f"the same as on every machine with Pillow {version('pillow').partition('.')[0]}")
