"""What lost pixels is found though Pillow decodes it, and nothing else is."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dr_pipeline.demo.scenes import draw_scene
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.render import decode
from tests.conftest import GOLDEN

NO_LIMIT = 10**9
END = b"\xff\xd9"
FORMS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "restart markers": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
}
NOISE = np.random.default_rng(0).integers(-40, 40, (240, 320, 3))
PHOTO = Image.fromarray(
    (np.asarray(draw_scene(3, 0).image.resize((320, 240))).astype(int) + NOISE).clip(0, 255).astype(np.uint8)
)


def encoded(form: str = "JPEG", picture: Image.Image = PHOTO, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def coded_pixels(jpeg: bytes) -> int:
    """Where the first scan begins."""
    header = jpeg.index(b"\xff\xda") + 2
    return header + int.from_bytes(jpeg[header : header + 2])


def with_hole(jpeg: bytes, content: bytes, share: float = 0.4) -> bytes:
    place = coded_pixels(jpeg) + int(share * (len(jpeg) - coded_pixels(jpeg)))
    return jpeg[:place] + content + jpeg[place + len(content) :]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("filled", [False, True], ids=["cut", "zeros"])
def test_a_cut_jpeg_with_an_end_mark_is_found(form: str, share: float, filled: bool) -> None:
    jpeg = encoded(**FORMS[form])
    start = coded_pixels(jpeg)
    part = jpeg[: start + int(share * (len(jpeg) - start))]
    damaged = part + bytes(len(jpeg) - len(part) - 2) * filled + END
    try:
        decode(damaged, NO_LIMIT)
    except SampleSkipped:  # Pillow sees it by itself, where the colours never came
        assert (form, share) == ("progressive", 0.05)
        return
    assert "Corrupt JPEG data" in (find_damage(damaged) or "")


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("size", [64, 512, 4096])
@pytest.mark.parametrize("form", ["baseline", "4:4:4", "restart markers"])
def test_a_hole_of_zeros_is_found(form: str, size: int, share: float) -> None:
    damaged = with_hole(encoded(**FORMS[form]), bytes(size), share)
    decode(damaged, NO_LIMIT)
    assert find_damage(damaged)


def test_zeros_are_found_where_the_decoder_gets_back_into_step() -> None:
    """It does where the code that the zeros replace is as long as the code that the decoder reads of them."""
    jpeg = encoded()
    messages = {find_damage(with_hole(jpeg, bytes(64 + extra), 0.3)) for extra in range(40)}
    assert any("zeros at byte" in (message or "") for message in messages)
    assert None not in messages


@pytest.mark.parametrize(
    "jpeg",
    [
        *(pytest.param(encoded(**options), id=form) for form, options in FORMS.items()),
        pytest.param(encoded(quality=100, optimize=True), id="best quality"),
        pytest.param(encoded(quality=5), id="worst quality"),
        pytest.param(encoded(picture=PHOTO.convert("L")), id="grey"),
        pytest.param(encoded(picture=PHOTO.convert("CMYK")), id="CMYK"),
        pytest.param(encoded(keep_rgb=True), id="RGB"),
        pytest.param(encoded(picture=Image.new("RGB", (1, 1))), id="1 × 1"),
        pytest.param(encoded(picture=Image.new("RGB", (1000, 1000), "white"), optimize=True), id="plain: all zeros"),
        pytest.param(encoded(picture=Image.new("RGB", (1000, 1000), "white"), progressive=True), id="plain, scans"),
        pytest.param(encoded() + bytes(5000), id="zeros after its end"),
        pytest.param(encoded() + b"rubbish" * 99, id="rubbish after its end"),
        pytest.param(encoded() + encoded(picture=PHOTO.resize((32, 24)))[:-40], id="a cut thumbnail after its end"),
        pytest.param(encoded("MPO", save_all=True, append_images=[PHOTO]), id="MPO"),
        pytest.param(encoded(exif=b"Exif\0\0" + bytes(3000)), id="EXIF of zeros"),
        pytest.param(encoded()[:20] + b"junk" + encoded()[20:], id="rubbish in its header"),
        pytest.param((GOLDEN / "replay" / "a.jpg").read_bytes(), id="golden a"),
        pytest.param((GOLDEN / "replay" / "d.jpg").read_bytes(), id="golden d"),
        pytest.param(encoded("PNG"), id="PNG"),
        pytest.param(encoded("PNG") + b"rubbish", id="PNG with rubbish after its end"),
        pytest.param(encoded("WEBP"), id="WebP"),
    ],
)
def test_a_whole_image_passes(jpeg: bytes) -> None:
    decode(jpeg, NO_LIMIT)
    assert find_damage(jpeg) is None


def test_a_png_whose_checksum_is_wrong_is_found() -> None:
    """Pillow compares those of other chunks alone; zlib's own comes after the last row, where nobody reads."""
    png = bytearray(encoded("PNG"))
    place = png.index(b"IDAT")
    size = int.from_bytes(png[place - 4 : place])
    assert zlib.crc32(png[place : place + 4 + size]) == int.from_bytes(png[place + 4 + size : place + 8 + size])
    png[place + 7 + size] ^= 1
    decode(bytes(png), NO_LIMIT)
    assert "wrong checksum" in (find_damage(bytes(png)) or "")


CUT_ELSEWHERE = {
    "PNG": {},
    "WEBP": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"speed": 10},
    "JPEG2000": {},
    "PPM": {},
    "ICO": {},
}
ENDS = {"PNG": b"\0\0\0\0IEND\xaeB`\x82", "GIF": b"\0;"}


@pytest.mark.parametrize("form", CUT_ELSEWHERE)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_other_forms_are_found_cut_by_pillow(form: str, share: float) -> None:
    whole = encoded(form, PHOTO.convert("P") if form == "GIF" else PHOTO, **CUT_ELSEWHERE[form])
    part = whole[: int(share * len(whole))]
    for cut in (part, part + ENDS.get(form, b"")):
        with pytest.raises(SampleSkipped, match="corrupt image"):
            decode(cut, NO_LIMIT)
