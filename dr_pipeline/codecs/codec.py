"""What a codec is, and what all of them keep to."""

from typing import TYPE_CHECKING, Protocol
from zipfile import ZipInfo

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray | Tensor

LARGEST_BYTES = 64 << 20
"""Of one sample's embeddings, whatever its member claims: 20,000 rows of 1536 bfloat16 numbers."""

PROBS_VALUES, PROBS_INDICES = "image_probs_values", "image_probs_indices"
"""Arrays [views, K]: the K largest class probabilities of each view, the largest first, and whose classes they are."""


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
        """Arrays by name, float32 or int32 → the member; integers stay exact. The same arrays give the same bytes."""
        ...

    def decode(self, data: bytes) -> dict[str, "Array"]:
        """The member → the arrays whose names `is_column` knows, of the numbers that `check_kind` wants; no code runs.

        Raises whatever its libraries raise where the data are damaged or hold anything else.
        """
        ...


def is_column(name: str) -> bool:
    """Whether an array of this name is one of ours: embeddings, `KIND_emb` or `KIND_emb_TEACHER`, or sparse
    probabilities.
    """
    return name.endswith("_emb") or "_emb_" in name or name in (PROBS_VALUES, PROBS_INDICES)


def check_kind(name: str, is_floating: bool, is_integer: bool, kind: object) -> None:
    """Raise ValueError unless an array holds floating-point numbers, or integers where it holds the indices of classes.

    `kind`: the numbers, for the error.
    """
    if not (is_integer if name == PROBS_INDICES else is_floating):
        expected = "integers" if name == PROBS_INDICES else "floating-point numbers"
        raise ValueError(f"{name} holds {kind}, not {expected}")


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
