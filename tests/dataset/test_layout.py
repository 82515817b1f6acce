"""Members as the contract has them, and back again; golden shards of another writer decode."""

import gzip
import io
import json
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dr_pipeline.config.job import Job
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.layout import side_by_side
from dr_pipeline.dataset.sample import IMAGE, TEXT, Column, Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import SampleSkipped
from dr_pipeline.views.recipe import Recipe
from tests.conftest import GOLDEN, make_job, make_sample

OTHERS = {"url.txt": b"http://x", "json": b'{"uid": 1}', "cls": b"\0\xff"}


def reinforced(job: Job, **synthetic: list[str]) -> Sample:
    sample = make_sample(job, "d/k", **synthetic)
    sample.members = {"png": b"IMAGE", **OTHERS}
    sample.caption = "größe"
    return sample


def encode(job: Job, sample: Sample) -> dict[str, bytes]:
    return layout.encode(sample, job.output, Recipe(job.augmentation))


def decode(members: dict[str, bytes]) -> Sample:
    sample = Sample("d/k", members)
    layout.decode(sample)
    return sample


def bf16(array: np.ndarray) -> np.ndarray:
    return torch.from_numpy(array).to(torch.bfloat16).float().numpy()


def check_round_trip(job: Job, sample: Sample) -> None:
    """What is written is read again, rounded."""
    decoded = Sample("d/k", encode(job, sample))
    assert layout.decode(decoded, dims={"one": 3, "two": 5}) == job.output.layout
    check_equal(decoded, sample, bf16 if job.output.precision == "bfloat16" else np.array)


def check_equal(decoded: Sample, sample: Sample, rounded: Any = np.array) -> None:
    assert (decoded.views, decoded.synthetic) == (sample.views, sample.synthetic)
    assert list(decoded.synthetic) == list(sample.synthetic)
    assert set(decoded.columns) == set(sample.columns)
    for column, array in sample.columns.items():
        assert decoded.columns[column].dtype == np.float32
        assert np.array_equal(decoded.columns[column], rounded(array))


@pytest.mark.parametrize("form", ["v1", "v2"])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_round_trip(form: str, precision: str) -> None:
    job = make_job(output={"layout": form, "precision": precision})
    check_round_trip(job, reinforced(job, syn_text_a=["one", "zwölf"]))


def test_round_trip_of_several_captioners_and_of_the_crop_alone() -> None:
    job = make_job(augmentation={"rand_augment": None})
    check_round_trip(job, reinforced(job, syn_text=["a"], syn_text_b=["b", "c"], syn_text_emb=["d"]))


def test_members_and_their_order_are_the_contracts() -> None:
    job = make_job()
    data = encode(job, reinforced(job))
    assert list(data) == ["png", "txt", "cls", "json", "url.txt", "syn.json", "paug.json", "pth.gz"]
    assert (data["png"], data["txt"].decode()) == (b"IMAGE", "größe")
    assert {ext: data[ext] for ext in OTHERS} == OTHERS
    assert json.loads(data["syn.json"]) == {"syn_text": ["a cube", "a red thing"]}
    views = json.loads(data["paug.json"])["param_aug"]
    assert isinstance(views, list)
    assert [len(view) for view in views] == [2] * 4
    assert data["syn.json"].isascii()


def test_images_may_be_left_out_and_float32_is_npz() -> None:
    job = make_job(output={"images": "omit", "precision": "float32"})
    names = list(encode(job, reinforced(job)))
    assert names[0] == "txt"
    assert names[-1] == "npz"
    assert not {"png", "pth.gz"} & set(names)


@pytest.mark.parametrize(
    ("form", "synthetic", "shapes"),
    [
        ("v1", {"syn_text": ["a", "b"]}, {"image_emb": (4, 8), "text_emb": (3, 8)}),
        (
            "v2",
            {"syn_text": ["a", "b"], "syn_text_x": ["c"]},
            {"image_emb": (4, 8), "text_emb": (1, 8), "syn_text_emb": (2, 8), "syn_text_x_emb": (1, 8)},
        ),
    ],
)
def test_pth_gz_loads_as_tensors_alone(form: str, synthetic: dict[str, list[str]], shapes: dict[str, Any]) -> None:
    job = make_job(output={"layout": form})
    sample = reinforced(job, **synthetic)
    data = gzip.decompress(encode(job, sample)["pth.gz"])
    tensors = torch.load(io.BytesIO(data), weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert np.array_equal(tensors["text_emb"][0].float().numpy(), bf16(side_by_side(sample.columns, TEXT)[0]))


def test_npz_holds_float32_arrays() -> None:
    job = make_job(output={"precision": "float32"})
    with np.load(io.BytesIO(encode(job, reinforced(job))["npz"]), allow_pickle=False) as archive:
        assert {name: archive[name].dtype.name for name in archive.files} == dict.fromkeys(
            ("image_emb", "text_emb", "syn_text_emb"), "float32"
        )


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_same_content_gives_the_same_bytes(precision: str) -> None:
    job = make_job(output={"precision": precision})
    first = encode(job, reinforced(job))
    assert first == encode(job, reinforced(job))
    assert precision == "float32" or first["pth.gz"][4:8] == bytes(4)  # gzip's own time stamp


@pytest.mark.parametrize(
    ("name", "form", "synthetic"),
    [
        ("v1_fp32", "v1", {"syn_text": 3}),
        ("v1_bf16", "v1", {"syn_text": 3}),
        ("v2_bf16", "v2", {"syn_text_a": 3, "syn_text_b": 2}),
    ],
)
def test_golden_shards_decode(name: str, form: str, synthetic: dict[str, int]) -> None:
    with (GOLDEN / "shards" / f"{name}.tar").open("rb") as stream:
        samples = list(read_samples(stream))
    assert len(samples) == 8
    for sample in samples:
        assert layout.decode(sample, dims={"one": 32, "two": 48}) == form
        assert len(sample.views) == 4
        assert {key: len(texts) for key, texts in sample.synthetic.items()} == synthetic
        rows = {IMAGE: 4, TEXT: 1, **synthetic}
        assert {column: array.shape for column, array in sample.columns.items()} == {
            Column(teacher, of): (count, dim)
            for of, count in rows.items()
            for teacher, dim in (("one", 32), ("two", 48))
        }
        for array in sample.columns.values():
            assert np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-2)


def good_fields() -> dict[str, bytes]:
    job = make_job()
    return encode(job, reinforced(job))


def test_param_aug_may_be_a_string() -> None:
    fields = good_fields()
    views = json.loads(fields["paug.json"])["param_aug"]
    as_string = json.dumps({"param_aug": json.dumps(views)}).encode()
    assert decode({**fields, "paug.json": as_string}).views == decode(fields).views


def test_npz_is_read_where_both_exist() -> None:
    job = make_job(output={"precision": "float32"})
    members = encode(job, reinforced(job))
    check_equal(decode({**members, "pth.gz": b"never read"}), decode(members))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def pth_gz(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return gzip.compress(buffer.getvalue())


class Harmful:
    """Unpickling it would leave a trace."""

    touched = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Harmful, "touched", True))


ONE = np.ones((1, 8), np.float32)
BAD_ARRAYS = {
    "nothing": ({}, "missing member"),
    "pth.gz of garbage": ({"pth.gz": b"garbage"}, "unreadable embeddings"),
    "pth.gz of nothing": ({"pth.gz": b""}, "unreadable embeddings"),
    "pth.gz cut": ({"pth.gz": pth_gz({"image_emb": torch.ones(1, 8)})[:200]}, "unreadable embeddings"),
    "pth.gz of gzipped garbage": ({"pth.gz": gzip.compress(b"garbage" * 99)}, "unreadable embeddings"),
    "pth.gz of a list": ({"pth.gz": pth_gz([torch.ones(1, 8)])}, "unreadable embeddings"),
    "pth.gz of numbers": ({"pth.gz": pth_gz({"image_emb": 3})}, "unreadable embeddings"),
    "pth.gz of code": ({"pth.gz": pth_gz({"image_emb": Harmful()})}, "unreadable embeddings"),
    "npz of garbage": ({"npz": b"garbage"}, "unreadable embeddings"),
    "npz of a broken zip": ({"npz": b"PK\x03\x04garbage"}, "unreadable embeddings"),
    "npz cut": ({"npz": npz(image_emb=ONE)[:200]}, "unreadable embeddings"),
    "npz with a flipped byte": ({"npz": npz(image_emb=ONE).replace(b"\x80?", b"\x81?", 1)}, "unreadable embeddings"),
    "npz that is an npy": ({"npz": npy()}, "unreadable embeddings"),
    "npz of objects": ({"npz": npz(image_emb=np.array([Harmful()], object))}, "unreadable embeddings"),
    "npz of texts": ({"npz": npz(image_emb=np.array(["x"]))}, "unreadable embeddings"),
    "no image_emb": ({"npz": npz(text_emb=ONE, syn_text_emb=ONE)}, "missing embedding"),
    "no text_emb": ({"npz": npz(image_emb=ONE, syn_text_emb=ONE)}, "missing embedding"),
    "no synthetic one": ({"npz": npz(image_emb=ONE, text_emb=ONE)}, "missing embedding"),
    "a vector": ({"npz": npz(image_emb=ONE[0], text_emb=ONE, syn_text_emb=ONE)}, "misshapen embedding"),
    "a number": ({"npz": npz(image_emb=ONE, text_emb=ONE, syn_text_emb=np.float32(1))}, "misshapen embedding"),
}


@pytest.mark.parametrize(("arrays", "reason"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_embeddings_are_told_not_raised(arrays: dict[str, bytes], reason: str) -> None:
    fields = {ext: data for ext, data in good_fields().items() if ext != "pth.gz"}
    with pytest.raises(SampleSkipped) as caught:
        decode({**fields, **arrays})
    assert caught.value.reason == reason
    assert not Harmful.touched


def test_damaged_embeddings_are_told_whatever_byte_is_hit() -> None:
    fields = good_fields()
    inner = gzip.decompress(fields["pth.gz"])
    for position in np.random.default_rng(0).integers(0, len(inner), 150):
        damaged = bytearray(inner)
        damaged[position] ^= 0xFF
        try:
            decode({**fields, "pth.gz": gzip.compress(bytes(damaged), 1)})
        except SampleSkipped as skip:
            assert skip.reason in {"unreadable embeddings", "missing embedding", "misshapen embedding"}  # noqa: PT017


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"syn.json": None}, "missing member"),
        ({"paug.json": None}, "missing member"),
        ({"syn.json": b"[]"}, "bad syn.json"),
        ({"paug.json": b"[]"}, "bad paug.json"),
        ({"paug.json": b"{}"}, "bad paug.json"),
        ({"paug.json": b""}, "bad paug.json"),
        ({"paug.json": b"\xff"}, "text is not UTF-8"),
        ({"paug.json": b'{"param_aug": 5}'}, "bad paug.json"),
        ({"paug.json": b'{"param_aug": null}'}, "bad paug.json"),
        ({"paug.json": b'{"param_aug": "[[1, 2"}'}, "bad paug.json"),
        ({"paug.json": b'{"param_aug": [[[0, 0, 1, 1], [[14, 0.0]]]]}'}, "bad paug.json"),
        ({"paug.json": b'{"param_aug": [[[0, 0, 1, 1], true, true]]}'}, "bad paug.json"),
        ({"paug.json": b'{"param_aug": [[[0, 0, 1, 1], [[1, NaN]]]]}'}, "bad paug.json"),
        ({"paug.json": b'{"param_aug": ' + b"[" * 100_000}, "bad paug.json"),
    ],
)
def test_bad_members_are_named(change: dict[str, bytes | None], reason: str) -> None:
    fields = {ext: data for ext, data in (good_fields() | change).items() if data is not None}
    with pytest.raises(SampleSkipped) as caught:
        decode(fields)
    assert caught.value.reason == reason
    if reason == "missing member":
        assert caught.value.detail in change


def zip_bomb() -> bytes:
    """A member that says it has 4 GB, and a few bytes of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image_emb.npy", bytes(1000))
    data = buffer.getvalue()
    size = (1000).to_bytes(4, "little")
    return data.replace(size, b"\xff\xff\xff\xf0")


def npy_that_claims(*shape: int) -> bytes:
    """The header of an array and no numbers, in a zip."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image_emb.npy", header.getvalue())
    return buffer.getvalue()


def pth_gz_with(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return gzip.compress(buffer.getvalue())


ZEROS = bytes(1 << 20)
BOMBS = {
    "gzip": ({"pth.gz": gzip.compress(ZEROS * 300, 1)}, "unpacks to more than"),
    "gzip in parts": ({"pth.gz": gzip.compress(ZEROS, 1) * 65}, "unpacks to more than"),
    "deflated records": ({"pth.gz": gzip.compress(zip_bomb())}, "unpacks to 40"),
    "zip": ({"npz": zip_bomb()}, "unpacks to 40"),
    "a header that lies": ({"npz": npy_that_claims(10**6, 10**5)}, "too small"),
    "a header that overflows": ({"npz": npy_that_claims(2**40, 2**40)}, "too big"),
    "a stride of zero": ({"pth.gz": pth_gz({"image_emb": torch.ones(1, 1).expand(10**6, 10**5)})}, "is larger than"),
    "bytearray": ({"pth.gz": pth_gz_with(b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.")}, "bytearray"),
    "a global of protocol 4": ({"pth.gz": pth_gz_with(b"\x80\x04\x8c\x02os\x8c\x06getpid\x93)R.")}, "STACK_GLOBAL"),
}


@pytest.mark.parametrize(("arrays", "detail"), BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_before_they_fill_the_memory(arrays: dict[str, bytes], detail: str) -> None:
    fields = {ext: data for ext, data in good_fields().items() if ext != "pth.gz"}
    tracemalloc.start()
    with pytest.raises(SampleSkipped, match=f"unreadable embeddings: .*{detail}"):
        decode({**fields, **arrays})
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 200 << 20


def test_gzip_of_several_parts_or_filled_up_with_zeros_is_read() -> None:
    fields = good_fields()
    content = gzip.decompress(fields["pth.gz"])
    parts = gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + bytes(100)
    check_equal(decode({**fields, "pth.gz": parts}), decode(fields))


def test_npz_in_fortran_order_or_compressed_is_read() -> None:
    job = make_job(output={"precision": "float32"})
    fields = encode(job, reinforced(job))
    with np.load(io.BytesIO(fields["npz"]), allow_pickle=False) as archive:
        arrays = {name: np.asfortranarray(archive[name]) for name in archive.files}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    check_equal(decode({**fields, "npz": buffer.getvalue()}), decode(fields))


def test_v1_with_two_synthetic_keys_is_refused() -> None:
    job = make_job(output={"layout": "v1"})
    fields = encode(job, reinforced(job))
    with pytest.raises(SampleSkipped, match="v1 holds one synthetic key"):
        decode({**fields, "syn.json": b'{"syn_text": ["a"], "syn_text_b": ["b"]}'})


texts_of_captions = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=3)
caption_keys = st.from_regex(r"\Asyn_text\w{0,9}\Z")


@given(
    st.sampled_from(["v1", "v2"]),
    st.sampled_from(["bfloat16", "float32"]),
    st.dictionaries(caption_keys, texts_of_captions, min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_any_captions_and_views_round_trip(
    form: str, precision: str, synthetic: dict[str, list[str]], num_views: int
) -> None:
    output = {"layout": form, "precision": precision}
    job = make_job(output=output, augmentation={"num_views": num_views})
    if form == "v1":
        synthetic = dict(list(synthetic.items())[:1])
    check_round_trip(job, reinforced(job, **synthetic))


def test_a_teacher_of_one_kind_has_an_array_of_its_own() -> None:
    job = make_job(output={"precision": "float32"})
    sample = reinforced(job, syn_text=["a", "b"])
    sample.columns[Column("dino", IMAGE)] = np.ones((4, 7), np.float32)
    for of, rows in ((TEXT, 1), ("syn_text", 2)):
        sample.columns[Column("words", of)] = np.ones((rows, 6), np.float32)
    members = encode(job, sample)
    with np.load(io.BytesIO(members["npz"]), allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {
            "image_emb": (4, 8),
            "text_emb": (1, 8),
            "syn_text_emb": (2, 8),
            "image_emb_dino": (4, 7),
            "text_emb_words": (1, 6),
            "syn_text_emb_words": (2, 6),
        }
    check_round_trip(job, sample)


def test_a_dataset_of_one_kind_alone_is_read() -> None:
    job = make_job()
    sample = reinforced(job)
    sample.columns = {Column("dino", IMAGE): np.ones((4, 7), np.float32)}
    decoded = decode(encode(job, sample))
    assert list(decoded.columns) == [Column("dino", IMAGE)]
