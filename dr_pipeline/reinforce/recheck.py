"""Make a few samples of a dataset again with its recorded models, and compare them with what is stored."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL.Image import Image

from dr_pipeline.config import Job
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_captioner, load_teacher
from dr_pipeline.networks import device as devices
from dr_pipeline.records import Reinforcement, Sample, ShardReport
from dr_pipeline.reinforce.captions import Captions
from dr_pipeline.reinforce.chunk import stack
from dr_pipeline.reinforce.prepare import Drawn, Prepared
from dr_pipeline.report.books import CONFIG, REPORTS
from dr_pipeline.report.findings import Findings
from dr_pipeline.shards import layout
from dr_pipeline.shards.ledger import read_config, read_report
from dr_pipeline.shards.recorded import recorded_job
from dr_pipeline.shards.sample import find_image, group, has_image
from dr_pipeline.shards.storage import Storage
from dr_pipeline.shards.tar import read_members
from dr_pipeline.student.data.join import BaseReader
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.params import draw
from dr_pipeline.views.render import decode, render, render_center

_ROUNDING = {"bfloat16": 2.0**-8, "float32": 0.0}
_SAME_ARITHMETIC = 5e-3
_OTHER_ARITHMETIC = 0.1
"""Distances of unit vectors. Stored values are rounded by at most one part in 256. Where both sides were computed in
float32 on one kind of device, batches, threads and processors explain no more than 5e-3 (measured: 4e-7 on one CPU);
bfloat16 on either side, no more than 0.1 (measured: 0.07). The nearest other view of an image is 0.14 away.
"""


@dataclass(frozen=True)
class Choice:
    """Which samples to make again: so many of the dataset's, chosen by a seed."""

    num_samples: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Dataset:
    """Where a dataset lies, and the plug-ins of its job, which config.json does not record."""

    root: str
    storage: dict[str, Any]
    plugin_dirs: tuple[str, ...] = (".",)
    base: BaseReader | None = None
    """Where the images are that it lacks."""


def recheck(dataset: Dataset, choice: Choice, findings: Findings) -> None:
    """Make the chosen samples of the shards that are not damaged again; what differs is entered in the findings.

    Raises ConfigError when another program made the dataset, and ModelError when a model is not what is recorded.
    """
    if CONFIG in findings.bad_files:
        findings.remarks.append("nothing was recomputed: config.json is damaged, which says by what")
        return
    storage = Storage(dataset.storage)
    config = read_config(dataset.root, storage) or {}
    job = recorded_job(config).model_copy(update={"plugin_dirs": dataset.plugin_dirs})
    comparison = _Comparison(_Models(job), findings)
    files = _intact_reports(dataset, storage, config["dr_pipeline"]["fingerprint"], findings)
    for report, indices in _chosen(dataset, storage, files, choice):
        for key, fields in _read(f"{dataset.root}/{report.name}", storage, indices):
            comparison.check(report, key, _with_image(dataset.base, key, fields))
    comparison.close()


def _intact_reports(dataset: Dataset, storage: Storage, fingerprint: str, findings: Findings) -> list[str]:
    """The files of the reports, relative to the dataset, of shards with which nothing is wrong."""
    folder, damaged = f"{REPORTS}/{fingerprint}", findings.bad_files
    names = sorted(file.removesuffix(".json") for file in storage.files(f"{dataset.root}/{folder}"))
    return [f"{folder}/{name}.json" for name in names if not {f"{name}.tar", f"{folder}/{name}.json"} & damaged]


def _chosen(
    dataset: Dataset, storage: Storage, files: list[str], choice: Choice
) -> Iterator[tuple[ShardReport, set[int]]]:
    """Shards in random order, and of each the same number of its samples, by their position."""
    rng = random.Random(choice.seed)
    rng.shuffle(files)
    each = -(-choice.num_samples // max(1, len(files)))
    left = choice.num_samples
    for file in files:
        if left <= 0:
            return
        report = read_report(storage.read(f"{dataset.root}/{file}"))
        indices = rng.sample(range(report.num_written), min(each, left, report.num_written))
        left -= len(indices)
        yield report, set(indices)


def _with_image(base: BaseReader | None, key: str, fields: dict[str, bytes]) -> dict[str, bytes]:
    """The members with those of the base, if that holds the sample."""
    try:
        return base.with_image(key, fields) if base else fields
    except SampleSkipped:
        return fields


def _read(uri: str, storage: Storage, indices: set[int]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples at these positions of a shard, by key."""
    last = max(indices, default=-1)
    with storage.open(uri) as stream:
        for index, sample in enumerate(group(read_members(stream))):
            if index in indices:
                yield sample
            if index >= last:
                return


class _Models:
    """The models that a dataset records."""

    def __init__(self, job: Job):
        device = devices.pick_device()
        teachers = [(card.name, load_teacher(card, device, job.plugin_dirs)) for card in job.teachers]
        captioners = [(card, load_captioner(card, device, job.plugin_dirs)) for card in job.captioners]
        self.job = job
        self.device = device
        self.arithmetic = devices.arithmetic(device, job.workers.precision)
        self.ensemble = Ensemble(teachers, device, job.workers.precision)
        self.captions = Captions(captioners, device, job.workers.precision, job.seed)


@dataclass
class _Comparison:
    """Stored samples against what the models make of them now."""

    models: _Models
    findings: Findings
    distances: list[float] = field(default_factory=list)
    num_with_image: int = 0
    num_captions: int = 0
    num_same_captions: int = 0

    def check(self, report: ShardReport, key: str, fields: dict[str, bytes]) -> None:
        """Compare one sample, given as {extension: bytes}."""
        job = self.models.job
        stored, _ = layout.decode(fields)
        self.findings.num_recomputed += 1
        alike = report.arithmetic == self.models.arithmetic
        exactly = alike and "float32" in self.models.arithmetic
        tolerance = _ROUNDING[job.output.precision] + (_SAME_ARITHMETIC if exactly else _OTHER_ARITHMETIC)
        problems = [*self._text_problems(fields["txt"].decode(), stored, tolerance)]
        if has_image(fields):
            self.num_with_image += 1
            sample = Sample(key, find_image(fields), fields[find_image(fields)], "", {}, {})
            image = decode(sample.image, job.errors.max_image_pixels)
            damage = find_damage(sample.image)
            if damage:
                problems.append(f"{sample.image_ext}: its pixels are not all there: {damage}")
            problems += self._view_problems(key, image, stored, tolerance)
            problems += self._caption_problems(Drawn(sample, stored.views), image, stored, exactly)
        for problem in problems:
            self.findings.add(report.name, key, problem)

    def close(self) -> None:
        """Say what was compared, and what could not be."""
        say = self.findings.remarks.append
        say(
            f"{self.findings.num_recomputed} samples recomputed in {self.models.arithmetic}: embeddings at most "
            f"{max(self.distances, default=0):.2g} from the stored ones"
        )
        if self.num_with_image < self.findings.num_recomputed:
            say(
                f"{self.findings.num_recomputed - self.num_with_image} of them are without an image, here and in the "
                "base: views, their embeddings and synthetic captions could not be recomputed"
            )
        if self.num_captions:
            say(f"{self.num_same_captions} of {self.num_captions} synthetic captions came out the same")

    def _text_problems(self, caption: str, stored: Reinforcement, tolerance: float) -> Iterator[str]:
        yield from self._compare("text_emb", stored.text_emb_TD, self._embed_texts([caption]), tolerance)
        for name, captions in stored.synthetic.items():
            made_TD = self._embed_texts(captions)
            yield from self._compare(f"{name}_emb", stored.synthetic_emb_TD[name], made_TD, tolerance)

    def _embed_texts(self, texts: list[str]) -> np.ndarray:
        return self.models.ensemble.embed_texts(texts).numpy()

    def _view_problems(self, key: str, image: Image, stored: Reinforcement, tolerance: float) -> Iterator[str]:
        job, crop = self.models.job, self.models.job.augmentation.random_resized_crop
        if draw(image.width, image.height, job.augmentation, job.seed, key) != stored.views:
            yield "its views are not those that seed and key draw"
        views_NHWC = render(image, stored.views, crop.size, crop.interpolation, crop.resampler)
        made_ND = self.models.ensemble.embed_images(views_NHWC).numpy()
        yield from self._compare("image_emb", stored.image_emb_ND, made_ND, tolerance)

    def _compare(self, name: str, stored_RD: np.ndarray, made_RD: np.ndarray, tolerance: float) -> Iterator[str]:
        ends = np.cumsum(self.models.ensemble.dims)[:-1]
        pairs = zip(np.split(stored_RD, ends, axis=1), np.split(made_RD, ends, axis=1), strict=True)
        for teacher, (stored, made) in zip(self.models.ensemble.names, pairs, strict=True):
            distances_R = np.linalg.norm(stored - made, axis=1)
            self.distances.append(float(distances_R.max()))
            if distances_R.max() > tolerance:
                row = int(distances_R.argmax())
                yield f"{name}: teacher {teacher} now embeds row {row} {distances_R[row]:.2g} from what is stored"

    def _caption_problems(self, drawn: Drawn, image: Image, stored: Reinforcement, must_be_same: bool) -> Iterator[str]:
        """Sampling is seeded, but a token may tip over where arithmetic differs: only counted then."""
        squares = {side: render_center(image, side) for side in self.models.captions.square_sides}
        no_views = np.empty((0, 1, 1, 3), np.uint8)
        chunk = stack([Prepared(drawn, no_views, squares)], self.models.device)
        for name, captions in self.models.captions.caption(chunk)[0].items():
            held: Sequence[str] = stored.synthetic.get(name, ())
            num_same = sum(one == other for one, other in zip(captions, held, strict=False))
            self.num_captions += len(captions)
            self.num_same_captions += num_same
            if must_be_same and captions != held:
                yield f"{name}: {len(captions) - num_same} of {len(captions)} captions are not those made of it now"
