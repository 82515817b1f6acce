"""Captions that are blank or repeat themselves are drawn again, each by numbers of its own; what stays is counted."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dr_pipeline.config.cards import CaptionerCard, Sampling
from dr_pipeline.dataset.caption_faults import is_degenerate
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ModelError
from dr_pipeline.networks.images import ImageSpec
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.reinforce.chunk import Chunk
from dr_pipeline.views.seeding import Stream

KEYS = ("a", "b", "c", "d", "e")
SIZE = 8


class Fickle:
    """Says something, by its numbers and the image: often nothing, or one word over and over."""

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
    card = CaptionerCard(name="fickle", use="m:C", **{"num_captions": 4, **card})
    squares = torch.stack([torch.full((SIZE, SIZE, 3), 10 * KEYS.index(key), dtype=torch.uint8) for key in keys])
    chunk = Chunk([Sample(key, {}) for key in keys], torch.empty(0), {SIZE: squares})
    CaptionStage([(card, captioner)], torch.device("cpu"), "float32", seed=7).caption(chunk)
    return {sample.key: sample.synthetic["syn_text"] for sample in chunk.samples}


def test_bad_captions_are_drawn_again_and_good_ones_stay() -> None:
    first = captions_of(KEYS, Fickle())
    again = captions_of(KEYS, Fickle(), redraws=20)
    pairs = [pair for key in KEYS for pair in zip(first[key], again[key], strict=True)]
    assert {is_degenerate(before) for before, _ in pairs} == {True, False}
    assert all(before == after for before, after in pairs if not is_degenerate(before))
    assert not any(is_degenerate(after) for _, after in pairs)
    assert len({after for _, after in pairs}) == len(pairs)  # each by numbers of its own
    image = {key: {text.rpartition(" ")[2] for text in texts} for key, texts in again.items()}
    assert all(len(means) == 1 for means in image.values())  # and of its own image
    assert len(set.union(*image.values())) == len(KEYS)


def test_neither_batch_nor_order_matters() -> None:
    together = captions_of(KEYS, Fickle(), redraws=3)
    for keys in (KEYS[::-1], KEYS[2:4]):
        assert captions_of(keys, Fickle(), redraws=3) == {key: together[key] for key in keys}
    assert captions_of(KEYS, Fickle(), redraws=4, num_captions=2) != together


def test_what_stays_bad_is_stored_after_so_many_attempts() -> None:
    hopeless = Fickle(share_of_bad=1)
    captions = captions_of(KEYS[:2], hopeless, redraws=2)
    assert all(is_degenerate(text) for texts in captions.values() for text in texts)
    assert hopeless.asked == [[4, 4], [1] * 8, [1] * 8]
    flawless = Fickle(share_of_bad=0)
    captions_of(KEYS[:2], flawless, redraws=2)
    assert flawless.asked == [[4, 4]]


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
def test_what_readers_would_not_take_is_refused(returned: list[list[Any]], message: str) -> None:
    captioner = SimpleNamespace(spec=Fickle.spec, caption=lambda *_: returned)
    with pytest.raises(ModelError, match=message):
        captions_of(KEYS[:1], captioner)
