"""The first samples of what a run trains on, as an evaluation set has them, for a run that is not measured on any."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from pydantic import ValidationError

from dr_pipeline.config.training import TrainJob
from dr_pipeline.config.wording import what_is_wrong
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import TEXT, Sample, read_caption, read_class
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.evaluation.data import EvaluationImage
from dr_pipeline.storage import Storage
from dr_pipeline.training.data.reader import read_shard
from dr_pipeline.training.data.training_set import matching_keys


def training_job(identity: dict[str, Any]) -> TrainJob:
    """The job of a run's job.json, but for what that does not hold. Raises ConfigError."""
    tree = {name: value for name, value in identity.items() if name not in ("contents", "precision")}
    try:
        return TrainJob.model_validate({**tree, "name": "look", "run": {"path": "look"}})
    except ValidationError as error:
        raise ConfigError(f"its job.json is of another version: {what_is_wrong(TrainJob, error)[0]}") from error


def captioned_samples(job: TrainJob) -> Iterator[EvaluationImage[list[str]]]:
    """The samples in the order of the shards, each with a caption. Raises ConfigError, ShardError."""
    for sample in _samples(job):
        try:
            yield EvaluationImage(partial(getattr, sample, "image"), [_caption(job, sample)])
        except SampleSkipped:
            continue


def labelled_samples(job: TrainJob) -> Iterator[EvaluationImage[int]]:
    """The samples in the order of the shards, those that have a label. Raises ConfigError, ShardError."""
    for sample in _samples(job):
        try:
            label = read_class(sample.members)
        except SampleSkipped:
            continue
        if label is not None and label < (job.student.num_classes or 0):
            yield EvaluationImage(partial(getattr, sample, "image"), label)


def _samples(job: TrainJob) -> Iterator[Sample]:
    """The samples that have an image."""
    if job.data.base:
        raise ConfigError("the images of its training samples are in another dataset, data.base, which is not read")
    for uri in find_shards(job.data.shards, Storage(job.data.storage), "data.shards").all_present():
        for sample in read_shard(job, uri):
            try:
                sample.find_image()
            except SampleSkipped:
                continue
            yield sample


def _caption(job: TrainJob, sample: Sample) -> str:
    """The caption that the student learns from; of several synthetic ones the first. Raises SampleSkipped."""
    if TEXT in job.caption_weights:
        return read_caption(sample.members, job.data.caption)
    layout.decode_synthetic(sample)
    keys = matching_keys(job, sample.synthetic)
    if not keys:
        raise SampleSkipped("no synthetic key")
    return sample.synthetic[keys[0]][0]
