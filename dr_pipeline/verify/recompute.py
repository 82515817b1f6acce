"""Make a few samples of a dataset again with the models that made it, and compare them with what is stored."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from dr_pipeline.codecs import codec_for
from dr_pipeline.codecs.codec import as_stored
from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base import BaseReader
from dr_pipeline.dataset.config_json import job_of, read_config
from dr_pipeline.dataset.paths import CONFIG, OutputPaths
from dr_pipeline.dataset.reports import Reports, ShardReport
from dr_pipeline.dataset.sample import Reinforcement, Sample, find_image, group, has_image
from dr_pipeline.dataset.tar import read_members
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.models.distance import allowed_caption_distance, caption_distance, spread, unit_rows
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_captioner, load_teacher
from dr_pipeline.networks import device as devices
from dr_pipeline.reinforce.captions import Captions
from dr_pipeline.reinforce.chunk import stack
from dr_pipeline.reinforce.prepare import Drawn, Prepared
from dr_pipeline.storage import Storage
from dr_pipeline.verify.findings import Findings
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.recipe import Recipe, draw
from dr_pipeline.views.render import decode, render, render_center
from dr_pipeline.views.resample import other_pillow

_SAME_ARITHMETIC, _OTHER_ARITHMETIC = 5e-3, 0.1
_OTHER_ROUNDING = 0.01
"""How far embeddings made again may be from the stored ones, as distances of unit vectors: a part of the distance that
this teacher has between different inputs, and a constant. Where both sides were computed in float32 on one kind of
device, batches, threads and processors explain no more than the first (measured on one CPU: 4e-7, of a distance of 1);
what is stored is compared with what is rounded alike, and last bits may tip over, which is the codec's constant.
bfloat16 arithmetic on either side takes the others (measured: 0.07, of a distance of 1). A model with random weights
may have all its images within 0.0005: by a constant alone all of them were the same, or honest rounding were a fault.
"""
_OTHER_BATCHES = (3, 8)
_MOST_KEPT = 512


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
    config = read_config(dataset.root, storage)
    pillow = other_pillow(config)
    if pillow:
        findings.remarks.append(pillow)
    job = job_of(config).model_copy(update={"plugin_dirs": dataset.plugin_dirs})
    comparison = _Comparison(_Models(job), findings)
    paths, fingerprint = OutputPaths(dataset.root), config["dr_pipeline"]["fingerprint"]
    reports = Reports(storage, dataset.root, fingerprint)
    intact = [
        name
        for name in sorted(reports.shards())
        if not {name, paths.relative(paths.report(fingerprint, name))} & findings.bad_files
    ]
    for report, indices in _chosen(reports, intact, choice):
        for key, fields in _read(paths.shard(report.name), storage, indices):
            comparison.check(report, key, _with_image(dataset.base, key, fields))
    comparison.close()


def _chosen(reports: Reports, shards: list[str], choice: Choice) -> Iterator[tuple[ShardReport, set[int]]]:
    """Shards in random order, and of each the same number of its samples, by their position."""
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
        self.codec = codec_for(job.output.precision)
        self.device = device
        self.arithmetic = devices.arithmetic(device, job.workers.precision)
        self.ensemble = Ensemble(teachers, device, job.workers.precision)
        self.captions = Captions(captioners, device, job.workers.precision, job.seed)


class _Distance(NamedTuple):
    """One teacher's part of one array of a sample: the row that is the farthest from what it is now."""

    array: str
    teacher: str
    inputs: str
    row: int
    distance: float
    is_exact: bool
    """Whether both sides were computed in the same float32 arithmetic."""


class _Written(NamedTuple):
    """A sample's captions, stored and made again, by key."""

    file: str
    prepared: Prepared
    held: dict[str, list[str]]
    made: dict[str, list[str]]
    is_exact: bool


@dataclass
class _Comparison:
    """Stored samples against what the models make of them now. What rounding explains is known only at the end."""

    models: _Models
    findings: Findings
    found: list[tuple[str, str, str | _Distance]] = field(default_factory=list)
    """(file, key, what)."""
    made: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    """(teacher, inputs) → embeddings."""
    written: list[_Written] = field(default_factory=list)
    apart: dict[tuple[str, str], float] = field(default_factory=dict)
    """(teacher, inputs) → how far it has different inputs apart."""
    num_with_image: int = 0
    num_captions: int = 0
    num_same_captions: int = 0

    def check(self, report: ShardReport, key: str, fields: dict[str, bytes]) -> None:
        """Compare one sample, given as {extension: bytes}."""
        job = self.models.job
        stored, _ = layout.decode(fields, Recipe(job.augmentation))
        self.findings.num_recomputed += 1
        is_exact = report.arithmetic == self.models.arithmetic and "float32" in self.models.arithmetic
        found: list[str | _Distance] = [*self._text_distances(fields["txt"].decode(), stored, is_exact)]
        if has_image(fields):
            self.num_with_image += 1
            sample = Sample(key, find_image(fields), fields[find_image(fields)], "", {}, {})
            image = decode(sample.image, job.errors.max_image_pixels)
            damage = find_damage(sample.image)
            if damage:
                found.append(f"{sample.image_ext}: its pixels are not all there: {damage}")
            found += self._view_distances(key, image, stored, is_exact)
            self._caption(report.name, Drawn(sample, stored.views), image, stored, is_exact)
        self.found += [(report.name, key, what) for what in found]

    def close(self) -> None:
        """Judge what was compared, and say what could not be."""
        for which, rows in self.made.items():
            equal_ones_once_RD = np.unique(np.concatenate(rows), axis=0)
            self.apart[which] = spread(unit_rows(torch.from_numpy(equal_ones_once_RD)))
        for file, key, what in self.found:
            if isinstance(what, str):
                self.findings.add(file, key, what)
            elif what.distance > self._tolerance(what):
                said = f"{what.array}: teacher {what.teacher} now embeds row {what.row} {what.distance:.2g}"
                self.findings.add(file, key, f"{said} from what is stored")
        self._judge_captions()
        self._remark()

    def _remark(self) -> None:
        say = self.findings.remarks.append
        distances = {what: what.distance for _, _, what in self.found if isinstance(what, _Distance)}
        say(
            f"{self.findings.num_recomputed} samples recomputed in {self.models.arithmetic}: embeddings at most "
            f"{max(distances.values(), default=0):.2g} from the stored ones"
        )
        if self.num_with_image < self.findings.num_recomputed:
            say(
                f"{self.findings.num_recomputed - self.num_with_image} of them are without an image, here and in the "
                "base: views, their embeddings and synthetic captions could not be recomputed"
            )
        if self.num_captions:
            say(f"{self.num_same_captions} of {self.num_captions} synthetic captions came out the same")
        for teacher, inputs, tolerance in dict.fromkeys((d.teacher, d.inputs, self._tolerance(d)) for d in distances):
            apart = self.apart[teacher, inputs]
            if apart <= tolerance:
                say(
                    f"teacher {teacher} puts different {inputs} {apart:.2g} apart, which is within rounding here "
                    f"({tolerance:.2g}): whether they are in the right order cannot be told"
                )

    def _tolerance(self, distance: _Distance) -> float:
        apart = self.apart[distance.teacher, distance.inputs]
        if distance.is_exact:
            return _SAME_ARITHMETIC * apart + self.models.codec.rounding
        return _OTHER_ARITHMETIC * apart + _OTHER_ROUNDING

    def _text_distances(self, caption: str, stored: Reinforcement, is_exact: bool) -> Iterator[_Distance]:
        arrays = {"text_emb": ([caption], stored.text_emb_TD)}
        arrays |= {f"{key}_emb": (texts, stored.synthetic_emb_TD[key]) for key, texts in stored.synthetic.items()}
        for name, (texts, stored_TD) in arrays.items():
            made = self.models.ensemble.embed_texts(texts)
            yield from self._distances(name, "texts", stored_TD, made, is_exact)

    def _view_distances(
        self, key: str, image: Image, stored: Reinforcement, is_exact: bool
    ) -> Iterator[str | _Distance]:
        job = self.models.job
        if draw(image.width, image.height, job.augmentation, job.seed, key) != stored.views:
            yield "its views are not those that seed and key draw"
        views_NHWC = render(image, stored.views, Recipe(job.augmentation))
        made = self.models.ensemble.embed_images(views_NHWC)
        yield from self._distances("image_emb", "images", stored.image_emb_ND, made, is_exact)

    def _distances(
        self, array: str, inputs: str, stored_RD: np.ndarray, made_by_teacher: dict[str, np.ndarray], is_exact: bool
    ) -> Iterator[_Distance]:
        ends = np.cumsum([*self.models.ensemble.dims.values()])[:-1]
        for (teacher, emb_RD), stored in zip(made_by_teacher.items(), np.split(stored_RD, ends, axis=1), strict=True):
            made = as_stored(self.models.codec, emb_RD)
            distances_R = np.linalg.norm(stored - made, axis=1)
            row = int(distances_R.argmax())
            if sum(map(len, self.made[teacher, inputs])) < _MOST_KEPT:
                self.made[teacher, inputs].append(made)
            yield _Distance(array, teacher, inputs, row, float(distances_R[row]), is_exact)

    def _caption(self, file: str, drawn: Drawn, image: Image, stored: Reinforcement, is_exact: bool) -> None:
        squares = {side: render_center(image, side) for side in self.models.captions.square_sides}
        prepared = Prepared(drawn, np.empty((0, 1, 1, 3), np.uint8), squares)
        made = self._captioned([prepared])[0]
        held = {key: list(stored.synthetic.get(key, ())) for key in made}
        written = _Written(file, prepared, held, made, is_exact)
        for key in made:
            self.num_captions += len(made[key])
            self.num_same_captions += sum(before == now for before, now in _paired(written, key))
        if made and (made != held or len(self.written) < _MOST_KEPT):
            self.written.append(written)

    def _captioned(self, prepared: Sequence[Prepared]) -> list[dict[str, list[str]]]:
        return self.models.captions.caption(stack(list(prepared), self.models.device))

    def _judge_captions(self) -> None:
        """Sampling is seeded, but a token may tip over by rounding: what rounding does is seen in other batches.

        Captions of another arithmetic are only counted.
        """
        exact = [one for one in self.written if one.is_exact]
        if all(one.made == one.held for one in exact):
            return
        again: list[list[dict[str, list[str]]]] = []
        for size in _OTHER_BATCHES:
            batches = [exact[start : start + size] for start in range(0, len(exact), size)]
            again.append([made for batch in batches for made in self._captioned([one.prepared for one in batch])])
        for key in exact[0].made:
            made = [one.made[key] for one in exact]
            held = [[*one.held[key], *one.made[key]][: len(one.made[key])] for one in exact]
            others = [[*texts[1:], ""] for texts in made]
            allowed = allowed_caption_distance(made, [[sample[key] for sample in batch] for batch in again], others)
            explained = caption_distance(held, made) <= allowed
            for one in exact:
                num_other = sum(before != now for before, now in _paired(one, key))
                if len(one.held[key]) != len(one.made[key]) or (num_other and not explained):
                    problem = f"{key}: {num_other} of {len(one.made[key])} captions are not those made of it now"
                    self.findings.add(one.file, one.prepared.drawn.sample.key, problem)


def _paired(written: _Written, key: str) -> Iterator[tuple[str, str]]:
    """Each caption as it is stored, empty where it is not, and as it is made."""
    yield from zip_longest(written.held[key][: len(written.made[key])], written.made[key], fillvalue="")
