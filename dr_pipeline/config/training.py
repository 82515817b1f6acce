"""The training job: frozen models that refuse what they do not know. `jobfile.load` makes one from YAML.

Defaults are the paper's, tables 15 and 16.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dr_pipeline.config.augmentation import ViewRecipe
from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.evaluation import Tasks
from dr_pipeline.config.strict import Fraction, PositiveInt, Strict
from dr_pipeline.redaction import without_secrets_in

PositiveFloat = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class StoredTeacher(Strict):
    """A teacher whose embeddings a dataset holds: its columns and its temperature."""

    name: str
    dim: PositiveInt
    logit_scale: PositiveFloat


class Base(Strict):
    """Where the images are, when the reinforced shards come without them."""

    shards: str | tuple[str, ...]
    match: Annotated[str, Field(pattern=r"^\w+$")] = "uid"
    """key: the samples' keys are equal; any other word: the json member's field that both sides hold."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class Data(Strict):
    """What is read, and in which order."""

    shards: str | tuple[str, ...]
    """As a reinforcing job's `input.shards`."""
    caption: str = "auto"
    """As a reinforcing job's `input.caption`."""
    base: Base | None = None
    augmentation: ViewRecipe | None = None
    """None: a stored view is replayed. Otherwise fresh views are drawn: for data that nobody reinforced."""
    view: Literal["random", "sequential"] = "random"
    """sequential: in epoch e, view e modulo their number."""
    sampling: Literal["epoch", "resampled"] = "epoch"
    """epoch: each sample once before any comes again; resampled: shards are drawn with replacement."""
    shuffle_buffer: PositiveInt = 1000
    """How many neighbouring samples a loader's process puts in random order."""
    workers: Annotated[int, Field(ge=0)] = 4
    """Loading processes of each rank; 0: none beside the training process."""
    max_skipped: Fraction = 0.2
    """The part of a shard's samples that may be unusable before the run stops."""
    max_image_pixels: PositiveInt = 180_000_000
    teachers: tuple[StoredTeacher, ...] | None = None
    """The embeddings' columns in order; None: as the dataset's config.json says."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class Captions(Strict):
    """The two captions of a sample and what each one's loss counts."""

    ground_truth_weight: Weight = 1.0
    synthetic_weight: Weight = 1.0
    synthetic_key: str = r"^syn_text.*$"
    """A regular expression; one matching key of a sample's `syn.json` is taken at random."""

    @field_validator("synthetic_key")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.ground_truth_weight == self.synthetic_weight == 0:
            raise ValueError("ground_truth_weight and synthetic_weight are both 0: nothing is learnt")
        return self


class Distillation(Strict):
    """Equations (1) and (2)."""

    weight: Fraction = 1.0
    """λ: 0 is plain CLIP training."""
    teachers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of those that the loss compares with; None: all. `logit_scales` is in the same order."""
    logit_scales: tuple[PositiveFloat, ...] | None = None
    """1 / τ of each teacher, in order; None: as the dataset's config.json says."""
    online_teachers: tuple[TeacherCard, ...] = ()
    """None: the stored embeddings are used. Otherwise these teachers see every batch, at their full cost."""


class Coca(Strict):
    """CoCa's objective, table 16."""

    caption_weight: Weight = 2.0
    contrastive_weight: Weight = 1.0


class Student(Strict):
    """The network that is trained."""

    architecture: str
    """A name of open_clip's, or a JSON file in the form of the hub's open_clip_config.json."""
    weights: str = "random"
    """What training starts from: random, a checkpoint's path or URL, a tag of open_clip's, hf-hub:org/repo."""
    image_size: PositiveInt | None = None
    """None: the architecture's own."""
    tokenizer: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """None: the architecture's own; otherwise module:Class, constructed with context_length."""
    context_length: PositiveInt | None = None
    grad_checkpointing: bool = False
    compile: bool = False


class Schedule(Strict):
    """How long, and in what steps."""

    steps: PositiveInt
    batch_size: PositiveInt
    """Samples a step, over all ranks and micro-batches."""
    accumulation: PositiveInt = 1
    """Micro-batches a step on each rank; the loss is the whole batch's, each tower's activations one micro-batch's."""
    learning_rate: PositiveFloat = 1e-3
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 10_000
    betas: tuple[float, float] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    clip_norm: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be fewer than steps ({self.steps})")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate ({self.min_learning_rate}) is more than learning_rate ({self.learning_rate})"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of accumulation ({self.accumulation})")
        return self


class Run(Strict):
    """Where the run's files go, and how often."""

    path: str
    log_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 2
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Evaluation(Tasks):
    """What the student is measured on at the end and, where `every` is given, each time so many steps are behind."""

    every: PositiveInt | None = None


class TrainJob(Strict):
    """A whole training run."""

    name: str
    seed: int = 0
    objective: Literal["clip", "coca"] = "clip"
    """clip: equations (1) and (2); coca: a captioner's."""
    data: Data
    student: Student
    captions: Captions = Captions()
    distillation: Distillation = Distillation()
    coca: Coca = Coca()
    schedule: Schedule
    evaluation: Evaluation = Evaluation()
    run: Run
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders that `tokenizer` and `use:` may import plain Python files from; the job file's own is added."""

    @property
    def distils(self) -> bool:
        """Whether teachers' embeddings enter the loss."""
        return self.objective == "clip" and self.distillation.weight > 0

    @property
    def reads_embeddings(self) -> bool:
        """Whether the stored embeddings are needed."""
        return self.distils and not self.distillation.online_teachers

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights, as plain JSON: neither folder, nor credentials, nor what is measured."""
        tree = self.model_dump(mode="json", exclude={"name", "plugin_dirs", "evaluation", "run"})
        for part in (tree["data"], tree["data"]["base"] or {}):
            part.pop("storage", None)
        if self.data.augmentation:
            tree["data"]["augmentation"] = self.data.augmentation.identity()
        return without_secrets_in({**tree, "precision": self.run.precision})
