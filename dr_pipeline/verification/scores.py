"""The scores of a manifest against those that the scorers give now, and against the stored embeddings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.reinforce.scores import ScoreStage
from dr_pipeline.reinforce.similarities import similarities_of
from dr_pipeline.verification.findings import Findings
from dr_pipeline.views.render import render_center

_OF_BFLOAT16 = 0.01
"""How far a cosine of stored embeddings may be from that of the ones before they were rounded."""
_SAME_ARITHMETIC, _OTHER_ARITHMETIC = 5e-3, 0.1
"""How far a score may be from the stored one: a share of the spread of the recomputed ones, as for embeddings."""
_ROUNDING = 1e-4
"""The same as a share of the score, for scorers that give all samples one."""


class _Difference(NamedTuple):
    """A scorer's two scores of a sample."""

    file: str
    key: str
    stored: float
    now: float
    is_exact: bool


class ScoreComparison:
    """Compares similarities at once, and at the end the scores of scorers: only then their spread is known."""

    def __init__(self, scorers: ScoreStage, findings: Findings):
        self._scorers, self._findings = scorers, findings
        self._differences: dict[str, list[_Difference]] = {}

    def check_similarities(self, file: str, sample: Sample, stored: Mapping[str, float]) -> None:
        """Compare the similarities that the manifest has with those of a sample's stored columns."""
        for name, now in similarities_of(sample).scores.items():
            if name in stored and not abs(stored[name] - now) <= _OF_BFLOAT16:
                problem = f"{name} is {stored[name]:.4g} in the manifest, and {now:.4g} by its embeddings"
                self._findings.add(file, problem, sample.key)

    def check(self, file: str, sample: Sample, image: Image.Image, stored: Mapping[str, float], is_exact: bool) -> None:
        """Score a sample again. `is_exact`: whether both sides were computed in the same float32 arithmetic."""
        squares = {side: render_center(image, side) for side in self._scorers.square_sides}
        copy = replace(sample, squares=squares, scores={})
        self._scorers.score([copy])
        for name, now in copy.scores.items():
            if name in stored:
                difference = _Difference(file, sample.key, stored[name], now, is_exact)
                self._differences.setdefault(name, []).append(difference)

    def close(self) -> None:
        """Report the scores that rounding does not explain."""
        for name, differences in self._differences.items():
            spread = float(np.ptp([one.now for one in differences]))
            for file, key, stored, now, is_exact in differences:
                share = _SAME_ARITHMETIC if is_exact else _OTHER_ARITHMETIC
                if not abs(stored - now) <= share * spread + _ROUNDING * max(1, abs(now)):
                    self._findings.add(file, f"scorer {name} now gives {now:.4g}, the manifest has {stored:.4g}", key)
