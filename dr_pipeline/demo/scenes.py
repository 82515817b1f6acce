"""The embedded default's data: captioned scenes, a pure function of (seed, index), written as tar shards.

A scene has one main object, clearly the largest, up to three tiny ones and a background; it looks a little like a
photograph. Its alt text is as bad as the web's (`grammar.ALT_KIND_WEIGHTS`).

Seeds: data sets use seeds below 1,000,000; the demo's teachers were trained on TEACHER_SEED and are measured on
HELD_OUT_SEED.

    python -m dr_pipeline.demo.scenes FOLDER [--shards 4] [--samples 64] [--seed 0]
"""

import argparse
import hashlib
import io
import json
import os
import tarfile
from dataclasses import asdict, dataclass

from PIL import Image

from dr_pipeline.demo import grammar
from dr_pipeline.demo.grammar import Thing, Truth, pick
from dr_pipeline.demo.painting import encode_jpeg, paint
from dr_pipeline.storage import Storage
from dr_pipeline.views.seeding import Stream
from dr_pipeline.words import plural

TEACHER_SEED = 1_000_000
HELD_OUT_SEED = 2_000_000
MAIN_RADII = {"small": (0.17, 0.21), "medium": (0.25, 0.30), "large": (0.34, 0.40)}
OTHER_RADII = (0.06, 0.09)


@dataclass(frozen=True)
class Scene:
    """One captioned scene. `captions` and `short_captions` are true; `alt_text` is what the web would say."""

    uid: str
    image: Image.Image
    jpeg: bytes
    truth: Truth
    captions: tuple[str, ...]
    short_captions: tuple[str, ...]
    alt_text: str
    alt_kind: str


def draw_scene(seed: int, index: int) -> Scene:
    """Scene `index` of data set `seed`: an RGB image of 96–320 px a side, as decoded from `jpeg`, and its texts."""
    stream = Stream(seed, "scene", index)
    truth = draw_truth(stream)
    side, stretch = stream.uniform(118, 261), 1.5 ** (stream.uniform(-0.5, 0.5))
    width, height = round(side * stretch), round(side / stretch)  # aspect ratios between about 2:3 and 3:2
    jpeg = encode_jpeg(paint(truth, width, height, stream), quality=45 + stream.integer(50))
    alt_kind, alt_text = grammar.draw_alt_text(truth, stream)
    uid = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=16).hexdigest()
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    return Scene(
        uid, image, jpeg, truth, grammar.true_captions(truth), grammar.short_captions(truth), alt_text, alt_kind
    )


def draw_truth(stream: Stream) -> Truth:
    """What the scene shows. The main object lies whole within the image's centre square."""
    size = pick(stream, grammar.SIZES)
    radius = stream.uniform(*MAIN_RADII[size])
    column, row = stream.integer(3), stream.integer(3)
    reach = min(0.26, 0.48 - radius)
    x, y = ((cell - 1) * reach * stream.uniform(0.75, 1.0) for cell in (column, row))
    main = Thing(
        shape=pick(stream, grammar.SHAPES),
        colour=pick(stream, grammar.COLOURS),
        texture=pick(stream, grammar.TEXTURES),
        size=size,
        radius=radius,
        x=x,
        y=y,
    )
    position = f"{grammar.ROWS[row]} {grammar.COLUMNS[column]}".strip() or "centre"
    return Truth(
        main=main,
        position=position,
        others=_draw_others(main, stream),
        surface=pick(stream, grammar.SURFACES),
        background=pick(stream, grammar.BACKGROUNDS),
    )


def _draw_others(main: Thing, stream: Stream) -> tuple[Thing, ...]:
    """Up to three tiny objects, clear of one another and of the main one; one that finds no room is left out."""
    things = [main]
    for _ in range(stream.integer(4)):
        radius = stream.uniform(*OTHER_RADII)
        shape, colour = pick(stream, grammar.SHAPES), pick(stream, grammar.COLOURS)
        for _ in range(8):
            x, y = stream.uniform(-0.4, 0.4), stream.uniform(-0.4, 0.4)
            if all((x - o.x) ** 2 + (y - o.y) ** 2 > (1.15 * (radius + o.radius)) ** 2 for o in things):
                things.append(Thing(shape, colour, "plain", "tiny", radius, x, y))
                break
    return tuple(things[1:])


def write_scenes(folder: str | os.PathLike[str], num_shards: int, samples_per_shard: int, seed: int) -> list[str]:
    """Write tar shards 00000.tar, 00001.tar, … into a folder or below a URL, and return their names.

    Each sample is key.jpg, key.txt (the alt text) and key.json (uid, alt_kind, shape, colour and, under "scene", the
    truth with its captions). The bytes depend on the arguments alone; a shard appears whole or not at all.
    """
    uris = [f"{os.fspath(folder).rstrip('/')}/{shard:05d}.tar" for shard in range(num_shards)]
    for shard, uri in enumerate(uris):
        _write_shard(uri, range(shard * samples_per_shard, (shard + 1) * samples_per_shard), seed)
    return uris


def _write_shard(uri: str, indices: range, seed: int) -> None:
    with (
        Storage().staged(uri) as temporary,
        tarfile.open(temporary, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for index in indices:
            for name, content in _members(draw_scene(seed, index), f"{index:09d}"):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _members(scene: Scene, key: str) -> list[tuple[str, bytes]]:
    record = {
        "uid": scene.uid,
        "alt_kind": scene.alt_kind,
        "shape": scene.truth.main.shape,
        "colour": scene.truth.main.colour,
        "scene": {**asdict(scene.truth), "captions": scene.captions},
    }
    return [
        (f"{key}.jpg", scene.jpeg),
        (f"{key}.txt", scene.alt_text.encode()),
        (f"{key}.json", json.dumps(record, sort_keys=True).encode()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write tar shards of generated captioned scenes.")
    parser.add_argument("folder", help="or a URL, such as s3://bucket/scenes")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--samples", type=int, default=64, help="samples per shard")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    uris = write_scenes(arguments.folder, arguments.shards, arguments.samples, arguments.seed)
    print(f"{plural(len(uris), 'shard')} of {plural(arguments.samples, 'scene')} in {arguments.folder}")


if __name__ == "__main__":
    main()
