"""The demo's evaluation sets: clean scenes that no training has seen, in CLIP_benchmark's webdataset layout.

    python -m dr_pipeline.demo.held_out FOLDER [--scenes 400]

writes FOLDER/classification (the main object's colour and shape, 64 classes) and FOLDER/retrieval (each scene with a
true caption that no other of them has).
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import count, islice

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import write_samples
from dr_pipeline.demo.grammar import COLOURS, SHAPES
from dr_pipeline.demo.scenes import HELD_OUT_SEED, Scene, draw_scene
from dr_pipeline.storage import Storage

CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
PROMPTS = ("a {}", "a photo of a {}", "a medium plain {} in the centre of a smooth grey background")
_SCENES_PER_TAR = 200


def write_held_out(folder: str | os.PathLike[str], num_scenes: int) -> None:
    """Write both sets; the bytes depend on the number of scenes alone."""
    scenes = list(islice(_distinct_scenes(), num_scenes))
    labels = [str(CLASSES.index(scene.truth.main.name)) for scene in scenes]
    templates = [prompt.replace("{}", "{c}") for prompt in PROMPTS]
    names = {"classnames.txt": CLASSES, "zeroshot_classification_templates.txt": templates}
    _write_set(f"{folder}/classification", scenes, "cls", labels, names)
    captions = [scene.captions[0] for scene in scenes]
    _write_set(f"{folder}/retrieval", scenes, "txt", captions, {"dataset_type.txt": ["retrieval"]})


def _distinct_scenes() -> Iterator[Scene]:
    """Scenes of no training set, each described by its first caption alone."""
    seen = set()
    for index in count():
        scene = draw_scene(HELD_OUT_SEED, index)
        if scene.captions[0] not in seen:
            seen.add(scene.captions[0])
            yield scene


def _write_set(folder: str, scenes: list[Scene], ext: str, texts: list[str], lists: dict[str, Sequence[str]]) -> None:
    """One set: its split's tars and their number, and `lists` beside, one entry a line."""
    storage = Storage()
    starts = range(0, len(scenes), _SCENES_PER_TAR)
    for number, start in enumerate(starts):
        samples = [
            Sample(f"{index:06d}", {"jpg": scenes[index].jpeg, ext: texts[index].encode()})
            for index in range(start, min(start + _SCENES_PER_TAR, len(scenes)))
        ]
        with storage.staged(f"{folder}/test/{number}.tar") as path:
            write_samples(path, samples)
    for name, lines in {**lists, "test/nshards.txt": [str(len(starts))]}.items():
        storage.write(f"{folder}/{name}", "\n".join(lines).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's evaluation sets.")
    parser.add_argument("folder")
    parser.add_argument("--scenes", type=int, default=400)
    arguments = parser.parse_args()
    write_held_out(arguments.folder, arguments.scenes)
    print(f"{arguments.scenes} scenes in {arguments.folder}/classification and {arguments.folder}/retrieval")


if __name__ == "__main__":
    main()
