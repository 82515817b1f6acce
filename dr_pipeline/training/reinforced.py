"""A reinforced dataset for any training code: an iterable dataset of PyTorch."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from dr_pipeline.config.jobfile import validate
from dr_pipeline.config.objective import Affinity, CaptionWeights, Distillation
from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.config_json import read_config
from dr_pipeline.dataset.sample import IMAGE, TEXT, Sample
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from dr_pipeline.training.data.reader import LoaderId, Position
from dr_pipeline.training.data.rendering import HostViews
from dr_pipeline.training.data.samples import SelectedSamples
from dr_pipeline.training.data.selection import Prepare
from dr_pipeline.training.data.training_set import open_training_set, stored_teachers
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.transforms import Box

Transform = Callable[[Image.Image, Box], Any]
"""An image and the crop that the teachers saw, (top, left, height, width) in its pixels → what the student sees."""


class ReinforcedDataset(IterableDataset):
    """Samples with one stored view, one caption of each kind, and the teachers' embeddings of just these.

    A sample is a dictionary:

        key                  str
        image                uint8 [image_size, image_size, 3], the replayed view; or what the transform gives
        text                 str, the ground-truth caption
        synthetic_text       str, one synthetic caption
        image_emb            {teacher: float32 [dim]}, of this very view, norm 1
        text_emb             {teacher: float32 [dim]}, of the ground-truth caption
        synthetic_emb        {teacher: float32 [dim]}, of the synthetic caption

    A teacher of images alone, or of texts alone, is in the dictionaries of what it embeds.

    PyTorch's default collation stacks it, and a webdataset pipeline takes the dataset as its source. One iteration is
    one epoch: each sample once, over all ranks and loading processes. What is chosen depends on seed, key and epoch
    alone; a call of `set_epoch` chooses anew. Iterating raises ShardError and StorageError, which name the shard.
    """

    def __init__(self, job: TrainJob, image_size: int | None, transform: Transform | None):
        """Only the data and the captions of the job matter. Use `open_dataset`."""
        self._job = _with_all_teachers(job)
        self._training_set = open_training_set(self._job)
        recipe = self._training_set.recipe
        self.image_size = image_size or recipe.size
        self._prepare: Prepare = HostViews(recipe, self.image_size, for_teachers=False).prepare
        if transform:
            self._prepare = partial(_transform, transform, recipe)
        self.logit_scales = {teacher.name: teacher.logit_scale for teacher in self._training_set.teachers}
        """1 / τ of each teacher, in the stored order."""
        self.dims = {teacher.name: teacher.dim for teacher in self._training_set.teachers}
        """The length of each teacher's embeddings."""
        self.num_samples = self._training_set.num_samples
        """Of the whole dataset; None where its config.json does not say, or the path takes a part of it."""
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose views and captions, and shuffle, as for this epoch: to be called before each iteration."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # by torchrun
        loader = LoaderId(rank * count + index, world_size * count)
        samples = SelectedSamples(self._job, self._training_set, self._prepare, loader)
        return (_as_dictionary(sample) for sample, _ in samples.epoch(Position(self._epoch)))


def open_dataset(
    path: str | Sequence[str],
    *,
    image_size: int | None = None,
    transform: Transform | None = None,
    synthetic_key: str = CaptionWeights().synthetic_key,
    sequential_views: bool = False,
    seed: int = 0,
    teachers: Sequence[Mapping[str, Any]] | None = None,
    storage: Mapping[str, Any] | None = None,
) -> ReinforcedDataset:
    """Open a reinforced dataset, local or remote, of this package or in the layouts of DataCompDR and DFNDR.

    `path`: a folder, a tar, a glob or brace pattern, or several of these. `image_size`: pixels of a replayed view;
    default: the stored recipe's. `transform` takes the place of the replay: it is given the image and the stored crop.
    `synthetic_key`: a regular expression; synthetic captions are drawn from the keys of `syn.json` that match.
    `sequential_views`: in epoch e the view e modulo their number, instead of a random one. `teachers`: for datasets of
    other writers, the `name`, `dim` and `logit_scale` of each teacher in stored order; default: as config.json says.
    `storage`: fsspec's options.

    Raises ConfigError where an argument is wrong, where there is no shard, or where it is not known which teachers made
    the dataset.
    """
    if image_size is not None and image_size < 1:
        raise ConfigError(f"open_dataset: image_size is {image_size}: give the pixels of a view's side")
    tree = {
        "name": "open_dataset",
        "seed": seed,
        "data": {
            "shards": path if isinstance(path, str) else tuple(path),
            "view": "sequential" if sequential_views else "random",
            "teachers": teachers,
            "storage": dict(storage or {}),
        },
        "captions": {"synthetic_key": synthetic_key},
        # What follows is not looked at: nothing is trained here.
        "student": {"architecture": ""},
        "schedule": {"steps": 1, "batch_size": 1, "warmup_steps": 0},
        "run": {"path": ""},
    }
    return ReinforcedDataset(validate(TrainJob, tree, "open_dataset"), image_size, transform)


def _with_all_teachers(job: TrainJob) -> TrainJob:
    """The job with a loss that compares with every stored teacher, so that their columns are read."""
    storage = Storage(job.data.storage)
    root = find_shards(job.data.shards, storage, "data.shards").root
    stored = stored_teachers(job, read_config(root, storage), root)
    affinity = {teacher.name: Affinity() for teacher in stored if teacher.encodes}
    compared = Distillation(weight=float(len(affinity) < len(stored)), affinity=affinity)
    return job.model_copy(update={"distillation": compared})


def _transform(transform: Transform, recipe: Recipe, sample: Sample, image: Image.Image) -> None:
    """Give a sample what a caller's transform makes of its view; errors are the caller's."""
    sample.views_NHWC = [transform(image, recipe.box(sample.views[0], image.width, image.height))]


def _as_dictionary(sample: Sample) -> dict[str, Any]:
    ((synthetic_key, (synthetic_text,)),) = sample.synthetic.items()
    columns: dict[str, dict[str, np.ndarray]] = {IMAGE: {}, TEXT: {}, synthetic_key: {}}
    for (teacher, of), (row_D,) in sample.columns.items():
        columns[of][teacher] = row_D
    return {
        "key": sample.key,
        "image": sample.views_NHWC[0],
        "text": sample.caption,
        "synthetic_text": synthetic_text,
        "image_emb": columns[IMAGE],
        "text_emb": columns[TEXT],
        "synthetic_emb": columns[synthetic_key],
    }
