"""The flags with which the released open_clip patch trains on a dataset: what its trainer does not read from the data.

It reads of config.json only how views were drawn. Teachers' dims and logit scales, the shards and their number of
samples come to it by flags; `docs/foreign_trainers.md` says how to use them.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dr_pipeline.dataset.config_json import num_samples_of, paired_teachers_of, read_config
from dr_pipeline.dataset.paths import CONFIG, OutputPaths
from dr_pipeline.dataset.sample import CONSUMERS_IMAGE_EXTS
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.unfinished import no_shard, why_unfinished
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

_NUMBERED = re.compile(r"(.*?)(\d+)\.tar")
_S3 = ("s3://", "s3a://")
_PLAIN = re.compile(r"[\w@%+=:,./{}-]+", re.ASCII)
_SAMPLED = 100


@dataclass(frozen=True)
class TrainerFlags:
    """Flags quoted for a shell, and remarks on what flags cannot express."""

    flags: tuple[str, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        return " \\\n".join(self.flags)


def trainer_flags(uri: str, storage: Storage) -> TrainerFlags:
    """The flags for a dataset that this package has made. Raises ConfigError where it is another's, or has no shard."""
    root = storage.absolute(uri)
    if not storage.exists(root):
        raise ConfigError(f"{root}: there is no such dataset: name the folder that a run has written")
    config = read_config(root, storage)
    ours = config.get("dr_pipeline")
    teachers = paired_teachers_of(config)
    if isinstance(ours, dict) and ours.get("teachers") and not teachers:
        raise ConfigError(f"{root}: no teacher embeds both images and texts, which is what that trainer learns from")
    if not isinstance(ours, dict) or not teachers:
        raise ConfigError(
            f"{OutputPaths(root).config} does not say which teachers made the dataset, so their "
            "dims are not known: write the flags by hand, as docs/foreign_trainers.md has them"
        )
    undescribed = [card["name"] for card in teachers if card["dim"] is None]
    if undescribed:
        raise ConfigError(
            f"{root}: no model was loaded yet, so the dims of {', '.join(undescribed)} are not known: run the job"
        )
    shards = sorted(storage.shards(root))
    if not shards:
        raise no_shard(root, "train on", storage)
    unfinished = why_unfinished(root, config, storage)
    if unfinished and not num_samples_of(config):
        raise ConfigError(f"{root}: how many samples it has is not known before a run has ended: {unfinished}")
    paths = OutputPaths(root)
    urls = patterns(paths.shard(name) for name in shards)
    if root.startswith(_S3):
        urls = [piped(url) for url in urls]
    flags: dict[str, list[Any]] = {
        "dataset-type": ["webdataset"],
        "train-data": ["::".join(urls)],
        "train-num-samples": [num_samples_of(config)],
        "dataset-reinforcement": [],
        "dataset-reinforcement-config": [CONFIG if "://" in root else paths.config],
        "distill-teacher-dimension": [card["dim"] for card in teachers],
        "distill-logit-scale": [card["logit_scale"] for card in teachers],
        "distill-loss-weights": ["0.0", "1.0"],
        "distill-average-after-softmax": [],
    }
    lines = tuple(shlex.join([f"--{name}", *map(str, values)]) for name, values in flags.items())
    remarks = [*_remarks(root, config), *_unseen_images(config, paths.shard(shards[0]), storage)]
    return TrainerFlags(lines, (*filter(None, [unfinished]), *remarks))


def patterns(names: Iterable[str]) -> list[str]:
    """Brace patterns that stand for these names, sorted: `00/{000..017}.tar`, and `00/019.tar` after a gap."""
    runs: list[list[tuple[str, str]]] = []
    for name in names:
        match = _NUMBERED.fullmatch(name)
        stem, digits = (match[1], match[2]) if match else (name, "")
        last_stem, last = runs[-1][-1] if runs else ("", "")
        if digits and (stem, len(digits)) == (last_stem, len(last)) and int(digits) == int(last) + 1:
            runs[-1].append((stem, digits))
        else:
            runs.append([(stem, digits)])
    found = []
    for run in runs:
        (stem, first), (_, last) = run[0], run[-1]
        literal = re.sub(r"([\\{}])", r"\\\1", stem)
        numbers = first if first == last else f"{{{first}..{last}}}"
        found.append(f"{literal}{numbers}.tar" if first else literal)
    return found


def piped(pattern: str) -> str:
    """The command by which webdataset reads a bucket's shards: a shell runs it for each that the pattern stands for."""
    return f"pipe:aws s3 cp {pattern if _PLAIN.fullmatch(pattern) else shlex.quote(pattern)} -"


def _remarks(root: str, config: dict[str, Any]) -> Iterator[str]:
    """What the trainer needs first, and where its views would differ from the teachers'."""
    ours = config["dr_pipeline"]
    transforms = config["reinforce"]["image_augmentation"]
    crop = transforms["random_resized_crop"]
    if "://" in root:
        yield f"the trainer opens config.json as a local file: copy {OutputPaths(root).config} beside it"
    if ours["identity"]["output"]["images"] == "omit":
        yield "the shards hold no images: the trainer leaves such samples out; join them with the base dataset first"
    if not crop.get("enable", True):
        yield "the views are not resized: the student's image size must be theirs"
    if "center_crop" in transforms:
        yield "the trainer's center_crop does not take Pillow's images: it cannot replay these views"
    for name in ("random_crop", "random_resized_crop"):
        if transforms.get(name, {}).get("p", 1) < 1:
            yield f"{name} has a p below 1, which the trainer's does not know: it cannot replay these views"
    if crop.get("interpolation", "bicubic") != "bicubic":
        yield f"the views were resized {crop['interpolation']}, and the trainer's own is bicubic: pixels differ"
    if ours["layout"] == "v1" and len({card["logit_scale"] for card in paired_teachers_of(config)}) > 1:
        yield "the first patch (open_clip_v1.patch) takes one logit scale for all teachers; the second takes these"


def _unseen_images(config: dict[str, Any], shard: str, storage: Storage) -> Iterator[str]:
    """A remark where some of a shard's first samples have an image in a form that the trainer does not take."""
    if config["dr_pipeline"]["identity"]["output"]["images"] == "omit":
        return
    with storage.open(shard) as stream:
        exts = [sample.members.keys() for sample in islice(read_samples(stream), _SAMPLED)]
    if num_unseen := sum(its.isdisjoint(CONSUMERS_IMAGE_EXTS) for its in exts):
        yield (
            f"{num_unseen} of the first {plural(len(exts), 'sample')} of {shard} have no image that the trainer takes, "
            f"{', '.join(CONSUMERS_IMAGE_EXTS)}: it leaves such samples out"
        )
