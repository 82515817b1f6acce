"""How many requests a worker makes at once is read from a card, before anything is constructed."""

from pathlib import Path
from typing import Any

import pytest

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.models.by_request import requests_at_once

CLASSES = """
class OfTheClass:
    max_in_flight = 16
    def __init__(self, device): ...

class OfTheConstructor:
    def __init__(self, device, max_in_flight=32): ...

class Unknown:
    def __init__(self, device):
        self.max_in_flight = 8
"""


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("OfTheClass", {}, 16),
        ("OfTheConstructor", {}, 32),
        ("OfTheConstructor", {"connection": {"max_in_flight": 4}}, 4),
        ("OfTheConstructor", {"options": {"max_in_flight": "${env:MANY}"}}, 1),
        ("Unknown", {}, 1),
    ],
)
def test_it_is_an_option_or_a_default(name: str, settings: dict[str, Any], expected: int, tmp_path: Path) -> None:
    (tmp_path / "lab_of_requests_at_once.py").write_text(CLASSES)
    card = CaptionerCard(name="vlm", use=f"lab_of_requests_at_once:{name}", **settings)
    assert requests_at_once(card, [str(tmp_path)]) == expected
