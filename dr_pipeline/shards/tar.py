"""Read and write tar shards as streams. Stricter than `tarfile`: a tar that lost its end is an error.

Header blocks are parsed and made by `tarfile.TarInfo`; what is ours is the walk from block to block, which notices a
truncation at any byte, also between two members.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from dr_pipeline.errors import ShardError

Member = tuple[str, bytes]

_BLOCK = tarfile.BLOCKSIZE
END_MARK = bytes(2 * _BLOCK)
"""A tar without it is a truncated one."""

_LONGEST_NAME_BYTES = 1 << 20
_NAME_ERRORS = "backslashreplace"  # a name that is not UTF-8 stays a name that can be printed and stored
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Located(NamedTuple):
    """A member, where its blocks lie in the tar, and its bytes where they were wanted."""

    name: str
    start: int
    """Its first header block, that of a long name included."""
    end: int
    data: bytes | None


def read_members(stream: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar, (name, bytes), in order; links, devices and folders are passed over.

    Raises ShardError when the stream is no tar or ends before the tar's end mark.
    """
    for member in scan(stream, lambda name: True):
        yield member.name, member.data or b""


def scan(stream: BinaryIO, wanted: Callable[[str], bool]) -> Iterator[Located]:
    """As `read_members`, but the data of a member whose name is not wanted are passed over: the stream must seek."""
    long_name: str | None = None
    start = end = 0
    while True:
        header = _read_header(stream, end)
        if header is None:
            return
        end += member_size(header.size)
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            long_name = _long_name(header, stream) or long_name
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ShardError(f"member {header.name!r} is a sparse file: write the tar without --sparse")
        name = long_name or header.name
        data = _read_padded(stream, header.size, header.name) if wanted(name) else None
        if data is None:
            stream.seek(end)
        if header.type in _FILE_TYPES:
            yield Located(name, start, end, data)
        if header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            long_name, start = None, end


class DigestStream:
    """Passes bytes on to a file, and knows how many they were and their SHA-256."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self._sha256.update(data)
        self.size_bytes += len(data)

    @property
    def sha256(self) -> str:
        """Hex digest of all bytes so far."""
        return self._sha256.hexdigest()


class TarWriter:
    """Writes a tar whose bytes depend on the names and contents alone: no times, owners or modes of this machine."""

    def __init__(self, stream: DigestStream):
        self._stream = stream

    def add(self, name: str, data: bytes) -> None:
        """Append one file."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._stream.write(header.tobuf(tarfile.GNU_FORMAT))
        self._stream.write(data)
        self._stream.write(bytes(_padded(len(data)) - len(data)))

    def close(self) -> None:
        """Write the end mark."""
        self._stream.write(END_MARK)


def member_size(size_bytes: int) -> int:
    """What a file of `size_bytes` takes in a tar: its header, and whole blocks of data."""
    return _BLOCK + _padded(size_bytes)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _read_header(stream: BinaryIO, offset: int) -> tarfile.TarInfo | None:
    block = stream.read(_BLOCK)
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", _NAME_ERRORS)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        if offset == 0 and len(block) == 0:
            raise ShardError("the file is empty") from error
        if len(block) < _BLOCK:
            raise ShardError(f"truncated: the tar ends at byte {offset + len(block)} without an end mark") from error
        raise ShardError(f"not a tar header at byte {offset}: {error}") from error


def _read_padded(stream: BinaryIO, size: int, name: str) -> bytes:
    data = stream.read(size)
    padding = _padded(size) - size
    if len(data) < size or len(stream.read(padding)) < padding:
        raise ShardError(f"truncated: member {name!r} has {len(data)} of {size} bytes")
    return data


def _long_name(header: tarfile.TarInfo, stream: BinaryIO) -> str | None:
    """The next member's name where it is too long for its own header: GNU's form, or PAX's `path` record."""
    if header.size > _LONGEST_NAME_BYTES:
        raise ShardError(f"a name of {header.size} bytes is not a name")
    data = _read_padded(stream, header.size, header.name)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", _NAME_ERRORS)
    return _pax_path(data)


def _pax_path(data: bytes) -> str | None:
    """PAX records are `length key=value\\n`, the length counting the whole record."""
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or not 0 < int(digits) <= len(data):
            raise ShardError("a PAX header is malformed")
        key, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        if key == b"path":
            return value.decode("utf-8", _NAME_ERRORS)
        if key == b"size":
            raise ShardError("a member is larger than 8 GiB: no image-text sample is")
        data = data[int(digits) :]
    return None
