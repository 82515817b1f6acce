"""What a reinforced dataset says of itself, checked against the job before the first step."""

import hashlib
import json
import logging
import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pydantic import ValidationError

from dr_pipeline.config.training import StoredTeacher, TrainJob
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base import BaseIndex, open_index, sample_id
from dr_pipeline.dataset.config_json import num_samples_of, read_config, shared_teachers
from dr_pipeline.dataset.manifest import ShardTable
from dr_pipeline.dataset.sample import IMAGE, NO_IMAGE, TEXT, find_image
from dr_pipeline.dataset.shards import find_shards
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.storage import Storage, cache_folder
from dr_pipeline.train.columns import compared
from dr_pipeline.train.data.order import StreamId
from dr_pipeline.train.data.stream import Raw, ShardStream
from dr_pipeline.views.recipe import Recipe, read_recipe
from dr_pipeline.views.resample import other_pillow

log = logging.getLogger(__name__)

_PROBED_SAMPLES = 100

_TEACHERS_HELP = """Say in the job what the embeddings' columns are, in their order:
  data:
    teachers:
      - {name: first, dim: 768, logit_scale: 70}
      - {name: second, dim: 768, logit_scale: 60}"""


@dataclass(frozen=True)
class Dataset:
    """The shards of a training run and what they hold."""

    uris: tuple[str, ...]
    teachers: tuple[StoredTeacher, ...]
    """The stored embeddings' columns in order; empty where the job does not read them."""
    compared: tuple[StoredTeacher, ...]
    """The teachers that the loss compares with, with the job's logit scales."""
    layout: str | None
    """v1 or v2; None where no embeddings are read."""
    num_samples: int | None
    """None where config.json does not say, or the job takes a part of the dataset."""
    recipe: Recipe
    """How the stored views were made, or, where the job draws its own, how these are."""
    base: BaseIndex | None
    """Where the images are, if not in the shards."""
    digest: str
    """Of the names and sizes of the shards and the base, and of what the manifest says that the shards hold."""

    @property
    def total_dim(self) -> int:
        """The width of the stored embeddings."""
        return sum(teacher.dim for teacher in self.teachers)


def open_dataset(job: TrainJob) -> Dataset:
    """List the shards, read config.json and the first usable sample of the first shard.

    Raises ConfigError where the job and the data do not fit, ShardError where the first shard cannot be used.
    """
    if job.data.augmentation and job.reads_embeddings:
        raise ConfigError(
            "data.augmentation draws fresh views, and nobody stored their embeddings: leave it out, or set "
            "distillation.weight to 0, or name distillation.online_teachers"
        )
    storage = Storage(job.data.storage)
    shards = find_shards(job.data.shards, storage, "data.shards")
    root, sizes = shards.root, shards.all_present()
    config = read_config(root, storage)
    whole = set(sizes) == {f"{root}/{name}" for name in storage.shards(root)}
    recipe = _recipe(job, config, root)
    pillow = None if job.data.augmentation else other_pillow(config)
    if pillow:
        log.warning("%s: %s", root, pillow)
    teachers = _teachers(job, config, root) if job.reads_embeddings else ()
    base = open_index(job.data.base, cache_folder()) if job.data.base else None
    digests = dict(ShardTable(storage, root).digests())
    names = (uri.removeprefix(f"{root}/") for uri in sizes)
    held = [(name, size, digests.get(name)) for name, size in zip(names, sizes.values(), strict=True)]
    dataset = Dataset(
        uris=tuple(sizes),
        teachers=teachers,
        compared=compared(job.distillation, teachers),
        layout=config.get("dr_pipeline", {}).get("layout") if job.reads_embeddings else None,
        num_samples=(num_samples_of(config) or None) if whole else None,
        recipe=recipe,
        base=base,
        digest=hashlib.sha256(json.dumps([held, base and base.path.name]).encode()).hexdigest(),
    )
    if dataset.num_samples is not None and dataset.num_samples < job.schedule.batch_size:
        raise ConfigError(
            f"schedule.batch_size is {job.schedule.batch_size}, but {root} holds {dataset.num_samples} samples"
        )
    return _checked(job, dataset)


def matching_keys(job: TrainJob, synthetic: dict[str, list[str]]) -> list[str]:
    """The keys of a sample's synthetic captions that the job takes captions of."""
    return [key for key in synthetic if re.search(job.captions.synthetic_key, key)]


def _recipe(job: TrainJob, config: dict[str, Any], root: str) -> Recipe:
    if job.data.augmentation:
        return Recipe(job.data.augmentation)
    try:
        return read_recipe(config)
    except ConfigError as error:
        raise ConfigError(f"{root}/config.json: {error}") from error


def _teachers(job: TrainJob, config: dict[str, Any], root: str) -> tuple[StoredTeacher, ...]:
    """The job's own, else those of config.json."""
    if job.data.teachers is not None:
        return job.data.teachers
    stored = shared_teachers(config)
    if not stored:
        what = "does not name its teachers" if config else "is not there"
        raise ConfigError(f"{root}/config.json {what}. {_TEACHERS_HELP}")
    try:
        return tuple(StoredTeacher(**{name: card[name] for name in StoredTeacher.model_fields}) for card in stored)
    except (ValidationError, TypeError, KeyError) as error:
        raise ConfigError(f"{root}/config.json: its teachers cannot be read ({error!r}). {_TEACHERS_HELP}") from error


def _checked(job: TrainJob, dataset: Dataset) -> Dataset:
    """The dataset with the layout that its first usable sample has. Raises ConfigError, ShardError."""
    problem = "it holds no sample"
    shards = ShardStream(job, dataset.uris, StreamId(0, 1))
    for raw in islice(shards.shard(dataset.uris[0]), _PROBED_SAMPLES):
        try:
            return replace(dataset, layout=_check_sample(job, dataset, raw))
        except SampleSkipped as skip:
            problem = f"for example {raw.sample.key}: {skip}"
            if len(raw.sample.members) == 1:
                problem += "; do the members of a sample lie side by side? tar --sort=name writes them so"
            elif skip.reason == NO_IMAGE:
                problem += "; where the images are in another dataset, name it in data.base"
    raise ShardError(f"{dataset.uris[0]}: none of its first samples can be used; {problem}")


def _check_sample(job: TrainJob, dataset: Dataset, raw: Raw) -> str | None:
    """The layout of a sample's embeddings where the job reads them. Raises SampleSkipped when it is not usable."""
    if raw.sample.skip:
        raise raw.sample.skip
    if job.data.base:
        sample_id(job.data.base, raw.sample.key, raw.sample.members)
    else:
        find_image(raw.sample.members)
    if not job.data.augmentation:
        layout.read_views(raw.sample)
    if job.captions.synthetic_weight:
        _check_synthetic(job, raw)
    if not job.reads_embeddings:
        return None
    stored_layout = layout.decode_columns(raw.sample)
    for (teacher, of), array in raw.sample.columns.items():
        if not teacher and array.shape[1] != dataset.total_dim:
            name = {IMAGE: "image_emb", TEXT: "text_emb"}.get(of, f"{of}'s")
            dims = " + ".join(f"{teacher.name} {teacher.dim}" for teacher in dataset.teachers)
            raise ConfigError(
                f"{raw.uri}: {name} embeddings of {raw.sample.key} have {array.shape[1]} dims, but the teachers have "
                f"{dataset.total_dim} ({dims}). {_TEACHERS_HELP}"
            )
    if dataset.layout and stored_layout != dataset.layout:
        raise ConfigError(
            f"{raw.uri}: {raw.sample.key} has layout {stored_layout}, but config.json says {dataset.layout}; "
            "see what else is wrong with: dr-pipeline verify"
        )
    return stored_layout


def _check_synthetic(job: TrainJob, raw: Raw) -> None:
    layout.decode_synthetic(raw.sample)
    if not matching_keys(job, raw.sample.synthetic):
        raise ConfigError(
            f"captions.synthetic_key: no key of {raw.sample.key} in {raw.uri} matches {job.captions.synthetic_key!r}; "
            f"it has {', '.join(raw.sample.synthetic) or 'none'}"
        )
