"""Shows a few samples of a dataset: the alt-text, the synthetic captions, and their image-text cosines."""

from collections.abc import Iterator, Mapping
from itertools import chain, islice

import numpy as np

from dr_pipeline.config.cards import SIMILARITY
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.caption_faults import describe_faults, faults
from dr_pipeline.dataset.config_json import describe_float8, read_config
from dr_pipeline.dataset.manifest import read_scores
from dr_pipeline.dataset.reports import Reports, describe_usage
from dr_pipeline.dataset.sample import IMAGE, PROBS_INDICES, PROBS_VALUES, TEXT, Column, Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.storage import Storage
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe, read_recipe

_SHOWN_CLASSES = 3


def inspect(uri: str, storage: Storage, count: int) -> Iterator[str]:
    """Lines about the first `count` samples of a dataset's first shard, or of one tar.

    A caption's cosine is the mean over the sample's views and the teachers of both images and texts. Raises ConfigError
    where there is no shard, ShardError or StorageError where it, or its table of samples, cannot be read.
    """
    root = storage.absolute(uri)
    tars = [root] if storage.is_file(root) else [f"{root}/{name}" for name in sorted(storage.shards(root))]
    if not tars:
        raise ConfigError(f"{root}: no shard here to inspect")
    recipe = UNDESCRIBED
    if tars[0] != root:
        config, name = read_config(root, storage), tars[0].removeprefix(f"{root}/")
        recipe = read_recipe(config)
        yield from describe_float8(config.get("dr_pipeline", {}))
        fingerprint = str(config.get("dr_pipeline", {}).get("fingerprint", ""))
        report = Reports(storage, root, fingerprint).find(name) if fingerprint else None
        for key, found in report.captions.items() if report else ():
            yield f"{name}: {describe_faults(key, found, found['drawn'])}"
        for key, used in report.usage.items() if report else ():
            yield f"{name}: {describe_usage(key, used)}"
        if report:
            yield from _describe_scores(name, report.num_filtered, read_scores(storage, root, name))
    try:
        with storage.open(tars[0]) as stream:
            for sample in islice(read_samples(stream), count):
                yield from _describe(sample, recipe)
    except SampleSkipped as error:
        raise ShardError(f"{tars[0]}: {error}") from error


def _describe_scores(name: str, num_filtered: int, scores: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A line about each scorer's scores of a shard's samples, and one about the samples that were filtered."""
    names = dict.fromkeys(chain.from_iterable(scores.values()))
    for score in (name for name in names if not name.startswith(SIMILARITY)):
        values = [of_sample[score] for of_sample in scores.values() if score in of_sample]
        low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
        yield f"{name}: {score}: {low:.3g} (5 %), {median:.3g} (median), {high:.3g} (95 %) of {len(values)} samples"
    if num_filtered:
        yield f"{name}: {num_filtered} samples filtered"


def _describe(sample: Sample, recipe: Recipe) -> Iterator[str]:
    """A line about the sample, and one about each of its captions."""
    layout.decode(sample, recipe)
    image_emb_ND, mean_view_D = sample.columns.get(Column("", IMAGE)), None
    if image_emb_ND is None:
        yield f"{sample.key}: {len(sample.views)} views, no cosines: no teacher embeds both images and texts"
    else:
        num_teachers = max(1, round(float((sample.columns[Column("", TEXT)] ** 2).sum())))  # each one's norm is 1
        mean_view_D = image_emb_ND.mean(axis=0) / num_teachers
        yield f"{sample.key}: {len(sample.views)} views, embeddings of {image_emb_ND.shape[1]} dims"
    yield from _describe_classes(sample)
    if not {"txt", "syn.json"} & sample.members.keys():
        return
    alt_text = sample.members.get("txt", b"").decode(errors="replace")
    for of, captions in {TEXT: [alt_text], **sample.synthetic}.items():
        cosines = [""] * len(captions)
        if mean_view_D is not None:
            cosines = [f"{cosine:+.3f}" for cosine in sample.columns[Column("", of)] @ mean_view_D]
        for caption, cosine in zip(captions, cosines, strict=True):
            marks = [] if of == TEXT else [f"  [{fault}]" for fault in faults([caption])]
            yield f"  {'alt-text' if of == TEXT else of:<16} {cosine:<6}  {caption}{''.join(marks)}"


def _describe_classes(sample: Sample) -> Iterator[str]:
    """A line with the class of a sample, and one with the largest probabilities of each view, where there are any."""
    if "cls" in sample.members:
        yield f"  {'class':<16} {sample.members['cls'].decode(errors='replace').strip()}"
    values_NK, indices_NK = (sample.columns.get(Column(name, IMAGE), ()) for name in (PROBS_VALUES, PROBS_INDICES))
    for view, (values_K, indices_K) in enumerate(zip(values_NK, indices_NK, strict=True)):
        largest = islice(zip(indices_K, values_K, strict=True), _SHOWN_CLASSES)
        yield f"  {f'view {view}':<16} " + ", ".join(f"class {index}: {value:.3f}" for index, value in largest)
