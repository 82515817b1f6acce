"""Each distinct text of a shard is embedded once, and every caption gets the embedding of its own text."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.reinforce import embed
from dr_pipeline.reinforce.embed import TextEmbedder


class BagOfWords:
    """A text teacher that sums seeded word vectors."""

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


def embedded(embedder: TextEmbedder, texts: Sequence[str]) -> np.ndarray:
    """The texts' embeddings, [T, dim]."""
    started = embedder.start(texts)
    return np.stack([batch.finish()["words"][row] for batch, row in map(started.__getitem__, texts)])


def test_a_repeated_text_is_embedded_once() -> None:
    text_embedder, teacher = embedder()
    first_TD = embedded(text_embedder, ["a red circle", "a blue star", "a red circle", "a moon"])
    second_TD = embedded(text_embedder, ["a moon", "a blue star"])
    assert sorted(teacher.seen) == ["a blue star", "a moon", "a red circle"]
    np.testing.assert_array_equal(first_TD[0], first_TD[2])
    np.testing.assert_array_equal(second_TD, first_TD[[3, 1]])


def test_every_caption_gets_its_own_embedding() -> None:
    captions = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "star", "moon")]
    together_TD = embedded(embedder(batch_size=2)[0], captions)
    for caption, emb_D in zip(captions, together_TD, strict=True):
        np.testing.assert_allclose(embedded(embedder()[0], [caption]), [emb_D], atol=1e-6)


def test_few_texts_are_remembered_and_none_after_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "_REMEMBERED_TEXTS", 2)
    text_embedder, teacher = embedder()
    text_embedder.start(["one", "two", "three"])
    assert len(text_embedder._remembered) == 2
    text_embedder.forget()
    text_embedder.start(["three"])
    assert teacher.seen.count("three") == 2


def test_very_long_texts_are_shortened_for_the_teachers_and_not_remembered() -> None:
    text_embedder, teacher = embedder()
    assert np.isfinite(embedded(text_embedder, ["a red circle " * 10_000, "x" * 100_000])).all()
    assert sorted(map(len, teacher.seen)) == [500, 1 << 15]
    assert not text_embedder._remembered
