"""What a view costs: from a 640 × 480 JPEG to 224 px by each resampler, against torchvision; and what `fast` changes.

    python benchmarks/view_cost.py [--quick]

CPU-ms per view, in one process with one thread, of 30 views of each photo by the paper's recipe. Both sides decode an
image once for its 30 views. Theirs is the straight composition, RandomResizedCrop → RandAugment → ToTensor → Normalize,
and a stack. Ours draws the views and stacks them as uint8; they are normalised on the device, which on the CPU is
measured as well. Then the demo's teachers see the same views by both resamplers: one minus the cosine of the two
embeddings, against what storing an embedding in bfloat16 does to it.
"""

import argparse
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import cpu_seconds, figure, paired
from photos import photo
from PIL import Image
from torch.nn.functional import cosine_similarity
from torchvision import transforms

from dr_pipeline.config.augmentation import Augmentation, Resampler
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.models.ensemble import Ensemble
from dr_pipeline.models.load import load_teacher
from dr_pipeline.networks.images import ImageSpec, prepare
from dr_pipeline.views.recipe import Recipe, draw
from dr_pipeline.views.render import decode, render

RECIPE = Augmentation()
SIZE = RECIPE.random_resized_crop.size
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RESAMPLERS: tuple[Resampler, ...] = ("pillow", "fast")
QUICKSTART = Path(__file__).parent.parent / "jobs" / "quickstart.yaml"

THEIRS = transforms.Compose(
    [
        transforms.RandomResizedCrop(
            SIZE,
            RECIPE.random_resized_crop.scale,
            RECIPE.random_resized_crop.ratio,
            transforms.InterpolationMode.BICUBIC,
        ),
        transforms.RandAugment(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)


def compose(jpegs: list[bytes]) -> None:
    """torchvision's views of each image: float32 [30, 3, 224, 224]."""
    for jpeg in jpegs:
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        torch.stack([THEIRS(image) for _ in range(RECIPE.num_views)])


def by(resampler: Resampler, recipe: Augmentation) -> Augmentation:
    """The recipe with another resampler."""
    crop = RECIPE.random_resized_crop.model_copy(update={"resampler": resampler})
    return recipe.model_copy(update={"random_resized_crop": crop})


def views_of(jpeg: bytes, key: str, resampler: Resampler, recipe: Augmentation = RECIPE) -> np.ndarray:
    """Our views of an image: uint8 [views, size, size, 3]."""
    image = decode(jpeg, max_pixels=10**9)
    drawn = draw(image.width, image.height, recipe, 0, key)
    return render(image, drawn, Recipe(by(resampler, recipe)))


def reinforce(jpegs: list[bytes], resampler: Resampler) -> None:
    for index, jpeg in enumerate(jpegs):
        views_of(jpeg, str(index), resampler)


def reinforce_normalised(jpegs: list[bytes], resampler: Resampler) -> None:
    for index, jpeg in enumerate(jpegs):
        prepare(torch.from_numpy(views_of(jpeg, str(index), resampler)), ImageSpec(SIZE, MEAN, STD))


def measure_cost(num_photos: int, rounds: int) -> None:
    jpegs = [photo(index)[0] for index in range(num_photos)]
    num_views = num_photos * RECIPE.num_views

    def ms_per_view(work: Callable[[list[bytes]], None]) -> Callable[[], float]:
        return lambda: 1e3 * cpu_seconds(lambda: work(jpegs)) / num_views

    for resampler in RESAMPLERS:
        for where, ours in (("", reinforce), (", normalised on the CPU too", reinforce_normalised)):
            found = paired(ms_per_view(partial(ours, resampler=resampler)), ms_per_view(compose), rounds)
            figure(f"CPU-ms per view, {resampler}{where} ÷ torchvision", *found)


def measure_embeddings(num_photos: int) -> None:
    """One minus the cosine, of each teacher, with the recipe's operations and with crops alone."""
    job = load(QUICKSTART, Job)
    cpu = torch.device("cpu")
    ensemble = Ensemble([(card.name, load_teacher(card, cpu)) for card in job.teachers], cpu, "float32")
    paper = RECIPE.model_copy(update={"num_views": 10})
    for label, recipe in (("RandAugment", paper), ("crop only", paper.model_copy(update={"rand_augment": None}))):
        pillow, fast = (
            [
                ensemble.embed_images(views_of(photo(index)[0], str(index), resampler, recipe))
                for index in range(num_photos)
            ]
            for resampler in RESAMPLERS
        )
        for name in ensemble.image_teachers:
            one, other = (
                torch.from_numpy(np.concatenate([columns[name] for columns in photos])).double()
                for photos in (pillow, fast)
            )
            apart = 1 - cosine_similarity(one, other)
            rounded = 1 - cosine_similarity(one, one.bfloat16().double())
            for statistic, of in (("mean", torch.mean), ("median", torch.median), ("worst", torch.max)):
                value, baseline = of(apart).item(), of(rounded).item()
                metric = f"1 - cosine, fast to pillow ÷ float32 to bfloat16, {label}, {name}, {statistic}"
                figure(metric, value, baseline, value / baseline)
            above = (apart > rounded.mean()).double().mean().item()
            figure(f"share of views further apart than bfloat16's mean, {label}, {name}", above)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a view costs, and what the fast resampler changes.")
    parser.add_argument("--quick", action="store_true", help="fewer photos and rounds: half a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    measure_cost(num_photos=2 if quick else 8, rounds=3 if quick else 7)
    measure_embeddings(num_photos=4 if quick else 40)


if __name__ == "__main__":
    main()
