"""A job with a CLIP and a backbone of images alone: its column, its config.json, and that it is made again equal."""

import json
from pathlib import Path

import numpy as np
import torch

from dr_pipeline.cli import main
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import IMAGE, Column
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.models.timm import TimmTeacher
from dr_pipeline.networks.images import prepare
from dr_pipeline.runners.run import run
from dr_pipeline.views.recipe import Recipe
from dr_pipeline.views.render import decode, render
from tests.demo_job import Silent, demo_job, make_scenes


def test_a_backbone_of_timm_beside_a_clip(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=2)
    options = {"model": "test_vit", "weights": "random", "image_size": 64}
    dino = {"name": "dino", "use": "dr_pipeline.models.timm:TimmTeacher", "options": options}
    teachers = [{"card": "package://dr_pipeline.demo/cards/scene_clip_a.yaml"}, dino]
    job = demo_job(scenes, tmp_path / "out", f"teachers={json.dumps(teachers)}", "captioners.0.num_captions=1")
    assert not run(job, Silent()).failed
    assert main(["verify", str(tmp_path / "out"), "--deep", "--samples", "1"]) == 0

    teacher = TimmTeacher(torch.device("cpu"), **options)
    config = json.loads((tmp_path / "out/config.json").read_bytes())["dr_pipeline"]["teachers"][1]
    assert (config["name"], config["dim"], config["encodes"]) == ("dino", teacher.spec.dim, ["images"])
    with next((tmp_path / "out").glob("*.tar")).open("rb") as stream:
        sample = next(read_samples(stream))
    layout.decode(sample, Recipe(job.augmentation), dims={"scene_clip_a": 64})
    image, recipe = decode(sample.image, 10**8), Recipe(job.augmentation)
    views_BHWC = render(image, sample.views, recipe)
    with torch.inference_mode():
        rows_BD = teacher.encode_images(prepare(torch.from_numpy(views_BHWC), teacher.spec.images))
    unit_BD = torch.nn.functional.normalize(rows_BD).numpy()
    np.testing.assert_allclose(sample.columns[Column("dino", IMAGE)], unit_BD, atol=2e-3)  # stored in bfloat16
