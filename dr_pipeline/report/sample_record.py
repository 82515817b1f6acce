"""The record of one sample: all that is told of it to people, whatever shows it.

`inspect` prints it as text or JSON; contact sheets, pages and the server of `look` show it with its pictures. It holds
plain values only: names, numbers, texts. Texts come from data, so whoever shows them escapes them.
`dataset_reader.DatasetReader` gives records, each with its sample: in the order of a shard, or by key.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from dr_pipeline.config.cards import SIMILARITY
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.caption_faults import faults
from dr_pipeline.dataset.manifest import SampleRow
from dr_pipeline.dataset.sample import IMAGE, PROBS_INDICES, PROBS_VALUES, TEXT, Column, Sample
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.mixing import PAIR, pair_of
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.transforms import View
from dr_pipeline.words import plural

_NOT_TEACHERS = (PROBS_VALUES, PROBS_INDICES)


@dataclass(frozen=True)
class CaptionRecord:
    """One text of a sample, and how well it fits the sample's views."""

    text: str
    similarity: float | None = None
    """Mean cosine of text and views over the teachers of both; None where there is no such teacher."""
    similarities: Mapping[str, float] = field(default_factory=dict)
    """Teacher → mean cosine over the views; empty where the dataset does not name its teachers."""
    faults: tuple[str, ...] = ()
    """Of `caption_faults.FAULTS`, those that a synthetic caption's text shows."""


@dataclass(frozen=True)
class Skip:
    """Why a sample is left out of a reinforcement."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class SampleRecord:
    """One sample of a dataset, or a skipped one of its input, of which the manifest alone knows."""

    key: str
    shard: str
    """Its name in the dataset."""
    index: int | None = None
    """The place in the shard; None of a sample that is not there."""
    members: Mapping[str, int] = field(default_factory=dict)
    """Extension → bytes; empty of a sample that is not there."""
    alt_text: CaptionRecord | None = None
    """None of a sample without texts."""
    captions: Mapping[str, tuple[CaptionRecord, ...]] = field(default_factory=dict)
    """Key of `syn.json` → its captions."""
    views: tuple[Mapping[str, Any], ...] = ()
    """Each view's parameters by transform, as an entry of `param_aug` has them. A mixed view has also `pair`: the place
    `id2` of the other image in the shard, and the other `view`.
    """
    dims: Mapping[str, int] = field(default_factory=dict)
    """Teacher → length of its embeddings; "" stands for all of a dataset that does not name its teachers."""
    label: str | None = None
    """The class that the member `cls` names."""
    classes: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Of each view the most probable classes, with their probabilities, the most probable first."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scorer → score, by the manifest."""
    skip: Skip | None = None
    problem: str | None = None
    """Why its members cannot be decoded. What they hold is left out then."""

    def to_json(self) -> dict[str, Any]:
        """The record as a tree of JSON, in which a number that is not finite is null."""
        return _finite(asdict(self))


def make_record(
    sample: Sample, shard: str, recipe: Recipe, dims: Mapping[str, int] | None, row: SampleRow | None
) -> SampleRecord:
    """The record of a sample that was read from a shard; the sample is decoded, and has no views where that fails.

    `dims`: the paired teachers in order, with the lengths of their vectors, None where they are not known; `row`: the
    sample's in the manifest, None where there is none.
    """
    read: dict[str, Any] = {
        "key": sample.key,
        "shard": shard,
        "index": sample.index,
        "members": {ext: len(data) for ext, data in sample.members.items()},
        "scores": _scores(row) if row else {},
        "skip": Skip(sample.skip.reason, sample.skip.detail) if sample.skip else None,
    }
    try:
        layout.decode(sample, recipe, dims)
        texts = _texts(sample)
    except SampleSkipped as error:
        sample.views = ()
        return SampleRecord(**read, problem=str(error))
    values_NK, indices_NK = (sample.columns.get(Column(name, IMAGE), ()) for name in (PROBS_VALUES, PROBS_INDICES))
    classes = [
        tuple(zip(map(int, indices_K), map(float, values_K), strict=True))
        for values_K, indices_K in zip(values_NK, indices_NK, strict=True)
    ]
    return SampleRecord(
        **read,
        alt_text=texts.pop(TEXT, (None,))[0],
        captions=texts,
        views=tuple(_by_transform(view, recipe) for view in sample.views),
        dims={name: array_RD.shape[1] for (name, _), array_RD in sample.columns.items() if name not in _NOT_TEACHERS},
        label=sample.members["cls"].decode(errors="replace").strip() if "cls" in sample.members else None,
        classes=tuple(classes),
    )


def record_of_skipped(row: SampleRow, shard: str) -> SampleRecord:
    """The record of a sample that the manifest alone knows."""
    skip = Skip(row.skip_reason, row.skip_detail or "") if row.skip_reason else None
    return SampleRecord(row.key, shard, scores=_scores(row), skip=skip)


def _scores(row: SampleRow) -> dict[str, float]:
    """A row's scores but those of the teachers, which each caption has."""
    return {name: score for name, score in row.scores.items() if not name.startswith(SIMILARITY)}


def _texts(sample: Sample) -> dict[str, tuple[CaptionRecord, ...]]:
    """The texts of a decoded sample by kind: TEXT, and the keys of `syn.json`; none of a sample without texts.

    Raises SampleSkipped where the embeddings are not as many as the texts.
    """
    if not {"txt", "syn.json"} & sample.members.keys():
        return {}
    alt_text = sample.members.get("txt", b"").decode(errors="replace")
    records = {}
    for of, texts in {TEXT: [alt_text], **sample.synthetic}.items():
        cosines_by_teacher = _cosines(sample, of, len(texts))
        records[of] = tuple(
            CaptionRecord(
                text,
                fmean(cosines) if cosines else None,
                {teacher: cosine for teacher, cosine in zip(cosines_by_teacher, cosines, strict=True) if teacher},
                () if of == TEXT else tuple(faults([text])),
            )
            for text, *cosines in zip(texts, *cosines_by_teacher.values(), strict=True)
        )
    return records


def _cosines(sample: Sample, of: str, num_texts: int) -> dict[str, list[float]]:
    """Teacher of images and texts → the cosine of each text of a kind with the views, mean over these.

    Raises SampleSkipped where the embeddings have another shape than they need.
    """
    cosines = {}
    for teacher in (column.teacher for column in sample.columns if column.of == TEXT):
        image_emb_ND = sample.columns.get(Column(teacher, IMAGE))
        if image_emb_ND is None or not len(image_emb_ND):
            continue
        text_emb_TD = sample.columns.get(Column(teacher, of), np.empty((0, 0)))
        if text_emb_TD.shape != (num_texts, image_emb_ND.shape[1]):
            expected = f"{plural(num_texts, 'text')} and views of {plural(image_emb_ND.shape[1], 'dim')}"
            raise SampleSkipped("misshapen embedding", f"{of}: {list(text_emb_TD.shape)} for {expected}")
        # The one column of teachers that nobody names holds several vectors of norm 1 side by side.
        squared_norm = np.nan_to_num((sample.columns[Column("", TEXT)] ** 2).sum()) if not teacher else 1
        cosines[teacher] = (text_emb_TD @ image_emb_ND.mean(axis=0) / max(1, round(float(squared_norm)))).tolist()
    return cosines


def _by_transform(view: View, recipe: Recipe) -> dict[str, Any]:
    """A view's parameters by the names of the transforms, each as it is stored."""
    encoders = {transform.name: transform.encode for transform in (*recipe.transforms, *recipe.mixings)}
    named = {name: encoders[name](parameters) for name, parameters in view if name != PAIR}
    if pair := pair_of(view):
        named[PAIR] = {"id2": pair.id2, "view": _by_transform(pair.view, recipe)}
    return named


def _finite(tree: Any) -> Any:
    """The tree with None in place of each number that JSON does not have."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
