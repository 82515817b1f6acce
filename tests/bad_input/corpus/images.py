"""Images and texts."""

import zlib

from PIL import Image

from tests.bad_input.corpus.kind import REINFORCED, Kind, skipped
from tests.bad_input.making import (
    JPEG,
    PHOTO,
    PNG,
    animated,
    cut_with_end,
    huge_png,
    image,
    png_with,
    rotated,
    sample,
    sixteen_bits,
    with_hole,
    wrong_checksum,
    zeros_to_end,
)

IMAGES = [
    Kind("image of zero bytes", sample(b""), skipped("empty image"), "An aborted download."),
    *(
        Kind(
            f"JPEG cut at {share} %",
            sample(JPEG[: len(JPEG) * share // 100]),
            skipped("corrupt image"),
            "Half an image teaches a student that captions describe grey.",
        )
        for share in range(10, 100, 10)
    ),
    Kind(
        "JPEG without its end mark", sample(JPEG[:-2]), skipped("corrupt image"), "More than the mark may be missing."
    ),
    *(
        Kind(
            f"JPEG cut at {share} %, with an end mark",
            sample(cut_with_end(JPEG, share)),
            skipped("corrupt image"),
            "Pillow fills with grey what is missing; libjpeg's warnings tell.",
        )
        for share in (30, 60, 90)
    ),
    Kind(
        "progressive JPEG cut at 60 %, with an end mark",
        sample(cut_with_end(image("JPEG", progressive=True), 60)),
        skipped("corrupt image"),
        "The detail of the whole image is missing.",
    ),
    Kind("JPEG with zeros to its end", sample(zeros_to_end(JPEG, 60)), skipped("corrupt image"), "The same."),
    Kind(
        "JPEG with a hole of zeros",
        sample(with_hole(JPEG, 60)),
        skipped("corrupt image"),
        "A block that a disk lost. Holes of fewer than 64 bytes, and other bytes in their place, are found in most "
        "files and not in all: a JPEG has no checksum.",
    ),
    Kind(
        "PNG with a wrong checksum of its pixels",
        sample(None, png=wrong_checksum(PNG)),
        skipped("corrupt image"),
        "Pillow does not check it; this package does.",
    ),
    Kind(
        "WebP cut at 60 %",
        sample(None, webp=image("WEBP")[: len(image("WEBP")) * 6 // 10]),
        skipped("corrupt image"),
        "So are GIF, TIFF, AVIF and all others. Where zeros have taken the place of what is cut, JPEG, PNG, GIF and "
        "packed TIFF tell; WebP and AVIF mostly do not.",
    ),
    Kind(
        "JPEG with rubbish after its end", sample(JPEG + b"rubbish" * 99), REINFORCED, "Decoders stop at the end mark."
    ),
    Kind(
        "PNG named .jpg", sample(PNG), REINFORCED, "Bytes tell what they are; the name and the bytes stay as they are."
    ),
    Kind("TIFF named .jpg", sample(image("TIFF")), REINFORCED, "As for every form that is read; see `corrupt image`."),
    Kind("CMYK JPEG", sample(image("JPEG", PHOTO.convert("CMYK"))), REINFORCED, "Becomes RGB by Pillow's rule."),
    Kind(
        "16-bit grey PNG",
        sample(None, png=sixteen_bits()),
        REINFORCED,
        "Pillow's conversion to 8 bits: values above 255 are white.",
    ),
    Kind("palette PNG", sample(None, png=image("PNG", PHOTO.convert("P"))), REINFORCED, "Keeps its colours."),
    Kind("animated GIF named .jpg", sample(animated("GIF")), REINFORCED, "Its first frame."),
    Kind("animated WebP", sample(None, webp=animated("WEBP")), REINFORCED, "Its first frame."),
    Kind(
        "GIF named .gif",
        sample(None, gif=animated("GIF")),
        REINFORCED,
        "Whatever is decoded is taken: gif, bmp, tiff, avif, jp2, …; but other trainers look for jpg, png, jpeg and "
        "webp only.",
    ),
    Kind("JPEG 2000 named .jp2", sample(None, jp2=image("JPEG2000")), REINFORCED, "The same."),
    Kind("image of another form", sample(None, psd=PNG), skipped("no image"), "A Photoshop file is not read."),
    Kind("EXIF rotation", sample(rotated()), REINFORCED, "Not applied: crops are pixels of the stored image."),
    Kind("1 × 1", sample(None, png=image("PNG", Image.new("RGB", (1, 1)))), REINFORCED, "Every view is that pixel."),
    Kind(
        "20,000 × 1",
        sample(None, png=image("PNG", PHOTO.resize((20_000, 1)))),
        REINFORCED,
        "Views have the nearest shape that fits; nothing larger than a view is made of it.",
    ),
    Kind("1 × 20,000", sample(None, png=image("PNG", PHOTO.resize((1, 20_000)))), REINFORCED, "The same, upright."),
    Kind(
        "decompression bomb",
        sample(None, png=huge_png(50_000)),
        skipped("image too large"),
        "The header's size is compared with errors.max_image_pixels before a pixel is allocated.",
    ),
    Kind(
        "image just beyond max_image_pixels",
        sample(image("JPEG", PHOTO.resize((1001, 1000)))),
        skipped("image too large"),
        "The same limit, for an image that is as large as its header says.",
    ),
    Kind("PNG that lost its pixels", sample(None, png=huge_png(500)), skipped("corrupt image"), "It is truncated."),
    Kind(
        "PNG with a text bomb",
        sample(None, png=png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(8 << 20)))),
        skipped("corrupt image"),
        "Pillow inflates no more than 1 MB of a text chunk.",
    ),
    Kind(
        "PNG with a wrong checksum",
        sample(None, png=PNG[:29] + b"\0\0\0\0" + PNG[33:]),
        skipped("corrupt image"),
        "Damaged.",
    ),
    Kind("EPS named .jpg", sample(image("EPS")), skipped("corrupt image"), "Pillow would run Ghostscript on it."),
    Kind(
        "SVG named .jpg", sample(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), skipped("corrupt image"), "No pixels."
    ),
    Kind("web page named .jpg", sample(b"<!DOCTYPE html><h1>404</h1>"), skipped("corrupt image"), "A server's error."),
    Kind(
        "two images",
        sample(JPEG, png=PNG),
        REINFORCED,
        "The one that other trainers look for first: jpg, png, jpeg, webp.",
    ),
]

TEXTS = [
    Kind("empty text", sample(txt=""), skipped("no text"), "Consumers drop it."),
    Kind("text of blanks", sample(txt=" \n\t\r\n"), skipped("no text"), "Equivalent to an empty text."),
    Kind(
        "text of zero-width signs",
        sample(txt="\u200b\u200d\ufeff"),
        skipped("no text"),
        "Equivalent to an empty text: control, format and blank characters, fillers.",
    ),
    Kind("text of NUL bytes", sample(txt="\0\0"), skipped("no text"), "The same."),
    Kind("text of `&nbsp;`", sample(txt="&nbsp; &#8203;"), skipped("no text"), "The same, as an HTML entity."),
    Kind("caption of blanks in json", sample(txt=None, json=b'{"caption": "&nbsp;"}'), skipped("no text"), "The same."),
    Kind(
        "1 MB of words",
        sample(txt="a large red circle " * 52_000),
        REINFORCED,
        "Stored whole; models read the beginning.",
    ),
    Kind(
        "1 MB without a blank",
        sample(txt="abcdefghij" * 100_000),
        REINFORCED,
        "Stored whole; models read the first 500 letters of a word.",
    ),
    Kind("2 MB of text", sample(txt="a circle " * 222_223), skipped("text too long"), "Above 1 MiB it is no caption."),
    Kind("Latin-1", sample(txt="café".encode("latin-1")), skipped("text is not UTF-8"), "Guessing would change it."),
    Kind("UTF-16", sample(txt="a circle".encode("utf-16")), skipped("text is not UTF-8"), "The same."),
    Kind("UTF-8 with a byte order mark", sample(txt="\ufeffa circle"), REINFORCED, "Stored untouched."),
    Kind(
        "NUL bytes",
        sample(txt="a red\0circle\0"),
        REINFORCED,
        "Stored untouched; a tokenizer reads them as characters.",
    ),
    Kind("right-to-left", sample(txt="دائرة حمراء كبيرة ‏عيد"), REINFORCED, "Stored untouched."),
    Kind("bidirectional override", sample(txt="a \u202eelcric\u202c red"), REINFORCED, "Stored untouched."),
    Kind("emoji", sample(txt="👩‍👩‍👧‍👦 🏳️‍🌈 🔴⭕"), REINFORCED, "Stored untouched."),
    Kind(
        "end-of-text tokens inside",
        sample(txt="a red circle <end_of_text> a blue <|endoftext|> star <end> </s> moon"),
        REINFORCED,
        "Stored untouched. A teacher whose tokenizer knows the word, as CLIP's knows `<end_of_text>`, reads up to it; "
        "so does a student's.",
    ),
    Kind(
        "an end-of-text token alone",
        sample(txt="<end_of_text>"),
        REINFORCED,
        "For CLIP's tokenizer this is an empty text.",
    ),
    Kind(
        "half an emoji in json",
        sample(txt=None, json=b'{"caption": "cut \\ud83d"}'),
        skipped("text is not UTF-8"),
        "JSON can encode it, UTF-8 cannot.",
    ),
]
