"""Others' code trains on our shards: open_clip's model and losses, fed by webdataset and by `datasets` alone."""

import os

os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read when it is imported

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import webdataset
from datasets import load_dataset
from open_clip.loss import DistillClipLoss
from open_clip.model import CLIP
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as T

from dr_pipeline.runners.run import run
from tests.demo_job import Silent, demo_job, make_scenes
from tests.foreign.released_trainer import Replay

VIEW = 1
FORMS = {
    "v2": ["augmentation.rand_augment.num_ops=3"],
    "v1 npz": ["output.layout=v1", "captioners.0.tag=null", "output.precision=float32"],
}


@pytest.fixture(scope="module", params=FORMS.values(), ids=FORMS)
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenes = make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=4)
    folder = tmp_path_factory.mktemp("output") / "made"
    run(demo_job(scenes, folder, *request.param), Silent())
    return folder


def by_webdataset(output: Path) -> Iterator[tuple[Image.Image, str, list[Any], dict[str, Any]]]:
    """Image, alt-text, views and embeddings of each sample, decoded by webdataset."""
    urls = [str(path) for path in sorted(output.glob("*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pilrgb"):
        embeddings = sample["npz"] if "npz" in sample else sample["pth.gz"]
        yield sample["jpg"], sample["txt"], sample["paug.json"]["param_aug"], embeddings


def by_datasets(output: Path) -> Iterator[tuple[Image.Image, str, list[Any], dict[str, Any]]]:
    """The same by `datasets`, which has only the folder."""
    for sample in load_dataset(str(output), split="train", streaming=True):
        embeddings = sample["npz"] if "npz" in sample else sample["pth.gz"]
        yield sample["jpg"].convert("RGB"), sample["txt"], json.loads(sample["paug.json"]["param_aug"]), embeddings


READERS = {"webdataset": by_webdataset, "datasets": by_datasets}


def batch_of(output: Path, reader: str) -> tuple[torch.Tensor, ...]:
    """One view of every image, the alt-texts' tokens, and what the first teacher said of both."""
    config = json.loads((output / "config.json").read_text())
    replay = Replay(config)
    dim = config["dr_pipeline"]["teachers"][0]["dim"]
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    images, texts, image_embs, text_embs = [], [], [], []
    for image, text, views, embeddings in READERS[reader](output):
        images.append(T.to_tensor(replay.view(image, views[VIEW]).resize((32, 32))))
        texts.append(text)
        image_embs.append(torch.as_tensor(embeddings["image_emb"][VIEW], dtype=torch.float32)[:dim])
        text_embs.append(torch.as_tensor(embeddings["text_emb"][0], dtype=torch.float32)[:dim])
    return torch.stack(images), tokenizer(texts), torch.stack(image_embs), torch.stack(text_embs)


@pytest.mark.parametrize("reader", READERS)
def test_a_student_learns(reader: str, output: Path) -> None:
    images_BCHW, tokens_BL, image_emb_BD, text_emb_BD = batch_of(output, reader)
    assert images_BCHW.shape == (8, 3, 32, 32)
    assert torch.allclose(image_emb_BD.norm(dim=1), torch.ones(8), atol=1e-2)
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    model = CLIP(24, vision, {"context_length": 16, "width": 32, "heads": 2, "layers": 1})
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    loss, losses = DistillClipLoss(), []
    for _ in range(6):
        features = [
            F.normalize(part, dim=1) for part in (model.encode_image(images_BCHW), model.encode_text(tokens_BL))
        ]
        _, distillation = loss(*features, model.logit_scale.exp(), image_emb_BD, text_emb_BD, 16.0)
        optimizer.zero_grad()
        distillation.backward()
        optimizer.step()
        losses.append(distillation.item())
    assert losses[-1] < 0.9 * losses[0]


def test_both_readers_give_the_same_batch(output: Path) -> None:
    for ours, theirs in zip(batch_of(output, "webdataset"), batch_of(output, "datasets"), strict=True):
        assert torch.equal(ours, theirs)
