"""Text embeddings of a chunk of samples: each distinct text once, in device batches."""

from collections import OrderedDict

import numpy as np

from dr_pipeline.models.ensemble import Ensemble

_REMEMBERED_TEXTS = 8192  # 50 MB at 1536 dims: a bound, so that memory does not grow with the shard

SampleTexts = tuple[np.ndarray, dict[str, np.ndarray]]
"""The embeddings of a sample's ground-truth caption [1, D], and of its synthetic captions [T, D] by key."""


class TextEmbedder:
    """Embeds texts through the ensemble and remembers the latest ones: alt-texts and captions repeat."""

    def __init__(self, ensemble: Ensemble, batch_size: int):
        self._ensemble = ensemble
        self._batch_size = batch_size
        self._remembered: OrderedDict[str, np.ndarray] = OrderedDict()

    def forget(self) -> None:
        """Start a shard afresh, so that its bytes do not depend on the shards before it."""
        self._remembered.clear()

    def embed_samples(self, captions: list[str], synthetic: list[dict[str, list[str]]]) -> list[SampleTexts]:
        """Ground-truth captions and synthetic captions by key, sample by sample → their embeddings."""
        texts = [*captions, *(text for by_key in synthetic for texts in by_key.values() for text in texts)]
        emb_D = self._embed(texts)
        return [
            (
                np.stack([emb_D[caption]]),
                {key: np.stack([emb_D[text] for text in texts]) for key, texts in by_key.items()},
            )
            for caption, by_key in zip(captions, synthetic, strict=True)
        ]

    def _embed(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Each text's embedding [D]."""
        known = {text: self._remembered[text] for text in texts if text in self._remembered}
        # By length, so that a batch pads little. Characters stand for tokens: each teacher has its own tokenizer.
        new = sorted(set(texts) - known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(new), self._batch_size):
            batch = new[start : start + self._batch_size]
            for text, emb_D in zip(batch, self._ensemble.embed_texts(batch).numpy(), strict=True):
                known[text] = self._remembered[text] = emb_D
        while len(self._remembered) > _REMEMBERED_TEXTS:
            self._remembered.popitem(last=False)
        return known
