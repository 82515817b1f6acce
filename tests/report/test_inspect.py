"""inspect shows alt-texts, captions and cosines of the first samples."""

from pathlib import Path

import numpy as np
import pytest

from dr_pipeline.codecs.npz import Npz
from dr_pipeline.dataset.sample import IMAGE, TEXT
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.report.inspect import inspect
from dr_pipeline.storage import Storage
from tests.conftest import GOLDEN, make_sample_members, rename_as_others_do, write_tar
from tests.tars import read_reinforced, stored
from tests.verification.datasets import write_dataset


def lines(uri: Path, count: int = 2) -> list[str]:
    return list(inspect(str(uri), Storage(), count).lines)


def test_samples_with_their_captions(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    shown = lines(tmp_path)
    assert [line.split(":")[0] for line in shown if not line.startswith(" ")] == ["s0_0", "s0_1"]
    assert shown[0] == "s0_0: 4 views, embeddings of 8 dims"
    assert shown[1].startswith("  alt-text ")
    assert shown[1].endswith("  alt-text of s0_0")
    assert [line.split()[0] for line in shown[2:4]] == ["syn_text", "syn_text"]
    assert shown[2].endswith("  a cube")
    assert shown[3].endswith("  a red thing")


def test_of_a_shard_without_samples_that_is_said(tmp_path: Path) -> None:
    assert lines(write_tar(tmp_path / "a.tar", [])) == ["no sample is in this shard: verify of its dataset tells why"]


@pytest.mark.parametrize("name", ["v1_fp32", "v2_bf16"])
def test_cosines_are_means_over_views_and_teachers(name: str) -> None:
    path = GOLDEN / "shards" / f"{name}.tar"
    sample = next(iter(read_reinforced(path).values()))
    teachers = (slice(0, 32), slice(32, 80))
    cosines = [stored(sample, IMAGE)[:, dims] @ stored(sample, TEXT)[0, dims] for dims in teachers]
    shown = float(lines(path, 1)[1].split()[1])
    assert shown == pytest.approx(np.mean(cosines), abs=1e-3)


def test_without_a_teacher_of_images_and_texts_there_are_no_cosines(tmp_path: Path) -> None:
    views = {"paug_json": b'{"param_aug": []}', "syn_json": b'{"syn_text": ["a cube", ""]}'}
    arrays = Npz().encode({"image_emb_dino": np.ones((2, 3), np.float32)})
    path = write_tar(tmp_path / "a.tar", make_sample_members("a", "a thing", **views, npz=arrays))
    assert lines(path) == [
        "a: 0 views, no cosines: no teacher embeds both images and texts",
        "  alt-text         a thing",
        "  syn_text         a cube",
        "  syn_text           [blank]",
    ]


def test_errors_are_told_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no shard here to inspect"):
        lines(tmp_path)
    with pytest.raises(ConfigError, match=r"absent\.tar: no shard here to inspect"):
        lines(tmp_path / "absent.tar")
    with pytest.raises(PipelineError, match=r"base\.tar: missing member: syn\.json"):
        lines(write_tar(tmp_path / "base.tar", make_sample_members("a")))


def test_shards_are_read_under_the_names_that_others_give(tmp_path: Path) -> None:
    write_dataset(tmp_path, num_shards=3)
    expected = lines(tmp_path)
    rename_as_others_do(tmp_path)
    assert lines(tmp_path) == lines(tmp_path / "00" / "0.TAR") == expected
    assert lines(tmp_path / "00" / "1.tar.gz")[0].startswith("s1_0: 4 views")
