"""Stored captions against those that the captioners write now."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

from dr_pipeline.dataset.sample import Sample
from dr_pipeline.models.distance import allowed_caption_distance, caption_distance
from dr_pipeline.reinforce.captions import CaptionStage
from dr_pipeline.verification.findings import Findings

_OTHER_BATCHES = (3, 8)
"""Samples a batch: what rounding changes is measured in batches of these sizes."""
_MOST_KEPT = 512
"""Samples with equal captions that are kept for that measurement."""


class _Recaptioned(NamedTuple):
    """A sample, with its stored captions, and the captions written now."""

    file: str
    sample: Sample
    written: dict[str, list[str]]
    """By key of `syn.json`."""
    is_exact: bool
    """Whether both were computed in the same float32 arithmetic."""

    def stored(self, key: str) -> list[str]:
        """The stored captions of a key; [] where there is no such key."""
        return self.sample.synthetic.get(key, [])

    def num_different(self, key: str) -> int:
        """How many of the captions written now are not the stored ones."""
        pairs = zip_longest(self.stored(key)[: len(self.written[key])], self.written[key], fillvalue="")
        return sum(stored != written for stored, written in pairs)


class CaptionComparison:
    """Collects stored captions and those written now. At the end, captions of other batches tell which differences
    rounding explains.
    """

    def __init__(self, captioners: CaptionStage, findings: Findings):
        self._captioners, self._findings = captioners, findings
        self._kept: list[_Recaptioned] = []
        self._num_captions = self._num_same = 0

    def check(self, file: str, sample: Sample, is_exact: bool) -> None:
        """Caption a sample again; its squares are rendered."""
        (written,) = self._caption([sample])
        captions = _Recaptioned(file, sample, written, is_exact)
        for key, texts in written.items():
            self._num_captions += len(texts)
            self._num_same += len(texts) - captions.num_different(key)
        has_changed = any(captions.stored(key) != texts for key, texts in written.items())
        if has_changed or (written and len(self._kept) < _MOST_KEPT):
            self._kept.append(captions)

    def close(self) -> None:
        """Report the captions whose difference rounding does not explain, and remark how many are the same.

        Sampling is seeded, but rounding may change a token: how far that goes is measured in batches of other sizes.
        Captions of another arithmetic are only counted.
        """
        if self._num_captions:
            same = f"{self._num_same} of {self._num_captions} synthetic captions came out the same"
            self._findings.remarks.append(same)
        exact = [one for one in self._kept if one.is_exact]
        if all(one.stored(key) == texts for one in exact for key, texts in one.written.items()):
            return
        again: list[list[dict[str, list[str]]]] = []
        for size in _OTHER_BATCHES:
            batches = [exact[start : start + size] for start in range(0, len(exact), size)]
            again.append([written for batch in batches for written in self._caption([one.sample for one in batch])])
        for key in exact[0].written:
            written = [one.written[key] for one in exact]
            stored = [[*one.stored(key), *one.written[key]][: len(one.written[key])] for one in exact]
            others = [[*texts[1:], ""] for texts in written]
            allowed = allowed_caption_distance(written, [[sample[key] for sample in run] for run in again], others)
            is_explained = caption_distance(stored, written) <= allowed
            for one in exact:
                num_different = one.num_different(key)
                if len(one.stored(key)) != len(one.written[key]) or (num_different and not is_explained):
                    problem = f"{key}: {num_different} of {len(one.written[key])} captions are not those made of it now"
                    self._findings.add(one.file, problem, one.sample.key)

    def _caption(self, samples: Sequence[Sample]) -> list[dict[str, list[str]]]:
        """The captions that the captioners write now, by key."""
        copies = [replace(sample, synthetic={}) for sample in samples]
        self._captioners.caption(copies)
        return [copy.synthetic for copy in copies]
