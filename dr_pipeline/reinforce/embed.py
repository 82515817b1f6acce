"""Caption and embed: what the device does with a chunk of samples."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from dr_pipeline.dataset.sample import Reinforcement, Sample
from dr_pipeline.errors import ModelError, ShardError
from dr_pipeline.models.ensemble import Ensemble, Started
from dr_pipeline.networks.device import set_threads
from dr_pipeline.reinforce.batches import Batches
from dr_pipeline.reinforce.captions import Captions
from dr_pipeline.reinforce.chunk import Chunk
from dr_pipeline.reinforce.prepare import Skipped
from dr_pipeline.reinforce.tally import Tally
from dr_pipeline.reinforce.texts import StartedTexts, TextEmbedder


@dataclass(frozen=True)
class Embedded:
    """A chunk whose embeddings the device has been told to compute."""

    chunk: Chunk
    synthetic: list[dict[str, list[str]]]
    """Each sample's captions by `syn.json` key."""
    views: list[Started]
    texts: StartedTexts

    def finish(self) -> list[tuple[Sample, Reinforcement] | Skipped]:
        """Wait for the device → its samples in order. Raises ShardError, with the keys, on bad vectors."""
        made = iter(self._reinforcements())
        return [
            outcome if isinstance(outcome, Skipped) else (outcome.sample, next(made)) for outcome in self.chunk.outcomes
        ]

    def _reinforcements(self) -> list[Reinforcement]:
        if not self.chunk.drawn:
            return []
        with _naming(self.chunk):
            image_emb = np.concatenate([np.concatenate([*batch.finish().values()], axis=1) for batch in self.views])
            image_emb_SND = image_emb.reshape(len(self.chunk.drawn), -1, image_emb.shape[-1])
            return [self._reinforcement(index, emb_ND) for index, emb_ND in enumerate(image_emb_SND)]

    def _reinforcement(self, index: int, image_emb_ND: np.ndarray) -> Reinforcement:
        sample, views = self.chunk.drawn[index]
        synthetic = self.synthetic[index]
        return Reinforcement(
            views=views,
            synthetic=synthetic,
            image_emb_ND=image_emb_ND,
            text_emb_TD=self.texts.embeddings([sample.caption]),
            synthetic_emb_TD={key: self.texts.embeddings(captions) for key, captions in synthetic.items()},
        )


class Embedder:
    """The models at work. Shards take turns on the device: one has it from its first chunk to its last."""

    def __init__(self, captions: Captions, ensemble: Ensemble, view_batch: int, num_threads: int):
        self._captions = captions
        self._ensemble = ensemble
        self._texts = TextEmbedder(ensemble, view_batch)
        self._views = Batches("views", view_batch)
        self._num_threads = num_threads
        self._turn = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the device for one shard, on the calling thread."""
        with self._turn:
            set_threads(self._num_threads)  # torch counts them for each thread that calls it
            self._texts.forget()
            yield

    def embed(self, chunk: Chunk, tally: Tally) -> Embedded:
        """Caption a chunk, then embed its views and texts; returns before a GPU has finished the latter.

        Raises ShardError, naming the keys, where a model breaks its contract.
        """
        if not chunk.drawn:
            return Embedded(chunk, [], [], StartedTexts({}))
        with _naming(chunk):
            with tally.stage("caption"):
                synthetic = self._captions.caption(chunk)
            with tally.stage("embed_images"):
                views = self._views.run(self._ensemble.start_images, chunk.views_BHWC)
            with tally.stage("embed_texts"):
                captions = [sample.caption for sample, _ in chunk.drawn]
                generated = [text for by_key in synthetic for texts in by_key.values() for text in texts]
                texts = self._texts.start([*captions, *generated])
        return Embedded(chunk, synthetic, views, texts)


@contextmanager
def _naming(chunk: Chunk) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise ShardError(f"{error} (samples {chunk.keys})") from error
