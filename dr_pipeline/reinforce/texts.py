"""Text embeddings of a chunk of samples: each distinct text once, in device batches."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from dr_pipeline.models.ensemble import Ensemble, Started
from dr_pipeline.networks.tokenizer import truncate_text
from dr_pipeline.reinforce.device_batch import DeviceBatches

_REMEMBERED_TEXTS = 1024  # 6 MB at 1536 dims: a bound, so that memory does not grow with the shard
_LONGEST_REMEMBERED = 1000  # characters; longer ones do not repeat


class StartedTexts:
    """Texts whose embeddings the device has been told to compute."""

    def __init__(self, rows: dict[str, tuple[Started, int]] | None = None):
        """`rows`: the batch that each text is in, and its row there."""
        self._rows = rows or {}

    def embeddings(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Wait for the device → each teacher's embeddings of these texts, float32 [T, dim].

        Raises ModelError on bad vectors.
        """
        found = [(batch.finish(), row) for batch, row in map(self._rows.__getitem__, texts)]
        teachers = found[0][0] if found else {}
        return {teacher: np.stack([batch[teacher][row] for batch, row in found]) for teacher in teachers}


class TextEmbedder:
    """Embeds texts through the ensemble and remembers the latest ones: alt-texts and captions repeat."""

    def __init__(self, ensemble: Ensemble, batch_size: int):
        self._ensemble = ensemble
        self._batches = DeviceBatches("texts", batch_size)
        self._remembered: OrderedDict[str, tuple[Started, int]] = OrderedDict()

    def forget(self) -> None:
        """Start a shard afresh, so that its bytes do not depend on the shards before it."""
        self._remembered.clear()

    def start(self, texts: Sequence[str]) -> StartedTexts:
        """Start to embed those of the texts that are not remembered."""
        known = {text: self._remembered[text] for text in texts if text in self._remembered}
        # By length, so that a batch pads little. Characters stand for tokens: each teacher has its own tokenizer.
        new = sorted(set(texts) - known.keys(), key=lambda text: (len(text), text))
        for batch, started in self._batches.run(lambda part: (part, self._start(part)), new):
            for row, text in enumerate(batch):
                known[text] = (started, row)
                if len(text) <= _LONGEST_REMEMBERED:
                    self._remembered[text] = known[text]
        while len(self._remembered) > _REMEMBERED_TEXTS:
            self._remembered.popitem(last=False)
        return StartedTexts(known)

    def _start(self, texts: Sequence[str]) -> Started:
        return self._ensemble.start_texts([truncate_text(text) for text in texts])
