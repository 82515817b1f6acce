"""`decode` with a model of transformers and its cache: words of every method are those of the model without a cache."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, StaticCache, TopKLogitsWarper, TopPLogitsWarper

from dr_pipeline.config.cards import Sampling
from dr_pipeline.dataset.caption_faults import CutCaption
from dr_pipeline.errors import ModelError
from dr_pipeline.models import decoding
from dr_pipeline.models.decoding import decode, sample_tokens
from dr_pipeline.models.replay import LateReader
from tests.models.test_beams import processed, slow_groups
from tests.models.test_coca_decoder import END, VOCABULARY, some_streams

pytestmark = pytest.mark.usefixtures("inference")

PROMPTS_BL = torch.randint(3, VOCABULARY, (6, 4), generator=torch.Generator().manual_seed(1))


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=END
    )
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():  # what it says depends on its prompt
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    model.lm_head.weight[END] *= 1.3
    return model


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return tiny_gpt2()


class Rows:
    """What a plug-in writes around `decode`."""

    def __init__(self, model: GPT2LMHeadModel, prompts_BL: torch.Tensor, cache: Any = None):
        output = model(prompts_BL, past_key_values=cache, use_cache=True)
        self.first_BV, self._cache, self._model = output.logits[:, -1], output.past_key_values, model
        self.sizes: list[int] = []

    def step(self, tokens_R: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(tokens_R))
        return self._model(tokens_R[:, None], past_key_values=self._cache).logits[:, -1]

    def captions(self, streams: list, ends: tuple[int, ...] = (END,), **options: Any) -> list[list[str]]:
        return decode(
            self.first_BV,
            self.step,
            self._cache.reorder_cache,
            streams,
            Sampling(**{"max_tokens": 10, **options}),
            end_tokens=ends,
            spell=lambda tokens: "  ".join(map(str, tokens)) + "\n",
        )


def words_of(captions: list[list[str]]) -> list[list[list[int]]]:
    return [[[int(word) for word in text.split()] for text in texts] for texts in captions]


def logits_after(model: GPT2LMHeadModel, prompt_L: torch.Tensor, words: list[int]) -> torch.Tensor:
    return model(torch.cat([prompt_L, torch.tensor(words, dtype=torch.int64)])[None]).logits[0, -1]


def test_greedy_words_are_those_of_generate_and_any_end_ends_them(model: GPT2LMHeadModel) -> None:
    rows = Rows(model, PROMPTS_BL)
    captions = rows.captions(some_streams(6, 2), ends=(END, 7), method="greedy")
    greedy = {"do_sample": False, "max_new_tokens": 9, "eos_token_id": [END, 7], "pad_token_id": END}
    ids_BT = model.generate(PROMPTS_BL, attention_mask=torch.ones_like(PROMPTS_BL), **greedy)[:, 4:]
    for texts, words in zip(words_of(captions), ids_BT.tolist(), strict=True):
        ends = [place for place, word in enumerate(words) if word in (END, 7)]
        assert texts == [words[: ends[0] if ends else None]] * 2
    is_cut = [[isinstance(text, CutCaption) for text in texts] for texts in captions]
    assert is_cut == [[len(words) == 9 for words in texts] for texts in words_of(captions)]
    assert {cut for texts in is_cut for cut in texts} == {True, False}


@pytest.mark.parametrize("method", ["top_p", "top_k"])
def test_words_are_drawn_as_the_library_s_processors_say(method: str, model: GPT2LMHeadModel) -> None:
    sampling = Sampling(
        method=method, top_k=5, top_p=0.8, min_tokens=3, temperature=1.3, repetition_penalty=1.6, max_tokens=10
    )
    keep = {"top_k": TopKLogitsWarper(5), "top_p": TopPLogitsWarper(0.8)}[method]
    captions = words_of(Rows(model, PROMPTS_BL).captions(some_streams(6, 3), **sampling.model_dump()))
    for prompt_L, streams, texts in zip(PROMPTS_BL, some_streams(6, 3), captions, strict=True):
        for stream, words in zip(streams, texts, strict=True):
            assert len(words) >= 2
            spoken = [*words, END][:9]
            for t, uniform in enumerate(stream.uniforms(len(spoken))):
                scores_V = processed(logits_after(model, prompt_L, words[:t]), words[:t], sampling)
                probs_V = keep(None, scores_V[None])[0].double().softmax(-1)
                assert spoken[t] == np.searchsorted(np.cumsum(probs_V.numpy()), uniform)
    assert len({tuple(words) for texts in captions for words in texts}) > 14


@pytest.mark.parametrize(
    "options", [{"num_beams": 4}, {"num_beams": 6, "num_beam_groups": 3, "min_tokens": 4}], ids=str
)
def test_beams_are_those_of_the_slow_search(options: dict, model: GPT2LMHeadModel) -> None:
    sampling = Sampling(method="beam", max_tokens=7, **options)
    streams = some_streams(6, sampling.num_beams)
    captions = words_of(Rows(model, PROMPTS_BL).captions(streams, **sampling.model_dump()))
    for prompt_L, texts in zip(PROMPTS_BL, captions, strict=True):
        assert texts == slow_groups(lambda words, prompt_L=prompt_L: logits_after(model, prompt_L, words), sampling)


def test_ended_captions_leave_and_the_others_stay_what_they_are_alone(model: GPT2LMHeadModel) -> None:
    rows = Rows(model, PROMPTS_BL)
    options = {"max_tokens": 20, "ends": (END, *range(20, 25))}
    together = rows.captions(some_streams(6, 4), **options)
    assert rows.sizes[0] == 24
    assert len(set(rows.sizes)) > 2
    longest = max(len(words) for texts in words_of(together) for words in texts)
    assert len(rows.sizes) == min(longest, 18)
    for index in range(6):
        alone = Rows(model, PROMPTS_BL[index : index + 1]).captions(some_streams(6, 4)[index : index + 1], **options)
        assert alone == together[index : index + 1]


def test_a_host_that_learns_late_that_all_have_ended_asks_for_no_empty_step(
    model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_tokens": 20, "ends": (END, *range(20, 25))}
    expected = Rows(model, PROMPTS_BL).captions(some_streams(6, 4), **options)
    monkeypatch.setattr(decoding, "LateReader", lambda device, lag: LateReader(device, lag + 2))  # as on a GPU
    for index in range(6):
        alone = Rows(model, PROMPTS_BL[index : index + 1])
        assert alone.captions(some_streams(6, 4)[index : index + 1], **options) == expected[index : index + 1]
        assert min(alone.sizes) > 0


@pytest.mark.parametrize("method", ["top_p", "beam"])
def test_a_cache_of_fixed_size_does_as_well(method: str, model: GPT2LMHeadModel) -> None:
    options = {"method": method, "max_tokens": 16, "ends": (END, *range(20, 25))}
    static = Rows(model, PROMPTS_BL, StaticCache(config=model.config, max_cache_len=24))
    assert static.captions(some_streams(6, 2), **options) == Rows(model, PROMPTS_BL).captions(
        some_streams(6, 2), **options
    )


def test_minus_infinity_bans_a_token_and_nothing_else_may_be_infinite(model: GPT2LMHeadModel) -> None:
    class Banning(Rows):
        wrong = -torch.inf

        def step(self, tokens_R: torch.Tensor) -> torch.Tensor:
            return super().step(tokens_R).index_fill(1, torch.arange(10, VOCABULARY), self.wrong)

    for method in ("greedy", "top_p", "beam"):
        captions = words_of(Banning(model, PROMPTS_BL).captions(some_streams(6, 2), method=method))
        assert all(word < 10 for texts in captions for words in texts for word in words[1:])
        rows = Banning(model, PROMPTS_BL)
        rows.wrong = torch.nan
        with pytest.raises(ModelError, match="not finite"):
            rows.captions(some_streams(6, 2), method=method, min_tokens=5)


def test_tokens_one_step_at_a_time() -> None:
    logits_RV = torch.tensor([[0.0, 3.0, 2.0, -torch.inf], [9.0, 1.0, 2.0, 0.0]])
    uniforms_R, words_RT = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([[1, 1], [2, 1]])
    greedy = Sampling(method="greedy", repetition_penalty=2.0, min_tokens=4)
    assert sample_tokens(logits_RV, uniforms_R, greedy, words_RT, end_tokens=[3, 0]).tolist() == [2, 2]
    late = greedy.model_copy(update={"min_tokens": 3})
    assert sample_tokens(logits_RV, uniforms_R, late, words_RT, end_tokens=[3, 0]).tolist() == [2, 3]
    with pytest.raises(ModelError, match="use decode"):
        sample_tokens(logits_RV, uniforms_R, Sampling(method="beam"), words_RT, end_tokens=[3])
    with pytest.raises(ModelError, match="not finite"):
        sample_tokens(logits_RV + torch.nan, uniforms_R, greedy, words_RT, end_tokens=[3])
