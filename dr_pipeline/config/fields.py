"""The fields of a kind of job by their dotted names, as overrides and errors name them."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from dr_pipeline.config.cards import Card


def model_at(kind: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    """The model that names of fields, and positions in lists, lead to from a kind of job; None where there is none."""
    return next(_models_in(_annotation_at(kind, location)), None)


def leads_to_cards(kind: type[BaseModel], location: Sequence[str]) -> bool:
    """Whether names and positions lead from a kind of job to a card, or to a list of them."""
    model = model_at(kind, location)
    return model is not None and issubclass(model, Card)


def _annotation_at(kind: Any, location: Sequence[str]) -> Any:
    """What may stand at a place of a job, as Python's annotation; None where nothing may."""
    annotation = kind
    for part in location:
        mapping = next(_mappings_in(annotation), None)
        if mapping is not None:  # its keys are the user's own
            annotation = get_args(mapping)[1]
        elif not part.isdigit():
            model = next(_models_in(annotation), None)
            if model is None or part not in model.model_fields:
                return None
            annotation = model.model_fields[part].annotation
    return annotation


def _mappings_in(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is dict:
        yield annotation
    elif not isinstance(annotation, type):
        for argument in get_args(annotation):
            yield from _mappings_in(argument)


def complete_override(kind: type[BaseModel], tree: Any, typed: str) -> list[str]:
    """What may stand where the beginning of an override is typed: `key.`, `key=`, and `key=value` for a field of words.

    `tree` is what the job file holds: it tells how many items a list has.
    """
    dotted, equals, _ = typed.partition("=")
    *parents, last = dotted.split(".")
    model, start = model_at(kind, parents), "".join(f"{part}." for part in parents)
    if model is None:
        return []
    items = _value_at(tree, parents)
    if isinstance(items, list):
        found = [f"{start}{index}." for index in range(len(items))]
    elif equals:
        words = _words_of(model.model_fields[last].annotation) if last in model.model_fields else ()
        found = [f"{dotted}={word}" for word in words]
    else:
        fields = model.model_fields.items()
        found = [f"{start}{name}{'.' if any(_models_in(field.annotation)) else '='}" for name, field in fields]
        found += [f"{start}card="] if issubclass(model, Card) else []
    return [one for one in found if one.startswith(typed)]


def _value_at(tree: Any, location: Sequence[str]) -> Any:
    for part in location:
        if isinstance(tree, list):
            tree = tree[int(part)] if part.isdecimal() and int(part) < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _words_of(annotation: Any) -> Iterator[str]:
    """The words among the values that a field may have."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for argument in get_args(annotation):
            yield from _words_of(argument)
