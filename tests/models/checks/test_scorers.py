"""Faults of scorers are found, and what is right passes."""

import pytest

from dr_pipeline.config.cards import ScorerCard
from dr_pipeline.models.checks.scorers import check_scorer
from tests.models.checks.conftest import AddPlugin

SCORERS = """
import torch
from dr_pipeline.models.protocol import ImageSpec

class Bright:
    def __init__(self, device):
        self.spec = ImageSpec(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    def score_images(self, images_BCHW):
        return images_BCHW.mean(dim=(1, 2, 3))

class OfBatch(Bright):
    def score_images(self, images_BCHW):
        scores_B = super().score_images(images_BCHW)
        return scores_B - scores_B.mean()

class Noisy(Bright):
    def score_images(self, images_BCHW):
        return super().score_images(images_BCHW) + torch.rand(len(images_BCHW))

class Blind(Bright):
    def score_images(self, images_BCHW):
        return torch.full((len(images_BCHW),), 5.0)

class OneOnly(Bright):
    def score_images(self, images_BCHW):
        return super().score_images(images_BCHW[:1]).squeeze()[None]

class Fits(Bright):
    def score(self, images_BCHW, texts):
        return self.score_images(images_BCHW) * torch.tensor([1.0 + len(text) for text in texts])

class Long:
    def __init__(self, device):
        pass
    def score_texts(self, texts):
        return torch.tensor([float(len(text)) for text in texts])
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bright", ""),
        ("Fits", ""),
        ("Long", ""),
        ("OfBatch", "it is not batch-invariant"),
        ("Noisy", "it gives other scores on a second call"),
        ("Blind", "it gives one score to different samples"),
        ("OneOnly", "returned torch.float32 of shape [1] for 8 samples"),
    ],
)
def test_a_scorer_s_faults_are_told(plugin: AddPlugin, name: str, said: str) -> None:
    card = ScorerCard(name="mine", use=f"checked_plugin:{name}", min=0.5)
    checked = check_scorer(card, [plugin(SCORERS)], batch=4)
    assert len(checked.problems) == bool(said), checked.problems
    assert all(said in problem for problem in checked.problems)
    what = {"Fits": "images of 16 px and texts", "Long": "texts"}.get(name, "images of 16 px")
    assert checked.facts["scorer"] == f"scores {what}; a job keeps scores of at least 0.5"
    assert ("samples/s in batches of 4" in checked.facts.get("speed", "")) == (not said)
