"""How bad images, members and tars are made."""

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from dr_pipeline.demo.scenes import draw_scene
from tests.conftest import tar_bytes
from tests.tars import Member

Make = Callable[[list[Member], list[Member]], bytes]
"""The members of the good sample before and of the one after → a shard with something bad between them."""

SCENE = draw_scene(3, 0)
PHOTO = SCENE.image


def image(form: str, picture: Image.Image = PHOTO, **options: Any) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


JPEG = image("JPEG")
PNG = image("PNG")


def sixteen_bits() -> bytes:
    """A grey PNG of 16 bits."""
    return image("PNG", Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257))


def rotated() -> bytes:
    """A JPEG that says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return image("JPEG", exif=exif)


def animated(form: str) -> bytes:
    """Three frames."""
    return image(
        form, save_all=True, append_images=[Image.new("RGB", PHOTO.size, colour) for colour in ("red", "blue")]
    )


def cut_with_end(jpeg: bytes, percent: int) -> bytes:
    """The first part of a JPEG, closed by an end mark."""
    return jpeg[: len(jpeg) * percent // 100] + b"\xff\xd9"


def zeros_to_end(jpeg: bytes, percent: int) -> bytes:
    """A JPEG whose last part but for the end mark was never written."""
    part = jpeg[: len(jpeg) * percent // 100]
    return part + bytes(len(jpeg) - len(part) - 2) + b"\xff\xd9"


def with_hole(jpeg: bytes, percent: int) -> bytes:
    """A JPEG that has 100 zeros within."""
    place = len(jpeg) * percent // 100
    return jpeg[:place] + bytes(100) + jpeg[place + 100 :]


def wrong_checksum(png: bytes) -> bytes:
    """A PNG whose last chunk of pixels has another checksum than it says."""
    end = png.rindex(b"IEND") - 4
    return png[: end - 1] + bytes([png[end - 1] ^ 1]) + png[end:]


def png_with(kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    return PNG[:33] + chunk(kind, content) + PNG[33:]


def huge_png(side: int) -> bytes:
    """A PNG that claims a size and holds next to nothing of it."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def sample(
    jpg: bytes | None = JPEG, txt: bytes | str | None = "a red circle", key: str = "bad", **others: bytes
) -> Make:
    """A bad sample between two good ones; None leaves a member out, `_` in a name is a dot."""
    text = txt.encode() if isinstance(txt, str) else txt
    fields = {"jpg": jpg, "txt": text} | {name.replace("_", "."): data for name, data in others.items()}
    return among(*((f"{key}.{ext}", data) for ext, data in fields.items() if data is not None))


def among(*members: Member) -> Make:
    """Members between two good samples."""
    return lambda before, after: tar_bytes([*before, *members, *after])


def again() -> Make:
    """The first sample's members once more, at the end."""
    return lambda before, after: tar_bytes([*before, *after, *before])


def by_tarfile(form: int, *entries: tuple[tarfile.TarInfo, bytes]) -> Make:
    """Entries between two good samples, by Python's own writer."""

    def make(before: list[Member], after: list[Member]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="latin-1") as archive:
            for entry, data in [*map(as_entry, before), *entries, *map(as_entry, after)]:
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()

    return make


def as_entry(member: Member) -> tuple[tarfile.TarInfo, bytes]:
    """A member as tarfile takes it."""
    name, data = member
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    return entry, data


def link(name: str, kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """An entry that names another, or a device, pipe or folder."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def special(kind: bytes) -> Make:
    """A link, device, pipe or folder that has a sample's name."""
    return by_tarfile(tarfile.GNU_FORMAT, link("bad.jpg", kind, "/etc/passwd"))


def symbolic_links(members: list[Member]) -> bytes:
    """A tar of links to where these members lie."""
    links = [link(name, tarfile.SYMTYPE, f"../../blobs/{name}") for name, _ in members]
    return by_tarfile(tarfile.GNU_FORMAT, *links)([], [])


def sparse(name: str) -> tuple[tarfile.TarInfo, bytes]:
    """A file with holes as `tar --format=posix --sparse` writes it: a map of what is there, and that."""
    entry = tarfile.TarInfo(f"GNUSparseFile.1/{name}")
    entry.size = 1024
    entry.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": "100000",
    }
    return entry, b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)


def header(size: int, kind: bytes = tarfile.REGTYPE, content: bytes = b"") -> Make:
    """A header that claims a size, and another content, between two good samples."""
    entry = tarfile.TarInfo("bad.jpg")
    entry.size, entry.type = size, kind
    block = entry.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    return lambda before, after: tar_bytes(before)[:-1024] + block + tar_bytes(after)


def whole(data: bytes) -> Make:
    """A file that has nothing of the good samples."""
    return lambda before, after: data


def cut(change: Callable[[bytes], bytes]) -> Make:
    """A tar of the two good samples that something was done to."""
    return lambda before, after: change(tar_bytes([*before, *after]))


def nul_in_name() -> Make:
    """PAX can spell what a header cannot."""
    name = tarfile.TarInfo("name")
    record = b"21 path=bad.txt\0.jpg\n"
    name.type, name.size = tarfile.XHDTYPE, len(record)
    block = name.tobuf(tarfile.GNU_FORMAT) + record + bytes(512 - len(record))
    file = tar_bytes([("bad.jpg", JPEG)])[:-1024]
    return lambda before, after: tar_bytes(before)[:-1024] + block + file + tar_bytes(after)


def gzipped(data: bytes) -> bytes:
    """As gzip does it, without the time."""
    return gzip.compress(data, mtime=0)
