"""What is said of a wrong field: in our words, whatever the field and whatever it was given."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from dr_pipeline.cli.job import kinds_by_verb
from dr_pipeline.config.fields import model_at
from dr_pipeline.config.jobfile import validate
from dr_pipeline.errors import ConfigError

JOBS = Path(__file__).parents[2] / "jobs"
KINDS = {name: kind for name, kind in kinds_by_verb().items() if name != "check-teacher"}
FILES = {"run": "quickstart", "train": "train_quickstart", "evaluate": "evaluate_quickstart"}
FILES["tune-logit-scale"] = "tune_logit_scale_quickstart"
VALUES = ["x", 3, -1, 1.5, None, True, [], ["x", 1], {}, {"a": 1}, {1: 2}, [[1]], [{"a": 1}], float("nan")]
LIBRARIES_WORDS = re.compile(r"should (be|have|match)|valid |[Tt]uple|None|instance of|\^|dict")


def fields(kind: type[BaseModel], location: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of a kind of job, at every depth; of lists the first item's."""
    for name, field in kind.model_fields.items():
        yield (*location, name)
        below = model_at(kind, [name])
        if below is not None and "dict[" not in str(field.annotation):
            item = ("0",) if "tuple[" in str(field.annotation) else ()
            yield from fields(below, (*location, name, *item))


def replaced(tree: Any, location: tuple[str, ...], value: Any) -> Any:
    """A tree with a value in one place; what leads there is made."""
    name, *rest = location
    if name == "0":
        items = tree if isinstance(tree, list) and tree else [{}]
        return [replaced(items[0], tuple(rest), value), *items[1:]]
    tree = tree if isinstance(tree, dict) else {}
    return {**tree, name: replaced(tree.get(name), tuple(rest), value) if rest else value}


def told(verb: str, tree: Any) -> str:
    """What is wrong with a tree; empty where nothing is."""
    try:
        validate(KINDS[verb], tree, "job.yaml")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("verb", KINDS)
def test_no_field_answers_in_a_librarys_words(verb: str) -> None:
    job = yaml.safe_load((JOBS / f"{FILES[verb]}.yaml").read_text())
    places = [(location, value) for location in fields(KINDS[verb]) for value in VALUES]
    answers = filter(None, (told(verb, replaced(copy.deepcopy(job), *place)) for place in places))
    refused = [answer.splitlines() for answer in answers]
    assert len(refused) > 100
    for head, *lines in refused:
        assert head == "job.yaml:"
        assert not [line for line in lines if LIBRARIES_WORDS.search(line) or not re.match(r"  [\w.]+: \w", line)]


@pytest.mark.parametrize(
    ("location", "value", "said"),
    [
        ("captioners", "x", "expected a list of cards, such as [{card: PATH}] (found 'x')"),
        ("captioners", ["x"], "expected a card, such as {card: PATH} (found 'x')"),
        ("input.shards", 3, "expected a text or a list: put it in quotes, '\"3\"' on a command line (found 3)"),
        ("input.shards", ["a.tar", None], "expected a text (found null)"),
        ("output.layout", True, "expected v1 or v2 (found true)"),
        ("output.storage", {1: 2}, 'a key is a text: put it in quotes, "1"'),
        ("augmentation.num_views", 1.5, "expected a whole number (found 1.5)"),
        ("augmentation.num_views", True, "expected a whole number (found true)"),
        ("augmentation.random_resized_crop.scale", [False, 1], "expected a number (found [false, 1])"),
        ("scorers", [{"name": "a", "use": "a:A", "min": True}], "scorers.0.min: expected a number (found true)"),
        ("scorers", [{"name": "a", "use": "a:A", "max": float("inf")}], "expected a finite number (found inf)"),
        ("workers.gpus", True, "expected a number (found true)"),
        ("augmentation.num_views", 0, "expected a number above 0 (found 0)"),
        ("augmentation.random_resized_crop", 3, "expected keys and values, of size, scale, ratio, interpolation, p"),
        ("augmentation.random_resized_crop.scale", [0, 1, 2], "expected at most 2 items (found [0, 1, 2])"),
        ("workers.view_batch", float("inf"), "expected a finite number (found inf)"),
        ("workers.compile", "maybe", "expected true or false (found 'maybe')"),
        ("errors.shard_deadline_s", float("inf"), "expected a finite number (found inf)"),
        ("assumptions.models", {"clip": 3}, "expected keys and values, of sample_ms, image_ms, text_ms (found 3)"),
        ("assumptions.models", {"clip": {"a": 3}}, "unknown key; known here: sample_ms, image_ms, text_ms"),
        ("prices", {"currency": ""}, "expected a word of 1 to 12 letters (found '')"),
        ("input.caption", ["x" * 999], f"expected a text (found ['{'x' * 198}…)"),
    ],
)  # fmt: skip
def test_a_field_says_what_it_takes(location: str, value: Any, said: str) -> None:
    job = yaml.safe_load((JOBS / "quickstart.yaml").read_text())
    cards = [{"name": "a", "use": "a:A"}]
    tree = replaced({**job, "teachers": cards, "captioners": cards}, tuple(location.split(".")), value)
    (line,) = told("run", tree).splitlines()[1:]
    assert line.startswith(f"  {location}")
    assert said in line
