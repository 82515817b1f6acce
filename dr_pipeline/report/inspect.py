"""Show a few samples of a dataset: the alt-text, the synthetic captions and how well the teachers think they fit."""

from collections.abc import Iterator
from itertools import islice

from dr_pipeline.dataset import layout
from dr_pipeline.dataset.caption_faults import describe_faults, faults
from dr_pipeline.dataset.config_json import read_config
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.storage import Storage
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe, read_recipe


def inspect(uri: str, storage: Storage, count: int) -> Iterator[str]:
    """Lines about the first `count` samples of a dataset's first shard, or of one tar.

    A caption's cosine is the mean over the sample's views and the teachers. Raises ConfigError where there is no
    shard, ShardError or StorageError where it cannot be read.
    """
    root = storage.absolute(uri)
    tars = [root] if storage.is_file(root) else [f"{root}/{name}" for name in sorted(storage.shards(root))]
    if not tars:
        raise ConfigError(f"{root}: no shard here to inspect")
    recipe = UNDESCRIBED
    if tars[0] != root:
        config, name = read_config(root, storage), tars[0].removeprefix(f"{root}/")
        recipe = read_recipe(config)
        fingerprint = str(config.get("dr_pipeline", {}).get("fingerprint", ""))
        report = Reports(storage, root, fingerprint).find(name) if fingerprint else None
        for key, found in report.captions.items() if report else ():
            yield f"{name}: {describe_faults(key, found, found['drawn'])}"
    try:
        with storage.open(tars[0]) as stream:
            for sample in islice(read_samples(stream), count):
                yield from _describe(sample, recipe)
    except SampleSkipped as error:
        raise ShardError(f"{tars[0]}: {error}") from error


def _describe(sample: Sample, recipe: Recipe) -> Iterator[str]:
    layout.decode(sample, recipe)
    image_emb_ND, (text_emb_D,) = sample.columns[Column("", IMAGE)], sample.columns[Column("", TEXT)]
    num_teachers = max(1, round(float((text_emb_D**2).sum())))  # each one's slice has norm 1
    mean_view_D = image_emb_ND.mean(axis=0) / num_teachers
    yield f"{sample.key}: {len(sample.views)} views, embeddings of {image_emb_ND.shape[1]} dims"
    alt_text = sample.members.get("txt", b"").decode(errors="replace")
    yield f"  {'alt-text':<16} {text_emb_D @ mean_view_D:+.3f}  {alt_text}"
    for name, captions in sample.synthetic.items():
        for caption, emb_D in zip(captions, sample.columns[Column("", name)], strict=True):
            marks = "".join(f"  [{fault}]" for fault in faults([caption]))
            yield f"  {name:<16} {emb_D @ mean_view_D:+.3f}  {caption}{marks}"
