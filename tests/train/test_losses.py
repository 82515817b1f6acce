"""The losses against equations (1) and (2) written out number by number."""

import math

import pytest
import torch
from open_clip.loss import CoCaLoss
from torch.nn.functional import normalize

from dr_pipeline.config.training import StoredTeacher
from dr_pipeline.train.distributed import Rank
from dr_pipeline.train.losses import (
    Captioned,
    Embeddings,
    Pairs,
    caption_loss,
    clip_loss,
    count_tokens,
    distillation_loss,
    total_loss,
)

B, D = 4, 6
ALL_TEACHERS = [
    StoredTeacher(name="a", dim=3, logit_scale=70),
    StoredTeacher(name="b", dim=5, logit_scale=10.5),
    StoredTeacher(name="c", dim=2, logit_scale=1),
]
SCALE = torch.tensor(12.5, dtype=torch.float64)

Matrix = list[list[float]]


def unit(seed: int, dims: list[int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = [normalize(torch.randn(B, dim, generator=generator, dtype=torch.float64), dim=1) for dim in dims]
    return torch.cat(parts, dim=1).to(dtype)


def pairs(images_BD: torch.Tensor, texts_BD: torch.Tensor) -> Pairs:
    return Pairs(Embeddings.gather(images_BD, Rank()), Embeddings.gather(texts_BD, Rank()))


def student(seed: int = 0) -> Pairs:
    return pairs(unit(seed, [D]), unit(seed + 1, [D]))


def ensemble(teachers: list[StoredTeacher], seed: int = 10) -> Pairs:
    dims = [teacher.dim for teacher in teachers]
    return pairs(unit(seed, dims), unit(seed + 1, dims))


def softmax_rows(u: Matrix, v: Matrix, temperature: float) -> Matrix:
    """S_τ(U, V), row by row."""
    rows = []
    for u_row in u:
        powers = [math.exp(sum(a * b for a, b in zip(u_row, v_row, strict=True)) / temperature) for v_row in v]
        rows.append([power / sum(powers) for power in powers])
    return rows


def equation_1(own: Pairs, temperature: float, theirs: Pairs, teachers: list[StoredTeacher]) -> float:
    phi_images, phi_texts = (side.rows_BD.tolist() for side in own)
    total, first = 0.0, 0
    for teacher in teachers:
        psi_images, psi_texts = (side.rows_BD[:, first : first + teacher.dim].tolist() for side in theirs)
        first += teacher.dim
        tau = 1 / teacher.logit_scale
        for psi_u, psi_v, phi_u, phi_v in (
            (psi_images, psi_texts, phi_images, phi_texts),
            (psi_texts, psi_images, phi_texts, phi_images),
        ):
            p_rows, q_rows = softmax_rows(psi_u, psi_v, tau), softmax_rows(phi_u, phi_v, temperature)
            for p_row, q_row in zip(p_rows, q_rows, strict=True):
                for p, q in zip(p_row, q_row, strict=True):
                    total += p * math.log(p / q)
    return total / (2 * B * len(teachers))


def clip_by_hand(own: Pairs, temperature: float) -> float:
    images, texts = (side.rows_BD.tolist() for side in own)
    total = 0.0
    for u, v in ((images, texts), (texts, images)):
        for index, row in enumerate(softmax_rows(u, v, temperature)):
            total -= math.log(row[index])
    return total / (2 * B)


@pytest.mark.parametrize("num_teachers", [1, 2, 3])
def test_distillation_is_equation_1(num_teachers: int) -> None:
    teachers = ALL_TEACHERS[:num_teachers]
    theirs = ensemble(teachers)
    value = distillation_loss(student(), SCALE, theirs, teachers)
    assert value.item() == pytest.approx(equation_1(student(), 1 / 12.5, theirs, teachers), rel=1e-12)


def test_clip_loss_is_the_symmetric_cross_entropy() -> None:
    assert clip_loss(student(), SCALE).item() == pytest.approx(clip_by_hand(student(), 1 / 12.5), rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_total_is_equation_2_for_both_captions(weight: float) -> None:
    teachers = ALL_TEACHERS[:2]
    batch = [
        Captioned(student(0), ensemble(teachers, 10), 1.0),
        Captioned(student(2), ensemble(teachers, 12), 0.5),
    ]
    expected = sum(
        one.weight
        * ((1 - weight) * clip_by_hand(one.student, 1 / 12.5) + weight * equation_1(one.student, 1 / 12.5, *rest))
        for one in batch
        for rest in [(one.teacher, teachers)]
    )
    assert total_loss(batch, SCALE, weight, teachers).item() == pytest.approx(expected, rel=1e-12)


def test_plain_clip_training_needs_no_teachers() -> None:
    value = total_loss([Captioned(student(), None, 1.0)], SCALE, 0.0)
    assert value.item() == pytest.approx(clip_by_hand(student(), 1 / 12.5), rel=1e-12)


def test_pure_distillation_computes_no_clip_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("dr_pipeline.train.losses.clip_loss")
    theirs = ensemble(ALL_TEACHERS)
    value = total_loss([Captioned(student(), theirs, 1.0)], SCALE, 1.0, ALL_TEACHERS)
    assert value.item() == pytest.approx(equation_1(student(), 1 / 12.5, theirs, ALL_TEACHERS), rel=1e-12)


@pytest.mark.parametrize("num_teachers", [1, 2, 3])
def test_gradients_are_the_derivatives(num_teachers: int) -> None:
    teachers = ALL_TEACHERS[:num_teachers]
    theirs = ensemble(teachers)

    def loss(images_BD: torch.Tensor, texts_BD: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
        return total_loss([Captioned(pairs(images_BD, texts_BD), theirs, 1.0)], logit_scale, 0.6, teachers)

    inputs = [unit(0, [D]), unit(1, [D]), SCALE.clone()]
    assert torch.autograd.gradcheck(loss, [values.requires_grad_() for values in inputs])


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient() -> None:
    images, texts, scale = (values.requires_grad_() for values in (unit(0, [D]), unit(1, [D]), SCALE.clone()))
    teacher = [StoredTeacher(name="same", dim=D, logit_scale=12.5)]
    loss = distillation_loss(pairs(images, texts), scale, student(), teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for values in (images, texts, scale):
        assert values.grad.abs().max().item() < 1e-12


def test_bfloat16_embeddings_give_float32_losses_under_autocast() -> None:
    teachers = ALL_TEACHERS[:1]
    own = pairs(unit(0, [D], torch.bfloat16), unit(1, [D], torch.bfloat16))
    theirs = pairs(unit(2, [3], torch.bfloat16), unit(3, [3], torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = total_loss([Captioned(own, theirs, 1.0)], SCALE.float(), 0.5, teachers)
    outside = total_loss([Captioned(own, theirs, 1.0)], SCALE.float(), 0.5, teachers)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("pad_id", [0, 3])
def test_caption_and_clip_loss_are_open_clip_s_coca_loss(pad_id: int) -> None:
    torch.manual_seed(0)
    logits_BLV, labels_BL = torch.randn(B, 5, 9), torch.randint(0, 9, (B, 5))
    labels_BL[1, 2:] = pad_id
    own = student()
    reference = CoCaLoss(caption_loss_weight=2, clip_loss_weight=1, pad_id=pad_id)
    clip, caption = reference(own.images.rows_BD, own.texts.rows_BD, logits_BLV, labels_BL, SCALE)
    ours = caption_loss(logits_BLV, labels_BL, pad_id, count_tokens(labels_BL, pad_id))
    assert 2 * ours.item() == pytest.approx(caption.item(), rel=1e-6)
    assert clip_loss(own, SCALE).item() == pytest.approx(clip.item(), rel=1e-12)
