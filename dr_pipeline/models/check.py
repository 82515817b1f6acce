"""Checks of a teacher or captioner for its author: each fault in a plain sentence, before a job meets it.

Two computations of one output are never equal to the last bit, and how far apart they may be depends on the model: one
with random weights may put images a thousandth as far apart as a trained one does. So a difference is measured against
the distance between different inputs' outputs.

Shapes: B images, R rows of output, one an input, D = `spec.dim` columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dr_pipeline.config.cards import CaptionerCard, TeacherCard
from dr_pipeline.errors import ModelError, PipelineError
from dr_pipeline.models.distance import (
    allowed_caption_distance,
    caption_distance,
    largest_distance,
    spread,
    unit_rows,
)
from dr_pipeline.models.ensemble import check_output
from dr_pipeline.models.load import load_captioner, load_teacher
from dr_pipeline.models.precision import round_weights
from dr_pipeline.models.protocol import ImageSpec, ImageTeacher, OwnPrecision, Teacher, TeacherSpec, TextTeacher
from dr_pipeline.networks.device import autocast, pick_device
from dr_pipeline.views.seeding import Stream

TEXTS = ["a photo of a dog", "", "ein großes Gemälde 🐶 大きな犬", "a very long text " * 100, "dog"]
NUM_IMAGES = 4
# How far apart two computations of a row may be: a share of the distance between different inputs' rows, which is more
# than half precision needs and less than any fault was seen to make. And what float32 and TF32 need where the model
# gives all inputs one row (measured on a CPU: 1e-6). Rows are scaled to length 1, or those of scores to at most 1.
_SHARE = 0.02
_ROUNDING = {"cpu": 1e-5, "cuda": 1e-3}
_SAME_ROW = 1e-6
_NUDGES = (1e-6, 1e-5, 1e-4)

Encode = Callable[[Any], Any]


@dataclass(frozen=True)
class Checked:
    """What a model can do, in one line, and what keeps it from being used in a job, in a sentence each."""

    ability: str
    problems: list[str]


def check_teacher(card: TeacherCard, plugin_dirs: Sequence[str] = ()) -> Checked:
    """Try a card's teacher on odd images and texts, alone and together. Constructs it twice."""
    device = pick_device()
    try:
        teacher = load_teacher(card, device, plugin_dirs)
        ability, spec = _ability(teacher), teacher.spec
        problems = [
            problem
            for name, (encode, inputs) in _methods(teacher, device).items()
            for problem in _check_encoder(encode, name, inputs, spec, device)
        ]
        if problems:
            return Checked(ability, problems)
        before = _outputs(teacher, device)
        del teacher  # before there is a second one in memory
        again = load_teacher(card, device, plugin_dirs)
        after = _outputs(again, device)
    except PipelineError as error:
        return Checked("", [str(error)])
    for name, first in before.items():
        first_RD, second_RD = _comparable(first, first, spec), _comparable(after[name], first, spec)
        if largest_distance(first_RD, second_RD) > _tolerance(first_RD, device):
            problems.append(
                f"Constructed twice, it embeds the same {name.removeprefix('encode_')} differently, so two workers "
                "would disagree: load weights from a file, or seed what is random."
            )
    if isinstance(again, OwnPrecision):
        try:
            round_weights(again, device)
        except Exception as error:
            problems.append(f"to_precision cannot be used, so that jobs run it under autocast: {error}")
    return Checked(ability, problems)


def check_captioner(card: CaptionerCard, plugin_dirs: Sequence[str] = ()) -> Checked:
    """Try a card's captioner on odd images, alone and together."""
    device = pick_device()
    try:
        captioner = load_captioner(card, device, plugin_dirs)
    except PipelineError as error:
        return Checked("", [str(error)])
    ability = f"captions images of {captioner.spec.image_size} px"
    images_BCHW = _images(captioner.spec, device)

    def write(images_BCHW: torch.Tensor, names: Sequence[int]) -> list[list[str]]:
        """Captions of images, from fresh streams. Raises ModelError unless they are as many texts as asked for."""
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

    try:
        together = write(images_BCHW, range(NUM_IMAGES))
        again = write(images_BCHW, range(NUM_IMAGES))
        alone = [write(images_BCHW[index : index + 1], [index])[0] for index in range(NUM_IMAGES)]
        # Images that are moved by less than any fault would move them show what rounding does to captions.
        noise_BCHW = torch.rand(images_BCHW.shape, generator=torch.Generator().manual_seed(1)).to(device)
        nudged = [write(images_BCHW * (1 + nudge * noise_BCHW), range(NUM_IMAGES)) for nudge in _NUDGES]
    except ModelError as error:
        return Checked(ability, [str(error)])
    problems = []
    if again != together:
        problems.append(
            "caption() writes other captions on a second call: draw every random number from the given streams."
        )
    elif caption_distance(alone, together) > allowed_caption_distance(
        together, nudged, others=[together[-1], *together[:-1]]
    ):
        problems.append(
            "caption() writes other captions for an image alone than in a batch: an image's captions may depend only "
            "on it and on its own streams (eval mode, no random numbers shared by the batch)."
        )
    return Checked(ability, problems)


def _ability(teacher: Teacher) -> str:
    spec = teacher.spec
    inputs = [f"images of {spec.image_size} px"] if isinstance(teacher, ImageTeacher) else []
    inputs += ["texts"] if isinstance(teacher, TextTeacher) else []
    noun = "an embedding" if spec.output == "embedding" else spec.output
    return f"{' and '.join(inputs)} → {noun} of {spec.dim} dims"


def _methods(teacher: Teacher, device: torch.device) -> dict[str, tuple[Encode, Any]]:
    """The teacher's methods by name, each with what to try it on: a batch of images or a list of texts."""
    methods: dict[str, tuple[Encode, Any]] = {}
    if isinstance(teacher, ImageTeacher):
        methods["encode_images"] = teacher.encode_images, _images(teacher.spec.images, device)
    if isinstance(teacher, TextTeacher):
        methods["encode_texts"] = teacher.encode_texts, TEXTS
    return methods


def _outputs(teacher: Teacher, device: torch.device) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return {name: encode(inputs) for name, (encode, inputs) in _methods(teacher, device).items()}


def _images(spec: ImageSpec, device: torch.device) -> torch.Tensor:
    """Noise images with different colour casts, normalised: seeded, so that a finding can be repeated."""
    generator = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.rand(NUM_IMAGES, 3, spec.image_size, spec.image_size, generator=generator)
    pixels_BCHW *= torch.rand(NUM_IMAGES, 3, 1, 1, generator=generator)
    mean, std = (torch.tensor(triple).view(3, 1, 1) for triple in (spec.mean, spec.std))
    return ((pixels_BCHW - mean) / std).to(device)


def _check_encoder(encode: Encode, name: str, inputs: Any, spec: TeacherSpec, device: torch.device) -> list[str]:
    """What is wrong with a method, given a batch of images or a list of texts."""
    problems: list[str] = []

    def run(inputs: Any, how: str) -> Any:
        """The output under inference mode; None, with a problem added, where it is not valid."""
        try:
            with torch.inference_mode():
                output = encode(inputs)
            check_output(output, spec, f"{name}, {how},", rows=len(inputs))
            return output
        except ModelError as error:
            problems.append(f"{error}.")
        except Exception as error:
            problems.append(f"{name}, {how}, fails: {type(error).__name__}: {error}")
        return None

    alone = []
    for index in range(len(inputs)):
        shown = f"text {inputs[index][:30]!r}" if isinstance(inputs, list) else f"image {index}"
        alone.append(run(inputs[index : index + 1], f"given {shown} alone"))
    together = run(inputs, f"given {len(inputs)} inputs")
    if problems:
        return problems
    again = run(inputs, f"given {len(inputs)} inputs again")
    with autocast(device, "bfloat16"):
        run(inputs, "under bfloat16 autocast")
    if together.device.type != device.type:
        problems.append(f"{name} returns its result on {together.device}, but it was given {device}: leave it there.")
    rows_RD, alone_RD = _comparable(together, together, spec), _comparable(torch.cat(alone), together, spec)
    tolerance, apart = _tolerance(rows_RD, device), largest_distance(alone_RD, rows_RD)
    if again is not None and largest_distance(_comparable(again, together, spec), rows_RD) > tolerance:
        problems.append(f"{name} returns other embeddings on a second call: put the model in eval mode (no dropout).")
    elif apart > tolerance:
        problems.append(
            f"{name} is not batch-invariant: an input alone and among others gets embeddings that are {apart:.2g} "
            f"apart, and different inputs' are {spread(rows_RD):.2g} apart. Put the model in eval mode, use no "
            "statistics of the batch, keep the order of the inputs, and mask the padding of texts."
        )
    if spread(rows_RD) <= _SAME_ROW:
        problems.append(f"{name} returns one embedding for different inputs: it does not look at them.")
    if spec.output == "probabilities" and not bool(((together >= 0) & (together <= 1)).all()):
        problems.append(f"{name} returns probabilities below 0 or above 1: apply softmax or sigmoid, or say scores.")
    if encode(inputs[:1]).requires_grad:
        problems.append(f"{name} keeps gradients, which costs memory: call module.requires_grad_(False).")
    return problems


def _comparable(output_RD: torch.Tensor, reference_RD: torch.Tensor, spec: TeacherSpec) -> torch.Tensor:
    """float32 rows on the CPU: embeddings with norm 1; others divided by the largest norm of the reference's rows."""
    if spec.output == "embedding":
        return unit_rows(output_RD)
    longest = reference_RD.detach().float().cpu().norm(dim=1).max().clamp(min=torch.finfo(torch.float32).tiny)
    return output_RD.detach().float().cpu() / longest


def _tolerance(rows_RD: torch.Tensor, device: torch.device) -> float:
    return max(_ROUNDING.get(device.type, _ROUNDING["cuda"]), _SHARE * spread(rows_RD))
