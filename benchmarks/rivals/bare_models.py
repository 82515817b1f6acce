"""The models of the whole job and nothing else: views and texts that are in memory already, batch after batch."""

from glob import glob
from multiprocessing import get_context

import torch
import webdataset
from own_job import make_job
from recipe import Recipe

from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.networks.device import pick_device, set_threads


def embed_part(recipe: Recipe, worker: int) -> None:
    """Every so manieth batch, as a worker of the job does it."""
    job = make_job(recipe)
    device = pick_device()
    set_threads(recipe.threads)
    ensemble = Ensemble([(card.name, load_teacher(card, device, job.plugin_dirs)) for card in job.teachers], device)
    samples = webdataset.WebDataset(sorted(glob(f"{recipe.shards}/*.tar")), shardshuffle=False).decode()
    texts = [(sample["txt"], *sample["syn.json"]["syn_text"]) for sample in samples]
    side, size = recipe.view_size, recipe.samples_per_batch
    views_BHWC = torch.randint(256, (size * recipe.num_views, side, side, 3), dtype=torch.uint8)
    recipe.loaded()
    for start in range(worker * size, len(texts), recipe.workers * size):
        batch = texts[start : start + size]
        ensemble.start_images(views_BHWC[: len(batch) * recipe.num_views]).finish()
        ensemble.start_texts([text for of_sample in batch for text in of_sample]).finish()


def main() -> None:
    recipe = Recipe.given()
    spawn = get_context("spawn")
    workers = [spawn.Process(target=embed_part, args=(recipe, worker)) for worker in range(recipe.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    recipe.stamp("done")


if __name__ == "__main__":
    main()
