"""Damaged images that Pillow decodes: it fills missing pixels with grey or noise.

A JPEG has no checksum, so its entropy-coded data is decoded again, by a decoder that reports libjpeg's warnings.
benchmarks/damage.py measures how much damage is found, and the time it takes.
"""

import zlib
from collections.abc import Iterator

import simplejpeg

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_BASELINE, _TABLES, _SCAN, _END = (0xC0, 0xC1), 0xC4, 0xDA, b"\xff\xd9"
_LUMINANCE_AC = 0x10
_HOLE = bytes(64)
"""Enough zero bits for a whole block of 63 coefficients."""


def find_damage(image_bytes: bytes) -> str | None:
    """A sign that pixels of an image are missing, though Pillow decodes it; None where there is none."""
    if image_bytes.startswith(_JPEG):
        return _jpeg_warning(image_bytes) or _jpeg_hole(image_bytes)
    if image_bytes.startswith(_PNG):
        return _png_checksum(image_bytes)
    return None


def _jpeg_warning(jpeg: bytes) -> str | None:
    """libjpeg's first warning about the coded pixels, rather than about the header."""
    try:
        # At an eighth of the size and without colours: reading the code is what takes time.
        simplejpeg.decode_jpeg(jpeg, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        if not str(error).startswith("Corrupt JPEG data"):
            return None
        try:
            simplejpeg.decode_jpeg_header(jpeg, strict=True)
        except ValueError:
            return None
        return str(error)
    return None


def _jpeg_hole(jpeg: bytes) -> str | None:
    """A run of zeros in the coded pixels, where zeros cannot be code.

    The first code word of a Huffman table is all zeros. Where luminance's first word is a coefficient, which is -1 in
    the usual tables, zeros would code a block of 63 equal coefficients, which no picture has. Where it is the end of a
    block, zeros code plain areas, as they do in a progressive file and where each component has its own scan.
    """
    num_components, symbol = 0, 0
    for marker, start, end in _jpeg_segments(jpeg):
        if marker in _BASELINE:
            num_components = jpeg[start + 5]
        elif marker == _TABLES:
            symbol = _first_symbol(jpeg[start:end], symbol)
        elif marker == _SCAN:
            is_interleaved = jpeg[start] == num_components
            hole = jpeg.find(_HOLE, end, jpeg.find(_END, end)) if is_interleaved and symbol & 15 else -1
            return f"{len(_HOLE)} or more zeros at byte {hole}, within its coded pixels" if hole >= 0 else None
    return None


def _jpeg_segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """The header's segments, (marker, start, end of the content), up to the first byte that begins none."""
    place = 2
    while jpeg[place : place + 1] == b"\xff":
        start, end = place + 4, place + 2 + int.from_bytes(jpeg[place + 2 : place + 4])
        if not start < end < len(jpeg):
            return
        yield jpeg[place + 1], start, end
        place = end


def _first_symbol(tables: bytes, symbol: int) -> int:
    """The symbol of the first code word of luminance's AC table; `symbol` where the segment has no such table."""
    place = 0
    while place + 17 < len(tables):
        if tables[place] == _LUMINANCE_AC:
            symbol = tables[place + 17]
        place += 17 + sum(tables[place + 1 : place + 17])
    return symbol


def _png_checksum(png: bytes) -> str | None:
    """A chunk of pixels whose checksum is wrong; Pillow does not read these."""
    place = len(_PNG)
    while place + 12 <= len(png):
        kind, end = png[place + 4 : place + 8], place + 8 + int.from_bytes(png[place : place + 4])
        if kind == b"IEND":
            return None
        if kind == b"IDAT" and zlib.crc32(png[place + 4 : end]) != int.from_bytes(png[end : end + 4]):
            return f"wrong checksum of the pixels at byte {place}"
        place = end + 4
    return None
