"""Read and write tar shards as streams. Stricter than `tarfile`: a tar that lost its end is an error. One that is
packed by gzip, whatever its name, is unpacked as it is read.

Header blocks are parsed and made by `tarfile.TarInfo`; what is ours is the walk from block to block, which notices a
truncation at any byte, also between two members.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple, cast

from dr_pipeline.dataset import file_types, gzipped
from dr_pipeline.errors import ShardError

_BLOCK = tarfile.BLOCKSIZE
END_MARK = bytes(2 * _BLOCK)
"""A tar without it is a truncated one."""

HARD_LINK, SYMBOLIC_LINK = "hard link", "symbolic link"

LARGEST_MEMBER_BYTES = 1 << 30
"""More than any image-text sample has in one file."""

_LARGEST_FILE_BYTES = 1 << 43  # no file system lets one seek further
_LONGEST_NAME_BYTES = 1 << 20
_PIECE_BYTES = 16 << 20  # what is allocated at once: a header may claim what the tar does not hold
_NAME_ERRORS = "backslashreplace"  # a name that is not UTF-8 stays a name that can be printed and stored
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_KINDS = {
    tarfile.LNKTYPE: HARD_LINK,
    tarfile.SYMTYPE: SYMBOLIC_LINK,
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.DIRTYPE: "folder",
    tarfile.FIFOTYPE: "named pipe",
}
_WITHOUT_DATA = tuple(_KINDS)  # whatever size their headers give
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_SPARSE = "is a sparse file: write the tar without --sparse"
_GNU_FIELDS = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


class Member(NamedTuple):
    """One member of a tar: its place there, and its bytes if they are wanted and not too many."""

    name: str
    start: int
    """The offset of its first header block, that of a long name included."""
    end: int
    size_bytes: int
    data: bytes | None
    kind: str | None = None
    """None for a file; otherwise what it is: a symbolic link, a folder, …; a hard link that cannot be resolved too."""
    target: str = ""
    """The name that a link points to."""


def read_tar(
    stream: BinaryIO, wanted: Callable[[str], bool] = lambda name: True, max_bytes: int = LARGEST_MEMBER_BYTES
) -> Iterator[Member]:
    """Yield every member in order, with the data of the files whose names are wanted.

    Data of unwanted names, and of more than `max_bytes`, are passed over, which needs a stream that seeks. A hard link
    is resolved to the earlier file that it names if the stream can go back, and stays a link otherwise. Offsets count
    in the unpacked tar. Raises ShardError when the stream is no tar, ends before the end mark or goes on after it.
    """
    extended: dict[str, str] = {}
    files: dict[str, tuple[int, int]] | None = None
    num_members = start = end = 0
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
        if header.type in _PAX_TYPES or header.type in _GNU_FIELDS:
            extended |= _extended(header, stream)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ShardError(f"member {header.name!r} {_SPARSE}")
        name = extended.get("path", header.name)
        data = None
        if header.size > max_bytes:
            _pass_over(stream, end, header)
        elif wanted(name):
            data = _read_padded(stream, header.size, header.name)
        else:
            stream.seek(end)
        if header.type == tarfile.XGLTYPE:
            continue
        member = Member(name, start, end, header.size, data)
        if header.type == tarfile.LNKTYPE and files is None:
            files = _files(stream, num_members, end)
        if header.type not in _FILE_TYPES:
            kind = _KINDS.get(header.type, f"entry of type {header.type.decode('latin-1')!r}")
            member = member._replace(kind=kind, target=extended.get("linkpath", header.linkname))
        elif files is not None:
            files[name] = end - _padded(header.size), header.size
        if member.kind == HARD_LINK:
            member = _linked(member, stream, files or {}, max_bytes)
        yield member._replace(data=None) if member.kind else member
        num_members += 1
        extended, start = {}, end


class TarWriter:
    """Writes a tar whose bytes depend on names and contents alone: no times, owners or modes of this machine.

    Counts the bytes and hashes them on the way.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """The hex digest of all bytes so far."""
        return self._sha256.hexdigest()

    def add(self, name: str, data: bytes) -> None:
        """Append one file."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        self._write(data)
        self._write(bytes(_padded(len(data)) - len(data)))

    def close(self) -> None:
        """Write the end mark."""
        self._write(END_MARK)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size_bytes += len(data)


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
    other = file_types.describe(block) if offset == 0 else None
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


def _files(stream: BinaryIO, num_members: int, end: int) -> dict[str, tuple[int, int]] | None:
    """Name → place and size of the files among the first members, by a second walk; None where there is no way back.

    Few tars have hard links: only who meets one has to know what lies before it.
    """
    if not stream.seekable() or stream.seek(0) != 0:
        return None
    earlier = islice(read_tar(stream, lambda name: False), num_members)
    own = (member for member in earlier if not member.kind)
    files = {member.name: (member.end - _padded(member.size_bytes), member.size_bytes) for member in own}
    stream.seek(end)
    return files


def _linked(link: Member, stream: BinaryIO, files: dict[str, tuple[int, int]], max_bytes: int) -> Member:
    """A hard link as the file that it names, if that is among the files."""
    if link.target not in files:
        return link
    place, size = files[link.target]
    data = None
    if link.data is not None and size <= max_bytes:  # it is wanted
        stream.seek(place)
        data = _read_padded(stream, size, link.target)
        stream.seek(link.end)
    return link._replace(size_bytes=size, data=data, kind=None)


def _extended(header: tarfile.TarInfo, stream: BinaryIO) -> dict[str, str]:
    """What the next member's own header has no room for: `path`, `linkpath`, …, in GNU's form or as PAX records."""
    if header.size > _LONGEST_NAME_BYTES:
        raise ShardError(f"a name of {header.size} bytes is not a name")
    data = _read_padded(stream, header.size, header.name)
    if header.type in _GNU_FIELDS:
        return {_GNU_FIELDS[header.type]: data.rstrip(b"\0").decode("utf-8", _NAME_ERRORS)}
    records = dict(_pax_records(data))
    if any(key.startswith("GNU.sparse.") for key in records):
        raise ShardError(f"member {header.name!r} {_SPARSE}")
    if "size" in records:
        raise ShardError("a member is larger than 8 GiB: no image-text sample is")
    return {key: records[key] for key in ("path", "linkpath") if key in records}


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """PAX records are `length key=value\\n`, the length counting the whole record."""
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or not 0 < int(digits) <= len(data):
            raise ShardError("a PAX header is malformed")
        key, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        yield key.decode("utf-8", _NAME_ERRORS), value.decode("utf-8", _NAME_ERRORS)
        data = data[int(digits) :]
