"""What a codec is, and what all of them keep to."""

from typing import TYPE_CHECKING, Protocol
from zipfile import ZipInfo

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray | Tensor

LARGEST_BYTES = 64 << 20
"""Of one sample's embeddings, whatever its member claims: 20,000 rows of 1536 bfloat16 numbers."""


class Codec(Protocol):
    """A form of the embeddings of one sample: arrays by name ↔ the bytes of one member of the tar."""

    ext: str
    """The member's extension."""
    precision: str
    """What `output.precision` calls this form."""
    stored_bytes: float
    """What one number takes in the member, about."""
    unpacked_bytes: int
    """What one number takes in a reader's memory; a sample with more than LARGEST_BYTES is not read."""
    norm_tolerance: float
    """How far rounding may move the norm of a vector off 1."""
    rounding: float
    """How far rounding may move vectors of norm 1 that were almost equal before."""

    def encode(self, arrays: dict[str, np.ndarray]) -> bytes:
        """float32 arrays by name → the member. The same arrays give the same bytes."""
        ...

    def decode(self, data: bytes) -> dict[str, "Array"]:
        """The member → the arrays of floating-point numbers that `is_embedding` names; it executes no code.

        Raises whatever its libraries raise where the data are damaged or hold anything else.
        """
        ...


def is_embedding(name: str) -> bool:
    """Whether an array of this name holds embeddings: `KIND_emb`, or `KIND_emb_TEACHER`."""
    return name.endswith("_emb") or "_emb_" in name


def to_float32(array: "Array") -> np.ndarray:
    """A stored array, or rows of one, as float32."""
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.detach().float().numpy()


def as_stored(codec: Codec, rows_RD: np.ndarray) -> np.ndarray:
    """float32 rows as a reader finds them once they are written."""
    return to_float32(codec.decode(codec.encode({"rows_emb": rows_RD}))["rows_emb"])


def check_sizes(infos: list[ZipInfo]) -> None:
    """Raise ValueError before anything is inflated that would be more than any sample's embeddings."""
    num_bytes = sum(info.file_size for info in infos)
    if num_bytes > LARGEST_BYTES:
        raise ValueError(f"the archive unpacks to {num_bytes} bytes, more than {LARGEST_BYTES}")
