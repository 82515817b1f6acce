"""Whole tars."""

import tarfile

from tests.bad_input.corpus.kind import MAX_MEMBER_BYTES, NO_SAMPLE, REINFORCED, Kind, fails, skipped
from tests.bad_input.making import (
    JPEG,
    among,
    as_entry,
    by_tarfile,
    cut,
    gzipped,
    header,
    link,
    sample,
    sparse,
    special,
    symbolic_links,
    whole,
)
from tests.conftest import tar_bytes

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
        "A hub's cache, packed without following its links.",
    ),
    Kind(
        "hard link to an earlier member",
        by_tarfile(tarfile.GNU_FORMAT, link("bad.jpg", tarfile.LNKTYPE, "00.jpg"), as_entry(("bad.txt", b"t"))),
        REINFORCED,
        "tar stores the second occurrence of a file in this way; its bytes are read again.",
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
        "The same.",
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
        "Read, and written in the same form.",
    ),
    Kind(
        "long names, PAX",
        by_tarfile(tarfile.PAX_FORMAT, as_entry((LONG + ".jpg", JPEG)), as_entry((LONG + ".txt", b"t"))),
        REINFORCED,
        "Read, and written in GNU's form.",
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
        "The same; tar stores it under an invented name.",
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
        "Otherwise a truncated tar would pass as complete.",
    ),
    Kind(
        "two tars joined by cat",
        cut(lambda data: data + data),
        fails("goes on after the tar's end mark"),
        "Otherwise the second tar would be lost silently.",
    ),
    Kind("zero bytes", whole(b""), fails("the file is empty"), "An aborted download."),
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
    Kind("storage's error named .tar", whole(b'<?xml version="1.0"?><Error/>'), fails("an XML document"), "The same."),
    Kind("JSON named .tar", whole(b'{"error": "rate limit"}'), fails("JSON, likely a server's error"), "The same."),
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
        "Otherwise it would count as done, without samples.",
    ),
    Kind(
        "most samples bad",
        among(*((f"bad{index}.jpg", b"") for index in range(9))),
        fails("9 of 11 samples skipped"),
        "More than errors.max_skipped: the shard or the job is wrong.",
    ),
]
