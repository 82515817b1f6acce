"""verify passes what is right, of any writer, and names by shard and key what is not."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dr_pipeline.config.training import Base
from dr_pipeline.dataset import checksum, manifest
from dr_pipeline.dataset.base import BaseReader, open_index
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from dr_pipeline.verify.findings import Findings
from dr_pipeline.verify.verify import verify
from tests.conftest import GOLDEN, image_bytes, rename_as_others_do, write_tar
from tests.tars import Member, read_members
from tests.verify.datasets import Change, replace_shard, sample_members, write_dataset

HIT = "s1_1"


def found(uri: Path) -> Findings:
    return verify(str(uri), Storage())


def on_hit(change: Callable[[list[Member]], list[Member]]) -> Change:
    """Damage to one sample of the second shard."""
    return lambda key, members: change(members) if key == HIT else members


def replaced(ext: str, alter: Callable[[bytes], bytes]) -> Change:
    return on_hit(
        lambda members: [(name, alter(data) if name == f"{HIT}.{ext}" else data) for name, data in members],
    )


def without(ext: str) -> Change:
    return on_hit(lambda members: [member for member in members if member[0] != f"{HIT}.{ext}"])


def tensors(alter: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    """A change of the embeddings: `alter` works in place."""

    def reencode(data: bytes) -> bytes:
        content = torch.load(io.BytesIO(gzip.decompress(data)), weights_only=True)
        alter(content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return gzip.compress(buffer.getvalue(), 1)

    return replaced("pth.gz", reencode)


def views(alter: Callable[[list[Any]], Any]) -> Change:
    """A change of the views' parameters: `alter` works in place."""

    def reencode(data: bytes) -> bytes:
        tree = json.loads(data)
        alter(tree["param_aug"])
        return json.dumps(tree).encode()

    return replaced("paug.json", reencode)


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


NO_IMAGES = "none of its samples holds its image, so no view was checked: --base names the dataset that does"


def published(folder: Path, base: Path, with_config: bool = True, change: Change | None = None) -> Path:
    """A dataset without images and texts, as others publish theirs, and the base that has both."""
    kept: dict[str, list[Member]] = {}

    def part(key: str, members: list[Member]) -> list[Member]:
        kept[key] = [member for member in members if member[0].endswith((".jpg", ".txt", f"{key}.json"))]
        rest = [member for member in members if not member[0].endswith((".jpg", ".txt"))]
        return change(key, rest) if change else rest

    write_dataset(folder, part)
    write_tar(base, [member for members in kept.values() for member in members])
    if not with_config:
        for name in ("config.json", "reports", "manifest"):
            path = folder / name
            path.unlink() if path.is_file() else shutil.rmtree(path)
    return folder


def with_base(dataset: Path, base: Path, match: str = "key") -> Findings:
    index = open_index(Base(shards=str(base), match=match), base.parent / "cache")
    return verify(str(dataset), Storage(), BaseReader(index))


@pytest.mark.parametrize("with_config", [True, False])
def test_shards_published_without_images_are_checked_against_their_base(with_config: bool, tmp_path: Path) -> None:
    dataset = published(tmp_path / "out", tmp_path / "base.tar", with_config)
    alone = found(dataset)
    assert (len(alone.problems), alone.remarks) == (2 * 6, [NO_IMAGES])
    assert with_base(dataset, tmp_path / "base.tar") == Findings(2, 6, [])


def test_a_view_that_does_not_fit_the_bases_image_is_named(tmp_path: Path) -> None:
    dataset = published(tmp_path / "out", tmp_path / "base.tar", change=views(lambda entries: entries[0][0].clear()))
    damaged = published(
        tmp_path / "other", tmp_path / "base.tar", change=views(lambda entries: entries[2][0].__setitem__(0, 30))
    )
    ((_, key, text),) = with_base(damaged, tmp_path / "base.tar").problems
    assert (key, text[:8]) == (HIT, "view 2: ")
    assert "bad paug.json" in with_base(dataset, tmp_path / "base.tar").problems[0][2]


def test_samples_that_the_base_lacks_are_counted_unless_it_lacks_all_of_a_shard(tmp_path: Path) -> None:
    dataset = published(tmp_path / "out", tmp_path / "base.tar")
    with (tmp_path / "base.tar").open("rb") as file:
        members = list(read_members(file))
    write_tar(tmp_path / "part.tar", [member for member in members if member[0][:4] in ("s0_0", "s1_0", "s1_1")])
    findings = with_base(dataset, tmp_path / "part.tar")
    assert (findings.problems, findings.remarks) == ([], ["3 samples are not in the base: no image to check"])
    write_tar(tmp_path / "wrong.tar", [member for member in members if member[0].startswith("s0")])
    ((file_name, _, text),) = with_base(dataset, tmp_path / "wrong.tar").problems
    assert (file_name, text[:36]) == ("00/1.tar", "none of its 3 samples is in the base")


def test_a_base_that_cannot_be_read_is_no_fault_of_the_dataset(tmp_path: Path) -> None:
    dataset = published(tmp_path / "out", tmp_path / "base.tar")
    index = open_index(Base(shards=str(tmp_path / "base.tar"), match="key"), tmp_path / "cache")
    (tmp_path / "base.tar").unlink()
    with pytest.raises(ConfigError, match=r"--base: .*cannot be read"):
        verify(str(dataset), Storage(), BaseReader(index))


def test_images_of_other_forms_pass(tmp_path: Path) -> None:
    write_dataset(
        tmp_path,
        lambda key, members: [
            (f"{key}.bmp", image_bytes(form="BMP")) if name.endswith(".jpg") else (name, data) for name, data in members
        ],
    )
    assert found(tmp_path) == Findings(2, 6, [])


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


BOTH, SECOND = slice(None), slice(3, 8)
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
        on_hit(lambda members: [*members, (f"{HIT}.npz", b"PK\x03\x04")]),
        "unreadable embeddings: File is not a zip file",
    ),
    "damaged embeddings": (replaced("pth.gz", lambda data: data[:-9]), "unreadable embeddings"),
    "a view without embedding": (tensors(cut("image_emb", 3)), "image_emb has 3 rows for 4 views; the dataset has 4"),
    "fewer views": (
        lambda key, members: views(lambda entries: entries.pop())(key, tensors(cut("image_emb", 3))(key, members)),
        "image_emb has 3 rows for 3 views; the dataset has 4",
    ),
    "an embedding without view": (views(lambda entries: entries.pop()), "image_emb has 4 rows for 3 views"),
    "a caption without embedding": (tensors(cut("syn_text_emb", 1)), "syn_text has 2 captions but 1 embeddings"),
    "no ground truth": (tensors(cut("text_emb", 0)), "text_emb has 0 rows for one caption"),
    "no synthetic embedding": (tensors(lambda content: content.pop("syn_text_emb")), "missing embedding: syn_text_emb"),
    "fewer dims": (tensors(narrow), "text_emb has 7 dims; the dataset has 8"),
    "NaN in a view": (tensors(put("image_emb", 2, slice(5, 6), float("nan"))), "image_emb holds NaN or infinity"),
    "infinity in a caption": (tensors(put("syn_text_emb", 1, slice(0, 1), float("inf"))), "syn_text holds NaN"),
    "not unit-norm": (tensors(scale("image_emb", BOTH, 1.05)), "image_emb: teacher 0's slice has a norm that is 0.05"),
    "one teacher not unit-norm": (tensors(scale("text_emb", SECOND, 0.9)), "text_emb: teacher 1's slice has a norm"),
    "a zero slice": (
        tensors(put("syn_text_emb", 0, SECOND, 0.0)),
        "syn_text: teacher 1's slice has a norm that is 1",
    ),
    "normalised as a whole": (tensors(scale("image_emb", BOTH, 0.5**0.5)), "image_emb: teacher 0's slice"),
    "a crop below": (views(lambda entries: entries[2][0].__setitem__(0, 30)), "view 2: random_resized_crop [30, "),
    "a crop to the left": (
        views(lambda entries: entries[1][0].__setitem__(1, -1)),
        "lies outside the image of 40 × 30 px",
    ),
    "a crop too wide": (views(lambda entries: entries[0][0].__setitem__(3, 41)), "view 0: random_resized_crop"),
    "an empty crop": (views(lambda entries: entries[3][0].__setitem__(2, 0)), "view 3: random_resized_crop"),
    "another recipe's view": (views(lambda entries: entries[0].append(True)), "bad paug.json"),
    "an unknown operation": (views(lambda entries: entries[0][1][0].__setitem__(0, 14)), "bad paug.json"),
    "a caption that is none": (replaced("syn.json", lambda _: b'{"syn_text": ["a", 5]}'), "bad syn.json"),
}


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


def test_views_of_another_writer_that_no_replay_can_make_are_named(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "shards" / "v2_bf16.tar", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"reinforce": {"image_augmentation": {"resize": {"size": 256}}}}))
    ((file, _, problem),) = found(tmp_path).problems
    assert file == "config.json"
    assert problem.startswith("the views were made with resize, which is not replayed here")


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
    write_dataset(tmp_path, tensors(scale("image_emb", BOTH, factor)), num_shards=2)
    problems = found(tmp_path / "00" / "1.tar").problems
    if factor == 1.05:
        ((_, key, text),) = problems
        assert key == HIT
        assert text.startswith("image_emb: a squared norm is 0.2")
    else:
        assert not problems  # a norm of 1 over both slices: only the teachers' dims could tell
    assert not found(tmp_path / "00" / "0.tar").problems


@pytest.mark.parametrize("apart", [False, True])
def test_duplicate_keys_are_named(apart: bool, tmp_path: Path) -> None:
    def twice(key: str, members: list[Member]) -> list[Member]:
        again = "s1_0" if apart else "s1_1"
        if key != "s1_2":
            return members
        return [(name.replace("s1_2", again), data) for name, data in members]

    write_dataset(tmp_path, twice)
    assert found(tmp_path).problems == [("00/1.tar", "s1_0" if apart else "s1_1", "duplicate key")]


def test_scattered_members_and_links_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.jpg", "b.jpg", "a.txt"):
            archive.addfile(tarfile.TarInfo(name))
        for name, kind in (("c.jpg", tarfile.SYMTYPE), ("d.jpg", tarfile.LNKTYPE), ("folder", tarfile.DIRTYPE)):
            item = tarfile.TarInfo(name)
            item.type, item.linkname = kind, "a.jpg"
            archive.addfile(item)
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    problems = {(key, text) for _, key, text in found(tmp_path / "x.tar").problems}
    assert {
        (
            "a",
            "members not adjacent: jpg and txt do not lie side by side: sort the tar's members by name, as tar "
            "--sort=name does",
        ),
        ("c", "symbolic link: jpg names a.jpg: write the tar with --dereference"),
        ("d", "hard link: jpg names a.jpg: write the tar with --hard-dereference"),
    } <= problems
    assert {key for key, _ in problems} == {"a", "b", "c", "d"}


def test_a_truncated_tar_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "00" / "0.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    findings = found(tmp_path)
    ((shard, key, text),) = findings.problems
    assert (shard, key) == ("00/0.tar", "")
    assert text.startswith("truncated")
    assert (findings.num_shards, findings.num_samples) == (2, 3)


@pytest.mark.parametrize("content", [b"", b"<html>" * 200])
def test_a_file_that_is_no_tar_is_named(content: bytes, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "00" / "0.tar").write_bytes(content)
    assert [(shard, key) for shard, key, _ in found(tmp_path).problems] == [("00/0.tar", "")]


def test_a_changed_byte_that_breaks_nothing_is_seen_by_the_digest(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "00" / "0.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"alt-text of s0_0", b"alt-text of s9_9"))
    assert found(tmp_path).problems == [
        ("00/0.tar", "", "its SHA-256 is not the one that its report gives: the file was changed")
    ]
    path.write_bytes(data + b"\0" * 512)  # behind the end mark
    assert len(found(tmp_path).problems) == 1


def test_a_sample_too_few_is_seen_by_the_report(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    replace_shard(job, "00/1.tar", sample_members(job, "only"))
    assert found(tmp_path).problems == [
        ("00/1.tar", "", "1 samples, but its report says 3"),
        ("manifest/samples/00/1.parquet", "", "skips other samples than the shard's report counts"),
    ]


def test_a_shard_without_report_and_a_report_without_shard_are_named(tmp_path: Path) -> None:
    job = write_dataset(tmp_path, num_shards=3)
    (tmp_path / "reports" / job.fingerprint() / "00" / "1.json").unlink()
    (tmp_path / "00" / "2.tar").unlink()
    (first, _, no_report), (second, _, no_tar) = found(tmp_path).problems
    assert (first, second) == ("00/1.tar", "00/2.tar")
    assert no_report.startswith("no report: the shard was never committed")
    assert "the tar is missing" in no_tar


def test_shards_of_another_configuration_do_not_count(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    (tmp_path / "reports" / job.fingerprint()).rename(tmp_path / "reports" / "0123456789ab")
    assert {text.partition(":")[0] for _, _, text in found(tmp_path).problems} == {"no report"}


def test_files_in_the_making_are_not_looked_at(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "00" / ".5.tar").write_bytes(b"half")
    report = next(tmp_path.rglob("reports/*/00/*.json"))
    report.with_name(f".{report.name}.1234.tmp").write_bytes(b'{"name": "0')
    assert found(tmp_path) == Findings(2, 6, [])


def test_where_there_is_nothing_to_read_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no shard here to verify"):
        found(tmp_path)
    with pytest.raises(ConfigError, match=r"absent\.tar: no shard here to verify"):
        found(tmp_path / "absent.tar")


def test_members_that_are_no_samples_do_no_harm(tmp_path: Path) -> None:
    golden = (GOLDEN / "shards" / "v2_bf16.tar").open("rb")
    with golden:
        members = list(read_members(golden))
    write_tar(tmp_path / "x.tar", [("README", b"hello"), *members, ("._v20000.jpg", b"x")])
    assert found(tmp_path / "x.tar") == Findings(1, 8, [])


def test_random_damage_never_stops_verify(tmp_path: Path) -> None:
    data = (GOLDEN / "shards" / "v2_bf16.tar").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "x.tar"
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 30)] ^= rng.integers(1, 256, 30, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        assert found(path).num_shards == 1


class Watched(Storage):
    """A storage that notes which threads read its streams."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[threading.Thread] = set()

    def open(self, uri: str) -> BinaryIO:
        readers, stream = self.readers, super().open(uri)

        class Noted(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def seekable(self) -> bool:
                return True

            def seek(self, *place: int) -> int:
                return stream.seek(*place)

            def readinto(self, buffer: memoryview) -> int:
                readers.add(threading.current_thread())
                return stream.readinto(buffer)  # type: ignore[attr-defined]

        return io.BufferedReader(Noted())


@pytest.mark.parametrize("damage", [b"", b"\xff"])
def test_no_thread_but_the_caller_s_reads(damage: bytes, tmp_path: Path) -> None:
    """A thread of pyarrow's that is in a stream when the process ends aborts it."""
    write_dataset(tmp_path)
    path = tmp_path / "manifest" / "shards.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:60] + damage + data[60 + len(damage) :])
    (tmp_path / "config.json").unlink()  # else its digest of the table would do
    storage = Watched()
    problems = verify(str(tmp_path), storage).problems
    assert len(problems) == (2 if damage else 1)
    if not damage:
        assert manifest.ShardTable(storage, str(tmp_path)).failed_before() == set()
    assert storage.readers == {threading.current_thread()}


def test_a_manifest_that_a_run_left_unwritten_is_to_be_written_by_the_next(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "manifest" / "shards.parquet").unlink()
    ((file, _, problem),) = found(tmp_path).problems
    assert file == "manifest/shards.parquet"
    assert problem == "is missing: a run ended early; run the job again to write it"


def test_shards_are_read_under_the_names_that_others_give(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_shards=3)
    for folder in ("reports", "manifest"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "config.json").unlink()
    rename_as_others_do(tmp_path)
    (tmp_path / "00" / "gone.tar").symlink_to("nowhere")
    findings = found(tmp_path)
    assert findings.problems == [("00/gone.tar", "", "cannot be read: links that lead nowhere")]
    assert (findings.num_samples, findings.num_shards) == (9, 3)
    for name in ("0.TAR", "1.tar.gz", "2.tgz"):
        findings = found(tmp_path / "00" / name)
        assert (findings.problems, findings.num_samples) == ([], 3)
    (tmp_path / "00" / "1.tar.gz").write_bytes((tmp_path / "00" / "1.tar.gz").read_bytes()[:-20])
    assert found(tmp_path / "00" / "1.tar.gz").problems[0][2].startswith("the gzip file is cut or damaged")


def test_a_shard_that_was_packed_after_it_was_made_is_not_what_its_report_says(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "00" / "0.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    ((name, _, problem),) = found(tmp_path).problems
    assert name == "00/0.tar"
    assert problem.startswith("its SHA-256 is not the one that its report gives")


def test_a_table_of_samples_of_another_form_is_named(tmp_path: Path) -> None:
    job = write_dataset(tmp_path)
    path = tmp_path / "manifest" / "samples" / "00" / "1.parquet"
    pq.write_table(pq.read_table(path).drop_columns("members"), path)
    report = next(tmp_path.glob(f"reports/{job.fingerprint()}/00/1.json"))
    changed = checksum.load(report.read_bytes()) | {"samples_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    report.write_bytes(checksum.dump(changed))
    assert found(tmp_path).problems == [
        ("manifest/samples/00/1.parquet", "", "its columns are not those of a table of samples")
    ]
