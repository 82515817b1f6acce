"""What a run's student finds: examples of retrieval and of classification, by its published model, on the CPU."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from dr_pipeline.config.evaluation import Classification, Engine, EvaluatedModel, Tasks
from dr_pipeline.config.training import TrainJob
from dr_pipeline.config.wording import what_is_wrong
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import TEXT, Sample, read_caption, read_class
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.errors import ConfigError, PipelineError, SampleSkipped
from dr_pipeline.evaluation.data import EvaluationImage, name_classes, open_captioned, open_classes, open_labelled
from dr_pipeline.evaluation.evaluate import fill_preprocessing, load_evaluated
from dr_pipeline.evaluation.examples import (
    ClassificationExamples,
    Items,
    Search,
    head_examples,
    retrieval_examples,
    zero_shot_examples,
)
from dr_pipeline.networks.classifier import Classifier
from dr_pipeline.networks.network import Network
from dr_pipeline.report.page.parts import Choice, Finding, Picture, gallery, note, picture, table, warning
from dr_pipeline.report.runs.folder import TrainingRun
from dr_pipeline.report.units import share
from dr_pipeline.storage import Storage
from dr_pipeline.training.data.reader import read_shard
from dr_pipeline.training.data.training_set import matching_keys
from dr_pipeline.views.render import decode
from dr_pipeline.words import plural

if TYPE_CHECKING:
    from markupsafe import Markup

_ENGINE = Engine(batch_size=32, threads=2, precision="float32")
_MOST_CONFUSIONS = 12
_MOST_MISSED = 3
_LONGEST_TEXT = 300
Contents = Mapping[int, str] | Mapping[int, Picture]
"""What queries or answers are, by their numbers."""
_PLUGIN_DIRS = (".",)
"""A tokenizer of one's own is imported from the working folder, and never from what the looked-at folder names."""


def examples(run: TrainingRun) -> "list[Markup]":
    """Pieces of a page: what the student finds in its first task of each kind, else among what it was trained on.

    Where something is missing, a remark tells what.
    """
    if run.model is None:
        return [note("The run has published no model yet, by which examples could be computed: it does so at its end.")]
    try:
        student = _Student.load(run)
        tasks = Tasks.model_validate(run.record.get("evaluation", {}))
        pieces = []
        for retrieval in tasks.retrieval[:1]:
            pieces += student.retrieve(f"task {retrieval.name}", partial(open_captioned, retrieval))
        for classification in tasks.classification[:1]:
            pieces += student.classify(classification)
        return pieces or student.try_training_samples(run)
    except ValidationError as error:
        return [warning(f"The run's tasks cannot be read: {what_is_wrong(Tasks, error)[0]}.")]
    except (PipelineError, OSError) as error:
        return [warning(f"No examples: {error}. Paths are looked for from the working folder of `look`.")]


@dataclass(frozen=True)
class _Student:
    """A run's published model, ready to compute."""

    network: Network | Classifier
    engine: Engine

    @classmethod
    def load(cls, run: TrainingRun) -> "_Student":
        """Raises ConfigError, ModelError."""
        assert run.model is not None
        config, weights = map(str, run.model)
        student = run.job["student"]
        model = EvaluatedModel(
            architecture=config,
            weights=weights,
            tokenizer=student.get("tokenizer"),
            context_length=student.get("context_length"),
        )
        network = load_evaluated(model, _PLUGIN_DIRS, torch.device("cpu"))
        return cls(network, fill_preprocessing(_ENGINE, model))

    def retrieve(self, of: str, items: Items[list[str]]) -> "list[Markup]":
        """Texts of images, and images of texts."""
        assert isinstance(self.network, Network)
        found = retrieval_examples(self.network, items, self.engine)
        if found is None:
            return [note(f"No image of {of} can be read.")]
        shown = {query.number for query in found.texts_by_image.shown}
        for query in found.images_by_text.shown:
            shown |= {answer.number for answer in query.answers} | {*query.right[:_MOST_MISSED]}
        pictures = self._pictures(items, shown, found.places)
        texts = {number: _shortened(text) for number, text in enumerate(found.texts)}
        size = f"{plural(len(found.places), 'image')} and {len(texts)} different texts of {of}"
        return [
            note(f"Computed now by the published model, among {size}; the nearest five by cosine."),
            *_galleries("Texts for an image", found.texts_by_image, pictures, texts),
            *_galleries("Images for a text", found.images_by_text, texts, pictures),
        ]

    def classify(self, task: Classification) -> "list[Markup]":
        """Classes of images."""
        of = f"task {task.name}"
        if isinstance(self.network, Classifier):
            num_classes = self.network.num_classes
            return self._classify_by_head(of, name_classes(task, num_classes), partial(open_classes, task, num_classes))
        found = zero_shot_examples(self.network, partial(open_labelled, task), self.engine)
        return self._show_classes(of, found, lambda: open_labelled(task).items, "cosine")

    def _classify_by_head(self, of: str, names: list[str], items: Items[int]) -> "list[Markup]":
        assert isinstance(self.network, Classifier)
        return self._show_classes(of, head_examples(self.network, names, items, self.engine), items, "probability")

    def try_training_samples(self, run: TrainingRun) -> "list[Markup]":
        """What it finds among the first samples that it was trained on."""
        of, job = "the first samples that it was trained on", _training_job(run.job)
        if isinstance(self.network, Network):
            return self.retrieve(of, partial(_captioned_samples, job))
        names = [f"class {number}" for number in range(self.network.num_classes)]
        return self._classify_by_head(of, names, partial(_labelled_samples, job))

    def _show_classes(
        self, of: str, found: ClassificationExamples | None, items: Items[int], score: str
    ) -> "list[Markup]":
        if found is None:
            return [note(f"No image of {of} can be read, or none has a label.")]
        shown = {query.number for query in found.classes_by_image.shown}
        pictures = self._pictures(items, shown, found.places)
        names = {number: _shortened(name) for number, name in enumerate(found.class_names)}
        size = f"{plural(len(found.places), 'image')} of {of}"
        pieces = [
            note(f"Computed now by the published model, for {size}; the nearest classes by {score}."),
            *_galleries("Classes for an image", found.classes_by_image, pictures, names),
        ]
        if rows := [(names[label], names[guess], n) for label, guess, n in found.confusions[:_MOST_CONFUSIONS]]:
            pieces.append(table("Most frequent confusions", ("class", "taken for", "images"), rows))
        return pieces

    def _pictures(self, items: Items, numbers: Collection[int], places: list[int]) -> dict[int, Picture]:
        """Some images by their numbers, read once more: of all others none is kept."""
        wanted = {places[number]: number for number in numbers}
        pictures: dict[int, Picture] = {}
        for place, item in enumerate(items()):
            if len(pictures) == len(wanted):
                break
            if place in wanted:
                try:
                    image = decode(item.read(), self.engine.max_image_pixels)
                except SampleSkipped as skip:
                    raise ConfigError(f"the image at place {place} has changed meanwhile: {skip}") from skip
                pictures[wanted[place]] = picture(image, f"image {place + 1} of the set")
        return pictures


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _galleries(what: str, search: Search, queries: Contents, answers: Contents) -> "Iterator[Markup]":
    """What a kind of queries found: the figures over all of them, and those that are shown."""
    first, top, num_queries = share(search.found(1), 1), share(search.found(5), 1), f"{len(search.ranks):,}"
    yield note(f"{what}: the nearest is right for {first} of {num_queries}, one of the five for {top}.")
    kinds = {"right by the widest margin": search.clearest, "ranked worst": search.worst, "others": search.others}
    for kind, shown in kinds.items():
        findings = []
        for query in shown:
            choices = tuple(Choice(answers[one.number], f"{one.score:.3f}", one.is_right) for one in query.answers)
            is_among = any(choice.is_right for choice in choices)
            missed = () if is_among else tuple(answers[number] for number in query.right[:_MOST_MISSED])
            verdict = f"rank {query.rank} of {search.num_answers}"
            findings.append(Finding(queries[query.number], verdict, query.rank == 1, choices, missed))
        if findings:
            yield gallery(f"{what}: {kind}", findings)


def _training_job(identity: dict[str, Any]) -> TrainJob:
    """The job of a run's job.json, but for what that does not hold. Raises ConfigError."""
    tree = {name: value for name, value in identity.items() if name not in ("contents", "precision")}
    try:
        return TrainJob.model_validate({**tree, "name": "look", "run": {"path": "look"}})
    except ValidationError as error:
        raise ConfigError(f"its job.json is of another version: {what_is_wrong(TrainJob, error)[0]}") from error


def _captioned_samples(job: TrainJob) -> Iterator[EvaluationImage[list[str]]]:
    """The samples in the order of the shards, each with the caption that the student learns from, of several synthetic
    ones the first. Raises ConfigError, ShardError.
    """
    for sample in _samples(job):
        try:
            if TEXT in job.caption_weights:
                captions = [read_caption(sample.members, job.data.caption)]
            else:
                layout.decode_synthetic(sample)
                captions = [sample.synthetic[key][0] for key in matching_keys(job, sample.synthetic)[:1]]
        except SampleSkipped:
            continue
        if captions:
            yield EvaluationImage(partial(getattr, sample, "image"), captions)


def _labelled_samples(job: TrainJob) -> Iterator[EvaluationImage[int]]:
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
