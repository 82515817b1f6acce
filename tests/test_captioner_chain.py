"""A captioner's whole life in small: published captions → tars → training → fine-tuning on longer ones → card → job."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dr_pipeline.cli import main
from dr_pipeline.demo.scenes import Scene, draw_scene
from tests.demo_job import QUICKSTART, make_scenes, small
from tests.tars import read_reinforced
from tests.training.conftest import COCA, WORDS

SHORT, LONG = 10, 34


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the architecture of a tiny CoCa of 10 tokens."""
    monkeypatch.chdir(tmp_path)
    architecture = {
        **COCA,
        **{part: {**COCA[part], "context_length": SHORT} for part in ("text_cfg", "multimodal_cfg")},
    }
    (tmp_path / "architecture.json").write_text(json.dumps({"model_cfg": architecture}))
    return tmp_path


def publish(folder: Path, captions: dict[str, Scene]) -> None:
    """Scenes in DOCCI's form, each with its caption."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, (caption, scene) in enumerate(captions.items()):
        (folder / f"images/{number}.jpg").write_bytes(scene.jpeg)
        rows.append({"image_file": f"{number}.jpg", "split": "train", "description": caption})
    (folder / "docci_descriptions.jsonlines").write_text("\n".join(map(json.dumps, rows)))


def train(name: str, steps: int, **student: Any) -> str:
    """A CoCa that has learnt the captions of NAME: the folder of its model."""
    job = {
        "name": name,
        "objective": "coca",
        "data": {
            "shards": f"{name}_tars",
            "workers": 0,
            "augmentation": {"random_resized_crop": {"size": 32, "scale": [0.9, 1]}},
        },
        "student": {"architecture": "architecture.json", "tokenizer": WORDS, **student},
        "captions": {"synthetic_weight": 0},
        "schedule": {"steps": 2 * steps, "stop_at": steps, "batch_size": 8, "warmup_steps": 5, "learning_rate": 1e-2},
        "run": {"path": f"{name}_run", "log_every": steps},
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(job))
    assert main(["train", f"{name}.yaml", "-q"]) == 0
    return f"{name}_run/model"


def captioner(name: str, model: str) -> dict[str, Any]:
    options = {
        "model": f"{model}/open_clip_config.json",
        "weights": f"{model}/open_clip_model.safetensors",
        "tokenizer": WORDS,
    }
    card = {"use": "dr_pipeline.models.coca:CocaCaptioner", "options": options, "image_size": 32}
    Path(f"{name}_card.yaml").write_text(yaml.safe_dump(card))
    return {
        "card": f"{name}_card.yaml",
        "tag": name,
        "num_captions": 1,
        "sampling": {"method": "greedy", "max_tokens": LONG},
    }


def test_a_captioner_learns_longer_captions_and_writes_them_in_a_job(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    scenes = [draw_scene(7, number) for number in range(16)]
    publish(Path("short"), {scene.short_captions[0]: scene for scene in scenes})
    publish(Path("long"), {f"{scene.captions[0]} {scene.captions[1]}": scene for scene in scenes})
    for name in ("short", "long"):
        assert main(["prepare", "docci", name, f"{name}_tars", "--samples-per-shard", "5"]) == 0
    first = train("short", 30)
    assert "30 of 60 steps × 8 = 240 samples" in capsys.readouterr().err
    second = train(
        "long", 60, weights=f"{first}/open_clip_model.safetensors", context_length=LONG, positions="interpolate"
    )

    job = yaml.safe_load(QUICKSTART.read_text())
    job["captioners"] = [captioner("short", first), captioner("long", second)]
    Path("job.yaml").write_text(yaml.safe_dump(job))
    shards = make_scenes(folder / "scenes", num_shards=1, samples_per_shard=6)
    assert main(["run", "job.yaml", *small(shards, "out")[:4], "-q"]) == 0
    assert main(["verify", "out"]) == 0
    samples = list(read_reinforced(folder / "out/00000.tar").values())
    short, long = (
        [sample.synthetic[f"syn_text_{name}"][0].split() for sample in samples] for name in ("short", "long")
    )
    assert all(2 <= len(words) <= SHORT for words in short)
    assert all(len(words) > SHORT for words in long)
