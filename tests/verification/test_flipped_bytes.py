"""A flipped byte in any published file is found, and the file is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dr_pipeline.dataset import checksum
from dr_pipeline.runners.run import run
from tests.demo_job import Silent, demo_job, make_scenes
from tests.verification.datasets import found

SAMPLED = 300


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of two samples with two views each, as a run publishes it."""
    scenes = make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=1, samples_per_shard=2)
    folder = tmp_path_factory.mktemp("output")
    run(demo_job(scenes, folder, "augmentation.num_views=2"), Silent())
    return folder


def published(output: Path) -> list[Path]:
    """Every file but the card, which people change."""
    return sorted(path for path in output.rglob("*") if path.is_file() and path.name != "README.md")


def unseen(output: Path, path: Path, positions: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The flips of one byte, (position, mask), of which `verify` says nothing that names the file."""
    data = path.read_bytes()
    name = str(path.relative_to(output))
    missed = []
    try:
        for position in positions.tolist():
            flipped = bytearray(data)
            mask = int(rng.integers(1, 256))
            flipped[position] ^= mask
            path.write_bytes(flipped)
            if name not in found(output).bad_files:
                missed.append((position, mask))
    finally:
        path.write_bytes(data)
    return missed


def test_every_published_file_is_covered(output: Path) -> None:
    assert found(output).problems == []
    kinds = {path.relative_to(output).parts[0] for path in published(output)}
    assert kinds == {"00000.tar", "config.json", "manifest", "reports"}
    assert len(published(output)) == 5


@pytest.mark.parametrize("index", range(5))
def test_a_flipped_byte_is_found(index: int, output: Path) -> None:
    path = published(output)[index]
    rng = np.random.default_rng(index)
    size = path.stat().st_size
    positions = rng.choice(size, min(size, SAMPLED), replace=False)
    assert unseen(output, path, positions, rng) == []


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_cut_or_lengthened_file_is_found(change: Callable[[bytes], bytes], output: Path) -> None:
    for path in published(output):
        data = path.read_bytes()
        path.write_bytes(change(data))
        try:
            assert str(path.relative_to(output)) in found(output).bad_files, path
        finally:
            path.write_bytes(data)


def test_a_missing_file_is_found(output: Path) -> None:
    for path in published(output)[1:]:  # without a tar there is no dataset
        data = path.read_bytes()
        path.unlink()
        try:
            named = found(output).bad_files
            assert named & {str(path.relative_to(output)), "00000.tar"}, path  # a shard without report is named itself
        finally:
            path.write_bytes(data)


def test_a_config_that_contradicts_itself_is_found_though_its_checksum_fits(output: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(output, tmp_path / "copy")
    path = copy / "config.json"
    config = checksum.load(path.read_bytes())
    for damage in ({"seed": 5}, {"caption_keys": ["syn_text"]}, {"fingerprint": "0" * 12}, {"num_views": None}):
        path.write_bytes(checksum.dump(config | {"dr_pipeline": config["dr_pipeline"] | damage}))
        assert "config.json" in found(copy).bad_files
    path.write_bytes(checksum.dump(config | {"dr_pipeline": config["dr_pipeline"] | {"num_samples": 3}}))
    assert found(copy).problems == [("config.json", "", "num_samples is 3, but the shards hold 2")]
