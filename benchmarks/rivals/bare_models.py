"""The models of the whole job and nothing else: views and texts that are in memory already, batch after batch."""

from concurrent.futures import ThreadPoolExecutor
from glob import glob
from multiprocessing import get_context

import torch
import webdataset
from own_job import make_job
from recipe import Recipe

from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.precision import load_ensemble
from dr_pipeline.networks.device import pick_device, set_threads


def work(recipe: Recipe, worker: int) -> None:
    """One of the processes, which know nothing of each other."""
    job, device = make_job(recipe), pick_device()
    set_threads(recipe.threads)
    ensemble, _ = load_ensemble(job.teachers, device, job.workers.precision, job.plugin_dirs)
    samples = webdataset.WebDataset(sorted(glob(f"{recipe.shards}/*.tar")), shardshuffle=False).decode()
    texts = [[sample["txt"], *sample["syn.json"]["syn_text"]] for sample in samples]
    size = recipe.samples_per_batch
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    # Not on the main thread, as in the job: elsewhere malloc keeps more memory, and saves some 3 % in page faults.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(embed, recipe, ensemble, batches[worker :: recipe.workers]).result()


def embed(recipe: Recipe, ensemble: Ensemble, batches: list[list[list[str]]]) -> None:
    """As many views and texts as the job has."""
    set_threads(recipe.threads)
    shape = (recipe.samples_per_batch * recipe.num_views, recipe.view_size, recipe.view_size, 3)
    views_BHWC = torch.randint(256, shape, dtype=torch.uint8)
    recipe.loaded()
    for batch in batches:
        ensemble.start_images(views_BHWC[: len(batch) * recipe.num_views]).finish()
        ensemble.embed_texts([text for of_sample in batch for text in of_sample])
    recipe.stamp("done")


def main() -> None:
    recipe = Recipe.given()
    spawn = get_context("spawn")
    processes = [spawn.Process(target=work, args=(recipe, worker)) for worker in range(recipe.workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


if __name__ == "__main__":
    main()
