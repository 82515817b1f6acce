"""A contact sheet of samples: a picture with a row for each, its image with the crops of the views, then the views."""

import colorsys
from dataclasses import replace
from itertools import islice

from PIL import Image, ImageDraw, ImageFont

from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.redaction import printable
from dr_pipeline.report.dataset_reader import Shown
from dr_pipeline.report.inspect import Inspection, describe
from dr_pipeline.report.letters import Letters
from dr_pipeline.report.pictures import Pictures, draw_pictures
from dr_pipeline.storage import Storage
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.words import plural

MOST_ROWS = 100
"""Samples of one sheet; a row takes megabytes while it is drawn."""

_MOST_VIEWS, _MOST_LINES, _MOST_LETTERS = 40, 24, 400
_CELL, _GAP, _COLUMNS = 128, 8, 10
_IMAGE_SIDE = 2 * _CELL + _GAP
_LEFT_OF_VIEWS = _GAP + _IMAGE_SIDE + _GAP
_WIDTH = _LEFT_OF_VIEWS + (_CELL + _GAP) * _COLUMNS
_LINE_HEIGHT, _FONT_SIZE = 20, 15
_INK, _PAPER = (20, 20, 20), (255, 255, 255)
_TURN = 0.382
"""Of the circle of hues, from one view's colour to the next one's: the golden angle, so that neighbours differ."""


def write_sheet(path: str, inspection: Inspection) -> Inspection:
    """Write the sheet as a PNG, and give the inspection of the same samples. What cannot be drawn is told in its row.

    Raises ConfigError where the file is not named .png or the samples are too many, ShardError or StorageError where a
    shard cannot be read.
    """
    if not path.lower().endswith(".png"):
        raise ConfigError(f"--views {path}: a contact sheet is a PNG: name it {path}.png")
    samples = list(islice(inspection.samples, MOST_ROWS + 1))
    if len(samples) > MOST_ROWS:
        raise ConfigError(f"--views {path}: a contact sheet has up to {MOST_ROWS} samples: give a smaller --count")
    letters = Letters(_FONT_SIZE)
    rows = [_draw_row(shown, inspection.reader.recipe, letters) for shown in samples]
    sheet = Image.new("RGB", (_WIDTH, sum(row.height for row in rows) + _GAP), _PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    files = Storage()
    with files.staged(files.absolute(path)) as staged:
        sheet.save(staged, "PNG")
    return replace(inspection, samples=samples)


def _draw_row(shown: Shown, recipe: Recipe, letters: Letters) -> Image.Image:
    """The text of a sample, and its pictures below it."""
    told = [*describe(shown.record)]
    pictures: Pictures | None = None
    try:
        pictures = draw_pictures(shown, recipe, _MOST_VIEWS)
    except SampleSkipped as error:
        told.append(f"no pictures: {error}")
    hidden = len(shown.record.views) - len(pictures.outlines.boxes) if pictures else 0
    told += [plural(hidden, "more view")] * (hidden > 0)
    lines = list[str]()
    for text in told[:_MOST_LINES]:  # of a data set: escaped, cut where it is long, its blanks made one
        words = " ".join(printable(text[: 2 * _MOST_LETTERS]).split())
        shortened = words if len(words) <= _MOST_LETTERS else f"{words[:_MOST_LETTERS]} …"
        lines += letters.lines(shortened, _WIDTH - 2 * _GAP)
    top = _GAP + len(lines) * _LINE_HEIGHT + _GAP
    num_lines_of_views = -(-len(pictures.outlines.boxes) // _COLUMNS) if pictures else 0
    height_of_pictures = max(_IMAGE_SIDE, num_lines_of_views * (_CELL + _GAP)) + _GAP if pictures else 0
    row = Image.new("RGB", (_WIDTH, top + height_of_pictures), _PAPER)
    pen = ImageDraw.Draw(row)
    for number, line in enumerate(lines):
        letters.write(pen, (_GAP, _GAP + number * _LINE_HEIGHT), line, _INK)
    if pictures:
        row.paste(_draw_crops(pictures), (_GAP, top))
        for number, view_HWC in enumerate(pictures.views_NHWC):
            place = (_LEFT_OF_VIEWS + number % _COLUMNS * (_CELL + _GAP), top + number // _COLUMNS * (_CELL + _GAP))
            row.paste(_draw_view(Image.fromarray(view_HWC), number), place)
    return row


def _draw_crops(pictures: Pictures) -> Image.Image:
    """The image, made to fit, with the crop of each view in the view's colour; what lies beyond it is cut off."""
    scale = _IMAGE_SIDE / max(pictures.image.size)
    width, height = (max(1, round(side * scale)) for side in pictures.image.size)
    small = pictures.image.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(small)
    for number, box in enumerate(pictures.outlines.boxes):
        top, left, tall, wide = (scale * side for side in box)
        right, bottom = min(left + wide, width) - 1, min(top + tall, height) - 1
        corners = max(0, min(left, right)), max(0, min(top, bottom)), max(0, right), max(0, bottom)
        pen.rectangle(corners, outline=_colour(number), width=2)
    return small


def _draw_view(view: Image.Image, number: int) -> Image.Image:
    """A view, with its number, in a frame of its crop's colour."""
    cell = view.resize((_CELL, _CELL), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(cell)
    pen.rectangle((0, 0, _CELL - 1, _CELL - 1), outline=_colour(number), width=2)
    pen.rectangle((2, 2, 22, 20), fill=_colour(number))
    pen.text((5, 3), str(number), _INK, ImageFont.load_default(_FONT_SIZE - 1))
    return cell


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hls_to_rgb(number * _TURN % 1, 0.55, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
