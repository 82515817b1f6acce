"""Each distinct text of a shard is embedded once, and every caption gets its own text's embedding."""

import numpy as np
import torch

from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.reinforce import texts
from dr_pipeline.reinforce.texts import TextEmbedder


class BagOfWords:
    """A real if simple text tower: the sum of seeded word vectors."""

    def __init__(self) -> None:
        self.spec = TeacherSpec(dim=6)
        self.seen: list[str] = []
        self._words = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
        self._tokenize = WordTokenizer(context_length=16)

    def encode_texts(self, captions: list[str]) -> torch.Tensor:
        self.seen += captions
        return self._words[self._tokenize(captions)].sum(dim=1)


def embedder(batch_size: int = 4) -> tuple[TextEmbedder, BagOfWords]:
    teacher = BagOfWords()
    return TextEmbedder(Ensemble([("words", teacher)], torch.device("cpu")), batch_size), teacher


def test_a_repeated_text_is_embedded_once() -> None:
    texts_of, teacher = embedder()
    first = texts_of.start(["a red circle", "a blue star", "a red circle", "a moon"])
    again = texts_of.start(["a moon", "a blue star"])
    assert sorted(teacher.seen) == ["a blue star", "a moon", "a red circle"]
    emb_TD = first.embeddings(["a red circle", "a blue star", "a red circle", "a moon"])["words"]
    np.testing.assert_array_equal(emb_TD[0], emb_TD[2])
    np.testing.assert_array_equal(again.embeddings(["a moon", "a blue star"])["words"], emb_TD[[3, 1]])


def test_every_caption_gets_its_own_embedding() -> None:
    captions = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "star", "moon")]
    texts_of, _ = embedder(batch_size=2)
    together = texts_of.start(captions).embeddings(captions)["words"]
    for caption, emb_D in zip(captions, together, strict=True):
        alone, _ = embedder()
        np.testing.assert_allclose(alone.start([caption]).embeddings([caption])["words"], [emb_D], atol=1e-6)


def test_memory_is_bounded_and_a_shard_starts_afresh(monkeypatch) -> None:
    monkeypatch.setattr(texts, "_REMEMBERED_TEXTS", 2)
    texts_of, teacher = embedder()
    texts_of.start(["one", "two", "three"])
    assert len(texts_of._remembered) == 2
    texts_of.forget()
    texts_of.start(["three"])
    assert teacher.seen.count("three") == 2


def test_endless_texts_are_shortened_for_the_teachers_and_not_remembered() -> None:
    texts_of, teacher = embedder()
    words, word = "a red circle " * 10_000, "x" * 100_000
    made = texts_of.start([words, word]).embeddings([words, word])["words"]
    assert np.isfinite(made).all()
    assert sorted(map(len, teacher.seen)) == [500, 1 << 15]
    assert not texts_of._remembered
