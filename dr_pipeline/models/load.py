"""From a card to a checked model: import the class, construct it, compare it with what the card declares."""

import importlib
import importlib.util
import inspect
import math
import os
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import fsspec
import torch

from dr_pipeline.config import CaptionerCard, Card, TeacherCard
from dr_pipeline.errors import ConfigError, ModelError, PipelineError, nearest
from dr_pipeline.models.ensemble import check_embeddings
from dr_pipeline.models.protocol import Captioner, ImageSpec, Teacher, TeacherSpec


def load_teacher(card: TeacherCard, device: torch.device, plugin_dirs: Sequence[str] = ()) -> Teacher:
    """Construct a card's teacher, compare it with the card and embed one image and one text.

    Raises ConfigError for what is wrong in the card, ModelError for what is wrong in the model.
    """
    teacher: Teacher = _construct(card, device, plugin_dirs, ("encode_images", "encode_texts"))
    _check_spec(card, teacher.spec, TeacherSpec, ("dim", "image_size", "mean", "std"))
    spec = teacher.spec
    # Noise, because a model without biases may rightly answer a blank image with a zero vector.
    noise = torch.rand(1, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        image_emb = _call(card, "encode_images", lambda: teacher.encode_images(noise.to(device)))
        text_emb = _call(card, "encode_texts", lambda: teacher.encode_texts(["a photo of a dog"]))
    check_embeddings(image_emb, f"teacher {card.name}: encode_images", rows=1, dim=spec.dim)
    check_embeddings(text_emb, f"teacher {card.name}: encode_texts", rows=1, dim=spec.dim)
    return teacher


def load_captioner(card: CaptionerCard, device: torch.device, plugin_dirs: Sequence[str] = ()) -> Captioner:
    """Construct a card's captioner and compare it with the card. Raises ConfigError, ModelError."""
    captioner: Captioner = _construct(card, device, plugin_dirs, ("caption",))
    _check_spec(card, captioner.spec, ImageSpec, ("image_size", "mean", "std"))
    return captioner


def count_parameters(card: Card, plugin_dirs: Sequence[str] = ()) -> int | None:
    """How many parameters a card's model has, without loading it; None where its class does not say.

    A class says so by a static method `count_parameters(**options)`. Raises ConfigError, ModelError.
    """
    cls = load_class(card.use, plugin_dirs)
    _check_options(card, cls)
    return cls.count_parameters(**card.options) if hasattr(cls, "count_parameters") else None


def load_class(path: str, plugin_dirs: Sequence[str] = ()) -> Any:
    """The class (or function) at `module:Name`. `plugin_dirs` are looked in after everything that is installed.

    Raises ConfigError that names the missing module or attribute and the nearest one there is.
    """
    for folder in (str(Path(folder).resolve()) for folder in plugin_dirs):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()
    module_name, _, class_name = path.partition(":")
    module = _import(module_name, path)
    try:
        return getattr(module, class_name)
    except AttributeError:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{path}: {module_name} has no {class_name}{nearest(class_name, public)}") from None


def resource(uri: str) -> Path:
    """A local file for a path, a `package://pkg.module/file` or any fsspec URL (s3://, https://, …).

    A remote file is downloaded once to $DR_PIPELINE_CACHE (default ~/.cache/dr_pipeline), keyed by its address and its
    version there. Raises ModelError when there is no such file.
    """
    if uri.startswith("package://"):
        return _packaged(uri)
    if "://" in uri:
        return _downloaded(uri)
    path = Path(uri).expanduser()
    if not path.is_file():
        names = [sibling.name for sibling in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ModelError(f"no file at {uri} (looked in {path.parent.absolute()}){nearest(path.name, names)}")
    return path


def _packaged(uri: str) -> Path:
    package, _, name = uri.removeprefix("package://").partition("/")
    try:
        folder = Path(str(files(package)))
    except (ModuleNotFoundError, TypeError, ValueError):
        raise ModelError(f"{uri}: no package {package!r} is installed") from None
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{uri}: no such file{nearest(name, (sibling.name for sibling in folder.glob('*')))}")
    return path


def _downloaded(uri: str) -> Path:
    cache = Path(os.environ.get("DR_PIPELINE_CACHE", "~/.cache/dr_pipeline")).expanduser()
    try:
        filesystem, remote = fsspec.url_to_fs(uri)
        path = cache / filesystem.ukey(remote) / Path(remote).name
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Workers of one node may download at the same time: each to its own name, the last rename wins.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            filesystem.get_file(remote, os.path.join(folder, path.name))
            os.replace(os.path.join(folder, path.name), path)
    except Exception as error:
        raise ModelError(
            f"{uri} cannot be downloaded to {cache}: {type(error).__name__}: {error}. Check the address and that this "
            "worker's environment has the credentials and the endpoint (AWS_PROFILE, AWS_ENDPOINT_URL, …)"
        ) from error
    return path


def _import(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(missing + "."):
            raise ConfigError(f"{path}: {name} imports {missing}, which is not installed") from error
        parent = missing.rpartition(".")[0]
        folders = list(importlib.import_module(parent).__path__) if parent else [entry or "." for entry in sys.path]
        known = (f"{parent}.{module.name}".lstrip(".") for module in pkgutil.iter_modules(folders))
        raise ConfigError(
            f"{path}: no module {missing}{nearest(missing, known)} "
            "(a plug-in is a Python file beside the job file or in one of plugin_dirs, or an installed package)"
        ) from None
    except Exception as error:
        raise ConfigError(f"{path}: importing {name} failed: {_said(error)}") from error


def _construct(card: Card, device: torch.device, plugin_dirs: Sequence[str], methods: tuple[str, ...]) -> Any:
    try:
        cls = load_class(card.use, plugin_dirs)
    except ConfigError as error:
        raise ConfigError(f"card {card.name}: use: {error}") from error
    _check_options(card, cls)
    try:
        model = cls(device=device, **card.options)
    except PipelineError as error:
        raise type(error)(f"card {card.name}: {error}") from error
    except Exception as error:
        raise ModelError(f"card {card.name}: {card.use} failed in its constructor: {_said(error)}") from error
    for method in methods:
        if not callable(getattr(model, method, None)):
            raise ModelError(f"card {card.name}: {card.use} has no method {method}; see dr_pipeline/models/protocol.py")
    return model


def _check_options(card: Card, cls: Any) -> None:
    """Compare the card's options with the constructor's parameters. Raises ConfigError naming the field."""
    parameters = inspect.signature(cls).parameters
    if "device" not in parameters and not _takes_anything(parameters):
        raise ConfigError(f"card {card.name}: {card.use} must take device: def __init__(self, device, …)")
    known = [name for name in parameters if name != "device"]
    for option in card.options:
        if option == "device":
            raise ConfigError(f"card {card.name}: options.device: the engine chooses the device; remove it")
        if option not in known and not _takes_anything(parameters):
            raise ConfigError(
                f"card {card.name}: options.{option}: {card.use} has no such option"
                f"{nearest(option, known) or '; it has: ' + ', '.join(known)}"
            )
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        required |= parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        if required and name != "device" and name not in card.options:
            raise ConfigError(f"card {card.name}: options.{name}: required by {card.use}, but missing")


def _takes_anything(parameters: Any) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _check_spec(card: Card, spec: object, kind: type[ImageSpec], fields: tuple[str, ...]) -> None:
    if not isinstance(spec, kind):
        raise ModelError(
            f"card {card.name}: {card.use} must set self.spec to a {kind.__name__}, found {type(spec).__name__}"
        )
    for field in fields:
        declared, actual = getattr(card, field), getattr(spec, field)
        if declared is not None and not _same(declared, actual):
            raise ModelError(
                f"card {card.name}: {field} is {declared} in the card but {actual} in the model: "
                f"correct the card, or choose other options for {card.use}"
            )


def _same(declared: Any, actual: Any) -> bool:
    if isinstance(declared, tuple):
        return len(declared) == len(actual) and all(map(_same, declared, actual))
    return math.isclose(declared, actual, abs_tol=1e-6)


def _call(card: Card, method: str, call: Any) -> Any:
    try:
        return call()
    except PipelineError:
        raise
    except Exception as error:
        raise ModelError(f"card {card.name}: {method} failed on its first input: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
