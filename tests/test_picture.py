"""The picture in README.md is drawn by a script, from a dataset as `make demo` leaves one."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dr_pipeline import run
from tests.demo_job import REPOSITORY, demo_job, make_scenes

PICTURE = REPOSITORY / "docs/images/before_and_after.png"


@pytest.mark.slow
def test_one_sample_is_drawn_before_and_after(tmp_path: Path) -> None:
    scenes, output = make_scenes(tmp_path / "scenes", 1, 1), tmp_path / "out"
    run(demo_job(scenes, output, "augmentation.num_views=10"))
    script = REPOSITORY / "examples/picture/draw.py"
    words = [sys.executable, script, output, "000000000", tmp_path / "drawn.png"]
    subprocess.run(words, check=True, capture_output=True)
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(PICTURE) as shown:
        assert drawn.size == shown.size
        assert len(drawn.convert("RGB").getcolors(256) or []) > 100
    assert PICTURE.stat().st_size < 200_000
