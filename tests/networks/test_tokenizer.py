"""Texts that would keep a tokenizer busy for hours are shortened; all others are not touched."""

import copy
import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.networks.tokenizer import remember_words, spelling, truncate_text


@given(st.text(max_size=600))
def test_short_texts_are_not_touched(text: str) -> None:
    assert truncate_text(text) == text or any(len(word) > 500 for word in text.split())


def test_long_texts_of_words_keep_what_a_model_reads() -> None:
    words = [f"word{index}" for index in range(20_000)]
    text = " ".join(words)
    assert text.startswith(truncate_text(text))
    assert len(truncate_text(text)) == 32_768
    assert truncate_text(" " * 40_000 + "a dog") == "a dog"


def test_a_word_without_end_is_cut_and_the_next_one_kept() -> None:
    assert truncate_text("a " + "x" * 5000 + " dog") == "a " + "x" * 500 + " dog"


def test_the_tokens_that_a_model_sees_stay_the_same() -> None:
    tokenizer, letters = SimpleTokenizer(), random.Random(0)
    text = "a dog " + "".join(letters.choices(string.ascii_lowercase, k=1000)) + " in the grass"
    assert (tokenizer([truncate_text(text)]) == tokenizer([text])).all()


def test_of_the_worst_text_a_tokenizer_reads_no_long_word() -> None:
    text = "".join(random.Random(0).choices(string.ascii_lowercase, k=1 << 20))
    read = truncate_text(text)
    assert len(read) <= 1 << 15
    assert max(len(word) for word in read.split()) == 500, "the time grows with its square"
    SimpleTokenizer()([read])


def test_a_tokenizer_forgets_words_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dr_pipeline.networks.tokenizer._REMEMBERED_WORDS", 50)
    bounded, plain = SimpleTokenizer(), SimpleTokenizer()
    remember_words(bounded)
    for number in range(200):
        text = f"w{number}ord and <end_of_text> a dog{number}"
        assert (bounded([text]) == plain([text])).all()
        assert len(bounded.encode._tokens) <= 50
        assert len(bounded.cache) == 2
    again = copy.deepcopy(bounded)  # by the means by which loading processes get it
    assert (again([text]) == plain([text])).all()


PLAIN, REMEMBERING = SimpleTokenizer(), SimpleTokenizer()
remember_words(REMEMBERING)
ENTITIES = st.sampled_from(
    ["&amp;", "&", "<end_of_text>", "Don't", "  ", "\t", "\x1b[1m", "ﬁ", "é", "â€œ", "\u200b", "10%"]
)


@given(st.lists(st.one_of(ENTITIES, st.text(max_size=12), st.text(string.printable, max_size=12)), max_size=8))
def test_remembered_words_have_the_tokens_of_open_clip(parts: list[str]) -> None:
    text = " ".join(parts)
    assert REMEMBERING.encode(text) == REMEMBERING.encode(text) == PLAIN.encode(text)


def test_another_way_of_cleaning_is_kept() -> None:
    plain, remembering = SimpleTokenizer(clean="canonicalize"), SimpleTokenizer(clean="canonicalize")
    remember_words(remembering)
    assert remembering.encode("A dog's, life_") == plain.encode("A dog's, life_") != PLAIN.encode("A dog's, life_")


def test_words_are_spelt_as_their_tokenizer_does_and_nothing_else_is() -> None:
    tokenizer, numbers = SimpleTokenizer(), random.Random(0)
    odd = [*tokenizer.all_special_ids, tokenizer.vocab_size, 99_999]
    for _ in range(300):  # many a sequence is no UTF-8
        tokens = [numbers.randrange(tokenizer.sot_token_id) for _ in range(25)]
        assert spelling(tokenizer)([*tokens[:9], *odd, *tokens[9:]]) == tokenizer.decode(tokens)
    tokens = tokenizer.encode("a Größe 🐶 of it’s <end of text>")
    assert spelling(tokenizer)(tokens) == tokenizer.decode(tokens)
    words = WordTokenizer()
    assert spelling(words)([3, 4, words.eot_token_id, 10_000]) == words.decode([3, 4])
