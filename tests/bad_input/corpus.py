"""Every kind of bad input that is known, and what becomes of it: the test's cases, and docs/bad_input.md."""

import json
import tarfile
import zlib
from typing import NamedTuple

from PIL import Image

from tests.bad_input.making import (
    JPEG,
    PHOTO,
    PNG,
    Make,
    again,
    among,
    animated,
    as_entry,
    by_tarfile,
    cut,
    cut_with_end,
    gzipped,
    header,
    huge_png,
    image,
    link,
    nul_in_name,
    png_with,
    rotated,
    sample,
    sixteen_bits,
    sparse,
    special,
    symbolic_links,
    whole,
    with_hole,
    wrong_checksum,
    zeros_to_end,
)
from tests.conftest import tar_bytes


class Kind(NamedTuple):
    """A kind of bad input, between a good sample and another."""

    name: str
    make: Make
    ends: tuple[str, ...]
    """How each of its samples ends: `reinforced` or `skipped: REASON`; or `shard fails: WORDS OF THE MESSAGE`."""
    why: str


REINFORCED = ("reinforced",)
NO_SAMPLE: tuple[str, ...] = ()

MAX_SKIPPED = 0.6
MAX_IMAGE_PIXELS = 1_000_000
MAX_MEMBER_BYTES = 3_000_000


def skipped(reason: str) -> tuple[str, ...]:
    """One sample, left out for this reason."""
    return (f"skipped: {reason}",)


def fails(message: str) -> tuple[str, ...]:
    """The shard is not published."""
    return (f"shard fails: {message}",)


IMAGES = [
    Kind("image of zero bytes", sample(b""), skipped("empty image"), "A download that was given up."),
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
        "What is missing is the detail of all of it.",
    ),
    Kind("JPEG with zeros to its end", sample(zeros_to_end(JPEG, 60)), skipped("corrupt image"), "Likewise."),
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
        "Pillow does not compare it; we do.",
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
        "Pillow's conversion to 8 bits, as the contract has it: values above 255 are white.",
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
    Kind("JPEG 2000 named .jp2", sample(None, jp2=image("JPEG2000")), REINFORCED, "Likewise."),
    Kind("image of another form", sample(None, psd=PNG), skipped("no image"), "Photoshop's is not read."),
    Kind("EXIF rotation", sample(rotated()), REINFORCED, "Not applied: crops are pixels of the stored image."),
    Kind("1 × 1", sample(None, png=image("PNG", Image.new("RGB", (1, 1)))), REINFORCED, "Every view is that pixel."),
    Kind(
        "20,000 × 1",
        sample(None, png=image("PNG", PHOTO.resize((20_000, 1)))),
        REINFORCED,
        "Views have the nearest shape that fits; nothing larger than a view is made of it.",
    ),
    Kind("1 × 20,000", sample(None, png=image("PNG", PHOTO.resize((1, 20_000)))), REINFORCED, "The same on end."),
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
        "The same limit, of an honest image.",
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
    Kind("text of blanks", sample(txt=" \n\t\r\n"), skipped("no text"), "As good as empty."),
    Kind(
        "text of zero-width signs",
        sample(txt="\u200b\u200d\ufeff"),
        skipped("no text"),
        "As good as empty: control, format and blank characters, fillers.",
    ),
    Kind("text of NUL bytes", sample(txt="\0\0"), skipped("no text"), "Likewise."),
    Kind("text of `&nbsp;`", sample(txt="&nbsp; &#8203;"), skipped("no text"), "Likewise, in HTML's words."),
    Kind("caption of blanks in json", sample(txt=None, json=b'{"caption": "&nbsp;"}'), skipped("no text"), "Likewise."),
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
    Kind("UTF-16", sample(txt="a circle".encode("utf-16")), skipped("text is not UTF-8"), "Likewise."),
    Kind("UTF-8 with a byte order mark", sample(txt="\ufeffa circle"), REINFORCED, "Stored untouched."),
    Kind("NUL bytes", sample(txt="a red\0circle\0"), REINFORCED, "Stored untouched; for a tokenizer one more sign."),
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
    Kind("an end-of-text token alone", sample(txt="<end_of_text>"), REINFORCED, "To CLIP's tokenizer an empty text."),
    Kind(
        "half an emoji in json",
        sample(txt=None, json=b'{"caption": "cut \\ud83d"}'),
        skipped("text is not UTF-8"),
        "JSON can spell it, UTF-8 cannot.",
    ),
]

PAIR = (("jpg", JPEG), ("txt", b"a circle"))

MEMBERS = [
    Kind("no image", sample(None), skipped("no image"), "Consumers drop it."),
    Kind("no text", sample(txt=None), skipped("no text"), "Neither txt, nor `caption` or `text` in json."),
    Kind("json alone", sample(None, None, json=b"{}"), skipped("no image"), "The rest was lost."),
    Kind(
        "key twice, one after the other",
        among(*[("bad.jpg", JPEG), ("bad.txt", b"t")] * 2),
        ("reinforced", "skipped: duplicate key"),
        "The first one counts.",
    ),
    Kind("key twice, apart", again(), skipped("duplicate key"), "The first one counts, wherever the second is."),
    Kind(
        "key with dots",
        sample(key="v1.5-bad"),
        skipped("dots in key"),
        "A key ends at the first dot: for every consumer this is a `5-bad.jpg` of `v1`. Rename the files.",
    ),
    Kind(
        "keys with a score",
        among(*((f"bad_0.{score}.{ext}", data) for score in (512, 734) for ext, data in PAIR)),
        ("skipped: dots in key",) * 2,
        "Both are `bad_0` by the first dot: each is counted.",
    ),
    Kind(
        "key with dots beside the one without",
        among(*((f"bad{dotted}.{ext}", data) for dotted in ("", ".5") for ext, data in PAIR)),
        ("reinforced", "skipped: dots in key"),
        "An image with a text of its own is a sample, not another member of the first.",
    ),
    Kind(
        "mask beside the image",
        sample(mask_png=PNG),
        REINFORCED,
        "An image without a text of its own passes through.",
    ),
    Kind(
        "1,001 members of one key",
        among(*((f"bad.{number}.jpg", b"") for number in range(1001))),
        fails("a key ends at the first dot"),
        "More than a sample has, and all of them would be held in memory.",
    ),
    Kind("folder with dots", sample(key="v1.5/bad"), REINFORCED, "Dots count in the last part only."),
    Kind("key with slashes", sample(key="a/b/bad"), REINFORCED, "Folders are part of the key."),
    Kind("key with `..`", sample(key="../../bad"), skipped("unsafe name"), "Unpacked, it would leave its folder."),
    Kind("absolute key", sample(key="/etc/bad"), skipped("unsafe name"), "Likewise."),
    Kind("key with `..\\`", sample(key="a\\..\\bad"), skipped("unsafe name"), "Likewise on Windows."),
    Kind("NUL in a name", nul_in_name(), ("skipped: unsafe name",), "In the output's header the name would end there."),
    Kind(
        "name that is not UTF-8",
        by_tarfile(tarfile.GNU_FORMAT, as_entry(("b\xe9d.jpg", JPEG)), as_entry(("b\xe9d.txt", b"t"))),
        REINFORCED,
        "The odd bytes become `\\xe9` in letters.",
    ),
    Kind("name with line break, blank and emoji", sample(key="a b\n🔴"), REINFORCED, "A name like any other."),
    Kind(
        "extensions in capitals",
        among(("bad.JPG", JPEG), ("bad.TXT", b"a circle")),
        REINFORCED,
        "Written in small letters.",
    ),
    Kind(
        "file beyond max_member_bytes",
        sample(mp4=bytes(MAX_MEMBER_BYTES + 1)),
        skipped("member too large"),
        "It is passed over, not read.",
    ),
    Kind(
        "all images first, then all texts",
        among(*((f"{key}.{ext}", data) for ext, data in PAIR for key in ("bad1", "bad2"))),
        ("skipped: members not adjacent",) * 2,
        "A stream has the members of a sample side by side: write the tar with `tar --sort=name`.",
    ),
    Kind(
        "a whole shard in that order",
        lambda before, after: tar_bytes(sorted([*before, *after], key=lambda member: member[0].partition(".")[2])),
        fails("2 of 2 samples skipped, more than errors.max_skipped = 0.6: members not adjacent (2); first 00: "),
        "Likewise.",
    ),
    Kind(
        "a member apart from the others",
        among(("bad.jpg", JPEG), ("bad.txt", b"t"), ("more.jpg", JPEG), ("more.txt", b"t"), ("bad.json", b"{}")),
        ("reinforced", "reinforced", "skipped: members not adjacent"),
        "The sample goes without it, and that is counted.",
    ),
    Kind("macOS's shadow files", sample(key="._bad"), NO_SAMPLE, "Before the first dot there is no key."),
    Kind("file without extension", among(("README", b"read me")), NO_SAMPLE, "No sample's."),
    Kind(
        "members of an earlier pass",
        sample(paug_json=b"[", pth_gz=gzipped(bytes(1000)), npz=b"PK"),
        REINFORCED,
        "Dropped unread: they are made anew.",
    ),
]

DEEP = b"[" * 100_000

JSON = [
    Kind("json that is a list", sample(txt=None, json=b'["a circle"]'), skipped("bad json"), "No field to read."),
    Kind(
        "json that is a list, beside a txt",
        sample(json=b'["a circle"]'),
        REINFORCED,
        "Nobody reads it; it passes through.",
    ),
    Kind(
        "NaN in json",
        sample(txt=None, json=b'{"caption": "a circle", "score": NaN}'),
        REINFORCED,
        "Python wrote it and reads it; it passes through untouched.",
    ),
    Kind(
        "json with a byte order mark",
        sample(txt=None, json='\ufeff{"caption": "a circle"}'.encode()),
        REINFORCED,
        "Read as a text with one is; it passes through untouched.",
    ),
    Kind(
        "syn.json with a byte order mark",
        sample(syn_json='\ufeff{"syn_text_x": ["a circle"]}'.encode()),
        REINFORCED,
        "Likewise.",
    ),
    Kind("json cut", sample(txt=None, json=b'{"caption": "a ci'), skipped("bad json"), "No whole object."),
    Kind(
        "json nested 100,000 deep",
        sample(txt=None, json=b'{"caption": ' + DEEP),
        skipped("bad json"),
        "Reading stops before the stack does.",
    ),
    Kind(
        "caption that is a number",
        sample(txt=None, json=b'{"caption": 5}'),
        skipped("no text"),
        "Only a string is a caption.",
    ),
    Kind(
        "syn.json that is a list",
        sample(syn_json=b'["a circle"]'),
        skipped("bad syn.json"),
        "A key for each captioner is expected.",
    ),
    Kind(
        "syn.json with a string",
        sample(syn_json=b'{"syn_text_x": "a circle"}'),
        skipped("bad syn.json"),
        "A list of strings is expected.",
    ),
    Kind(
        "syn.json with a number", sample(syn_json=b'{"syn_text_x": ["a", NaN]}'), skipped("bad syn.json"), "Likewise."
    ),
    Kind(
        "syn.json with an empty list",
        sample(syn_json=b'{"syn_text_x": []}'),
        skipped("bad syn.json"),
        "A consumer would draw from it.",
    ),
    Kind(
        "syn.json nested 100,000 deep",
        sample(syn_json=DEEP),
        skipped("bad syn.json"),
        "Reading stops before the stack does.",
    ),
    Kind(
        "syn.json with our own key",
        sample(syn_json=b'{"syn_text_scene_coca": ["a"]}'),
        skipped("synthetic key taken"),
        "Give the captioner another tag.",
    ),
    Kind(
        "syn.json with a key of another array",
        sample(syn_json=b'{"image": ["a"]}'),
        skipped("bad syn.json"),
        "`image_emb` is the image's.",
    ),
    Kind(
        "syn.json with half an emoji as key",
        sample(syn_json=b'{"\\ud83d": ["a"]}'),
        skipped("bad syn.json"),
        "An array cannot have that name.",
    ),
    Kind(
        "syn.json with 1001 captions",
        sample(syn_json=json.dumps({"syn_text_x": ["a"] * 1001}).encode()),
        skipped("bad syn.json"),
        "All of them would be embedded.",
    ),
    Kind("syn.json without a key", sample(syn_json=b"{}"), REINFORCED, "The job's captioner adds one."),
]

LONG = "folder/" * 40 + "bad"

TARS = [
    Kind(
        "symbolic link",
        special(tarfile.SYMTYPE),
        skipped("symbolic link"),
        "Nothing is followed, not within the tar either: write it with `tar --dereference`.",
    ),
    Kind(
        "tar of symbolic links",
        lambda before, after: symbolic_links([*before, *after]),
        fails("2 of 2 samples skipped, more than errors.max_skipped = 0.6: symbolic link (2)"),
        "A hub's cache, packed as it lies there.",
    ),
    Kind(
        "hard link to an earlier member",
        by_tarfile(tarfile.GNU_FORMAT, link("bad.jpg", tarfile.LNKTYPE, "00.jpg"), as_entry(("bad.txt", b"t"))),
        REINFORCED,
        "tar writes a file that it meets twice so. Its bytes are read again.",
    ),
    Kind(
        "hard link with long names, PAX",
        by_tarfile(
            tarfile.PAX_FORMAT,
            as_entry((LONG + "1.jpg", JPEG)),
            as_entry((LONG + "1.txt", b"t")),
            link(LONG + "2.jpg", tarfile.LNKTYPE, LONG + "1.jpg"),
            as_entry((LONG + "2.txt", b"t")),
        ),
        REINFORCED * 2,
        "Likewise.",
    ),
    Kind(
        "hard link to what is not there",
        special(tarfile.LNKTYPE),
        skipped("hard link"),
        "Its file lies outside: write the tar with `tar --hard-dereference`.",
    ),
    Kind("device", special(tarfile.CHRTYPE), NO_SAMPLE, "Passed over."),
    Kind("named pipe", special(tarfile.FIFOTYPE), NO_SAMPLE, "Passed over."),
    Kind("folder", special(tarfile.DIRTYPE), NO_SAMPLE, "Passed over."),
    Kind(
        "long names, GNU",
        by_tarfile(tarfile.GNU_FORMAT, as_entry((LONG + ".jpg", JPEG)), as_entry((LONG + ".txt", b"t"))),
        REINFORCED,
        "Read, and written likewise.",
    ),
    Kind(
        "long names, PAX",
        by_tarfile(tarfile.PAX_FORMAT, as_entry((LONG + ".jpg", JPEG)), as_entry((LONG + ".txt", b"t"))),
        REINFORCED,
        "Read, and written as GNU does.",
    ),
    Kind(
        "sparse file",
        header(0, tarfile.GNUTYPE_SPARSE),
        fails("write the tar without --sparse"),
        "Its bytes are not all there.",
    ),
    Kind(
        "sparse file, PAX",
        by_tarfile(tarfile.PAX_FORMAT, sparse("bad.jpg")),
        fails("write the tar without --sparse"),
        "Likewise; its name is a made-up one.",
    ),
    Kind(
        "volume label",
        special(b"V"),
        NO_SAMPLE,
        "What is neither file nor link is passed over: `entry of type 'V'`.",
    ),
    Kind(
        "name of 1 GB", header(1 << 30, tarfile.GNUTYPE_LONGNAME), fails("is not a name"), "Refused before it is read."
    ),
    Kind(
        "size of 100 GB",
        header(100 << 30),
        fails("claims 107374182400 bytes, and the tar ends within them"),
        "Refused before it is read or allocated.",
    ),
    Kind(
        "size beyond the tar's end",
        header(MAX_MEMBER_BYTES - 1),
        fails("truncated"),
        "No more is allocated than is there.",
    ),
    Kind("negative size", header(-512), fails("a size of -512 bytes is impossible"), "The walk would never end."),
    Kind(
        "damaged PAX header",
        header(3, tarfile.XHDTYPE, b"99 "),
        fails("PAX header is malformed"),
        "Where the next member's name ends is unknown.",
    ),
    Kind(
        "flipped bit in a header",
        cut(lambda data: b"\x01" + data[1:]),
        fails("not a tar header at byte 0"),
        "Its checksum tells.",
    ),
    Kind(
        "tar cut in a member",
        cut(lambda data: data[: len(data) // 2]),
        fails("truncated"),
        "Nothing is published of half a shard.",
    ),
    Kind(
        "tar cut between members",
        cut(lambda data: data[:-1024]),
        fails("without an end mark"),
        "Else a lost half would pass for a whole.",
    ),
    Kind(
        "two tars joined by cat",
        cut(lambda data: data + data),
        fails("goes on after the tar's end mark"),
        "Else the second half would be lost without a word.",
    ),
    Kind("zero bytes", whole(b""), fails("the file is empty"), "A download that was given up."),
    Kind(
        "gzip-ed tar",
        lambda before, after: gzipped(sample()(before, after)),
        REINFORCED,
        "Read as it is unpacked, whatever its name.",
    ),
    Kind(
        "gzip-ed tar, cut",
        cut(lambda data: gzipped(data)[:-9]),
        fails("the gzip file is cut or damaged"),
        "Nothing is published of half a shard.",
    ),
    Kind(
        "gzip-ed tar with a flipped bit",
        cut(lambda data: gzipped(data)[:-7] + bytes([gzipped(data)[-7] ^ 1]) + gzipped(data)[-6:]),
        fails("the gzip file is cut or damaged"),
        "Its checksum tells.",
    ),
    Kind("tar that is gzip-ed twice", cut(lambda data: gzipped(gzipped(data))), fails("gunzip it once"), "Unpack it."),
    Kind("zip", whole(b"PK\x03\x04" + bytes(600)), fails("a zip file: unpack it"), "Only tars are read."),
    Kind(
        "web page named .tar",
        whole(b"<!DOCTYPE html><title>404</title>"),
        fails("a web page"),
        "A server's error: download it again.",
    ),
    Kind("storage's error named .tar", whole(b'<?xml version="1.0"?><Error/>'), fails("an XML document"), "Likewise."),
    Kind("JSON named .tar", whole(b'{"error": "rate limit"}'), fails("JSON, likely a server's error"), "Likewise."),
    Kind(
        "Git LFS pointer",
        whole(b"version https://git-lfs.github.com/spec/v1\n"),
        fails("run git lfs pull"),
        "The clone did not fetch it.",
    ),
    Kind("image named .tar", whole(JPEG), fails("a JPEG image"), "Not a shard."),
    Kind("rubbish", whole(bytes(range(1, 256)) * 9), fails("not a tar header at byte 0"), "Not a shard."),
    Kind(
        "no sample at all",
        whole(tar_bytes([("data/README", b"r"), ("data/000001", JPEG), ("data/.hidden.jpg", JPEG)])),
        fails("none of its 3 members is a sample's (KEY.jpg, KEY.txt): name without extension (2), name without key"),
        "Else it would be done, with nothing.",
    ),
    Kind(
        "most samples bad",
        among(*((f"bad{index}.jpg", b"") for index in range(9))),
        fails("9 of 11 samples skipped"),
        "More than errors.max_skipped: the shard or the job is wrong.",
    ),
]

CORPUS = {"Images": IMAGES, "Texts": TEXTS, "Members and keys": MEMBERS, "JSON": JSON, "Tars": TARS}
KINDS = [kind for kinds in CORPUS.values() for kind in kinds]
