"""Write scikit-learn's 1,797 handwritten digits as tars of an image and a `cls` member each.

    python examples/digits/write_digits.py outputs/digits

The digits are those of UCI's "Optical Recognition of Handwritten Digits", 8 × 8 pixels, here enlarged to 32 × 32. The
split is fixed: `test/` holds 597 that nothing trains on, `many/` 1,100 for teachers, `few/` 30 other ones, all that the
student sees. The last 70 are not used.
"""

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32
SPLIT = {"test": slice(0, 597), "many": slice(597, 1697), "few": slice(1697, 1727)}


def write_digits(folder: Path) -> None:
    """Write the three parts below a folder."""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    for part, places in SPLIT.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / part / "0.tar", "w") as tar:
            for index in order[places]:
                _add(tar, f"{index:04}.png", _png(digits.images[index]))
                _add(tar, f"{index:04}.cls", str(digits.target[index]).encode())


def _png(intensity_HW: np.ndarray) -> bytes:
    """Intensities of 0 to 16 → a PNG."""
    image = Image.fromarray((intensity_HW / 16 * 255).round().astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    write_digits(parser.parse_args().folder)
