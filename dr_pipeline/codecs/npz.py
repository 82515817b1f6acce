"""float32 numbers, and integers, in an archive of NumPy's."""

import io
from typing import TYPE_CHECKING
from zipfile import ZipFile

import numpy as np

from dr_pipeline.codecs.codec import check_kind, check_sizes, is_column

if TYPE_CHECKING:
    from dr_pipeline.codecs.codec import Array


class Npz:
    """A Codec: `numpy.savez` writes it, and reads it without pickle."""

    ext = "npz"
    precision = "float32"
    stored_bytes = 4.0
    unpacked_bytes = 4
    norm_tolerance = 1e-3
    rounding = 1e-5

    def encode(self, arrays: dict[str, np.ndarray]) -> bytes:
        """See Codec."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    def decode(self, data: bytes) -> dict[str, "Array"]:
        """See Codec; of any precision."""
        arrays = {}
        with ZipFile(io.BytesIO(data)) as archive:
            check_sizes(archive.infolist())
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                if is_column(name):
                    arrays[name] = _from_npy(archive.read(member))
        for name, array in arrays.items():
            check_kind(name, array.dtype.kind == "f", array.dtype.kind in "iu", array.dtype)
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
