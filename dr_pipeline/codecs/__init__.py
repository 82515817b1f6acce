"""The forms of the member that holds a sample's embeddings: a class each, in a file of its own.

Another form is one more file, and its class one more entry of `CODECS`. Nothing here imports the rest of the package.
"""

from collections.abc import Iterable

from dr_pipeline.codecs.codec import Codec
from dr_pipeline.codecs.npz import Npz
from dr_pipeline.codecs.pth_gz import PthGz

CODECS: tuple[Codec, ...] = (PthGz(), Npz())
"""Where a sample has several forms, the last of these is read: npz before pth.gz, as the consumers do."""


def codec_for(precision: str) -> Codec:
    """The codec that a job names by its `output.precision`. Raises ValueError where there is none of that name."""
    for codec in CODECS:
        if codec.precision == precision:
            return codec
    raise ValueError(f"expected {' or '.join(codec.precision for codec in CODECS)}")


def find_codec(fields: Iterable[str]) -> Codec | None:
    """The codec of the embeddings among a sample's extensions; None where it has none."""
    held = set(fields)
    return next((codec for codec in reversed(CODECS) if codec.ext in held), None)


def extensions() -> tuple[str, ...]:
    """Of the members that hold embeddings."""
    return tuple(codec.ext for codec in CODECS)
