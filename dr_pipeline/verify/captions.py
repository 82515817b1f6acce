"""Stored captions against those that the captioners write now."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.models.distance import allowed_caption_distance, caption_distance
from dr_pipeline.reinforce.chunk import stack
from dr_pipeline.verify.findings import Findings
from dr_pipeline.verify.models import RecordedModels

_OTHER_BATCHES = (3, 8)
_MOST_KEPT = 512


class _Recaptioned(NamedTuple):
    """A sample's captions by key: the stored ones, and those made now."""

    file: str
    sample: Sample
    made: dict[str, list[str]]
    is_exact: bool
    """Whether both were computed in the same float32 arithmetic."""

    def stored(self, key: str) -> list[str]:
        """The stored captions of a key; none where there is no such key."""
        return self.sample.synthetic.get(key, [])

    def pairs(self, key: str) -> Iterator[tuple[str, str]]:
        """Each caption as it is stored, empty where it is not, and as it is made."""
        yield from zip_longest(self.stored(key)[: len(self.made[key])], self.made[key], fillvalue="")

    def num_other(self, key: str) -> int:
        """How many captions came out differently."""
        return sum(before != now for before, now in self.pairs(key))


class CaptionComparison:
    """Stored captions and new ones. What rounding explains is known only when all are there."""

    def __init__(self, models: RecordedModels, findings: Findings):
        self.square_sides = models.captions.square_sides
        """The sizes in pixels at which captioners want the image's central square."""
        self._models = models
        self._findings = findings
        self._compared: list[_Recaptioned] = []
        self._num_captions = self._num_same = 0

    def check(self, file: str, sample: Sample, is_exact: bool) -> None:
        """Caption a sample again; its squares are rendered."""
        (made,) = self._caption([sample])
        captions = _Recaptioned(file, sample, made, is_exact)
        has_changed = any(captions.stored(key) != made[key] for key in made)
        for key in made:
            self._num_captions += len(made[key])
            self._num_same += len(made[key]) - captions.num_other(key)
        if has_changed or (made and len(self._compared) < _MOST_KEPT):
            self._compared.append(captions)

    def judge(self) -> None:
        """Enter the samples with captions that rounding does not explain.

        Sampling is seeded, but rounding may tip a token over: what it does is seen in batches of other sizes. Captions
        of another arithmetic are only counted.
        """
        exact = [one for one in self._compared if one.is_exact]
        if all(one.stored(key) == one.made[key] for one in exact for key in one.made):
            return
        again: list[list[dict[str, list[str]]]] = []
        for size in _OTHER_BATCHES:
            batches = [exact[start : start + size] for start in range(0, len(exact), size)]
            again.append([made for batch in batches for made in self._caption([one.sample for one in batch])])
        for key in exact[0].made:
            made = [one.made[key] for one in exact]
            stored = [[*one.stored(key), *one.made[key]][: len(one.made[key])] for one in exact]
            others = [[*texts[1:], ""] for texts in made]
            allowed = allowed_caption_distance(made, [[sample[key] for sample in batch] for batch in again], others)
            is_explained = caption_distance(stored, made) <= allowed
            for one in exact:
                num_other = one.num_other(key)
                if len(one.stored(key)) != len(one.made[key]) or (num_other and not is_explained):
                    problem = f"{key}: {num_other} of {len(one.made[key])} captions are not those made of it now"
                    self._findings.add(one.file, one.sample.key, problem)

    def remark(self) -> None:
        """Say how many captions came out the same."""
        if self._num_captions:
            same = f"{self._num_same} of {self._num_captions} synthetic captions came out the same"
            self._findings.remarks.append(same)

    def _caption(self, samples: Sequence[Sample]) -> list[dict[str, list[str]]]:
        """The captions that the captioners write now, by key."""
        copies = [replace(sample, synthetic={}) for sample in samples]
        self._models.captions.caption(stack(copies, self._models.device))
        return [copy.synthetic for copy in copies]
