"""Texts of any script on a picture: each letter by the first font that has it, or as its escape.

Pillow's own font has few letters, and one of all scripts is as large as the rest of this package: the other fonts are
those of this machine.
"""

import os
from collections.abc import Iterator
from itertools import chain, groupby, islice
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SUFFIXES = (".ttf", ".otf", ".ttc")
_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "mono", "serif")
"""In the names of files: fonts that are looked at last."""
_MOST_FONTS = 200
_NO_LETTER = "\U0010ffff"
"""Which no font has: what is drawn in its place is what stands for all that a font lacks."""


class Letters:
    """Letters of one size in pixels."""

    def __init__(self, size: int):
        self._size = size
        self._fonts: list[Font] = [ImageFont.load_default(size)]
        self._others = islice(font_files(), _MOST_FONTS)
        self._font_by_letter: dict[str, Font | None] = {}

    def lines(self, text: str, width: int) -> list[str]:
        """The text in lines of up to so many pixels, broken at blanks where there are any. Gives no line for no text.

        Letters that no font of this machine has are escaped.
        """
        lines, line, length = list[str](), "", 0.0
        for letter in chain.from_iterable(map(self._shown, text)):
            line, length = line + letter, length + self._width(letter)
            if length > width:
                cut = line.rstrip().rfind(" ") + 1 or len(line) - 1
                lines.append(line[:cut].rstrip())
                line = line[cut:]
                length = sum(map(self._width, line))
        return [*lines, line] if line.strip() else lines

    def write(self, pen: ImageDraw.ImageDraw, place: tuple[float, float], line: str, ink: tuple[int, int, int]) -> None:
        """Write a line of `lines`, whose upper left corner is at a place."""
        left, top = place
        for font, letters in groupby(line, self._font_of):
            run, used = "".join(letters), font or self._fonts[0]
            pen.text((left, top), run, ink, used)
            left += used.getlength(run)

    def _shown(self, letter: str) -> str:
        return letter if self._font_of(letter) else letter.encode("ascii", "backslashreplace").decode()

    def _width(self, letter: str) -> float:
        return (self._font_of(letter) or self._fonts[0]).getlength(letter)

    def _font_of(self, letter: str) -> Font | None:
        """The first font that has a letter."""
        if letter not in self._font_by_letter:
            fonts = chain(self._fonts, self._opened())
            self._font_by_letter[letter] = next((font for font in fonts if _has(font, letter)), None)
        return self._font_by_letter[letter]

    def _opened(self) -> Iterator[Font]:
        """The fonts of this machine that no letter has wanted before."""
        for path in self._others:
            try:
                font = ImageFont.truetype(path, self._size)
            except OSError:  # of pictures in one size, as of coloured emoji, or damaged
                continue
            self._fonts.append(font)
            yield font


def font_files() -> Iterator[Path]:
    """The files of this machine's fonts, in the folders of the XDG specification; plain upright ones come first."""
    home = Path(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"))
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    folders = [home, *map(Path, shared.split(":"))]
    found = (path for folder in folders for path in (folder / "fonts").rglob("*") if path.suffix.lower() in _SUFFIXES)
    return iter(sorted(found, key=lambda path: (any(style in path.stem.lower() for style in _STYLES), path.name)))


def _has(font: Font, letter: str) -> bool:
    """Whether a font has a letter: a blank, or one that is not drawn as what a font lacks."""
    drawn, missing = font.getmask(letter), font.getmask(_NO_LETTER)
    return letter.isspace() or drawn.size != missing.size or bytes(drawn) != bytes(missing)
