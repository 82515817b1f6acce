"""The reference pages know every field of a job and its default."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dr_pipeline import config
from dr_pipeline.student import config as student
from dr_pipeline.student.tuning import config as tuning

DOCS = Path(__file__).parent.parent / "docs"

PAGES: dict[str, tuple[ModuleType, dict[str, type[BaseModel]]]] = {
    "jobs": (
        config,
        {
            "Job": config.Job,
            "input": config.Input,
            "output": config.Output,
            "captioners": config.CaptionerCard,
            "sampling": config.Sampling,
            "teachers": config.TeacherCard,
            "cards": config.Card,
            "augmentation": config.Augmentation,
            "center_crop": config.CenterCrop,
            "random_crop": config.RandomCrop,
            "random_resized_crop": config.RandomResizedCrop,
            "random_horizontal_flip": config.RandomHorizontalFlip,
            "rand_augment": config.RandAugment,
            "random_erase": config.RandomErase,
            "workers": config.Workers,
            "errors": config.Errors,
            "assumptions": config.Assumptions,
        },
    ),
    "training": (
        student,
        {
            "TrainJob": student.TrainJob,
            "data": student.Data,
            "base": student.Base,
            "teachers": student.StoredTeacher,
            "student": student.Student,
            "captions": student.Captions,
            "distillation": student.Distillation,
            "coca": student.Coca,
            "schedule": student.Schedule,
            "evaluation": student.Evaluation,
            "run": student.Run,
        },
    ),
    "tuning": (tuning, {"The job": tuning.TuneJob}),
}


@pytest.mark.parametrize(("page", "heading"), [(page, heading) for page in PAGES for heading in PAGES[page][1]])
def test_the_reference_has_every_field_and_its_default(page: str, heading: str) -> None:
    _, sections = PAGES[page]
    text = (DOCS / f"{page}.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))
    fields = sections[heading].model_fields
    elsewhere = {
        name for base in sections[heading].__bases__ if base in sections.values() for name in base.model_fields
    }
    assert shown == {name: _shown(field) for name, field in fields.items() if name not in elsewhere}


@pytest.mark.parametrize("page", PAGES)
def test_the_reference_has_every_model(page: str) -> None:
    module, sections = PAGES[page]
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    for model in own:
        assert any(issubclass(section, model) for section in sections.values()), model


def _shown(field: FieldInfo) -> str:
    """A field's default as the page writes it."""
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, BaseModel):
        return "below"
    if isinstance(field.default, str):
        return field.default
    plain = list(field.default) if isinstance(field.default, tuple) else field.default
    if isinstance(plain, float):
        return str(plain).removesuffix(".0") if plain >= 1000 else str(plain)
    if isinstance(plain, list):
        return str(plain).replace("'", '"')
    return yaml.safe_dump(plain).splitlines()[0]
