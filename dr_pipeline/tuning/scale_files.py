"""Replaces logit scales in the YAML files that people write; comments and all other characters stay as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dr_pipeline.config.cards import TeacherCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load, load_card
from dr_pipeline.config.objective import StoredTeacher
from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage
from dr_pipeline.words import plural

Keys = tuple[str | int, ...]
"""The keys and list positions that lead to a value of a YAML file."""
Teacher = StoredTeacher | TeacherCard
_IN_A_CARD: Keys = ("logit_scale",)


class ScaleFile:
    """A teacher's card, a reinforcing job or a training job."""

    def __init__(self, path: Path, teachers: Sequence[Teacher]):
        """`teachers`: the dataset's, in the order of a training job's `distillation.logit_scales`."""
        self.path = path.resolve()
        self._teachers = teachers

    def rewritten(self, scales: Mapping[str, float]) -> str:
        """The file's text with these logit scales, by teacher. A teacher that the file does not name is passed over.

        A card that has no logit scale gets a last line. Raises ConfigError where the file names none of the teachers,
        or has no logit scale to replace: the message then has the line to add.
        """
        places = self._places()
        new = {place: scales[name] for name, place in places.items() if name in scales}
        if not new:
            raise ConfigError(f"{self.path} is about {', '.join(places)}, but tuned are {', '.join(scales)}")
        text = self.path.read_bytes().decode()
        expected = yaml.safe_load(text)
        for (*parents, last), scale in new.items():
            _value(expected, parents)[last] = scale
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            nodes = [(_node(root, place), scale_text(scale)) for place, scale in new.items()]
            spans = [(node.start_mark.index, node.end_mark.index, value) for node, value in nodes if node is not None]
            for start, end, value in sorted(spans, reverse=True):
                text = text[:start] + value + text[end:]
            if _IN_A_CARD in new and "logit_scale" not in yaml.safe_load(text):
                text += ("" if text.endswith("\n") else "\n") + f"logit_scale: {scale_text(new[_IN_A_CARD])}\n"
            if yaml.safe_load(text) == expected:
                return text
        except yaml.YAMLError:
            pass  # the change broke it: an anchor that others refer to, a card in braces
        where = ", ".join(f"{_dotted(place)}={scale_text(scale)}" for place, scale in new.items())
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

    def _places(self) -> dict[str, Keys]:
        """Teacher → the place of its logit scale in the file; a card may be without one."""
        try:
            tree = yaml.safe_load(self.path.read_bytes())
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            tree = None  # load_card says what is wrong
        if not isinstance(tree, dict) or "use" in tree:
            return {load_card(self.path, TeacherCard).name: _IN_A_CARD}
        if "student" in tree:
            return self._places_of_training(tree)
        return self._places_of_entries(tree, load(self.path, Job).teachers, ("teachers",))

    def _places_of_training(self, tree: dict[str, Any]) -> dict[str, Keys]:
        job = load(self.path, TrainJob)
        distillation = job.distillation
        online, stored = distillation.online_teachers, job.data.teachers
        all_names = [teacher.name for teacher in online or stored or self._teachers if not teacher.encodes]
        if distillation.logit_scales is not None:
            names = distillation.teachers or all_names
            if len(names) != len(distillation.logit_scales):
                count = len(distillation.logit_scales)
                raise ConfigError(
                    f"{self.path}: distillation.logit_scales has {plural(count, 'value')} for {', '.join(names)}"
                )
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

    def _places_of_entries(self, tree: dict[str, Any], teachers: Sequence[Teacher], section: Keys) -> dict[str, Keys]:
        """The places in a list of teachers. Raises ConfigError where an entry has no logit scale of its own."""
        for index, teacher in enumerate(teachers):
            if "logit_scale" not in _value(tree, (*section, index)):
                raise ConfigError(
                    f"{self.path}: {_dotted((*section, index))}, {teacher.name}, has no logit scale of its own. "
                    f"To have it written there, add to that entry\n    logit_scale: {scale_text(teacher.logit_scale)}"
                )
        return {teacher.name: (*section, index, "logit_scale") for index, teacher in enumerate(teachers)}


def scale_text(scale: float) -> str:
    """A logit scale as YAML writes it, without a fraction where it is whole."""
    return yaml.safe_dump(float(scale)).split()[0].removesuffix(".0")


def _node(node: Any, place: Keys) -> Any:
    """The YAML node at a place, which knows where it stands in the text; None where there is none."""
    for part in place:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(part)]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
    return node


def _value(tree: Any, place: Sequence[str | int]) -> Any:
    """The value at a place of the parsed file."""
    for part in place:
        tree = tree[part]
    return tree


def _dotted(place: Keys) -> str:
    return ".".join(map(str, place))
