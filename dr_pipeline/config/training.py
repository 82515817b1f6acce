"""The schemas of a training job and of one that tunes it, frozen and without unknown keys. `jobfile.load` reads them.

Defaults are those of the paper, tables 15 and 16.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dr_pipeline.config.augmentation import ViewRecipe
from dr_pipeline.config.evaluation import Tasks
from dr_pipeline.config.objective import CaptionWeights, Classify, Coca, Distillation, StoredTeacher
from dr_pipeline.config.strict import Fraction, Positive, PositiveInt, Strict, is_unset, left_out_at
from dr_pipeline.redaction import without_secrets_in

Positions = Literal["interpolate", "stretch", "extend"]
"""All positions of a text are stretched in a line; the same behind the first 20, which stay as they are (Long-CLIP,
arXiv 2403.15378, section 3.1); or all are kept, and new ones behind them begin at random.
"""


class Base(Strict):
    """The dataset that has the images, where the reinforced shards have none."""

    shards: str | tuple[str, ...]
    match: Annotated[str, Field(pattern=r"^\w+$")] = "uid"
    """key: by equal keys of samples; any other word: by the json member's field of that name."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class TrainingData(Strict):
    """What is read, and in which order."""

    shards: str | tuple[str, ...]
    """As a reinforcing job's `input.shards`."""
    caption: str = "auto"
    """As a reinforcing job's `input.caption`."""
    base: Base | None = None
    augmentation: ViewRecipe | None = None
    """None: stored views are replayed. Otherwise new views are drawn, for data that is not reinforced."""
    view: Literal["random", "sequential"] = "random"
    """sequential: in epoch e, view e modulo their number."""
    sampling: Literal["epoch", "resampled"] = "epoch"
    """epoch: each sample once an epoch; resampled: shards are drawn with replacement."""
    shuffle_buffer: PositiveInt = 1000
    """Samples that a loading process shuffles at a time."""
    workers: Annotated[int, Field(ge=0)] = 4
    """Loading processes of each rank; 0: the training process loads."""
    max_skipped: Fraction = 0.2
    """The share of a shard's samples that may be unusable before the run stops."""
    max_image_pixels: PositiveInt = 180_000_000
    teachers: tuple[StoredTeacher, ...] | None = None
    """The teachers of the embeddings' columns, in order; None: as the dataset's config.json says."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class Student(Strict):
    """The network that is trained."""

    architecture: str
    """A name of open_clip, or a JSON file in the form of the hub's open_clip_config.json; timm:NAME to classify."""
    num_classes: Annotated[PositiveInt | None, Field(exclude_if=is_unset)] = None
    """Of a classifier."""
    weights: str = "random"
    """Initial weights: random, a checkpoint's path or URL, a tag of open_clip, or hf-hub:org/repo."""
    image_size: PositiveInt | None = None
    """Pixels of a side; None: the architecture's own."""
    tokenizer: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """module:Class, constructed with context_length; None: the architecture's own."""
    context_length: PositiveInt | None = None
    positions: Annotated[Positions | None, Field(exclude_if=is_unset)] = None
    """How the text tower gets more positions than the weights have; see `networks.positions`."""
    grad_checkpointing: bool = False
    compile: bool = False


class Schedule(Strict):
    """The number of steps, their size, and the optimizer."""

    steps: PositiveInt
    """Of the learning rate's whole curve."""
    stop_at: PositiveInt | None = None
    """The run ends after this step, in the middle of the curve; None: after the last. It may be changed later."""
    batch_size: PositiveInt
    """Samples of a step, over all ranks and micro-batches."""
    accumulation: PositiveInt = 1
    """Micro-batches of a step on each rank. The loss is of the whole batch; activations are of one micro-batch."""
    learning_rate: Positive = 1e-3
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 10_000
    optimizer: Annotated[Literal["adamw", "sgd"], left_out_at("adamw")] = "adamw"
    """sgd: with Nesterov's momentum."""
    momentum: Annotated[float, Field(gt=0, lt=1), left_out_at(0.9)] = 0.9
    """Of sgd."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    clip_norm: Positive = 1.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def last_step(self) -> int:
        """The step after which the run ends."""
        return self.stop_at or self.steps

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.last_step > self.steps:
            raise ValueError(f"stop_at ({self.stop_at}) is more than steps ({self.steps})")
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
    """Where the run's files are written, and how often."""

    path: str
    log_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 2
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Evaluation(Tasks):
    """The tasks that the student is evaluated on at the end and, where `every` is given, after each `every` steps."""

    every: PositiveInt | None = None


class TrainJob(Strict):
    """A training job."""

    name: str
    seed: int = 0
    objective: Literal["clip", "coca", "classify"] = "clip"
    """clip: equations (1) and (2); coca: a captioner's losses; classify: a classifier's."""
    data: TrainingData
    student: Student
    captions: CaptionWeights = CaptionWeights()
    distillation: Distillation = Distillation()
    coca: Coca = Coca()
    classify: Annotated[Classify, left_out_at(Classify())] = Classify()
    schedule: Schedule
    evaluation: Evaluation = Evaluation()
    run: Run
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders from which `tokenizer` and `use` may import plain Python files; the job file's folder is added."""

    @model_validator(mode="after")
    def _suits_the_objective(self) -> Self:
        if self.distillation.affinity and self.objective != "clip":
            raise ValueError(f"distillation.affinity: only objective clip has this loss, found {self.objective}")
        is_timm, num_classes = self.student.architecture.startswith("timm:"), self.student.num_classes
        if (self.objective == "classify") != is_timm:
            raise ValueError(
                "objective classify trains a network of timm, student.architecture timm:NAME, and no other objective "
                f"does: found {self.objective} and {self.student.architecture}"
            )
        if is_timm != (num_classes is not None):
            raise ValueError("student.num_classes: how many classes a classifier tells apart, and only a classifier")
        return self

    @property
    def caption_weights(self) -> dict[str, float]:
        """The weights of the kinds of captions that count; none where the job classifies."""
        return {} if self.objective == "classify" else self.captions.weights

    @property
    def reads_labels(self) -> bool:
        """Whether the samples' labels are needed."""
        return self.objective == "classify" and self.distillation.weight < 1

    @property
    def reads_probabilities(self) -> bool:
        """Whether the stored class probabilities are needed."""
        return self.objective == "classify" and self.distillation.weight > 0

    @property
    def distils(self) -> bool:
        """Whether the loss is equation (1), which compares with teachers of images and texts."""
        return self.objective == "clip" and self.distillation.weight > 0

    @property
    def reads_pairs(self) -> bool:
        """Whether the stored embeddings of teachers of images and texts are needed, for equation (1)."""
        return self.distils and not self.distillation.online_teachers

    @property
    def reads_embeddings(self) -> bool:
        """Whether any stored embeddings are needed."""
        return self.reads_pairs or bool(self.distillation.affinity)

    def identity(self) -> dict[str, Any]:
        """What decides the weights after each step, as plain JSON; without folders, credentials and evaluation."""
        tree = self.model_dump(mode="json", exclude={"name", "plugin_dirs", "evaluation", "run"})
        del tree["schedule"]["stop_at"]
        for part in (tree["data"], tree["data"]["base"] or {}):
            part.pop("storage", None)
        return without_secrets_in({**tree, "precision": self.run.precision})


class TuneJob(Strict):
    """Short training runs of each teacher alone, at each of some logit scales (paper, table 3)."""

    name: str
    train: str
    """The training job's file, relative to the working folder or to this job file's."""
    overrides: tuple[str, ...] = ()
    """Fields of the training job to replace, as key.path=value, so that a run is short."""
    logit_scales: Annotated[tuple[Positive, ...], Field(min_length=2)]
    teachers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of teachers; None: all in the training job's loss."""
    metric: str
    """A figure of the training job's evaluation, named as in log.jsonl; higher is better."""
    path: str
    """The folder of the results and of the runs: a folder for each teacher, with one for each scale."""
    write_to: tuple[str, ...] = ()
    """Cards and job files that the best scales are written into; looked for like `train`."""
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders in which `train` and `write_to` are looked for; the job file's folder is added."""

    @field_validator("logit_scales")
    @classmethod
    def _ascending(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(scales)) < len(scales):
            raise ValueError("a scale is there twice")
        return tuple(sorted(scales))
