"""The members of a tar, for tests that change some of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import Column, Sample, split_name
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.dataset.tar import read_tar
from dr_pipeline.views.recipe import UNDESCRIBED, Recipe

Member = tuple[str, bytes]
"""A name, and the bytes."""


def read_members(stream: BinaryIO) -> list[Member]:
    """The files of a tar, in order."""
    return [(member.name, member.data) for member in read_tar(stream) if member.data is not None]


def group(members: Iterable[Member]) -> list[tuple[str, dict[str, bytes]]]:
    """Neighbouring members of one key: (key, {extension: bytes})."""
    samples: list[tuple[str, dict[str, bytes]]] = []
    for name, data in members:
        key, ext = split_name(name)
        if not samples or samples[-1][0] != key or ext in samples[-1][1]:
            samples.append((key, {}))
        samples[-1][1][ext] = data
    return samples


def read_reinforced(path: Path, recipe: Recipe = UNDESCRIBED) -> dict[str, Sample]:
    """Every sample of a reinforced shard by key, decoded."""
    with path.open("rb") as stream:
        samples = {sample.key: sample for sample in read_samples(stream)}
    for sample in samples.values():
        layout.decode(sample, recipe)
    return samples


def stored(sample: Sample, of: str) -> np.ndarray:
    """The embeddings of a decoded sample as they lie side by side, [rows, sum(dims)]."""
    return sample.columns[Column("", of)]


def members_of(sample: Sample) -> list[Member]:
    """A sample's members as they are written."""
    return [(f"{sample.key}.{ext}", data) for ext, data in sample.members.items()]
