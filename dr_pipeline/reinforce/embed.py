"""The device's work on a shard's chunks: caption, embed the views, embed the texts."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dr_pipeline.models.ensemble import Ensemble, PendingColumns
from dr_pipeline.networks.device import set_threads
from dr_pipeline.networks.tokenizer import truncate_text
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.reinforce.chunk import Chunk
from dr_pipeline.reinforce.device_batch import DeviceBatches
from dr_pipeline.reinforce.stats import ShardStats

_REMEMBERED_TEXTS = 1024  # 6 MB at 1536 dims: a bound, so that memory does not grow with the shard
_LONGEST_REMEMBERED = 1000  # characters; longer ones do not repeat


class Embedder:
    """Runs the models on chunks. One shard at a time has the device, from its first chunk to its last."""

    def __init__(self, captions: CaptionStage, ensemble: Ensemble, view_batch: int, num_threads: int):
        self._captions = captions
        self._ensemble = ensemble
        self._texts = TextEmbedder(ensemble, view_batch)
        self._views = DeviceBatches("views", view_batch)
        self._num_threads = num_threads
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the device and keep it for one shard; the calling thread launches all of that shard's work."""
        with self._turn:
            set_threads(self._num_threads)  # torch keeps the number for each calling thread
            self._texts.forget()
            yield

    def start(self, chunk: Chunk, stats: ShardStats) -> Chunk:
        """Caption a chunk, then start to embed its views and texts; `Chunk.finish` waits for the embeddings.

        Raises ShardError, naming the keys, where a model breaks its contract.
        """
        if not chunk.kept:
            return chunk
        with chunk.named_in_errors():
            with stats.stage("caption"):
                self._captions.caption(chunk)
            with stats.stage("embed_images"):
                chunk.pending_views = self._views.run(self._ensemble.start_images, chunk.views_BHWC)
            with stats.stage("embed_texts"):
                texts = [sample.caption for sample in chunk.kept]
                texts += [text for sample in chunk.kept for captions in sample.synthetic.values() for text in captions]
                chunk.pending_texts = self._texts.start(texts)
        return chunk


class TextEmbedder:
    """Embeds each distinct text once, and remembers the latest ones: alt-texts and captions repeat."""

    def __init__(self, ensemble: Ensemble, batch_size: int):
        self._ensemble = ensemble
        self._batches = DeviceBatches("texts", batch_size)
        self._remembered: OrderedDict[str, tuple[PendingColumns, int]] = OrderedDict()

    def forget(self) -> None:
        """Forget all texts: a shard's bytes must not depend on the shards before it."""
        self._remembered.clear()

    def start(self, texts: Sequence[str]) -> dict[str, tuple[PendingColumns, int]]:
        """Start to embed the texts that are not remembered → each text's batch, and its row there."""

        def embed(batch: list[str]) -> tuple[list[str], PendingColumns]:
            return batch, self._ensemble.start_texts(self._ensemble.tokenize([truncate_text(text) for text in batch]))

        rows = {text: self._remembered[text] for text in texts if text in self._remembered}
        # By length, so that a batch pads little. Characters stand for tokens: each teacher has its own tokenizer.
        new = sorted(set(texts) - rows.keys(), key=lambda text: (len(text), text))
        for batch, pending in self._batches.run(embed, new):
            rows |= {text: (pending, row) for row, text in enumerate(batch)}
            self._remembered.update({text: rows[text] for text in batch if len(text) <= _LONGEST_REMEMBERED})
        while len(self._remembered) > _REMEMBERED_TEXTS:
            self._remembered.popitem(last=False)
        return rows
