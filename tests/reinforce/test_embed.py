"""Each distinct text of a pool is embedded once, and every caption gets the embedding of its own text."""

from collections.abc import Sequence

import numpy as np
import torch

from dr_pipeline.dataset.sample import TEXT, Column, Sample
from dr_pipeline.demo.tokenizer import WordTokenizer
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.protocol import TeacherSpec
from dr_pipeline.reinforce.embed import TextStage
from dr_pipeline.reinforce.in_flight import InFlight
from dr_pipeline.reinforce.stats import ShardStats

CPU = torch.device("cpu")


class BagOfWords:
    """A text teacher that sums seeded word vectors."""

    def __init__(self) -> None:
        self.spec = TeacherSpec(dim=6)
        self.seen: list[list[str]] = []
        self._words = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
        self._tokenize = WordTokenizer(context_length=16)

    def encode_texts(self, captions: list[str]) -> torch.Tensor:
        self.seen.append(captions)
        return self._words[self._tokenize(captions)].sum(dim=1)


def embed(captions: Sequence[Sequence[str]], batch_size: int = 4) -> tuple[list[Sample], BagOfWords]:
    """Samples with these captions, the first of each being the ground truth; one with none is to be skipped."""
    teacher = BagOfWords()
    stage = TextStage(Ensemble([("words", teacher)], CPU), batch_size)
    stats, items = ShardStats(), []
    for index, (*own,) in enumerate(captions):
        sample = Sample(str(index), {}, caption=own[0] if own else "", synthetic={"syn_text": own[1:]})
        sample.skip = None if own else SampleSkipped("no text")
        items.append(InFlight(sample))
    pools = (stage.tokenize(pool, stats) for pool in stage.pools(items))
    return [item.finish() for item in stage.run(pools, stats)], teacher


def columns(sample: Sample) -> np.ndarray:
    """The embeddings of the ground truth and the captions, [T, dim]."""
    return np.concatenate([sample.columns[Column("words", of)] for of in (TEXT, "syn_text")])


def test_a_repeated_text_of_a_pool_is_embedded_once() -> None:
    (first, second), teacher = embed([["a red circle", "a blue star", "a red circle"], ["a moon", "a blue star"]])
    assert sorted(text for batch in teacher.seen for text in batch) == ["a blue star", "a moon", "a red circle"]
    np.testing.assert_array_equal(columns(first)[0], columns(first)[2])
    np.testing.assert_array_equal(columns(first)[1], columns(second)[1])


def test_every_caption_gets_its_own_embedding_and_samples_keep_their_order() -> None:
    captions = [[f"a {colour} {shape}" for shape in ("circle", "star", "moon")] for colour in ("red", "blue", "green")]
    samples, _ = embed([captions[0], [], *captions[1:]], batch_size=2)
    assert [sample.key for sample in samples] == ["0", "1", "2", "3"]
    assert samples[1].columns == {}
    for sample, own in zip([samples[0], *samples[2:]], captions, strict=True):
        for emb_D, caption in zip(columns(sample), own, strict=True):
            (alone,), _ = embed([[caption, caption]])
            np.testing.assert_allclose(emb_D, columns(alone)[0], atol=1e-6)


def test_texts_of_many_samples_share_full_batches_of_about_one_length() -> None:
    captions = [["x" * (1 + index % 9), "a longer text of many words", f"text {index}"] for index in range(24)]
    _, teacher = embed(captions, batch_size=8)
    assert max(map(len, teacher.seen)) == 8
    assert len(teacher.seen) < 24
    for batch in teacher.seen:
        assert batch == sorted(batch, key=len)


def test_very_long_texts_are_shortened_for_the_teachers() -> None:
    (sample,), teacher = embed([["a red circle " * 10_000, "x" * 100_000]])
    assert np.isfinite(columns(sample)).all()
    assert sorted(map(len, teacher.seen[0])) == [500, 1 << 15]
