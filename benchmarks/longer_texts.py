"""What each of `student.positions` costs a captioner whose texts become three times as long.

A CoCa of two layers learns the demo's captions with 28 tokens, and then four of them in a row with 84. The figures are
the cross-entropy of the next token on scenes that it has not seen.

    python benchmarks/longer_texts.py
"""

import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import figure

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.dataset.shard_io import write_samples
from dr_pipeline.demo.scenes import Scene, draw_scene
from dr_pipeline.networks.images import normalise
from dr_pipeline.training.network import build_student
from dr_pipeline.training.train import train

SHORT, LONG = 28, 84
NUM_TRAINED, NUM_HELD_OUT = 400, 64
FIRST_STEPS, STEPS, SEEDS = 800, (50, 200), (0, 1)
TOWER = {"context_length": SHORT, "vocab_size": 304, "width": 64, "heads": 2, "layers": 2}
COCA = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 16,
        "patch_size": 8,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {**TOWER, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TOWER,
}


def caption(scene: Scene, number: int, is_long: bool) -> str:
    """One of a scene's captions, or four in a row."""
    first, count = number % len(scene.captions), 4 if is_long else 1
    return " ".join((scene.captions * 2)[first : first + count])


def job(folder: Path, name: str, data: str, steps: int, seed: int, **student: Any) -> TrainJob:
    """A training on `data`."""
    student = {"tokenizer": "dr_pipeline.demo.tokenizer:WordTokenizer", **student}
    views = {"random_resized_crop": {"size": 32, "scale": [0.9, 1]}, "rand_augment": None}
    return TrainJob.model_validate(
        {
            "name": name,
            "seed": seed,
            "objective": "coca",
            "data": {"shards": str(folder / data), "workers": 0, "augmentation": views},
            "student": {"architecture": str(folder / "architecture.json"), **student},
            "captions": {"synthetic_weight": 0},
            "schedule": {"steps": steps, "batch_size": 16, "warmup_steps": 10, "learning_rate": 3e-4},
            "run": {"path": str(folder / name), "checkpoint_every": 10_000},
        }
    )


def held_out_loss(one: TrainJob, scenes: list[Scene], is_long: bool) -> float:
    """The cross-entropy of the next token of the captions of scenes, by the network that the job begins with."""
    network = build_student(one, torch.device("cpu"))
    pixels = np.stack([np.asarray(scene.image.resize((32, 32))) for scene in scenes])
    images_BCHW = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), network.image)
    tokens_BL = network.tokenizer([caption(scene, number, is_long) for number, scene in enumerate(scenes)])
    with torch.no_grad():
        output = network.module.eval()(images_BCHW, tokens_BL)
    labels_N = output["labels"].flatten()
    return F.cross_entropy(output["logits"].flatten(0, 1), labels_N, ignore_index=network.module.pad_id).item()


def measure(folder: Path) -> None:
    """Train the first captioner, then lengthen and fine-tune it in each way."""
    scenes = [draw_scene(11, number) for number in range(NUM_TRAINED + NUM_HELD_OUT)]
    (folder / "architecture.json").write_text(json.dumps({"model_cfg": COCA}))
    for data in ("short", "long"):
        (folder / data).mkdir()
        samples = [
            Sample(f"{number:05d}", {"jpg": scene.jpeg, "txt": caption(scene, number, data == "long").encode()})
            for number, scene in enumerate(scenes[:NUM_TRAINED])
        ]
        write_samples(folder / data / "0.tar", samples)
    held_out = scenes[NUM_TRAINED:]
    first = job(folder, "first", "short", FIRST_STEPS, 0)
    train(first.model_copy(update={"schedule": first.schedule.model_copy(update={"learning_rate": 3e-3})}), None)
    weights = str(folder / "first/model/open_clip_model.safetensors")
    before = held_out_loss(job(folder, "", "short", 100, 0, weights=weights), held_out, is_long=False)
    for positions in ("interpolate", "stretch", "extend"):
        longer = {"positions": positions, "context_length": LONG}
        begun = job(folder, "", "short", 100, 0, weights=weights, **longer)
        kept = held_out_loss(begun, held_out, is_long=False)
        figure(f"short captions before fine-tuning, {positions}", kept, before, kept / before)
        for steps in STEPS:
            losses = []
            for seed in SEEDS:
                tuned = job(folder, f"{positions}-{steps}-{seed}", "long", steps, seed, weights=weights, **longer)
                train(tuned, None)
                model = {"weights": f"{tuned.run.path}/model/open_clip_model.safetensors", **longer}
                losses.append(held_out_loss(job(folder, "", "long", 100, 0, **model), held_out, is_long=True))
            figure(f"long captions after {steps} steps, {positions}", mean(losses))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))
