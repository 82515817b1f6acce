"""Evaluate what a job names: a network, or a teacher by its card.

Shapes: B images, T texts, C = 3 channels, H and W pixels, D embedding columns.
"""

from contextlib import AbstractContextManager

import torch

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.evaluation import EvaluateJob
from dr_pipeline.errors import ModelError
from dr_pipeline.evaluation.evaluate import TaskResult, evaluate_network, run_tasks_of
from dr_pipeline.models.precision import load_ready
from dr_pipeline.models.protocol import ImageTeacher, TextTeacher
from dr_pipeline.networks.device import Precision, pick_device, precision_context


def evaluate(job: EvaluateJob) -> list[TaskResult]:
    """Evaluate the job's model on its tasks. Raises ConfigError, ModelError; ShardError where data cannot be read."""
    if job.model is not None:
        return evaluate_network(job.model, job)
    assert job.teacher is not None  # the schema wants one of them
    encoder = TeacherEncoder(job.teacher, job.engine.precision, job.plugin_dirs)
    return run_tasks_of(encoder, job.tasks, job.engine)


class TeacherEncoder:
    """A card's teacher as an evaluation asks it, in a precision."""

    def __init__(self, card: TeacherCard, precision: Precision, plugin_dirs: tuple[str, ...]):
        """Raises ConfigError, ModelError as loading it does, and where it has no common space of images and texts."""
        self._device, self._precision = pick_device(), precision
        self._ready = load_ready(card, self._device, precision, plugin_dirs)
        teacher = self._ready.teacher
        if not isinstance(teacher, ImageTeacher) or not isinstance(teacher, TextTeacher):
            raise ModelError(
                f"card {card.name}: {card.use} has not both encode_images and encode_texts: zero-shot evaluation "
                "compares images with texts"
            )
        self._teacher, self.image = teacher, teacher.spec.images

    def embed_images(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised float images in host memory → embeddings [B, D], of any length."""
        with torch.inference_mode(), self._arithmetic():
            return self._teacher.encode_images(images_BCHW.to(self._device))

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """T texts → embeddings [T, D], of any length."""
        with torch.inference_mode(), self._arithmetic():
            return self._teacher.encode_texts(texts)

    def _arithmetic(self) -> AbstractContextManager[object]:
        return precision_context(self._device, self._precision, self._ready.needs_autocast)
