"""Read and write tar shards as streams. Stricter than `tarfile`: a tar that lost its end is an error. One that is
packed by gzip, whatever its name, is unpacked as it is read.

Header blocks are parsed and made by `tarfile.TarInfo`; what is ours is the walk from block to block, which notices a
truncation at any byte, also between two members.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, cast

from dr_pipeline.errors import ShardError
from dr_pipeline.shards import foreign, gzipped

Member = tuple[str, bytes]

_BLOCK = tarfile.BLOCKSIZE
END_MARK = bytes(2 * _BLOCK)
"""A tar without it is a truncated one."""

LARGEST_MEMBER_BYTES = 1 << 30
"""More than any image-text sample has in one file."""

_LARGEST_FILE_BYTES = 1 << 43  # no file system lets one seek further
_LONGEST_NAME_BYTES = 1 << 20
_PIECE_BYTES = 16 << 20  # what is allocated at once: a header may claim what the tar does not hold
_NAME_ERRORS = "backslashreplace"  # a name that is not UTF-8 stays a name that can be printed and stored
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_DATA = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)  # whatever size their headers give


class Located(NamedTuple):
    """A member, where its blocks lie in the tar, and its bytes where they were wanted and not too many."""

    name: str
    start: int
    """Its first header block, that of a long name included."""
    end: int
    size_bytes: int
    data: bytes | None


def read_members(stream: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar, (name, bytes), in order; links, devices and folders are passed over.

    Raises ShardError when the stream is no tar, ends before the tar's end mark or goes on after it, or holds a member
    of more than LARGEST_MEMBER_BYTES.
    """
    for member in scan(stream, lambda name: True):
        if member.data is None:
            raise ShardError(
                f"member {member.name!r} has {member.size_bytes} bytes, more than the {LARGEST_MEMBER_BYTES} allowed"
            )
        yield member.name, member.data


def scan(stream: BinaryIO, wanted: Callable[[str], bool], max_bytes: int = LARGEST_MEMBER_BYTES) -> Iterator[Located]:
    """As `read_members`, but the data of a member whose name is not wanted, or that are more than `max_bytes`, are
    passed over: then the stream must seek. Places are those in the tar, also where the file is packed.
    """
    long_name: str | None = None
    start = end = 0
    block = stream.read(_BLOCK)
    if block.startswith(gzipped.MARK):
        stream = cast("BinaryIO", gzipped.Unpacked(block, stream))
        block = stream.read(_BLOCK)
    while True:
        header = _header(block if end == 0 else stream.read(_BLOCK), end)
        if header is None:
            _check_end(stream)
            return
        end += member_size(header.size)
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            long_name = _long_name(header, stream) or long_name
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ShardError(f"member {header.name!r} is a sparse file: write the tar without --sparse")
        name = long_name or header.name
        data = None
        if header.size > max_bytes:
            _pass_over(stream, end, header)
        elif wanted(name):
            data = _read_padded(stream, header.size, header.name)
        else:
            stream.seek(end)
        if header.type in _FILE_TYPES:
            yield Located(name, start, end, header.size, data)
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


def _header(block: bytes, offset: int) -> tarfile.TarInfo | None:
    """The header at `offset`, its size that of the data that follow; None at the end mark."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", _NAME_ERRORS)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        raise ShardError(_no_header(block, offset, error)) from error
    if not 0 <= header.size < _LARGEST_FILE_BYTES:
        raise ShardError(f"not a tar header at byte {offset}: a size of {header.size} bytes is impossible")
    if header.type in _WITHOUT_DATA:
        header.size = 0
    return header


def _no_header(block: bytes, offset: int, error: tarfile.HeaderError) -> str:
    """What lies where a header should."""
    if offset == 0 and not block:
        return "the file is empty: copy or download it again"
    other = foreign.describe(block) if offset == 0 else None
    if other:
        return f"not a tar but {other}"
    if len(block) < _BLOCK:
        return f"truncated: the tar ends at byte {offset + len(block)} without an end mark: copy or download it again"
    return f"not a tar header at byte {offset}: {error}"


def _check_end(stream: BinaryIO) -> None:
    """Only zeros may follow the end mark, to which writers fill up; not without end, as a packed file may hold them."""
    num_zeros = 0
    while piece := stream.read(_PIECE_BYTES):
        num_zeros += len(piece)
        if piece.count(0) < len(piece) or num_zeros > LARGEST_MEMBER_BYTES:
            raise ShardError(
                "the file goes on after the tar's end mark: were tars joined? tar --concatenate joins them"
            )


def _pass_over(stream: BinaryIO, end: int, header: tarfile.TarInfo) -> None:
    """Go to the end of a member that is too large to be read. Its size may be a lie, so the end must be there."""
    if not stream.seekable():
        raise ShardError(f"member {header.name!r} has {header.size} bytes, more than is read")
    stream.seek(end - 1)
    if not stream.read(1):
        raise ShardError(f"truncated: member {header.name!r} claims {header.size} bytes, and the tar ends within them")


def _read_padded(stream: BinaryIO, size: int, name: str) -> bytes:
    data = stream.read(size) if size <= _PIECE_BYTES else _read_pieces(stream, size)
    padding = _padded(size) - size
    if len(data) < size or len(stream.read(padding)) < padding:
        raise ShardError(f"truncated: member {name!r} has {len(data)} of {size} bytes")
    return data


def _read_pieces(stream: BinaryIO, size: int) -> bytes:
    """As `read`, but what is not there is not allocated either."""
    pieces = bytearray()
    while len(pieces) < size and (piece := stream.read(min(_PIECE_BYTES, size - len(pieces)))):
        pieces += piece
    return bytes(pieces)


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
