"""The whole job with Daft: a generator that reads tars, a class that holds the models, a sink that writes tars."""

import os
import uuid
from collections.abc import Iterator
from glob import glob

import daft
import webdataset
from daft import DataType, Series
from daft.io import DataSink
from daft.io.sink import WriteResult
from daft.recordbatch import MicroPartition
from daft.schema import Schema
from recipe import Recipe
from reinforcer import Reinforcer

RECIPE = Recipe.given()
READ = ("jpg", "txt", "syn.json")
MADE = ("paug.json", "pth")


def struct(*members: str) -> DataType:
    return DataType.struct({member: DataType.binary() for member in members})


@daft.func(return_dtype=struct("key", *READ), unnest=True)
def read(path: str) -> Iterator[dict[str, bytes]]:
    for sample in webdataset.WebDataset(path, shardshuffle=False):
        yield {"key": sample["__key__"].encode(), **{member: sample[member] for member in READ}}


@daft.cls(max_concurrency=RECIPE.workers)
class Stage:
    """Rendering beside the models, like in the program for Ray Data."""

    def __init__(self, recipe: Recipe):
        self._reinforcer = Reinforcer(recipe)

    @daft.method.batch(return_dtype=struct(*MADE), unnest=True, batch_size=RECIPE.samples_per_batch)
    def reinforce(self, jpg: Series, txt: Series, syn: Series) -> list[dict[str, bytes]]:
        made = self._reinforcer.reinforce(jpg.to_pylist(), txt.to_pylist(), syn.to_pylist())
        return [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]


class TarSink(DataSink[str]):
    """A tar for every partition that Daft hands over."""

    def schema(self) -> Schema:
        return Schema._from_field_name_and_types([("path", DataType.string())])

    def write(self, micropartitions: Iterator[MicroPartition]) -> Iterator[WriteResult[str]]:
        path = f"{RECIPE.output}/{uuid.uuid4().hex}.tar"
        rows = [row for part in micropartitions for row in part.to_arrow().to_pylist()]
        with webdataset.TarWriter(path) as tar:
            for row in rows:
                tar.write({"__key__": row["key"].decode(), **{member: row[member] for member in (*READ, *MADE)}})
        yield WriteResult(result=path, bytes_written=os.path.getsize(path), rows_written=len(rows))

    def finalize(self, write_results: list[WriteResult[str]]) -> MicroPartition:
        return MicroPartition.from_pydict({"path": [written.result for written in write_results]})


def main() -> None:
    paths = daft.from_pydict({"path": sorted(glob(f"{RECIPE.shards}/*.tar"))})
    samples = paths.select(read(paths["path"]))
    columns = [samples[member] for member in READ]
    samples.select(samples["key"], *columns, Stage(RECIPE).reinforce(*columns)).write_sink(TarSink())
    RECIPE.stamp("done")


if __name__ == "__main__":
    main()
