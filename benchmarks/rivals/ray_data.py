"""The whole job with Ray Data: its reader and writer of webdatasets, and a pool of actors between them."""

from glob import glob
from typing import Any

import ray
import ray.data
from recipe import Recipe
from reinforcer import Reinforcer


class Stage:
    """Rendering in the models' actors: on cores that both share, tasks of its own would only copy pixels."""

    def __init__(self, recipe: Recipe):
        self._reinforcer = Reinforcer(recipe)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, **self._reinforcer.reinforce(batch["jpg"], batch["txt"], batch["syn.json"])}


def main() -> None:
    recipe = Recipe.given()
    ray.init(num_cpus=recipe.workers * recipe.threads, include_dashboard=False)
    samples = ray.data.read_webdataset(sorted(glob(f"{recipe.shards}/*.tar")), decoder=None, num_cpus=0.25)
    reinforced = samples.map_batches(
        Stage,
        fn_constructor_args=(recipe,),
        batch_size=recipe.samples_per_batch,
        compute=ray.data.ActorPoolStrategy(size=recipe.workers),
        num_cpus=0.75 * recipe.threads,  # the rest is the readers' and writers'
    )
    reinforced.write_webdataset(recipe.output, encoder=None)
    recipe.stamp("done")


if __name__ == "__main__":
    main()
