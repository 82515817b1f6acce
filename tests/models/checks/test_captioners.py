"""Faults of captioners and rewriters are found, and what is right passes."""

import pytest

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.models.checks.captioners import check_captioner
from tests.models.checks.conftest import AddPlugin

# One working captioner, and below it one line that is wrong in each. The letters of a Uniform are equally likely, and
# the borders between them move by as much as rounding does: some tip over.
CAPTIONERS = """
import random
from dr_pipeline.models.protocol import ImageSpec

class Writer:
    def __init__(self, device):
        self.spec = ImageSpec(image_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    def caption(self, images_BCHW, streams, sampling):
        return [[self.say(image, stream) for stream in of_image] for image, of_image in zip(images_BCHW, streams)]
    def say(self, image, stream):
        return f"{image.mean():.2f} {stream.integer(1000)}"

class Asked(Writer):
    def caption_prompted(self, images_BCHW, prompts, streams, sampling):
        captions = self.caption(images_BCHW, streams, sampling)
        return [[f"{prompt} {text}" for text in texts] for prompt, texts in zip(prompts, captions)]

class AskedTwice(Asked):
    def caption_prompted(self, images_BCHW, prompts, streams, sampling):
        return super().caption_prompted(images_BCHW, prompts * 2, streams, sampling)[:1]

class Dice(Writer):
    def say(self, image, stream):
        return str(random.random())

class HonestDice(Dice):
    reproducible = False

class Batched(Writer):
    def caption(self, images_BCHW, streams, sampling):
        return super().caption(images_BCHW - images_BCHW.mean(), streams, sampling)

class Unseeded(Writer):
    def __init__(self, device):
        super().__init__(device)
        self.name = random.random()
    def say(self, image, stream):
        return f"{self.name} {super().say(image, stream)}"

class One(Writer):
    def caption(self, images_BCHW, streams, sampling):
        return [captions[0] for captions in super().caption(images_BCHW, streams, sampling)]

class Ids(Writer):
    def say(self, image, stream):
        return stream.integer(1000)

class Raises(Writer):
    def say(self, image, stream):
        raise KeyError("no such token")

class NoSpec(Writer):
    def __init__(self, device):
        pass

class Uniform(Writer):
    rounding = 1e-9
    def caption(self, images_BCHW, streams, sampling):
        rows = zip(images_BCHW, streams)
        return [[self.letters(image, len(images_BCHW), stream) for stream in of_image] for image, of_image in rows]
    def letters(self, image, batch, stream):
        moved, text, state = self.rounding * batch + 1e-4 * image.double().mean().item(), [], 0
        for u in stream.uniforms(40):
            state = int((u + moved + state / 7) * 1e6) % 26
            text.append(chr(97 + state))
        return "".join(text)

class UniformOfBatch(Uniform):
    rounding = 1e-3
"""
REWRITERS = """
import random

class Rewords:
    def __init__(self, device):
        pass
    def rewrite(self, texts, prompts, streams, sampling):
        return [[f"{text}, {stream.integer(10**9)}" for stream in of_text] for text, of_text in zip(texts, streams)]

class Joins(Rewords):
    def rewrite(self, texts, prompts, streams, sampling):
        return super().rewrite([" ".join(texts)] * len(texts), prompts, streams, sampling)

class Moody(Rewords):
    def __init__(self, device):
        self.mood = random.random()
    def rewrite(self, texts, prompts, streams, sampling):
        return super().rewrite([f"{self.mood} {text}" for text in texts], prompts, streams, sampling)

class Forgets(Rewords):
    def rewrite(self, texts, prompts, streams, sampling):
        return super().rewrite(texts[1:], prompts, streams, sampling)
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Writer", ""),
        ("Asked", ""),
        ("AskedTwice", "caption_prompted() must return one list per input"),
        ("Dice", "caption() writes other texts on a second call"),
        ("HonestDice", ""),
        ("Batched", "caption() writes other texts for an input alone"),
        ("Unseeded", "Constructed twice, it writes other texts"),
        ("One", "must return one list per input and one text per stream"),
        ("Ids", "must return texts (str)"),
        ("Raises", "caption() fails: KeyError: 'no such token'"),
        ("NoSpec", "must set self.spec to a ImageSpec"),
        ("Uniform", ""),
        ("UniformOfBatch", "caption() writes other texts for an input alone"),
    ],
)
def test_a_captioner_s_faults_are_told(plugin: AddPlugin, name: str, said: str) -> None:
    card = CaptionerCard(name="mine", use=f"checked_plugin:{name}", num_captions=2)
    checked = check_captioner(card, [plugin(CAPTIONERS)], batch=1)
    assert len(checked.problems) == bool(said), checked.problems
    assert all(said in problem for problem in checked.problems)
    if not said:
        assert checked.facts["captioner"].startswith("captions images of 16 px")
        assert "captions/s in batches of 1 (" in checked.facts["speed"]
    assert ("reruns" in checked.facts) == (name == "HonestDice")
    assert ("as a prompt asks" in checked.facts.get("captioner", "")) == name.startswith("Asked")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Rewords", ""),
        ("Joins", "rewrite() writes other texts for an input alone"),
        ("Moody", "Constructed twice, it writes other texts"),
        ("Forgets", "rewrite() must return one list per input"),
    ],
)
def test_a_rewriter_s_faults_are_told(plugin: AddPlugin, name: str, said: str) -> None:
    card = RewriterCard(name="mine", use=f"checked_plugin:{name}", prompt="Say it otherwise: {alt_text}", tag="said")
    checked = check_captioner(card, [plugin(REWRITERS)], batch=2)
    assert len(checked.problems) == bool(said), checked.problems
    assert all(said in problem for problem in checked.problems)
    assert said or "texts/s in batches of 2" in checked.facts["speed"]
