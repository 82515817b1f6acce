"""What a job moves between its workers and the store: bytes of a sample, and requests for a shard."""

import math
from dataclasses import dataclass

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.job import Job

_READ_BYTES, _WRITE_BYTES = 8 * 2**20, 50 * 2**20  # of one request: Storage's read-ahead, s3fs' part of an upload
_REQUESTS_BESIDE_READING = 1  # for the shard's size
_REQUESTS_BESIDE_WRITING = 4  # begin and end of the upload, the table of samples, the report
_BYTES_PER_VIEW_PARAMETERS = 75
_BYTES_PER_CAPTION = 60
_BYTES_PER_MEMBER = 512 + 256  # a tar header, and half a block of padding


@dataclass(frozen=True)
class Work:
    """What a run has to do."""

    num_samples: int
    num_shards: int
    input_bytes: float

    @property
    def shard_samples(self) -> float:
        """Samples of a shard, on average."""
        return self.num_samples / self.num_shards


@dataclass(frozen=True)
class Traffic:
    """Between one worker and the store."""

    read_bytes: float
    """Of a sample."""
    written_bytes: float
    """Of a sample."""
    reads: int
    """Requests to read a shard."""
    writes: int
    """Requests to write a shard, its table and its report."""


def traffic_of(job: Job, work: Work) -> Traffic:
    """What an average sample and an average shard of the work take."""
    read_bytes = work.input_bytes / work.num_samples
    written_bytes = read_bytes * (job.output.images == "copy") + added_bytes(job)
    return Traffic(
        read_bytes,
        written_bytes,
        reads=math.ceil(work.shard_samples * read_bytes / _READ_BYTES) + _REQUESTS_BESIDE_READING,
        writes=math.ceil(work.shard_samples * written_bytes / _WRITE_BYTES) + _REQUESTS_BESIDE_WRITING,
    )


def stored_bytes(job: Job, work: Work) -> int:
    """Bytes of the shards that are written."""
    return round(work.input_bytes * (job.output.images == "copy") + work.num_samples * added_bytes(job))


def added_bytes(job: Job) -> float:
    """Bytes that the pipeline adds to one sample. Teachers without a declared dim count as 0."""
    embeddings = job.num_values * codec_for(job.output.precision).stored_bytes
    views, captions = job.augmentation.num_views, sum(writer.num_captions for writer in job.writers)
    texts = views * _BYTES_PER_VIEW_PARAMETERS + captions * _BYTES_PER_CAPTION
    return embeddings + texts + 3 * _BYTES_PER_MEMBER
