"""Scenes are pure functions of (seed, index), written as deterministic tars, with alt texts as bad as promised."""

import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from evaluate_models import main_object
from PIL import Image

from dr_pipeline.demo import grammar
from dr_pipeline.demo.scenes import draw_scene, draw_truth, write_scenes
from dr_pipeline.views.seeding import Stream


def test_a_scene_is_a_pure_function_of_seed_and_index():
    first, _, again, other = draw_scene(7, 3), draw_scene(7, 4), draw_scene(7, 3), draw_scene(8, 3)
    assert (first.jpeg, first.truth, first.captions, first.alt_text) == (
        again.jpeg,
        again.truth,
        again.captions,
        again.alt_text,
    )
    assert first.jpeg != other.jpeg
    assert first.uid != other.uid


def test_sizes_vary_within_bounds():
    sizes = [draw_scene(0, index).image.size for index in range(60)]
    sides = [side for size in sizes for side in size]
    assert 96 <= min(sides) < 140
    assert 250 < max(sides) <= 320
    ratios = [width / height for width, height in sizes]
    assert 0.65 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.55


def test_the_main_object_is_clearly_the_largest_and_lies_in_the_centre_square():
    truths = [draw_truth(Stream(1, "truth", index)) for index in range(500)]
    for truth in truths:
        main = truth.main
        assert all(thing.radius < 0.6 * main.radius for thing in truth.others)
        assert max(abs(main.x), abs(main.y)) + main.radius <= 0.5
    assert Counter(len(truth.others) for truth in truths).keys() == {0, 1, 2, 3}
    assert {truth.main.shape for truth in truths} == set(grammar.SHAPES)
    assert {truth.position for truth in truths} >= {"centre", "left", "bottom right"}


@pytest.mark.parametrize("colour", grammar.COLOURS)
def test_the_main_object_has_its_colour(colour: str):
    """The median pixel at the middle of a plain square is near the named colour's reference."""
    from dr_pipeline.demo.painting import COLOUR_RGB, paint

    main = grammar.Thing("square", colour, "plain", "large", 0.35, 0.1, -0.05)
    truth = grammar.Truth(main, "right", (), "smooth", "grey")
    pixels = np.asarray(paint(truth, 120, 100, Stream(0, colour)), dtype=float)[35:55, 60:80].reshape(-1, 3)
    distances = {name: np.linalg.norm(np.median(pixels, 0) - rgb) for name, rgb in COLOUR_RGB.items()}
    assert min(distances, key=distances.get) == colour


def test_captions_are_true_and_vary():
    for index in range(200):
        truth = draw_truth(Stream(5, "truth", index))
        assert len(set(grammar.true_captions(truth))) == len(grammar.CAPTION_TEMPLATES)
        for caption in (*grammar.true_captions(truth), *grammar.short_captions(truth)):
            assert main_object(caption) == truth.main.name
            assert "{" not in caption


def test_alt_texts_are_as_bad_as_stated():
    truth = draw_truth(Stream(0, "truth"))
    drawn = [grammar.draw_alt_text(truth, Stream(0, "alt", index)) for index in range(4000)]
    counts = Counter(kind for kind, _ in drawn)
    total = sum(grammar.ALT_KIND_WEIGHTS.values())
    for kind, weight in grammar.ALT_KIND_WEIGHTS.items():
        assert counts[kind] / 4000 == pytest.approx(weight / total, abs=0.03)
    for kind, text in drawn:
        named = main_object(text)
        assert (named == truth.main.name) == (kind == "clean"), (kind, text)
        assert (named is not None) == (kind in ("clean", "wrong")), (kind, text)


def test_shards_are_deterministic_and_webdataset_shaped(tmp_path: Path):
    paths = [Path(name) for name in write_scenes(tmp_path / "a", 2, 3, seed=9)]
    again = [Path(name) for name in write_scenes(tmp_path / "b", 2, 3, seed=9)]
    assert [path.name for path in paths] == ["00000.tar", "00001.tar"]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["00000.tar", "00001.tar"]
    with tarfile.open(paths[1]) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members)[:3] == ["000000003.jpg", "000000003.txt", "000000003.json"]
    scene = draw_scene(9, 3)
    record = json.loads(members["000000003.json"])
    assert members["000000003.jpg"] == scene.jpeg
    assert np.array_equal(Image.open(io.BytesIO(scene.jpeg)).convert("RGB"), scene.image)
    assert members["000000003.txt"].decode() == scene.alt_text
    assert (record["uid"], record["alt_kind"]) == (scene.uid, scene.alt_kind)
    assert f"{record['colour']} {record['shape']}" == scene.truth.main.name
    assert record["scene"]["captions"] == list(scene.captions)
    assert "caption" not in record


def test_the_command_writes_shards_without_torch(tmp_path: Path):
    program = (
        "import sys; sys.argv = ['scenes', sys.argv[1], '--shards', '1', '--samples', '2', '--seed', '4']\n"
        "from dr_pipeline.demo import scenes; scenes.main(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=True)
    assert (tmp_path / "out" / "00000.tar").read_bytes() == Path(write_scenes(tmp_path, 1, 2, seed=4)[0]).read_bytes()
