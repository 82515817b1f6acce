"""Members, keys and JSON."""

import json
import tarfile

from tests.bad_input.corpus.kind import (
    MAX_MEMBER_BYTES,
    NO_SAMPLE,
    REINFORCED,
    Kind,
    fails,
    skipped,
)
from tests.bad_input.making import (
    JPEG,
    PNG,
    again,
    among,
    as_entry,
    by_tarfile,
    gzipped,
    nul_in_name,
    sample,
)
from tests.conftest import tar_bytes

PAIR = (("jpg", JPEG), ("txt", b"a circle"))

MEMBERS = [
    Kind("no image", sample(None), skipped("no image"), "Consumers drop it."),
    Kind("no text", sample(txt=None), skipped("no text"), "Neither txt, nor `caption` or `text` in json."),
    Kind("json alone", sample(None, None, json=b"{}"), skipped("no image"), "The other members are missing."),
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
        "No sample has so many, and all of them would be held in memory.",
    ),
    Kind("folder with dots", sample(key="v1.5/bad"), REINFORCED, "Dots count in the last part only."),
    Kind("key with slashes", sample(key="a/b/bad"), REINFORCED, "Folders are part of the key."),
    Kind("key with `..`", sample(key="../../bad"), skipped("unsafe name"), "Unpacked, it would leave its folder."),
    Kind("absolute key", sample(key="/etc/bad"), skipped("unsafe name"), "The same."),
    Kind("key with `..\\`", sample(key="a\\..\\bad"), skipped("unsafe name"), "The same on Windows."),
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
        "The same.",
    ),
    Kind(
        "a member apart from the others",
        among(("bad.jpg", JPEG), ("bad.txt", b"t"), ("more.jpg", JPEG), ("more.txt", b"t"), ("bad.json", b"{}")),
        ("reinforced", "reinforced", "skipped: members not adjacent"),
        "The sample goes without it, and that is counted.",
    ),
    Kind("macOS's shadow files", sample(key="._bad"), NO_SAMPLE, "Before the first dot there is no key."),
    Kind("file without extension", among(("README", b"read me")), NO_SAMPLE, "It belongs to no sample."),
    Kind(
        "members of an earlier pass",
        sample(paug_json=b"[", pth_gz=gzipped(bytes(1000)), npz=b"PK"),
        REINFORCED,
        "Dropped unread: they are made again.",
    ),
]

DEEP = b"[" * 100_000

JSON = [
    Kind("json that is a list", sample(txt=None, json=b'["a circle"]'), skipped("bad json"), "No field to read."),
    Kind(
        "json that is a list, beside a txt",
        sample(json=b'["a circle"]'),
        REINFORCED,
        "It is not read, and passes through.",
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
        "The same.",
    ),
    Kind("json cut", sample(txt=None, json=b'{"caption": "a ci'), skipped("bad json"), "No whole object."),
    Kind(
        "json nested 100,000 deep",
        sample(txt=None, json=b'{"caption": ' + DEEP),
        skipped("bad json"),
        "The parser stops before the stack overflows.",
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
        "syn.json with a number", sample(syn_json=b'{"syn_text_x": ["a", NaN]}'), skipped("bad syn.json"), "The same."
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
        "The parser stops before the stack overflows.",
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
