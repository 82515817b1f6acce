"""The schema of an evaluation job, and of the tasks that a training job may hold too."""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.strict import PositiveInt, Strict


class Classification(Strict):
    """Classification of labelled images: zero-shot, or by a classifier's own head, which needs neither names nor
    templates.
    """

    name: str
    data: str | tuple[str, ...]
    """Tars of image and `cls` members, as a reinforcing job's `input.shards`; or a folder with a folder per class."""
    class_names: tuple[str, ...] | str | None = None
    """A list, a text file with one a line, or openai (ImageNet's); None: classnames.txt beside the data, or folders."""
    templates: tuple[str, ...] | str | None = None
    """A list, a text file or openai; {} or {c} stands for the class. None: zeroshot_classification_templates.txt."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class Retrieval(Strict):
    """Retrieval of texts by images and of images by texts."""

    name: str
    data: str | tuple[str, ...]
    """Tars of image and `txt` members, one caption a line."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class Tasks(Strict):
    """The tasks that a model is evaluated on."""

    classification: tuple[Classification, ...] = ()
    retrieval: tuple[Retrieval, ...] = ()

    @property
    def any(self) -> bool:
        """Whether there is a task."""
        return bool(self.classification or self.retrieval)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = Counter([task.name for task in self.classification] + [task.name for task in self.retrieval])
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise ValueError(f"two tasks are called {repeated[0]}")
        return self


class EvaluatedModel(Strict):
    """A trained network: of open_clip, or of a training run here."""

    architecture: str
    """A name of open_clip, hf-hub:org/repo, or a JSON file in the form of the hub's open_clip_config.json; of a
    classifier timm:NAME, or its config.json.
    """
    weights: str
    """A checkpoint's path or URL, a tag of open_clip, or hf-hub:org/repo."""
    tokenizer: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """module:Class, constructed with context_length; None: the architecture's own."""
    context_length: PositiveInt | None = None


class Engine(Strict):
    """How images are prepared and run."""

    interpolation: Literal["bicubic", "bilinear"] | None = None
    """None: as the checkpoint's record or config says, else bicubic."""
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    """Which side is resized to the model's size; squash: both. None: as the record says, else shortest."""
    batch_size: PositiveInt = 256
    threads: PositiveInt = 4
    """Threads that decode images."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_image_pixels: PositiveInt = 180_000_000


class EvaluateJob(Strict):
    """One model on some tasks: a network of open_clip, or a teacher of images and texts by its card."""

    name: str
    model: EvaluatedModel | None = None
    teacher: TeacherCard | None = None
    tasks: Tasks
    engine: Engine = Engine()
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders from which `tokenizer` and `use` may import plain Python files; the job file's folder is added."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if (self.model is None) == (self.teacher is None):
            raise ValueError("give either model, a network of open_clip, or teacher, a card such as {card: PATH}")
        if not self.tasks.any:
            raise ValueError("tasks holds neither classification nor retrieval: nothing is evaluated")
        return self
