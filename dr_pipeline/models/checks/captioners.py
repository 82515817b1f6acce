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
from dr_pipeline.models.distance import allowed_caption_distance, caption_distance
from dr_pipeline.models.load import load_captioner
from dr_pipeline.models.precision import load_ready_captioner
from dr_pipeline.models.probes import TEXTS, probe_images
from dr_pipeline.models.protocol import PromptedCaptioner
from dr_pipeline.networks.device import pick_device, precision_context, used_precision
from dr_pipeline.views.seeding import Stream
from dr_pipeline.words import plural

_NAMES = range(4)
"""The numbers of the inputs that are tried."""
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
    """Try a card's captioner on images, or its rewriter on texts, alone and together. It is constructed twice."""
    with finding() as checked:
        device = pick_device()
        before = _try(card, plugin_dirs, device, checked)  # and then it is no longer in memory
        if checked.problems:
            return checked
        ready = load_ready_captioner(card, device, "auto", plugin_dirs)
        images_BCHW = _images(card, ready.captioner, device)
        again = partial(_write, ready.captioner, card, images_BCHW, None)
        if "reruns" not in checked.facts and used_precision(device, "auto") == "float32" and again(_NAMES) != before:
            checked.problems.append(
                "Constructed twice, it writes other texts, so two workers would disagree: load weights from a file, or "
                "seed what is random."
            )
        number = batches_for(device, batch).captions

        def run() -> None:  # as a job does
            with precision_context(device, "auto", ready.needs_autocast):
                _write(ready.captioner, card, images_BCHW, card.prompt, range(number))

        what = "texts" if isinstance(card, RewriterCard) else "captions"
        checked.facts |= speed_facts(Timed(what, number, card.num_captions).run(run, device), device)
    return checked


def _try(card: CaptionerCard, plugin_dirs: Sequence[str], device: torch.device, checked: Checked) -> object:
    """Construct a captioner or rewriter, and say what is found → what it writes."""
    with telling_where(f"constructing {card.use}"):
        captioner: Any = load_captioner(card, device, plugin_dirs)
    if isinstance(card, RewriterCard):
        checked.facts["rewriter"] = "writes texts in other words"
    else:
        asks = ", as a prompt asks" if isinstance(captioner, PromptedCaptioner) else ""
        checked.facts["captioner"] = f"captions images of {captioner.spec.image_size} px{asks}"
    checked.say_rounding(captioner)
    is_reproducible = checked.say_reruns(captioner)
    images_BCHW = _images(card, captioner, device)
    for method in _methods(captioner, card, images_BCHW):
        checked.problems += _check_method(method, card, is_reproducible)
    if checked.problems:
        return None
    if images_BCHW is not None:
        checked.facts["images"], checked.problems = check_normalisation(
            captioner, captioner.spec, lambda images: _write(captioner, card, images.to(device), None, [0, 1])
        )
    return _write(captioner, card, images_BCHW, None, _NAMES)


def _images(card: CaptionerCard, captioner: Any, device: torch.device) -> torch.Tensor | None:
    """The images to try a captioner on; None for a rewriter."""
    return None if isinstance(card, RewriterCard) else probe_images(captioner.spec).to(device)


def _methods(captioner: Any, card: CaptionerCard, images_BCHW: torch.Tensor | None) -> list[_CaptionMethod]:
    if images_BCHW is None:
        return [_CaptionMethod("rewrite", partial(_write, captioner, card, None, None), [])]
    noise_BCHW = torch.rand(images_BCHW.shape, generator=torch.Generator().manual_seed(1)).to(images_BCHW.device)
    moved = [images_BCHW * (1 + nudge * noise_BCHW) for nudge in (0.0, *_NUDGES)]
    prompts: dict[str, str | None] = {"caption": None}
    if isinstance(captioner, PromptedCaptioner):
        prompts["caption_prompted"] = card.prompt or _PROMPT
    methods = []
    for name, prompt in prompts.items():
        write, *nudged = [partial(_write, captioner, card, images, prompt) for images in moved]
        methods.append(_CaptionMethod(name, write, nudged))
    return methods


def _write(
    captioner: Any, card: CaptionerCard, images_BCHW: torch.Tensor | None, prompt: str | None, names: Sequence[int]
) -> Any:
    """What a captioner writes of the images of these numbers, with a prompt as it asks; or a rewriter, without images.

    Each input has fresh random numbers.
    """
    streams = [[Stream(0, "check", name, index) for index in range(card.num_captions)] for name in names]
    texts = [TEXTS[name % len(TEXTS)] for name in names]
    if images_BCHW is None:
        prompt, texts = card.prompt, [text or "a lake" for text in texts]  # jobs rewrite no blank text
    prompts = [fill_in(prompt or "", key=str(name), alt_text=text) for name, text in zip(names, texts, strict=True)]
    with torch.inference_mode():
        if images_BCHW is None:
            return captioner.rewrite(texts, prompts, streams, card.sampling)
        images = images_BCHW[[name % len(images_BCHW) for name in names]]
        if prompt is None:
            return captioner.caption(images, streams, card.sampling)
        return captioner.caption_prompted(images, prompts, streams, card.sampling)


def _check_method(method: _CaptionMethod, card: CaptionerCard, is_reproducible: bool) -> list[str]:
    """What is wrong with a method."""
    names = _NAMES
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
    others = [together[-1], *together[:-1]]
    allowed = caption_distance(together, others) / 2
    if nudged:
        allowed = allowed_caption_distance(together, nudged, others)
    if caption_distance(alone, together) > allowed:
        return [
            f"{method.name}() writes other texts for an input alone than in a batch: its texts may depend only on it "
            "and on its own streams (eval mode, masked padding, no random numbers shared by the batch)."
        ]
    return []


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
