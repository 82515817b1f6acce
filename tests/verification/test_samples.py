"""verify passes samples that are right, of any writer, and names by shard and key what is wrong with the others."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_pipeline.verification.findings import Findings
from tests.conftest import GOLDEN, image_bytes, job_tree
from tests.verification.datasets import (
    HIT,
    NO_IMAGES,
    Change,
    altered_tensors,
    found,
    replace_shard,
    replaced,
    replaced_views,
    sample_members,
    write_dataset,
)


@pytest.mark.parametrize("name", ["v1_fp32", "v1_bf16", "v2_bf16"])
def test_golden_shards_pass_each_alone(name: str, tmp_path: Path) -> None:
    alone = found(GOLDEN / "shards" / f"{name}.tar")
    assert (alone.num_shards, alone.num_samples, alone.problems) == (1, 8, [])
    shutil.copy(GOLDEN / "shards" / f"{name}.tar", tmp_path)
    assert found(tmp_path) == alone


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output": {"layout": "v1"}},
        {"output": {"precision": "float32"}},
        {"output": {"images": "omit"}},
        {"augmentation": {"rand_augment": None}},
    ],
    ids=str,
)
def test_what_a_run_writes_passes(changes: dict[str, Any], tmp_path: Path) -> None:
    write_dataset(tmp_path, **changes)
    omitted = changes.get("output") == {"images": "omit"}
    assert found(tmp_path) == Findings(2, 6, [], remarks=[NO_IMAGES] * omitted)


def test_images_of_other_forms_pass(tmp_path: Path) -> None:
    write_dataset(
        tmp_path,
        lambda key, members: [
            (f"{key}.bmp", image_bytes(form="BMP")) if name.endswith(".jpg") else (name, data) for name, data in members
        ],
    )
    assert found(tmp_path) == Findings(2, 6, [])


EVERY_TRANSFORM = {
    "center_crop": {"size": 50},
    "random_crop": {"size": 28, "p": 0.5},
    "random_horizontal_flip": {},
    "rand_augment": {"p": 0.5},
    "random_erase": {},
}


@pytest.mark.parametrize("augmentation", [EVERY_TRANSFORM, {"random_resized_crop": None, "random_crop": {"size": 24}}])
def test_views_of_every_transform_pass(augmentation: dict[str, Any], tmp_path: Path) -> None:
    write_dataset(tmp_path, augmentation=augmentation)
    assert found(tmp_path).problems == []


def tensors(alter: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    return replaced("pth.gz", altered_tensors(alter))


def without(ext: str) -> Change:
    return lambda key, members: [member for member in members if member[0] != f"{HIT}.{ext}"]


def with_member(ext: str, data: bytes) -> Change:
    return lambda key, members: [*members, (f"{HIT}.{ext}", data)] if key == HIT else members


def put(name: str, row: int, values: slice, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def alter(content: dict[str, torch.Tensor]) -> None:
        content[name][row, values] = value

    return alter


def scale(name: str, values: slice, factor: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def alter(content: dict[str, torch.Tensor]) -> None:
        content[name][:, values] *= factor

    return alter


def cut(name: str, rows: int) -> Callable[[dict[str, torch.Tensor]], None]:
    def alter(content: dict[str, torch.Tensor]) -> None:
        content[name] = content[name][:rows]

    return alter


def narrow(content: dict[str, torch.Tensor]) -> None:
    content["text_emb"] = content["text_emb"][:, :-1]


WHOLE, SECOND = slice(None), slice(3, 8)


DAMAGE: dict[str, tuple[Change, str]] = {
    "no image": (without("jpg"), "no image: a consumer drops the sample"),
    "no txt": (without("txt"), "no txt: a consumer drops the sample"),
    "a blank txt": (replaced("txt", lambda _: b"&nbsp;\xe2\x80\x8b"), "txt: no text: the caption shows nothing"),
    "a txt that is not UTF-8": (replaced("txt", lambda _: b"caf\xe9"), "txt: text is not UTF-8"),
    "no syn.json": (without("syn.json"), "missing member: syn.json"),
    "no paug.json": (without("paug.json"), "missing member: paug.json"),
    "no embeddings": (without("pth.gz"), "missing member: pth.gz or npz"),
    "an image that is none": (replaced("jpg", lambda _: b"<html>"), "jpg: cannot identify image file"),
    "a smaller image": (replaced("jpg", lambda _: image_bytes(2, 2)), "lies outside the image of 2 × 2 px"),
    "another npz beside it": (
        with_member("npz", b"PK\x03\x04"),
        "unreadable embeddings: File is not a zip file",
    ),
    "damaged embeddings": (replaced("pth.gz", lambda data: data[:-9]), "unreadable embeddings"),
    "a view without embedding": (tensors(cut("image_emb", 3)), "image_emb has 3 rows for 4 views; the dataset has 4"),
    "fewer views": (
        lambda key, members: replaced_views(lambda entries: entries.pop())(
            key, tensors(cut("image_emb", 3))(key, members)
        ),
        "image_emb has 3 rows for 3 views; the dataset has 4",
    ),
    "an embedding without view": (replaced_views(lambda entries: entries.pop()), "image_emb has 4 rows for 3 views"),
    "a caption without embedding": (tensors(cut("syn_text_emb", 1)), "syn_text_emb has 1 row for 2 captions"),
    "no ground truth": (tensors(cut("text_emb", 0)), "text_emb has 0 rows for 1 caption"),
    "no synthetic embedding": (tensors(lambda content: content.pop("syn_text_emb")), "missing embedding: syn_text_emb"),
    "fewer dims": (tensors(narrow), "text_emb has 7 dims; the dataset has 8"),
    "NaN in a view": (tensors(put("image_emb", 2, slice(5, 6), float("nan"))), "image_emb holds NaN or infinity"),
    "infinity in a caption": (tensors(put("syn_text_emb", 1, slice(0, 1), float("inf"))), "syn_text_emb holds NaN"),
    "not unit-norm": (tensors(scale("image_emb", WHOLE, 1.05)), "image_emb: teacher one has a norm that is 0.05"),
    "one teacher not unit-norm": (tensors(scale("text_emb", SECOND, 0.9)), "text_emb: teacher two has a norm"),
    "a zero slice": (
        tensors(put("syn_text_emb", 0, SECOND, 0.0)),
        "syn_text_emb: teacher two has a norm that is 1",
    ),
    "normalised as a whole": (tensors(scale("image_emb", WHOLE, 0.5**0.5)), "image_emb: teacher one has"),
    "a crop below": (
        replaced_views(lambda entries: entries[2][0].__setitem__(0, 30)),
        "view 2: random_resized_crop [30, ",
    ),
    "a crop to the left": (
        replaced_views(lambda entries: entries[1][0].__setitem__(1, -1)),
        "lies outside the image of 40 × 30 px",
    ),
    "a crop too wide": (
        replaced_views(lambda entries: entries[0][0].__setitem__(3, 41)),
        "view 0: random_resized_crop",
    ),
    "an empty crop": (replaced_views(lambda entries: entries[3][0].__setitem__(2, 0)), "view 3: random_resized_crop"),
    "another recipe's view": (replaced_views(lambda entries: entries[0].append(True)), "bad paug.json"),
    "an unknown operation": (replaced_views(lambda entries: entries[0][1][0].__setitem__(0, 14)), "bad paug.json"),
    "a caption that is none": (replaced("syn.json", lambda _: b'{"syn_text": ["a", 5]}'), "bad syn.json"),
}


@pytest.mark.parametrize(("change", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_damage_to_one_sample_is_named_by_shard_and_key(change: Change, problem: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, change)
    findings = found(tmp_path)
    assert findings.num_samples == 6
    assert findings.problems
    assert {(shard, key) for shard, key, _ in findings.problems} == {("00/1.tar", HIT)}
    assert any(problem in text for _, _, text in findings.problems), findings.problems


def test_a_layout_among_samples_of_another_is_named(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    other = job.model_copy(update={"output": job.output.model_copy(update={"layout": "v1"})})
    members = [*sample_members(job, "a"), *sample_members(other, "b"), *sample_members(job, "c")]
    replace_shard(job, "00/1.tar", members)
    assert found(tmp_path).problems == [("00/1.tar", "b", "layout v1 in a dataset of layout v2")]


def test_layouts_are_not_mixed_in_a_dataset_of_another_writer_either(tmp_path: Path) -> None:
    for name in ("v1_bf16", "v2_bf16"):
        shutil.copy(GOLDEN / "shards" / f"{name}.tar", tmp_path)
    problems = found(tmp_path).problems
    assert {shard for shard, _, _ in problems} == {"v2_bf16.tar"}
    assert len(problems) == 8
    assert {text for _, _, text in problems} == {"layout v2 in a dataset of layout v1"}


@pytest.mark.parametrize("factor", [1.05, 0.5**0.5])
def test_without_config_norms_must_still_be_those_of_whole_teachers(factor: float, tmp_path: Path) -> None:
    write_dataset(tmp_path, tensors(scale("image_emb", WHOLE, factor)), num_shards=2)
    problems = found(tmp_path / "00" / "1.tar").problems
    if factor == 1.05:
        ((_, key, text),) = problems
        assert key == HIT
        assert text.startswith("image_emb: a squared norm is 0.2")
    else:
        assert not problems  # a norm of 1 over both slices: only the teachers' dims could tell
    assert not found(tmp_path / "00" / "0.tar").problems


DINO = {"name": "dino", "use": "lab:Dino", "dim": 6, "image_size": 16, "encodes": ["images"]}
"""A teacher of images alone: its columns are the array `image_emb_dino`."""
WITH_DINO = [*job_tree()["teachers"], DINO]


def forget_the_writer(dataset: Path) -> None:
    """Leave the shards alone, as another program would publish them."""
    (dataset / "config.json").unlink()
    for folder in ("reports", "manifest"):
        shutil.rmtree(dataset / folder)


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("teachers", "layout"),
    [
        (WITH_DINO, "v1"),
        (WITH_DINO, "v2"),
        ([DINO], "v2"),
        ([{**DINO, "encodes": ["texts"], "image_size": None}], "v2"),
        ([*WITH_DINO, {**DINO, "name": "bert", "encodes": ["texts"]}], "v2"),
    ],
    ids=["dino v1", "dino", "dino alone", "texts alone", "dino and bert"],
)
def test_columns_of_teachers_of_one_input_pass(
    teachers: list[dict[str, Any]], layout: str, with_config: bool, tmp_path: Path
) -> None:
    write_dataset(tmp_path, teachers=teachers, output={"layout": layout})
    if not with_config:
        forget_the_writer(tmp_path)
    assert found(tmp_path) == Findings(2, 6, [])


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (cut("image_emb_dino", 3), "image_emb_dino has 3 rows for 4 views; the dataset has 4"),
        (put("image_emb_dino", 2, slice(5, 6), float("nan")), "image_emb_dino holds NaN or infinity"),
        (lambda content: content.pop("image_emb_dino"), "missing embedding: image_emb_dino"),
        (
            lambda content: content.update(image_emb_dino=content["image_emb_dino"].repeat(1, 2) / 2**0.5),
            "image_emb_dino has 12 dims; the dataset has 6",
        ),
        (
            lambda content: content.update(image_emb_other=content["image_emb_dino"]),
            "image_emb_other is of no teacher of the dataset",
        ),
        (
            lambda content: [content.pop(name) for name in ("image_emb", "text_emb", "syn_text_emb")],
            "missing embedding: text_emb",
        ),
    ],
    ids=["rows", "NaN", "missing", "dims", "unknown", "side by side missing"],
)
def test_damage_to_a_teacher_s_own_column_is_named(
    alter: Callable[[dict[str, torch.Tensor]], Any], problem: str, with_config: bool, tmp_path: Path
) -> None:
    write_dataset(tmp_path, tensors(alter), teachers=WITH_DINO)
    if not with_config:
        forget_the_writer(tmp_path)
    findings = found(tmp_path)
    assert {(shard, key) for shard, key, _ in findings.problems} == {("00/1.tar", HIT)}
    assert problem in [text for _, _, text in findings.problems]


@pytest.mark.parametrize("output", ["embedding", "scores"])
def test_embeddings_alone_have_norm_1(output: str, tmp_path: Path) -> None:
    teachers = [*WITH_DINO[:2], {**DINO, "output": output}]
    write_dataset(tmp_path, tensors(scale("image_emb_dino", WHOLE, 0.5)), teachers=teachers)
    problems = [text for _, _, text in found(tmp_path).problems]
    assert len(problems) == (output == "embedding")
    assert all(text.startswith("image_emb_dino: teacher dino has a norm that is 0.5") for text in problems)
