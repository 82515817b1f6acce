"""What is evaluated, on what: the evaluation job, and the tasks that a training job may hold too."""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dr_pipeline.config.strict import PositiveInt, Strict


class Classification(Strict):
    """Zero-shot classification of labelled images."""

    name: str
    data: str | tuple[str, ...]
    """Tars of image and `cls` members, as a reinforcing job's `input.shards`; or a folder with a folder per class."""
    class_names: tuple[str, ...] | str | None = None
    """A list, a text file with one a line, or openai (ImageNet's); None: classnames.txt beside the data, or folders."""
    templates: tuple[str, ...] | str | None = None
    """A list, a text file or openai; {} or {c} stands for the class. None: zeroshot_classification_templates.txt."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class Retrieval(Strict):
    """Images to texts and texts to images."""

    name: str
    data: str | tuple[str, ...]
    """Tars of image and `txt` members, one caption a line."""
    storage: dict[str, Any] = Field(default={}, repr=False)


class Tasks(Strict):
    """All that a model is evaluated on."""

    classification: tuple[Classification, ...] = ()
    retrieval: tuple[Retrieval, ...] = ()

    @property
    def any(self) -> bool:
        """Whether there is something to do."""
        return bool(self.classification or self.retrieval)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = Counter([task.name for task in self.classification] + [task.name for task in self.retrieval])
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise ValueError(f"two tasks are called {repeated[0]}")
        return self


class Model(Strict):
    """A trained network: any of open_clip's, or one that was trained here."""

    architecture: str
    """A name of open_clip's, hf-hub:org/repo, or a JSON file in the form of the hub's open_clip_config.json."""
    weights: str
    """A checkpoint's path or URL, a tag of open_clip's, hf-hub:org/repo."""
    tokenizer: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """None: the architecture's own; otherwise module:Class, constructed with context_length."""
    context_length: PositiveInt | None = None


class Engine(Strict):
    """How images are prepared and run."""

    interpolation: Literal["bicubic", "bilinear"] | None = None
    """None: what the checkpoint's record or config says, else bicubic."""
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    """Which side is made to fit the model's size, squash: both. None: what the record says, else shortest."""
    batch_size: PositiveInt = 256
    threads: PositiveInt = 4
    """How many images are decoded at a time."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_image_pixels: PositiveInt = 180_000_000


class EvaluateJob(Strict):
    """One model on some tasks."""

    name: str
    model: Model
    tasks: Tasks
    engine: Engine = Engine()
    plugin_dirs: tuple[str, ...] = (".",)
    """Folders that `tokenizer` may import plain Python files from; the job file's own is added."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.tasks.any:
            raise ValueError("tasks holds neither classification nor retrieval: nothing is evaluated")
        return self
