"""The losses against equations (1) and (2) written out number by number."""

import math

import pytest
import torch
from open_clip.loss import CoCaLoss
from torch.nn.functional import cross_entropy, normalize

from dr_pipeline.config.objective import Distillation
from dr_pipeline.training.losses import Embeddings, caption_loss, clip_loss, count_tokens, distillation_loss, total_loss

B, D = 4, 6
DIMS_AND_SCALES = [(3, 70.0), (5, 10.5), (2, 1.0)]
SCALE = torch.tensor(12.5, dtype=torch.float64)

Matrix = list[list[float]]


def unit(seed: int, dim: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(B, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def student(seed: int = 0) -> Embeddings:
    return Embeddings(unit(seed, D), unit(seed + 1, D), SCALE)


def ensemble(num_teachers: int, seed: int = 10) -> list[Embeddings]:
    return [
        Embeddings(unit(seed + 100 * number, dim), unit(seed + 100 * number + 1, dim), scale)
        for number, (dim, scale) in enumerate(DIMS_AND_SCALES[:num_teachers])
    ]


def softmax_rows(u: Matrix, v: Matrix, temperature: float) -> Matrix:
    """S_τ(U, V), row by row."""
    rows = []
    for u_row in u:
        powers = [math.exp(sum(a * b for a, b in zip(u_row, v_row, strict=True)) / temperature) for v_row in v]
        rows.append([power / sum(powers) for power in powers])
    return rows


def equation_1(own: Embeddings, teachers: list[Embeddings]) -> float:
    phi_images, phi_texts, temperature = own.images_BD.tolist(), own.texts_BD.tolist(), 1 / float(own.logit_scale)
    total = 0.0
    for teacher in teachers:
        psi_images, psi_texts, tau = (
            teacher.images_BD.tolist(),
            teacher.texts_BD.tolist(),
            1 / float(teacher.logit_scale),
        )
        for psi_u, psi_v, phi_u, phi_v in (
            (psi_images, psi_texts, phi_images, phi_texts),
            (psi_texts, psi_images, phi_texts, phi_images),
        ):
            p_rows, q_rows = softmax_rows(psi_u, psi_v, tau), softmax_rows(phi_u, phi_v, temperature)
            for p_row, q_row in zip(p_rows, q_rows, strict=True):
                for p, q in zip(p_row, q_row, strict=True):
                    total += p * math.log(p / q)
    return total / (2 * B * len(teachers))


def clip_by_hand(own: Embeddings) -> float:
    images, texts = own.images_BD.tolist(), own.texts_BD.tolist()
    total = 0.0
    for u, v in ((images, texts), (texts, images)):
        for index, row in enumerate(softmax_rows(u, v, 1 / float(own.logit_scale))):
            total -= math.log(row[index])
    return total / (2 * B)


@pytest.mark.parametrize("num_teachers", [1, 2, 3])
def test_distillation_is_equation_1(num_teachers: int) -> None:
    value = distillation_loss(student(), ensemble(num_teachers))
    assert value.item() == pytest.approx(equation_1(student(), ensemble(num_teachers)), rel=1e-12)


def test_clip_loss_is_the_symmetric_cross_entropy() -> None:
    assert clip_loss(student()).item() == pytest.approx(clip_by_hand(student()), rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_total_is_equation_2(weight: float) -> None:
    expected = (1 - weight) * clip_by_hand(student()) + weight * equation_1(student(), ensemble(2))
    value = total_loss(student(), ensemble(2), Distillation(weight=weight))
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_plain_clip_training_needs_no_teachers() -> None:
    value = total_loss(student(), [], Distillation(weight=0))
    assert value.item() == pytest.approx(clip_by_hand(student()), rel=1e-12)


def test_pure_distillation_computes_no_clip_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("dr_pipeline.training.losses.clip_loss")
    value = total_loss(student(), ensemble(3), Distillation(weight=1))
    assert value.item() == pytest.approx(equation_1(student(), ensemble(3)), rel=1e-12)


@pytest.mark.parametrize("place", [0, 1])
def test_a_rank_s_loss_is_of_its_rows_against_all(place: int) -> None:
    """Two ranks of two rows each."""

    def of_rank(one: Embeddings) -> Embeddings:
        rows = slice(2 * place, 2 * place + 2)
        whole = (one.images_BD, one.texts_BD)
        return Embeddings(one.images_BD[rows], one.texts_BD[rows], one.logit_scale, *whole, first=2 * place)

    logits, all_logits = of_rank(student()).logits(), student().logits()
    for part_BG, whole_GG in zip(logits, all_logits, strict=True):
        torch.testing.assert_close(part_BG, whole_GG[2 * place : 2 * place + 2])
    image_to_text_GG, text_to_image_GG = all_logits
    targets_B = torch.arange(2 * place, 2 * place + 2)
    parts = [cross_entropy(whole_GG[targets_B], targets_B) for whole_GG in (image_to_text_GG, text_to_image_GG)]
    assert clip_loss(of_rank(student())).item() == pytest.approx(sum(parts).item() / 2, rel=1e-12)


@pytest.mark.parametrize("num_teachers", [1, 2, 3])
def test_gradients_are_the_derivatives(num_teachers: int) -> None:
    def loss(images_BD: torch.Tensor, texts_BD: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
        own = Embeddings(images_BD, texts_BD, logit_scale)
        return total_loss(own, ensemble(num_teachers), Distillation(weight=0.6))

    inputs = [unit(0, D), unit(1, D), SCALE.clone()]
    assert torch.autograd.gradcheck(loss, [values.requires_grad_() for values in inputs])


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient() -> None:
    images, texts, scale = (values.requires_grad_() for values in (unit(0, D), unit(1, D), SCALE.clone()))
    loss = distillation_loss(Embeddings(images, texts, scale), [student()])
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for values in (images, texts, scale):
        assert values.grad.abs().max().item() < 1e-12


def test_bfloat16_embeddings_give_float32_losses_under_autocast() -> None:
    own = Embeddings(unit(0, D, torch.bfloat16), unit(1, D, torch.bfloat16), SCALE.float())
    theirs = [Embeddings(unit(2, 3, torch.bfloat16), unit(3, 3, torch.bfloat16), 70.0)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = total_loss(own, theirs, Distillation(weight=0.5))
    outside = total_loss(own, theirs, Distillation(weight=0.5))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("pad_id", [0, 3])
def test_caption_and_clip_loss_are_open_clip_s_coca_loss(pad_id: int) -> None:
    torch.manual_seed(0)
    logits_BLV, labels_BL = torch.randn(B, 5, 9), torch.randint(0, 9, (B, 5))
    labels_BL[1, 2:] = pad_id
    own = student()
    reference = CoCaLoss(caption_loss_weight=2, clip_loss_weight=1, pad_id=pad_id)
    clip, caption = reference(own.images_BD, own.texts_BD, logits_BLV, labels_BL, SCALE)
    ours = caption_loss(logits_BLV, labels_BL, pad_id, count_tokens(labels_BL, pad_id))
    assert 2 * ours.item() == pytest.approx(caption.item(), rel=1e-6)
    assert clip_loss(own).item() == pytest.approx(clip.item(), rel=1e-12)
