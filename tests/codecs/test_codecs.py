"""A form of the embeddings is a class and its place among the codecs: whatever writes or reads them goes by these."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dr_pipeline import codecs
from dr_pipeline.codecs.codec import as_stored, to_float32
from dr_pipeline.config import jobfile
from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import TEXT, Column, Sample, parse_base_sample, split_name
from dr_pipeline.errors import ConfigError, SampleSkipped
from dr_pipeline.report.estimate import added_bytes
from dr_pipeline.storage import Storage
from dr_pipeline.training.data.reader import read_shard
from dr_pipeline.verification.verify import verify
from tests.conftest import job_tree, make_job
from tests.tars import group, read_reinforced, stored
from tests.training.data.loading import make_loader, train_job
from tests.verification.datasets import sample_members, write_dataset

TEACHERS = [{"name": "one", "use": "m:C", "dim": 3}, {"name": "two", "use": "m:C", "dim": 5}]


class EighthBits:
    """One signed byte a number, of vectors within the unit ball."""

    ext = "i8"
    precision = "int8"
    stored_bytes = 1.0
    unpacked_bytes = 4
    norm_tolerance = 2e-2
    rounding = 2e-2

    def encode(self, arrays: dict[str, np.ndarray]) -> bytes:
        head = json.dumps({name: array.shape for name, array in arrays.items()}).encode()
        return b"\n".join([head, *((array * 127).round().astype(np.int8).tobytes() for array in arrays.values())])

    def decode(self, data: bytes) -> dict[str, np.ndarray]:
        head, _, rest = data.partition(b"\n")
        arrays = {}
        for name, shape in json.loads(head).items():
            size = int(np.prod(shape))
            arrays[name] = np.frombuffer(rest[:size], np.int8).reshape(shape) / np.float32(127)
            rest = rest[size + 1 :]
        return arrays


@pytest.fixture
def with_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "CODECS", (*codecs.CODECS, EighthBits()))


@pytest.mark.usefixtures("with_int8")
def test_another_codec_is_written_verified_and_learnt_from(tmp_path: Path) -> None:
    job = write_dataset(tmp_path / "out", num_shards=2, output={"precision": "int8"}, teachers=TEACHERS)
    samples = read_reinforced(tmp_path / "out/00/0.tar") | read_reinforced(tmp_path / "out/00/1.tar")
    assert all(
        {"i8", "paug.json"} <= sample.members.keys() and "pth.gz" not in sample.members for sample in samples.values()
    )

    findings = verify(str(tmp_path / "out"), Storage())
    assert (findings.problems, findings.num_samples) == ([], 6)

    batch = next(iter(make_loader(train_job(job.output.path), batch_size=6)))
    text_emb_BD = np.concatenate([batch.columns[Column(card["name"], TEXT)] for card in TEACHERS], axis=1)
    for key, row_D in zip(batch.keys, text_emb_BD, strict=True):
        assert np.array_equal(row_D, stored(samples[key], TEXT)[0])


@pytest.mark.usefixtures("with_int8")
def test_a_norm_is_held_to_what_its_codec_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "out", num_shards=1, output={"precision": "int8"}, teachers=TEACHERS)
    monkeypatch.setattr(EighthBits, "norm_tolerance", 1e-4)
    problems = verify(str(tmp_path / "out"), Storage()).problems
    assert any("norm that is" in text for _, _, text in problems)


@pytest.mark.usefixtures("with_int8")
def test_a_student_without_distillation_passes_over_it(tmp_path: Path) -> None:
    write_dataset(tmp_path / "out", num_shards=1, output={"precision": "int8"}, teachers=TEACHERS)
    uri = str(tmp_path / "out/00/0.tar")
    for weight in (0.0, 1.0):
        samples = read_shard(train_job(uri, distillation={"weight": weight}), uri)
        assert [("i8" in sample.members) for sample in samples] == [weight > 0] * 3


@pytest.mark.usefixtures("with_int8")
def test_what_an_earlier_run_left_in_it_is_replaced_in_any_case_of_its_name() -> None:
    ((key, fields),) = group(sample_members(make_job(output={"precision": "int8"}), "k"))
    assert "i8" in fields
    sample = Sample(key, fields)
    parse_base_sample(sample, "auto")
    assert "i8" not in sample.members
    assert split_name("k.I8") == ("k", "i8")


@pytest.mark.usefixtures("with_int8")
def test_a_plan_knows_its_size() -> None:
    def embeddings(precision: str) -> float:
        job = make_job(output={"precision": precision}, teachers=TEACHERS)
        nothing = [{**card, "dim": None} for card in TEACHERS]
        return added_bytes(job) - added_bytes(make_job(output={"precision": precision}, teachers=nothing))

    assert embeddings("int8") == embeddings("float32") / 4


def test_a_precision_that_nothing_writes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps(job_tree(output={"precision": "int8"})))
    with pytest.raises(ConfigError, match=r"output\.precision: expected bfloat16 or float32 \(found 'int8'\)"):
        jobfile.load(tmp_path / "job.yaml", Job)


def test_a_sample_without_any_form_is_told_which_there_are() -> None:
    with pytest.raises(SampleSkipped, match=r"pth\.gz or npz"):
        layout.decode_columns(Sample("k", {"txt": b""}))


@pytest.mark.parametrize("codec", codecs.CODECS, ids=lambda codec: codec.ext)
def test_a_codec_keeps_its_own_word(codec: codecs.Codec) -> None:
    rows_RD = np.random.default_rng(0).standard_normal((100, 768), np.float32)
    rows_RD /= np.linalg.norm(rows_RD, axis=1, keepdims=True)
    found_RD = as_stored(codec, rows_RD)
    assert np.abs(np.linalg.norm(found_RD, axis=1) - 1).max() < codec.norm_tolerance
    assert len(codec.encode({"rows_emb": rows_RD})) == pytest.approx(rows_RD.size * codec.stored_bytes, rel=0.25)
    array = codec.decode(codec.encode({"rows_emb": rows_RD}))["rows_emb"]
    item_bytes = array.element_size() if torch.is_tensor(array) else array.itemsize
    assert item_bytes == codec.unpacked_bytes
    assert np.array_equal(to_float32(array), found_RD)
