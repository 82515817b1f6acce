"""Checks of a captioner or rewriter that computes in this process: each fault in a plain sentence.

Rounding may change a word, and all that follows it. What it does to captions is seen in images that are moved by less
than any fault would move them. Shapes: B images.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.config.prompts import fill_in
from dr_pipeline.errors import ModelError
from dr_pipeline.models.checks.findings import Checked, finding, telling_where
from dr_pipeline.models.checks.normalisation import check_normalisation
from dr_pipeline.models.checks.speed import Timed, batches_for, speed_facts
from dr_pipeline.models.distance import CaptionLists, allowed_caption_distance, caption_distance
from dr_pipeline.models.load import load_captioner
from dr_pipeline.models.precision import ReadyCaptioner, load_ready_captioner
from dr_pipeline.models.probes import TEXTS, probe_images
from dr_pipeline.models.protocol import PromptedCaptioner
from dr_pipeline.networks.device import pick_device, precision_context, used_precision
from dr_pipeline.views.seeding import Stream
from dr_pipeline.words import plural

_NUM_INPUTS = 4
_NUDGES = (1e-6, 1e-5, 1e-4)
_PROMPT = "Describe the image in one sentence."

Write = Callable[[Sequence[int]], Any]
"""Texts for the inputs of these numbers, a list for each."""


class _CaptionMethod(NamedTuple):
    """A method that writes. `nudged` are computed from inputs that are moved by as much as rounding does."""

    name: str
    write: Write
    nudged: Sequence[Write]


def check_captioner(card: CaptionerCard, plugin_dirs: Sequence[str] = (), batch: int | None = None) -> Checked:
    """Try a card's captioner on images like a job's, alone and together. It is constructed twice."""
    with finding() as checked:
        device = pick_device()
        before = _try(card, plugin_dirs, device, checked)  # and then it is no longer in memory
        if checked.problems:
            return checked
        ready = load_ready_captioner(card, device, "auto", plugin_dirs)
        captioner: Any = ready.captioner
        images_BCHW = probe_images(captioner.spec).to(device)
        checked.problems += _differing(before, partial(_captions, captioner, card, images_BCHW), checked, device)
        number = batches_for(device, batch).captions
        images_BCHW = images_BCHW.repeat(-(-number // len(images_BCHW)), 1, 1, 1)
        write = partial(_captions, captioner, card, images_BCHW, prompt=card.prompt)
        checked.facts |= _speed("captions", ready, write, number, device)
    return checked


def check_rewriter(card: RewriterCard, plugin_dirs: Sequence[str] = (), batch: int | None = None) -> Checked:
    """Try a card's rewriter on texts, alone and together. It is constructed twice."""
    with finding() as checked:
        device = pick_device()
        before = _try_rewriter(card, plugin_dirs, device, checked)
        if checked.problems:
            return checked
        ready = load_ready_captioner(card, device, "auto", plugin_dirs)
        write = partial(_rewritten, ready.captioner, card)
        checked.problems += _differing(before, write, checked, device)
        checked.facts |= _speed("texts", ready, write, batches_for(device, batch).captions, device)
    return checked


def _differing(before: object, write: Write, checked: Checked, device: torch.device) -> list[str]:
    """What a second object of a class writes otherwise than the first, where that can be told."""
    comparable = "reruns" not in checked.facts and used_precision(device, "auto") == "float32"
    if not comparable or write(range(_NUM_INPUTS)) == before:
        return []
    return [
        "Constructed twice, it writes other texts, so two workers would disagree: load weights from a file, or seed "
        "what is random."
    ]


def _try_rewriter(card: RewriterCard, plugin_dirs: Sequence[str], device: torch.device, checked: Checked) -> object:
    """Construct a rewriter, and say what is found → what it writes."""
    with telling_where(f"constructing {card.use}"):
        rewriter = load_captioner(card, device, plugin_dirs)
    checked.facts["rewriter"] = "writes texts in other words"
    checked.say_rounding(rewriter)
    is_reproducible = checked.say_reruns(rewriter)
    write = partial(_rewritten, rewriter, card)
    checked.problems += _check_method(_CaptionMethod("rewrite", write, []), card, is_reproducible)
    return None if checked.problems else write(range(_NUM_INPUTS))


def _try(card: CaptionerCard, plugin_dirs: Sequence[str], device: torch.device, checked: Checked) -> object:
    """Construct a captioner, and say what is found → what it writes."""
    with telling_where(f"constructing {card.use}"):
        captioner: Any = load_captioner(card, device, plugin_dirs)
    spec, images_BCHW = captioner.spec, probe_images(captioner.spec).to(device)
    asks = ", as a prompt asks" if isinstance(captioner, PromptedCaptioner) else ""
    checked.facts["captioner"] = f"captions images of {spec.image_size} px{asks}"
    checked.say_rounding(captioner)
    is_reproducible = checked.say_reruns(captioner)
    for method in _methods(captioner, card, images_BCHW):
        checked.problems += _check_method(method, card, is_reproducible)
    if checked.problems:
        return None
    checked.facts["images"], checked.problems = check_normalisation(
        captioner, spec, lambda images: _captions(captioner, card, images.to(device), [0, 1])
    )
    return _captions(captioner, card, images_BCHW, range(_NUM_INPUTS))


def _methods(captioner: Any, card: CaptionerCard, images_BCHW: torch.Tensor) -> list[_CaptionMethod]:
    noise_BCHW = torch.rand(images_BCHW.shape, generator=torch.Generator().manual_seed(1)).to(images_BCHW.device)
    moved = [images_BCHW * (1 + nudge * noise_BCHW) for nudge in (0.0, *_NUDGES)]

    def method(name: str, prompt: str | None) -> _CaptionMethod:
        write, *nudged = [partial(_captions, captioner, card, images, prompt=prompt) for images in moved]
        return _CaptionMethod(name, write, nudged)

    is_asked = isinstance(captioner, PromptedCaptioner)
    return [method("caption", None)] + ([method("caption_prompted", card.prompt or _PROMPT)] if is_asked else [])


def _captions(
    captioner: Any, card: CaptionerCard, images_BCHW: torch.Tensor, names: Sequence[int], prompt: str | None = None
) -> Any:
    """What the captioner writes of the images of these numbers; with a prompt, as it asks."""
    images, streams = images_BCHW[list(names)], _streams(card, names)
    with torch.inference_mode():
        if prompt is None:
            return captioner.caption(images, streams, card.sampling)
        prompts = [fill_in(prompt, key=str(name), alt_text=TEXTS[name % len(TEXTS)]) for name in names]
        return captioner.caption_prompted(images, prompts, streams, card.sampling)


def _rewritten(rewriter: Any, card: RewriterCard, names: Sequence[int]) -> Any:
    texts = [TEXTS[name % len(TEXTS)] or "a lake" for name in names]  # jobs rewrite no blank text
    prompts = [fill_in(card.prompt, key=str(name), alt_text=text) for text, name in zip(texts, names, strict=True)]
    with torch.inference_mode():
        return rewriter.rewrite(texts, prompts, _streams(card, names), card.sampling)


def _streams(card: CaptionerCard, names: Sequence[int]) -> list[list[Stream]]:
    """Fresh random numbers for the texts of each input."""
    return [[Stream(0, "check", name, index) for index in range(card.num_captions)] for name in names]


def _check_method(method: _CaptionMethod, card: CaptionerCard, is_reproducible: bool) -> list[str]:
    """What is wrong with a method."""
    names = [*range(_NUM_INPUTS)]
    try:
        together, again = _written(method, method.write, names, card), _written(method, method.write, names, card)
        alone = [_written(method, method.write, [name], card)[0] for name in names]
        nudged = [_written(method, write, names, card) for write in method.nudged]
    except ModelError as error:
        return [str(error)]
    if not is_reproducible:
        return []
    if again != together:
        return [
            f"{method.name}() writes other texts on a second call: draw every random number from the given streams, or "
            "say `reproducible = False` in the class."
        ]
    if caption_distance(alone, together) > _allowed(together, nudged):
        return [
            f"{method.name}() writes other texts for an input alone than in a batch: its texts may depend only on it "
            "and on its own streams (eval mode, masked padding, no random numbers shared by the batch)."
        ]
    return []


def _allowed(together: CaptionLists, nudged: Sequence[CaptionLists]) -> float:
    """How far apart rounding may bring texts."""
    others = [together[-1], *together[:-1]]
    if nudged:
        return allowed_caption_distance(together, nudged, others)
    return caption_distance(together, others) / 2


def _written(method: _CaptionMethod, write: Write, names: Sequence[int], card: CaptionerCard) -> list[list[str]]:
    """The texts. Raises ModelError unless they are as many as asked for."""
    try:
        texts = write(names)
    except Exception as error:
        raise ModelError(f"{method.name}() fails: {type(error).__name__}: {error}") from error
    wanted = f"here {len(names)} lists of {plural(card.num_captions, 'text')}"
    if not isinstance(texts, list) or [len(of_one) for of_one in texts] != [card.num_captions] * len(names):
        raise ModelError(f"{method.name}() must return one list per input and one text per stream: {wanted}.")
    if not all(isinstance(text, str) for of_one in texts for text in of_one):
        raise ModelError(f"{method.name}() must return texts (str): {wanted}.")
    return texts


def _speed(what: str, ready: ReadyCaptioner, write: Write, number: int, device: torch.device) -> dict[str, str]:
    """The facts `speed` and `memory`, run as a job runs it."""

    def run() -> None:
        with precision_context(device, "auto", ready.needs_autocast):
            write(range(number))

    return speed_facts(Timed(what, number, ready.card.num_captions).run(run, device), device)
