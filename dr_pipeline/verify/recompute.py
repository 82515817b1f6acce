"""Make a few samples of a dataset again with its recorded models, and compare them with what is stored."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base import BaseReader
from dr_pipeline.dataset.config_json import job_of, read_config
from dr_pipeline.dataset.paths import CONFIG, OutputPaths
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.dataset.sample import Sample, has_image
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.storage import Storage
from dr_pipeline.verify.captions import CaptionComparison
from dr_pipeline.verify.embeddings import EmbeddingComparison
from dr_pipeline.verify.findings import Findings
from dr_pipeline.verify.models import RecordedModels
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.recipe import Recipe, draw
from dr_pipeline.views.render import decode, render, render_center
from dr_pipeline.views.resample import other_pillow


@dataclass(frozen=True)
class Choice:
    """Which samples to make again: so many of the dataset's, chosen by a seed."""

    num_samples: int = 64
    seed: int = 0


@dataclass(frozen=True)
class RecordedDataset:
    """Where a dataset lies, and the plug-ins of its job, which config.json does not record."""

    root: str
    storage: dict[str, Any]
    plugin_dirs: tuple[str, ...] = (".",)
    base: BaseReader | None = None
    """Where the images are that it lacks."""


def recompute(dataset: RecordedDataset, choice: Choice, findings: Findings) -> None:
    """Make the chosen samples of the undamaged shards again; what differs is entered in the findings.

    Raises ConfigError when another program made the dataset, and ModelError when a model is not what is recorded.
    """
    if CONFIG in findings.bad_files:
        findings.remarks.append("nothing was recomputed: config.json is damaged, which says by what")
        return
    storage = Storage(dataset.storage)
    config = read_config(dataset.root, storage)
    pillow = other_pillow(config)
    if pillow:
        findings.remarks.append(pillow)
    models = RecordedModels(job_of(config).model_copy(update={"plugin_dirs": dataset.plugin_dirs}))
    comparison = _Comparison(models, findings)
    paths, fingerprint = OutputPaths(dataset.root), config["dr_pipeline"]["fingerprint"]
    reports = Reports(storage, dataset.root, fingerprint)
    intact = [
        name
        for name in sorted(reports.shards())
        if not {name, paths.relative(paths.report(fingerprint, name))} & findings.bad_files
    ]
    for report, indices in _chosen(reports, intact, choice):
        for sample in _read(paths.shard(report.name), storage, indices):
            if dataset.base:
                with suppress(SampleSkipped):  # the base does not hold it
                    dataset.base.add_image(sample)
            comparison.check(report, sample)
    comparison.close()


def _chosen(reports: Reports, shards: list[str], choice: Choice) -> Iterator[tuple[ShardReport, set[int]]]:
    """Shards in random order, and of each the same number of its samples, by their places."""
    rng = random.Random(choice.seed)
    rng.shuffle(shards)
    each = -(-choice.num_samples // max(1, len(shards)))
    left = choice.num_samples
    for name in shards:
        report = reports.find(name) if left > 0 else None
        if report is None:
            return
        indices = rng.sample(range(report.num_written), min(each, left, report.num_written))
        left -= len(indices)
        yield report, set(indices)


def _read(uri: str, storage: Storage, indices: set[int]) -> Iterator[Sample]:
    """The samples at these places of a shard."""
    last = max(indices, default=-1)
    with storage.open(uri) as stream:
        for sample in read_samples(stream):
            if sample.index in indices:
                yield sample
            if sample.index >= last:
                return


class _Comparison:
    """Stored samples against what the models make of them now."""

    def __init__(self, models: RecordedModels, findings: Findings):
        self._job = models.job
        self._arithmetic = models.arithmetic
        self._findings = findings
        self._recipe = Recipe(models.job.augmentation)
        self._embeddings = EmbeddingComparison(models, findings)
        self._captions = CaptionComparison(models, findings)
        self._num_without_image = 0

    def check(self, report: ShardReport, sample: Sample) -> None:
        """Compare one sample."""
        layout.decode(sample, self._recipe, self._embeddings.dims)
        sample.caption = sample.members["txt"].decode()
        self._findings.num_recomputed += 1
        is_exact = report.arithmetic == self._arithmetic and "float32" in self._arithmetic
        self._embeddings.check_texts(report.name, sample, is_exact)
        if not has_image(sample.members):
            self._num_without_image += 1
            return
        image = decode(sample.image, self._job.errors.max_image_pixels)
        damage = find_damage(sample.image)
        if damage:
            self._findings.add(report.name, sample.key, f"{sample.image_ext}: its pixels are not all there: {damage}")
        if draw(image.width, image.height, self._job.augmentation, self._job.seed, sample.key) != sample.views:
            self._findings.add(report.name, sample.key, "its views are not those that seed and key draw")
        sample.squares = {side: render_center(image, side) for side in self._captions.square_sides}
        self._embeddings.check_views(report.name, sample, render(image, sample.views, self._recipe), is_exact)
        self._captions.check(report.name, sample, is_exact)

    def close(self) -> None:
        """Judge what was compared, and say what could not be."""
        self._embeddings.judge()
        self._captions.judge()
        say = self._findings.remarks.append
        say(
            f"{self._findings.num_recomputed} samples recomputed in {self._arithmetic}: embeddings at most "
            f"{self._embeddings.largest_distance:.2g} from the stored ones"
        )
        if self._num_without_image:
            say(
                f"{self._num_without_image} of them are without an image, here and in the base: views, their "
                "embeddings and synthetic captions could not be recomputed"
            )
        self._captions.remark()
        self._embeddings.remark()
