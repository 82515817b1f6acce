"""Published datasets of captioned or labelled images become tars: one sample an image, each tar written whole.

preparation.json         settings, digest of the source, and of each shard: samples, where the next one begins, skips
00000.tar, 00001.tar, …  KEY.jpg, KEY.txt, KEY.json; KEY.syn.json where an image has several captions, KEY.cls a label
classes.json             labelled images: the names of the classes in order; classnames.txt: the same for `evaluate`

A shard holds as many samples as it is to, whatever was skipped in between, and its bytes depend on source and settings
alone. A run that was stopped goes on behind the last shard that is recorded.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from dr_pipeline.config.job import differing_keys
from dr_pipeline.config.preparation import Kind, Preparation
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import write_samples
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError, reason
from dr_pipeline.preparation import dci, docci, gbc, image_folder, mscoco, recap_coco, sharegpt4v
from dr_pipeline.preparation.item import Item
from dr_pipeline.preparation.source import Source
from dr_pipeline.storage import Storage
from dr_pipeline.views.render import FORMATS, decode

CAPTIONS_KEY = "captions"
"""The key of `syn.json` that holds all captions of an image that has several."""

_KINDS: dict[Kind, ModuleType] = {
    "mscoco": mscoco,
    "docci": docci,
    "dci": dci,
    "gbc": gbc,
    "sharegpt4v": sharegpt4v,
    "recap-coco-30k": recap_coco,
    "image-folder": image_folder,
}
_EXTS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2"}
"""Pillow's formats whose extension is not their name."""
_RECORD = "preparation.json"
_THREADS = 8
_READ_AHEAD = 64


@dataclass(frozen=True)
class PreparedShard:
    """A shard that is written."""

    name: str
    samples: int
    behind: int
    """How many of the source's items come up to its end, used or not."""
    sha256: str
    skipped: dict[str, int]
    """Reason → items that were passed over since the shard before."""


@dataclass
class _Tally:
    """What came since the last shard."""

    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def count(self, samples: Iterable[Sample | SampleSkipped]) -> Iterator[Sample]:
        """The samples; they are counted, and what lies between them by its reason."""
        for sample in samples:
            if isinstance(sample, SampleSkipped):
                self.skipped[sample.reason] += 1
            else:
                self.used += 1
                yield sample


def prepare(settings: Preparation, shard_written: Callable[[PreparedShard], None]) -> list[PreparedShard]:
    """Write all shards that are not there yet, and call `shard_written` behind each. Gives all shards in order.

    Raises ConfigError where the source is not what its kind is, or the output holds other tars; ShardError where
    nothing of the source can be used.
    """
    source, storage = Source(settings.source, settings.images), Storage(settings.storage)
    output = storage.absolute(settings.output)
    if any(Path(storage.canonical(output)).is_relative_to(folder) for folder in (source.folder, source.images)):
        raise ConfigError(
            f"OUTPUT: {output} lies in the source, of which it would become a part: choose another folder"
        )
    items = _unrepeated(_KINDS[settings.kind].read(settings, source))
    identity = {**settings.identity(), "source_digest": source.digest}
    shards = _written_before(output, storage, identity)
    tally = _Tally()
    with ThreadPoolExecutor(_THREADS) as pool:
        behind = shards[-1].behind if shards else 0
        usable = tally.count(_made(islice(items, behind, None), settings, pool))
        for first in usable:
            name = f"{len(shards):05d}.tar"
            with storage.staged(f"{output}/{name}") as path:
                digest = write_samples(path, chain([first], islice(usable, settings.samples_per_shard - 1)))
            behind += tally.used + tally.skipped.total()
            shards.append(PreparedShard(name, tally.used, behind, digest.sha256, dict(tally.skipped)))
            tally.used = 0
            tally.skipped.clear()
            _record(output, storage, identity, shards)
            shard_written(shards[-1])
    skipped = tally.skipped  # behind the last sample
    if not shards:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.items()) or "it is empty"
        raise ShardError(f"{settings.source}: no sample can be made of it: {reasons}")
    if skipped:
        both = dict(Counter(shards[-1].skipped) + skipped)
        shards[-1] = replace(shards[-1], behind=behind + skipped.total(), skipped=both)
        _record(output, storage, identity, shards)
    if settings.kind == "image-folder":
        lines = [" ".join(name.split()) for name in source.folders]
        storage.write(f"{output}/classes.json", json.dumps([*source.folders], indent=1).encode())
        storage.write(f"{output}/classnames.txt", "".join(f"{line}\n" for line in lines).encode())
    return shards


def _unrepeated(items: Iterable[Item | SampleSkipped]) -> Iterator[Item | SampleSkipped]:
    keys = set[str]()
    for item in items:
        if isinstance(item, Item) and item.key in keys:
            yield SampleSkipped("duplicate key", item.key)
            continue
        if isinstance(item, Item):
            keys.add(item.key)
        yield item


def _made(
    items: Iterator[Item | SampleSkipped], settings: Preparation, pool: ThreadPoolExecutor
) -> Iterator[Sample | SampleSkipped]:
    """A sample for each item, in order; images are read and decoded a number at a time."""
    while batch := list(islice(items, _READ_AHEAD)):
        yield from pool.map(partial(_sample, settings=settings), batch)


def _sample(item: Item | SampleSkipped, settings: Preparation) -> Sample | SampleSkipped:
    if isinstance(item, SampleSkipped):
        return item
    try:
        image = item.read_image()
        decode(image, settings.max_image_pixels)
    except SampleSkipped as skip:
        return skip
    form = Image.open(io.BytesIO(image), formats=FORMATS).format or ""
    record = {"uid": f"{settings.kind}/{item.key}", "source": settings.kind, **item.record}
    members = {_EXTS.get(form, form.lower()): image, "json": json.dumps(record, sort_keys=True, default=str).encode()}
    if item.captions:
        members["txt"] = item.captions[0].encode()
    if len(item.captions) > 1:
        members["syn.json"] = json.dumps({CAPTIONS_KEY: item.captions}).encode()
    if item.label is not None:
        members["cls"] = str(item.label).encode()
    return Sample(item.key, members)


def _written_before(output: str, storage: Storage, identity: dict[str, Any]) -> list[PreparedShard]:
    """The shards of an earlier run, up to the first that is gone. Raises ConfigError where other settings made them."""
    try:
        record = json.loads(storage.read(f"{output}/{_RECORD}"))
        shards = [PreparedShard(**shard) for shard in record["shards"]]
        changed = differing_keys(record["settings"], identity)
    except FileNotFoundError:
        if storage.shards(output):
            raise ConfigError(f"{output} holds tars that were not prepared here: choose another folder") from None
        return []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{output}/{_RECORD} cannot be read: {reason(error)}: choose another folder") from error
    if changed:
        raise ConfigError(f"{output} was prepared otherwise: {'; '.join(changed)}: choose another folder, or remove it")
    present = storage.shards(output)
    return list(takewhile(lambda shard: shard.name in present, shards))


def _record(output: str, storage: Storage, identity: dict[str, Any], shards: list[PreparedShard]) -> None:
    record = {"settings": identity, "shards": [asdict(shard) for shard in shards]}
    storage.write(f"{output}/{_RECORD}", json.dumps(record, indent=1).encode())
