"""A contact sheet shows each sample's image with its crops, and the views as the teachers saw them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ConfigError, SampleSkipped, ShardError
from dr_pipeline.report.contact_sheet import MOST_ROWS, write_sheet
from dr_pipeline.report.dataset_reader import DatasetReader, Shown
from dr_pipeline.report.inspect import Inspection, inspect
from dr_pipeline.report.pictures import draw_pictures
from dr_pipeline.storage import Storage
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import Recipe, describe_transforms, mixed_with_earlier
from dr_pipeline.views.render import decode, render
from tests.conftest import draw, image_bytes
from tests.tars import Member
from tests.verification.datasets import replaced, replaced_views, write_dataset

INTERIOR = slice(24, 120)
"""Of a view's cell of 128 px, what neither its frame nor its number covers."""


def shown_of(uri: Path, index: int = 0, shard: int = 0) -> tuple[DatasetReader, Shown]:
    reader = DatasetReader(str(uri), Storage())
    return reader, [*reader.read(reader.shards[shard])][index]


def write_mixed(folder: Path) -> None:
    """A shard of images whose views are all mixed, but for those of the first."""
    augmentation = Augmentation.model_validate({"num_views": 3, "mixup": {"p": 1.0}, "cutmix": {"p": 1.0}})
    recipe = Recipe(augmentation)

    def mix(key: str, members: list[Member]) -> list[Member]:
        index = int(key[-1])
        own = draw(40, 30, augmentation, 1, key)
        views = mixed_with_earlier(own, recipe, 1, key, index, [(40, 30)] * index)
        paug = json.dumps({"param_aug": [recipe.encode(view) for view in views]}).encode()
        jpg = image_bytes(40, 30, seed=index)
        changed = {f"{key}.paug.json": paug, f"{key}.jpg": jpg}
        return [(name, changed.get(name, data)) for name, data in members]

    write_dataset(folder, mix, num_shards=1, augmentation={"num_views": 3})
    config = json.loads((folder / "config.json").read_text())
    config["reinforce"]["image_augmentation"] = describe_transforms(augmentation)
    (folder / "config.json").write_text(json.dumps(config))


def sheet(uri: Path, folder: Path, count: int = 2, **chosen: Any) -> np.ndarray:
    write_sheet(str(folder / "sheet.png"), inspect(str(uri), Storage(), count, **chosen))
    with Image.open(folder / "sheet.png") as image:
        assert image.format == "PNG"
        return np.asarray(image)


def find_cell(sheet_HWC: np.ndarray, view_HWC: np.ndarray) -> tuple[int, int] | None:
    """Top and left of a view's cell; None where it is not on the sheet."""
    cell_HWC = np.asarray(Image.fromarray(view_HWC).resize((128, 128), Image.Resampling.BICUBIC))[INTERIOR, INTERIOR]
    height, width = (side - len(cell_HWC) + 1 for side in sheet_HWC.shape[:2])
    for top, left in np.argwhere((sheet_HWC[:height, :width] == cell_HWC[0, 0]).all(axis=-1)):
        if np.array_equal(sheet_HWC[top : top + len(cell_HWC), left : left + len(cell_HWC)], cell_HWC):
            return top, left
    return None


def test_views_are_those_that_the_parameters_make(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", num_shards=1)
    sheet_HWC = sheet(tmp_path / "data", tmp_path)
    for index in range(2):
        reader, shown = shown_of(tmp_path / "data", index)
        assert isinstance(shown.sample, Sample)
        views_NHWC = render(decode(shown.sample.image, 10**6), shown.sample.views, reader.recipe)
        places = [find_cell(sheet_HWC, view_HWC) for view_HWC in views_NHWC]
        assert None not in places
        assert places == sorted(places, key=lambda place: place[1] if place else 0)
    one = shown_of(tmp_path / "data", 2)[1].sample
    assert isinstance(one, Sample)
    assert find_cell(sheet_HWC, render(decode(one.image, 10**6), one.views[:1], reader.recipe)[0]) is None


def test_mixed_views_show_both_images(tmp_path: Path) -> None:
    write_mixed(tmp_path / "data")
    reader, shown = shown_of(tmp_path / "data", 2)
    assert isinstance(shown.sample, Sample)
    assert any(map(pair_of, shown.sample.views))
    pictures = draw_pictures(shown, reader.recipe, 9)
    pairs = {one.index: decode(one.image, 10**6) for one in shown.earlier}
    assert np.array_equal(pictures.views_NHWC, render(pictures.image, shown.sample.views, reader.recipe, pairs=pairs))
    assert find_cell(sheet(tmp_path / "data", tmp_path, 3), pictures.views_NHWC[0])
    assert find_cell(sheet(tmp_path / "data", tmp_path, 3, key=shown.record.key), pictures.views_NHWC[0])
    assert find_cell(sheet(tmp_path / "data" / "00" / "0.tar", tmp_path, 3), pictures.views_NHWC[0])


def test_what_cannot_be_drawn_is_told_in_the_row(tmp_path: Path) -> None:
    whole = sheet_of(tmp_path / "whole", tmp_path)
    broken = sheet_of(tmp_path / "broken", tmp_path, replaced("jpg", lambda data: b"\xff\xd8\xff no jpeg"))
    assert broken.shape[0] < whole.shape[0]
    reader, shown = shown_of(tmp_path / "broken", 1, 1)
    with pytest.raises(SampleSkipped, match="corrupt image"):
        draw_pictures(shown, reader.recipe, 9)


def sheet_of(folder: Path, output: Path, *changes: Any) -> np.ndarray:
    write_dataset(folder, *changes)
    return sheet(folder, output, shard="00/1.tar")


def test_views_that_do_not_fit_their_image_are_not_rendered(tmp_path: Path) -> None:
    write_dataset(tmp_path, replaced_views(lambda views: views[0].__setitem__(0, [0, 0, 10**9, 10**9])))
    reader, shown = shown_of(tmp_path, 1, 1)
    with pytest.raises(SampleSkipped, match="views do not fit: random_resized_crop"):
        draw_pictures(shown, reader.recipe, 9)


def test_views_of_a_foreign_size_that_no_memory_holds_are_not_rendered(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["reinforce"]["image_augmentation"]["random_resized_crop"]["size"] = 10**6
    (tmp_path / "config.json").write_text(json.dumps(config))
    reader, shown = shown_of(tmp_path)
    with pytest.raises(SampleSkipped, match="views too large: 1000000 px"):
        draw_pictures(shown, reader.recipe, 9)


def test_a_skipped_sample_has_a_row_of_text(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", lambda key, members: [] if key == "s1_2" else members)
    sheet_HWC = sheet(tmp_path / "data", tmp_path, key="skipped 0")
    assert 0 < len(sheet_HWC) < 100
    assert sheet_HWC.min() < 50


def test_long_and_hostile_texts_make_no_large_sheet(tmp_path: Path) -> None:
    text = "\x1b[31m\u202e" + 100_000 * "word\n"
    write_dataset(tmp_path / "data", replaced("txt", lambda data: text.encode()))
    assert len(sheet(tmp_path / "data", tmp_path, 2, shard="00/1.tar")) < 1000


def test_what_is_asked_wrongly_is_told_before_anything_is_written(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    chosen = inspect(str(tmp_path / "data"), Storage(), 1)
    with pytest.raises(ConfigError, match=r"a contact sheet is a PNG: name it .*x\.jpg\.png"):
        write_sheet(str(tmp_path / "x.jpg"), chosen)
    many = Inspection(chosen.reader, [], [next(iter(chosen.samples))] * (MOST_ROWS + 1))
    with pytest.raises(ConfigError, match="up to 100 samples: give a smaller --count"):
        write_sheet(str(tmp_path / "x.png"), many)
    (tmp_path / "data" / "00" / "0.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"0\.tar: the file is empty"):
        write_sheet(str(tmp_path / "x.png"), inspect(str(tmp_path / "data"), Storage(), 1))
    assert not (tmp_path / "x.png").exists()
