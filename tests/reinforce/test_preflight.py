"""From the first samples of a few shards, a run in which every shard would fail is refused before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.reinforce.preflight import Preflight, preflight
from tests.conftest import make_job, make_sample_members, merged, write_tar


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with five shards of forty samples; the third shard's came with captions of their own."""
    monkeypatch.chdir(tmp_path)
    for shard in range(5):
        captions = {"syn_json": json.dumps({"syn_text": ["a cube"]}).encode()} if shard == 2 else {}
        members = [m for index in range(40) for m in make_sample_members(f"{shard}_{index}", **captions)]
        write_tar(tmp_path / "in" / f"{shard}.tar", members)
    return tmp_path


def preflight_of(**changes: Any) -> Preflight:
    return preflight(make_plan(make_job(**changes)))


def test_sound_shards_give_no_warning() -> None:
    assert preflight_of(input={"shards": "in/{0,1}.tar"}) == Preflight()


def test_without_any_synthetic_captions_the_run_is_refused() -> None:
    (reason,) = preflight_of(captioners=[], input={"shards": "in/{0,1,3,4}.tar"}).refused
    assert reason.startswith("every shard would fail: 32 of the first 32 samples of 0.tar would be skipped: no synthet")
    assert "no captioner in the job, and no syn_text… in a syn.json" in reason


def test_it_is_a_warning_where_one_of_the_shards_can_be_reinforced() -> None:
    found = preflight_of(captioners=[])
    assert found.refused == ()
    assert [warning.split(" would ")[0] for warning in found.warnings] == [
        "32 of the first 32 samples of 0.tar",
        "32 of the first 32 samples of 4.tar",
    ]


@pytest.mark.parametrize(
    ("shards", "changes", "said"),
    [
        ("in/2.tar", {}, "synthetic key taken (32); first 2_0: synthetic key taken: the input has syn_text"),
        ("web.tar", {"output": {"layout": "v1"}}, "too many synthetic keys (1)"),
        ("in/0.tar", {"input": {"caption": "headline"}}, "no text (32)"),
        ("in/0.tar", {"errors": {"max_image_pixels": 1000}}, "image too large (32)"),
        ("in/0.tar", {"errors": {"max_member_bytes": 100}}, "member too large (32)"),
        ("page.tar", {}, "page.tar cannot be read"),
        (
            "names.tar",
            {},
            "names.tar cannot be read: none of its 2 members is a sample's (KEY.jpg, KEY.txt): name with",
        ),
        (
            "scattered.tar",
            {},
            "no text (32); first 0: no text: members: jpg; do the members of a sample lie in one tar, side by side",
        ),
    ],
)
def test_the_reason_is_given_where_every_shard_would_fail(
    shards: str, changes: dict[str, Any], said: str, folder: Path
) -> None:
    (folder / "page.tar").write_bytes(b"<html>" * 300)
    write_tar(folder / "names.tar", [("000", b"x"), ("001", b"x")])
    write_tar(folder / "scattered.tar", [(f"{key}.{ext}", b"x") for ext in ("jpg", "txt") for key in range(40)])
    write_tar(folder / "web.tar", make_sample_members("w", syn_json=b'{"syn_text_web": ["a cube"]}'))
    changes = merged(changes, {"input": {"shards": shards}})
    (reason,) = preflight_of(**changes).refused
    assert said in reason


def test_scattered_members_are_named_where_all_lie_among_the_first(folder: Path) -> None:
    write_tar(folder / "scattered.tar", [(f"{key}.{ext}", b"x") for ext in ("jpg", "txt") for key in range(16)])
    (reason,) = preflight_of(input={"shards": "scattered.tar"}).refused
    assert (
        "16 of the first 16 samples of scattered.tar would be skipped: members not adjacent (16); first 0: " in reason
    )
    assert reason.endswith(
        "jpg and txt do not lie side by side: sort the tar's members by name, as tar --sort=name does"
    )


def test_some_bad_samples_are_a_warning(folder: Path) -> None:
    members = [m for index in range(40) for m in make_sample_members(f"0_{index}")]
    write_tar(
        folder / "in" / "0.tar", [(name, b"" if name in ("0_3.jpg", "0_7.jpg") else data) for name, data in members]
    )
    found = preflight_of(input={"shards": "in/0.tar"})
    assert (found.refused, len(found.warnings)) == ((), 1)
    assert "2 of the first 32 samples of 0.tar would be skipped: empty image (2); first 0_3: " in found.warnings[0]
