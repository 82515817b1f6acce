"""Draws one sample before and after: the picture in README.md, of the scenes that `make demo` reinforces.

python examples/picture/draw.py outputs/quickstart 000000005 docs/images/before_and_after.png
"""

import argparse
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dr_pipeline.dataset.sample import IMAGE
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.report.pictures import draw_pictures
from dr_pipeline.storage import Storage

MOST_VIEWS = 10
LETTERS_A_LINE = 105
SMALL, LARGE = 9.5, 13
GREY = "#555555"


def cosines_of_views(shown: Shown, key: str) -> np.ndarray:
    """Each view's cosine to the first caption of a key, the mean over the teachers [N]."""
    assert shown.sample
    columns = shown.sample.columns
    teachers = [teacher for teacher, of in columns if of == IMAGE]
    return np.mean([columns[name, IMAGE].astype("f4") @ columns[name, key][0].astype("f4") for name in teachers], 0)


def show(axes: Axes, image: Image.Image | np.ndarray, below: str) -> None:
    """A picture with a line below it."""
    axes.imshow(image)
    axes.set_xlabel(below, fontsize=SMALL)
    axes.set_xticks([])
    axes.set_yticks([])


def draw(reader: DatasetReader, shown: Shown) -> Figure:
    """The sample's image and alt-text on the left; its views and captions, with their cosines, on the right."""
    record, pictures = shown.record, draw_pictures(shown, reader.recipe, MOST_VIEWS)
    ((key, captions),) = record.captions.items()
    assert record.alt_text
    figure = Figure(figsize=(11.5, 4.4), dpi=100, layout="constrained", facecolor="white")
    before, after = figure.subfigures(1, 2, width_ratios=(2.7, 7))
    before.suptitle("before", fontsize=LARGE, color=GREY)
    alt_text = "\n".join(textwrap.wrap(f"“{record.alt_text.text}”", 38))
    show(before.subplots(), pictures.image, f"{alt_text}\n{record.alt_text.similarity:+.2f}")
    after.suptitle("after: views, captions, and an embedding of each by every teacher", fontsize=LARGE, color=GREY)
    of_views, of_captions = after.subfigures(2, 1, height_ratios=(3.4, 1.1))
    cells = of_views.subplots(2, MOST_VIEWS // 2).flat
    for axes, view_HWC, cosine in zip(cells, pictures.views_NHWC, cosines_of_views(shown, key), strict=True):
        show(axes, view_HWC, f"{cosine:+.2f}")
    lines = []
    for caption in captions:
        first, *others = textwrap.wrap(caption.text, LETTERS_A_LINE)
        lines += [f"{caption.similarity:+.2f}   {first}", *(f"             {line}" for line in others)]
    of_captions.text(0.03, 0.95, "\n".join(lines), fontsize=SMALL, va="top", linespacing=1.4)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw one sample before and after.")
    parser.add_argument("dataset")
    parser.add_argument("key")
    parser.add_argument("picture", help="a PNG")
    arguments = parser.parse_args()
    reader = DatasetReader(arguments.dataset, Storage())
    _, shown = reader.find(arguments.key, reader.shards)
    draw(reader, shown).savefig(arguments.picture)
    with Image.open(arguments.picture) as drawn:  # 256 colours are enough, and a third of the bytes
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
