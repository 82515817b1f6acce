"""Cards: what a job says of each of its models."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dr_pipeline.config.prompts import Prompt
from dr_pipeline.config.strict import PositiveInt, Strict, Triple, is_unset, left_out_at

Encodes = Literal["images", "texts"]
"""What a teacher can encode."""
OutputKind = Literal["embedding", "probabilities", "scores"]
"""What a row of a teacher's output is."""

MOST_CAPTIONS = 1000
"""Captions of one sample under one key of `syn.json`: more are neither read nor made."""
LONGEST_KEY_BYTES = 200
"""Bytes of a key of `syn.json`."""


class Sampling(Strict):
    """How a captioner chooses tokens. `min_tokens` and `max_tokens` count the end-of-text token, not the start.

    A model's context length caps `max_tokens`.
    """

    method: Literal["top_p", "top_k", "beam", "greedy"] = "top_p"
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: PositiveInt = 50
    num_beams: PositiveInt = 6
    num_beam_groups: Annotated[PositiveInt, left_out_at(1)] = 1
    """Groups of beams whose words differ; `num_beams` is a multiple of it."""
    diversity_penalty: Annotated[float, Field(gt=0), left_out_at(0.5)] = 0.5
    """What a word costs a group, as a log-probability, for each time that a group before it has chosen it."""
    repetition_penalty: Annotated[float, Field(gt=0), left_out_at(1.0)] = 1.0
    """Words that a caption has already become less likely above 1."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    min_tokens: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=2)] = 77

    @model_validator(mode="after")
    def _numbers_fit_together(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is more than max_tokens ({self.max_tokens})")
        if self.num_beams % self.num_beam_groups:
            raise ValueError(f"num_beams ({self.num_beams}) is no multiple of num_beam_groups ({self.num_beam_groups})")
        return self


class Card(Strict):
    """One model: a class, its constructor's options, and what the model is expected to be."""

    name: Annotated[str, Field(pattern=r"^[^,\s]+$")]
    use: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    options: dict[str, Any] = Field({})
    digests: dict[str, str] = Field({})
    """The SHA-256 of each option's file and of the source of `use`; `networks.digests` fills in what is missing."""
    image_size: PositiveInt | None = None
    mean: Triple | None = None
    std: Triple | None = None
    licence: str | None = None
    source: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is constructed with, beside a device; references are not resolved."""
        return self.options

    def identity(self) -> dict[str, Any]:
        """What decides the model's outputs, as plain JSON, without `digests` where there are none."""
        described = {
            "dim",
            "image_size",
            "mean",
            "std",
            "encodes",
            "output",
            "logit_scale",
            "float8_error",
            "licence",
            "source",
            "connection",
            "on_failure",
            "prices",
        }
        return self.model_dump(mode="json", exclude=described if self.digests else {*described, "digests"})

    def has_model_of(self, other: "Card") -> bool:
        """Whether one loaded model serves both cards."""
        return (self.use, self.arguments, self.digests) == (other.use, other.arguments, other.digests)


class Float8Error(Strict):
    """1 - cosine between a teacher's embeddings in float8 and in bfloat16, over a batch that is the same everywhere."""

    mean: float
    worst: float


class TeacherCard(Card):
    """A teacher. `logit_scale` is the student's (paper, table 3): it does not change the embeddings.

    `encodes` and `output` are set where a teacher is other than a CLIP, which embeds images and texts.
    """

    dim: PositiveInt | None = None
    encodes: Annotated[tuple[Encodes, ...] | None, Field(min_length=1, exclude_if=is_unset)] = None
    output: Annotated[OutputKind | None, Field(exclude_if=is_unset)] = None
    logit_scale: Annotated[float, Field(gt=0)] = 100.0
    float8_error: Annotated[Float8Error | None, Field(exclude_if=is_unset)] = None
    """Measured where a teacher is loaded in float8."""


SIMILARITY = "similarity/"
"""What the names of scores begin with that teachers give of themselves."""


class ScorerCard(Card):
    """A scorer, and which scores a sample must have to be reinforced: from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is more than max ({self.max:g}): every sample would be filtered")
        if self.name.startswith(SIMILARITY):
            raise ValueError(f"name: {SIMILARITY}… is what teachers' similarities are called: choose another")
        return self

    @property
    def keeps(self) -> str:
        """Which samples are reinforced, in words, such as `scores of at least 0.2`."""
        bounds = [("least", self.min), ("most", self.max)]
        named = [f"at {word} {bound:g}" for word, bound in bounds if bound is not None]
        return f"scores of {' and '.join(named)}" if named else "every score"


class Prices(Strict):
    """What a million tokens cost, in one currency of the user's."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]


def caption_key_of(tag: str | None) -> str:
    """The key in `syn.json` of the captions of a card with this tag."""
    return "syn_text" if tag is None else f"syn_text_{tag}"


class CaptionerCard(Card):
    """A captioner, and how the job samples from it.

    `connection` holds further options of the constructor: where a model is reached and how, not what it writes. They
    are no part of the job's identity, and are not stored.
    """

    connection: dict[str, Any] = Field({}, repr=False)
    tag: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    prompt: Annotated[Prompt | None, Field(exclude_if=is_unset)] = None
    """What a captioner that takes prompts is asked for, in place of its own."""
    num_captions: Annotated[int, Field(gt=0, le=MOST_CAPTIONS)] = 5
    sampling: Sampling = Sampling()
    redraws: Annotated[int, Field(ge=0, le=100)] = 0
    """How many times a caption that is blank or repeats itself is drawn again."""
    on_failure: Literal["skip", "fail"] = "skip"
    """What becomes of a sample whose request fails for good: it is skipped, or its shard fails."""
    prices: Prices | None = None

    @model_validator(mode="after")
    def _can_be_stored_and_redrawn(self) -> Self:
        if len(self.caption_key.encode()) > LONGEST_KEY_BYTES:
            raise ValueError(f"tag: {self.caption_key[:40]}… is longer than a key may be, {LONGEST_KEY_BYTES} bytes")
        if self.redraws and self.sampling.method in ("beam", "greedy"):
            raise ValueError(f"redraws: {self.sampling.method} draws nothing, so the same captions would come again")
        if twice := sorted(self.options.keys() & self.connection.keys()):
            raise ValueError(f"connection.{twice[0]}: options have it too: leave one of them out")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the captions, as plain JSON, without `redraws` where there are none."""
        identity = super().identity()
        if not self.redraws:
            del identity["redraws"]
        return identity

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is constructed with, beside a device; references are not resolved."""
        return {**self.options, **self.connection}

    @property
    def caption_key(self) -> str:
        """The key of the captions in `syn.json`."""
        return caption_key_of(self.tag)


class RewriterCard(CaptionerCard):
    """A captioner that sees no image: it writes the alt-text in other words, as its prompt asks."""

    prompt: Prompt

    @model_validator(mode="after")
    def _sees_the_alt_text(self) -> Self:
        if "{alt_text}" not in self.prompt:
            raise ValueError("prompt: a rewriter needs the text, so {alt_text} must be in it")
        return self
