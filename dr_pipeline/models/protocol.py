"""What teachers, captioners and scorers are: plain classes with these methods. There is nothing to inherit from.

A class is constructed as `Class(device=..., **options)`, with the options of its card. Its methods say what it can do.
The pipeline places it on a device, cuts batches, resizes and normalises images, sets inference mode and autocast,
scales embeddings to unit length, and checks every output. Heavy imports belong in the constructor, which runs on the
worker.

The same inputs give the same outputs, whatever else is in their batch. A class whose outputs change from run to run, as
those of a service may, says `reproducible = False`. One that imports what this package does not bring says so,
`packages = ("transformers",)`: what is not installed is told by `plan`.

Shapes: B images, T texts, C = 3 channels, H = W = `spec.image_size` pixels, `dim` columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dr_pipeline.config.cards import Encodes, OutputKind
from dr_pipeline.config.strict import Triple
from dr_pipeline.errors import ModelError
from dr_pipeline.networks.images import ImageSpec

if TYPE_CHECKING:
    import torch

    from dr_pipeline.config.cards import Sampling
    from dr_pipeline.views.seeding import Stream


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A teacher's output and its images: RGB, square, `image_size` pixels, (x / 255 - mean) / std.

    A teacher of texts alone leaves `image_size`, `mean` and `std` out. `output` says what a row is: an embedding, which
    the pipeline scales to unit length, or probabilities or scores, which it stores as they are.
    """

    dim: int
    """Columns of the output; one space where a teacher encodes both images and texts."""
    image_size: int | None = None
    mean: Triple | None = None
    std: Triple | None = None
    output: OutputKind = "embedding"

    @property
    def images(self) -> ImageSpec:
        """The images that the teacher takes. Raises ModelError where the spec does not say."""
        if self.image_size is None or self.mean is None or self.std is None:
            raise ModelError("a teacher with encode_images needs image_size, mean and std in its spec")
        return ImageSpec(self.image_size, self.mean, self.std)


def is_reproducible(model: object) -> bool:
    """Whether a model gives the same again, which its class may deny."""
    return bool(getattr(model, "reproducible", True))


@runtime_checkable
class ImageTeacher(Protocol):
    """A teacher of images."""

    spec: TeacherSpec

    def encode_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images on the device → floats [B, dim]. A row must not depend on the others."""
        ...


@runtime_checkable
class TextTeacher(Protocol):
    """A teacher of texts."""

    spec: TeacherSpec

    def encode_texts(self, texts: list[str]) -> "torch.Tensor":
        """T texts of any length and script → floats [T, dim]. A row must not depend on the others."""
        ...


@runtime_checkable
class TokenTeacher(TextTeacher, Protocol):
    """A teacher of texts that says how it makes tokens of them: host threads do that while the device computes."""

    tokenizer: "Callable[[list[str]], torch.Tensor]"
    """T texts → tokens [T, L] in host memory, of any integer type. Teachers with the same object share its tokens."""

    def encode_tokens(self, tokens_TL: "torch.Tensor") -> "torch.Tensor":
        """Tokens in host memory, pinned beside a GPU → floats [T, dim], those of `encode_texts`."""
        ...


@runtime_checkable
class OwnPrecision(Protocol):
    """A teacher or captioner that can round its weights, once, and then needs no autocast, which does so at each call.

    It takes float32 images as before, and may return floats of any dtype. A class of large models may have a parameter
    `weights_dtype: torch.dtype | None = None` in its constructor: the dtype that `to_precision` is called with later,
    in which it may load its weights already, or None where it computes in float32.
    """

    def to_precision(self, dtype: "torch.dtype") -> None:
        """Compute in `dtype`, which is bfloat16. It is called once, after the constructor and before the first batch.

        Where it raises, or its outputs are then farther from float32 than those under autocast, the pipeline constructs
        the class anew and runs it under autocast.
        """
        ...


@runtime_checkable
class Float8Teacher(OwnPrecision, Protocol):
    """A teacher that computes its linear layers in float8, where a job asks for it; others compute in bfloat16."""

    def to_float8(self) -> None:
        """Compute linear layers in float8. It is called once, after `to_precision`."""
        ...


@runtime_checkable
class CompilableTeacher(Protocol):
    """A teacher whose towers torch.compile may compile."""

    def compile_towers(self, image_batch: int, text_batch: int) -> None:
        """Compile for batches of up to so many images and texts. It is called once, before the first batch."""
        ...


@runtime_checkable
class ReplayableTeacher(Protocol):
    """A teacher whose towers may be launched as CUDA graphs."""

    def replay_towers(self, image_batch: int, text_batch: int) -> None:
        """Do so for batches of up to so many images and texts. It is called once, before the first batch, on a GPU."""
        ...


Teacher = ImageTeacher | TextTeacher
"""A model with `encode_images`, `encode_texts`, or both, as a CLIP has."""


def inputs_of(teacher: Teacher) -> tuple[Encodes, ...]:
    """What a teacher encodes: images, texts or both."""
    kinds: tuple[tuple[Encodes, type], ...] = (("images", ImageTeacher), ("texts", TextTeacher))
    return tuple(name for name, kind in kinds if isinstance(teacher, kind))


@runtime_checkable
class Captioner(Protocol):
    """A model that writes captions of images."""

    spec: ImageSpec

    def caption(
        self, images_BCHW: "torch.Tensor", streams: "Sequence[Sequence[Stream]]", sampling: "Sampling"
    ) -> list[list[str]]:
        """Normalised float images on the device → `len(streams[b])` captions of image b.

        Caption c of image b takes every random number from `streams[b][c]`, so that it depends on neither batch size
        nor order. A caption that ended at the limit of tokens may be a `dataset.caption_faults.CutCaption`, a str:
        these are counted.
        """
        ...


@runtime_checkable
class PromptedCaptioner(Captioner, Protocol):
    """A captioner that can be asked for a kind of caption; `caption` asks as it thinks best."""

    def caption_prompted(
        self,
        images_BCHW: "torch.Tensor",
        prompts: "Sequence[str]",
        streams: "Sequence[Sequence[Stream]]",
        sampling: "Sampling",
    ) -> list[list[str]]:
        """`caption`, where image b is captioned as `prompts[b]` asks.

        A prompt is a card's, with a sample's key and alt-text filled in. These are the web's: a model's own signs, such
        as its end of a turn, have no meaning in them.
        """
        ...


@runtime_checkable
class Rewriter(Protocol):
    """A language model that writes texts in other words."""

    def rewrite(
        self,
        texts: "Sequence[str]",
        prompts: "Sequence[str]",
        streams: "Sequence[Sequence[Stream]]",
        sampling: "Sampling",
    ) -> list[list[str]]:
        """Alt-texts, and what is asked about each, which quotes it → `len(streams[t])` texts for text t.

        Random numbers and cut texts are as `Captioner.caption` has them.
        """
        ...


@dataclass
class Usage:
    """What requests took, for the report of a shard."""

    requests: int = 0
    """Sent, the repeated ones among them."""
    retries: int = 0
    failures: int = 0
    """Requests that failed for good."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class WriteRequest:
    """What is to be written for one sample."""

    key: str
    image: bytes | None
    """The sample's image as it is stored, of any format of `views.render.FORMATS`; None where texts are rewritten."""
    prompt: str
    """The card's, with the sample's alt-text and key in it; "" where the card has none."""
    alt_text: str
    seeds: tuple[int, ...]
    """One for each text that is wanted, below 2^31."""
    sampling: "Sampling"


@dataclass(frozen=True)
class Written:
    """The texts of a request, one for each seed, or why there are none."""

    texts: list[str]
    """One that ended at the limit of tokens may be a `dataset.caption_faults.CutCaption`."""
    usage: Usage = field(default_factory=Usage)
    failure: str = ""
    """Why it failed for good, in words that may be stored: the card says what becomes of the sample."""


@runtime_checkable
class RequestCaptioner(Protocol):
    """A captioner that works elsewhere, such as an endpoint: it takes single samples, many at once, in any order.

    Its methods run on one event loop, which all shards of a worker share: whatever takes milliseconds of the processor
    belongs into a thread.
    """

    max_in_flight: int
    """How many requests it has in work at once at most. It sees to that itself; more samples than that wait for it."""

    async def write(self, request: WriteRequest) -> Written:
        """The texts of one sample, which depend on the request alone. It is cancelled when its shard fails.

        Raises ModelError where no request of the job could succeed, such as for a sampling method that it lacks.
        """
        ...

    async def close(self) -> None:
        """Give back what it holds. No request is in work then, and none comes later."""
        ...


@runtime_checkable
class ImageTextScorer(Protocol):
    """A scorer of pairs of an image and its alt-text."""

    spec: ImageSpec

    def score(self, images_BCHW: "torch.Tensor", texts: list[str]) -> "torch.Tensor":
        """Normalised float images on the device, and their alt-texts → floats [B]. None may depend on the others."""
        ...


@runtime_checkable
class ImageScorer(Protocol):
    """A scorer of images."""

    spec: ImageSpec

    def score_images(self, images_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Normalised float images on the device → floats [B]. None may depend on the others."""
        ...


@runtime_checkable
class TextScorer(Protocol):
    """A scorer of alt-texts."""

    def score_texts(self, texts: list[str]) -> "torch.Tensor":
        """T alt-texts → floats [T]. None may depend on the others."""
        ...


Scorer = ImageTextScorer | ImageScorer | TextScorer
"""A model with `score`, `score_images` or `score_texts`; of several the first one counts."""
