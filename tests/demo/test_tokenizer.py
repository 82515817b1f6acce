"""The word tokenizer knows every word of the scenes and keeps the ids that open_clip's towers rely on."""

import torch

from dr_pipeline.demo.grammar import draw_alt_text, short_captions, true_captions
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.views.seeding import Stream


def test_true_captions_come_back():
    tokenizer = WordTokenizer(context_length=40)
    for index in range(200):
        truth = draw_truth(Stream(11, "truth", index))
        for caption in (*true_captions(truth), *short_captions(truth)):
            assert tokenizer.decode(tokenizer(caption)[0]) == caption


def test_every_word_of_every_alt_text_is_known():
    tokenizer = WordTokenizer()
    for index in range(2000):
        stream = Stream(12, "texts", index)
        _, alt_text = draw_alt_text(draw_truth(stream), stream)
        assert tokenizer.unk_token_id not in tokenizer.encode(alt_text), alt_text


def test_start_end_and_padding():
    tokenizer = WordTokenizer(context_length=8)
    tokens_TL = tokenizer(["a red circle", "a red circle at the left of a wall"])
    assert tokens_TL.dtype == torch.int64
    assert tokens_TL.shape == (2, 8)
    assert (tokens_TL[:, 0] == tokenizer.sot_token_id).all()
    assert tokens_TL[0].argmax() == 4, "the end of text has the highest id"
    assert tokens_TL[0, 5:].tolist() == [tokenizer.pad_token_id] * 3
    assert tokens_TL[1, -1] == tokenizer.eot_token_id, "a long text keeps its end"
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1


def test_only_padding_is_id_zero_and_unknown_words_are_one_id():
    tokenizer = WordTokenizer()
    ids = tokenizer.encode("A RED circle, zebrafish!")
    assert 0 not in ids
    assert ids.count(tokenizer.unk_token_id) == 1
    assert tokenizer.decode(ids) == "a red circle, <unk>!"
    assert tokenizer("zebrafish", context_length=5).shape == (1, 5)
