"""Images as data URLs, the form in which a chat takes them."""

import base64
import io

from PIL import Image

from dr_pipeline.views.render import decode, size_of

_SIGNATURES = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG\r\n\x1a\n", "image/webp": b"RIFF"}
"""The formats that every endpoint takes, by the first bytes of a file."""
_ANY_PIXELS = 1 << 62
"""The job's limit was kept when the sample was prepared."""


def data_url(image_bytes: bytes, max_side: int | None) -> str:
    """The image as a data URL: its own bytes where it is JPEG, PNG or WebP, else its pixels as PNG, without loss.

    An image whose longer side has more than `max_side` pixels is made smaller, and is PNG too.
    """
    media_type = next((name for name, start in _SIGNATURES.items() if image_bytes.startswith(start)), None)
    if media_type is None or (max_side is not None and max(size_of(image_bytes)) > max_side):
        image, png = decode(image_bytes, _ANY_PIXELS), io.BytesIO()
        if max_side is not None:
            image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        image.save(png, "PNG", compress_level=1)
        media_type, image_bytes = "image/png", png.getvalue()
    return f"data:{media_type};base64,{base64.b64encode(image_bytes).decode('ascii')}"
