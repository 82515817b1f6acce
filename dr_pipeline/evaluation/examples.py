"""Examples of what a model finds among the first items of a set: texts of images, images of texts, classes of images.

Shapes: I images, T texts, K classes, Q queries, A possible answers, B images of a batch.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dr_pipeline.config.evaluation import Engine
from dr_pipeline.evaluation.data import EvaluationImage, LabelledSet, Target
from dr_pipeline.evaluation.encoder import NetworkEncoder, UnitVectors
from dr_pipeline.evaluation.images import ImageLoader
from dr_pipeline.networks.classifier import Classifier
from dr_pipeline.networks.network import Network

MOST_PAIRS = 500
"""Pairs of an image and a text, or of an image and its class, that are looked at."""
_SHOWN_ANSWERS = 5
_EXTREMES, _ORDINARY = 3, 3
"""How many queries are shown: of the best and of the worst, and of those spread evenly over all."""

Items = Callable[[], Iterable[EvaluationImage[Target]]]
"""Begins to read a set, which may be read twice."""


@dataclass(frozen=True)
class Answer:
    """One of the answers that are nearest to a query."""

    number: int
    score: float
    is_right: bool


@dataclass(frozen=True)
class Query:
    """What a model found for an image or a text; images, texts and classes go by their numbers."""

    number: int
    rank: int
    """Of the best right answer, from 1."""
    answers: tuple[Answer, ...]
    """The nearest, best first."""
    right: tuple[int, ...]
    """All answers that would be right."""


@dataclass(frozen=True)
class Search:
    """What a model found for all queries of a kind, and some of them."""

    ranks: tuple[int, ...]
    """Of each query's best right answer, from 1."""
    num_answers: int
    clearest: tuple[Query, ...]
    """Those whose right answer stands out most."""
    worst: tuple[Query, ...]
    """Those whose right answer ranks last."""
    others: tuple[Query, ...]
    """Some of the others, spread evenly over the set."""

    def found(self, within: int) -> float:
        """The share of queries with a right answer among the nearest so many."""
        return sum(rank <= within for rank in self.ranks) / len(self.ranks)

    @property
    def shown(self) -> tuple[Query, ...]:
        """All queries that are kept."""
        return (*self.clearest, *self.worst, *self.others)


@dataclass(frozen=True)
class RetrievalExamples:
    """Texts that were found by images, and images that were found by texts; a text that several images have is one."""

    texts: list[str]
    places: list[int]
    """Of each image its place in the set."""
    texts_by_image: Search
    images_by_text: Search


@dataclass(frozen=True)
class ClassificationExamples:
    """Classes that were found by images."""

    class_names: list[str]
    places: list[int]
    """Of each image its place in the set."""
    classes_by_image: Search
    confusions: list[tuple[int, int, int]]
    """An image's class, another one that was found in its place, and how often; the most frequent first."""


def retrieval_examples(network: Network, items: Items[list[str]], engine: Engine) -> RetrievalExamples | None:
    """What a network finds among the first pairs of a set; None where no image can be read. Raises ShardError."""
    encoder = NetworkEncoder(network, engine.precision)
    vectors, loader = UnitVectors(encoder, engine), ImageLoader(encoder.image, engine)
    embedded, own_texts, places = [], [], []
    for images_BD, targets in vectors.of_images(_first(items(), len), loader):
        embedded.append(images_BD)
        for place, captions in targets:
            places.append(place)
            own_texts.append(captions)
    if not embedded:
        return None
    texts = [*dict.fromkeys(text for captions in own_texts for text in captions)]
    numbers = {text: number for number, text in enumerate(texts)}
    is_right_IT = torch.zeros(len(places), len(texts), dtype=torch.bool)
    for row, captions in zip(is_right_IT, own_texts, strict=True):
        row[[numbers[text] for text in captions]] = True
    similarities_IT = (torch.cat(embedded) @ vectors.of_texts(texts).T).cpu()
    return RetrievalExamples(
        texts, places, _search(similarities_IT, is_right_IT), _search(similarities_IT.T, is_right_IT.T)
    )


def zero_shot_examples(
    network: Network, open_set: Callable[[], LabelledSet], engine: Engine
) -> ClassificationExamples | None:
    """Which classes a network finds nearest to the first images of a set, by cosines; None where none can be read.

    Raises ShardError, and what `open_set` raises.
    """
    data, encoder = open_set(), NetworkEncoder(network, engine.precision)
    vectors, loader = UnitVectors(encoder, engine), ImageLoader(encoder.image, engine)
    classes_KD = vectors.of_classes(data)
    embedded = vectors.of_images(_first(data.items, lambda _: 1), loader)
    return _classified(data.class_names, ((images_BD @ classes_KD.T, targets) for images_BD, targets in embedded))


def head_examples(
    network: Classifier, class_names: list[str], items: Items[int], engine: Engine
) -> ClassificationExamples | None:
    """Which classes a classifier gives the first images of a set, by probabilities; None where none can be read.

    Raises ShardError.
    """
    batches = ImageLoader(network.image, engine).batches(_first(items(), lambda _: 1))
    module = network.module
    return _classified(class_names, ((module(images_BCHW).softmax(dim=1), targets) for images_BCHW, targets in batches))


def _classified(
    class_names: list[str], batches: Iterable[tuple[torch.Tensor, list[tuple[int, int]]]]
) -> ClassificationExamples | None:
    """Examples of scores [B, K], with the place and the label of each image."""
    scored, labels, places = [], [], []
    for scores_BK, targets in batches:
        scored.append(scores_BK.float().cpu())
        for place, label in targets:
            places.append(place)
            labels.append(label)
    if not scored:
        return None
    scores_IK = torch.cat(scored)
    is_right_IK = F.one_hot(torch.tensor(labels), scores_IK.shape[1]).bool()
    guesses = zip(labels, scores_IK.argmax(dim=1).tolist(), strict=True)
    confused = Counter((label, guess) for label, guess in guesses if label != guess)
    confusions = [(*pair, count) for pair, count in confused.most_common()]
    return ClassificationExamples(class_names, places, _search(scores_IK, is_right_IK), confusions)


def _first(
    items: Iterable[EvaluationImage[Target]], num_pairs: Callable[[Target], int]
) -> Iterator[EvaluationImage[tuple[int, Target]]]:
    """The first items, until they have so many pairs; each with its place."""
    seen = 0
    for place, item in enumerate(items):
        if seen >= MOST_PAIRS:
            return
        seen += num_pairs(item.target)
        yield EvaluationImage(item.read, (place, item.target))


def _search(scores_QA: torch.Tensor, is_right_QA: torch.Tensor) -> Search:
    """What was found; each query has a right answer."""
    best_Q = scores_QA.masked_fill(~is_right_QA, -torch.inf).amax(dim=1)
    lead_Q = best_Q - scores_QA.masked_fill(is_right_QA, -torch.inf).amax(dim=1)
    ranks_Q = 1 + (scores_QA > best_Q[:, None]).sum(dim=1)
    nearest = scores_QA.topk(min(_SHOWN_ANSWERS, scores_QA.shape[1]))

    def query(number: int) -> Query:
        rows = zip(nearest.indices[number].tolist(), nearest.values[number].tolist(), strict=True)
        answers = (Answer(answer, score, bool(is_right_QA[number, answer])) for answer, score in rows)
        right = is_right_QA[number].nonzero()[:, 0].tolist()
        return Query(number, int(ranks_Q[number]), tuple(answers), tuple(right))

    by_lead = lead_Q.argsort(descending=True, stable=True).tolist()
    clearest = [number for number in by_lead[:_EXTREMES] if ranks_Q[number] == 1]
    by_rank = ranks_Q.argsort(descending=True, stable=True).tolist()
    worst = [number for number in by_rank[:_EXTREMES] if ranks_Q[number] > 1]
    left = [number for number in range(len(ranks_Q)) if number not in {*clearest, *worst}]
    others = left[:: -(-len(left) // _ORDINARY) or 1]
    chosen = ([query(number) for number in numbers] for numbers in (clearest, worst, others))
    return Search(tuple(ranks_Q.tolist()), scores_QA.shape[1], *map(tuple, chosen))
