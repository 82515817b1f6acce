"""For plug-in authors: what a teacher or captioner has wrong, in plain sentences, before a job finds out.

Two computations of one thing are never equal to the last bit, and how far they may be apart depends on the model: one
with random weights may tell images apart by a thousandth of what a trained one does. So a difference is measured
against how far apart the model puts different inputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dr_pipeline.config.cards import CaptionerCard, TeacherCard
from dr_pipeline.errors import ModelError, PipelineError
from dr_pipeline.models.ensemble import check_embeddings
from dr_pipeline.models.likeness import captions_allowed_apart, captions_apart, deviation, spread, unit
from dr_pipeline.models.load import load_captioner, load_teacher
from dr_pipeline.models.protocol import Captioner, ImageSpec
from dr_pipeline.networks.device import autocast, pick_device
from dr_pipeline.views.seeding import Stream

TEXTS = ["a photo of a dog", "", "ein großes Gemälde 🐶 大きな犬", "a very long text " * 100, "dog"]
NUM_IMAGES = 4
# How far apart two computations of a unit vector may be, as a part of the distance between those of different inputs:
# more than a model in half precision needs, and less than any fault was seen to make. And what float32 and TF32 need
# where the model puts all inputs in one place (measured on a CPU: 1e-6).
_SHARE = 0.02
_ROUNDING = {"cpu": 1e-5, "cuda": 1e-3}
_ONE_PLACE = 1e-6
_NUDGES = (1e-6, 1e-5, 1e-4)

Encode = Callable[[Any], Any]


def check_teacher(card: TeacherCard, plugin_dirs: Sequence[str] = ()) -> list[str]:
    """What keeps a card's teacher from being used in a job; [] when nothing does. Constructs it twice."""
    device = pick_device()
    try:
        teacher = load_teacher(card, device, plugin_dirs)
        images_BCHW = _images(teacher.spec, device)
        problems = _check_encoder(teacher.encode_images, "encode_images", images_BCHW, teacher.spec.dim, device)
        problems += _check_encoder(teacher.encode_texts, "encode_texts", TEXTS, teacher.spec.dim, device)
        if problems:
            return problems
        with torch.inference_mode():
            before = unit(teacher.encode_images(images_BCHW))
            del teacher
            after = unit(load_teacher(card, device, plugin_dirs).encode_images(images_BCHW))
    except PipelineError as error:
        return [str(error)]
    if deviation(before, after) > _tolerance(before, device):
        return [
            "Constructed twice, it embeds the same images differently, so two workers would disagree: "
            "load weights from a file, or seed what is random."
        ]
    return []


def check_captioner(card: CaptionerCard, plugin_dirs: Sequence[str] = ()) -> list[str]:
    """What keeps a card's captioner from being used in a job; [] when nothing does."""
    device = pick_device()
    try:
        captioner = load_captioner(card, device, plugin_dirs)
    except PipelineError as error:
        return [str(error)]
    images_BCHW = _images(captioner.spec, device)
    try:
        together = _captions(captioner, card, images_BCHW, range(NUM_IMAGES))
        again = _captions(captioner, card, images_BCHW, range(NUM_IMAGES))
        alone = [_captions(captioner, card, images_BCHW[index : index + 1], [index])[0] for index in range(NUM_IMAGES)]
    except ModelError as error:
        return [str(error)]
    if again != together:
        return ["caption() writes other captions on a second call: draw every random number from the given streams."]
    if captions_apart(alone, together) > _allowed(captioner, card, images_BCHW, together):
        return [
            "caption() writes other captions for an image alone than in a batch: an image's captions may depend only "
            "on it and on its own streams (eval mode, no random numbers shared by the batch)."
        ]
    return []


def _images(spec: ImageSpec, device: torch.device) -> torch.Tensor:
    """Noise images with different colour casts, normalised: seeded, so that a finding can be repeated."""
    generator = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.rand(NUM_IMAGES, 3, spec.image_size, spec.image_size, generator=generator)
    pixels_BCHW *= torch.rand(NUM_IMAGES, 3, 1, 1, generator=generator)
    mean, std = (torch.tensor(triple).view(3, 1, 1) for triple in (spec.mean, spec.std))
    return ((pixels_BCHW - mean) / std).to(device)


def _check_encoder(encode: Encode, name: str, inputs: Any, dim: int, device: torch.device) -> list[str]:
    """`inputs` is a batch of images or a list of texts; both can be sliced."""
    alone, problems = [], []
    for index in range(len(inputs)):
        shown = f"text {inputs[index][:30]!r}" if isinstance(inputs, list) else f"image {index}"
        output, problem = _run(encode, inputs[index : index + 1], f"{name}, given {shown} alone,", dim)
        alone.append(output)
        problems += problem
    together, problem = _run(encode, inputs, f"{name}, given {len(inputs)} inputs,", dim)
    problems += problem
    if problems:
        return problems
    with torch.inference_mode():
        again = encode(inputs)
        with autocast(device, "bfloat16"):
            _, problems = _run(encode, inputs, f"{name}, under bfloat16 autocast,", dim)
    if together.device.type != device.type:
        problems.append(f"{name} returns its result on {together.device}, but it was given {device}: leave it there.")
    tolerance, apart = _tolerance(together, device), deviation(torch.cat(alone), together)
    if deviation(again, together) > tolerance:
        problems.append(f"{name} returns other embeddings on a second call: put the model in eval mode (no dropout).")
    elif apart > tolerance:
        problems.append(
            f"{name} is not batch-invariant: an input alone and among others gets embeddings that are {apart:.2g} "
            f"apart, and different inputs' are {spread(together):.2g} apart. Put the model in eval mode, use no "
            "statistics of the batch, keep the order of the inputs, and mask the padding of texts."
        )
    if spread(together) <= _ONE_PLACE:
        problems.append(f"{name} returns one embedding for different inputs: it does not look at them.")
    if encode(inputs[:1]).requires_grad:
        problems.append(f"{name} keeps gradients, which costs memory: call module.requires_grad_(False).")
    return problems


def _run(encode: Encode, inputs: Any, who: str, dim: int) -> tuple[Any, list[str]]:
    """The output under inference mode, and what is wrong with it."""
    try:
        with torch.inference_mode():
            output = encode(inputs)
        check_embeddings(output, who, rows=len(inputs), dim=dim)
    except ModelError as error:
        return None, [f"{error}."]
    except Exception as error:
        return None, [f"{who} fails: {type(error).__name__}: {error}"]
    return output, []


def _tolerance(embeddings_RD: torch.Tensor, device: torch.device) -> float:
    return max(_ROUNDING.get(device.type, _ROUNDING["cuda"]), _SHARE * spread(embeddings_RD))


def _allowed(captioner: Captioner, card: CaptionerCard, images_BCHW: torch.Tensor, written: list[list[str]]) -> float:
    """How far from these captions those may be that rounding alone makes of the same images and streams.

    The images are nudged by less than any fault would, to see what rounding does.
    """
    noise_BCHW = torch.rand(images_BCHW.shape, generator=torch.Generator().manual_seed(1)).to(images_BCHW.device)
    nudged = [_captions(captioner, card, images_BCHW * (1 + by * noise_BCHW), range(NUM_IMAGES)) for by in _NUDGES]
    return captions_allowed_apart(written, nudged, others=[written[-1], *written[:-1]])


def _captions(
    captioner: Captioner, card: CaptionerCard, images_BCHW: torch.Tensor, names: Sequence[int]
) -> list[list[str]]:
    """Captions of images from fresh streams. Raises ModelError unless they are lists of as many texts as asked for."""
    streams = [[Stream(0, "check", name, index) for index in range(card.num_captions)] for name in names]
    try:
        with torch.inference_mode():
            captions = captioner.caption(images_BCHW, streams, card.sampling)
    except Exception as error:
        raise ModelError(f"caption() fails: {type(error).__name__}: {error}") from error
    shape = f"{len(names)} lists of {card.num_captions} texts"
    if not isinstance(captions, list) or [len(texts) for texts in captions] != [card.num_captions] * len(names):
        raise ModelError(f"caption() must return one list per image and one text per stream: here {shape}.")
    if not all(isinstance(text, str) for texts in captions for text in texts):
        raise ModelError(f"caption() must return texts (str): here {shape}.")
    return captions
