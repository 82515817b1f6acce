"""A sample and its reinforcement ↔ the members of a tar, in the contract's two layouts."""

import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
from isal import isal_zlib

from dr_pipeline.config import Augmentation, Output
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.records import Reinforcement, Sample, View
from dr_pipeline.shards.archive import LARGEST_BYTES, check_sizes, read_tensors
from dr_pipeline.shards.sample import parse_json, parse_synthetic
from dr_pipeline.views import params

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray | Tensor

_GZIP_WINDOW = 31  # zlib's largest, 15, and 16 for gzip's header and checksum


def encode(
    sample: Sample, made: Reinforcement, output: Output, augmentation: Augmentation
) -> Iterator[tuple[str, bytes]]:
    """The members of one output sample, (name, bytes), in a fixed order."""
    if output.images == "copy":
        yield f"{sample.key}.{sample.image_ext}", sample.image
    yield f"{sample.key}.txt", sample.caption.encode()
    for ext in sorted(sample.others):
        yield f"{sample.key}.{ext}", sample.others[ext]
    yield f"{sample.key}.syn.json", _json(made.synthetic)
    yield f"{sample.key}.paug.json", _json({"param_aug": [params.encode(view, augmentation) for view in made.views]})
    arrays = _arrays(made, output.layout)
    if output.precision == "bfloat16":
        yield f"{sample.key}.pth.gz", _to_pth_gz(arrays)
    else:
        yield f"{sample.key}.npz", _to_npz(arrays)


def decode(fields: dict[str, bytes]) -> tuple[Reinforcement, str]:
    """The members of one sample of any writer, {extension: bytes} → what was added, and its layout (v1 or v2).

    Raises SampleSkipped naming the member when one is missing or malformed. Shapes are the caller's to check.
    """
    synthetic = read_synthetic(fields)
    views = tuple(decode_view(entry) for entry in read_views(fields))
    stored = read_embeddings(fields)
    synthetic_emb_TD = {key: to_float32(array) for key, array in stored.synthetic(synthetic).items()}
    made = Reinforcement(views, synthetic, to_float32(stored.image), to_float32(stored.text), synthetic_emb_TD)
    return made, stored.layout


def read_synthetic(fields: dict[str, bytes]) -> dict[str, list[str]]:
    """The synthetic captions by key. Raises SampleSkipped."""
    return parse_synthetic(_member(fields, "syn.json"))


def read_views(fields: dict[str, bytes]) -> list[Any]:
    """The entries of `param_aug`, a list or a string that holds one, for `decode_view`. Raises SampleSkipped."""
    tree = parse_json(_member(fields, "paug.json"), "paug.json")
    try:
        entries = tree["param_aug"]
        if isinstance(entries, str):
            entries = json.loads(entries)
    except (ValueError, KeyError, RecursionError) as error:
        raise SampleSkipped("bad paug.json", str(error)) from error
    if not isinstance(entries, list):
        raise SampleSkipped("bad paug.json", f"param_aug is a list, found {type(entries).__name__}")
    return entries


def decode_view(entry: Any) -> View:
    """One entry of `param_aug`. Raises SampleSkipped."""
    try:
        return params.decode(entry)
    except ValueError as error:
        raise SampleSkipped("bad paug.json", str(error)) from error


@dataclass(frozen=True)
class StoredEmbeddings:
    """The embeddings of one sample in their stored precision; `to_float32` takes whole arrays or rows of them."""

    arrays: dict[str, "Array"]

    @property
    def layout(self) -> str:
        """v1 or v2, as the consumers tell them apart."""
        return "v1" if len(self.arrays["text_emb"]) > 1 else "v2"

    @property
    def image(self) -> "Array":
        """[views, D]."""
        return self.arrays["image_emb"]

    @property
    def text(self) -> "Array":
        """The ground-truth captions', [T, D]."""
        return self.arrays["text_emb"][:1] if self.layout == "v1" else self.arrays["text_emb"]

    def synthetic(self, keys: Iterable[str]) -> dict[str, "Array"]:
        """The synthetic captions' by key, each [T, D]; `keys` are all those of `syn.json`. Raises SampleSkipped."""
        keys = list(keys)
        if self.layout == "v1":
            if len(keys) != 1:
                raise SampleSkipped("bad layout", f"v1 holds one synthetic key, found {', '.join(keys)}")
            return {keys[0]: self.arrays["text_emb"][1:]}
        missing = [f"{key}_emb" for key in keys if f"{key}_emb" not in self.arrays]
        if missing:
            raise SampleSkipped("missing embedding", ", ".join(missing))
        return {key: self.arrays[f"{key}_emb"] for key in keys}


def read_embeddings(fields: dict[str, bytes]) -> StoredEmbeddings:
    """The embeddings as stored; where both forms exist npz is read, as the consumers do. Raises SampleSkipped."""
    arrays = _read_arrays(fields)
    for name in ("image_emb", "text_emb"):
        if name not in arrays:
            raise SampleSkipped("missing embedding", name)
    for name, array in arrays.items():
        if array.ndim != 2:
            raise SampleSkipped("misshapen embedding", f"{name} has shape {list(array.shape)}")
    return StoredEmbeddings(arrays)


def to_float32(array: "Array") -> np.ndarray:
    """A stored array, or rows of one, as float32."""
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.detach().float().numpy()


def _arrays(made: Reinforcement, layout: str) -> dict[str, np.ndarray]:
    if layout == "v1":
        (synthetic_emb_TD,) = made.synthetic_emb_TD.values()
        return {"image_emb": made.image_emb_ND, "text_emb": np.concatenate([made.text_emb_TD, synthetic_emb_TD])}
    synthetic = {f"{key}_emb": emb_TD for key, emb_TD in made.synthetic_emb_TD.items()}
    return {"image_emb": made.image_emb_ND, "text_emb": made.text_emb_TD, **synthetic}


def _member(fields: dict[str, bytes], ext: str) -> bytes:
    if ext not in fields:
        raise SampleSkipped("missing member", ext)
    return fields[ext]


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _to_pth_gz(arrays: dict[str, np.ndarray]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array).to(torch.bfloat16) for name, array in arrays.items()}, buffer)
    # Exponents repeat, sequences of them do not. Without a search for these the file is as small as by level 9, is
    # written in an eighth of its time and inflated in two thirds; the runs are the archive's own padding.
    packer = zlib.compressobj(1, wbits=_GZIP_WINDOW, memLevel=9, strategy=zlib.Z_RLE)
    return packer.compress(buffer.getvalue()) + packer.flush()


def _to_npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_arrays(fields: dict[str, bytes]) -> dict[str, "Array"]:
    try:
        if "npz" in fields:
            return _from_npz(fields["npz"])
        if "pth.gz" in fields:
            return _from_pth_gz(fields["pth.gz"])
    except MemoryError:
        raise
    except Exception as error:  # isal, zipfile, zlib, NumPy's tokenizer and torch each have errors of their own
        detail = str(error).partition("\n")[0] or type(error).__name__
        raise SampleSkipped("unreadable embeddings", detail) from error
    raise SampleSkipped("missing member", "pth.gz or npz")


def _from_npz(data: bytes) -> dict[str, "Array"]:
    arrays = {}
    with ZipFile(io.BytesIO(data)) as archive:
        check_sizes(archive.infolist())
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if name.endswith("_emb"):
                arrays[name] = _from_npy(archive.read(member))
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{name} holds {array.dtype}, not floating-point numbers")
    return dict(arrays)


def _from_npy(data: bytes) -> np.ndarray:
    """The array as a view on its bytes: NumPy's own reader allocates what the header claims."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("holds more than numbers")
    return np.ndarray(shape, dtype, data, stream.tell(), order="F" if is_fortran else "C")


def _from_pth_gz(data: bytes) -> dict[str, "Array"]:
    import torch

    arrays: dict[str, Array] = {}
    for name, tensor in read_tensors(_inflate(data)).items():
        if str(name).endswith("_emb"):
            if tensor.layout != torch.strided or not tensor.is_floating_point():
                raise ValueError(f"{name} holds {tensor.dtype}, not floating-point numbers")
            arrays[name] = tensor
    return arrays


def _inflate(data: bytes) -> bytes:
    """A gzip file's content, of one or more parts. Raises ValueError where it is more than any sample's embeddings."""
    content = bytearray()
    while data:
        part = isal_zlib.decompressobj(_GZIP_WINDOW)
        content += part.decompress(data, LARGEST_BYTES + 1 - len(content))
        if len(content) > LARGEST_BYTES:
            raise ValueError(f"unpacks to more than {LARGEST_BYTES} bytes")
        if not part.eof:
            raise EOFError("the gzip file is cut")
        data = part.unused_data.lstrip(b"\0")  # some writers fill up with zeros
    return bytes(content)
