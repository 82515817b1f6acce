"""A small reinforced dataset, written as a run writes one, with a place to do damage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dr_pipeline.config import Job
from dr_pipeline.records import Sample, SampleRow, ShardReport
from dr_pipeline.shards import layout, manifest
from dr_pipeline.shards.ledger import Ledger
from dr_pipeline.shards.sample import group
from dr_pipeline.shards.storage import Storage
from dr_pipeline.shards.tar import DigestStream, Member, TarWriter
from tests.conftest import image_bytes, make_job, make_reinforcement

SAMPLES_PER_SHARD = 3
Change = Callable[[str, list[Member]], list[Member]]


def sample_members(job: Job, key: str, **synthetic: list[str]) -> list[Member]:
    """One output sample."""
    sample = Sample(key, "jpg", image_bytes(), f"alt-text of {key}", {}, {"json": b"{}"})
    return list(layout.encode(sample, make_reinforcement(job, key, **synthetic), job.output, job.augmentation))


def write_shard(job: Job, name: str, members: list[Member]) -> ShardReport:
    """A tar, its table of samples and its report, committed."""
    path = Path(job.output.path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        stream = DigestStream(file)
        writer = TarWriter(stream)
        for member in members:
            writer.add(*member)
        writer.close()
    keys = [key for key, _ in group(members)]
    rows = [SampleRow(key, captions=1) for key in keys]
    rows += [SampleRow(f"skipped {index}", skip_reason="no text") for index in range(SAMPLES_PER_SHARD - len(keys))]
    report = ShardReport(
        name=name,
        uri=f"in/{name}",
        status="done",
        fingerprint=job.fingerprint(),
        num_read=SAMPLES_PER_SHARD,
        num_written=SAMPLES_PER_SHARD,
        size_bytes=stream.size_bytes,
        sha256=stream.sha256,
        samples_sha256=manifest.write_samples(Storage(), job.output.path, name, rows),
    )
    Ledger(job).commit(report)
    return report


def write_dataset(folder: Path, change: Change | None = None, num_shards: int = 2, **changes: Any) -> Job:
    """Shards `00/0.tar`, `00/1.tar`, …; `change` alters the members of the samples by key."""
    job = make_job(**changes)
    job = job.model_copy(update={"output": job.output.model_copy(update={"path": str(folder)})})
    ledger = Ledger(job)
    ledger.open(force=False)
    table = manifest.ShardTable(Storage(), str(folder))
    for shard in range(num_shards):
        members: list[Member] = []
        for index in range(SAMPLES_PER_SHARD):
            key = f"s{shard}_{index}"
            made = sample_members(job, key)
            members += change(key, made) if change else made
        table.add([write_shard(job, f"00/{shard}.tar", members)])
    ledger.record_totals(num_shards * SAMPLES_PER_SHARD, table.publish())
    return job


def replace_shard(job: Job, name: str, members: list[Member]) -> None:
    """Another shard in the place of one, as if a run had done it again."""
    ledger, table = Ledger(job), manifest.ShardTable(Storage(), job.output.path)
    table.carry_over(ledger.done() - {name}, job.fingerprint())
    table.add([write_shard(job, name, members)])
    ledger.record_totals(table.sums().num_written, table.publish())
