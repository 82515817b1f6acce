"""A sample and its reinforcement ↔ the members of a tar, in the contract's two layouts."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dr_pipeline.config import Augmentation, Output
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.records import Reinforcement, Sample, View
from dr_pipeline.shards.sample import parse_synthetic
from dr_pipeline.views import params

_GZIP_LEVEL = 1  # within 1 % of level 9's size on bfloat16 embeddings, in half the time


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
    for ext in ("syn.json", "paug.json"):
        if ext not in fields:
            raise SampleSkipped("missing member", ext)
    synthetic = parse_synthetic(fields["syn.json"])
    views = _decode_views(fields["paug.json"])
    arrays = _decode_arrays(fields)
    for name in ("image_emb", "text_emb"):
        if name not in arrays:
            raise SampleSkipped("missing embedding", name)
    for name, array in arrays.items():
        if name.endswith("_emb") and array.ndim != 2:
            raise SampleSkipped("misshapen embedding", f"{name} has shape {list(array.shape)}")
    layout = "v1" if len(arrays["text_emb"]) > 1 else "v2"
    text_emb_TD, synthetic_emb_TD = _split_texts(arrays, synthetic, layout)
    return Reinforcement(views, synthetic, arrays["image_emb"], text_emb_TD, synthetic_emb_TD), layout


def _arrays(made: Reinforcement, layout: str) -> dict[str, np.ndarray]:
    if layout == "v1":
        (synthetic_emb_TD,) = made.synthetic_emb_TD.values()
        return {"image_emb": made.image_emb_ND, "text_emb": np.concatenate([made.text_emb_TD, synthetic_emb_TD])}
    synthetic = {f"{key}_emb": emb_TD for key, emb_TD in made.synthetic_emb_TD.items()}
    return {"image_emb": made.image_emb_ND, "text_emb": made.text_emb_TD, **synthetic}


def _split_texts(
    arrays: dict[str, np.ndarray], synthetic: dict[str, list[str]], layout: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if layout == "v1":
        if len(synthetic) != 1:
            raise SampleSkipped("bad layout", f"v1 holds one synthetic key, found {', '.join(synthetic)}")
        return arrays["text_emb"][:1], dict.fromkeys(synthetic, arrays["text_emb"][1:])
    missing = [f"{key}_emb" for key in synthetic if f"{key}_emb" not in arrays]
    if missing:
        raise SampleSkipped("missing embedding", ", ".join(missing))
    return arrays["text_emb"], {key: arrays[f"{key}_emb"] for key in synthetic}


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _to_pth_gz(arrays: dict[str, np.ndarray]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(array).to(torch.bfloat16) for name, array in arrays.items()}, buffer)
    return gzip.compress(buffer.getvalue(), _GZIP_LEVEL, mtime=0)


def _to_npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _decode_arrays(fields: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The embeddings as float32; where both forms exist, npz is read, as the consumers do."""
    try:
        if "npz" in fields:
            with np.load(io.BytesIO(fields["npz"]), allow_pickle=False) as archive:
                return {name: archive[name].astype(np.float32) for name in archive.files}
        if "pth.gz" in fields:
            return _from_pth_gz(fields["pth.gz"])
    except (OSError, EOFError, ValueError, TypeError, RuntimeError, KeyError, zlib.error, BadZipFile) as error:
        detail = str(error).partition("\n")[0] or type(error).__name__
        raise SampleSkipped("unreadable embeddings", detail) from error
    raise SampleSkipped("missing member", "pth.gz or npz")


def _from_pth_gz(data: bytes) -> dict[str, np.ndarray]:
    import pickle

    import torch

    try:
        tensors = torch.load(io.BytesIO(gzip.decompress(data)), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("holds more than tensors") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError("a dictionary of tensors is expected")
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def _decode_views(data: bytes) -> tuple[View, ...]:
    """`param_aug` is a list, or a string that holds one."""
    try:
        entries = json.loads(data)["param_aug"]
        if isinstance(entries, str):
            entries = json.loads(entries)
        return tuple(params.decode(entry) for entry in entries)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SampleSkipped("bad paug.json", str(error)) from error
