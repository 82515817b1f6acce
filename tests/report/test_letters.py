"""Texts of any script on a picture: by this machine's fonts, or as escapes, and never as boxes."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from dr_pipeline.report.letters import Letters, font_files

WIDE = 10_000


@pytest.fixture
def without_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))


def drawn(letters: Letters, line: str) -> np.ndarray:
    image = Image.new("RGB", (400, 40), "white")
    letters.write(ImageDraw.Draw(image), (2, 2), line, (0, 0, 0))
    return np.asarray(image)


def test_letters_that_no_font_has_are_escaped(without_fonts: None) -> None:
    assert Letters(15).lines("a red circle …", WIDE) == ["a red circle …"]
    assert Letters(15).lines("a 猫 and 😀", WIDE) == [r"a \u732b and \U0001f600"]


def test_a_font_of_this_machine_draws_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [path for path in font_files() if path.name == "DejaVuSans.ttf"]
    if not files:
        pytest.skip("no DejaVu here")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    (tmp_path / "fonts/deep").mkdir(parents=True)
    (tmp_path / "fonts/a.ttf").write_bytes(b"no font")
    os.symlink(files[0], tmp_path / "fonts/deep/DejaVuSans.ttf")
    letters = Letters(15)
    (line,) = letters.lines("круг Ж 猫", WIDE)
    assert line == r"круг Ж \u732b"
    assert (drawn(letters, "Ж") != drawn(letters, "Ш")).any()
    own = ImageFont.truetype(str(files[0]), 15)
    image = Image.new("RGB", (400, 40), "white")
    ImageDraw.Draw(image).text((2, 2), "круг", (0, 0, 0), own)
    assert (drawn(letters, "круг") == np.asarray(image)).all()


def test_lines_end_at_blanks_and_within_words_that_are_too_long(without_fonts: None) -> None:
    letters = Letters(15)
    lines = letters.lines("one two three " + "x" * 100, 100)
    assert " ".join(lines[:2]).startswith("one two three")
    assert "".join(lines).replace(" ", "") == "onetwothree" + "x" * 100
    assert all(drawn(letters, line)[:, 112:].min() == 255 for line in lines)
    assert letters.lines("", 100) == letters.lines("  ", 100) == []
