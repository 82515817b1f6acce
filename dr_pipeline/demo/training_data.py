"""The teachers' training set: scenes rendered once to one array on disk, and random crops of them."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from dr_pipeline.demo.grammar import short_captions, true_attributes, true_captions
from dr_pipeline.demo.scenes import TEACHER_SEED, draw_scene, draw_truth
from dr_pipeline.views.seeding import Stream

SIDE = 128
CHUNK = 500


class SceneArrays:
    """N scenes squashed to uint8 [N, SIDE, SIDE, 3], their aspect ratios, captions and attributes, in a folder."""

    def __init__(self, folder: Path):
        self.images_NHWC = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        self.aspects_N = np.load(folder / "aspects.npy", allow_pickle=False)
        truths = [draw_truth(Stream(TEACHER_SEED, "scene", index)) for index in range(len(self.images_NHWC))]
        self.captions = [[*true_captions(truth), *short_captions(truth)] for truth in truths]
        self.attributes_NA = np.array([true_attributes(truth) for truth in truths])

    def crops(self, indices_B: np.ndarray, size: int, smallest: float, rng: np.random.Generator) -> np.ndarray:
        """Crops of uint8 [B, size, size, 3]: half of them the centre square, the others random resized crops.

        The area of a random crop is `smallest`–1 of the image's, its ratio 3/4–4/3.
        """
        boxes = [self._box(self.aspects_N[index], smallest, rng) for index in indices_B]
        images = [Image.fromarray(self.images_NHWC[index]) for index in indices_B]
        resized = [
            im.resize((size, size), Image.Resampling.BICUBIC, box) for im, box in zip(images, boxes, strict=True)
        ]
        return np.stack([np.asarray(image) for image in resized])

    @staticmethod
    def _box(aspect: float, smallest: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """A crop's left, top, right, bottom in the squashed image."""
        if rng.random() < 1 / 2:
            width, height = min(1.0, 1 / aspect), min(1.0, aspect)
            left, top = (1 - width) / 2, (1 - height) / 2
        else:
            area, ratio = rng.uniform(smallest, 1), (4 / 3) ** rng.uniform(-1, 1)
            width, height = min(1.0, (area * ratio / aspect) ** 0.5), min(1.0, (area * aspect / ratio) ** 0.5)
            left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        return SIDE * left, SIDE * top, SIDE * (left + width), SIDE * (top + height)


def render_scenes(folder: Path, count: int, processes: int = 2) -> None:
    """Render scenes 0 … count - 1 of TEACHER_SEED into `folder`, in the form that SceneArrays reads."""
    images_NHWC = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    aspects: list[float] = []
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for chunk, (images, chunk_aspects) in zip(chunks, pool.map(_render_chunk, chunks), strict=True):
            images_NHWC[chunk.start : chunk.stop] = images
            aspects += chunk_aspects
    images_NHWC.flush()
    np.save(folder / "aspects.npy", np.asarray(aspects))


def _render_chunk(indices: range) -> tuple[np.ndarray, list[float]]:
    scenes = [draw_scene(TEACHER_SEED, index) for index in indices]
    images = [np.asarray(scene.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for scene in scenes]
    return np.stack(images), [scene.image.width / scene.image.height for scene in scenes]
