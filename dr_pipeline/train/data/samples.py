"""The endless examples of one loading process: every sample of its stream that can be used, epoch after epoch."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import SampleSkipped, ShardError
from dr_pipeline.train.data.dataset import Dataset
from dr_pipeline.train.data.examples import Example, ExampleMaker
from dr_pipeline.train.data.order import StreamId
from dr_pipeline.train.data.skips import Skips
from dr_pipeline.train.data.stream import Block, Position, ShardStream


class SampleStream:
    """Examples, and the books of what was passed over between them."""

    def __init__(self, job: TrainJob, dataset: Dataset, image_size: int, stream: StreamId):
        self._shards = ShardStream(job, dataset.uris, stream)
        self._maker = ExampleMaker(job, dataset, image_size)
        self._stream = stream
        self._skips = Skips(job.data.max_skipped)
        self._skipped: Counter[str] = Counter()

    def examples(self, position: Position) -> Iterator[tuple[Example, Position]]:
        """The examples from a position on, each with the position behind it. Raises ShardError."""
        while True:
            num_examples = 0
            from_its_beginning = position == Position(position.epoch)
            for block in self._shards.blocks(position):
                for item in self._of_block(block, position.used):
                    num_examples += 1
                    yield item
                position = replace(position, used=0)
            if from_its_beginning and not num_examples:
                raise ShardError(self._nothing())
            position = Position(position.epoch + 1)

    def take_skipped(self) -> dict[str, int]:
        """Reason → samples passed over since the last call."""
        taken = dict(self._skipped)
        self._skipped.clear()
        return taken

    def _of_block(self, block: Block, used: int) -> Iterator[tuple[Example, Position]]:
        ended = [(raw.uri, raw.num_samples) for raw in block.samples if raw.num_samples is not None]
        for _ in range(used):
            block.samples.popleft()
        while block.samples:
            raw = block.samples.popleft()
            used += 1
            try:
                example = self._maker.make(raw, block.start.epoch)
            except SampleSkipped as skip:
                self._skipped[skip.reason] += 1
                self._skips.skipped(raw.uri, raw.sample.key, skip)
            else:
                self._skips.used(raw.uri)
                yield example, replace(block.start, used=used)
        for uri, num_samples in ended:
            self._skips.finished(uri, num_samples)

    def _nothing(self) -> str:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in self._skipped.items())
        if reasons:
            return f"data.shards: a whole epoch has no usable sample: {reasons}"
        return (
            f"data.shards: stream {self._stream.index} of {self._stream.count} (ranks × data.workers) has no sample in "
            "a whole epoch: set fewer data.workers"
        )
