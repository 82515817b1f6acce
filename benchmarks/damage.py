"""What `views.damage` finds of JPEGs that lost pixels though Pillow decodes them, and what it costs.

    python benchmarks/damage.py [--quick] [FOLDER …]

Photos of 640 × 480 px, in six forms of JPEG, are damaged in the ways that disks and downloads have. Counted are the
files that Pillow decodes with more than 5 % of the pixels changed by more than 24 levels: how many of these are found.
Every undamaged file, and every JPEG in the folders, must pass; those that do not are named.
"""

import argparse
import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import cpu_seconds, figure, paired
from photos import photo
from PIL import Image

from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.damage import find_damage
from dr_pipeline.views.render import decode

FORMS = {
    "baseline": {},
    "optimised": {"optimize": True},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "low quality": {"quality": 40},
    "restart markers": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
}
LARGE = 10**9
END = b"\xff\xd9"
Damage = Callable[[bytes, int, random.Random], bytes]
"""A JPEG, where its coded pixels begin, and chance → the damaged JPEG."""


def cut(jpeg: bytes, start: int, rng: random.Random) -> bytes:
    """The first part of it, closed by an end mark."""
    return jpeg[: start + int((len(jpeg) - start) * rng.uniform(0.05, 0.95))] + END


def zeros_to_end(jpeg: bytes, start: int, rng: random.Random) -> bytes:
    """A download of which the file system kept the size."""
    part = cut(jpeg, start, rng)[:-2]
    return part + bytes(len(jpeg) - len(part) - 2) + END


def hole(content: Callable[[int, random.Random], bytes], *sizes: int) -> Damage:
    """Some bytes of the coded pixels replaced."""

    def damage(jpeg: bytes, start: int, rng: random.Random) -> bytes:
        size = rng.choice(sizes)
        place = rng.randrange(start, len(jpeg) - 2 - size)
        return jpeg[:place] + content(size, rng) + jpeg[place + size :]

    return damage


def flipped_bit(jpeg: bytes, start: int, rng: random.Random) -> bytes:
    """One bit of the coded pixels."""
    place = rng.randrange(start, len(jpeg) - 2)
    return jpeg[:place] + bytes([jpeg[place] ^ 1 << rng.randrange(8)]) + jpeg[place + 1 :]


DAMAGES: dict[str, Damage] = {
    "cut, with an end mark": cut,
    "zeros to its end": zeros_to_end,
    "a hole of 64 to 4096 zeros": hole(lambda size, _: bytes(size), 64, 512, 4096),
    "a hole of 16 zeros": hole(lambda size, _: bytes(size), 16),
    "a hole of 16 to 4096 bytes 0xFF": hole(lambda size, _: b"\xff" * size, 16, 512, 4096),
    "16 to 4096 other bytes": hole(lambda size, rng: rng.randbytes(size), 16, 512, 4096),
    "16 to 4096 bytes left out": hole(lambda size, _: b"", 16, 512, 4096),
    "a flipped bit": flipped_bit,
}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="undamaged JPEGs")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    num_photos, num_tries = (1, 3) if options.quick else (16, 8)
    photos = [Image.open(io.BytesIO(photo(index)[0])) for index in range(num_photos)]
    jpegs = {form: [encoded(image, **how) for image in photos] for form, how in FORMS.items()}
    for form in ("baseline", "progressive"):
        cost(form, jpegs[form])
    for name, damage in DAMAGES.items():
        rng = random.Random(name)
        judged = [found(jpeg, damage, rng) for of_form in jpegs.values() for jpeg in of_form for _ in range(num_tries)]
        spoilt = [is_found for is_found in judged if is_found is not None]
        figure(f"share found of JPEGs that lost pixels, {name}, of {len(spoilt)}", np.mean(spoilt) if spoilt else 1)
    sound = [jpeg for of_form in jpegs.values() for jpeg in of_form]
    figure(f"share of undamaged JPEGs that pass, of {len(sound)}", np.mean([not find_damage(jpeg) for jpeg in sound]))
    for path in (path for folder in options.folders for path in sorted(folder.rglob("*.[jJ][pP]*[gG]"))):
        damage_found = find_damage(path.read_bytes())
        if damage_found:
            print(f"{path}: {damage_found}")


def encoded(image: Image.Image, **how: object) -> bytes:
    """A JPEG of quality 85 if `how` says nothing else."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 85} | how))
    return buffer.getvalue()


def found(jpeg: bytes, damage: Damage, rng: random.Random) -> bool | None:
    """Whether a damaged JPEG is found to be; None where Pillow finds it, or where hardly a pixel is lost."""
    header = jpeg.index(b"\xff\xda") + 2
    damaged = damage(jpeg, header + int.from_bytes(jpeg[header : header + 2]), rng)
    try:
        pixels = [np.asarray(decode(data, LARGE)).astype(int) for data in (jpeg, damaged)]
    except SampleSkipped:
        return None
    lost = (np.abs(pixels[0] - pixels[1]).max(axis=2) > 24).mean()
    return find_damage(damaged) is not None if lost > 0.05 else None


def cost(form: str, jpegs: list[bytes]) -> None:
    """CPU-ms to look for damage, against those to decode."""
    to_look, to_decode, ratio = paired(
        lambda: cpu_seconds(lambda: [find_damage(jpeg) for jpeg in jpegs]),
        lambda: cpu_seconds(lambda: [decode(jpeg, LARGE) for jpeg in jpegs]),
        rounds=5,
    )
    figure(
        f"CPU-ms to look for damage ÷ to decode, {form}", *(1e3 * s / len(jpegs) for s in (to_look, to_decode)), ratio
    )


if __name__ == "__main__":
    main()
