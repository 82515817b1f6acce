"""The features of a dataset's card: for each member of a sample its name and type, as Hugging Face's `datasets` has it.

They are those of the job, and what the first samples of a shard have beside.
"""

import logging
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.config_json import paired_teachers_of
from dr_pipeline.dataset.paths import CARD, OutputPaths
from dr_pipeline.dataset.sample import IMAGE, IMAGE_EXTS, PROBS_INDICES, PROBS_VALUES, TEXT, parse_json
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.storage import Storage

_SAMPLED = 100
_NAME = re.compile(r"[\w.:-]{1,100}")
_STRINGS = ("txt", "text", "transcript")

Feature = dict[str, Any]
log = logging.getLogger(__name__)


def features_of(job: Job, ours: dict[str, Any], first_shard: str | None) -> list[Feature]:
    """The features that a card's head declares. `ours`: this program's part of config.json."""
    keys = [writer.caption_key for writer in job.writers]
    images: dict[str, Feature] = {}
    others = {"txt": _string("txt")} if job.has_texts else {}
    for fields in _first_samples(job, first_shard) if first_shard else ():
        for ext, data in fields.items():
            if ext == "syn.json":
                keys += [key for key in _keys(data, ext) if key not in keys]
            elif ext.rpartition(".")[2] in IMAGE_EXTS:
                images[ext] = {"name": ext, "dtype": "image"}
            elif ext == "cls" and not job.has_texts:
                others[ext] = {"name": ext, "dtype": "int64"}
            elif ext.rpartition(".")[2] in _STRINGS:
                others[ext] = {"name": ext, "dtype": "string"}
            elif ext.rpartition(".")[2] == "json" and ext != "paug.json":
                known = others.setdefault(ext, {"name": ext, "struct": []})["struct"]
                known += [_string(key) for key in _keys(data, ext) if _string(key) not in known]
    captions = {"name": "syn.json", "struct": [{"name": key, "list": "string"} for key in keys]}
    return [
        *(images[ext] for ext in sorted(images)),
        *(others[ext] for ext in sorted(others)),
        *([captions] if job.has_texts else []),
        {"name": "paug.json", "struct": [_string("param_aug")]},
        {"name": codec_for(job.output.precision).ext, "struct": _arrays(job, ours, keys)},
        _string("__key__"),
        _string("__url__"),
    ]


def _arrays(job: Job, ours: dict[str, Any], keys: list[str]) -> list[Feature]:
    """The arrays of embeddings and probabilities. `keys`: those of `syn.json`."""
    names: list[str] = []
    if paired_teachers_of({"dr_pipeline": ours}):
        names += map(layout.array_name, (IMAGE, TEXT, *(keys if job.output.layout == "v2" else ())))
    kinds = {"images": [IMAGE], "texts": [TEXT, *keys]}
    for teacher in ours["teachers"]:
        if job.output.top_k and teacher.get("output") == "probabilities":
            continue
        for encoded in teacher.get("encodes", ()):
            names += [layout.array_name(of, teacher["name"]) for of in kinds[encoded]]
    arrays: list[Feature] = [{"name": name, "list": {"list": "float32"}} for name in names]
    if job.output.top_k:
        arrays.append({"name": layout.array_name(IMAGE, PROBS_VALUES), "list": {"list": "float32"}})
        arrays.append({"name": layout.array_name(IMAGE, PROBS_INDICES), "list": {"list": "int32"}})
    return arrays


def _first_samples(job: Job, shard: str) -> Iterator[dict[str, bytes]]:
    """The members of a shard's first samples; no samples where it cannot be read, which `verify` tells."""
    try:
        with Storage(job.output.storage).open(OutputPaths(job.output.path).shard(shard)) as stream:
            for sample in islice(read_samples(stream), _SAMPLED):
                yield sample.members
    except (ShardError, OSError) as error:
        log.warning("%s: its samples are not described in %s: %s", shard, CARD, error)


def _keys(data: bytes, ext: str) -> list[str]:
    """The keys of a JSON member's object that the head can name; none where the member holds no object."""
    try:
        return [key for key in parse_json(data, ext) if _NAME.fullmatch(key)]
    except SampleSkipped:
        return []


def _string(name: str) -> Feature:
    return {"name": name, "dtype": "string"}
