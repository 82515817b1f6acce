"""Packages that not everybody needs, and the extra of this package that installs each: `dr-pipeline[onnx]`."""

from importlib.util import find_spec

from dr_pipeline.errors import ConfigError

EXTRAS = {
    "jinja2": "report",
    "matplotlib": "report",
    "onnxruntime": "onnx",
    "tensorboard": "report",
    "transformers": "transformers",
}
"""Package → extra."""


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return find_spec(package) is not None


def how_to_install(package: str) -> str:
    """`X, which is not installed`, and the command for it where X comes with an extra."""
    top = package.partition(".")[0]
    command = f": pip install 'dr-pipeline[{EXTRAS[top]}]'" if top in EXTRAS else ""
    return f"{top}, which is not installed{command}"


def require(package: str, user: str) -> None:
    """Raise ConfigError where a package is not installed: `USER needs X, which …`."""
    if not is_installed(package):
        raise ConfigError(f"{user} needs {how_to_install(package)}")
