"""The job: frozen models that refuse what they do not know. `jobfile.load` makes one from YAML.

A `Job` is whole: a worker needs no other file. `Job.identity` is the part that decides the output's bytes; its hash is
stored with the output.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dr_pipeline.shown import without_secrets_in

Triple = tuple[float, float, float]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
Side = Annotated[int, Field(gt=0, le=1 << 14)]
Interpolation = Literal["bicubic", "bilinear"]
Resampler = Literal["pillow", "fast"]
OpName = Literal[
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
]
"""RandAugment's operations, by the contract's index."""

MOST_CAPTIONS = 1000
"""Of one sample and one key of `syn.json`: more are neither read nor made."""
LONGEST_KEY_BYTES = 200
"""Of a key of `syn.json`."""


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(Strict):
    """The base dataset: tar shards of images and alt-texts."""

    shards: str | tuple[str, ...]
    """Brace pattern, glob, folder, tar, list of these, or a .txt file that lists them one a line."""
    root: str | None = None
    """The folder that output names are relative to; default: the part of `shards` before its first wildcard."""
    caption: str = "auto"
    """auto: the .txt member, else the json member's `caption`; txt: only that; any other word: that json field."""
    storage: dict[str, Any] = Field(default={}, repr=False)
    """fsspec options (endpoint_url, profile, anon, …). Never stored or logged."""


def _has_codec(precision: str) -> str:
    from dr_pipeline.shards.codecs import codec_for

    return codec_for(precision).precision


class Output(Strict):
    """Where the reinforced shards go, and in which of the contract's forms."""

    path: str
    layout: Literal["v1", "v2"] = "v2"
    precision: Annotated[str, AfterValidator(_has_codec)] = "bfloat16"
    images: Literal["copy", "omit"] = "copy"
    storage: dict[str, Any] = Field(default={}, repr=False)


class Sampling(Strict):
    """How a captioner picks tokens. Lengths count tokens after start-of-text, end-of-text included.

    A model's own context length caps `max_tokens`.
    """

    method: Literal["top_p", "top_k", "beam", "greedy"] = "top_p"
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: PositiveInt = 50
    num_beams: PositiveInt = 6
    temperature: Annotated[float, Field(gt=0)] = 1.0
    min_tokens: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=2)] = 77

    @model_validator(mode="after")
    def _lengths_are_ordered(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is more than max_tokens ({self.max_tokens})")
        return self


class Card(Strict):
    """One model: a class to construct, its options, and what it is expected to be."""

    name: Annotated[str, Field(pattern=r"^[^,\s]+$")]
    use: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    options: dict[str, Any] = {}
    digests: dict[str, str] = {}
    """By option, and `use`: the SHA-256 of its file or source. `networks.contents` fills in what is not said here."""
    image_size: PositiveInt | None = None
    mean: Triple | None = None
    std: Triple | None = None
    licence: str | None = None
    source: str | None = None

    def identity(self) -> dict[str, Any]:
        """What decides the model's outputs, as plain JSON. Where no digest is known, none is named."""
        described = {"dim", "image_size", "mean", "std", "logit_scale", "licence", "source"}
        return self.model_dump(mode="json", exclude=described if self.digests else {*described, "digests"})


class TeacherCard(Card):
    """A CLIP teacher. `logit_scale` is the student's (paper, table 3): it does not change the embeddings."""

    dim: PositiveInt | None = None
    logit_scale: Annotated[float, Field(gt=0)] = 100.0


class CaptionerCard(Card):
    """A captioner and how this job samples from it."""

    tag: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    num_captions: Annotated[int, Field(gt=0, le=MOST_CAPTIONS)] = 5
    sampling: Sampling = Sampling()
    redraws: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a caption that is blank or repeats itself is drawn again."""

    @model_validator(mode="after")
    def _can_be_stored_and_redrawn(self) -> Self:
        if len(self.caption_key.encode()) > LONGEST_KEY_BYTES:
            raise ValueError(f"tag: {self.caption_key[:40]}… is longer than a key may be, {LONGEST_KEY_BYTES} bytes")
        if self.redraws and self.sampling.method in ("beam", "greedy"):
            raise ValueError(f"redraws: {self.sampling.method} draws nothing, so the same captions would come again")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the captions, as plain JSON. A default is not named that came later."""
        identity = super().identity()
        if not self.redraws:
            del identity["redraws"]
        return identity

    @property
    def caption_key(self) -> str:
        """The key of its captions in `syn.json`."""
        return "syn_text" if self.tag is None else f"syn_text_{self.tag}"


class CenterCrop(Strict):
    """torchvision's CenterCrop to a square of `size` pixels; a smaller image gets a black border."""

    size: Side


class RandomCrop(Strict):
    """torchvision's RandomCrop to a square of `size` pixels, not resized."""

    size: Side
    pad_if_needed: bool = False
    """Whether a smaller image gets a black border; otherwise it is skipped."""
    p: Fraction = 1.0


class RandomResizedCrop(Strict):
    """torchvision's RandomResizedCrop: `scale` is the part of the image's area, `ratio` is width by height."""

    size: PositiveInt = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333333)
    interpolation: Interpolation = "bicubic"
    resampler: Resampler = "pillow"
    p: Fraction = 1.0

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        _check_ranges(self.scale, self.ratio)
        return self


class RandomHorizontalFlip(Strict):
    """torchvision's RandomHorizontalFlip."""

    p: Fraction = 0.5


class RandAugment(Strict):
    """torchvision's RandAugment: `magnitude` is a bin of `num_magnitude_bins`."""

    num_ops: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0)] = 9
    num_magnitude_bins: PositiveInt = 31
    p: Fraction = 1.0
    magnitudes: dict[OpName, tuple[float, float]] | None = None
    """Operation → [low, high]: only these are drawn, each with a magnitude from its own range, as RangeAugment does."""

    @model_validator(mode="after")
    def _magnitudes_exist(self) -> Self:
        if self.magnitude >= self.num_magnitude_bins:
            raise ValueError(f"magnitude must be below num_magnitude_bins ({self.num_magnitude_bins})")
        if self.magnitudes is not None and not self.magnitudes:
            raise ValueError("magnitudes: name one operation at least")
        for name, (low, high) in (self.magnitudes or {}).items():
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"magnitudes.{name} must be [low, high] with low <= high, found [{low}, {high}]")
            if name == "posterize" and not (low >= 1 and high <= 8):
                raise ValueError(f"magnitudes.posterize: an operation keeps 1 to 8 bits, found [{low}, {high}]")
        return self


class RandomErase(Strict):
    """torchvision's RandomErasing, to black: `scale` is the rectangle's part of the view, `ratio` height by width."""

    p: Fraction = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        _check_ranges(self.scale, self.ratio)
        return self


def _check_ranges(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high:
            raise ValueError(f"{name} must be [low, high] with 0 < low <= high, found [{low}, {high}]")
    if scale[1] > 1:
        raise ValueError(f"scale: no part is larger than its image, found [{scale[0]}, {scale[1]}]")


_FIRST_TRANSFORMS = ("random_resized_crop", "rand_augment")
_LATER_DEFAULTS = {"resampler": "pillow", "p": 1.0, "magnitudes": None}
"""Of fields that the first transforms did not have at first."""


class ViewRecipe(Strict):
    """How one view is drawn: its transforms in the order in which they apply; `null` leaves one out.

    The last crop gives a view its size.
    """

    center_crop: CenterCrop | None = None
    random_crop: RandomCrop | None = None
    random_resized_crop: RandomResizedCrop | None = RandomResizedCrop()
    random_horizontal_flip: RandomHorizontalFlip | None = None
    rand_augment: RandAugment | None = RandAugment()
    random_erase: RandomErase | None = None

    @model_validator(mode="after")
    def _views_have_a_size(self) -> Self:
        if not (self.random_resized_crop or self.random_crop or self.center_crop):
            raise ValueError("random_resized_crop: null needs a random_crop or a center_crop, to give views their size")
        return self

    @property
    def transforms(self) -> dict[str, Any]:
        """The settings of the transforms that are not left out, by name, in their order."""
        fields = {name: getattr(self, name) for name in ViewRecipe.model_fields}
        return {name: settings for name, settings in fields.items() if settings is not None}

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        return getattr(self, self.sized_by).size

    @property
    def sized_by(self) -> str:
        """The name of the crop that gives a view its size."""
        return [name for name in self.transforms if name.endswith("_crop")][-1]

    @property
    def interpolation(self) -> Interpolation:
        """How a crop is resized."""
        return self.random_resized_crop.interpolation if self.random_resized_crop else "bicubic"

    @property
    def resampler(self) -> Resampler:
        """What resizes a crop."""
        return self.random_resized_crop.resampler if self.random_resized_crop else "pillow"

    def identity(self) -> dict[str, Any]:
        """As plain JSON. What came later is not named where it is as by default: the first outputs can be resumed."""
        tree = self.model_dump(mode="json")
        for name in ViewRecipe.model_fields:
            if name not in _FIRST_TRANSFORMS and tree[name] is None:
                del tree[name]
            elif name in _FIRST_TRANSFORMS and tree[name] is not None:
                fields = tree[name].items()
                tree[name] = {field: value for field, value in fields if _LATER_DEFAULTS.get(field, ...) != value}
        return tree


class Augmentation(ViewRecipe):
    """The views drawn of each image."""

    num_views: PositiveInt = 30


class Workers(Strict):
    """The pool. Resources are declared per worker; they do not change the output."""

    engine: Literal["ray", "local"] = "ray"
    min: PositiveInt = 1
    max: PositiveInt = 512
    gpus: Annotated[float, Field(ge=0)] | None = None
    cpus: PositiveInt | None = None
    """Of one worker; None: by what the machine or the cluster has, which `runners/resources.py` looks at."""
    view_batch: PositiveInt = 256
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @property
    def num_gpus(self) -> float:
        """GPUs of a worker; the paper's where nothing is known of the cluster."""
        return 1 if self.gpus is None else self.gpus

    @property
    def num_cpus(self) -> int:
        """Cores of a worker, likewise."""
        return self.cpus or 8

    @model_validator(mode="after")
    def _min_is_at_most_max(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class Errors(Strict):
    """What is tolerated: bad samples up to a share, bad shards by quarantine, bad contracts never."""

    max_skipped: Fraction = 0.2
    bad_shard: Literal["quarantine", "stop"] = "quarantine"
    attempts: PositiveInt = 3
    shard_deadline_s: Annotated[float, Field(gt=0)] = 7200
    max_image_pixels: PositiveInt = 180_000_000
    max_member_bytes: PositiveInt = 268_435_456

    def identity(self) -> dict[str, Any]:
        """The limits that decide which samples are in the output. A default is not named that came later."""
        limits = {"max_image_pixels": self.max_image_pixels, "max_member_bytes": self.max_member_bytes}
        if self.max_member_bytes == Errors.model_fields["max_member_bytes"].default:
            del limits["max_member_bytes"]
        return limits


Positive = Annotated[float, Field(gt=0)]


class Assumptions(Strict):
    """What `plan` takes for granted when it estimates a job's cost; nothing else reads it.

    CPU times are those of benchmarks/view_cost.py and write_cost.py on one of two virtual cores; no GPU was measured.
    """

    gpu_tflops: Positive = 400
    core_tflops: Positive = 0.05
    caption_step_ms: Positive = 10
    caption_steps: PositiveInt = 25
    decode_ms: Positive = 2.5
    view_ms: Positive | None = None
    write_ms: Positive = 1.4
    network_gbit_s: Positive = 10
    store_requests_s: Positive = 3500


class Job(Strict):
    """A whole job. Defaults are the paper's DFNDR-2B12M."""

    name: str
    seed: int = 0
    input: Input
    output: Output
    captioners: tuple[CaptionerCard, ...] = ()
    teachers: tuple[TeacherCard, ...]
    augmentation: Augmentation = Augmentation()
    workers: Workers = Workers()
    errors: Errors = Errors()
    assumptions: Assumptions = Assumptions()
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders that `use:` may import plain Python files from; `jobfile.load` adds the job file's own."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.teachers:
            raise ValueError("teachers: at least one is needed")
        keys = [captioner.caption_key for captioner in self.captioners]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two captioners write the same key ({', '.join(keys)}): give each its own tag")
        if self.output.layout == "v1" and len(keys) > 1:
            raise ValueError("output.layout v1 holds one captioner's captions: use v2 for several")
        if self.output.layout == "v1" and keys not in ([], ["syn_text"]):
            raise ValueError(
                f"output.layout v1 has its captions under syn_text, and its readers look for no {keys[0]}: "
                "set captioners.0.tag=null, or use v2"
            )
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError(f"two teachers have the same name ({', '.join(names)})")
        size = self.augmentation.size
        for teacher in self.teachers:
            if teacher.image_size is not None and teacher.image_size > size:
                raise ValueError(
                    f"teacher {teacher.name} takes {teacher.image_size} px but views are rendered at {size} px: "
                    f"set augmentation.{self.augmentation.sized_by}.size to at least {teacher.image_size}"
                )
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the output's bytes, as plain JSON: neither resources, nor credentials, nor descriptions."""
        tree = {
            "seed": self.seed,
            "input": {"caption": self.input.caption, "root": self.input.root},
            "output": self.output.model_dump(mode="json", include={"layout", "precision", "images"}),
            "captioners": [card.identity() for card in self.captioners],
            "teachers": [card.identity() for card in self.teachers],
            "augmentation": self.augmentation.identity(),
            "precision": self.workers.precision,
            "errors": self.errors.identity(),
        }
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
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{key}: {before.get(key, 'absent')} → {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
