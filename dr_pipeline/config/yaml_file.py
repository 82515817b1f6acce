"""YAML files as plain values: a repeated key is refused, and an error quotes nothing of the text."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from dr_pipeline.errors import ConfigError

# The parser raises these: its own, those of Python's dates and integers, and one for too many brackets.
NO_YAML = (yaml.YAMLError, ValueError, RecursionError)
_KINDS = {
    list: "a list",
    str: "a text",
    bool: "true or false",
    date: "a date",
    datetime: "a date",
    type(None): "nothing",
}


class _UniqueKeyLoader(yaml.SafeLoader):
    """A loader that refuses a repeated key in a mapping, where the plain one takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Raise MarkedYAMLError with the lines of a repeated key. Keys that `<<` merges in may be given again."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in first:
                where = f"on line {first[key.tag, key.value]} and again on line {line}"
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given {where}: keep one of them")
            first[key.tag, key.value] = line
        return node


def parse(text: str) -> Any:
    """The values of a YAML text. Raises one of `NO_YAML`."""
    loader = _UniqueKeyLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The keys and values of a file; `what` it is, for errors. Raises ConfigError."""
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror or error}") from error
    except NO_YAML as error:
        raise ConfigError(f"{what} {path} is not YAML: {without_snippet(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{what} {path}: expected keys and values, found {_KINDS.get(type(tree), 'a number')}")
    return tree


def without_snippet(error: Exception) -> str:
    """An error's message and place, without the quotation of the text, which may hold a credential."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else str(error)
