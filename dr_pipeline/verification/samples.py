"""One sample of a dataset against the contract: its members, image, views and columns.

Shapes: R rows of a column, D dims.
"""

import io
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from dr_pipeline.codecs import find_codec
from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.base_index import NOT_IN_BASE, BaseReader
from dr_pipeline.dataset.layout import array_name, decode, drop_texts
from dr_pipeline.dataset.probabilities import find_fault
from dr_pipeline.dataset.sample import (
    IMAGE,
    PROBS_INDICES,
    PROBS_VALUES,
    TEXT,
    Column,
    Sample,
    has_image,
    read_caption,
    read_class,
)
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.verification.findings import Findings
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import WINDOW, Recipe
from dr_pipeline.words import plural


class SampleChecker:
    """Checks samples against what config.json describes; what it does not say, the first sample decides.

    Columns are checked as they are stored: those of the teachers of images and texts side by side, under the name "",
    and those of each teacher of images or of texts alone.
    """

    def __init__(self, job: Job | None, recipe: Recipe, base: BaseReader | None):
        """`job` is the one that config.json describes; `base` has the images that the dataset lacks."""
        self._recipe, self._base = recipe, base
        self._layout: str | None = job.output.layout if job else None
        self._num_views = job.augmentation.num_views if job else None
        self._omits_images = job is not None and job.output.images == "omit"
        self._has_texts = job.has_texts if job else None
        self._num_classes: int | None = None
        self._teachers: dict[str, list[TeacherCard]] = defaultdict(list)
        self._dims: dict[tuple[str, bool], int | None] = {}
        """Whose column, and whether it is of images → D; None where config.json does not say."""
        top_k = job.output.top_k if job else None
        for card in job.teachers if job else ():
            if top_k and card.output == "probabilities" and card.encodes == ("images",):
                self._num_classes = card.dim
                self._dims |= {(PROBS_VALUES, True): top_k, (PROBS_INDICES, True): top_k}
            else:
                self._teachers["" if card.encodes is None or len(card.encodes) == 2 else card.name].append(card)
        for name, cards in self._teachers.items():
            dims = [card.dim for card in cards if card.dim]
            for is_of_images in [True, False] if not name else [cards[0].encodes == ("images",)]:
                self._dims[name, is_of_images] = sum(dims) if len(dims) == len(cards) else None
        self._sizes: dict[int, tuple[int, int]] = {}
        """Width and height of the images of a shard's last samples."""
        self._num_without_image = self.num_not_in_base = 0

    def problems(self, sample: Sample) -> Iterator[str]:
        """What is wrong with a sample, as sentences. Raises ConfigError where the base cannot be read."""
        if sample.skip:
            yield str(sample.skip)
        is_in_base = True
        texts = {"txt", "syn.json"} & sample.members.keys()
        self._has_texts = bool(texts) if self._has_texts is None else self._has_texts
        if texts and not self._has_texts:
            yield f"{' and '.join(sorted(texts))} in a dataset without texts"
        if self._base:
            try:
                self._base.add_image(sample)
            except ShardError as error:
                raise ConfigError(f"--base: {error}") from error
            except SampleSkipped as skip:
                is_in_base = skip.reason != NOT_IN_BASE
                if is_in_base:
                    yield str(skip)
        elif not has_image(sample.members):
            self._num_without_image += 1
        if not self._has_texts:
            drop_texts(sample)
        if is_in_base:
            yield from self._missing_parts(sample)
        else:
            self.num_not_in_base += 1
        try:
            layout = decode(sample, self._recipe)
        except SampleSkipped as skip:
            yield str(skip)
            return
        self._layout = self._layout or layout
        if layout != self._layout:
            yield f"layout {layout} in a dataset of layout {self._layout}"
        if has_image(sample.members):
            yield from self._misfitting_views(sample)
        yield from self._wrong_shapes(sample)
        yield from self._wrong_values(sample)

    def close(self, findings: Findings) -> None:
        """Remark what could not be checked."""
        if self.num_not_in_base:
            findings.remarks.append(
                f"no image to check, for the base lacks it, of {plural(self.num_not_in_base, 'sample')}"
            )
        if self._num_without_image and self._num_without_image == findings.num_samples:
            findings.remarks.append(
                "none of its samples holds its image, so no view was checked: --base names the dataset that does"
            )

    def _missing_parts(self, sample: Sample) -> Iterator[str]:
        """An image or a caption that is missing, and a class that is none."""
        if not self._has_texts:
            try:
                label = read_class(sample.members)
            except SampleSkipped as skip:
                yield str(skip)
            else:
                if label is not None and self._num_classes is not None and label >= self._num_classes:
                    yield f"cls is {label}, and the classifiers know {plural(self._num_classes, 'class')}"
        elif "txt" not in sample.members:
            yield "no txt: a consumer drops the sample"
        else:
            try:
                read_caption(sample.members, "txt")
            except SampleSkipped as skip:
                yield f"txt: {skip}"
        if not (self._omits_images or has_image(sample.members)):
            yield "no image: a consumer drops the sample"

    def _misfitting_views(self, sample: Sample) -> Iterator[str]:
        """Views that show what their image does not have, or are mixed with what is not before it in the shard."""
        try:
            width, height = Image.open(io.BytesIO(sample.image)).size
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            yield f"{sample.find_image()}: {error}"
            return
        if sample.index == 0:
            self._sizes.clear()
        for index, view in enumerate(sample.views):
            yield from (f"view {index}: {misfit}" for misfit in self._recipe.misfits(view, width, height))
            if not (pair := pair_of(view)):
                continue
            if not sample.index - WINDOW <= pair.id2 < sample.index:
                window = f"none of the {WINDOW} samples before number {sample.index}"
                yield f"view {index}: id2 is {pair.id2}, which is {window}"
            elif pair.id2 in self._sizes:
                misfits = self._recipe.misfits(pair.view, *self._sizes[pair.id2])
                yield from (f"view {index}: id2 {pair.id2}: {misfit}" for misfit in misfits)
        self._sizes[sample.index] = width, height
        self._sizes.pop(sample.index - WINDOW, None)

    def _wrong_shapes(self, sample: Sample) -> Iterator[str]:
        """Columns that are missing, or that no teacher of the dataset makes; wrong numbers of rows and dims."""
        self._num_views = self._num_views or len(sample.views)
        if not self._dims:
            self._dims = {(teacher, of == IMAGE): array.shape[1] for (teacher, of), array in sample.columns.items()}
            if ("", True) in self._dims:
                self._dims["", False] = self._dims["", True]
        expected_dims = {
            Column(teacher, of): dim
            for (teacher, is_of_images), dim in self._dims.items()
            for of in ((IMAGE,) if is_of_images else (TEXT, *sample.synthetic))
        }
        for column in sorted(expected_dims.keys() - sample.columns.keys()):
            yield f"missing embedding: {_name(column)}"
        for column, array in sample.columns.items():
            num_rows, dim = array.shape
            if column not in expected_dims:
                yield f"{_name(column)} is of no teacher of the dataset"
                continue
            if column.of != IMAGE and num_rows != (num_texts := len(sample.synthetic.get(column.of, [""]))):
                yield f"{_name(column)} has {plural(num_rows, 'row')} for {plural(num_texts, 'caption')}"
            if column.of == IMAGE and not num_rows == len(sample.views) == self._num_views:
                shape = f"{plural(num_rows, 'row')} for {plural(len(sample.views), 'view')}"
                yield f"{_name(column)} has {shape}; the dataset has {self._num_views}"
            if dim != (expected_dims[column] or dim):
                yield f"{_name(column)} has {plural(dim, 'dim')}; the dataset has {expected_dims[column]}"

    def _wrong_values(self, sample: Sample) -> Iterator[str]:
        """NaN, infinity, and norms of embeddings that are not 1."""
        codec = find_codec(sample.members)
        assert codec is not None, "what was decoded has one"
        for column, emb_RD in sample.columns.items():
            if column.teacher == PROBS_INDICES:
                continue
            if column.teacher == PROBS_VALUES:
                indices_RD = sample.columns[Column(PROBS_INDICES, column.of)]
                if fault := find_fault(emb_RD, indices_RD, self._num_classes, codec.norm_tolerance):
                    yield f"{_name(column)}: {fault}"
                continue
            if not np.isfinite(emb_RD).all():
                yield f"{_name(column)} holds NaN or infinity"
                continue
            teachers = self._teachers.get(column.teacher, [])
            dims = [card.dim or 0 for card in teachers]
            if not column.teacher and sum(dims) != emb_RD.shape[1]:
                # K unknown teachers make a squared norm of K.
                squared_R = (emb_RD.astype(np.float64) ** 2).sum(axis=1)
                off = np.abs(squared_R - np.maximum(squared_R.round(), 1)).max(initial=0)
                if off > 2 * codec.norm_tolerance * squared_R.max(initial=1):
                    yield f"{_name(column)}: a squared norm is {off:.3g} off a whole number of teachers"
                continue
            for card, rows_RD in zip(teachers, np.split(emb_RD, np.cumsum(dims)[:-1], axis=1), strict=False):
                off = np.abs(np.linalg.norm(rows_RD, axis=1) - 1).max(initial=0)
                if card.output in (None, "embedding") and off > codec.norm_tolerance:
                    yield f"{_name(column)}: teacher {card.name} has a norm that is {off:.3g} off 1"


def _name(column: Column) -> str:
    return array_name(column.of, column.teacher)
