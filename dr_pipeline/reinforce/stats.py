"""A shard's counts: every sample of the input, written or skipped; the seconds that each stage worked and waited."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.caption_faults import faults
from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.dataset.reports import ShardReport, ShardTask, are_too_many
from dr_pipeline.dataset.sample import FILTERED, NO_IMAGE, NO_TEXT, Sample
from dr_pipeline.dataset.shard_io import NOT_ADJACENT
from dr_pipeline.dataset.tar import TarDigest
from dr_pipeline.errors import ShardError
from dr_pipeline.redaction import without_secrets
from dr_pipeline.reinforce.similarities import similarities_of
from dr_pipeline.reinforce.tally import ShardProgress, Tally
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from dr_pipeline.models.protocol import Usage
    from dr_pipeline.networks.launching import BusyClock

_NOT_ADJACENT_HELP = "; do the members of a sample lie in one tar, side by side? tar --sort=name writes them so"


class ShardStats:
    """Tally of one shard, filled in while it is in work; `report` makes a report of them."""

    def __init__(self, caption_keys: Iterable[str] = (), busy: "BusyClock | None" = None):
        """`caption_keys`: the keys of `syn.json` that the job's captioners write. `busy`: the device's clock."""
        self._caption_keys = set(caption_keys)
        self.rows: list[SampleRow] = []
        """The rows of the manifest's table, in the order of the shard."""
        self._num_views = 0
        self._num_synthetic = 0
        self.passed_over: Counter[str] = Counter()
        """Reason → members of the input that are no sample's."""
        self._incomplete: dict[str, int] = {}
        """Key → index of its row, where image or text was missing: the rest may lie elsewhere in the tar."""
        self._captions: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._usage: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Key of `syn.json` → what its requests took."""
        self._waited: defaultdict[str, float] = defaultdict(float)
        """Stage → seconds that it waited for another."""
        self._at_queues: dict[str, Callable[[], float]] = {}
        """Stage → what tells how long it has waited at a queue."""
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._entered: dict[object, tuple[str, float]] = {}
        """Of the blocks that threads are in now: stage, and when it was entered."""
        self._counts = Tally()
        """What there is to count beside a report's figures."""
        self._lock = threading.Lock()
        self._started = time.perf_counter()
        self._busy = busy
        self._busy_before = busy.seconds if busy else None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage; several threads may be in it at once."""
        started, block = time.perf_counter(), object()
        self._entered[block] = (name, started)
        try:
            yield
        finally:
            with self._lock:
                del self._entered[block]
                self._seconds[name] += time.perf_counter() - started

    def waited(self, name: str, seconds: float) -> None:
        """Add to the time that a stage waited."""
        with self._lock:
            self._waited[name] += seconds

    def ask_queues(self, **seconds: Callable[[], float]) -> None:
        """Ask these how long stages, by name, have waited at the queues between them."""
        with self._lock:
            self._at_queues |= seconds

    def count(self, name: str, number: float = 1) -> None:
        """Add to a count of `tally.Tally`."""
        with self._lock:
            self._counts[name] += number

    def used(self, card: CaptionerCard, usage: "Usage") -> None:
        """Add what requests of a captioner took, and its cost where the card has prices."""
        used: dict[str, float] = asdict(usage)
        if card.prices:
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
            used["cost"] = (prompt * card.prices.prompt + completion * card.prices.completion) / 1e6
        with self._lock:
            self._usage[card.caption_key].update(used)

    def skipped(self, sample: Sample) -> None:
        """Count a sample that has its `skip` set. Scattered parts of a sample are counted as one."""
        skip = sample.skip
        assert skip is not None
        row = SampleRow(
            sample.key, sample.num_members, skip_reason=skip.reason, skip_detail=skip.detail, scores=sample.scores
        )
        index = self._incomplete.get(sample.key)
        if skip.reason == NOT_ADJACENT and index is not None:
            self.rows[index] = replace(row, members=self.rows[index].members + sample.num_members)
            return
        self.count(f"samples_skipped.{skip.reason}")
        if skip.reason in (NO_IMAGE, NO_TEXT):
            self._incomplete[sample.key] = len(self.rows)
        self.rows.append(row)

    def written(self, sample: Sample) -> None:
        """Count a sample that is in the output, and compute its mean image-text cosines."""
        self.count("samples_written")
        self.count("bytes_written", sum(map(len, sample.members.values())))
        num_synthetic = sum(map(len, sample.synthetic.values()))
        self._num_views += len(sample.views)
        self._num_synthetic += num_synthetic
        poor_captions = {}
        for key in self._caption_keys & sample.synthetic.keys():
            found = faults(sample.synthetic[key])
            self._captions[key].update({"drawn": len(sample.synthetic[key]), **found})
            if found:
                poor_captions[key] = found
        similarities = similarities_of(sample)
        row = SampleRow(
            sample.key,
            sample.num_members,
            captions=1 if sample.caption else 0,
            synthetic_captions=num_synthetic,
            similarity=similarities.ground_truth,
            synthetic_similarity=similarities.synthetic,
            poor_captions=json.dumps(poor_captions, sort_keys=True) if poor_captions else None,
            scores={**sample.scores, **similarities.scores},
        )
        self.rows.append(row)

    def check(self, max_skipped: float) -> None:
        """Raise ShardError where more than this share of the samples was skipped, or no member is a sample's.

        Samples that a scorer has filtered are as good as those that are written.
        """
        if self.passed_over and not self.rows:
            reasons = _listed(self.passed_over)
            raise ShardError(
                f"none of its {plural(self._num_members, 'member')} is a sample's (KEY.jpg, KEY.txt): {reasons}"
            )
        num_skipped = self._faulty.total()
        if are_too_many(num_skipped, len(self.rows), max_skipped):
            raise ShardError(
                f"{num_skipped} of {plural(len(self.rows), 'sample')} skipped, more than errors.max_skipped = "
                f"{max_skipped}: {self.why_skipped()}"
            )

    def why_skipped(self) -> str:
        """The reasons with their counts, and the first sample that was skipped and not filtered; there must be one.

        Where all that is wrong with any sample is that image or text is missing, it says where these may lie.
        """
        skipped = self._faulty
        first = next(row for row in self.rows if row.skip_reason in skipped)
        are_scattered = skipped.total() == len(self.rows) and skipped.keys() <= {NO_IMAGE, NO_TEXT}
        return (
            f"{_listed(skipped)}; first {first.key}: {first.skip_reason}: {first.skip_detail}"
            f"{_NOT_ADJACENT_HELP if are_scattered else ''}"
        )

    def report(self, task: ShardTask, fingerprint: str, written: TarDigest) -> ShardReport:
        """The shard's report, to be committed once its tar is published."""
        seconds = {**self._seconds, "total": time.perf_counter() - self._started}
        waited = {**self._waited, **{stage: at_queue() for stage, at_queue in self._at_queues.items()}}
        busy = self._busy.seconds if self._busy else None
        if busy is not None and self._busy_before is not None:
            seconds["device"] = busy - self._busy_before
        return ShardReport(
            name=task.name,
            uri=without_secrets(task.uri),
            status="done",
            fingerprint=fingerprint,
            num_read=len(self.rows),
            num_written=len(self.rows) - self._skipped.total(),
            num_views=self._num_views,
            num_synthetic=self._num_synthetic,
            skipped=dict(self._skipped),
            num_members=self._num_members,
            passed_over=dict(self.passed_over),
            captions={key: dict(counts) for key, counts in sorted(self._captions.items())},
            usage=self.usage,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
            waited_seconds={stage: round(value, 4) for stage, value in waited.items()},
            finished_at=round(time.time(), 3),
        )

    def counts(self) -> Tally:
        """What was done of the shard so far; of what threads are in the middle of, the seconds."""
        with self._lock:
            counts, entered = Tally(self._counts), [*self._entered.values()]
            seconds, waited, at_queues = dict(self._seconds), dict(self._waited), dict(self._at_queues)
        now = time.perf_counter()
        counts["shard_seconds"] = now - self._started
        counts.add({f"seconds.{stage}": value for stage, value in seconds.items()})
        for stage, since in entered:
            counts[f"seconds.{stage}"] += now - since
        counts.add({f"waited.{stage}": value for stage, value in waited.items()})
        counts.add({f"waited.{stage}": at_queue() for stage, at_queue in at_queues.items()})
        for used in self.usage.values():
            counts.add({f"requests.{name}": value for name, value in used.items()})
        return counts

    def progress(self, size_bytes: int | None) -> ShardProgress:
        """How far a shard of this size is: its share is the part that is read, less the samples under way."""
        with self._lock:
            counts = Tally(self._counts)
        read, share = counts["samples_read"], 0.0
        if size_bytes and read:
            share = min(1.0, counts["bytes_read"] / size_bytes * len(self.rows) / read)
        skipped = {reason: int(number) for reason, number in counts.group("samples_skipped").items()}
        return ShardProgress(share, int(counts["samples_written"]), skipped)

    @property
    def usage(self) -> dict[str, dict[str, float]]:
        """What the requests took so far, as a report has it."""
        with self._lock:
            return {key: {name: round(value, 6) for name, value in used.items()} for key, used in self._usage.items()}

    @property
    def _num_members(self) -> int:
        return sum(row.members for row in self.rows) + self.passed_over.total()

    @property
    def _skipped(self) -> Counter[str]:
        """Reason → samples."""
        return Counter(row.skip_reason for row in self.rows if row.skip_reason)

    @property
    def _faulty(self) -> Counter[str]:
        """The same without those that were filtered."""
        return Counter({reason: count for reason, count in self._skipped.items() if reason != FILTERED})


def failed(task: ShardTask, job: Job, error: str) -> ShardReport:
    """The report of a shard that failed."""
    uri, said, now = without_secrets(task.uri), without_secrets(error), round(time.time(), 3)
    return ShardReport(task.name, uri, "failed", job.fingerprint(), error=said, finished_at=now)


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
