"""Words by every method, with penalties and lengths, against the library's processors and a slow search in groups."""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dr_pipeline.config.cards import CaptionerCard, Sampling
from dr_pipeline.demo.painting import paint
from dr_pipeline.demo.scenes import draw_truth
from dr_pipeline.models.beams import Beams
from dr_pipeline.models.choose import Rule, without_repetition
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.models.coca_sampler import Samplers, Shapes
from dr_pipeline.models.load import load_captioner
from dr_pipeline.networks.images import prepare
from dr_pipeline.views.seeding import Stream
from tests.demo_job import demo_job
from tests.models.test_coca_decoder import (
    ARCHITECTURES,
    CONTEXT,
    END,
    START,
    captions_of,
    plain_logits,
    some_images,
    some_streams,
    spoken,
    tiny_coca,
)

pytestmark = pytest.mark.usefixtures("inference")

CPU = torch.device("cpu")


def processed(logits_V: torch.Tensor, words: list[int], sampling: Sampling) -> torch.Tensor:
    """Logits as transformers changes them for a caption of these words, before it takes some of them out."""
    ids_1T, scores_1V = torch.tensor([[START, *words]]), logits_V[None].clone()
    scores_1V = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty, prompt_ignore_length=1)(ids_1T, scores_1V)
    scores_1V = MinNewTokensLengthLogitsProcessor(1, max(0, sampling.min_tokens - 1), END)(ids_1T, scores_1V)
    return TemperatureLogitsWarper(sampling.temperature)(ids_1T, scores_1V)[0]


@pytest.mark.parametrize("method", ["greedy", "top_p", "top_k"])
def test_words_are_those_of_the_library_s_processors(method: str) -> None:
    options = {"top_k": 5, "top_p": 0.8, "min_tokens": 5, "temperature": 0.7, "repetition_penalty": 1.6}
    sampling = Sampling(method=method, **options)
    keep = {"top_k": TopKLogitsWarper(5), "top_p": TopPLogitsWarper(0.8), "greedy": TopKLogitsWarper(1)}[method]
    model, images = tiny_coca(ARCHITECTURES[1], seed=3), some_images(4, seed=3)
    model.text_decoder.text_projection[:, END] *= 2.5
    captions = captions_of(model, images, some_streams(4, 2), method=method, **options)
    for image, streams, texts in zip(images, some_streams(4, 2), captions, strict=True):
        for stream, words in zip(streams, texts, strict=True):
            for t, uniform in enumerate(stream.uniforms(len(spoken(words)))):
                scores_1V = keep(
                    None, processed(plain_logits(model, image, [START, *words[:t]]), words[:t], sampling)[None]
                )
                cumulative_V = np.cumsum(scores_1V[0].double().softmax(-1).numpy())
                assert words[t] == np.searchsorted(cumulative_V, uniform)
            assert len(spoken(words)) >= 4
    plain = captions_of(model, images, some_streams(4, 2), method=method, **{**options, "repetition_penalty": 1.0})
    assert plain != captions


class Hypothesis(NamedTuple):
    words: list[int]
    score: float

    @property
    def mean(self) -> float:
        return self.score / len(self.words)


def slow_groups(logits_after: Callable[[list[int]], torch.Tensor], sampling: Sampling) -> list[list[int]]:
    """Algorithm 1 of Vijayakumar et al., a hypothesis at a time → their words, the best of each group first."""
    size = sampling.num_beams // sampling.num_beam_groups
    groups = [[Hypothesis([], 0.0)] for _ in range(sampling.num_beam_groups)]
    for _ in range(sampling.max_tokens - 1):
        chosen: Counter[int] = Counter()
        for g, group in enumerate(groups):
            candidates = [one for one in group if END in one.words]
            for words, score in (one for one in group if END not in one.words):
                logits = processed(logits_after(words), words, sampling)
                for token, log_prob in enumerate(logits.log_softmax(-1).tolist()):
                    cost = 0 if token == END else sampling.diversity_penalty * chosen[token]
                    candidates.append(Hypothesis([*words, token], score + log_prob - cost))
            ended = [one.words for one in group if END in one.words]
            groups[g] = sorted(candidates, key=lambda one: one.mean, reverse=True)[:size]
            chosen.update(one.words[-1] for one in groups[g] if one.words not in ended)
    return [spoken(one.words) for places in zip(*groups, strict=True) for one in places]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {"num_beams": 6, "num_beam_groups": 3},
        {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 3.0, "min_tokens": 5},
        {"num_beams": 4, "num_beam_groups": 2, "repetition_penalty": 1.5, "temperature": 2.0},
    ],
    ids=str,
)
def test_beams_are_those_of_the_slow_search(options: dict) -> None:
    sampling = Sampling(method="beam", max_tokens=9, **options)
    model, images = tiny_coca(ARCHITECTURES[2], seed=2), some_images(4, seed=2)
    model.text_decoder.text_projection[:, END] *= 2.5
    num_captions = sampling.num_beams
    captions = captions_of(model, images, some_streams(4, num_captions), **sampling.model_dump())
    assert len({len(spoken(words)) for texts in captions for words in texts}) > 3, "they end at many places"
    for image, texts in zip(images, captions, strict=True):
        expected = slow_groups(lambda words, image=image: plain_logits(model, image, [START, *words]), sampling)
        assert [spoken(words) for words in texts] == expected


def test_groups_begin_with_other_words() -> None:
    model, images = tiny_coca(ARCHITECTURES[2], seed=1), some_images(5, seed=1)
    plain = captions_of(model, images, some_streams(5, 3), method="beam", num_beams=3)
    grouped = captions_of(
        model, images, some_streams(5, 3), method="beam", num_beams=3, num_beam_groups=3, diversity_penalty=100.0
    )
    assert all(len({words[0] for words in texts}) == 3 for texts in grouped)
    assert not all(len({words[0] for words in texts}) == 3 for texts in plain)
    greedy = captions_of(model, images, some_streams(5, 1), method="greedy")
    assert [texts[0] for texts in grouped] == [words for (words,) in greedy]  # the first group is free


def shared_words(captioner: Any, images_BCHW: torch.Tensor, **options: object) -> float:
    """The words that two captions of an image have both, by those that either has: the mean over pairs."""
    streams = some_streams(len(images_BCHW), 3)
    texts = captioner.caption(images_BCHW, streams, Sampling(method="beam", **options))
    pairs = [
        ({*one.split()}, {*other.split()}) for captions in texts for one, other in itertools.combinations(captions, 2)
    ]
    return float(np.mean([len(one & other) / len(one | other) for one, other in pairs]))


def test_groups_say_it_in_other_words() -> None:
    (card,) = demo_job("none", "none").captioners
    captioner = load_captioner(card, CPU)
    scenes = [Stream(3, "view", index) for index in range(16)]
    pixels_BHWC = np.stack([np.asarray(paint(draw_truth(scene), 64, 64, scene)) for scene in scenes])
    images_BCHW = prepare(torch.from_numpy(pixels_BHWC), captioner.spec)
    assert shared_words(captioner, images_BCHW) > 0.6
    assert shared_words(captioner, images_BCHW, num_beam_groups=3) < 0.4


def test_more_captions_than_beams_widen_the_groups() -> None:
    beams = Beams(1, 7, 4, Rule(Sampling(method="beam", num_beams=4, num_beam_groups=2), END), CPU)
    assert beams.num_beams == 8


def test_any_end_ends_a_hypothesis() -> None:
    beams = Beams(1, 2, 4, Rule(Sampling(method="beam", num_beams=2, min_tokens=2), end_token=0, other_ends=(3,)), CPU)
    logits_1KV = torch.tensor([[[5.0, 1.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    assert not beams.extend(logits_1KV)
    assert beams.tokens_BK.tolist() == [[1, 2]]
    assert beams.extend(logits_1KV.expand(1, 2, 4)[:, [0, 0]])
    assert beams.best().tolist() == [[[1, 0, 0, 0], [2, 0, 0, 0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_penalty_counts_the_words_so_far_alone(dtype: torch.dtype) -> None:
    logits_RV = torch.tensor([[4.0, -4.0, 2.0, 1.0], [4.0, -4.0, 2.0, 1.0]], dtype=dtype)
    words_RT = torch.tensor([[0, 1, 0, 2, 3], [END, 1, 1, 3, 0]])
    rule = Rule(Sampling(repetition_penalty=2.0), end_token=END)
    expected = torch.tensor([[2.0, -8.0, 2.0, 1.0], [4.0, -8.0, 2.0, 1.0]], dtype=dtype)
    for num_words in (3, torch.tensor([3])):
        assert torch.equal(without_repetition(logits_RV, words_RT, num_words, rule), expected)
    assert torch.equal(without_repetition(logits_RV, words_RT, 0, rule), logits_RV)


def test_a_penalty_is_the_same_in_buffers_of_fixed_sizes() -> None:
    model, images = tiny_coca(ARCHITECTURES[1], seed=4), some_images(7, seed=4)
    model.text_decoder.text_projection[:, END] *= 2.5
    samplers = Samplers(Shapes(images=(1, 2, 3, 5, 8), positions=(4, 9, 16), at_once=2, lag=2))
    for penalty in (1.3, 1.7):
        sampling = Sampling(repetition_penalty=penalty, max_tokens=CONTEXT)
        fixed = generate(model, images, some_streams(7, 2), sampling, START, END, samplers).tolist()
        assert fixed == captions_of(model, images, some_streams(7, 2), repetition_penalty=penalty)


def test_what_came_later_is_in_an_identity_where_it_is_used() -> None:
    def identity(**options: object) -> dict:
        return CaptionerCard(name="mine", use="m:C", sampling=Sampling(**options)).identity()["sampling"]

    assert {"num_beam_groups", "diversity_penalty", "repetition_penalty"}.isdisjoint(identity())
    used = {"num_beam_groups": 3, "diversity_penalty": 1.5, "repetition_penalty": 1.2}
    assert used.items() <= identity(**used).items()
    with pytest.raises(ValueError, match=r"num_beams \(6\) is no multiple of num_beam_groups \(4\)"):
        Sampling(num_beam_groups=4)
