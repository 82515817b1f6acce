"""Caption and embed: what the device does with a chunk of samples."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.networks.device import set_threads
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.reinforce.chunk import Chunk
from dr_pipeline.reinforce.device_batch import DeviceBatches
from dr_pipeline.reinforce.stats import ShardStats
from dr_pipeline.reinforce.texts import TextEmbedder


class Embedder:
    """The models at work. Shards take turns on the device: one has it from its first chunk to its last."""

    def __init__(self, captions: CaptionStage, ensemble: Ensemble, view_batch: int, num_threads: int):
        self._captions = captions
        self._ensemble = ensemble
        self._texts = TextEmbedder(ensemble, view_batch)
        self._views = DeviceBatches("views", view_batch)
        self._num_threads = num_threads
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the device for one shard, on the calling thread."""
        with self._turn:
            set_threads(self._num_threads)  # torch counts them for each thread that calls it
            self._texts.forget()
            yield

    def start(self, chunk: Chunk, stats: ShardStats) -> Chunk:
        """Caption a chunk, then start to embed its views and texts: `Chunk.finish` waits for the device.

        Raises ShardError, naming the keys, where a model breaks its contract.
        """
        if not chunk.kept:
            return chunk
        with chunk.named_in_errors():
            with stats.stage("caption"):
                self._captions.caption(chunk)
            with stats.stage("embed_images"):
                chunk.started_views = self._views.run(self._ensemble.start_images, chunk.views_BHWC)
            with stats.stage("embed_texts"):
                texts = [sample.caption for sample in chunk.kept]
                texts += [text for sample in chunk.kept for captions in sample.synthetic.values() for text in captions]
                chunk.started_texts = self._texts.start(texts)
        return chunk
