"""Draws captions with open_clip's CoCa word by word; images whose captions have all ended leave the batch.

Shapes: B images, N captions of each, R = B·N rows, T words, C = 3 channels.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

import torch

from dr_pipeline.models.choose import Rule, uniforms_of, without_repetition
from dr_pipeline.models.coca_decoder import CocaDecoder, compute_dtype, rows_of
from dr_pipeline.models.operations import Operations, operations_of
from dr_pipeline.models.replay import LateReader, Replayed

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa

    from dr_pipeline.views.seeding import Stream


class Shapes(NamedTuple):
    """The sizes of batch and caches for which a device is made ready, and how far the host may run ahead of it."""

    images: tuple[int, ...] = ()
    """Numbers of images, ascending: a batch has room for the least that holds it. Without any it has its own size, and
    no image leaves it: matrix products keep one shape, so that captions keep their last bits."""
    positions: tuple[int, ...] = ()
    """Positions of a cache, ascending: a batch begins with the least, and at its end moves to the next."""
    at_once: int | None = None
    """Images that are encoded at once; None: all."""
    lag: int = 0
    """Steps by which the host is late to learn how many images have words to come."""

    @classmethod
    def of(cls, device: torch.device) -> Self:
        """A GPU's; other devices are ready for any size."""
        if device.type != "cuda":
            return cls()
        # A step takes as long for one image as for eight.
        sizes = sorted([2**power for power in range(3, 12)] + [3 * 2**power for power in range(3, 10)])
        return cls(tuple(sizes), positions=(32, 80, 256), at_once=128, lag=2)

    def room(self, num_images: int) -> int:
        """The size of a batch of so many images."""
        return next((size for size in self.images if size >= num_images), num_images)

    def lengths(self, num_positions: int) -> list[int]:
        """The caches that so many positions go through."""
        enough = next((length for length in self.positions if length >= num_positions), num_positions)
        return [length for length in self.positions if length < num_positions] + [enough]


class Sampler:
    """The captions of a batch, in buffers that later batches use again, with caches of `num_positions`.

    The images of the batch are the first of the buffers' `room`. Where an image is missing, its captions have ended.
    """

    def __init__(self, model: "CoCa", num_captions: int, num_positions: int, operations: Operations):
        self.decoder = CocaDecoder(model, num_captions, num_positions, operations)
        self.size = 0
        self._device = self.decoder.position.on_device.device
        self.unfinished_1 = torch.zeros(1, dtype=torch.int64, device=self._device)
        """How many images have an unfinished caption."""
        self._choose = operations.choose
        self._replayed = Replayed(self._device)
        self._rule: Rule | None = None
        self._room = 0

    @property
    def num_rows(self) -> int:
        """The captions of the batch, with what it was filled up with."""
        return self.size * self.decoder.num_captions

    def begin(self, images_BCHW: torch.Tensor, start_token: int, shapes: Shapes) -> None:
        """Start the captions of normalised images."""
        self._make_room(shapes.room(len(images_BCHW)))
        self.decoder.begin(images_BCHW, self._room, shapes.at_once)
        self._places_R.copy_(torch.arange(len(self._places_R), device=self._device))
        self._tokens_R.fill_(start_token)
        self._finite_R.fill_(True)
        self._finished_R.fill_(True)
        self._finished_R[: len(images_BCHW) * self.decoder.num_captions] = False

    def draw_by(self, uniforms_RT: torch.Tensor) -> None:
        """Draw words by the numbers of all captions that were begun, as far as there are positions."""
        places_R, *_ = self._of_rows()
        # What the batch was filled up with has no numbers; any do.
        own_RT = uniforms_RT[places_R.clamp(max=len(uniforms_RT) - 1), : self.decoder.num_positions]
        self._uniforms_RT[: len(own_RT), : own_RT.shape[1]].copy_(own_RT)

    def step(self, num_words: int, rule: Rule) -> None:
        """Draw the word after the first `num_words` of each caption."""
        if rule != self._rule:
            self._replayed.forget()
            self._rule = rule
        position = self.decoder.position
        position.on_host = num_words
        self._replayed.run(self.size, self._step)
        position.on_host = num_words + 1  # a replay does not say so

    def take_over(self, source: "Sampler", size: int) -> None:
        """Go on with the images of a sampler, maybe this one, that have an unfinished caption: no more than `size`."""
        unfinished_B = source._unfinished().to(torch.uint8)
        images_B = unfinished_B.argsort(descending=True, stable=True)[:size]
        rows_R = rows_of(images_B, self.decoder.num_captions)
        taken = [kept_R[rows_R] for kept_R in source._of_rows()]
        seen = source.decoder.position.on_host
        words_RT = source._words_RT[rows_R, :seen]
        self._make_room(size)
        self.decoder.take_over(source.decoder, images_B)
        for kept_R, taken_R in zip(self._of_rows(), taken, strict=True):
            kept_R.copy_(taken_R)
        self._words_RT[: len(rows_R), :seen].copy_(words_RT)

    def write(self, words_RT: torch.Tensor) -> torch.Tensor:
        """Write the words so far where their captions belong → whether all logits were finite, on the device."""
        places_R, _, _, finite_R = self._of_rows()
        seen = self.decoder.position.on_host
        words_RT[:, :seen].index_copy_(0, places_R, self._words_RT[: len(places_R), :seen])
        return finite_R.all()

    def _of_rows(self) -> tuple[torch.Tensor, ...]:
        """The batch's places among the captions that were begun, last tokens, ended or not, finite or not; each [R]."""
        kept = (self._places_R, self._tokens_R, self._finished_R, self._finite_R)
        return tuple(kept_R[: self.num_rows] for kept_R in kept)

    def _unfinished(self) -> torch.Tensor:
        _, _, finished_R, _ = self._of_rows()
        return ~finished_R.view(self.size, -1).all(1)

    def _make_room(self, size: int) -> None:
        """Have a batch of `size` images from now on."""
        self.size = size
        if size <= self._room:
            return
        self._replayed.forget()
        self._room = size
        rows, device, width = size * self.decoder.num_captions, self._device, self.decoder.num_positions
        self._places_R = torch.arange(rows, device=device)
        self._tokens_R = torch.zeros(rows, dtype=torch.int64, device=device)
        self._finished_R = torch.zeros(rows, dtype=torch.bool, device=device)
        self._finite_R = torch.zeros(rows, dtype=torch.bool, device=device)
        self._uniforms_RT = torch.zeros(rows, width, dtype=torch.float64, device=device)
        self._words_RT = torch.zeros(rows, width, dtype=torch.int64, device=device)

    def _step(self) -> None:
        """One word of each caption, as a graph can replay it: all that changes lies in the buffers."""
        assert self._rule is not None
        _, tokens_R, finished_R, finite_R = self._of_rows()
        position, end = self.decoder.position, self._rule.end_token
        word_1 = position.on_device.clone()
        logits_RV = self.decoder.step(tokens_R.view(self.size, -1)).flatten(0, 1)
        logits_RV = without_repetition(logits_RV, self._words_RT[: len(tokens_R)], word_1, self._rule)
        uniforms_R = self._uniforms_RT[: len(tokens_R)].index_select(1, word_1)[:, 0]
        chosen_R, is_finite_R = self._choose(logits_RV, uniforms_R, position, self._rule)
        finite_R.logical_and_(is_finite_R | finished_R)
        tokens_R.copy_(chosen_R.masked_fill(finished_R, end))
        self._words_RT[: len(tokens_R)].index_copy_(1, word_1, tokens_R[:, None])
        finished_R.copy_(tokens_R == end)
        self.unfinished_1.copy_(self._unfinished().sum())


class Samplers:
    """A captioner's samplers. On a GPU they are kept: their memory is taken once, and so are their graphs captured."""

    def __init__(self, shapes: Shapes | None = None, operations: Operations | None = None):
        """By default both are the device's."""
        self._shapes, self._operations = shapes, operations
        self._kept: dict[tuple[int, int, torch.dtype], Sampler] = {}
        self._lock = threading.Lock()

    def draw(
        self,
        model: "CoCa",
        images_BCHW: torch.Tensor,
        streams: "Sequence[Sequence[Stream]]",
        num_words: int,
        start_token: int,
        rule: Rule,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions of normalised images → their words as tokens [B, N, T], and whether all logits were finite."""
        device = images_BCHW.device
        shapes = self._shapes or Shapes.of(device)
        with self._lent(model, len(streams[0]), num_words, shapes) as samplers:
            samplers[0].begin(images_BCHW, start_token, shapes)
            # The GPU encodes the images meanwhile.
            uniforms_RT = uniforms_of(streams, num_words, device)
            words_RT, finite = _draw(samplers, uniforms_RT, len(images_BCHW), rule, shapes)
        return words_RT.unflatten(0, (len(streams), -1)), finite

    @contextmanager
    def _lent(self, model: "CoCa", num_captions: int, num_words: int, shapes: Shapes) -> Iterator[list[Sampler]]:
        """The samplers for so many captions and words. After an error, such as too little memory, nothing is kept."""
        device, dtype = model.text_decoder.text_projection.device, compute_dtype(model)
        operations = self._operations or operations_of(device)
        with self._lock:
            try:
                keys = [(num_captions, length, dtype) for length in shapes.lengths(num_words)]
                for key in set(keys) - self._kept.keys():
                    self._kept[key] = Sampler(model, *key[:2], operations)
                yield [self._kept[key] for key in keys]
            except BaseException:
                self._kept.clear()
                raise
            if not shapes.images:
                self._kept.clear()  # of a size that may not come again


def _draw(
    samplers: Sequence[Sampler], uniforms_RT: torch.Tensor, num_images: int, rule: Rule, shapes: Shapes
) -> tuple[torch.Tensor, torch.Tensor]:
    """The words [R, T] of the captions that the first sampler has begun, and whether all logits were finite."""
    later, num_words, device = iter(samplers), uniforms_RT.shape[1], uniforms_RT.device
    sampler = next(later)
    sampler.draw_by(uniforms_RT)
    # There is room for what fills up the batch too.
    words_RT = torch.full((sampler.num_rows, num_words), rule.end_token, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    reader, unfinished = LateReader(device, shapes.lag), num_images
    for num_drawn in range(num_words):
        heir = next(later) if num_drawn == sampler.decoder.num_positions else sampler
        size = min(shapes.room(unfinished), sampler.size) if shapes.images else sampler.size
        if heir is not sampler or size < sampler.size:
            finite = finite & sampler.write(words_RT)
            heir.take_over(sampler, size)
            heir.draw_by(uniforms_RT)
            sampler = heir
        sampler.step(num_drawn, rule)
        unfinished = reader.read(sampler.unfinished_1, default=unfinished)
        if unfinished == 0:
            break
    finite = finite & sampler.write(words_RT)
    return words_RT[: len(uniforms_RT)], finite
