"""Tensors read as views are those that torch.load gives, whatever the archive looks like."""

import io
import zipfile
from typing import Any

import pytest
import torch

from dr_pipeline.codecs import archive
from dr_pipeline.codecs.archive import read_tensors


@pytest.fixture(autouse=True)
def no_form_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_forms", [])


def saved(tensors: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer, **options)
    return buffer.getvalue()


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same(data: bytes) -> None:
    ours, theirs = read_tensors(data), torch.load(io.BytesIO(data), weights_only=True)
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name])


def test_archives_of_one_form_give_each_its_own_numbers() -> None:
    for seed in range(3):
        assert_same(saved({"a": numbers(seed, 3, 4), "b": numbers(seed + 9, 1, 4)}))
    assert len(archive._forms) == 1  # the first was unpickled, the others were not


def test_forms_that_differ_are_told_apart() -> None:
    base = numbers(0, 6, 4)
    for tensors in (
        {"a": base, "b": numbers(1, 6, 4)},
        {"b": base, "a": numbers(1, 6, 4)},
        {"a": base.float(), "b": base.half()},
        {"a": base.reshape(4, 6), "b": base},
        {"a": base.T, "b": base[2:4], "c": base[:, 1:3]},  # three views of one storage
        {"a": base.double()},
    ):
        assert_same(saved(tensors))


def test_an_archive_whose_tensors_cannot_be_views_is_loaded() -> None:
    assert_same(saved({"a": numbers(0, 0, 4), "b": numbers(1, 2, 4)}))  # a storage without bytes has no mark
    assert_same(saved({f"t{index}": numbers(index, 1, 1) for index in range(300)}))  # more records than marks
    with zipfile.ZipFile(io.BytesIO(saved({"a": numbers(0, 2, 4)}))) as source:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
    assert_same(packed.getvalue())


def test_many_forms_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_FORMS", 2)
    for rows in range(1, 5):
        assert_same(saved({"a": numbers(0, rows, 4)}))
    assert len(archive._forms) == 2


@pytest.mark.parametrize("tensors", [[numbers(0, 2, 4)], {"a": 1, "b": numbers(0, 2, 4)}, {"a": "text"}])
def test_anything_else_is_refused(tensors: Any) -> None:
    with pytest.raises(ValueError, match="a dictionary of tensors"):
        read_tensors(saved(tensors))


def test_a_cut_record_is_refused() -> None:
    data = saved({"a": numbers(0, 2, 4)})
    read_tensors(data)
    place = data.index(b"data/0") - 30 - len("archive/")
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        read_tensors(data[:place] + data[place + 40 :])
