"""Make a few samples of a dataset again with the models that its config.json records, and compare."""

import math
import random
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

import numpy as np
import torch

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout, manifest
from dr_pipeline.dataset.base_index import BaseReader
from dr_pipeline.dataset.config_json import job_of, read_config
from dr_pipeline.dataset.paths import CONFIG, OutputPaths
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.dataset.sample import IMAGE, PROBS_INDICES, PROBS_VALUES, Sample, has_image
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.models.by_request import writes_by_request
from dr_pipeline.models.precision import load_captioners, load_ensemble, load_ready_scorer
from dr_pipeline.models.protocol import is_reproducible
from dr_pipeline.networks.device import Precision, arithmetic, pick_device
from dr_pipeline.networks.float8 import check_float8
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.reinforce.scores import ScoreStage
from dr_pipeline.storage import Storage
from dr_pipeline.verification.captions import CaptionComparison
from dr_pipeline.verification.embeddings import EmbeddingComparison
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.scores import ScoreComparison
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import WINDOW, Recipe, draw, mixed_with_earlier
from dr_pipeline.views.render import decode, other_pillow, render, render_center, size_of
from dr_pipeline.words import plural


def recompute(
    uri: str,
    storage: Storage,
    findings: Findings,
    num_samples: int = 64,
    seed: int = 0,
    plugin_dirs: tuple[str, ...] = (".",),
    base: BaseReader | None = None,
) -> None:
    """Make samples of the undamaged shards again, chosen by a seed; what differs is added to the findings.

    `plugin_dirs` are those of the job, which config.json does not record; `base` has the images that the dataset lacks.
    Raises ConfigError when another program made the dataset, and ModelError when a model is not what is recorded.
    """
    if CONFIG in findings.bad_files:
        findings.remarks.append("nothing was recomputed: config.json is damaged, which says by what")
        return
    paths = OutputPaths(storage.absolute(uri))
    config = read_config(paths.root, storage)
    pillow = other_pillow(config)
    if pillow:
        findings.remarks.append(pillow)
    comparison = SampleComparison(job_of(config).model_copy(update={"plugin_dirs": plugin_dirs}), findings)
    fingerprint = config["dr_pipeline"]["fingerprint"]
    reports = Reports(storage, paths.root, fingerprint)
    intact = [
        name
        for name in sorted(reports.shards())
        if not {name, *map(paths.relative, (paths.report(fingerprint, name), paths.samples(name)))} & findings.bad_files
    ]
    for report, indices in _choose(intact, reports, num_samples, random.Random(seed)):
        scores = manifest.read_scores(storage, paths.root, report.name)
        with storage.open(paths.shard(report.name)) as stream:
            comparison.check_shard(report, read_samples(stream), indices, scores, base)
    comparison.close()


def _choose(
    names: list[str], reports: Reports, num_samples: int, rng: random.Random
) -> Iterator[tuple[ShardReport, list[int]]]:
    """The reports of some of these shards, each with the indices of as many of its samples as of any other's."""
    rng.shuffle(names)
    num_each, num_left = -(-num_samples // max(1, len(names))), num_samples
    for name in names:
        report = reports.find(name) if num_left > 0 else None
        if report is None:
            break
        indices = rng.sample(range(report.num_written), min(num_each, num_left, report.num_written))
        num_left -= len(indices)
        yield report, indices


class SampleComparison:
    """Stored samples against what a job's models make of them now."""

    def __init__(self, job: Job, findings: Findings):
        """Load the models. Raises ModelError when one is not what the job says."""
        self._job, self._findings = job, findings
        self._recipe = Recipe(job.augmentation)
        device = pick_device()
        precision = self._precision(device)
        self._arithmetic = arithmetic(device, precision)
        self._ensemble, _ = load_ensemble(job.teachers, device, precision, job.plugin_dirs)
        if job.output.top_k:
            self._ensemble.keep_largest(job.output.top_k)
        elsewhere = [card for card in job.writers if writes_by_request(card, job.plugin_dirs)]
        on_device = [card for card in job.writers if card not in elsewhere]
        captioners = load_captioners(on_device, device, precision, job.plugin_dirs)
        scorers = [load_ready_scorer(card, device, precision, job.plugin_dirs) for card in job.scorers]
        self._changing = [*self._ensemble.not_reproducible]
        captioners = [one for one in captioners if self._gives_the_same(one.card, one.captioner)]
        scorers = [one for one in scorers if self._gives_the_same(one.card, one.scorer)]
        self._not_ours = [card.caption_key for card in elsewhere]
        paired = [name for name in self._ensemble.image_teachers if name in self._ensemble.text_teachers]
        self._dims = {name: self._ensemble.dims[name] for name in paired}
        self._captioners = CaptionStage(
            captioners, device, precision, job.seed, job.workers.batches(device.type).captions
        )
        errors = {card.name: card.float8_error.worst for card in job.teachers if card.float8_error}
        distances = {name: math.sqrt(2 * worst) for name, worst in errors.items()}  # of unit vectors
        self._embeddings = EmbeddingComparison(codec_for(job.output.precision), findings, distances)
        self._captions = CaptionComparison(self._captioners, findings)
        self._scores = ScoreComparison(ScoreStage(scorers, device, precision, 1), findings)
        self._num_without_image = 0

    def _gives_the_same(self, card: Card, model: object) -> bool:
        """Whether a model gives the same again; where not, its card is noted."""
        if is_reproducible(model):
            return True
        self._changing.append(card.name)
        return False

    def _precision(self, device: torch.device) -> Precision:
        """The job's precision, bfloat16 in place of float8 where the device lacks that."""
        precision = self._job.workers.precision
        if precision == "float8":
            try:
                check_float8(device)
            except ConfigError as error:
                self._findings.remarks.append(f"recomputed in bfloat16: {error}")
                return "bfloat16"
        return precision

    def check_shard(
        self,
        report: ShardReport,
        samples: Iterable[Sample],
        indices: Collection[int],
        scores: Mapping[str, Mapping[str, float]],
        base: BaseReader | None,
    ) -> None:
        """Make the samples at these indices of a shard again. `scores`: by key, those of the manifest."""
        earlier: deque[Sample] = deque(maxlen=WINDOW)
        for sample in islice(samples, max(indices, default=-1) + 1):
            if base and (sample.index in indices or self._recipe.mixings):
                with suppress(SampleSkipped):  # the base does not hold it
                    base.add_image(sample)
            if not self._job.has_texts:
                layout.drop_texts(sample)
            if sample.index in indices:
                self.check(report, sample, scores.get(sample.key, {}), earlier)
            if self._recipe.mixings:
                earlier.append(sample)

    def check(
        self, report: ShardReport, sample: Sample, scores: Mapping[str, float], earlier: Sequence[Sample] = ()
    ) -> None:
        """Make one sample again, and compare its views; all else is compared when all is there.

        `scores`: those of the manifest. `earlier`: where views are mixed, the samples before it in its shard, the last
        of them that make a window.
        """
        layout.decode(sample, self._recipe, self._dims)
        sample.caption = sample.members.get("txt", b"").decode()
        self._findings.num_recomputed += 1
        is_exact = report.arithmetic == self._arithmetic and "float32" in self._arithmetic
        for of, texts in sample.texts.items():
            self._check_columns(report, sample, of, self._ensemble.embed_texts(texts), is_exact)
        self._scores.check_similarities(report.name, sample, scores)
        if all(has_image(one.members) for one in (sample, *earlier)):
            self._check_image(report, sample, scores, earlier, is_exact)
        else:
            self._num_without_image += 1

    def _check_image(
        self,
        report: ShardReport,
        sample: Sample,
        scores: Mapping[str, float],
        earlier: Sequence[Sample],
        is_exact: bool,
    ) -> None:
        """Compare what is made of a sample's image: its views, their embeddings, captions and scores."""
        job = self._job
        image = decode(sample.image, job.errors.max_image_pixels)
        if damage := find_damage(sample.image):
            problem = f"{sample.find_image()}: its pixels are not all there: {damage}"
            self._findings.add(report.name, problem, sample.key)
        num_views = job.augmentation.num_views
        views = draw(image.width, image.height, self._recipe, num_views, job.seed, sample.key)
        sizes = [size_of(one.image) for one in earlier]
        if mixed_with_earlier(views, self._recipe, job.seed, sample.key, sample.index, sizes) != sample.views:
            self._findings.add(report.name, "its views are not those that seed and key draw", sample.key)
        sample.squares = {side: render_center(image, side) for side in self._captioners.square_sides}
        ids = {pair.id2 for view in sample.views if (pair := pair_of(view))}
        pairs = {one.index: decode(one.image, job.errors.max_image_pixels) for one in earlier if one.index in ids}
        embedded = self._ensemble.embed_images(render(image, sample.views, self._recipe, pairs=pairs))
        if self._ensemble.num_classes:
            probabilities = embedded.pop(PROBS_VALUES), embedded.pop(PROBS_INDICES)
            averaged = {card.name for card in job.teachers if card.output == "probabilities"}
            if averaged.isdisjoint(self._changing):
                num_classes = self._ensemble.num_classes
                self._embeddings.check_probabilities(report.name, sample, probabilities, num_classes, is_exact)
        self._check_columns(report, sample, IMAGE, embedded, is_exact)
        self._captions.check(report.name, sample, is_exact)
        self._scores.check(report.name, sample, image, scores, is_exact)

    def _check_columns(
        self, report: ShardReport, sample: Sample, of: str, columns: dict[str, np.ndarray], is_exact: bool
    ) -> None:
        """Compare what the teachers give of views or captions, of those that give the same again."""
        columns = {teacher: column_RD for teacher, column_RD in columns.items() if teacher not in self._changing}
        self._embeddings.check(report.name, sample, of, columns, is_exact)

    def close(self) -> None:
        """Compare what was collected, and remark what could not be recomputed."""
        remarks = self._findings.remarks
        remarks.append(
            f"{plural(self._findings.num_recomputed, 'sample')} recomputed in {self._arithmetic}: embeddings at most "
            f"{self._embeddings.largest_distance:.2g} from the stored ones"
        )
        self._embeddings.close()
        self._captions.close()
        self._scores.close()
        if self._not_ours:
            remarks.append(
                f"the captions of {', '.join(self._not_ours)} were written by request, as by an endpoint, which would "
                "write others: they were not compared"
            )
        if self._changing:
            remarks.append(
                f"what {', '.join(self._changing)} gave was not compared: it would differ, as the class says by "
                "reproducible = False"
            )
        if self._num_without_image:
            remarks.append(
                f"{self._num_without_image} of them are without an image, here and in the base: views, their "
                "embeddings and synthetic captions could not be recomputed"
            )
