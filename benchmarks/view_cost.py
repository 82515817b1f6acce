"""What a view costs: from a 640 × 480 JPEG to 224 px, against torchvision.

    python benchmarks/view_cost.py [--quick]

CPU-ms per view, in one process with one thread, of 30 views of each photo by the paper's recipe. Both sides decode an
image once for its 30 views. Theirs is the straight composition, RandomResizedCrop → RandAugment → ToTensor → Normalize,
and a stack. Ours draws the views and stacks them as uint8; they are normalised on the device, which on the CPU is
measured as well.
"""

import argparse
import io
from collections.abc import Callable

import numpy as np
import torch
from measure import cpu_seconds, figure, paired
from photos import photo
from PIL import Image
from torchvision import transforms

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.networks.images import ImageSpec, prepare
from dr_pipeline.views.recipe import Recipe, draw
from dr_pipeline.views.render import decode, render

RECIPE = Augmentation()
DRAWN = Recipe(RECIPE)
SIZE = RECIPE.random_resized_crop.size
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

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


def views_of(jpeg: bytes, key: str) -> np.ndarray:
    """Our views of an image: uint8 [views, size, size, 3]."""
    image = decode(jpeg, max_pixels=10**9)
    return render(image, draw(image.width, image.height, DRAWN, RECIPE.num_views, 0, key), DRAWN)


def reinforce(jpegs: list[bytes]) -> None:
    for index, jpeg in enumerate(jpegs):
        views_of(jpeg, str(index))


def reinforce_normalised(jpegs: list[bytes]) -> None:
    for index, jpeg in enumerate(jpegs):
        prepare(torch.from_numpy(views_of(jpeg, str(index))), ImageSpec(SIZE, MEAN, STD))


def measure_cost(num_photos: int, rounds: int) -> None:
    jpegs = [photo(index)[0] for index in range(num_photos)]
    num_views = num_photos * RECIPE.num_views

    def ms_per_view(work: Callable[[list[bytes]], None]) -> Callable[[], float]:
        return lambda: 1e3 * cpu_seconds(lambda: work(jpegs)) / num_views

    for what, ours in (("ours", reinforce), ("ours, normalised on the CPU too", reinforce_normalised)):
        figure(f"CPU-ms per view, {what} ÷ torchvision", *paired(ms_per_view(ours), ms_per_view(compose), rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a view costs.")
    parser.add_argument("--quick", action="store_true", help="fewer photos and rounds: half a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    measure_cost(num_photos=2 if quick else 8, rounds=3 if quick else 7)


if __name__ == "__main__":
    main()
