"""The reference pages know every field of a job and its default."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dr_pipeline.config import augmentation, cards, job, objective, planning
from dr_pipeline.config import training as student
from dr_pipeline.config.augmentation import (
    Augmentation,
    CenterCropSettings,
    CutMixSettings,
    MixUpSettings,
    RandAugmentSettings,
    RandomCropSettings,
    RandomEraseSettings,
    RandomHorizontalFlipSettings,
    RandomResizedCropSettings,
)
from dr_pipeline.config.cards import (
    CaptionerCard,
    Card,
    Float8Error,
    Prices,
    RewriterCard,
    Sampling,
    ScorerCard,
    TeacherCard,
)
from dr_pipeline.config.job import Errors, Input, Job, Output, Workers
from dr_pipeline.config.planning import Assumptions, ModelTimes, PriceList, RequestTokens

DOCS = Path(__file__).parent.parent / "docs"

PAGES: dict[str, tuple[tuple[ModuleType, ...], dict[str, type[BaseModel]]]] = {
    "jobs": (
        (augmentation, cards, job, planning),
        {
            "Job": Job,
            "input": Input,
            "output": Output,
            "scorers": ScorerCard,
            "captioners": CaptionerCard,
            "rewriters": RewriterCard,
            "prices": Prices,
            "sampling": Sampling,
            "teachers": TeacherCard,
            "float8_error": Float8Error,
            "cards": Card,
            "augmentation": Augmentation,
            "center_crop": CenterCropSettings,
            "random_crop": RandomCropSettings,
            "random_resized_crop": RandomResizedCropSettings,
            "random_horizontal_flip": RandomHorizontalFlipSettings,
            "rand_augment": RandAugmentSettings,
            "random_erase": RandomEraseSettings,
            "mixup": MixUpSettings,
            "cutmix": CutMixSettings,
            "workers": Workers,
            "errors": Errors,
            "assumptions": Assumptions,
            "model times": ModelTimes,
            "request tokens": RequestTokens,
            "price list": PriceList,
        },
    ),
    "training": (
        (student, objective),
        {
            "TrainJob": student.TrainJob,
            "data": student.TrainingData,
            "base": student.Base,
            "teachers": objective.StoredTeacher,
            "student": student.Student,
            "captions": objective.CaptionWeights,
            "distillation": objective.Distillation,
            "affinity": objective.Affinity,
            "coca": objective.Coca,
            "classify": objective.Classify,
            "schedule": student.Schedule,
            "evaluation": student.Evaluation,
            "run": student.Run,
        },
    ),
    "tuning": ((student,), {"The job": student.TuneJob}),
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
    modules, _ = PAGES[page]
    told = [section for _, sections in PAGES.values() for section in sections.values()]
    for model in (kind for module in modules for kind in vars(module).values()):
        if not isinstance(model, type) or model.__module__ not in {module.__name__ for module in modules}:
            continue
        if not issubclass(model, BaseModel):
            continue
        assert any(issubclass(section, model) for section in told), model


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
