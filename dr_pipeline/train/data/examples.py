"""From a stored sample to what one training step takes of it: one view, two captions, and their rows of embeddings.

What is chosen depends on the seed, the sample's key and the epoch alone.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from dr_pipeline.codecs.codec import to_float32
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base import BaseReader
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample, find_image, read_caption
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.train.data.dataset import Dataset, matching_keys
from dr_pipeline.train.data.stream import Raw
from dr_pipeline.views.render import decode, render
from dr_pipeline.views.seeding import Stream
from dr_pipeline.views.transforms import View

if TYPE_CHECKING:
    from dr_pipeline.codecs.codec import Array


@dataclass(frozen=True)
class Example:
    """One sample in one epoch; None where the job does not need a part."""

    key: str
    image_HWC: np.ndarray
    """uint8, at the student's size."""
    teacher_view_HWC: np.ndarray | None
    """uint8, the same view at the dataset's size."""
    caption: str | None
    synthetic_caption: str | None
    image_emb_D: np.ndarray | None
    text_emb_D: np.ndarray | None
    synthetic_emb_D: np.ndarray | None


class _Draws(NamedTuple):
    """Numbers in [0, 1) that choose the view, the synthetic key and the caption of that key."""

    view: float
    key: float
    caption: float


class _Synthetic(NamedTuple):
    """A sample's synthetic captions, and the one that is chosen: its key, and its place there."""

    captions: dict[str, list[str]]
    key: str
    row: int

    @property
    def text(self) -> str:
        return self.captions[self.key][self.row]


class _Rows(NamedTuple):
    """The chosen rows of the embeddings, float32 [D]."""

    image: np.ndarray | None = None
    text: np.ndarray | None = None
    synthetic: np.ndarray | None = None


class ExampleMaker:
    """Makes one job's examples."""

    def __init__(self, job: TrainJob, dataset: Dataset, image_size: int):
        self._job, self._dataset, self._image_size = job, dataset, image_size
        self._base = BaseReader(dataset.base) if dataset.base else None

    def make(self, raw: Raw, epoch: int) -> Example:
        """Raises SampleSkipped where a needed member is missing or malformed, ShardError where layouts are mixed."""
        sample = raw.sample
        if sample.skip:
            raise sample.skip
        draws = _Draws(*Stream(self._job.seed, "choice", sample.key, epoch).uniforms(3))
        if self._base:
            sample.members = self._base.with_image(sample.key, sample.members)
        fields = sample.members
        caption = synthetic = None
        if self._job.captions.ground_truth_weight:
            caption = read_caption(fields, self._job.data.caption)
        if self._job.captions.synthetic_weight:
            synthetic = self._choose_synthetic(sample, draws)
        rows = _Rows()
        if self._job.data.augmentation:
            image = self._decode(fields)
            stream = Stream(self._job.seed, "fresh", sample.key, epoch)
            view = self._dataset.recipe.draw(image.width, image.height, stream)
        else:
            entries = layout.read_views(sample)
            index = self._choose_view(len(entries), draws, epoch)
            view = layout.decode_view(entries[index], self._dataset.recipe)
            if self._job.reads_embeddings:
                rows = self._rows(raw, (index, len(entries)), synthetic)
            image = self._decode(fields)
        image_HWC, teacher_view_HWC = self._render(image, view)
        return Example(
            key=sample.key,
            image_HWC=image_HWC,
            teacher_view_HWC=teacher_view_HWC,
            caption=caption,
            synthetic_caption=synthetic.text if synthetic else None,
            image_emb_D=rows.image,
            text_emb_D=rows.text,
            synthetic_emb_D=rows.synthetic,
        )

    def _choose_view(self, num_views: int, draws: _Draws, epoch: int) -> int:
        if not num_views:
            raise SampleSkipped("bad paug.json", "param_aug is empty")
        return epoch % num_views if self._job.data.view == "sequential" else int(draws.view * num_views)

    def _choose_synthetic(self, sample: Sample, draws: _Draws) -> _Synthetic:
        layout.decode_synthetic(sample)
        captions = sample.synthetic
        keys = matching_keys(self._job, captions)
        if not keys:
            raise SampleSkipped("no synthetic key", f"none of {', '.join(captions)} matches captions.synthetic_key")
        key = keys[int(draws.key * len(keys))]
        return _Synthetic(captions, key, int(draws.caption * len(captions[key])))

    def _rows(self, raw: Raw, view: tuple[int, int], synthetic: _Synthetic | None) -> _Rows:
        """`view`: the index of the chosen one, and their number."""
        sample = raw.sample
        stored_layout = layout.decode_columns(sample)
        if stored_layout != self._dataset.layout:
            raise ShardError(
                f"{raw.uri}: {sample.key} has layout {stored_layout} in a dataset of layout {self._dataset.layout}: "
                "never mix them; dr-pipeline verify lists the samples"
            )
        image = self._row("image_emb", sample.columns[Column("", IMAGE)], *view)
        text = None
        if self._job.captions.ground_truth_weight:
            text = self._row("text_emb", sample.columns[Column("", TEXT)], 0, 1)
        if synthetic is None:
            return _Rows(image, text)
        num_captions = len(synthetic.captions[synthetic.key])
        emb_TD = sample.columns[Column("", synthetic.key)]
        return _Rows(image, text, self._row(f"{synthetic.key}_emb", emb_TD, synthetic.row, num_captions))

    def _row(self, name: str, emb_ND: "Array", index: int, num_rows: int) -> np.ndarray:
        shape = (num_rows, self._dataset.total_dim)
        if tuple(emb_ND.shape) != shape:
            raise SampleSkipped("misshapen embedding", f"{name} is {list(emb_ND.shape)}, expected {list(shape)}")
        row_D = to_float32(emb_ND[index])
        if not np.isfinite(row_D).all():
            raise SampleSkipped("bad embedding", f"{name} holds NaN or infinity")
        return row_D

    def _decode(self, fields: dict[str, bytes]) -> Image.Image:
        return decode(fields[find_image(fields)], self._job.data.max_image_pixels)

    def _render(self, image: Image.Image, view: View) -> tuple[np.ndarray, np.ndarray | None]:
        """The student's pixels, and where teachers are in memory theirs."""
        for misfit in self._dataset.recipe.misfits(view, image.width, image.height):
            raise SampleSkipped("bad paug.json", misfit)
        try:
            student = self._pixels(image, view, self._image_size)
            if not self._job.distillation.online_teachers:
                return student, None
            if self._dataset.recipe.size == self._image_size:
                return student, student
            return student, self._pixels(image, view, self._dataset.recipe.size)
        except (ValueError, TypeError, ArithmeticError) as error:  # such as a magnitude that no operation takes
            raise SampleSkipped("bad paug.json", f"{view}: {error}") from error

    def _pixels(self, image: Image.Image, view: View, size: int) -> np.ndarray:
        return render(image, [view], self._dataset.recipe, size)[0]
