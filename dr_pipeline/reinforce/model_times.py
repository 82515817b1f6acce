"""How long each of a job's models takes, by itself, on this machine: loaded, run as the worker runs it, and dropped.

Shapes: B views, S pixels of a side, C = 3 channels.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from dr_pipeline.config.cards import CaptionerCard, ScorerCard, TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.planning import ModelTimes
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ModelError
from dr_pipeline.models.by_request import load_request_captioners, writes_by_request
from dr_pipeline.models.ensemble import Ensemble, PendingColumns
from dr_pipeline.models.precision import ReadyCaptioner, load_ready, load_ready_captioner, load_ready_scorer
from dr_pipeline.networks import device as devices
from dr_pipeline.networks.images import host_tensor
from dr_pipeline.networks.tokenizer import truncate_text
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.reinforce.in_flight import Batch, DeviceBatches, InFlight
from dr_pipeline.reinforce.requests import RequestStage
from dr_pipeline.reinforce.scores import ScoreStage
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.views.render import render_center

_FEWEST = 4
_LONG_SECONDS = 1.0
_ASKED_SAMPLES = 8


class DecodedSample(NamedTuple):
    """A sample with its texts, and its image."""

    sample: Sample
    image: Image.Image


class ModelTimer:
    """Times the models of a job on samples of its input."""

    def __init__(self, job: Job, decoded: Sequence[DecodedSample]):
        """`job`: with the worker that this machine would run. `decoded`: one or more samples, used in turn."""
        self._job, self._decoded = job, decoded
        self._device = devices.pick_device()
        self._batches = job.workers.batches(self._device.type)
        devices.set_threads(job.workers.num_cpus)
        self._asked = ShardStats()

    @property
    def usage(self) -> dict[str, dict[str, float]]:
        """Key of `syn.json` → what the requests took so far."""
        return self._asked.usage

    def time(self) -> dict[str, ModelTimes]:
        """Card name → its model's times. Raises ConfigError or ModelError as the worker does when it starts."""
        times: dict[str, ModelTimes] = {}
        for card in self._job.cards:
            if card.name in times:
                continue
            if isinstance(card, ScorerCard):
                times[card.name] = self._of_scorer(card)
            elif isinstance(card, TeacherCard):
                times[card.name] = self._of_teacher(card)
            elif writes_by_request(card, self._job.plugin_dirs):
                times[card.name] = self._of_requests(card)
            else:
                times[card.name] = self._of_captioner(card)
            devices.free_memory()
        return times

    def _of_scorer(self, card: ScorerCard) -> ModelTimes:
        unbounded = card.model_copy(update={"min": None, "max": None})
        ready = load_ready_scorer(unbounded, self._device, self._job.workers.precision, self._job.plugin_dirs)
        stage = ScoreStage([ready], self._device, self._job.workers.precision, self._batches.views)
        return ModelTimes(sample_ms=self._sample_ms(stage.score, stage.square_sides, self._batches.views))

    def _of_teacher(self, card: TeacherCard) -> ModelTimes:
        """What one view and one alt-text take, from host memory to an embedding there."""
        workers, batches = self._job.workers, self._batches
        ready = load_ready(card, self._device, workers.precision, self._job.plugin_dirs)
        without_autocast = () if ready.needs_autocast else (card.name,)
        ensemble = Ensemble([(card.name, ready.teacher)], self._device, workers.precision, without_autocast)
        if workers.compile:
            ensemble.compile(batches.views, batches.texts)
        elif self._device.type == "cuda":
            ensemble.replay(batches.views, batches.texts)
        image_ms = text_ms = 0.0
        if ensemble.image_teachers:
            squares = [render_center(one.image, self._job.augmentation.size) for one in self._decoded]
            views_BSSC = host_tensor(np.stack([*islice(cycle(squares), batches.views)]), self._device)
            image_ms = _embed_ms("views", ensemble.start_images, views_BSSC)
        if ensemble.text_teachers and self._job.has_texts:
            captions = [truncate_text(one.sample.caption) for one in self._decoded]
            texts = ensemble.tokenize(sorted(islice(cycle(captions), batches.texts), key=len))
            text_ms = _embed_ms("texts", ensemble.start_texts, texts)
        return ModelTimes(image_ms=image_ms, text_ms=text_ms)

    def _of_captioner(self, card: CaptionerCard) -> ModelTimes:
        """What its captions take of an image, and, by one caption alone, how much of that each of them takes."""
        ready = load_ready_captioner(card, self._device, self._job.workers.precision, self._job.plugin_dirs)
        all_ms = self._caption_ms(ready)
        if card.num_captions == 1:
            return ModelTimes(text_ms=all_ms)
        one_ms = self._caption_ms(ready._replace(card=card.model_copy(update={"num_captions": 1})))
        text_ms = min(max(0.0, (all_ms - one_ms) / (card.num_captions - 1)), all_ms / card.num_captions)
        return ModelTimes(sample_ms=all_ms - card.num_captions * text_ms, text_ms=text_ms)

    def _caption_ms(self, ready: ReadyCaptioner) -> float:
        job, batch = self._job, self._batches.captions
        stage = CaptionStage([ready], self._device, job.workers.precision, job.seed, batch)
        return self._sample_ms(stage.caption, stage.square_sides, batch)

    def _of_requests(self, card: CaptionerCard) -> ModelTimes:
        """The time until a few samples that are asked about at once are answered. Raises ModelError where none is."""
        job = self._job
        stage = RequestStage(load_request_captioners([card], self._device, job.plugin_dirs), job.seed)
        items = [InFlight(sample) for sample in _copies([one.sample for one in self._decoded], _ASKED_SAMPLES)]
        try:
            stage.check()
            begun = time.perf_counter()
            with stage.for_shard(self._asked).ahead(items) as answered:
                skips = [item.sample.skip for item in answered]
        finally:
            stage.stop()
        if all(skips):
            raise ModelError(f"card {card.name}: {skips[0]}")
        return ModelTimes(text_ms=1000 * (time.perf_counter() - begun))

    def _sample_ms(self, work: Callable[[list[Sample]], None], sides: Sequence[int], most: int) -> float:
        """Of one sample in a stage that works on the central squares of these sides."""
        samples = [
            replace(one.sample, squares={side: render_center(one.image, side) for side in sides})
            for one in self._decoded
        ]
        return each_ms(lambda count: work(_copies(samples, count)), most)


def _embed_ms(what: str, start: Callable[[Batch], PendingColumns], inputs: Batch) -> float:
    """The ms of one of these inputs; `start` launches a teacher on some of them."""
    batches = DeviceBatches(what, len(inputs))
    return each_ms(lambda count: batches.run(lambda part: start(part).finish(), inputs[:count]), len(inputs))


def each_ms(run: Callable[[int], object], most: int) -> float:
    """The ms that each of `count` inputs takes in `run(count)`, not counting the first time.

    Counts grow until a run takes a second, or until there are `most`, as in the job.
    """
    count = min(_FEWEST, most)
    while True:
        run(count)  # memory is allocated, and kernels are chosen
        seconds = _seconds(run, count)
        if count == most or seconds > _LONG_SECONDS:
            return 1000 * min(seconds, _seconds(run, count)) / count
        count = min(2 * count, most)


def _seconds(run: Callable[[int], object], count: int) -> float:
    begun = time.perf_counter()
    run(count)
    return time.perf_counter() - begun


def _copies(samples: Sequence[Sample], count: int) -> list[Sample]:
    """So many of the samples, in turn, which a stage may fill in."""
    return [replace(sample, synthetic={}, scores={}) for sample in islice(cycle(samples), count)]
