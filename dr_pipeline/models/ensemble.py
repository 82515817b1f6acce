"""The teachers together: uint8 views and texts in, one named column of each teacher out (paper, section 2.1).

Shapes: B views, T texts of L tokens, H = W pixels, C = 3 channels, `dim` columns of a teacher.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dr_pipeline.dataset.sample import PROBS_INDICES, PROBS_VALUES
from dr_pipeline.errors import ModelError
from dr_pipeline.models.averaging import check_classifiers, check_sums, largest_of_mean, sums_of
from dr_pipeline.models.protocol import (
    CompilableTeacher,
    ImageTeacher,
    ReplayableTeacher,
    Teacher,
    TeacherSpec,
    TextTeacher,
    TokenTeacher,
    is_reproducible,
)
from dr_pipeline.networks.device import Precision, precision_context
from dr_pipeline.networks.images import host_tensor, normalise, resample
from dr_pipeline.networks.launching import HostCopy, device_turn


class Ensemble:
    """Named teachers on one device. Each gives a column of what it can encode; columns keep the teachers' order."""

    def __init__(
        self,
        teachers: Sequence[tuple[str, Teacher]],
        device: torch.device,
        precision: Precision = "auto",
        without_autocast: Collection[str] = (),
    ):
        """`without_autocast`: the names of teachers whose weights have the precision themselves."""
        self._specs = {name: teacher.spec for name, teacher in teachers}
        self._of_images = {name: teacher for name, teacher in teachers if isinstance(teacher, ImageTeacher)}
        self._of_texts = {name: teacher for name, teacher in teachers if isinstance(teacher, TextTeacher)}
        self.image_teachers = list(self._of_images)
        self.text_teachers = list(self._of_texts)
        self._classifiers = [name for name in self._of_images if self._specs[name].output == "probabilities"]
        self.dims = {name: spec.dim for name, spec in self._specs.items()}
        self.not_reproducible = [name for name, teacher in teachers if not is_reproducible(teacher)]
        self._device = device
        self._precision = precision
        self._without_autocast = without_autocast
        self._top_k: int | None = None
        self._tokenizing = threading.Lock()
        self.turn = device_turn(device)
        """To be held while images or texts are started: a teacher is not asked by two threads at once."""

    @property
    def num_classes(self) -> int | None:
        """The classes of the classifiers whose probabilities are averaged; None where there are none."""
        return next((self.dims[name] for name in self._classifiers), None) if self._top_k else None

    def keep_largest(self, top_k: int) -> None:
        """Give, in place of each classifier's probabilities, the `top_k` largest of their mean, and their classes.

        Raises ConfigError where that cannot be.
        """
        check_classifiers({name: self._specs[name] for name in self._classifiers}, top_k)
        self._top_k = top_k

    def start_images(self, views_BHWC: torch.Tensor) -> "PendingColumns":
        """Square uint8 RGB views → columns that a GPU may still be computing.

        A teacher of another size than the views' gets them resampled with antialias, always from the views as given.
        Raises ModelError naming the teacher that returned anything but B rows of its dim.
        """
        views = views_BHWC.to(self._device, non_blocking=True)
        specs = {name: self._specs[name].images for name in self._of_images}
        sized = {size: resample(views, size) for size in {spec.image_size for spec in specs.values()}}
        outputs = {}
        for name, teacher in self._of_images.items():
            with self._running(name):
                outputs[name] = teacher.encode_images(normalise(sized[specs[name].image_size], specs[name]))
        return PendingColumns(outputs, self._specs, "encode_images", len(views), self._top_k)

    def tokenize(self, texts: list[str]) -> "TextBatch":
        """What the teachers take of T texts. It computes on the host alone, and several threads may call it.

        Tokenizers are Python: threads would take turns in any case, and not all of them stand being shared.
        """
        with self._tokenizing:
            tokenizers = {
                id(teacher.tokenizer): teacher.tokenizer
                for teacher in self._of_texts.values()
                if isinstance(teacher, TokenTeacher) and texts  # a library's tokenizer may fail on none
            }
            tokens = {key: host_tensor(tokenizer(texts), self._device) for key, tokenizer in tokenizers.items()}
        return TextBatch(texts, tokens)

    def start_texts(self, batch: "TextBatch") -> "PendingColumns":
        """A batch of T texts → columns that a GPU may still be computing, as `start_images`.

        Texts of about one length waste the least padding.
        """
        outputs = {}
        for name, teacher in self._of_texts.items():
            with self._running(name):
                if isinstance(teacher, TokenTeacher):
                    outputs[name] = teacher.encode_tokens(batch.tokens[id(teacher.tokenizer)])
                else:
                    outputs[name] = teacher.encode_texts(batch.texts)
        return PendingColumns(outputs, self._specs, "encode_texts", len(batch.texts))

    def compile(self, image_batch: int, text_batch: int) -> None:
        """Compile the towers of the teachers that can be, for batches of up to so many views and texts."""
        for name, teacher in (self._of_images | self._of_texts).items():
            if isinstance(teacher, CompilableTeacher):
                with self._running(name):
                    teacher.compile_towers(image_batch, text_batch)

    def replay(self, image_batch: int, text_batch: int) -> None:
        """Launch the towers of the teachers that can as CUDA graphs, for batches of up to so many views and texts."""
        for teacher in (self._of_images | self._of_texts).values():
            if isinstance(teacher, ReplayableTeacher):
                teacher.replay_towers(image_batch, text_batch)

    @contextmanager
    def _running(self, name: str) -> Iterator[None]:
        """The context of a teacher's calls. What one of them raises is noted to be the teacher's."""
        needs_autocast = name not in self._without_autocast
        try:
            with torch.inference_mode(), precision_context(self._device, self._precision, needs_autocast):
                yield
        except Exception as error:
            error.add_note(f"teacher {name} raised it")
            raise

    def embed_images(self, views_BHWC: np.ndarray) -> dict[str, np.ndarray]:
        """`start_images`, finished: uint8 views → float32 [B, dim] by teacher. Raises ModelError."""
        return self.start_images(host_tensor(views_BHWC, self._device)).finish()

    def embed_texts(self, texts: list[str]) -> dict[str, np.ndarray]:
        """`start_texts`, finished: T texts → float32 [T, dim] by teacher. Raises ModelError."""
        return self.start_texts(self.tokenize(texts)).finish()


@dataclass(frozen=True)
class TextBatch:
    """T texts, and their tokens [T, L] by the identity of the tokenizer that made them."""

    texts: list[str]
    tokens: dict[int, torch.Tensor]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, part: slice) -> "TextBatch":
        return TextBatch(self.texts[part], {key: tokens_TL[part] for key, tokens_TL in self.tokens.items()})


class PendingColumns:
    """Columns that the device has been told to compute. Several threads may wait for the same ones."""

    def __init__(
        self,
        outputs: dict[str, Any],
        specs: Mapping[str, TeacherSpec],
        method: str,
        rows: int,
        top_k: int | None = None,
    ):
        """`top_k`: as `Ensemble.keep_largest` has it. Raises ModelError naming the teacher whose output is not
        [rows, dim] floats.
        """
        self._specs = {name: specs[name] for name in outputs}
        self._callers = {name: f"teacher {name}: {method}" for name in outputs}
        self._num_rows = rows
        self._averaged = [name for name in outputs if top_k and specs[name].output == "probabilities"]
        columns, checked = {}, []
        for name, output in outputs.items():
            spec = self._specs[name]
            check_form(output, spec, self._callers[name], rows)
            column_BD = output.detach().float()
            checked.append((sums_of(column_BD) if name in self._averaged else row_norms(column_BD, spec))[:, None])
            columns[name] = F.normalize(column_BD, dim=1) if spec.output == "embedding" else column_BD
        if top_k is not None:
            of_classes = [columns.pop(name) for name in self._averaged]
            columns[PROBS_VALUES], columns[PROBS_INDICES] = largest_of_mean(of_classes, top_k)
        self._dims = {name: column_BD.shape[1] for name, column_BD in columns.items()}
        # One tensor, so that one copy brings all columns to the host.
        parts = [*checked, *columns.values()] or [torch.empty(rows, 0)]
        self._arriving: HostCopy | None = HostCopy(torch.cat(parts, dim=1))
        self._finished: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._num_rows

    def finish(self) -> dict[str, np.ndarray]:
        """Wait for the device → float32 [B, dim] by teacher: embeddings of norm 1, probabilities and scores as given.

        Where probabilities are averaged, PROBS_VALUES and PROBS_INDICES stand for their teachers. Raises ModelError
        naming the teacher that returned NaN, infinity, an embedding of zeros, or what cannot be averaged.
        """
        with self._lock:
            if self._arriving is not None:
                joined_BD = self._arriving.wait()
                for index, (name, spec) in enumerate(self._specs.items()):
                    if name in self._averaged:
                        check_sums(joined_BD[:, index], self._callers[name])
                    else:
                        check_norms(joined_BD[:, index], spec, self._callers[name])
                parts = joined_BD.split([len(self._specs), *self._dims.values()], dim=1)
                for name, part_BD in zip(self._dims, parts[1:], strict=True):
                    self._finished[name] = (part_BD.int() if name == PROBS_INDICES else part_BD).numpy()
                self._arriving = None
            return self._finished


def check_output(output: Any, spec: TeacherSpec, who: str, rows: int) -> None:
    """Raise ModelError, saying what `who` returned, unless it is `rows` rows of `spec.dim` valid floats."""
    check_form(output, spec, who, rows)
    check_norms(row_norms(output.detach().float(), spec).cpu(), spec, who)


def check_form(output: Any, spec: TeacherSpec, who: str, rows: int) -> None:
    """Raise ModelError unless the output is a float tensor [rows, spec.dim]; its values are not looked at."""
    if not isinstance(output, torch.Tensor):
        part = ", such as its pooler_output" if hasattr(output, "pooler_output") else ""
        raise ModelError(f"{who} returned a {type(output).__name__}; return one tensor [{rows}, {spec.dim}]{part}")
    if tuple(output.shape) != (rows, spec.dim):
        raise ModelError(
            f"{who} returned shape {list(output.shape)} for {rows} inputs; its spec says [{rows}, {spec.dim}]: "
            "correct spec.dim, or return one vector per input"
        )
    if not output.is_floating_point():
        raise ModelError(f"{who} returned {output.dtype}; return floats")


def row_norms(output_RD: torch.Tensor, spec: TeacherSpec) -> torch.Tensor:
    """A number a row that is NaN or infinite where the row is invalid: its norm, of scores the largest magnitude."""
    return torch.linalg.vector_norm(output_RD, ord=2 if spec.output == "embedding" else torch.inf, dim=1)


def check_norms(norms_R: torch.Tensor, spec: TeacherSpec, who: str) -> None:
    """Raise ModelError where a row is NaN or infinite, or an embedding is zero."""
    is_zero = (norms_R == 0) & (spec.output == "embedding")
    bad = torch.nonzero(~torch.isfinite(norms_R) | is_zero).flatten().tolist()
    if bad:
        kind = "a zero vector" if is_zero[bad[0]] else "NaN or infinity"
        raise ModelError(f"{who} returned {kind} for {len(bad)} of {len(norms_R)} inputs, first for input {bad[0]}")
