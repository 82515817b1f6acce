"""What lies behind a card's options is known by its content: files, folders of weights, addresses, plug-in sources."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.networks import digests as contents
from dr_pipeline.networks.digests import card_with_digests, check_digests, file_digest, find_digests
from tests import web

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""The SHA-256 of the three letters."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DR_PIPELINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "abc.pt").write_bytes(b"abc")
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[Path, str]]:
    """A folder over HTTP, and its address."""
    (folder / "served").mkdir()
    with web.served(folder / "served") as address:
        yield folder / "served", address


def digests(**options: object) -> dict[str, str]:
    return find_digests(options, (".",), "model")


def test_files_are_known_by_their_content_wherever_options_name_them(folder: Path) -> None:
    found = digests(checkpoint="abc.pt", parts=[{"first": str(folder / "abc.pt")}], model="ViT-L-14", scale=2.0)
    assert found == {"checkpoint": ABC, "parts.0.first": ABC}
    assert digests(model="package://dr_pipeline.demo/scene_clip_a.json").keys() == {"model"}
    assert digests(weights="random", model="ViT-B-32", name="abc", service="http://127.0.0.1:9/v1") == {}


def test_a_folder_of_weights_is_known_by_what_lies_in_it(folder: Path) -> None:
    (folder / "siglip").mkdir()
    (folder / "siglip/config.json").write_text("{}")
    assert digests(checkpoint="siglip") == {}  # no weights: it could be anything's folder
    (folder / "siglip/model.safetensors").write_bytes(b"1")
    first = digests(checkpoint="siglip")
    (folder / "siglip/model.safetensors").write_bytes(b"2")
    assert first.keys() == digests(checkpoint="siglip").keys() == {"checkpoint"}
    assert digests(checkpoint="siglip") != first


def test_weights_one_folder_below_are_seen_too(folder: Path) -> None:
    (folder / "clip/text").mkdir(parents=True)
    (folder / "clip/text/model.safetensors").write_bytes(b"abc")
    before = digests(checkpoint="clip")["checkpoint"]
    (folder / "clip/text/model.safetensors").write_bytes(b"abd")
    assert digests(checkpoint="clip")["checkpoint"] != before


def test_a_remote_file_that_is_replaced_is_seen(served: tuple[Path, str]) -> None:
    folder, address = served
    (folder / "w.pt").write_bytes(b"abc")
    os.utime(folder / "w.pt", (1e9, 1e9))
    assert digests(weights=f"{address}/w.pt") == {"weights": ABC}
    (folder / "w.pt").write_bytes(b"abd")
    assert digests(weights=f"{address}/w.pt") != {"weights": ABC}


def test_what_cannot_be_read_here_is_told_and_left_out(
    served: tuple[Path, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert digests(weights=f"{served[1]}/absent.pt", model="abc.pt") == {"model": ABC}
    assert "model: weights cannot be read here" in caplog.text
    assert digests(weights="absent.pt") == {}


def test_a_large_file_is_read_once_as_long_as_it_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "large.pt"
    with path.open("wb") as file:
        file.truncate(contents._KEPT_FROM_BYTES)
    monkeypatch.setattr(contents, "_SETTLED_AFTER_SECONDS", -1.0)
    first = file_digest(path)
    (note,) = (folder / "cache/digests").iterdir()
    note.write_text("0" * 64)
    assert file_digest(path) == "0" * 64  # of the note, not of the file
    note.write_text("half a no")
    assert file_digest(path) == first
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the size and time of before
    assert file_digest(path) not in (first, "0" * 64)


def test_a_file_that_was_written_just_now_is_not_noted(folder: Path) -> None:
    (folder / "new.pt").write_bytes(bytes(contents._KEPT_FROM_BYTES))
    file_digest(folder / "new.pt")
    assert not (folder / "cache/digests").exists()


PLUGIN = {
    "lab/__init__.py": "",
    "lab/clip.py": "from . import layers\nimport helper_of_lab\nimport json\nclass Clip: ...\n",
    "lab/layers.py": "from lab.deep import *\n",
    "lab/deep.py": "x = 1\n",
    "helper_of_lab.py": "def late():\n    import latest_of_lab\n",
    "latest_of_lab.py": "y = 1\n",
    "unused.py": "z = 1\n",
}


def test_a_plug_in_is_known_by_its_source_and_the_modules_beside_it(folder: Path) -> None:
    for name, text in PLUGIN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    first = digests(use="lab.clip:Clip")
    assert first.keys() == {"use"}
    for name, text in PLUGIN.items():
        (folder / name).write_text(text + "# changed\n")
        assert (digests(use="lab.clip:Clip") != first) == (name != "unused.py"), name
        (folder / name).write_text(text)
    assert digests(use="lab.clip:Clip") == first
    (folder / "lab/clip.py").write_text("class Clip(:\n")  # no Python; who imports it says so
    assert digests(tokenizer="lab.clip:Clip").keys() == {"tokenizer"}


def test_an_installed_plug_in_is_known_by_its_version_and_ours_is_not_named() -> None:
    assert digests(use="yaml:YAMLObject")["use"].startswith("PyYAML ")
    assert digests(use="dr_pipeline.models.open_clip:OpenClipTeacher") == {}
    assert digests(use="os:system") == digests(use="nosuchmodule:X") == {}


def test_a_card_may_say_what_it_expects(folder: Path) -> None:
    card = TeacherCard(name="clip", use="lab:Clip", options={"checkpoint": "abc.pt"}, digests={"checkpoint": ABC})
    assert card_with_digests(card) == card
    (folder / "abc.pt").write_bytes(b"abd")
    with pytest.raises(ConfigError, match=rf"card clip: digests\.checkpoint is {ABC}, but what is there has a52d"):
        card_with_digests(card)


def test_what_is_loaded_must_be_what_was_digested(folder: Path) -> None:
    card = card_with_digests(TeacherCard(name="clip", use="lab:Clip", options={"checkpoint": "abc.pt"}))
    check_digests(card)
    (folder / "abc.pt").write_bytes(b"abd")
    with pytest.raises(ModelError, match=rf"card clip: checkpoint: abc\.pt is not what .* was {ABC}, now it is a52d"):
        check_digests(card)
    (folder / "abc.pt").unlink()
    with pytest.raises(ModelError, match=r"no file at abc\.pt"):
        check_digests(card)


def test_a_whole_model_of_the_hub_is_known_by_its_weights(hub: dict[str, bytes]) -> None:
    hub |= {"lab/clip/model.safetensors": b"abc", "lab/clip@v2/model.safetensors": b"abc"}
    assert digests(model="hf-hub:lab/clip") == {"model": ABC}
    assert digests(model="hf-hub:lab/clip@v2") == {"model": ABC}
    assert digests(model="hf-hub:lab/clip", weights="random") == {}, "open_clip's has a file of its own"
    card = TeacherCard(name="mine", use="a:B", options={"model": "hf-hub:lab/clip"}, digests={"model": ABC})
    check_digests(card)
    with pytest.raises(ModelError, match="model: hf-hub:lab/clip is not what it was"):
        check_digests(card.model_copy(update={"digests": {"model": "0" * 64}}))


LIST = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}})


def test_a_model_of_the_hub_in_many_files_is_known_by_all_of_them(hub: dict[str, bytes], caplog) -> None:
    for repo in ("one", "other", "same"):
        hub |= {f"lab/{repo}/model.safetensors.index.json": LIST.encode(), f"lab/{repo}/model-1.safetensors": b"abc"}
    assert digests(model="hf-hub:lab/one") == {}, "the second is not there"
    for repo, second in {"one": b"1", "other": b"2", "same": b"1"}.items():
        hub[f"lab/{repo}/model-2.safetensors"] = second
    one, other, same = (digests(model=f"hf-hub:lab/{repo}")["model"] for repo in ("one", "other", "same"))
    assert one == same
    assert one != other
    for name in ("../secret", "", 3):
        hub["lab/odd/model.safetensors.index.json"] = json.dumps({"weight_map": {"a": name}}).encode()
        assert digests(model="hf-hub:lab/odd") == {}
        assert "model cannot be read here" in caplog.text
        caplog.clear()


def test_the_hubs_cache_knows_a_model_in_many_files_as_the_hub_does(
    hub: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = folder / "hub/models--lab--vlm/snapshots/r1"
    files = {"model.safetensors.index.json": LIST, "model-1.safetensors": "abc", "model-2.safetensors": "1"}
    hub |= {f"lab/vlm/{name}": text.encode() for name, text in files.items()}
    by_the_hub = digests(model="hf-hub:lab/vlm")
    assert by_the_hub
    snapshot.mkdir(parents=True)
    (snapshot / "../../refs").mkdir()
    (snapshot / "../../refs/main").write_text("r1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, text in files.items():
        assert digests(model="hf-hub:lab/vlm") == {}
        (snapshot / name).write_text(text)
    assert digests(model="hf-hub:lab/vlm") == by_the_hub
    check_digests(TeacherCard(name="mine", use="a:B", options={"model": "hf-hub:lab/vlm"}, digests=by_the_hub))


@pytest.mark.parametrize("ending", [".data", "_data"])
def test_the_weights_beside_an_onnx_file_are_seen(ending: str, folder: Path) -> None:
    (folder / "clip.onnx").write_bytes(b"abc")
    assert digests(file="clip.onnx") == {"file": ABC}
    (folder / f"clip.onnx{ending}").write_bytes(b"1")
    first = digests(file="clip.onnx")
    (folder / f"clip.onnx{ending}").write_bytes(b"2")
    assert ABC not in first.values()
    assert digests(file="clip.onnx") != first


def test_the_hubs_cache_says_what_a_model_is_without_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = folder / "hub/models--lab--clip"
    for name, text in {"refs/main": "r1", "snapshots/r1/open_clip_model.safetensors": "abc"}.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert digests(model="ViT-B-32", weights="hf-hub:lab/clip") == {"weights": ABC}
    assert digests(model="ViT-B-32", weights="hf-hub:lab/other") == {}


def test_digests_are_plain_text_in_the_identity() -> None:
    card = TeacherCard(name="clip", use="lab:Clip", digests={"use": ABC})
    assert json.loads(json.dumps(card.identity()))["digests"] == {"use": ABC}
    assert "digests" not in TeacherCard(name="clip", use="lab:Clip").identity()
