"""What a reinforced dataset says of itself, checked against the job before the first step."""

import hashlib
import json
import logging
import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pydantic import ValidationError

from dr_pipeline.config.objective import StoredTeacher
from dr_pipeline.config.training import TrainJob
from dr_pipeline.config.wording import what_is_wrong
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base_index import BaseIndex, open_index, sample_id
from dr_pipeline.dataset.config_json import embedding_teachers_of, num_samples_of, read_config
from dr_pipeline.dataset.manifest import ShardTable
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.sample import IMAGE, NO_IMAGE, PROBS_VALUES, SYNTHETIC, Column, Sample, read_class
from dr_pipeline.dataset.shard_patterns import find_shards
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError, reason
from dr_pipeline.storage import Storage, cache_folder
from dr_pipeline.training.data.reader import read_shard
from dr_pipeline.views.recipe import Recipe, read_recipe
from dr_pipeline.views.render import other_pillow
from dr_pipeline.words import plural

log = logging.getLogger(__name__)

_PROBED_SAMPLES = 100

_TEACHERS_HELP = """Say what the embeddings' columns are, in their order, in the job (or by open_dataset(teachers=[…])):
  data:
    teachers:
      - {name: first, dim: 768, logit_scale: 70}
      - {name: second, dim: 768, logit_scale: 60}"""


@dataclass(frozen=True)
class TrainingSet:
    """The shards of a training run and what they hold."""

    uris: tuple[str, ...]
    teachers: tuple[StoredTeacher, ...]
    """The stored embeddings' columns in order; empty where the job does not read them."""
    scales: dict[str, float]
    """The teachers that equation (1) compares with: name → 1 / τ."""
    affinities: dict[str, tuple[float, float]]
    """The teachers of the affinity loss: name → its weight and 1 / τ."""
    layout: str | None
    """v1 or v2; None where no embeddings of images and texts are read."""
    num_samples: int | None
    """None where config.json does not say, or the job takes a part of the dataset."""
    recipe: Recipe
    """How the stored views were made, or, where the job draws its own, how these are."""
    base: BaseIndex | None
    """Where the images are, if not in the shards."""
    digest: str
    """Of the names and sizes of the shards and the base, and of what the manifest says that the shards hold."""

    @property
    def paired_dims(self) -> dict[str, int]:
        """The teachers whose columns lie side by side, in order: name → dim."""
        return {teacher.name: teacher.dim for teacher in self.teachers if not teacher.encodes}

    @property
    def compared(self) -> tuple[StoredTeacher, ...]:
        """The teachers that a loss compares with."""
        return tuple(teacher for teacher in self.teachers if teacher.name in self.scales | self.affinities)


def open_training_set(job: TrainJob) -> TrainingSet:
    """List the shards, read config.json and the first usable sample of the first shard.

    Raises ConfigError where the job and the data do not fit, ShardError where the first shard cannot be used, or the
    table of shards is damaged: what the shards hold would not be known.
    """
    if job.data.augmentation and (job.reads_embeddings or job.reads_probabilities):
        raise ConfigError(
            "data.augmentation draws fresh views, and nobody stored what teachers say of them: leave it out, or set "
            "distillation.weight to 0 and leave out distillation.affinity, or name distillation.online_teachers"
        )
    storage = Storage(job.data.storage)
    shards = find_shards(job.data.shards, storage, "data.shards")
    root, sizes = shards.root, shards.all_present()
    config = read_config(root, storage)
    whole = set(sizes) == {f"{root}/{name}" for name in storage.shards(root)}
    recipe = _recipe(job, config, root)
    teachers = stored_teachers(job, config, root) if job.reads_embeddings else ()
    if job.reads_probabilities:
        _check_classes(job, config, root)
    has_pairs = not all(teacher.encodes for teacher in teachers)
    if job.reads_pairs and not has_pairs:
        raise ConfigError(
            f"{OutputPaths(root).config} names no teacher of images and texts, which equation (1) compares with, only "
            f"{', '.join(teacher.name for teacher in teachers)}: set distillation.weight to 0 and name these in "
            f"distillation.affinity. Or else: {_TEACHERS_HELP}"
        )
    base = open_index(job.data.base, cache_folder()) if job.data.base else None
    digests = dict(ShardTable(storage, root).digests())
    names = {uri: uri.removeprefix(f"{root}/") for uri in sizes}
    held = [(names[uri], size, digests.get(names[uri])) for uri, size in sizes.items()]
    training_set = TrainingSet(
        uris=tuple(sizes),
        teachers=teachers,
        scales=job.distillation.scales_of(teachers) if job.reads_pairs else {},
        affinities=job.distillation.affinity_of(teachers),
        layout=config.get("dr_pipeline", {}).get("layout") if has_pairs else None,
        num_samples=(num_samples_of(config) or None) if whole else None,
        recipe=recipe,
        base=base,
        digest=hashlib.sha256(json.dumps([held, base and base.path.name]).encode()).hexdigest(),
    )
    if training_set.num_samples is not None and training_set.num_samples < job.schedule.batch_size:
        raise ConfigError(
            f"schedule.batch_size is {job.schedule.batch_size}, but {root} holds "
            f"{plural(training_set.num_samples, 'sample')}"
        )
    return _checked(job, training_set)


def matching_keys(job: TrainJob, synthetic: dict[str, list[str]]) -> list[str]:
    """The keys of a sample's synthetic captions that the job takes captions of."""
    return [key for key in synthetic if re.search(job.captions.synthetic_key, key)]


def _check_classes(job: TrainJob, config: dict[str, Any], root: str) -> None:
    """Raise ConfigError where config.json records classifiers of other classes than the student's."""
    for teacher in config.get("dr_pipeline", {}).get("teachers", []):
        if teacher.get("output") == "probabilities" and teacher["dim"] != job.student.num_classes:
            raise ConfigError(
                f"student.num_classes is {job.student.num_classes}, but {root} was made by {teacher['name']}, which "
                f"tells {teacher['dim']} classes apart"
            )


def _recipe(job: TrainJob, config: dict[str, Any], root: str) -> Recipe:
    """The job's own recipe, else the dataset's; warns where another Pillow made its views. Raises ConfigError."""
    if job.data.augmentation:
        return Recipe(job.data.augmentation)
    try:
        recipe = read_recipe(config)
    except ConfigError as error:
        raise ConfigError(f"{OutputPaths(root).config}: {error}") from error
    if pillow := other_pillow(config):
        log.warning("%s: %s", root, pillow)
    return recipe


def stored_teachers(job: TrainJob, config: dict[str, Any], root: str) -> tuple[StoredTeacher, ...]:
    """The teachers whose embeddings the dataset at `root` holds: the job's own, else those of its config.json.

    Raises ConfigError where nobody says.
    """
    if job.data.teachers is not None:
        return job.data.teachers
    uri = OutputPaths(root).config
    try:
        cards = embedding_teachers_of(config)
        known = [{name: card[name] for name in StoredTeacher.model_fields if name in card} for card in cards]
        stored = tuple(StoredTeacher.model_validate(card) for card in known)
    except ValidationError as error:
        wrong = "; ".join(what_is_wrong(StoredTeacher, error))
        raise ConfigError(f"{uri}: its teachers cannot be read: {wrong}. {_TEACHERS_HELP}") from error
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{uri}: its teachers cannot be read: {reason(error)}. {_TEACHERS_HELP}") from error
    if not stored:
        what = (
            "names no teacher that gives embeddings"
            if config
            else "is not there; every output of `dr-pipeline run` has one"
        )
        raise ConfigError(f"{uri} {what}. {_TEACHERS_HELP}")
    return stored


def _checked(job: TrainJob, training_set: TrainingSet) -> TrainingSet:
    """The training set with the layout that its first usable sample has. Raises ConfigError, ShardError."""
    uri = training_set.uris[0]
    problem = "it holds no sample"
    for sample in islice(read_shard(job, uri), _PROBED_SAMPLES):
        try:
            return replace(training_set, layout=_check_sample(job, training_set, uri, sample))
        except SampleSkipped as skip:
            problem = f"for example {sample.key}: {skip}"
            if len(sample.members) == 1:
                problem += "; do the members of a sample lie side by side? tar --sort=name writes them so"
            elif skip.reason == NO_IMAGE:
                problem += "; where the images are in another dataset, name it in data.base"
    raise ShardError(f"{uri}: none of its first samples can be used; {problem}")


def _check_sample(job: TrainJob, training_set: TrainingSet, uri: str, sample: Sample) -> str | None:
    """The layout of a sample's embeddings where the job reads them. Raises SampleSkipped when it is not usable."""
    if sample.skip:
        raise sample.skip
    if job.data.base:
        sample_id(job.data.base, sample)
    else:
        sample.find_image()
    if not job.data.augmentation:
        layout.read_views(sample)
    if SYNTHETIC in job.caption_weights:
        layout.decode_synthetic(sample)
        if not matching_keys(job, sample.synthetic):
            raise ConfigError(
                f"captions.synthetic_key: no key of {sample.key} in {uri} matches {job.captions.synthetic_key!r}; "
                f"it has {', '.join(sample.synthetic) or 'none'}"
            )
    if job.reads_labels and read_class(sample.members) is None:
        raise ConfigError(f"{uri}: {sample.key} has no cls member, only {', '.join(sorted(sample.members))}: no label")
    if job.reads_probabilities:
        layout.decode_columns(sample)
        if Column(PROBS_VALUES, IMAGE) not in sample.columns:
            raise ConfigError(
                f"{uri}: {sample.key} holds no class probabilities: reinforce it by classifiers, with output.top_k, or "
                "set distillation.weight to 0, which learns from labels alone"
            )
    return _check_embeddings(training_set, uri, sample) if job.reads_embeddings else None


def _check_embeddings(training_set: TrainingSet, uri: str, sample: Sample) -> str:
    """The layout of a sample's embeddings. Raises ConfigError where it or their dims are not the dataset's."""
    stored = layout.decode_columns(sample)
    paired = training_set.paired_dims
    dims = {teacher.name: teacher.dim for teacher in training_set.teachers}
    if paired:
        dims[""] = sum(paired.values())
    for (teacher, of), array in sample.columns.items():
        if teacher in dims and array.shape[1] != dims[teacher]:
            said = teacher or " + ".join(f"{name} {dim}" for name, dim in paired.items())
            raise ConfigError(
                f"{uri}: {layout.array_name(of, teacher)} embeddings of {sample.key} have "
                f"{plural(array.shape[1], 'dim')}, but the teachers have {dims[teacher]} ({said}). {_TEACHERS_HELP}"
            )
    if training_set.layout and stored != training_set.layout:
        raise ConfigError(
            f"{uri}: {sample.key} has layout {stored}, but config.json says {training_set.layout}; "
            "see what else is wrong with: dr-pipeline verify"
        )
    return stored
