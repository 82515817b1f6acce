"""What is wrong with the fields of a job or a card, in words: a line for each field."""

import re
from datetime import date
from typing import Any

from pydantic import BaseModel, ValidationError

from dr_pipeline.config import plugins
from dr_pipeline.config.fields import leads_to_cards, model_at
from dr_pipeline.errors import nearest
from dr_pipeline.words import plural

_LONGEST_SHOWN = 200
_EXPECTED = {
    "string_type": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys and values",
    "date_type": "a date",
}
"""What a field takes, by the problem with what it was given; `int` stands for `int_type`, `int_parsing` and others."""
_PATTERNS = {
    r"^[^,\s]+$": "a word without commas and blanks",
    r"^\w+$": "a word of letters, digits and _",
    r"^\w{1,12}$": "a word of 1 to 12 letters",
}


def what_is_wrong(kind: type[BaseModel], error: ValidationError) -> list[str]:
    """A line for each field: `field: what is wrong (found value)`, and the nearest valid name."""
    by_field: dict[tuple[str, ...], list[Any]] = {}
    for problem in sorted(error.errors(), key=_is_of_a_key, reverse=True):
        location = tuple(str(part) for part in problem["loc"] if not _is_kind(part) and part != "[key]")
        problems = by_field.setdefault(location, [])
        if not (problems and _is_of_a_key(problems[0])):  # what stands behind a wrong key is of no interest
            problems.append(problem)
    inner = {field[:length] for field in by_field for length in range(len(field))}
    return [
        _line(kind, [*field], problems)
        for field, problems in by_field.items()
        # An item tells more than that no text was given in its place.
        if field not in inner or not any(map(_is_kind, problems[0]["loc"]))
    ]


def _is_kind(part: Any) -> bool:
    """Whether a part of a problem's place is no field's name, but one of the kinds of values that a field may have."""
    return part == "str" or str(part).startswith("tuple[")


def _is_of_a_key(problem: Any) -> bool:
    return problem["loc"][-1:] == ("[key]",)


def _line(kind: type[BaseModel], location: list[str], problems: list[Any]) -> str:
    field, (problem, *_) = ".".join(location) or "job", problems
    if problem["type"] == "extra_forbidden":
        model = model_at(kind, location[:-1])
        known = [*model.model_fields] if model else []
        return f"{field}: unknown key{nearest(location[-1], known) or '; known here: ' + ', '.join(known)}"
    if problem["type"] == "missing":
        return f"{field}: required, but missing"
    hides = "storage" in location or _holds_fields(problem["input"])
    found = "" if hides else f" (found {shown(problem['input'])})"
    return f"{field}: {_rule(location, problem) or _expected(kind, location, problems)}{found}"


def _rule(location: list[str], problem: Any) -> str:
    """What a rule of our own says; empty where the kind of value is wrong."""
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "string_pattern_mismatch" and location[-1] in plugins.NAMING_CODE:
        return f"write it as module:Class{plugins.right_form(str(problem['input']))}"
    if problem["type"] == "invalid_key" or (problem["type"] == "string_type" and _is_of_a_key(problem)):
        return f'a key is a text: put it in quotes, "{problem["input"]}"'
    return ""


def _expected(kind: type[BaseModel], location: list[str], problems: list[Any]) -> str:
    """What a field takes, whose problems are of all the kinds of values that it might have."""
    kinds = " or ".join(dict.fromkeys(_taken(kind, location, one) for one in problems))
    value, takes_text = problems[0]["input"], any(one["type"] == "string_type" for one in problems)
    is_read_otherwise = takes_text and isinstance(value, bool | int | float | date)
    quoted = f": put it in quotes, '\"{shown(value)}\"' on a command line" if is_read_otherwise else ""
    return f"expected {kinds}{quoted}"


def _taken(kind: type[BaseModel], location: list[str], problem: Any) -> str:
    """The kind of value, of those that a field takes, with which one problem is."""
    what, context = problem["type"], problem.get("ctx", {})
    is_model, is_list = what == "model_type", what in ("tuple_type", "list_type")
    if what == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    if what in ("too_short", "too_long"):
        limit = "min_length" if what == "too_short" else "max_length"
        return f"{'at least' if what == 'too_short' else 'at most'} {plural(context[limit], 'item')}"
    if what == "string_pattern_mismatch":
        return _PATTERNS[context["pattern"]]
    if (is_model or is_list) and leads_to_cards(kind, location):
        return "a list of cards, such as [{card: PATH}]" if is_list else "a card, such as {card: PATH}"
    if is_model and (model := model_at(kind, location)):
        return f"keys and values, of {', '.join(model.model_fields)}"
    template = _EXPECTED.get(what) or _EXPECTED.get(what.partition("_")[0])
    return template.format(**context) if template else problem["msg"]


def shown(value: Any) -> str:
    """A value as a YAML file has it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _holds_fields(value: Any) -> bool:
    """Whether a value holds other fields: it is too long to show, and may hold credentials."""
    return isinstance(value, dict) or (isinstance(value, list | tuple) and any(map(_holds_fields, value)))
