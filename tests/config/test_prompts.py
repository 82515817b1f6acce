"""A prompt is filled in with a sample's key and alt-text, and with nothing else."""

import pytest
from pydantic import ValidationError

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.config.prompts import LONGEST_ALT_TEXT, fill_in


def card(prompt: str) -> CaptionerCard:
    return CaptionerCard(name="mine", use="m:C", prompt=prompt)


def test_key_and_alt_text_are_filled_in_once() -> None:
    prompt = card('{key}: {"tags": []} for {alt_text}, {alt_text}').prompt
    assert prompt is not None
    filled = fill_in(prompt, key="{alt_text}", alt_text=" {key} {0.__class__}\n\tdog ")
    assert filled == '{alt_text}: {"tags": []} for {key} {0.__class__} dog, {key} {0.__class__} dog'


def test_a_long_alt_text_loses_its_last_words() -> None:
    filled = fill_in("{alt_text}", key="a", alt_text="seven " * 1000)
    assert LONGEST_ALT_TEXT - 6 <= len(filled) <= LONGEST_ALT_TEXT + 2
    assert filled.endswith(" seven …")
    assert fill_in("{alt_text}", key="a", alt_text="大" * 2000) == "大" * LONGEST_ALT_TEXT + " …"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("of {alttext}", r"{alttext} is filled in by nothing: there are {alt_text} and {key}; did you mean alt_text?"),
        ("{0}", "{0} is filled in by nothing"),
        (" \n", "a prompt has words: leave it out for the model's own"),
    ],
)
def test_a_prompt_that_no_sample_fills_in_is_refused(prompt: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        card(prompt)
    assert said in str(caught.value)


def test_a_prompt_is_a_part_of_the_identity_where_there_is_one() -> None:
    plain = CaptionerCard(name="mine", use="m:C").identity()
    assert "prompt" not in plain
    assert card("Why?").identity() == {**plain, "prompt": "Why?"}
