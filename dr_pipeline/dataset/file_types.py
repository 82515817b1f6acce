"""Types of files that are taken for tars by mistake: told by their first bytes, with what to do."""

_REPACK = "unpack it and write a plain tar"
_AGAIN = "download the shard again"

_KINDS: tuple[tuple[bytes, str], ...] = (
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


def describe(start: bytes) -> str | None:
    """What the file that begins with these bytes is, and what to do; None where they tell nothing."""
    text = start.lstrip().lower()
    return next((told for mark, told in _KINDS if start.startswith(mark) or text.startswith(mark)), None)
