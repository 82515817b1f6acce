"""Evaluation of a model: classification, zero-shot or by a classifier's own head, and retrieval in both directions.

Shapes: I images, T texts, B a batch, P prompts of a class, D embedding columns, K classes or nearest neighbours, C rows
of a chunk.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from rich.table import Table

from dr_pipeline.config.evaluation import Classification, Engine, EvaluatedModel, EvaluateJob, Retrieval, Tasks
from dr_pipeline.config.plugins import load_class
from dr_pipeline.errors import ConfigError
from dr_pipeline.evaluation.data import open_captioned, open_classes, open_labelled
from dr_pipeline.evaluation.encoder import DualEncoder, NetworkEncoder, UnitVectors
from dr_pipeline.evaluation.images import ImageLoader
from dr_pipeline.networks.classifier import Classifier, is_classifier, load_classifier
from dr_pipeline.networks.device import autocast, pick_device
from dr_pipeline.networks.files import CONFIG_NAMES, HUB, hub_file, resource
from dr_pipeline.networks.network import Network, load_network
from dr_pipeline.networks.weights import pretrained_cfg
from dr_pipeline.redaction import printable

RECALLS = (1, 5, 10)
_CHUNK = 1024
"""Rows of similarities that are in memory at a time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskResult:
    """One task's figures, each from 0 to 1.

    Classification: acc1, and acc5 where there are five classes or more. Retrieval: image_to_text_r1, …_r5, …_r10 (the
    share of images with one of their captions among the nearest k texts) and text_to_image_r1, …
    """

    task: str
    figures: dict[str, float]
    num_images: int
    unreadable: dict[str, int]
    """Images that were left out, by reason."""
    seconds: float


def evaluate_network(model: EvaluatedModel, job: EvaluateJob) -> list[TaskResult]:
    """Evaluate a network of open_clip, or a classifier of timm, on the job's tasks.

    Raises ConfigError, ModelError, ShardError.
    """
    network = load_evaluated(model, job.plugin_dirs, pick_device())
    if isinstance(network, Classifier):
        check_tasks(job.tasks, network.num_classes)
    return run_tasks(network, job.tasks, fill_preprocessing(job.engine, model))


def load_evaluated(model: EvaluatedModel, plugin_dirs: tuple[str, ...], device: torch.device) -> Network | Classifier:
    """A network of open_clip, or a classifier of timm, in eval mode. Raises ConfigError, ModelError."""
    if is_classifier(model.architecture):
        return load_classifier(model.architecture, model.weights, device)
    if model.tokenizer is not None:
        load_class(model.tokenizer, plugin_dirs)
    return load_network(
        model.architecture,
        model.weights,
        device,
        tokenizer=model.tokenizer,
        context_length=model.context_length,
    )


def run_tasks(
    network: Network | Classifier,
    tasks: Tasks,
    engine: Engine = Engine(),  # noqa: B008  (frozen)
) -> list[TaskResult]:
    """Evaluate a network on every task, in eval mode; its mode is restored. Raises ConfigError, ShardError."""
    was_training = network.module.training
    network.module.eval()
    try:
        if isinstance(network, Classifier):
            return [_classify_by_head(network, task, engine) for task in tasks.classification]
        return run_tasks_of(NetworkEncoder(network, engine.precision), tasks, engine)
    finally:
        network.module.train(was_training)


def run_tasks_of(encoder: DualEncoder, tasks: Tasks, engine: Engine) -> list[TaskResult]:
    """Evaluate any model of images and texts on every task. Raises ConfigError, ShardError."""
    results = [_classify(task, encoder, engine) for task in tasks.classification]
    return results + [_retrieve(task, encoder, engine) for task in tasks.retrieval]


def check_tasks(tasks: Tasks, num_classes: int | None) -> None:
    """Find every task's data, class names and templates without reading an image. Raises ConfigError.

    `num_classes`: of a classifier, which needs neither names nor templates, and cannot retrieve; None for others.
    """
    if num_classes is not None and tasks.retrieval:
        raise ConfigError(f"task {tasks.retrieval[0].name}: a classifier has no texts to retrieve")
    for labelled in tasks.classification:
        if num_classes is None:
            open_labelled(labelled)
        else:
            open_classes(labelled, num_classes)
    for captioned in tasks.retrieval:
        open_captioned(captioned)


def show(results: list[TaskResult]) -> Table:
    """The results as a table for a terminal: a row for each task, in it a line for each figure, in per cent.

    Images that could not be read are a column where there are any.
    """
    columns = ["task", "images", "figure", "%"] + ["unreadable"] * any(result.unreadable for result in results)
    table = Table(*columns, show_lines=len(results) > 1)
    for result in results:
        names, values = "\n".join(result.figures), "\n".join(f"{100 * value:.1f}" for value in result.figures.values())
        row = (result.task, str(result.num_images), names, values, _listed(result.unreadable))
        table.add_row(*map(printable, row[: len(columns)]))
    return table


def recalls(
    images_ID: torch.Tensor, texts_TD: torch.Tensor, image_of_text_T: torch.Tensor, ks: tuple[int, ...] = RECALLS
) -> dict[str, float]:
    """R@k in both directions, of unit vectors; text t belongs to image `image_of_text_T[t]`.

    Similarities are computed in chunks of rows: all those of 25,000 texts and 5,000 images would be half a gigabyte.
    """
    image_of_image_I = torch.arange(len(images_ID), device=images_ID.device)
    directions = {
        "image_to_text": (images_ID, image_of_image_I, texts_TD, image_of_text_T),
        "text_to_image": (texts_TD, image_of_text_T, images_ID, image_of_image_I),
    }
    figures: dict[str, float] = {}
    for direction, (queries_ND, image_of_query_N, answers_MD, image_of_answer_M) in directions.items():
        hits = []
        for queries_CD, image_of_query_C in zip(queries_ND.split(_CHUNK), image_of_query_N.split(_CHUNK), strict=True):
            nearest_CK = (queries_CD @ answers_MD.T).topk(min(max(ks), len(answers_MD))).indices
            hits.append(image_of_answer_M[nearest_CK] == image_of_query_C[:, None])
        hits_NK = torch.cat(hits)
        figures |= {f"{direction}_r{k}": hits_NK[:, :k].any(dim=1).double().mean().item() for k in ks}
    return figures


def _classify(task: Classification, encoder: DualEncoder, engine: Engine) -> TaskResult:
    begun, data, vectors = time.perf_counter(), open_labelled(task), UnitVectors(encoder, engine)
    classes_KD = vectors.of_classes(data)
    loader = ImageLoader(encoder.image, engine)
    scored = ((images_BD @ classes_KD.T, labels) for images_BD, labels in vectors.of_images(data.items, loader))
    return _accuracies(scored, task.name, loader, begun)


def _retrieve(task: Retrieval, encoder: DualEncoder, engine: Engine) -> TaskResult:
    begun, vectors = time.perf_counter(), UnitVectors(encoder, engine)
    loader = ImageLoader(encoder.image, engine)
    images, captions, image_of_text = [], [], []
    num_images = 0
    for images_BD, captions_B in vectors.of_images(open_captioned(task), loader):
        images.append(images_BD)
        for number, own in enumerate(captions_B, start=num_images):
            captions.extend(own)
            image_of_text.extend([number] * len(own))
        num_images += len(images_BD)
    images_ID = _concatenate(images, task.name, loader)
    image_of_text_T = torch.tensor(image_of_text, device=images_ID.device)
    figures = recalls(images_ID, vectors.of_texts(captions), image_of_text_T)
    return _log_result(task.name, figures, num_images, loader, begun)


def _classify_by_head(network: Classifier, task: Classification, engine: Engine) -> TaskResult:
    begun = time.perf_counter()
    device = next(network.module.parameters()).device
    loader = ImageLoader(network.image, engine)

    def scored() -> Iterator[tuple[torch.Tensor, list[int]]]:
        for images_BCHW, labels in loader.batches(open_classes(task, network.num_classes)):
            with torch.no_grad(), autocast(device, engine.precision):
                logits_BK = network.module(images_BCHW.to(device))
            yield logits_BK.float(), labels

    return _accuracies(scored(), task.name, loader, begun)


def _accuracies(
    scored: Iterable[tuple[torch.Tensor, list[int]]], task: str, loader: ImageLoader, begun: float
) -> TaskResult:
    """A classification's result, of scores [B, K] and labels batch by batch."""
    hits = []  # whether the class with the highest score is the label's, with the second, … the fifth
    for scores_BK, labels in scored:
        nearest = scores_BK.topk(min(5, scores_BK.shape[1])).indices
        hits.append(nearest == torch.tensor(labels, device=scores_BK.device)[:, None])
    all_hits = _concatenate(hits, task, loader)
    ks = (1, 5) if all_hits.shape[1] == 5 else (1,)
    figures = {f"acc{k}": all_hits[:, :k].any(dim=1).double().mean().item() for k in ks}
    return _log_result(task, figures, len(all_hits), loader, begun)


def _concatenate(parts: list[torch.Tensor], task: str, loader: ImageLoader) -> torch.Tensor:
    """The batches' rows as one tensor. Raises ConfigError where there is none."""
    if not parts:
        raise ConfigError(f"task {task}: no image can be used: {_listed(loader.unreadable) or 'the tars are empty'}")
    return torch.cat(parts)


def _log_result(task: str, figures: dict[str, float], num_images: int, loader: ImageLoader, begun: float) -> TaskResult:
    log.info("%s: %s", task, figures)
    return TaskResult(task, figures, num_images, dict(loader.unreadable), time.perf_counter() - begun)


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in reasons.items())


def fill_preprocessing(engine: Engine, model: EvaluatedModel) -> Engine:
    """The engine with `interpolation` and `resize_mode` of the model's own record, where the job leaves them out."""
    name = model.architecture
    if name.startswith(HUB) or name.endswith(".json"):
        path = hub_file(name.removeprefix(HUB), CONFIG_NAMES) if name.startswith(HUB) else resource(name)
        tree = json.loads(path.read_text(encoding="utf-8"))
        record = tree.get("preprocess_cfg") or tree.get("pretrained_cfg", {})
    else:
        record = pretrained_cfg(name, model.weights)
    said = {field: record[field] for field in ("interpolation", "resize_mode") if record.get(field)}
    chosen = {field: value for field, value in engine.model_dump().items() if value is not None}
    try:
        return Engine(**(said | chosen))
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"model {name}: its preprocess_cfg has {problem['loc'][0]} {problem['input']!r}: "
            f"set engine.{problem['loc'][0]}"
        ) from None
