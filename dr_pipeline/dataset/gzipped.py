"""The content of a gzip file as a stream that is read forwards."""

import io
from gzip import BadGzipFile
from typing import Any, BinaryIO

from isal import igzip, isal_zlib

from dr_pipeline.errors import ShardError

MARK = b"\x1f\x8b"
"""What every gzip file begins with."""

_PIECE_BYTES = 1 << 20
_FURTHEST_BYTES = 1 << 30  # a seek unpacks all that it passes over, of which a thousandth may be in the file
_DAMAGED: Any = (EOFError, BadGzipFile, isal_zlib.error)  # whose stubs call the class an instance


class Unpacked:
    """The content of a gzip file of one part or more, whose checksums are compared as their ends are read."""

    def __init__(self, start: bytes, stream: BinaryIO):
        """`start` is what has been read of the stream."""
        self._file = igzip.IGzipFile(fileobj=_Rejoined(start, stream), mode="rb")
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`. Raises ShardError where the file is cut or damaged."""
        try:
            data = self._file.read(size)
        except _DAMAGED as error:
            raise ShardError(f"the gzip file is cut or damaged: {error}: copy or download it again") from error
        self._position += len(data)
        return data

    def seekable(self) -> bool:
        """True, forwards: a seek unpacks what lies between."""
        return True

    def seek(self, offset: int) -> int:
        """Go on to a place, or to the end where that comes first. Raises ShardError where it lies too far ahead."""
        if offset - self._position > _FURTHEST_BYTES:
            raise ShardError(
                f"a member has more than the {_FURTHEST_BYTES} bytes that are unpacked to pass it over: gunzip the tar"
            )
        while (left := offset - self._position) > 0 and self.read(min(left, _PIECE_BYTES)):
            pass
        return self._position


class _Rejoined(io.RawIOBase):
    """A stream with what has been read of it put back at its start."""

    def __init__(self, start: bytes, stream: BinaryIO):
        self._start, self._stream = start, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._start[: len(buffer)] or self._stream.read(len(buffer))
        self._start = self._start[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)
