"""The schema of a reinforcing job, frozen and without unknown keys. `jobfile.load` reads one from YAML.

A worker needs no other file than the `Job`. `Job.identity` is the part that decides the output's bytes; its hash, the
fingerprint, is stored with the output.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from dr_pipeline.codecs import codec_for
from dr_pipeline.config.augmentation import Augmentation
from dr_pipeline.config.cards import CaptionerCard, RewriterCard, ScorerCard, TeacherCard
from dr_pipeline.config.planning import Assumptions, PriceList
from dr_pipeline.config.strict import Fraction, PositiveInt, Strict, is_unset
from dr_pipeline.redaction import without_secrets_in

WITHOUT_TEXTS = "none"
"""The `input.caption` of a job whose samples have no texts."""


class Input(Strict):
    """The base dataset: tar shards of images and alt-texts."""

    shards: str | tuple[str, ...]
    """Brace pattern, glob, folder, tar, list of these, or a .txt file that lists them one a line."""
    root: str | None = None
    """The folder that output names are relative to; default: the part of `shards` before its first wildcard."""
    caption: str = "auto"
    """auto: the .txt member, else the json member's `caption`; txt: only that; none: samples have no texts; any other
    word: that json field."""
    storage: dict[str, Any] = Field(default={}, repr=False)
    """fsspec options (endpoint_url, profile, anon, …). Never stored or logged."""


class Output(Strict):
    """Where the reinforced shards are written, and in which form."""

    path: str
    layout: Literal["v1", "v2"] = "v2"
    precision: Annotated[str, AfterValidator(lambda precision: codec_for(precision).precision)] = "bfloat16"
    images: Literal["copy", "omit"] = "copy"
    top_k: Annotated[PositiveInt | None, Field(exclude_if=is_unset)] = None
    """How many of the classifiers' mean probabilities are kept of a view; None: all of each classifier's."""
    storage: dict[str, Any] = Field(default={}, repr=False)


Rendering = Literal["auto", "host", "device"]


class Batches(NamedTuple):
    """What passes through a model at once."""

    views: int
    captions: int
    """Images that are captioned."""
    texts: int


class Workers(Strict):
    """The workers of a run, and the resources of each. They do not change the output."""

    engine: Literal["ray", "local"] = "ray"
    min: PositiveInt = 1
    max: PositiveInt = 512
    gpus: Annotated[float, Field(ge=0)] | None = None
    cpus: PositiveInt | None = None
    """CPUs of one worker; None: as the machine or the cluster has, by `runners/resources.py`."""
    view_batch: PositiveInt = 256
    caption_batch: PositiveInt | None = None
    """Images that are captioned at once; None: 512 on a GPU, where more cost little more time, 32 on a CPU."""
    text_batch: PositiveInt | None = None
    """Texts that a teacher embeds at once; None: 1,024 on a GPU, 256 on a CPU."""
    precision: Literal["auto", "float32", "bfloat16", "float8"] = "auto"
    compile: bool = False
    """Whether the towers of teachers that can be compiled are."""
    render: Rendering = "auto"
    """Where views are rendered, to the same pixels; auto: on a GPU, where there is one."""

    def batches(self, device: str) -> Batches:
        """The batches on a kind of device, "cpu" or another."""
        captions, texts = (32, 256) if device == "cpu" else (512, 1024)
        return Batches(self.view_batch, self.caption_batch or captions, self.text_batch or texts)

    @property
    def num_gpus(self) -> float:
        """GPUs of a worker; the default where nothing is known of the cluster."""
        return 1 if self.gpus is None else self.gpus

    @property
    def num_cpus(self) -> int:
        """CPUs of a worker; the default where nothing is known of the cluster."""
        return self.cpus or 8

    @model_validator(mode="after")
    def _min_is_at_most_max(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class Errors(Strict):
    """What is tolerated: bad samples up to a share, bad shards in quarantine, and no model that breaks its contract."""

    max_skipped: Fraction = 0.2
    bad_shard: Literal["quarantine", "stop"] = "quarantine"
    attempts: PositiveInt = 3
    shard_deadline_s: Annotated[float, Field(gt=0)] = 7200
    max_image_pixels: PositiveInt = 180_000_000
    max_member_bytes: PositiveInt = 268_435_456

    def identity(self) -> dict[str, Any]:
        """The limits that decide which samples are in the output, as plain JSON.

        `max_member_bytes` is left out at its default: it was added later, which keeps existing outputs' fingerprints.
        """
        limits = {"max_image_pixels": self.max_image_pixels, "max_member_bytes": self.max_member_bytes}
        if self.max_member_bytes == Errors.model_fields["max_member_bytes"].default:
            del limits["max_member_bytes"]
        return limits


class Job(Strict):
    """A reinforcing job. Defaults are those of the paper's DFNDR-2B12M."""

    name: str
    seed: int = 0
    input: Input
    output: Output
    scorers: tuple[ScorerCard, ...] = ()
    captioners: tuple[CaptionerCard, ...] = ()
    rewriters: tuple[RewriterCard, ...] = ()
    teachers: tuple[TeacherCard, ...]
    augmentation: Augmentation = Augmentation()
    workers: Workers = Workers()
    errors: Errors = Errors()
    assumptions: Assumptions = Assumptions()
    prices: PriceList | None = None
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders from which `use` may import plain Python files; `jobfile.load` adds the job file's folder."""

    @property
    def has_texts(self) -> bool:
        """Whether its samples have captions."""
        return self.input.caption != WITHOUT_TEXTS

    @property
    def num_texts(self) -> int:
        """Texts of a sample: its caption, and those of the job's captioners and rewriters."""
        return 1 + sum(writer.num_captions for writer in self.writers) if self.has_texts else 0

    @property
    def num_values(self) -> int:
        """The numbers in a sample's embeddings of views and texts; teachers without a declared dim count as 0.

        Of classifiers that are averaged the kept probabilities count, and each one's class as two numbers.
        """
        top_k, num_views = self.output.top_k, self.augmentation.num_views
        dims = [card.dim or 0 for card in self.teachers if not (top_k and card.output == "probabilities")]
        return (num_views + self.num_texts) * sum(dims) + num_views * 3 * (top_k or 0)

    @property
    def writers(self) -> tuple[CaptionerCard, ...]:
        """All that write a key of `syn.json` each."""
        return (*self.captioners, *self.rewriters)

    @property
    def cards(self) -> tuple[ScorerCard | CaptionerCard | TeacherCard, ...]:
        """Of all its models, in the order in which they see a sample."""
        return (*self.scorers, *self.writers, *self.teachers)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.has_texts and self.writers:
            raise ValueError(
                "input.caption is none, so samples have no texts: remove captioners and rewriters, or name the caption"
            )
        if self.has_texts and (self.augmentation.mixup or self.augmentation.cutmix):
            raise ValueError(
                "augmentation mixes two images (mixup, cutmix), which no caption describes: set input.caption=none"
            )
        if not self.has_texts and self.output.layout == "v1":
            raise ValueError("output.layout v1 is one of samples with texts, and input.caption is none: use v2")
        if not self.teachers:
            raise ValueError("teachers: at least one is needed")
        keys = [writer.caption_key for writer in self.writers]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two captioners write the same key ({', '.join(keys)}): give each its own tag")
        if self.output.layout == "v1" and len(keys) > 1:
            raise ValueError("output.layout v1 holds one captioner's captions: use v2 for several")
        if self.output.layout == "v1" and keys not in ([], ["syn_text"]):
            raise ValueError(
                f"output.layout v1 has its captions under syn_text, and its readers look for no {keys[0]}: "
                "set captioners.0.tag=null, or use v2"
            )
        for kind, cards in (("teachers", self.teachers), ("scorers", self.scorers)):
            names = [card.name for card in cards]
            if len(set(names)) < len(names):
                raise ValueError(f"two {kind} have the same name ({', '.join(names)})")
        size = self.augmentation.size
        for teacher in self.teachers:
            if teacher.image_size is not None and teacher.image_size > size:
                raise ValueError(
                    f"teacher {teacher.name} takes {teacher.image_size} px but views are rendered at {size} px: "
                    f"set augmentation.{self.augmentation.sized_by}.size to at least {teacher.image_size}"
                )
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the output's bytes, as plain JSON; without resources, credentials and descriptions."""
        tree = {
            "seed": self.seed,
            "input": {"caption": self.input.caption, "root": self.input.root},
            "output": self.output.model_dump(mode="json", include={"layout", "precision", "images", "top_k"}),
            "captioners": [card.identity() for card in self.captioners],
            **({"rewriters": [card.identity() for card in self.rewriters]} if self.rewriters else {}),
            "teachers": [card.identity() for card in self.teachers],
            "augmentation": self.augmentation.model_dump(mode="json"),
            "precision": self.workers.precision,
            "errors": self.errors.identity(),
        }
        if self.scorers:
            tree["scorers"] = [card.identity() for card in self.scorers]
        return without_secrets_in(tree)

    def fingerprint(self) -> str:
        """Twelve hex digits of the identity's SHA-256."""
        return fingerprint_of(self.identity())


def fingerprint_of(identity: dict[str, Any]) -> str:
    """The fingerprint of a job with this identity."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two identities, as `key: old → new`."""
    before, after = dict(flatten(old)), dict(flatten(new))
    return [
        f"{key}: {before.get(key, 'absent')} → {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries and lists, as (dotted key, value)."""
    if isinstance(tree, dict | list) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
