"""Small look-alikes of published datasets become tars: what is in them, what is skipped and why, and resumption."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dr_pipeline.cli import main
from dr_pipeline.config.jobfile import validate
from dr_pipeline.config.preparation import Preparation
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError, ShardError
from dr_pipeline.preparation.item import key_of
from dr_pipeline.preparation.prepare import PreparedShard, prepare
from tests.conftest import image_bytes, write_tar

Files = dict[str, bytes]


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def as_lines(trees: list[Any]) -> bytes:
    return b"\n".join(as_json(tree) for tree in trees)


LICENCES = [
    {
        "id": 1,
        "name": "Attribution-NonCommercial-ShareAlike License",
        "url": "http://creativecommons.org/licenses/by-nc-sa/2.0/",
    },
    {"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"},
    {"id": 6, "name": "Attribution-NoDerivs License", "url": "http://creativecommons.org/licenses/by-nd/2.0/"},
]


def coco(first: int, licences: list[int]) -> bytes:
    numbers = range(first, first + len(licences))
    return as_json(
        {
            "licenses": LICENCES,
            "images": [
                {"id": n, "file_name": f"{n:012d}.jpg", "license": licence, "flickr_url": f"http://flickr/{n}"}
                for n, licence in zip(numbers, licences, strict=True)
            ],
            "annotations": [
                {"id": 10 * n + i, "image_id": n, "caption": f"caption {i} of {n}\n "}
                for i in range(5)
                for n in numbers
            ],
        }
    )


def mscoco() -> Files:
    return {
        "annotations/captions_train2017.json": coco(1, [4, 1, 6]),
        "annotations/captions_val2017.json": coco(4, [4]),
        "annotations/instances_val2017.json": b"{}",
        **{f"train2017/{n:012d}.jpg": image_bytes(seed=n) for n in (1, 2, 3)},
        "val2017/000000000004.jpg": image_bytes(seed=4),
    }


def docci() -> Files:
    rows = [
        {
            "example_id": f"{split}_{n:05d}",
            "split": split,
            "image_file": f"{split}_{n:05d}.jpg",
            "description": f"Long {n}.",
        }
        for split, n in (("train", 0), ("train", 1), ("test", 0), ("train", 2))
    ]
    images = {f"images/{row['image_file']}": image_bytes(seed=n) for n, row in enumerate(rows)}
    return {"docci_descriptions.jsonlines": as_lines(rows), **images}


def dci() -> Files:
    regions = [("a wheel", "It is round", 0), ("a door", "unsure", 1), ("a smear", "nothing", 2)]
    masks = {
        str(n): {"idx": n, "label": label, "caption": caption, "mask_quality": quality, "requirements": []}
        for n, (label, caption, quality) in enumerate(regions)
    }
    tree = {"image": "sa_7.jpg", "short_caption": "A car.", "extra_caption": "It is red.", "mask_data": masks}
    return {"annotations/112956-data.json": as_json(tree), "photos/sa_7.jpg": image_bytes()}


def gbc_graph(number: int) -> dict[str, Any]:
    descs = [{"label": "short", "text": f"Short {number}."}, {"label": "detail", "text": f"In detail {number}."}]
    relation = {"label": "relation", "descs": [{"label": "relation", "text": "The cat is on the mat."}]}
    return {
        "img_url": f"http://images/{number}.jpg",
        "img_path": f"some/{number}.jpg",
        "original_caption": "alt",
        "short_caption": f"Short {number}.",
        "detail_caption": f"In detail {number}.",
        "vertices": [{"label": "image", "descs": descs}, relation],
    }


def gbc() -> Files:
    return {"gbc.jsonl": as_lines([gbc_graph(1)]), "some/1.jpg": image_bytes()}


def sharegpt4v() -> Files:
    conversations = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat.\nIt sleeps."}]
    entry = {"id": "9", "image": "coco/train2017/000000000009.jpg", "conversations": conversations}
    return {"share.json": as_json([entry]), "coco/train2017/000000000009.jpg": image_bytes()}


def recap_coco() -> Files:
    rows = {
        "image": [{"bytes": image_bytes(), "path": None}],
        "caption": ["A cat."],
        "recaption": ["The image shows a cat."],
        "image_id": [7],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), sink)
    return {"new_data.parquet": sink.getvalue().to_pybytes()}


def image_folder() -> Files:
    return {f"{name}/{n}.png": image_bytes(seed=n, form="PNG") for name in ("dog", "cat") for n in range(2)}


def lay(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def ignored(shard: PreparedShard) -> None:
    """Not looked at."""


def settings(kind: str, source: Path, **changes: Any) -> Preparation:
    tree = {"kind": kind, "source": str(source), "output": str(source.parent / "out"), **changes}
    return validate(Preparation, tree, "prepare")


def prepared(kind: str, source: Path, **changes: Any) -> tuple[list[Sample], dict[str, int]]:
    """The samples, and what was skipped."""
    one = settings(kind, source, **changes)
    shards = prepare(one, ignored)
    samples = []
    for shard in shards:
        with Path(one.output, shard.name).open("rb") as stream:
            read = list(read_samples(stream))
        assert len(read) == shard.samples
        samples += read
    return samples, {reason: count for shard in shards for reason, count in shard.skipped.items()}


CASES: dict[str, tuple[Callable[[], Files], dict[str, str], list[str]]] = {
    "mscoco": (mscoco, {}, [f"caption 0 of {n}" for n in (1, 2, 3, 4)]),
    "mscoco permissive": (mscoco, {"permissive": True}, [f"caption 0 of {n}" for n in (1, 3, 4)]),
    "mscoco val": (mscoco, {"split": "val"}, ["caption 0 of 4"]),
    "docci": (docci, {}, ["Long 0.", "Long 1.", "Long 2."]),
    "docci test": (docci, {"split": "test"}, ["Long 0."]),
    "dci": (dci, {}, ["A car. It is red."]),
    "dci short": (dci, {"captions": "short"}, ["A car."]),
    "dci complete": (dci, {"captions": "complete"}, ["A car. It is red. a wheel: It is round. a door."]),
    "gbc": (gbc, {}, ["Short 1."]),
    "gbc long": (gbc, {"captions": "long"}, ["In detail 1."]),
    "gbc relation": (gbc, {"captions": "relation"}, ["Short 1. The cat is on the mat."]),
    "sharegpt4v": (sharegpt4v, {}, ["A cat. It sleeps."]),
    "recap-coco-30k": (recap_coco, {}, ["The image shows a cat."]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_dataset_becomes_samples_of_image_text_and_origin(case: str, tmp_path: Path) -> None:
    files, changes, captions = CASES[case]
    kind = case.partition(" ")[0]
    samples, skipped = prepared(kind, lay(tmp_path / "in", files()), **changes)
    assert [sample.members["txt"].decode() for sample in samples] == captions
    assert all("." not in sample.key and "/" not in sample.key for sample in samples)
    assert all(sample.members["jpg"] in {*files().values(), image_bytes()} for sample in samples), "untouched"
    records = [json.loads(sample.members["json"]) for sample in samples]
    assert all(record["source"] == kind for record in records)
    assert all("licence" in record or kind == "recap-coco-30k" for record in records)
    assert skipped == ({"not a permissive licence": 1} if "permissive" in case else {})


def test_all_captions_of_an_image_are_kept_and_its_own_licence(tmp_path: Path) -> None:
    samples, _ = prepared("mscoco", lay(tmp_path / "in", mscoco()), split="train")
    assert json.loads(samples[1].members["syn.json"]) == {"captions": [f"caption {i} of 2" for i in range(5)]}
    record = json.loads(samples[1].members["json"])
    assert (record["licence_url"], record["url"]) == (LICENCES[0]["url"], "http://flickr/2")


def test_images_may_lie_in_a_zip_as_it_was_downloaded(tmp_path: Path) -> None:
    files = mscoco()
    with zipfile.ZipFile(tmp_path / "train2017.zip", "w") as archive:
        for name in [name for name in files if name.startswith("train2017/")]:
            archive.writestr(name, files.pop(name))
    source = lay(tmp_path / "in", files)
    (tmp_path / "train2017.zip").rename(source / "train2017.zip")
    unpacked = prepared("mscoco", lay(tmp_path / "other", mscoco()), output=str(tmp_path / "a"))
    packed = prepared("mscoco", source, output=str(tmp_path / "b"))
    assert [sample.members for sample in packed[0]] == [sample.members for sample in unpacked[0]]


def test_a_damaged_zip_costs_the_images_that_it_damages(tmp_path: Path) -> None:
    files = mscoco()
    path = tmp_path / "train2017.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [name for name in files if name.startswith("train2017/")]:
            archive.writestr(name, files.pop(name))
        start = archive.getinfo("train2017/000000000002.jpg").header_offset
    data = bytearray(path.read_bytes())
    data[start + 100 : start + 140] = bytes(40)
    source = lay(tmp_path / "in", files)
    (source / "train2017.zip").write_bytes(data)
    samples, skipped = prepared("mscoco", source)
    assert [sample.key for sample in samples] == ["000000000001", "000000000003", "000000000004"]
    assert skipped == {"unreadable image": 1}
    with pytest.raises(ConfigError, match=r"train2017\.zip is no whole zip file .* download it again"):
        prepared(
            "mscoco", lay(tmp_path / "again", files | {"train2017.zip": bytes(data[:500])}), output=str(tmp_path / "o")
        )


def test_graphs_find_their_images_in_tars_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(tmp_path / "cache"))
    members = [("a.jpg", image_bytes(seed=2)), ("a.json", as_json({"url": "http://images/2.jpg"}))]
    write_tar(tmp_path / "images/0.tar", members)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([gbc_graph(1), gbc_graph(2)]), sink)
    source = lay(tmp_path / "in", {"gbc.parquet": sink.getvalue().to_pybytes()})
    (sample,), skipped = prepared("gbc", source, images=str(tmp_path / "images"))
    assert (sample.members["jpg"], sample.members["txt"]) == (image_bytes(seed=2), b"Short 2.")
    assert skipped == {"not in base": 1}


def test_a_folder_for_each_class_becomes_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lay(tmp_path / "in", {**image_folder(), "cat/notes.txt": b"no image"})
    (source / "again").symlink_to(".")
    samples, skipped = prepared("image-folder", source)
    assert {sample.key: sample.members["cls"] for sample in samples} == {
        "cat_0": b"0",
        "cat_1": b"0",
        "dog_0": b"1",
        "dog_1": b"1",
    }
    assert all(set(sample.members) == {"png", "json", "cls"} for sample in samples)
    assert not skipped
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["cat", "dog"]
    assert (tmp_path / "out/classnames.txt").read_text() == "cat\ndog\n"


def broken_docci(tmp_path: Path) -> Path:
    """Five good images; between them each kind of trouble. A secret lies beside the source."""
    (tmp_path / "secret.jpg").write_bytes(image_bytes(seed=99))
    names = ["0.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "1.jpg", "absent.jpg", "cut.jpg", "link.jpg"]
    names += ["2.jpg", "2.jpg", "text.jpg", "3.jpg", "..\\other.jpg", "no\0name.jpg", "4.jpg", "absent_too.jpg"]
    rows = [{"image_file": name, "split": "train", "description": f"of {name!r}"} for name in names]
    lines = [as_json(row) for row in rows]
    lines[2:2] = [
        b"{not json",
        b"[]",
        b'{"split": "train"}',
        b'{"image_file": "0b.jpg", "split": "train", "description": "\\u200b"}',
    ]
    images = {f"images/{n}.jpg": image_bytes(seed=n) for n in range(5)}
    files = {
        **images,
        "images/cut.jpg": image_bytes()[:300],
        "images/text.jpg": b"no image",
        "images/0b.jpg": image_bytes(),
    }
    source = lay(tmp_path / "in", {"docci_descriptions.jsonlines": b"\n".join(lines), **files})
    os.symlink(tmp_path / "secret.jpg", source / "images/link.jpg")
    return source


def test_whatever_cannot_be_used_is_counted_and_nothing_outside_is_read(tmp_path: Path) -> None:
    samples, _ = prepared("docci", broken_docci(tmp_path), samples_per_shard=2)
    assert [sample.key for sample in samples] == ["0", "1", "2", "3", "4"]
    assert image_bytes(seed=99) not in [sample.members["jpg"] for sample in samples]
    shards = json.loads((tmp_path / "out/preparation.json").read_text())["shards"]
    skipped: dict[str, int] = {}
    for shard in shards:
        for reason, count in shard["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + count
    assert skipped == {
        "unsafe name": 3,
        "bad annotation": 3,
        "no text": 1,
        "no image": 3,
        "corrupt image": 2,
        "link leads out of the folder": 1,
        "duplicate key": 1,
    }
    assert [shard["samples"] for shard in shards] == [2, 2, 1], "skipped images leave no gaps"


def test_a_stopped_run_goes_on_and_its_tars_are_the_same(tmp_path: Path) -> None:
    source = broken_docci(tmp_path)
    whole = settings("docci", source, samples_per_shard=1, output=str(tmp_path / "whole"))
    prepare(whole, ignored)

    def stopped(shard: PreparedShard) -> None:
        if shard.name == "00001.tar":
            raise KeyboardInterrupt

    parts = settings("docci", source, samples_per_shard=1, output=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        prepare(parts, stopped)
    names: list[str] = []
    prepare(parts, lambda shard: names.append(shard.name))
    assert names == ["00002.tar", "00003.tar", "00004.tar"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }
    prepare(parts, lambda shard: names.append(shard.name))
    assert len(names) == 3, "a finished one has nothing to do"
    (tmp_path / "parts/00003.tar").unlink()
    prepare(parts, lambda shard: names.append(shard.name))
    assert names[3:] == ["00003.tar", "00004.tar"]


def test_another_source_or_other_settings_are_refused(tmp_path: Path) -> None:
    source = lay(tmp_path / "in", docci())
    prepare(settings("docci", source), ignored)
    with pytest.raises(ConfigError, match="was prepared otherwise: split: train → test"):
        prepare(settings("docci", source, split="test"), ignored)
    with (source / "docci_descriptions.jsonlines").open("ab") as file:
        file.write(b"\n{}")
    with pytest.raises(ConfigError, match="otherwise: source_digest"):
        prepare(settings("docci", source), ignored)
    write_tar(tmp_path / "other/0.tar", [("a.txt", b"")])
    with pytest.raises(ConfigError, match="holds tars that were not prepared here"):
        prepare(settings("docci", source, output=str(tmp_path / "other")), ignored)


WRONG: dict[str, tuple[str, Files, dict[str, Any], str]] = {
    "no annotations": ("docci", {"x.txt": b""}, {}, "has no docci_descriptions.jsonlines: name the folder"),
    "no json": ("mscoco", {"annotations/captions_val2017.json": b"<html>"}, {}, "is not JSON: .* download it again"),
    "other json": ("mscoco", {"annotations/captions_val2017.json": b"{}"}, {}, "form of MSCOCO.* download it again"),
    "a list": ("mscoco", {"annotations/captions_val2017.json": b"[]"}, {}, "does not hold keys and values"),
    "no parquet": ("recap-coco-30k", {"a.parquet": b"x"}, {}, "cannot be read: .* download it again"),
    "two": ("sharegpt4v", {"a.json": b"[]", "b.json": b"[]"}, {}, "several JSON files, a.json, b.json"),
    "no classes": ("image-folder", {"a.jpg": image_bytes()}, {}, "no folders of images"),
    "no such sort": ("dci", dci(), {"captions": "long"}, "dci has extended or short or complete, not long"),
    "one sort": ("docci", docci(), {"captions": "long"}, "docci has one sort alone, not long"),
    "no splits": ("dci", dci(), {"split": "train"}, "dci comes in no splits"),
    "no licences": ("docci", docci(), {"permissive": True}, "no licences of single images"),
    "no kind": ("cocoa", {}, {}, "kind: expected mscoco, docci"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_source_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    kind, files, changes, message = WRONG[case]
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match=message):
        prepared(kind, lay(tmp_path / "in", files), **changes)
    assert not (tmp_path / "out").exists()


def test_an_output_within_the_source_is_refused(tmp_path: Path) -> None:
    source = lay(tmp_path / "in", image_folder())
    with pytest.raises(ConfigError, match=r"OUTPUT: .*in/tars lies in the source"):
        prepared("image-folder", source, output=str(source / "tars"))
    assert not (source / "tars").exists()


def test_a_source_without_a_usable_image_fails(tmp_path: Path) -> None:
    files = {name: data for name, data in docci().items() if not name.startswith("images")}
    with pytest.raises(ShardError, match=r"no sample can be made of it: no image \(3\)"):
        prepared("docci", lay(tmp_path / "in", files))
    with pytest.raises(ConfigError, match=r"SOURCE: .*nowhere is no folder"):
        prepared("docci", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("coco/train2017/000000000009.jpg", "coco_train2017_000000000009"),
        ("a.b.c.jpg", "a_b_c"),
        ("x/../../y.png", "x_y"),
        ("ü 1.jpg", "ü_1"),
    ],
)
def test_keys_have_nothing_that_means_something_in_a_tar(name: str, key: str) -> None:
    assert key_of(name) == key


def test_keys_of_long_or_empty_names_are_told_apart() -> None:
    keys = {key_of(f"{'a' * 300}{n}.jpg") for n in range(3)} | {key_of("...jpg"), key_of("?.jpg")}
    assert len(keys) == 5
    assert max(len(key) for key in keys) < 70


def test_the_verb_tells_what_was_made_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = str(broken_docci(tmp_path)), str(tmp_path / "out")
    assert main(["prepare", "docci", source, output, "--samples-per-shard", "4"]) == 0
    shown = capsys.readouterr().out
    assert "00000.tar: 4 samples" in shown
    assert "5 samples in 2 tars; 14 of the source skipped\n  " in shown
    assert main(["prepare", "docci", source, output, "--samples-per-shard", "4", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["samples"] == 5
    assert main(["prepare", "docci", source, output]) == 2
