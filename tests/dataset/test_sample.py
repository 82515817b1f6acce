"""The contract's key rule, and what a sample must have."""

import json
from typing import Any

import pytest

from dr_pipeline.dataset import sample as sample_module
from dr_pipeline.dataset.sample import Sample, parse_base_sample, parse_synthetic, read_class
from dr_pipeline.errors import SampleSkipped


def skipped(fields: dict[str, bytes], caption: str = "auto", key: str = "k") -> SampleSkipped:
    with pytest.raises(SampleSkipped) as caught:
        parse_base_sample(Sample(key, fields), caption)
    return caught.value


def sample(caption: str = "auto", key: str = "k", **fields: Any) -> Sample:
    """Keyword `_` stands for a dot; what is no bytes is written as JSON."""
    data = {
        name.replace("_", "."): value if isinstance(value, bytes) else json.dumps(value).encode()
        for name, value in fields.items()
    }
    made = Sample(key, data)
    parse_base_sample(made, caption)
    return made


def test_image_caption_and_the_rest() -> None:
    made = sample(txt=b"hello", jpg=b"I", json={"uid": 1}, url_txt=b"http://x", cls=b"\0\xff")
    assert (made.caption, made.synthetic, made.find_image(), made.image) == ("hello", {}, "jpg", b"I")
    assert set(made.members) == {"txt", "jpg", "json", "url.txt", "cls"}


def test_the_image_is_the_first_that_consumers_look_for() -> None:
    made = sample(txt=b"t", webp=b"W", png=b"P")
    assert (made.find_image(), made.image) == ("png", b"P")
    assert made.members["webp"] == b"W"


def test_members_of_an_earlier_pass_are_dropped() -> None:
    assert set(sample(txt=b"t", jpg=b"I", paug_json=b"p", pth_gz=b"g", npz=b"n").members) == {"txt", "jpg"}


CAPTIONS = {"caption": "from json", "text": "other", "alt": "alt", "number": 5, "blank": "  "}


@pytest.mark.parametrize(
    ("rule", "with_txt", "expected"),
    [
        ("auto", True, "from txt"),
        ("auto", False, "from json"),
        ("txt", True, "from txt"),
        ("caption", True, "from json"),
        ("text", True, "other"),
        ("alt", False, "alt"),
    ],
)
def test_caption_rules(rule: str, with_txt: bool, expected: str) -> None:
    fields = {"txt": b"from txt"} if with_txt else {}
    assert sample(rule, jpg=b"I", json=CAPTIONS, **fields).caption == expected


def test_auto_takes_the_text_field_where_there_is_no_caption() -> None:
    assert sample(jpg=b"I", json={"text": "other", "caption": None}).caption == "other"


@pytest.mark.parametrize(
    ("rule", "fields", "reason"),
    [
        ("auto", {"txt": b"t"}, "no image"),
        ("auto", {"jpg": b"I"}, "no text"),
        ("txt", {"jpg": b"I", "json": b'{"caption": "c"}'}, "no text"),
        ("alt", {"jpg": b"I", "txt": b"t"}, "no text"),
        ("alt", {"jpg": b"I", "txt": b"t", "json": b'{"caption": "c"}'}, "no text"),
        ("number", {"jpg": b"I", "json": b'{"number": 5}'}, "no text"),
        ("auto", {"jpg": b"I", "txt": b" \n"}, "no text"),
        ("blank", {"jpg": b"I", "json": b'{"blank": "  "}'}, "no text"),
        ("auto", {"jpg": b"I", "txt": b"caf\xe9"}, "text is not UTF-8"),
        ("auto", {"jpg": b"I", "json": b'{"caption": "cut \\ud83d"}'}, "text is not UTF-8"),
        ("auto", {"jpg": b"I", "json": b'{"caption": "caf\xe9"}'}, "text is not UTF-8"),
        ("auto", {"jpg": b"I", "json": b'["caption"]'}, "bad json"),
        ("auto", {"jpg": b"I", "json": b'{"caption": '}, "bad json"),
        ("auto", {"jpg": b"I", "json": b""}, "bad json"),
        ("auto", {"jpg": b"I", "json": b"[" * 100_000}, "bad json"),
    ],
)
def test_samples_without_image_or_text_are_skipped(rule: str, fields: dict[str, bytes], reason: str) -> None:
    skip = skipped(fields, rule)
    assert skip.reason == reason
    assert skip.detail


def test_a_json_that_is_not_read_may_be_anything() -> None:
    assert sample(jpg=b"I", txt=b"t", json=b"\xff not json").members["json"] == b"\xff not json"


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/abs", "a/..", "..", "a\0b", "..\\x", "a\\..\\x", "\\x"])
def test_unsafe_names_are_skipped(key: str) -> None:
    assert skipped({"jpg": b"I", "txt": b"t"}, key=key).reason == "unsafe name"


def test_a_name_that_a_nul_would_cut_is_skipped() -> None:
    assert skipped({"jpg": b"I", "txt": b"t", "txt\0x": b"u"}).reason == "unsafe name"
    assert skipped({"jpg": b"I", "txt": b"t", ".\\x": b"u"}, key="a\\").reason == "unsafe name"  # a\..\x on Windows


def test_a_text_beyond_any_caption_is_skipped() -> None:
    limit = sample_module._LONGEST_TEXT
    assert sample(jpg=b"I", txt=b"t" * limit).caption == "t" * limit
    assert skipped({"jpg": b"I", "txt": b"t" * (limit + 1)}).reason == "text too long"
    assert skipped({"jpg": b"I", "json": json.dumps({"text": "t" * (limit + 1)}).encode()}).reason == "text too long"
    with pytest.raises(SampleSkipped, match=r"text too long: syn\.json"):
        parse_synthetic(json.dumps({"syn_text": ["t" * (limit + 1)]}).encode())


def test_a_json_beyond_any_samples_is_not_parsed() -> None:
    huge = b'{"caption": "t"' + b" " * (16 << 20) + b"}"
    assert skipped({"jpg": b"I", "json": huge}).reason == "bad json"
    assert sample(jpg=b"I", txt=b"t", json=huge).members["json"] == huge  # nobody needs to read it


@pytest.mark.parametrize("key", ["a/b", "..a", "a..b/c", "größe"])
def test_safe_names_are_not(key: str) -> None:
    assert sample(key=key, jpg=b"I", txt=b"t").key == key


def test_existing_synthetic_captions_are_kept() -> None:
    captions = {"syn_text": ["a", "ü"], "syn_text_x": ["b"]}
    made = sample(jpg=b"I", txt=b"t", syn_json=captions)
    assert made.synthetic == captions


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"syn_text": "a"}',
        b'{"syn_text": []}',
        b'{"syn_text": ["a", 5]}',
        b'{"syn_text": ["a"], "x": null}',
        b'{"text": ["a"]}',
        b'{"image": ["a"]}',
        b'{"image_emb_x": ["a"]}',
        b'{"a\\u0000b": ["a"]}',
        b'{"\\ud83d": ["a"]}',
        b'{"\\ud83d": 5}',
        json.dumps({"k" * 201: ["a"]}).encode(),
        json.dumps({"syn_text": ["a"] * 1001}).encode(),
    ],
)
def test_malformed_synthetic_captions_are_skipped(data: bytes) -> None:
    skip = skipped({"jpg": b"I", "txt": b"t", "syn.json": data})
    assert skip.reason == "bad syn.json"
    assert len(skip.detail.encode()) < 600  # it quotes the data, and is stored


def test_synthetic_captions_that_are_no_text_are_skipped() -> None:
    for data in (b'{"syn_text": ["caf\xe9"]}', b'{"syn_text": ["cut \\ud83d"]}'):
        with pytest.raises(SampleSkipped, match=r"not UTF-8: syn\.json"):
            parse_synthetic(data)


def test_a_job_without_texts_reads_none_and_a_class_where_there_is_one() -> None:
    assert sample("none", jpg=b"x", cls=b" 42\n").texts == {}
    assert sample("none", jpg=b"x", txt=b"a dog", syn_json=b"no JSON").texts == {}
    assert [read_class({"cls": text}) for text in (b"0", b"007\n")] == [0, 7]
    assert read_class({}) is None


@pytest.mark.parametrize("text", [b"", b"dog", b"-1", b"1.0", b"3 4", "٣".encode(), b"1" * 10, b"\xff"])
def test_what_is_no_class_is_skipped(text: bytes) -> None:
    assert skipped({"jpg": b"x", "cls": text}, "none").reason == "bad cls"
