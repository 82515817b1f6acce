"""Logit scales in the YAML files that people write: replaced where they stand, and all else stays as it is."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load, load_card
from dr_pipeline.config.training import StoredTeacher, TrainJob
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage

Place = tuple[str | int, ...]
"""The keys and positions that lead to a value."""
Teacher = StoredTeacher | TeacherCard
_OF_A_CARD: Place = ("logit_scale",)


class ScaleFile:
    """A teacher's card, a reinforcing job or a training job."""

    def __init__(self, path: Path, teachers: Sequence[Teacher]):
        """`teachers`: the dataset's, in the order of a training job's `distillation.logit_scales`."""
        self.path = path.resolve()
        self._teachers = teachers

    def rewritten(self, scales: Mapping[str, float]) -> str:
        """The file's text with these logit scales, by teacher; a teacher that it does not name is passed over.

        Raises ConfigError where it names none of them, or holds no logit scale to replace: with the line to add.
        """
        held = self._places()
        chosen = {place: scales[name] for name, place in held.items() if name in scales}
        if not chosen:
            raise ConfigError(f"{self.path} is about {', '.join(held)}, but tuned are {', '.join(scales)}")
        text = self.path.read_bytes().decode()
        try:
            changed = _completed(_replaced(text, chosen), chosen)
            if yaml.safe_load(changed) == _with_values(yaml.safe_load(text), chosen):
                return changed
        except yaml.YAMLError:
            pass  # the change broke it: an anchor that others refer to, a card in braces
        where = ", ".join(f"{_dotted(place)}={scale_text(scale)}" for place, scale in chosen.items())
        raise ConfigError(f"{self.path}: its form is too involved to be changed by a line: set {where} by hand")

    def write(self, scales: Mapping[str, float]) -> None:
        """Replace the file at once by what `rewritten` gives. Raises ConfigError."""
        text = self.rewritten(scales)
        try:
            mode = self.path.stat().st_mode
            with Storage().staged(str(self.path)) as staged:
                staged.write_bytes(text.encode())
            self.path.chmod(mode)  # a job file may be a command
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error}") from error

    def _places(self) -> dict[str, Place]:
        """Where the file has each teacher's logit scale, or in a card would have it."""
        try:
            tree = yaml.safe_load(self.path.read_bytes())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            tree = None  # load_card says what is wrong
        if not isinstance(tree, dict) or "use" in tree:
            return {load_card(self.path, TeacherCard).name: _OF_A_CARD}
        if "student" in tree:
            return self._places_of_training(tree)
        return self._places_of_entries(tree, load(self.path, Job).teachers, ("teachers",))

    def _places_of_training(self, tree: dict[str, Any]) -> dict[str, Place]:
        job = load(self.path, TrainJob)
        distillation = job.distillation
        online, stored = distillation.online_teachers, job.data.teachers
        all_names = [teacher.name for teacher in online or stored or self._teachers]
        if distillation.logit_scales is not None:
            names = distillation.teachers or all_names
            if len(names) != len(distillation.logit_scales):
                count = len(distillation.logit_scales)
                raise ConfigError(f"{self.path}: distillation.logit_scales has {count} values for {', '.join(names)}")
            return {name: ("distillation", "logit_scales", index) for index, name in enumerate(names)}
        if online:
            return self._places_of_entries(tree, online, ("distillation", "online_teachers"))
        if stored:
            return self._places_of_entries(tree, stored, ("data", "teachers"))
        known = {teacher.name: teacher.logit_scale for teacher in self._teachers}
        values = ", ".join(scale_text(known[name]) for name in distillation.teachers or known if name in known)
        raise ConfigError(
            f"{self.path} takes the logit scales from the dataset. To have them written there, add below distillation: "
            f"the line\n  logit_scales: [{values}]"
        )

    def _places_of_entries(self, tree: dict[str, Any], teachers: Sequence[Teacher], section: Place) -> dict[str, Place]:
        """One place an entry of a list. Raises ConfigError where an entry leaves it to its card."""
        for index, teacher in enumerate(teachers):
            if "logit_scale" not in _value(tree, (*section, index)):
                raise ConfigError(
                    f"{self.path}: {_dotted((*section, index))}, {teacher.name}, has no logit scale of its own. "
                    f"To have it written there, add to that entry\n    logit_scale: {scale_text(teacher.logit_scale)}"
                )
        return {teacher.name: (*section, index, "logit_scale") for index, teacher in enumerate(teachers)}


def scale_text(scale: float) -> str:
    """As YAML has it, without a fraction where there is none."""
    return yaml.safe_dump(float(scale)).split()[0].removesuffix(".0")


def _replaced(text: str, scales: Mapping[Place, float]) -> str:
    """The text with other characters where these values stand."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spans = []
    for place, scale in scales.items():
        node = _node(root, place)
        if node is not None:
            spans.append((node.start_mark.index, node.end_mark.index, scale_text(scale)))
    for start, end, value in sorted(spans, reverse=True):
        text = text[:start] + value + text[end:]
    return text


def _completed(text: str, scales: Mapping[Place, float]) -> str:
    """A card may leave the logit scale out: then it gets a last line."""
    if _OF_A_CARD not in scales or "logit_scale" in yaml.safe_load(text):
        return text
    end = "" if text.endswith("\n") else "\n"
    return f"{text}{end}logit_scale: {scale_text(scales[_OF_A_CARD])}\n"


def _node(node: Any, place: Place) -> Any:
    for part in place:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(part)]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
    return node


def _with_values(tree: Any, scales: Mapping[Place, float]) -> Any:
    tree = deepcopy(tree)
    for (*parents, last), scale in scales.items():
        _value(tree, tuple(parents))[last] = scale
    return tree


def _value(tree: Any, place: Place) -> Any:
    for part in place:
        tree = tree[part]
    return tree


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))
