"""Read and write tar shards as streams. Stricter than `tarfile`: a tar that lost its end is an error. A tar that is
packed by gzip, whatever its name, is unpacked as it is read.

`tarfile.TarInfo` parses and makes the header blocks. This module walks from block to block, and so notices a truncation
at any byte, also between two members.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple, cast

from dr_pipeline.dataset import gzipped
from dr_pipeline.errors import ShardError

_BLOCK = tarfile.BLOCKSIZE
END_MARK = bytes(2 * _BLOCK)
"""What every whole tar ends with."""

HARD_LINK, SYMBOLIC_LINK = "hard link", "symbolic link"
"""Kinds of members that name another one."""

LARGEST_MEMBER_BYTES = 1 << 30
"""More than any file of an image-text sample has."""

_LARGEST_FILE_BYTES = 1 << 43  # no file system seeks further
_LONGEST_NAME_BYTES = 1 << 20
_PIECE_BYTES = 16 << 20  # allocated at once
_NAME_ERRORS = "backslashreplace"  # a name that is not UTF-8 can still be printed and stored
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
_GNU_FIELDS = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_EXTENDING_TYPES = (*_GNU_FIELDS, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_SPARSE = "is a sparse file: write the tar without --sparse"

_REPACK = "unpack it and write a plain tar"
_AGAIN = "download the shard again"

_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip file within a gzip file: gunzip it once"),
    (b"BZh", f"a bzip2 file: {_REPACK}"),
    (b"\xfd7zXZ", f"an xz file: {_REPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a zstd file: {_REPACK}"),
    (b"PK\x03\x04", f"a zip file: {_REPACK}"),
    (b"7z\xbc\xaf", f"a 7-Zip file: {_REPACK}"),
    (b"Rar!", f"a RAR file: {_REPACK}"),
    (b"PAR1", "a Parquet file: it may list the images' URLs, but holds no images"),
    (b"\xff\xd8\xff", "a JPEG image: put it into a tar beside its caption"),
    (b"\x89PNG", "a PNG image: put it into a tar beside its caption"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull where the shards were cloned"),
    (b"<!doctype html", f"a web page, likely a server's error: {_AGAIN}"),
    (b"<html", f"a web page, likely a server's error: {_AGAIN}"),
    (b"<?xml", f"an XML document, likely a storage's error: {_AGAIN}"),
    (b"<error", f"an XML document, likely a storage's error: {_AGAIN}"),
    (b"{", f"JSON, likely a server's error: {_AGAIN}"),
)
"""How files begin that are taken for tars by mistake: what they are, and what to do."""


class Member(NamedTuple):
    """One member of a tar. Offsets count in the unpacked tar."""

    name: str
    start: int
    """The offset of its first header block, that of a long name included."""
    end: int
    """The offset behind its data and their padding."""
    size_bytes: int
    data: bytes | None = None
    """None where they are not wanted, are too many, or the member is no file."""
    kind: str | None = None
    """None for a file; otherwise what it is: a folder, a symbolic link, a hard link that could not be resolved, …"""
    target: str = ""
    """The name that a link points to."""


def read_tar(
    stream: BinaryIO, wanted: Callable[[str], bool] = lambda name: True, max_bytes: int = LARGEST_MEMBER_BYTES
) -> Iterator[Member]:
    """Yield every member in order, with the data of the files whose names are wanted.

    Data of unwanted names, and of more than `max_bytes`, are passed over, which needs a stream that seeks. A hard link
    is resolved to the earlier file that it names if the stream can go back, and stays a link otherwise. Raises
    ShardError when the stream is no tar, ends before the end mark or goes on after it.
    """
    block = stream.read(_BLOCK)
    if block.startswith(gzipped.MARK):
        stream = cast("BinaryIO", gzipped.Unpacked(block, stream))
        block = stream.read(_BLOCK)
    files: dict[str, Member] | None = None  # by name; collected from the first hard link on
    for index, member in enumerate(_walk(block, stream)):
        data = None
        if member.size_bytes > max_bytes:
            _pass_over(stream, member)
        elif wanted(member.name):
            data = _read_padded(stream, member.size_bytes, member.name)
        else:
            stream.seek(member.end)
        if member.kind is None and files is not None:
            files[member.name] = member
        elif member.kind == HARD_LINK:
            files = _files_before(stream, index, member.end) if files is None else files
            if file := (files or {}).get(member.target):
                member = member._replace(size_bytes=file.size_bytes, kind=None)
                data = None
                if wanted(member.name) and file.size_bytes <= max_bytes:
                    stream.seek(file.end - _padded(file.size_bytes))
                    data = _read_padded(stream, file.size_bytes, file.name)
                    stream.seek(member.end)
        yield member if member.kind else member._replace(data=data)


class TarDigest(NamedTuple):
    """The size and the hex digest of a written tar."""

    size_bytes: int
    sha256: str


class TarWriter:
    """Writes a tar whose bytes depend on names and contents alone: no times, owners or modes of this machine."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0

    def add(self, name: str, data: bytes) -> None:
        """Append one file."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        self._write(data)
        self._write(bytes(_padded(len(data)) - len(data)))

    def close(self) -> TarDigest:
        """Write the end mark. Gives the digest of the whole tar."""
        self._write(END_MARK)
        return TarDigest(self._size_bytes, self._sha256.hexdigest())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._size_bytes += len(data)


def member_size(size_bytes: int) -> int:
    """The bytes that a file of `size_bytes` takes in a tar: its header, and whole blocks of data."""
    return _BLOCK + _padded(size_bytes)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _walk(block: bytes, stream: BinaryIO) -> Iterator[Member]:
    """Yield every member by its headers; `block` is the stream's first.

    The caller moves the stream to the end of a member before it asks for the next one.
    """
    extended: dict[str, str] = {}
    start = end = 0
    while header := _header(block, end):
        end += member_size(header.size)
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise ShardError(f"member {header.name!r} {_SPARSE}")
        if header.type in _EXTENDING_TYPES:
            extended |= _extended(header, stream)
        else:
            is_file = header.type in _FILE_TYPES
            yield Member(
                name=extended.get("path", header.name),
                start=start,
                end=end,
                size_bytes=header.size,
                kind=None if is_file else _KINDS.get(header.type, f"entry of type {header.type.decode('latin-1')!r}"),
                target="" if is_file else extended.get("linkpath", header.linkname),
            )
            extended, start = {}, end
        block = stream.read(_BLOCK)
    # Writers fill up with zeros behind the end mark; a packed file may hold zeros without end.
    num_zeros = 0
    while piece := stream.read(_PIECE_BYTES):
        num_zeros += len(piece)
        if piece.count(0) < len(piece) or num_zeros > LARGEST_MEMBER_BYTES:
            raise ShardError(
                "the file goes on after the tar's end mark: were tars joined? tar --concatenate joins them"
            )


def _header(block: bytes, offset: int) -> tarfile.TarInfo | None:
    """The header in the block at `offset`, with the size of the data that follow; None at the end mark."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", _NAME_ERRORS)
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        start = (block, block.lstrip().lower())
        other_type = next((told for mark, told in _OTHER_FILES if any(text.startswith(mark) for text in start)), None)
        if offset == 0 and not block:
            problem = "the file is empty: copy or download it again"
        elif offset == 0 and other_type:
            problem = f"not a tar but {other_type}"
        elif len(block) < _BLOCK:
            end = offset + len(block)
            problem = f"truncated: the tar ends at byte {end} without an end mark: copy or download it again"
        else:
            problem = f"not a tar header at byte {offset}: {error}"
        raise ShardError(problem) from error
    if not 0 <= header.size < _LARGEST_FILE_BYTES:
        raise ShardError(f"not a tar header at byte {offset}: a size of {header.size} bytes is impossible")
    if header.type in _WITHOUT_DATA:
        header.size = 0
    return header


def _extended(header: tarfile.TarInfo, stream: BinaryIO) -> dict[str, str]:
    """What the next member's own header has no room for: `path` and `linkpath`, in GNU's form or as PAX records.

    A PAX header of all members says nothing that is used.
    """
    if header.size > _LONGEST_NAME_BYTES:
        raise ShardError(f"a name of {header.size} bytes is not a name")
    data = _read_padded(stream, header.size, header.name)
    if header.type == tarfile.XGLTYPE:
        return {}
    if header.type in _GNU_FIELDS:
        return {_GNU_FIELDS[header.type]: data.rstrip(b"\0").decode("utf-8", _NAME_ERRORS)}
    records = {}
    while data:  # a record is `length key=value\n`, and its length counts the whole record
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or not 0 < int(digits) <= len(data):
            raise ShardError("a PAX header is malformed")
        key, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        records[key.decode("utf-8", _NAME_ERRORS)] = value.decode("utf-8", _NAME_ERRORS)
        data = data[int(digits) :]
    if any(key.startswith("GNU.sparse.") for key in records):
        raise ShardError(f"member {header.name!r} {_SPARSE}")
    if "size" in records:
        raise ShardError("a member is larger than 8 GiB: no image-text sample is")
    return {key: records[key] for key in ("path", "linkpath") if key in records}


def _read_padded(stream: BinaryIO, size: int, name: str) -> bytes:
    """The data of a member, whose padding is read too. Allocates no more than the tar holds, whatever `size` says."""
    if size <= _PIECE_BYTES:
        data = stream.read(size)
    else:
        pieces = bytearray()
        while len(pieces) < size and (piece := stream.read(min(_PIECE_BYTES, size - len(pieces)))):
            pieces += piece
        data = bytes(pieces)
    padding = _padded(size) - size
    if len(data) < size or len(stream.read(padding)) < padding:
        raise ShardError(f"truncated: member {name!r} has {len(data)} of {size} bytes")
    return data


def _pass_over(stream: BinaryIO, member: Member) -> None:
    """Go to the end of a member that is too large to be read. Its size may be a lie, so the end must be there."""
    name, size = member.name, member.size_bytes
    if not stream.seekable():
        raise ShardError(f"member {name!r} has {size} bytes, more than is read")
    stream.seek(member.end - 1)
    if not stream.read(1):
        raise ShardError(f"truncated: member {name!r} claims {size} bytes, and the tar ends within them")


def _files_before(stream: BinaryIO, num_members: int, end: int) -> dict[str, Member] | None:
    """The files among the first members by name, by a second walk; None where the stream cannot go back.

    The stream is left at `end`. Few tars have hard links: all others are walked once, and keep no names.
    """
    if not stream.seekable() or stream.seek(0) != 0:
        return None
    members = islice(read_tar(stream, lambda name: False), num_members)
    files = {member.name: member for member in members if not member.kind}
    stream.seek(end)
    return files
