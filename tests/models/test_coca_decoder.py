"""Cached decoding of CoCa against its forward on whole prefixes, and the tokens that each sampling method chooses."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa

from dr_pipeline.config.cards import Sampling
from dr_pipeline.errors import ModelError
from dr_pipeline.models.choose import choose_tokens
from dr_pipeline.models.coca_decoder import CocaDecoder
from dr_pipeline.models.coca_generate import generate
from dr_pipeline.views.seeding import Stream

pytestmark = pytest.mark.usefixtures("inference")

VOCABULARY = 40
PAD, START, END = 0, 1, 2
CONTEXT = 14

# (text layers, decoder layers, heads, width, quick GELU, layer scale, attentional pool, class token)
ARCHITECTURES = [
    (1, 1, 1, 16, False, None, True, True),
    (2, 3, 4, 32, True, None, True, True),
    (3, 2, 2, 24, False, 0.5, False, True),
    (1, 2, 8, 32, True, 0.3, True, True),
    (2, 2, 2, 16, False, None, True, False),
]


def tiny_coca(architecture: tuple, seed: int, vocabulary: int = VOCABULARY) -> CoCa:
    """Weights far larger than at initialisation, so that what the model says depends on image and prefix."""
    text_layers, layers, heads, width, quick_gelu, layer_scale, attentional_pool, embed_cls = architecture
    towers = {"context_length": CONTEXT, "vocab_size": vocabulary, "width": width, "heads": heads}
    torch.manual_seed(seed)
    model = CoCa(
        embed_dim=width,
        multimodal_cfg={**towers, "layers": layers, "ls_init_value": layer_scale},
        text_cfg={
            **towers,
            "layers": text_layers,
            "ls_init_value": layer_scale,
            "embed_cls": embed_cls,
            "output_tokens": True,
        },
        vision_cfg={
            "image_size": 16,
            "patch_size": 8,
            "layers": 1,
            "width": width,
            "head_width": width,
            "attentional_pool": attentional_pool,
            "attn_pooler_queries": 6,
            "attn_pooler_heads": 1,
            "output_tokens": True,
        },
        quick_gelu=quick_gelu,
        pad_id=PAD,
    ).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 or "bias" in name or "cls_emb" in name:
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 2.0 * parameter.shape[-1] ** -0.5)
    return model


def some_images(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def some_streams(images: int, captions: int) -> list[list[Stream]]:
    return [[Stream(7, "caption", image, caption) for caption in range(captions)] for image in range(images)]


def captions_of(model: CoCa, images_BCHW: torch.Tensor, streams: list[list[Stream]], **options: object) -> list:
    sampling = Sampling(**{"max_tokens": CONTEXT, **options})
    return generate(model, images_BCHW, streams, sampling, START, END).tolist()


def plain_logits(model: CoCa, image_CHW: torch.Tensor, prefix: list[int]) -> torch.Tensor:
    """The model's own forward on one image and the whole prefix → logits [V] of the next token."""
    # Without a class token open_clip takes texts of full length only; what follows the prefix changes nothing.
    filling = [] if model.text.cls_emb is not None else [END] * (CONTEXT - len(prefix))
    return model(image_CHW[None], torch.tensor([prefix + filling]), output_labels=False)["logits"][0, len(prefix) - 1]


def plain_greedy(model: CoCa, images_BCHW: torch.Tensor, max_words: int) -> list[list[list[int]]]:
    """A caption of each image, as `captions_of` gives them: the whole prefix goes through the model for each word."""
    words_BT = torch.full((len(images_BCHW), 1), START)
    for length in range(1, max_words + 1):
        filling = 0 if model.text.cls_emb is not None else CONTEXT - length  # as in plain_logits
        texts_BT = F.pad(words_BT, (0, filling), value=END)
        next_B = model(images_BCHW, texts_BT, output_labels=False)["logits"][:, length - 1].argmax(-1)
        ended_B = (words_BT == END).any(-1)
        words_BT = torch.cat([words_BT, next_B.where(~ended_B, END)[:, None]], dim=1)
    return words_BT[:, None, 1:].tolist()


def plain_scores(model: CoCa, image_CHW: torch.Tensor, captions: list[list[int]]) -> list[float]:
    """Mean log-probability of each caption's words and, if there is one, its end token."""
    words_NT = torch.tensor(captions)
    filling = [END] * (CONTEXT - 1 - words_NT.shape[1])
    texts_NT = torch.tensor([[START, *words, *filling] for words in captions])
    images_NCHW = image_CHW.expand(len(captions), -1, -1, -1)
    logits_NTV = model(images_NCHW, texts_NT, output_labels=False)["logits"][:, : words_NT.shape[1]]
    log_probs_NT = logits_NTV.log_softmax(-1).gather(-1, words_NT[..., None])[..., 0]
    counted_NT = (words_NT == END).cumsum(-1).cumsum(-1) < 2
    return ((log_probs_NT * counted_NT).sum(-1) / counted_NT.sum(-1)).tolist()


def test_greedy_tokens_are_those_of_the_uncached_model() -> None:
    captions, cases = set(), 0
    for (index, architecture), seed in itertools.product(enumerate(ARCHITECTURES), range(5)):
        model, images = tiny_coca(architecture, seed), some_images(9, seed=100 * index + seed)
        cached = captions_of(model, images, some_streams(9, 1), method="greedy")
        assert cached == plain_greedy(model, images, CONTEXT - 2), f"architecture {architecture}, seed {seed}"
        captions |= {tuple(caption) for (caption,) in cached}
        cases += len(cached)
    words = [word for caption in captions for word in caption]
    assert cases >= 200
    assert len(captions) > 100, "the models say nearly always the same: the test proves little"
    assert PAD in words, "no padding token was spoken: the padding mask was not tested"
    assert END in words


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("correct_cls_mask", [False, True])
def test_logits_of_a_given_text_are_those_of_the_uncached_model(architecture: tuple, correct_cls_mask: bool) -> None:
    model, images = tiny_coca(architecture, seed=1), some_images(3, seed=1)
    model.text.correct_cls_mask = correct_cls_mask
    tokens_BNT = torch.randint(0, 4, (3, 2, CONTEXT), generator=torch.Generator().manual_seed(2))
    tokens_BNT[..., 0] = START
    assert (tokens_BNT[..., 1:-1] == PAD).any(-1).all()
    decoder = CocaDecoder(model, num_captions=2, num_positions=CONTEXT)
    decoder.begin(images)
    cached_BNTV = torch.stack([decoder.step(tokens_BNT[..., t]) for t in range(CONTEXT)], dim=2)
    plain = model(images.repeat_interleave(2, 0), tokens_BNT.flatten(0, 1), output_labels=False)["logits"]
    torch.testing.assert_close(cached_BNTV.flatten(0, 1), plain, atol=1e-4, rtol=0)


def test_reordered_captions_go_on_from_their_parents() -> None:
    model, images = tiny_coca(ARCHITECTURES[1], seed=2), some_images(2, seed=2)
    tokens_BNT = torch.randint(0, 3, (2, 3, 8), generator=torch.Generator().manual_seed(3))
    parents_BN = torch.tensor([[2, 0, 0], [1, 1, 2]])
    decoder = CocaDecoder(model, num_captions=3, num_positions=8)
    decoder.begin(images)
    for t in range(5):
        decoder.step(tokens_BNT[..., t])
    decoder.reorder(parents_BN)
    cached_BNTV = torch.stack([decoder.step(tokens_BNT[..., t]) for t in range(5, 8)], dim=2)
    inherited_BNT = tokens_BNT[..., :5].gather(1, parents_BN[..., None].expand(-1, -1, 5))
    texts_BNT = torch.cat([inherited_BNT, tokens_BNT[..., 5:]], dim=-1)
    plain = model(images.repeat_interleave(3, 0), texts_BNT.flatten(0, 1), output_labels=False)["logits"]
    torch.testing.assert_close(cached_BNTV.flatten(0, 1), plain[:, 5:], atol=1e-4, rtol=0)


def test_decodes_under_autocast() -> None:
    model, images = tiny_coca(ARCHITECTURES[1], seed=0), some_images(4, seed=0)
    tokens_BNT = torch.randint(0, VOCABULARY, (4, 1, CONTEXT), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        decoder = CocaDecoder(model, num_captions=1, num_positions=CONTEXT)
        decoder.begin(images)
        cached_BTV = torch.cat([decoder.step(tokens_BNT[..., t]) for t in range(CONTEXT)], dim=1)
        beams = captions_of(model, images, some_streams(4, 2), method="beam", num_beams=2)
    assert cached_BTV.dtype == torch.bfloat16
    exact = model(images, tokens_BNT[:, 0], output_labels=False)["logits"]
    relative_error = (cached_BTV.float() - exact).norm() / exact.norm()
    assert relative_error < 0.1
    assert len(beams) == 4


@pytest.mark.parametrize("method", ["top_p", "top_k"])
def test_neighbours_do_not_change_a_caption(method: str) -> None:
    model, images = tiny_coca(ARCHITECTURES[1], seed=3), some_images(8, seed=3)
    together = captions_of(model, images, some_streams(8, 3), method=method)
    alone = [captions_of(model, images[b : b + 1], some_streams(8, 3)[b : b + 1], method=method)[0] for b in range(8)]
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    streams = some_streams(8, 3)
    shuffled = captions_of(model, images[order], [streams[b] for b in order], method=method)
    fewer = captions_of(model, images, some_streams(8, 2), method=method)
    assert alone == together
    assert shuffled == [together[b] for b in order]
    assert fewer == [captions[:2] for captions in together]
    assert len({tuple(caption) for captions in together for caption in captions}) > 12


def test_every_word_is_drawn_with_its_own_number_of_the_stream() -> None:
    model, images = tiny_coca(ARCHITECTURES[1], seed=3), some_images(4, seed=3)
    drawn = captions_of(model, images, some_streams(4, 1), method="top_p", top_p=1.0, min_tokens=CONTEXT)
    for image, (stream,), (words,) in zip(images, some_streams(4, 1), drawn, strict=True):
        for t, uniform in enumerate(stream.uniforms(CONTEXT - 2)):
            logits = plain_logits(model, image, [START, *words[:t]])
            logits[END] = -torch.inf
            probs = logits.softmax(-1)
            assert words[t] == np.searchsorted(np.cumsum(probs.double().numpy()), uniform)


@pytest.mark.parametrize("method", ["greedy", "top_p", "top_k", "beam"])
def test_lengths_are_kept(method: str) -> None:
    model, images = tiny_coca(ARCHITECTURES[0], seed=4), some_images(6, seed=4)
    model.text_decoder.text_projection[:, END] *= 3.0  # a model that likes to stop, for the images that suit it
    free = captions_of(model, images, some_streams(6, 2), method=method)
    bound = captions_of(model, images, some_streams(6, 2), method=method, min_tokens=4, max_tokens=6)
    assert any(len(spoken(words)) < 3 for captions in free for words in captions)
    assert all(len(words) == CONTEXT - 2 for captions in free for words in captions)
    lengths = {len(spoken(words)) + 1 for captions in bound for words in captions}
    assert lengths <= {4, 5, 6}
    assert 4 in lengths
    assert all(len(words) == 5 for captions in bound for words in captions)


def spoken(words: list[int]) -> list[int]:
    return words[: words.index(END)] if END in words else words


@pytest.mark.parametrize("method", ["greedy", "top_p", "beam"])
def test_nothing_follows_the_end_and_the_loop_stops_there(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny_coca(ARCHITECTURES[0], seed=4), some_images(6, seed=4)
    model.text_decoder.text_projection[:, END] *= 3.0
    steps = []
    step = CocaDecoder.step
    monkeypatch.setattr(CocaDecoder, "step", lambda self, tokens: steps.append(1) or step(self, tokens))
    captions = captions_of(model, images, some_streams(6, 2), method=method, num_beams=2)
    for words in itertools.chain(*captions):
        assert set(words[len(spoken(words)) :]) <= {END}
    longest = max(len(spoken(words)) for words in itertools.chain(*captions))
    assert len(steps) == min(longest + 1, CONTEXT - 2)


def test_one_word_and_no_room_for_any() -> None:
    model, images = tiny_coca(ARCHITECTURES[0], seed=0), some_images(2, seed=0)
    assert np.shape(captions_of(model, images, some_streams(2, 3), max_tokens=2)) == (2, 3, 1)
    model.text.context_length = 2
    with pytest.raises(ModelError, match="no room for start, word and end"):
        captions_of(model, images, some_streams(2, 3))


@pytest.mark.parametrize("method", ["greedy", "top_p", "beam"])
def test_logits_that_are_not_finite_are_refused(method: str) -> None:
    model, images = tiny_coca(ARCHITECTURES[0], seed=0), some_images(2, seed=0)
    images[1] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        captions_of(model, images, some_streams(2, 1), method=method)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_beam_is_greedy_and_so_is_top_1(architecture: tuple) -> None:
    model, images = tiny_coca(architecture, seed=5), some_images(6, seed=5)
    greedy = captions_of(model, images, some_streams(6, 1), method="greedy")
    assert captions_of(model, images, some_streams(6, 1), method="beam", num_beams=1) == greedy
    assert captions_of(model, images, some_streams(6, 1), method="top_k", top_k=1) == greedy
    assert captions_of(model, images, some_streams(6, 1), method="top_p", top_p=1e-6) == greedy


def test_beams_are_distinct_sorted_and_better_than_greedy() -> None:
    gains = []
    for seed, architecture in enumerate(ARCHITECTURES):
        model, images = tiny_coca(architecture, seed), some_images(3, seed)
        greedy = captions_of(model, images, some_streams(3, 1), method="greedy")
        beams = captions_of(model, images, some_streams(3, 4), method="beam", num_beams=6)
        assert beams == captions_of(model, images, some_streams(3, 4), method="beam", num_beams=6)
        for image, (words,), captions in zip(images, greedy, beams, strict=True):
            greedy_score, *scores = plain_scores(model, image, [words, *captions])
            assert len({tuple(caption) for caption in captions}) == 4
            assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
            gains.append(scores[0] - greedy_score)
    assert min(gains) >= -1e-4
    assert max(gains) > 0.1


def test_a_beam_as_wide_as_the_tree_finds_every_caption_in_order() -> None:
    model, (image,) = tiny_coca(ARCHITECTURES[2], seed=6, vocabulary=8), some_images(1, seed=6)
    triples = [list(triple) for triple in itertools.product(range(8), repeat=3)]
    every = [words for words in triples if set(words[len(spoken(words)) :]) <= {END}]
    (captions,) = captions_of(model, image[None], some_streams(1, len(every)), method="beam", max_tokens=4)
    assert sorted(captions) == sorted(every)
    scores = sorted(plain_scores(model, image, every), reverse=True)
    assert plain_scores(model, image, captions) == pytest.approx(scores, abs=1e-5)


def drawn_frequencies(logits: list[float], **options: object) -> np.ndarray:
    """How often each token is drawn by 20,000 evenly spread numbers."""
    uniforms = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000
    logits_BNV = torch.tensor(logits).expand(20_000, 1, len(logits))
    tokens = choose_tokens(logits_BNV, uniforms, Sampling(**options))
    return torch.bincount(tokens.flatten(), minlength=len(logits)).numpy() / 20_000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "top_p", "top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"method": "top_p", "top_p": 0.41}, [0, 4 / 7, 0, 3 / 7]),
        ({"method": "top_p", "top_p": 0.39}, [0, 1, 0, 0]),
        ({"method": "top_p", "top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"method": "top_k", "top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"method": "top_k", "top_k": 50}, [0.1, 0.4, 0.2, 0.3]),
        ({"method": "top_k", "top_k": 4, "temperature": 0.5}, np.square([1, 4, 2, 3]) / 30),
        ({"method": "greedy"}, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_by_their_probability(options: dict, expected: list[float]) -> None:
    frequencies = drawn_frequencies(np.log([0.1, 0.4, 0.2, 0.3]).tolist(), **options)
    np.testing.assert_allclose(frequencies, expected, atol=2e-4)


def test_top_p_of_a_flat_vocabulary_larger_than_the_candidates() -> None:
    probs = np.linspace(1.0, 2.0, 1000)
    probs /= probs.sum()
    frequencies = drawn_frequencies(np.log(probs).tolist(), method="top_p", top_p=0.8)
    kept = np.flatnonzero(np.cumsum(probs[::-1])[::-1] - probs < 0.8)
    assert np.flatnonzero(frequencies).tolist() == kept.tolist()


def test_tied_tokens_are_kept_together() -> None:
    for options in ({"method": "top_p", "top_p": 0.5}, {"method": "top_k", "top_k": 2}):
        np.testing.assert_allclose(
            drawn_frequencies([1.0, 0.0, 1.0, 1.0], **options), [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-3
        )


def test_first_words_follow_the_softmax_of_the_model() -> None:
    model, image = tiny_coca(ARCHITECTURES[1], seed=8), some_images(1, seed=8)
    count = 4000
    first = np.array(captions_of(model, image, some_streams(1, count), method="top_p", top_p=1.0, max_tokens=2))[
        0, :, 0
    ]
    expected = count * plain_logits(model, image[0], [START]).softmax(-1).double().numpy()
    likely = expected >= 5
    observed = np.bincount(first, minlength=VOCABULARY)
    chi_square = np.sum((observed - expected)[likely] ** 2 / expected[likely])
    assert likely.sum() >= 5
    assert chi_square < likely.sum() + 4 * np.sqrt(2 * likely.sum())
