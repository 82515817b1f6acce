"""What answers by request is asked twice: answers that cannot be used are told, and whether reruns will differ."""

import pytest

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.models.checks.requests import check_requests
from tests.models.checks.conftest import AddPlugin

REQUESTS = """
import itertools
from dr_pipeline.models.protocol import Usage, Written

class Seeded:
    max_in_flight = 3
    def __init__(self, device):
        self.closed, self.count = False, itertools.count()
    async def write(self, request):
        assert request.image.startswith(b"\\x89PNG")
        texts = [f"{request.prompt} {seed}" for seed in request.seeds]
        return Written(texts, Usage(requests=1, prompt_tokens=8, completion_tokens=2))
    async def close(self):
        self.closed = True

class Counting(Seeded):
    async def write(self, request):
        return Written([f"{next(self.count)}" for _ in request.seeds])

class Down(Seeded):
    async def write(self, request):
        return Written([], failure="503 Service Unavailable")

class Raises(Seeded):
    async def write(self, request):
        raise RuntimeError("no route to host")

class One(Seeded):
    async def write(self, request):
        return Written(["one"])

class Plain(Seeded):
    async def write(self, request):
        return ["a", "b"]

class TextsOnly(Seeded):
    async def write(self, request):
        if request.image is not None:
            return Written([], failure="400 this model does not see")
        return Written([f"{request.alt_text} {seed}" for seed in request.seeds])

class Unbounded(Seeded):
    max_in_flight = property()
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Seeded", ""),
        ("Counting", ""),
        ("TextsOnly", ""),
        ("Down", "a request failed: 503 Service Unavailable"),
        ("Raises", "write() fails: RuntimeError: no route to host"),
        ("One", "return a text (str) for each of the request's seeds"),
        ("Plain", "write() returned a list; return a dr_pipeline.models.protocol.Written"),
        ("Unbounded", "has a method write, but lacks max_in_flight or close"),
    ],
)
def test_answers_are_told(plugin: AddPlugin, name: str, said: str) -> None:
    card = CaptionerCard(name="mine", use=f"checked_plugin:{name}", num_captions=2, prompt="Of {alt_text}:")
    checked = check_requests(card, [plugin(REQUESTS)])
    assert len(checked.problems) == bool(said), checked.problems
    assert all(said in problem for problem in checked.problems)
    if said:
        return
    what = "writes texts in other words" if name == "TextsOnly" else "captions images"
    assert checked.facts["captioner"] == f"{what} by request, 3 at once at most"
    assert "3 requests at once, 0 repeated" in checked.facts["speed"]
    assert checked.facts["tokens"] == "5 for a text" if name == "Seeded" else "the answers do not say"
    assert checked.facts["reruns"].startswith("will differ" if name == "Counting" else "gave the same texts twice")
