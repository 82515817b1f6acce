"""Check a dataset against the contract and its own books: every shard, every sample, every embedding."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.records import Reinforcement
from dr_pipeline.shards import layout
from dr_pipeline.shards.ledger import read_config
from dr_pipeline.shards.sample import IMAGE_EXTS, group
from dr_pipeline.shards.storage import Storage
from dr_pipeline.shards.tar import read_members
from dr_pipeline.views import params

_NORM_TOLERANCE = {"bfloat16": 1e-2, "float32": 1e-3}  # bfloat16 keeps 8 bits of each value


@dataclass
class Findings:
    """What was read, and what is wrong with it as (shard, key, problem)."""

    num_shards: int = 0
    num_samples: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, shard: str, key: str, problem: str) -> None:
        """Enter a problem; the key is empty where the shard as a whole is meant."""
        self.problems.append((shard, key, problem))


def verify(uri: str, storage: Storage) -> Findings:
    """Read a dataset folder, or one tar. Raises ConfigError when there is nothing to read."""
    root = storage.absolute(uri)
    findings = Findings()
    if root.endswith(".tar"):
        _verify_shard(root, root.rpartition("/")[2], storage, _Expected({}), findings)
        return findings
    tars = sorted(storage.shards(root))
    if not tars:
        raise ConfigError(f"{root}: no shard here to verify")
    expected = _Expected(read_config(root, storage) or {})
    reports = _reports(root, storage, expected)
    for name in tars:
        _verify_books(name, reports, expected, findings)
        _verify_shard(f"{root}/{name}", name, storage, expected, findings, reports.get(name))
    for name, error in _failed_shards(root, storage):
        if name not in reports:
            findings.add(name, "", f"the run could not reinforce it: {error}")
    for name in sorted(reports.keys() - set(tars)):
        findings.add(name, "", "its report says done, but the tar is missing: delete the report and run the job again")
    return findings


class _Expected:
    """What config.json promises, or where there is none, what the first sample sets."""

    def __init__(self, config: dict[str, Any]):
        ours = config.get("dr_pipeline", {})
        self.fingerprint: str | None = ours.get("fingerprint")
        self.layout: str | None = ours.get("layout")
        self.num_views: int | None = ours.get("num_views")
        self.dims: list[int] = [teacher["dim"] for teacher in ours.get("teachers", []) if teacher.get("dim")]
        self.with_images: bool = ours.get("identity", {}).get("output", {}).get("images") != "omit"
        self.total_dim: int | None = sum(self.dims) or None


def _reports(root: str, storage: Storage, expected: _Expected) -> dict[str, dict[str, Any]]:
    """The reports by shard name; {} for a dataset of another writer."""
    if not expected.fingerprint:
        return {}
    folder = f"{root}/reports/{expected.fingerprint}"
    return {
        name.removesuffix(".json") + ".tar": json.loads(storage.read(f"{folder}/{name}"))
        for name in storage.files(folder)
        if name.endswith(".json")  # else it was still being written when its run was killed
    }


def _failed_shards(root: str, storage: Storage) -> list[tuple[str, str]]:
    """The shards that the manifest says failed, and why."""
    uri = f"{root}/manifest/shards.parquet"
    if not storage.exists(uri):
        return []
    # Without threads: pyarrow's pool, started this late, may still be starting when the process ends, and aborts it.
    table = pq.ParquetFile(pa.BufferReader(storage.read(uri))).read(["name", "status", "error"], use_threads=False)
    rows = table.to_pylist()
    return [(row["name"], row["error"]) for row in rows if row["status"] == "failed"]


def _verify_books(name: str, reports: dict[str, Any], expected: _Expected, findings: Findings) -> None:
    if expected.fingerprint and name not in reports:
        findings.add(name, "", "no report: the shard was never committed; run the job again")


def _verify_shard(
    uri: str, name: str, storage: Storage, expected: _Expected, findings: Findings, report: dict[str, Any] | None = None
) -> None:
    findings.num_shards += 1
    num_samples, seen = 0, set[str]()
    try:
        with storage.open(uri) as file:
            stream = _Digested(file)
            for key, fields in group(read_members(stream)):  # type: ignore[arg-type]
                num_samples += 1
                if key in seen:
                    findings.add(name, key, "the key comes twice")
                seen.add(key)
                for problem in _sample_problems(fields, expected):
                    findings.add(name, key, problem)
            stream.read()
    except (ShardError, OSError) as error:
        findings.add(name, "", str(error))
        return
    findings.num_samples += num_samples
    if report and stream.hexdigest() != report["sha256"]:
        findings.add(name, "", "its SHA-256 is not the one that its report gives: the file was changed")
    if report and num_samples != report["num_written"]:
        findings.add(name, "", f"{num_samples} samples, but its report says {report['num_written']}")


class _Digested(io.RawIOBase):
    """A stream that hashes what is read from it."""

    def __init__(self, file: Any):
        self._file, self._sha256 = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _sample_problems(fields: dict[str, bytes], expected: _Expected) -> Iterator[str]:
    if "txt" not in fields:
        yield "no txt: a consumer drops the sample"
    try:
        made, form = layout.decode(fields)
    except SampleSkipped as skip:
        yield str(skip)
        return
    expected.layout = expected.layout or form
    if form != expected.layout:
        yield f"layout {form} in a dataset of layout {expected.layout}"
    yield from _image_problems(fields, made, expected)
    yield from _shape_problems(made, expected)
    precision = "float32" if "npz" in fields else "bfloat16"
    yield from _value_problems(made, expected, _NORM_TOLERANCE[precision])


def _image_problems(fields: dict[str, bytes], made: Reinforcement, expected: _Expected) -> Iterator[str]:
    ext = next((ext for ext in IMAGE_EXTS if ext in fields), None)
    if ext is None:
        if expected.with_images:
            yield "no image: a consumer drops the sample"
        return
    try:
        width, height = Image.open(io.BytesIO(fields[ext])).size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        yield f"{ext}: {error}"
        return
    for index, view in enumerate(made.views):
        if not params.fits(view, width, height):
            yield f"view {index}: crop {list(view.crop)} lies outside the image of {width} × {height} px"


def _shape_problems(made: Reinforcement, expected: _Expected) -> Iterator[str]:
    num_views, total_dim = made.image_emb_ND.shape
    expected.num_views = expected.num_views or num_views
    expected.total_dim = expected.total_dim or total_dim
    if num_views != len(made.views) or num_views != expected.num_views:
        yield f"image_emb has {num_views} rows for {len(made.views)} views; the dataset has {expected.num_views}"
    if len(made.text_emb_TD) != 1:
        yield f"text_emb has {len(made.text_emb_TD)} rows for one caption"
    for key, emb_TD in made.synthetic_emb_TD.items():
        if len(emb_TD) != len(made.synthetic[key]):
            yield f"{key} has {len(made.synthetic[key])} captions but {len(emb_TD)} embeddings"
    for name, emb in _embeddings(made):
        if emb.shape[-1] != expected.total_dim:
            yield f"{name} has {emb.shape[-1]} dims; the dataset has {expected.total_dim}"


def _value_problems(made: Reinforcement, expected: _Expected, tolerance: float) -> Iterator[str]:
    for name, emb in _embeddings(made):
        if not np.isfinite(emb).all():
            yield f"{name} holds NaN or infinity"
        elif sum(expected.dims) != emb.shape[-1]:
            yield from _norm_problems(name, emb, tolerance)
        else:
            for index, slice_ in enumerate(np.split(emb, np.cumsum(expected.dims)[:-1], axis=-1)):
                off = np.abs(np.linalg.norm(slice_, axis=-1) - 1).max(initial=0)
                if off > tolerance:
                    yield f"{name}: teacher {index}'s slice has a norm that is {off:.3g} off 1"


def _norm_problems(name: str, emb: np.ndarray, tolerance: float) -> Iterator[str]:
    """Where the teachers' dims are unknown: K slices of norm 1 make a squared norm of K."""
    squared = (emb.astype(np.float64) ** 2).sum(axis=-1)
    off = np.abs(squared - np.maximum(squared.round(), 1)).max(initial=0)
    if off > 2 * tolerance * squared.max(initial=1):
        yield f"{name}: a squared norm is {off:.3g} off a whole number of teachers"


def _embeddings(made: Reinforcement) -> Iterator[tuple[str, np.ndarray]]:
    yield "image_emb", made.image_emb_ND
    yield "text_emb", made.text_emb_TD
    yield from made.synthetic_emb_TD.items()
