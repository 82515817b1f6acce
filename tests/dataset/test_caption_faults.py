"""Which texts say nothing, and which captions are spoilt."""

import json

import pytest

from dr_pipeline.dataset.caption_faults import CutCaption, describe_faults, faults, is_blank, repeats_itself
from dr_pipeline.dataset.sample import parse_json, read_caption
from dr_pipeline.errors import SampleSkipped

BLANK = [
    "",
    " \n\t\r\n",
    "\u200b\u200d\ufeff",
    "\xa0\u3000",
    "&nbsp; &nbsp;",
    "&#8203;",
    "\0\0",
    "\u2800\u3164",
    "\x07",
]
SHOWN = [
    "a",
    ".",
    "&",
    "&nbsp;a",
    "\u200bcircle",
    "دائرة",
    "🔴",
    "👩‍👩‍👧",
    "\0a",
    "&amp;nbsp",
    "\ufeffa circle",
    "<br>",
]


@pytest.mark.parametrize("text", BLANK, ids=ascii)
def test_a_text_that_shows_nothing_is_none(text: str) -> None:
    assert is_blank(text)
    for fields in ({"txt": text.encode()}, {"json": b'{"caption": ' + json.dumps(text).encode() + b"}"}):
        with pytest.raises(SampleSkipped) as caught:
            read_caption(fields, "auto")
        assert caught.value.reason == "no text"


@pytest.mark.parametrize("text", SHOWN, ids=ascii)
def test_a_text_with_a_sign_is_one_and_stays_as_it_is(text: str) -> None:
    assert not is_blank(text)
    assert read_caption({"txt": text.encode()}, "auto") == text


def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert parse_json('\ufeff{"caption": "a circle"}'.encode(), "json") == {"caption": "a circle"}
    with pytest.raises(SampleSkipped, match="bad json"):
        parse_json('\ufeff\ufeff{"caption": "a circle"}'.encode(), "json")


@pytest.mark.parametrize(
    "text",
    [
        "a dog dog dog dog",
        "a dog and a dog and a dog and a",
        "red. Red. RED. red.",
        "on a table in a room on a table in a room on a table in a room",
        "one two three four five six seven eight " * 3,
    ],
)
def test_a_phrase_over_and_over_is_repetition(text: str) -> None:
    assert repeats_itself(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a very very very big dog",
        "a dog and a dog and a cat",
        "a red dog, a red cat, a red bird, a red horse",
        "knock knock, knock knock",
        "one two three four five six seven eight nine " * 3,
    ],
)
def test_what_people_write_is_none(text: str) -> None:
    assert not repeats_itself(text)


def test_faults_are_counted_each_once_a_caption() -> None:
    captions = ["a dog", "", CutCaption("a dog on"), CutCaption("dog dog dog dog"), "&nbsp;"]
    assert faults(captions) == {"blank": 2, "repeating": 1, "cut": 2}
    assert faults(["a dog"]) == {}
    assert str(faults([CutCaption("a dog on")])) == "{'cut': 1}"  # a number, as it stands in reports, not True
    assert describe_faults("syn_text", faults(captions), 5) == (
        "syn_text: 5 captions, 2 blank, 1 repeating themselves, 2 cut at the limit of tokens"
    )
    assert describe_faults("syn_text", {}, 1) == "syn_text: 1 caption, none blank, repeating itself or cut"
