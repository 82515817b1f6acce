"""How good a network is without training on a task: zero-shot classification, and retrieval in both directions."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from pydantic import ValidationError
from rich.table import Table

from dr_pipeline.config.evaluation import Classification, Engine, EvaluateJob, Model, Retrieval, Tasks
from dr_pipeline.config.plugins import load_class
from dr_pipeline.errors import ConfigError
from dr_pipeline.evaluation.data import Item, Target, open_captioned, open_labelled
from dr_pipeline.evaluation.images import ImageLoader
from dr_pipeline.networks.device import autocast, pick_device
from dr_pipeline.networks.files import HUB, hub_file, resource
from dr_pipeline.networks.network import Network, embed_images, embed_texts, load_network
from dr_pipeline.networks.tokenizer import truncate_text
from dr_pipeline.networks.weights import pretrained_cfg
from dr_pipeline.redaction import printable

RECALLS = (1, 5, 10)
_CHUNK = 1024  # rows of similarities that are in memory at a time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """One task's figures, each a part of 1.

    Classification: acc1, and acc5 where there are five classes or more. Retrieval: image_to_text_r1, …_r5, …_r10 (the
    part of images with one of their captions among the nearest k texts) and text_to_image_r1, …
    """

    task: str
    figures: dict[str, float]
    num_images: int
    unreadable: dict[str, int]
    """Images that were left out, by reason."""
    seconds: float


def evaluate(job: EvaluateJob) -> list[Result]:
    """The job's model on the job's tasks. Raises ConfigError, ModelError, and ShardError where data cannot be read."""
    model = job.model
    if model.tokenizer is not None:
        load_class(model.tokenizer, job.plugin_dirs)
    network = load_network(
        model.architecture,
        model.weights,
        pick_device(),
        tokenizer=model.tokenizer,
        context_length=model.context_length,
    )
    return run_tasks(network, job.tasks, as_recorded(job.engine, model))


def run_tasks(network: Network, tasks: Tasks, engine: Engine = Engine()) -> list[Result]:  # noqa: B008  (frozen)
    """A network on every task, in order. A network in training is put back into it.

    Raises ConfigError and ShardError.
    """
    evaluator = _Evaluator(network, engine)
    with _at_rest(network.module):
        results = [evaluator.classify(task) for task in tasks.classification]
        return results + [evaluator.retrieve(task) for task in tasks.retrieval]


def check_tasks(tasks: Tasks) -> None:
    """Find every task's data, class names and templates without reading an image. Raises ConfigError."""
    for labelled in tasks.classification:
        open_labelled(labelled)
    for captioned in tasks.retrieval:
        open_captioned(captioned)


def show(results: list[Result]) -> Table:
    """The results for a terminal, one line a task, in per cent."""
    table = Table("task", "images", "figures", "unreadable")
    for result in results:
        figures = "  ".join(f"{name} {100 * value:.1f}" for name, value in result.figures.items())
        reasons = ", ".join(f"{reason} ({count})" for reason, count in result.unreadable.items())
        table.add_row(*map(printable, (result.task, str(result.num_images), figures, reasons)))
    return table


def recalls(
    images_ID: torch.Tensor, texts_TD: torch.Tensor, image_of_text_T: torch.Tensor, ks: tuple[int, ...] = RECALLS
) -> dict[str, float]:
    """R@k in both directions, of unit vectors; text t belongs to image `image_of_text_T[t]`.

    Similarities are computed by the chunk: 25,000 texts by 5,000 images need no half gigabyte.
    """
    own_I = torch.arange(len(images_ID), device=images_ID.device)
    hits = {
        "image_to_text": [
            image_of_text_T[near_CK] == own_C[:, None]
            for near_CK, own_C in zip(_nearest(images_ID, texts_TD, max(ks)), own_I.split(_CHUNK), strict=True)
        ],
        "text_to_image": [
            near_CK == own_C[:, None]
            for near_CK, own_C in zip(
                _nearest(texts_TD, images_ID, max(ks)), image_of_text_T.split(_CHUNK), strict=True
            )
        ],
    }
    return {
        f"{direction}_r{k}": torch.cat(parts)[:, :k].any(dim=1).double().mean().item()
        for direction, parts in hits.items()
        for k in ks
    }


class _Evaluator:
    """A network at rest, and how images reach it."""

    def __init__(self, network: Network, engine: Engine):
        self._network, self._engine = network, engine
        self._device = next(network.module.parameters()).device

    def classify(self, task: Classification) -> Result:
        begun = time.perf_counter()
        data = open_labelled(task)
        with self._arithmetic():
            classifier_DK = build_zero_shot_classifier(
                self._network.module, self._network.tokenizer, data.class_names, data.templates, device=self._device
            ).float()
        loader, hits = ImageLoader(self._network.image, self._engine), []
        for images_BD, labels in self._embedded(data.items, loader):
            near_BK = (images_BD @ classifier_DK).topk(min(5, len(data.class_names))).indices
            hits.append(near_BK == torch.tensor(labels, device=self._device)[:, None])
        hits_NK = _together(hits, task.name, loader)
        ks = (1, 5) if len(data.class_names) >= 5 else (1,)
        figures = {f"acc{k}": hits_NK[:, :k].any(dim=1).double().mean().item() for k in ks}
        return _result(task.name, figures, len(hits_NK), loader, begun)

    def retrieve(self, task: Retrieval) -> Result:
        begun = time.perf_counter()
        loader = ImageLoader(self._network.image, self._engine)
        images, captions, image_of_text = [], [], []
        num_images = 0
        for images_BD, captions_B in self._embedded(open_captioned(task), loader):
            images.append(images_BD)
            for number, own in enumerate(captions_B, start=num_images):
                captions.extend(own)
                image_of_text.extend([number] * len(own))
            num_images += len(images_BD)
        images_ID = _together(images, task.name, loader)
        figures = recalls(images_ID, self._embed_captions(captions), torch.tensor(image_of_text, device=self._device))
        return _result(task.name, figures, num_images, loader, begun)

    def _embedded(
        self, items: Iterator[Item[Target]], loader: ImageLoader
    ) -> Iterator[tuple[torch.Tensor, list[Target]]]:
        """Images as unit vectors [B, dim], with their targets."""
        for images_BCHW, targets in loader.batches(items):
            with self._arithmetic():
                images_BD = embed_images(self._network.module, images_BCHW.to(self._device))
            yield F.normalize(images_BD.float(), dim=-1), targets

    def _embed_captions(self, captions: list[str]) -> torch.Tensor:
        parts = []
        for start in range(0, len(captions), self._engine.batch_size):
            batch = [truncate_text(caption) for caption in captions[start : start + self._engine.batch_size]]
            tokens_BL = self._network.tokenizer(batch)
            with self._arithmetic():
                parts.append(embed_texts(self._network.module, tokens_BL.to(self._device)).float())
        return F.normalize(torch.cat(parts), dim=-1)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        with torch.no_grad(), autocast(self._device, self._engine.precision):
            yield


@contextmanager
def _at_rest(module: torch.nn.Module) -> Iterator[None]:
    """In eval mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _nearest(rows_ND: torch.Tensor, columns_MD: torch.Tensor, k: int) -> Iterator[torch.Tensor]:
    """The nearest columns of each row, chunk after chunk: [C, at most k]."""
    for rows_CD in rows_ND.split(_CHUNK):
        yield (rows_CD @ columns_MD.T).topk(min(k, len(columns_MD))).indices


def _together(parts: list[torch.Tensor], task: str, loader: ImageLoader) -> torch.Tensor:
    if not parts:
        reasons = (
            ", ".join(f"{reason} ({count})" for reason, count in loader.unreadable.items()) or "the tars are empty"
        )
        raise ConfigError(f"task {task}: no image can be used: {reasons}")
    return torch.cat(parts)


def _result(task: str, figures: dict[str, float], num_images: int, loader: ImageLoader, begun: float) -> Result:
    log.info("%s: %s", task, figures)
    return Result(task, figures, num_images, dict(loader.unreadable), time.perf_counter() - begun)


def as_recorded(engine: Engine, model: Model) -> Engine:
    """With the interpolation and resize mode that a checkpoint was made for, where they are left open and it says."""
    if model.architecture.startswith(HUB):
        path = hub_file(model.architecture.removeprefix(HUB), ("open_clip_config.json",))
    elif model.architecture.endswith(".json"):
        path = resource(model.architecture)
    else:
        path = None
    record = pretrained_cfg(model.architecture, model.weights) if path is None else _preprocess_cfg(path)
    said = {name: record[name] for name in ("interpolation", "resize_mode") if record.get(name)}
    chosen = {name: value for name, value in engine.model_dump().items() if value is not None}
    try:
        return Engine(**(said | chosen))
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"model {model.architecture}: its preprocess_cfg has {problem['loc'][0]} {problem['input']!r}: "
            f"set engine.{problem['loc'][0]}"
        ) from None


def _preprocess_cfg(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")).get("preprocess_cfg", {})
