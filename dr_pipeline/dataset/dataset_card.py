"""A dataset's card, README.md at its root: what the dataset is, what it was made of and how to load it.

Hugging Face's `datasets` reads the YAML head: that only the tars are data, and the features. Without these it loads no
sample, since `param_aug` mixes numbers and lists. Declared as a string, it comes as a Python list's text, in full.

People add to a card before they publish it. The last line holds a digest of the lines above: a later run writes the
card again where the digest fits, and leaves it otherwise.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.job import Job
from dr_pipeline.dataset.card_features import Feature, features_of
from dr_pipeline.dataset.config_json import describe_float8, read_config
from dr_pipeline.dataset.manifest import Totals
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.sample import IMAGE_EXTS
from dr_pipeline.redaction import without_secrets
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

_LAST_LINE = "<!-- dr-pipeline wrote all above; its SHA-256: {} -->\n"
_UNEDITED = re.compile(f"(?s)(.*){_LAST_LINE.format('([0-9a-f]{64})')}")

log = logging.getLogger(__name__)


def publish(job: Job, totals: Totals) -> None:
    """Write the card of a job's output, unless somebody has changed it or put another there."""
    storage, root = Storage(job.output.storage), job.output.path
    uri = OutputPaths(root).card
    if is_edited(root, storage):
        log.warning("%s is not as a run wrote it and stays: move it away to have it written anew", uri)
        return
    text = without_secrets(_card(job, totals, read_config(root, storage)["dr_pipeline"]))
    storage.write(uri, (text + _LAST_LINE.format(hashlib.sha256(text.encode()).hexdigest())).encode())


def is_edited(root: str, storage: Storage) -> bool:
    """Whether a dataset has a card that no run wrote, or one that was changed since."""
    uri = OutputPaths(root).card
    if not storage.exists(uri):
        return False
    match = _UNEDITED.fullmatch(storage.read(uri).decode(errors="replace"))
    return match is None or hashlib.sha256(match[1].encode()).hexdigest() != match[2]


def _card(job: Job, totals: Totals, ours: dict[str, Any]) -> str:
    features = features_of(job, ours, totals.first_shard)
    kind = "CLIP teachers" if all(not teacher.get("encodes") for teacher in ours["teachers"]) else "teachers"
    head = {
        "pretty_name": " ".join(job.name.split()),
        "tags": [*(["image-text", "clip"] if job.has_texts else []), "dataset-reinforcement", "webdataset"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "**/*.tar"}]}],
        "dataset_info": {"features": features},
    }
    left_out = "skipped or filtered" if job.scorers else "skipped"
    counts = {
        "samples": totals.num_written,
        f"samples of the input that were {left_out}": totals.num_read - totals.num_written,
        "views": totals.num_views,
        "synthetic captions": totals.num_synthetic,
        "shards": totals.num_shards,
        "shards that could not be reinforced": totals.num_failed,
        "bytes": totals.size_bytes,
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {_cell(job.name)}",
        _about(job, totals, kind),
        "## How much there is\n\n" + _table(("", ""), ((name, f"{count:,}") for name, count in counts.items())),
        "## Models\n\n" + _table(_MODEL_COLUMNS, _models(job, ours)),
        (_COLUMNS if job.has_texts else "") + _LICENCE,
        "## Recipe\n\n" + "\n".join(f"- {line}" for line in _recipe(job, ours)),
        "## A sample\n\n" + _table(("member", ""), _members(job, features)),
        _HOW_TO_LOAD,
        _HOW_TO_TRAIN + (_FLAGS if job.has_texts else "") + "```",
    ]
    return "\n\n".join(parts) + "\n\n"


def _about(job: Job, totals: Totals, kind: str) -> str:
    views = f"the parameters of {job.augmentation.num_views} augmented views"
    if not job.has_texts:
        return (
            f"A reinforced dataset of {plural(totals.num_written, 'image')}. Beside each, and its class where "
            "it has one, lie "
            f"{views}, and what {len(job.teachers)} {kind} give for each of them: a small model distils from it with "
            "no teacher in memory. The method is that of [ImageNet+](https://arxiv.org/abs/2303.08983); dr-pipeline "
            "made it."
        )
    return (
        f"A reinforced image-text dataset of {plural(totals.num_written, 'sample')}. Beside each image and its "
        "alt-text lie "
        f"synthetic captions, {views}, and the embeddings that {len(job.teachers)} {kind} give to all of it: a small "
        "model distils from it with no teacher in memory. The method is that of "
        "[MobileCLIP2](https://arxiv.org/abs/2508.20691); dr-pipeline made it."
    )


_MODEL_COLUMNS = ("", "name", "dims", "pixels", "logit scale", "licence", "source")
_COLUMNS = "The columns of the embeddings are the teachers' in this order; each one's slice has norm 1. "
_LICENCE = (
    "Images and texts stay under the terms of the dataset that they come from, and what models have made of them under "
    "the models'."
)


def _models(job: Job, ours: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of the table of models, a cell for each of `_MODEL_COLUMNS`."""
    loaded = {teacher["name"]: teacher for teacher in ours["teachers"]}
    for card in job.teachers:
        known = loaded[card.name]
        scale = "" if known.get("output") else str(known["logit_scale"])
        numbers = str(known["dim"]), str(known.get("image_size", "")), scale
        yield "teacher", card.name, *numbers, card.licence or "see the teacher's own", card.source or ""
    for scorer in job.scorers:
        yield "scorer", scorer.name, "", "", "", scorer.licence or "see the scorer's own", scorer.source or ""
    for writer in job.writers:
        kind = "captioner" if writer in job.captioners else "rewriter"
        licence = writer.licence or f"see the {kind}'s own"
        yield kind, writer.name, "", "", "", licence, writer.source or ""


def _recipe(job: Job, ours: dict[str, Any]) -> Iterator[str]:
    """Sentences about how views, captions and embeddings were made."""
    crop, ops = job.augmentation.random_resized_crop, job.augmentation.rand_augment
    views = f"{plural(job.augmentation.num_views, 'view')} an image"
    if crop:
        yield (
            f"{views}: RandomResizedCrop to {crop.size} pixels, scale {crop.scale[0]} to {crop.scale[1]}, ratio "
            f"{crop.ratio[0]} to {crop.ratio[1]}, {crop.interpolation}"
        )
    else:
        yield f"{views} of {job.augmentation.size} pixels"
    if ops:
        strength = f"magnitude {ops.magnitude} of {ops.num_magnitude_bins} bins"
        if ops.magnitudes:
            ranges = (f"{name} {low} to {high}" for name, (low, high) in ops.magnitudes.items())
            strength = f"magnitudes of {', '.join(ranges)}"
        yield f"RandAugment: {ops.num_ops} operations, {strength}"
    for name, settings in job.augmentation.transforms.items():
        shown = settings.model_dump(include=None if settings not in (crop, ops) else {"p"})
        if shown != {"p": 1.0}:
            yield f"{name}: " + ", ".join(f"{field} {value}" for field, value in shown.items())
    for scorer in job.scorers:
        yield f"{scorer.name} scored the samples, of which it kept {scorer.keeps}"
    for card in job.writers:
        sampling = card.sampling
        asked = f", asked “{_cell(card.prompt)}”" if card.prompt else ""
        yield (
            f"{plural(card.num_captions, 'caption')} an image in `{card.caption_key}` by {card.name}: "
            f"{sampling.method}, "
            f"temperature {sampling.temperature}, {sampling.min_tokens} to "
            f"{plural(sampling.max_tokens, 'token')}{asked}"
        )
    yield from describe_float8(ours)
    if job.output.top_k:
        yield f"of each view the {job.output.top_k} largest of the classifiers' mean probabilities, and their classes"
    yield f"seed {job.seed}, layout {job.output.layout}, embeddings in {job.output.precision}"
    yield f"configuration `{ours['fingerprint']}`; `config.json` has the whole of it"


def _members(job: Job, features: list[Feature]) -> Iterator[tuple[str, ...]]:
    """The rows of the table of a sample's members: name, and what it holds."""
    for feature in features:
        name = feature["name"]
        parts = ", ".join(f"`{part['name']}`" for part in feature.get("struct", ()))
        told = {
            "txt": "the alt-text",
            "cls": "the number of its class",
            "syn.json": f"lists of synthetic captions: {parts}",
            "paug.json": "`param_aug`: a list of views `[[top, left, height, width], [[operation, magnitude], …]]`",
            codec_for(job.output.precision).ext: parts,
        }
        if not name.startswith("__"):
            is_image = name in IMAGE_EXTS
            yield f"`{name}`", told.get(name, "the image, its bytes untouched" if is_image else "as it came")
    if job.output.images == "omit":
        yield "the image", "not here: it is in the dataset that this one was made from, under the same key"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text from cards or data on one line, without what Markdown would take for a table's edge or for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


_HOW_TO_LOAD = """## Load it

```python
import ast

from datasets import load_dataset, load_dataset_builder

dataset = load_dataset("FOLDER", split="train", streaming=True)

features = load_dataset_builder("FOLDER").info.features  # the same from some of the tars, or from a bucket
dataset = load_dataset("webdataset", data_files={"train": "FOLDER/**/*.tar"}, features=features, split="train")
views = ast.literal_eval(next(iter(dataset))["paug.json"]["param_aug"])
```

`datasets` gets `param_aug` as the text of a Python list, and what a json member holds as text. A field that only
samples beyond the first hundred have is not declared above: add it where it is wanted.

```python
import json

import webdataset

for sample in webdataset.WebDataset("FOLDER/00000.tar", shardshuffle=False):
    views = json.loads(sample["paug.json"])["param_aug"]
```"""

_HOW_TO_TRAIN = """## Train on it

```sh
dr-pipeline verify FOLDER
dr-pipeline train JOB.yaml        # with data.shards: FOLDER
"""
_FLAGS = "dr-pipeline trainer-flags FOLDER  # what the released open_clip patch has to be told\n"
