"""Degenerate captions, blank or repeating themselves, are drawn again, each from a stream of its own."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dr_pipeline.config.cards import CaptionerCard, RewriterCard, Sampling
from dr_pipeline.dataset.caption_faults import is_degenerate
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ModelError
from dr_pipeline.models.precision import ReadyCaptioner
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.views.seeding import Stream

KEYS = ("a", "b", "c", "d", "e")
SIZE = 8


class Unreliable:
    """A captioner whose text depends on stream and image: often it is blank, or one word repeated."""

    spec = ImageSpec(SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def __init__(self, share_of_bad: float = 0.6):
        self.share_of_bad = share_of_bad
        self.asked: list[list[int]] = []

    def caption(
        self, images_BCHW: torch.Tensor, streams: Sequence[Sequence[Stream]], sampling: Sampling
    ) -> list[list[str]]:
        self.asked.append([len(of_image) for of_image in streams])
        pairs = zip(images_BCHW, streams, strict=True)
        return [[self._say(float(image.mean()), stream) for stream in of_image] for image, of_image in pairs]

    def _say(self, mean: float, stream: Stream) -> str:
        bad, word = stream.uniforms(2)
        if bad < self.share_of_bad:
            return "" if bad < self.share_of_bad / 2 else "dog dog dog dog"
        return f"word {word:.6f} of image {mean:.3f}"


def captions_of(keys: Sequence[str], captioner: Any, **card: Any) -> dict[str, list[str]]:
    card = CaptionerCard(name="unreliable", use="m:C", **{"num_captions": 4, **card})
    samples = [Sample(key, {}, caption=f"the {key}") for key in keys]
    for sample in samples:
        sample.squares[SIZE] = np.full((SIZE, SIZE, 3), 10 * KEYS.index(sample.key), dtype=np.uint8)
    CaptionStage(
        [ReadyCaptioner(card, captioner, True)], torch.device("cpu"), "float32", seed=7, batch_size=32
    ).caption(samples)
    return {sample.key: sample.synthetic["syn_text"] for sample in samples}


def test_degenerate_captions_are_drawn_again_and_others_stay() -> None:
    first = captions_of(KEYS, Unreliable())
    again = captions_of(KEYS, Unreliable(), redraws=20)
    pairs = [pair for key in KEYS for pair in zip(first[key], again[key], strict=True)]
    assert {is_degenerate(before) for before, _ in pairs} == {True, False}
    assert all(before == after for before, after in pairs if not is_degenerate(before))
    assert not any(is_degenerate(after) for _, after in pairs)
    assert len({after for _, after in pairs}) == len(pairs)  # each from a stream of its own
    image = {key: {text.rpartition(" ")[2] for text in texts} for key, texts in again.items()}
    assert all(len(means) == 1 for means in image.values())  # and of its own image
    assert len(set.union(*image.values())) == len(KEYS)


class Shouting:
    """A rewriter of one word more, which repeats itself at times."""

    def rewrite(
        self, texts: Sequence[str], prompts: Sequence[str], streams: Sequence[Sequence[Stream]], sampling: Sampling
    ) -> list[list[str]]:
        return [
            [f"{text}! {'no ' * 9 if stream.uniform() < 0.5 else ''}{prompt}" for stream in of_text]
            for text, prompt, of_text in zip(texts, prompts, streams, strict=True)
        ]


def test_a_rewriter_writes_texts_of_texts() -> None:
    card = RewriterCard(
        name="shouting", use="m:C", tag="loud", num_captions=2, redraws=20, prompt="Shout {alt_text} of {key}!"
    )
    samples = [Sample(key, {}, caption=f"text {key}") for key in KEYS]
    stage = CaptionStage([ReadyCaptioner(card, Shouting(), True)], torch.device("cpu"), "float32", 7, batch_size=2)
    assert stage.square_sides == []
    stage.caption(samples)
    assert {sample.key: sample.synthetic for sample in samples} == {
        key: {"syn_text_loud": [f"text {key}! Shout text {key} of {key}!"] * 2} for key in KEYS
    }


def test_captions_do_not_depend_on_batch_or_order() -> None:
    together = captions_of(KEYS, Unreliable(), redraws=3)
    for keys in (KEYS[::-1], KEYS[2:4]):
        assert captions_of(keys, Unreliable(), redraws=3) == {key: together[key] for key in keys}
    assert captions_of(KEYS, Unreliable(), redraws=4, num_captions=2) != together


def test_a_caption_that_stays_degenerate_is_kept_after_the_last_redraw() -> None:
    always_bad = Unreliable(share_of_bad=1)
    captions = captions_of(KEYS[:2], always_bad, redraws=2)
    assert all(is_degenerate(text) for texts in captions.values() for text in texts)
    assert always_bad.asked == [[4, 4], [1] * 8, [1] * 8]
    never_bad = Unreliable(share_of_bad=0)
    captions_of(KEYS[:2], never_bad, redraws=2)
    assert never_bad.asked == [[4, 4]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([["a", "b", "c"]], "did not return 4 captions for each image"),
        ([["a", "b", "c", "d"]] * 2, "did not return 4 captions for each image"),
        ([["a", "b", "c", None]], "returned None, which is no caption"),
        ([["a", "b", "c", "\ud83d"]], "is no caption: text is not UTF-8"),
        ([["a", "b", "c", "d" * (1 << 21)]], "is no caption: text too long"),
    ],
)
def test_captions_that_cannot_be_stored_are_refused(returned: list[list[Any]], message: str) -> None:
    captioner = SimpleNamespace(spec=Unreliable.spec, caption=lambda *_: returned)
    with pytest.raises(ModelError, match=message):
        captions_of(KEYS[:1], captioner)


class Obedient(Unreliable):
    """A captioner that repeats its prompt, with the mean of its image, or says nothing at times."""

    def caption_prompted(
        self,
        images_BCHW: torch.Tensor,
        prompts: Sequence[str],
        streams: Sequence[Sequence[Stream]],
        sampling: Sampling,
    ) -> list[list[str]]:
        texts = self.caption(images_BCHW, streams, sampling)
        return [
            [text and f"{prompt}: {text}" for text in of_image] for prompt, of_image in zip(prompts, texts, strict=True)
        ]


def test_each_image_is_captioned_by_its_own_prompt_also_when_captions_are_drawn_again() -> None:
    captions = captions_of(KEYS, Obedient(), redraws=30, prompt="{key}, called {alt_text}")
    for key, texts in captions.items():
        image = f"of image {10 * KEYS.index(key) / 127.5 - 1:.3f}"
        assert all(text.startswith(f"{key}, called the {key}: word") and text.endswith(image) for text in texts)
    assert captions_of(KEYS, Obedient()) == captions_of(KEYS, Unreliable())  # its own prompt, where a card has none
