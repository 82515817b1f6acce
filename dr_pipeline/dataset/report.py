"""What travels between a driver and its workers: a shard to do, and how it ended."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One unit of work, of retry, of commit and of resume. A run may hold a million of them."""

    name: str
    """Path below the input's root and below the output, such as `00/00000013.tar`."""
    uri: str
    size_bytes: int | None
    """None where a listing did not show the file."""


@dataclass(frozen=True)
class SampleRow:
    """One input sample in the manifest, reinforced or skipped."""

    key: str
    members: int = 0
    """Of the input's tar."""
    captions: int = 0
    synthetic_captions: int = 0
    similarity: float | None = None
    """Cosine of ground-truth caption and views: mean over the views and the teachers."""
    synthetic_similarity: float | None = None
    """The same for the synthetic captions, mean over these too."""
    skip_reason: str | None = None
    skip_detail: str | None = None
    poor_captions: str | None = None
    """JSON: key of `syn.json` → fault (`dataset.texts.FAULTS`) → how many of a captioner's captions have it."""


@dataclass(frozen=True)
class ShardReport:
    """How one shard ended. As JSON beside the output it is the shard's commit."""

    name: str
    uri: str
    status: Literal["done", "failed"]
    fingerprint: str
    num_read: int = 0
    num_written: int = 0
    num_views: int = 0
    num_synthetic: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason → samples."""
    size_bytes: int = 0
    sha256: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → seconds at work, those of all threads together; `total` is the time that passed."""
    waited_seconds: dict[str, float] = field(default_factory=dict)
    """What stood still, for how many seconds: `read` for room ahead; the models for their `turn` after the shard
    before, to `embed` for rendered samples, to `collect` for a GPU or the encoders; `write` for encoded samples.
    """
    error: str | None = None
    samples_sha256: str | None = None
    """Of the shard's table of samples in the manifest."""
    arithmetic: str | None = None
    """What computed the embeddings and captions, such as `cpu float32` or `cuda bfloat16`."""
    num_members: int = 0
    """Of the input's tar: those of its samples, read, and those that are passed over."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Reason → members that are no sample's."""
    stops_run: bool = False
    """Whether no other shard could fare better: the output takes nothing more."""
    captions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Captioner by its key of `syn.json` → `drawn`, and how many of these have each fault of `dataset.texts.FAULTS`."""

    @property
    def num_skipped(self) -> int:
        """Samples read but not written."""
        return sum(self.skipped.values())
