"""bfloat16 numbers, and integers, in an archive of torch's, packed by gzip."""

import io
import zlib
from typing import TYPE_CHECKING

import numpy as np
from isal import isal_zlib

from dr_pipeline.codecs.archive import read_tensors
from dr_pipeline.codecs.codec import LARGEST_BYTES, check_kind, is_column

if TYPE_CHECKING:
    from dr_pipeline.codecs.codec import Array

_GZIP_WINDOW = 31  # zlib's largest, 15, and 16 for gzip's header and checksum


class PthGz:
    """A Codec: `torch.save` writes what is in it, and `torch.load` reads it with `weights_only`."""

    ext = "pth.gz"
    precision = "bfloat16"
    stored_bytes = 2.0 * 0.81  # gzip takes 19 % off
    unpacked_bytes = 2
    norm_tolerance = 1e-2  # 8 bits of each number are kept
    rounding = 2e-4

    def encode(self, arrays: dict[str, np.ndarray]) -> bytes:
        """See Codec."""
        import torch

        buffer = io.BytesIO()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        rounded = {name: one.to(torch.bfloat16) if one.is_floating_point() else one for name, one in tensors.items()}
        torch.save(rounded, buffer)
        # Exponents repeat, sequences of them do not. Without a search for these the file is as small as by level 9, is
        # written in an eighth of its time and inflated in two thirds; the runs are the archive's own padding.
        packer = zlib.compressobj(1, wbits=_GZIP_WINDOW, memLevel=9, strategy=zlib.Z_RLE)
        return packer.compress(buffer.getvalue()) + packer.flush()

    def decode(self, data: bytes) -> dict[str, "Array"]:
        """See Codec; of any precision, as tensors, since NumPy has no bfloat16."""
        import torch

        arrays: dict[str, Array] = {}
        for name, tensor in read_tensors(_inflate(data)).items():
            if is_column(str(name)):
                is_strided, kind = tensor.layout == torch.strided, tensor.dtype
                is_integer = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
                check_kind(name, is_strided and kind.is_floating_point, is_strided and is_integer, kind)
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
