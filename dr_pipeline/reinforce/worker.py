"""Reinforce one shard, top to bottom: read, score, decode, draw, render, caption, embed, encode, publish."""

import errno
import logging
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from dr_pipeline.config.cards import Card, TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout, manifest
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.reports import Reports, ShardReport, ShardTask
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import write_samples
from dr_pipeline.dataset.tar import TarDigest
from dr_pipeline.errors import PipelineError
from dr_pipeline.models.by_request import load_request_captioners, writes_by_request
from dr_pipeline.models.precision import load_captioners, load_ensemble, load_ready_scorer
from dr_pipeline.networks import device as devices
from dr_pipeline.networks.cpus import usable_cpus
from dr_pipeline.networks.launching import BusyClock, switch_threads_often
from dr_pipeline.redaction import without_secrets
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.reinforce.embed import Chunk, TextStage, ViewStage, samples_per_chunk
from dr_pipeline.reinforce.in_flight import InFlight, Item, in_groups
from dr_pipeline.reinforce.mixing import Mixer
from dr_pipeline.reinforce.preflight import check_scorers, check_teachers
from dr_pipeline.reinforce.prepare import Preparer, read
from dr_pipeline.reinforce.rendering import renderer_for
from dr_pipeline.reinforce.requests import RequestStage
from dr_pipeline.reinforce.scores import ScoreStage
from dr_pipeline.reinforce.stats import ShardStats, failed
from dr_pipeline.reinforce.tally import Tally, WorkerProgress
from dr_pipeline.reinforce.threads import Prefetch, PriorityThreads, ahead
from dr_pipeline.storage import Storage
from dr_pipeline.views.recipe import Recipe

log = logging.getLogger(__name__)

AnyCard = TypeVar("AnyCard", bound=Card)

_CHUNKS_AHEAD = 2
_SAMPLES_A_SWEEP = 64
"""After so many samples, freed memory is given back to the system, which takes some milliseconds."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a full or read-only disk: every other shard would fail as well."""


class _DoneByAnother(Exception):  # noqa: N818  (it ends publishing, and is no failure)
    """Another worker, taken for lost, has committed the shard meanwhile. What it has published stays."""

    def __init__(self, report: ShardReport):
        self.report = report


class Worker:
    """Loads a job's models once and reinforces shards with them."""

    def __init__(self, job: Job):
        self._job, self._recipe = job, Recipe(job.augmentation)
        self._input = Storage(job.input.storage)
        self._output = Storage(job.output.storage)
        self._reports = Reports.of(job)
        self._stopping = threading.Event()
        self._requests = RequestStage([], job.seed)
        self._began = self._loading_since = time.perf_counter()
        self._loading: str | None = "libraries"
        self._in_work: dict[ShardTask, ShardStats] = {}
        self._ended = Tally()
        self._lock = threading.Lock()

    def load(self) -> tuple[TeacherCard, ...]:
        """Load every model → the teachers' cards, completed by what the loaded models say of themselves.

        Raises ConfigError or ModelError where a model is not what its card says, or where the job cannot use it.
        """
        job = self._job
        ConfigJson(job).check_pillow()
        self._cpus = job.workers.cpus or usable_cpus()  # the number of threads decides the last bits
        devices.set_threads(self._cpus)
        self._device = devices.pick_device()
        devices.return_large_blocks(self._device)
        self._arithmetic = devices.arithmetic(self._device, job.workers.precision, job.workers.compile)
        self._busy = BusyClock(self._device)
        self._busy_before = self._busy.seconds or 0.0
        switch_threads_often(self._device)
        cards = self._load_models()
        self._chunk_size = samples_per_chunk(self._views.batch_size, job.augmentation.num_views)
        self._renderer = renderer_for(job.workers.render, job.augmentation, self._device)
        self._mixer = Mixer(job) if job.augmentation.mixed_share else None
        self._preparer = Preparer(job, self._renderer, self._captions.square_sides, self._scores.square_sides)
        self._host = PriorityThreads(self._cpus)
        # Pools of their own: what goes to the device must not queue behind samples to prepare, nor behind samples that
        # wait for what comes from it.
        self._packers = ThreadPoolExecutor(self._cpus, thread_name_prefix="pack")
        self._encoders = ThreadPoolExecutor(self._cpus, thread_name_prefix="encode")
        self._loading, self._loaded = None, time.perf_counter()
        return cards

    def progress(self) -> WorkerProgress:
        """How far this worker is; any thread may ask at any time."""
        now, loading = time.perf_counter(), self._loading
        if loading:
            return WorkerProgress(loading, now - self._loading_since)
        with self._lock:
            counts, in_work = Tally(self._ended), dict(self._in_work)
        for stats in in_work.values():
            counts.add(stats.counts())
        counts["worker_seconds"] = now - self._loaded
        counts["core_seconds"] = counts["worker_seconds"] * self._cpus
        if (busy := self._busy.seconds) is not None:
            counts["busy_seconds"] = busy - self._busy_before
        shards = {task.name: stats.progress(task.size_bytes) for task, stats in in_work.items()}
        return WorkerProgress(None, self._loaded - self._began, counts, shards)

    def _one_by_one(self, cards: Iterable[AnyCard], kind: str) -> Iterator[AnyCard]:
        """The cards; notes which of them is being loaded."""
        for card in cards:
            self._loading, self._loading_since = f"{kind} {card.name}", time.perf_counter()
            log.info("loading %s", self._loading)
            yield card

    def _load_models(self) -> tuple[TeacherCard, ...]:
        """Load the models, each for the stage that runs it → the teachers' cards, completed."""
        job, device, precision = self._job, self._device, self._job.workers.precision
        asked = [card for card in job.writers if writes_by_request(card, job.plugin_dirs)]
        by_request = load_request_captioners(self._one_by_one(asked, "captioner"), device, job.plugin_dirs)
        self._requests = RequestStage(by_request, job.seed)
        self._requests.check()
        teachers = self._one_by_one(job.teachers, "teacher")
        self._ensemble, cards = load_ensemble(teachers, device, precision, job.plugin_dirs)
        writers = self._one_by_one([card for card in job.writers if card not in asked], "captioner")
        captioners = load_captioners(writers, device, precision, job.plugin_dirs)
        scorers = [
            load_ready_scorer(card, device, precision, job.plugin_dirs)
            for card in self._one_by_one(job.scorers, "scorer")
        ]
        check_teachers(job, cards)
        check_scorers(job, scorers)
        if job.output.top_k:
            self._ensemble.keep_largest(job.output.top_k)
        batches = job.workers.batches(device.type)
        if job.workers.compile:
            self._ensemble.compile(batches.views, batches.texts)
        elif device.type == "cuda":  # threads of the host would make hundreds of launches wait for the lock
            self._ensemble.replay(batches.views, batches.texts)
        self._scores = ScoreStage(scorers, device, precision, batches.views)
        self._views = ViewStage(self._ensemble, device, batches.views)
        self._captions = CaptionStage(captioners, device, precision, job.seed, batches.captions)
        self._texts = TextStage(self._ensemble, batches.texts)
        return cards

    def run(self, task: ShardTask) -> ShardReport:
        """Reinforce and publish one shard → its report. A shard that fails publishes nothing.

        Several threads may run a shard each: these take turns on the device, and share the host's threads. Nothing is
        retried here: storage retries by itself, and a bad shard, a broken contract or a bug would fail again.
        """
        stats, stops_run = ShardStats((card.caption_key for card in self._job.writers), self._busy), False
        with self._lock:
            self._in_work[task] = stats
        try:
            return self._publish(task, stats)
        except _DoneByAnother as done:
            return done.report
        except OSError as error:  # the storage's, or this machine's disk's
            why, stops_run = f"{type(error).__name__}: {error}", error.errno in _NO_ROOM
        except CancelledError:  # of a request
            why = "stopped"
        except PipelineError as error:
            why = str(error)
        except Exception as error:
            log.error("%s\n%s", task.name, without_secrets(traceback.format_exc()))
            why = f"{type(error).__name__}: {'; '.join([str(error), *getattr(error, '__notes__', [])])}"
        finally:
            with self._lock:
                del self._in_work[task]
                self._ended.add(stats.counts())
        return replace(failed(task, self._job, why), usage=stats.usage, stops_run=stops_run)

    def stop(self) -> None:
        """Make the shards in work fail, each at its next chunk or request, or before it is published."""
        self._stopping.set()
        self._requests.stop()

    def _check_not_stopped(self) -> None:
        if self._stopping.is_set():
            raise PipelineError("stopped")

    def _publish(self, task: ShardTask, stats: ShardStats) -> ShardReport:
        root = self._job.output.path
        with ExitStack() as publishing:
            path = publishing.enter_context(self._output.staged(OutputPaths(root).shard(task.name)))
            written = self._reinforce(task, path, stats)
            stats.check(self._job.errors.max_skipped)
            earlier = self._reports.find(task.name)
            if earlier is not None:
                raise _DoneByAnother(earlier)
            self._check_not_stopped()
            with stats.stage("upload"):
                publishing.close()
        samples_sha256 = manifest.write_sample_table(self._output, root, task.name, stats.rows)
        report = stats.report(task, self._job.fingerprint(), written)
        report = replace(report, samples_sha256=samples_sha256, arithmetic=self._arithmetic)
        self._reports.commit(report)
        return report

    def _reinforce(self, task: ShardTask, path: Path, stats: ShardStats) -> TarDigest:
        """The method: each stage takes what the one above it makes, and all of them work at once."""
        to_chunk = partial(Chunk, renderer=self._renderer)
        tokenize = partial(self._texts.tokenize, stats=stats)
        encode = partial(self._encode, stats=stats)
        requests = self._requests.for_shard(stats)
        with ExitStack() as stages:
            stream = stages.enter_context(self._input.open(task.uri))
            rendered = self._rendered(read(stream, stats, self._job.errors.max_member_bytes), stats, stages)
            grouped = self._until_stopped(in_groups(rendered, lambda sample: not sample.skip, self._chunk_size))
            chunks = stages.enter_context(Prefetch(self._packers, to_chunk, grouped, 1))
            seen = self._computing(self._views.run(chunks, stats))
            viewed = stages.enter_context(ahead(seen, self._captions.batch_size))
            captioned = self._computing(self._captions.run(viewed, stats))
            captioned = stages.enter_context(requests.ahead(captioned))
            pools = stages.enter_context(Prefetch(self._packers, tokenize, self._texts.pools(captioned), 1))
            embedded = self._computing(self._texts.run(pools, stats))
            encoded = stages.enter_context(Prefetch(self._encoders, encode, embedded, _CHUNKS_AHEAD * self._chunk_size))
            stages.callback(requests.cancel)  # before the threads that may wait for one are waited for
            stats.ask_queues(
                views=lambda: chunks.starved_seconds,
                captions=lambda: viewed.starved_seconds,
                requests=lambda: requests.starved_seconds,
                texts=lambda: pools.starved_seconds,
                collect=lambda: encoded.blocked_seconds,
                write=lambda: encoded.starved_seconds,
            )
            return write_samples(path, self._count(encoded, stats))

    def _rendered(self, samples: Iterator[Sample], stats: ShardStats, stages: ExitStack) -> Iterator[Sample]:
        """What the host's threads make ahead of the device: samples with the pixels of their views. Scorers, where the
        job has them, see the samples first.
        """
        host, depth = self._host.for_shard(), _CHUNKS_AHEAD * self._chunk_size
        screened: Prefetch[Sample, Sample] | None = None
        if self._job.scorers:
            screen = partial(self._preparer.prepare_scoring, stats=stats)
            screened = stages.enter_context(Prefetch(host, screen, samples, self._scores.batch_size))
            samples = self._until_stopped(self._computing(self._scores.run(screened, stats)))
        prepare = partial(self._preparer.prepare, stats=stats)
        prepared = stages.enter_context(Prefetch(host, prepare, samples, depth))
        stats.ask_queues(
            read=lambda: (screened or prepared).blocked_seconds,
            scores=lambda: screened.starved_seconds if screened else 0.0,
        )
        if not self._mixer:
            return prepared
        mix = partial(self._mixer.render, stats=stats)
        return stages.enter_context(Prefetch(self._host.for_shard(), mix, self._mixer.pair(prepared), depth))

    def _computing(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items that models compute on the thread that asks for them: torch keeps each thread's own number of
        threads, which decides the last bits.
        """
        devices.set_threads(self._cpus)
        yield from items

    def _until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            self._check_not_stopped()
            yield item

    def _encode(self, item: InFlight, stats: ShardStats) -> Sample:
        """Fill in the members that are written, once the device has computed the sample's columns."""
        sample = item.finish()
        if not sample.skip:
            with stats.stage("encode"):
                sample.members = layout.encode(sample, self._job.output, self._recipe)
        return sample

    def _count(self, samples: Iterable[Sample], stats: ShardStats) -> Iterator[Sample]:
        """Count all samples, and yield those that are written."""
        for sample in samples:
            if sample.skip:
                stats.skipped(sample)
                continue
            with stats.stage("write"):
                yield sample
            stats.written(sample)
            if len(stats.rows) % _SAMPLES_A_SWEEP == 0:
                devices.free_host_memory()
