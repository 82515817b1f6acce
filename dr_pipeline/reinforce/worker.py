"""Reinforce one shard, top to bottom: read, decode, draw, render, caption, embed, encode, publish."""

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

import numpy as np

from dr_pipeline.config import Job, TeacherCard
from dr_pipeline.errors import ModelError, ShardError
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_captioner, load_teacher
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.networks import device as devices
from dr_pipeline.records import Reinforcement, Sample, ShardReport, ShardTask
from dr_pipeline.reinforce.captions import Captions
from dr_pipeline.reinforce.reader import Decoded, read_decoded
from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.reinforce.texts import TextEmbedder
from dr_pipeline.shards import layout, manifest
from dr_pipeline.shards.ledger import Ledger
from dr_pipeline.shards.storage import Storage
from dr_pipeline.shards.tar import DigestStream, TarWriter
from dr_pipeline.views.params import draw
from dr_pipeline.views.render import render

log = logging.getLogger(__name__)

_PERMANENT = (ShardError, FileNotFoundError, PermissionError, IsADirectoryError)
_LONGEST_PAUSE_S = 30.0


class Worker:
    """Models that stay loaded, and shards that pass through them one by one."""

    def __init__(self, job: Job):
        self._job = job
        self._input = Storage(job.input.storage)
        self._output = Storage(job.output.storage)

    def load(self) -> tuple[TeacherCard, ...]:
        """Load every model; the teachers' cards, completed by what the models say of themselves.

        Raises ConfigError or ModelError where a model is not what its card or the job promises.
        """
        job = self._job
        devices.set_threads(job.workers.cpus)  # declared, not sniffed: the number of threads decides the last bits
        device = devices.pick_device()
        teachers = [(card.name, load_teacher(card, device, job.plugin_dirs)) for card in job.teachers]
        captioners = [(card, load_captioner(card, device, job.plugin_dirs)) for card in job.captioners]
        self._ensemble = Ensemble(teachers, device, job.workers.precision)
        self._texts = TextEmbedder(self._ensemble, job.workers.view_batch)
        self._captions = Captions(captioners, device, job.workers.precision, job.seed)
        return tuple(
            _completed(card, teacher.spec, job) for card, (_, teacher) in zip(job.teachers, teachers, strict=True)
        )

    def run(self, task: ShardTask) -> ShardReport:
        """Reinforce and publish one shard; a shard that cannot be done gives a failed report, and publishes nothing.

        A storage that stutters is tried again; a bad shard, a bad contract or a bug is not: it would only happen again.
        """
        for attempt in range(1, self._job.errors.attempts + 1):
            try:
                return self._publish(task)
            except _PERMANENT as error:
                return failed(task, self._job, str(error))
            except OSError as error:
                last = f"{type(error).__name__}: {error}"
                log.warning("%s: try %d: %s", task.name, attempt, last)
                time.sleep(random.uniform(0, min(2.0**attempt, _LONGEST_PAUSE_S)))
            except Exception as error:
                log.exception("%s", task.name)
                return failed(task, self._job, f"{type(error).__name__}: {error}")
        return failed(task, self._job, f"gave up after {self._job.errors.attempts} tries: {last}")

    def _publish(self, task: ShardTask) -> ShardReport:
        tally = Tally()
        self._texts.forget()
        root = self._job.output.path
        with self._output.staged(f"{root}/{task.name}") as path, path.open("wb") as file:
            stream = DigestStream(file)
            self._write(task, TarWriter(stream), tally)
            tally.check(self._job.errors.max_skipped)
        manifest.write_samples(self._output, root, task.name, tally.rows)
        report = tally.report(task, self._job.fingerprint(), stream)
        Ledger(self._job).commit(report)
        return report

    def _write(self, task: ShardTask, tar: TarWriter, tally: Tally) -> None:
        for sample, made in self._reinforced(task, tally):
            with tally.stage("encode"):
                for name, data in layout.encode(sample, made, self._job.output, self._job.augmentation):
                    tar.add(name, data)
            tally.written(sample, made, len(self._ensemble.dims))
        tar.close()

    def _reinforced(self, task: ShardTask, tally: Tally) -> Iterator[tuple[Sample, Reinforcement]]:
        with self._input.open(task.uri) as stream:
            decoded = read_decoded(stream, self._job, tally)
            while chunk := list(islice(decoded, self._chunk_size)):
                try:
                    yield from self._reinforce(chunk, tally)
                except ModelError as error:
                    keys = f"{chunk[0].sample.key} … {chunk[-1].sample.key}"
                    raise ShardError(f"{error} (samples {keys})") from error

    @property
    def _chunk_size(self) -> int:
        """Samples whose views fill one device batch."""
        return max(1, self._job.workers.view_batch // self._job.augmentation.num_views)

    def _reinforce(self, chunk: list[Decoded], tally: Tally) -> Iterator[tuple[Sample, Reinforcement]]:
        """One chunk of samples through the method's middle: draw, render, caption, embed."""
        recipe, seed = self._job.augmentation, self._job.seed
        crop = recipe.random_resized_crop
        with tally.stage("draw"):
            views = [draw(image.width, image.height, recipe, seed, sample.key) for sample, image in chunk]
        with tally.stage("render"):
            pixels = [
                render(image, drawn, crop.size, crop.interpolation)
                for (_, image), drawn in zip(chunk, views, strict=True)
            ]
        with tally.stage("caption"):
            synthetic = self._captions.caption(chunk)
        with tally.stage("embed_images"):
            image_emb_SND = self._embed_views(np.stack(pixels))
        with tally.stage("embed_texts"):
            text_emb = self._texts.embed_samples([item.sample.caption for item in chunk], synthetic)
        for index, item in enumerate(chunk):
            text_emb_TD, synthetic_emb_TD = text_emb[index]
            yield (
                item.sample,
                Reinforcement(views[index], synthetic[index], image_emb_SND[index], text_emb_TD, synthetic_emb_TD),
            )

    def _embed_views(self, views_SNHWC: np.ndarray) -> np.ndarray:
        """Views of S samples, flattened into device batches → embeddings [S, N, D]."""
        flat_BHWC = views_SNHWC.reshape(-1, *views_SNHWC.shape[2:])
        size = self._job.workers.view_batch
        batches = [self._ensemble.embed_images(flat_BHWC[i : i + size]) for i in range(0, len(flat_BHWC), size)]
        return np.concatenate([batch.numpy() for batch in batches]).reshape(*views_SNHWC.shape[:2], -1)


def _completed(card: TeacherCard, spec: TeacherSpec, job: Job) -> TeacherCard:
    """The card with what the loaded model says of itself, for the output's config.json."""
    size = job.augmentation.random_resized_crop.size
    if spec.image_size > size:
        raise ModelError(
            f"teacher {card.name} takes {spec.image_size} px but views are rendered at {size} px: "
            f"set augmentation.random_resized_crop.size to at least {spec.image_size}"
        )
    return card.model_copy(update=asdict(spec))


def failed(task: ShardTask, job: Job, error: str) -> ShardReport:
    """The report of a shard that was given up."""
    return ShardReport(task.name, task.uri, "failed", job.fingerprint(), error=error)
