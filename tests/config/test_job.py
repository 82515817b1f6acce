"""The job's models: frozen, strict, and an identity of exactly what decides the output."""

import re
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from dr_pipeline.config.cards import LONGEST_KEY_BYTES, MOST_CAPTIONS, TeacherCard
from dr_pipeline.config.job import Job, differing_keys
from dr_pipeline.config.strict import Strict
from tests.conftest import job_tree, make_job

SECRET = "CANARY-f00d"


def test_defaults_are_the_papers() -> None:
    job = Job.model_validate(
        {
            "name": "n",
            "input": {"shards": "a"},
            "output": {"path": "b"},
            "captioners": [{"name": "coca", "use": "m:C"}],
            "teachers": [{"name": "clip", "use": "m:C"}],
        }
    )
    assert job.seed == 0
    assert (job.output.layout, job.output.precision, job.output.images) == ("v2", "bfloat16", "copy")
    assert job.augmentation.num_views == 30
    crop = job.augmentation.random_resized_crop
    assert (crop.size, crop.scale, crop.ratio, crop.interpolation) == (224, (0.08, 1.0), (0.75, 1.3333333), "bicubic")
    assert job.augmentation.rand_augment is not None
    assert (job.augmentation.rand_augment.num_ops, job.augmentation.rand_augment.magnitude) == (2, 9)
    sampling = job.captioners[0].sampling
    assert job.captioners[0].num_captions == 5
    assert (sampling.method, sampling.top_p, sampling.temperature) == ("top_p", 0.9, 1.0)
    assert (sampling.min_tokens, sampling.max_tokens) == (0, 77)
    assert job.workers.model_dump() == {
        "engine": "ray", "min": 1, "max": 512, "gpus": None, "cpus": None, "view_batch": 256,
        "caption_batch": None, "text_batch": None, "precision": "auto", "compile": False, "render": "auto",
    }  # fmt: skip
    assert (job.errors.max_skipped, job.errors.bad_shard, job.errors.shard_deadline_s) == (0.2, "quarantine", 7200)
    assert job.errors.max_image_pixels == 180_000_000


def models_in(value: Any) -> list[BaseModel]:
    found = [value] if isinstance(value, BaseModel) else []
    children = dict(value).values() if isinstance(value, BaseModel) else value if isinstance(value, tuple) else ()
    return found + [model for child in children for model in models_in(child)]


def test_every_part_is_frozen_and_strict() -> None:
    parts = models_in(make_job())
    assert {type(part).__name__ for part in parts} >= {"Job", "Input", "Sampling", "RandAugmentSettings", "TeacherCard"}
    for part in parts:
        assert isinstance(part, Strict)
        name = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, None)
        with pytest.raises(ValidationError, match="extra_forbidden"):
            type(part).model_validate({**part.model_dump(), "surplus": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": []}, "at least one"),
        (
            {
                "output": {"layout": "v1"},
                "captioners": [{"name": "a", "use": "m:C", "tag": "x"}, {"name": "b", "use": "m:C"}],
            },
            "v1 holds one captioner's captions",
        ),
        (
            {"output": {"layout": "v1"}, "captioners": [{"name": "a", "use": "m:C", "tag": "x"}]},
            "readers look for no syn_text_x: set captioners.0.tag=null",
        ),
        ({"captioners": [{"name": "a", "use": "m:C"}, {"name": "b", "use": "m:C"}]}, "same key (syn_text, syn_text)"),
        ({"captioners": [{"name": "a", "use": "m:C", "tag": "x"}] * 2}, "same key (syn_text_x, syn_text_x)"),
        ({"teachers": [{"name": "a", "use": "m:C"}] * 2}, "two teachers have the same name"),
        (
            {"augmentation": {"random_resized_crop": {"size": 23}}},
            "teacher two takes 24 px but views are rendered at 23",
        ),
        ({"workers": {"min": 3, "max": 2}}, "min (3) is more than max (2)"),
        ({"augmentation": {"rand_augment": {"magnitude": 31}}}, "magnitude must be below"),
        ({"captioners": [{"name": "a", "use": "m:C", "tag": "a-b"}]}, "tag"),
        ({"captioners": [{"name": "a", "use": "m:C", "tag": ""}]}, "tag"),
        ({"captioners": [{"name": "a", "use": "m:C", "num_captions": 0}]}, "num_captions"),
        ({"captioners": [{"name": "a", "use": "m:C", "num_captions": MOST_CAPTIONS + 1}]}, "num_captions"),
        ({"captioners": [{"name": "a", "use": "m:C", "tag": "x" * LONGEST_KEY_BYTES}]}, "is longer than a key may be"),
        ({"captioners": [{"name": "a", "use": "m:C", "sampling": {"max_tokens": 1}}]}, "max_tokens"),
        (
            {"captioners": [{"name": "a", "use": "m:C", "sampling": {"min_tokens": 9, "max_tokens": 8}}]},
            "min_tokens (9)",
        ),
        (
            {"captioners": [{"name": "a", "use": "m:C", "redraws": 1, "sampling": {"method": "beam"}}]},
            "beam draws noth",
        ),
        ({"captioners": [{"name": "a", "use": "m:C", "sampling": {"top_p": 0}}]}, "top_p"),
        ({"captioners": [{"name": "a", "use": "m:C", "sampling": {"temperature": 0}}]}, "temperature"),
        ({"captioners": [{"name": "a", "use": "m:C", "sampling": {"method": "nucleus"}}]}, "'greedy'"),
        ({"teachers": [{"name": "a,b", "use": "m:C"}]}, "name"),
        ({"teachers": [{"name": "a", "use": "no class"}]}, "use"),
        ({"augmentation": {"num_views": 0}}, "num_views"),
        ({"augmentation": {"random_resized_crop": {"resampler": "fast"}}}, "resampler"),
        ({"errors": {"max_skipped": 1.5}}, "max_skipped"),
        ({"output": {"layout": "v3"}}, "'v1' or 'v2'"),
        ({"workers": {"engine": "dask"}}, "'ray' or 'local'"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Job.model_validate(job_tree(**changes))


def test_a_teacher_of_the_crops_size_is_taken() -> None:
    assert make_job(augmentation={"random_resized_crop": {"size": 24}}).teachers[1].image_size == 24


DECIDES: list[dict[str, Any]] = [
    {"seed": 2},
    {"input": {"caption": "txt"}},
    {"input": {"root": "/data"}},
    {"output": {"layout": "v1"}},
    {"output": {"precision": "float32"}},
    {"output": {"images": "omit"}},
    {"augmentation": {"num_views": 5}},
    {"augmentation": {"rand_augment": None}},
    {"augmentation": {"rand_augment": {"magnitude": 8}}},
    {"augmentation": {"random_resized_crop": {"size": 32}}},
    {"augmentation": {"random_resized_crop": {"interpolation": "bilinear"}}},
    {"captioners": []},
    {"captioners": [{"name": "coca", "use": "lab:Coca", "num_captions": 3}]},
    {"captioners": [{"name": "coca", "use": "lab:Coca", "num_captions": 2, "tag": "x"}]},
    {"captioners": [{"name": "coca", "use": "lab:Coca", "num_captions": 2, "sampling": {"top_p": 0.8}}]},
    {"captioners": [{"name": "coca", "use": "lab:Coca", "num_captions": 2, "redraws": 1}]},
    {"teachers": list(reversed(job_tree()["teachers"]))},
    {"teachers": job_tree()["teachers"][:1]},
    {"teachers": [{**job_tree()["teachers"][0], "options": {"model": "M2"}}, job_tree()["teachers"][1]]},
    {"workers": {"precision": "bfloat16"}},
    {"workers": {"precision": "float8"}},
    {"errors": {"max_image_pixels": 1000}},
    {"errors": {"max_member_bytes": 1000}},
]
DOES_NOT_DECIDE: list[dict[str, Any]] = [
    {"name": "other"},
    {"input": {"shards": "elsewhere"}},
    {"output": {"path": "elsewhere"}},
    {"input": {"storage": {"secret": SECRET}}, "output": {"storage": {"secret": SECRET}}},
    {"workers": {"min": 2, "max": 3, "gpus": 0, "cpus": 1, "view_batch": 7, "engine": "local", "compile": True}},
    {"errors": {"max_skipped": 0.9, "bad_shard": "stop", "attempts": 1, "shard_deadline_s": 1}},
    {
        "teachers": [
            {**card, "logit_scale": 7, "licence": "MIT", "source": "here", "float8_error": {"mean": 0.1, "worst": 0.2}}
            for card in job_tree()["teachers"]
        ]
    },
    {"plugin_dirs": ["plugins"]},
]


@pytest.mark.parametrize("changes", DECIDES, ids=repr)
def test_the_fingerprint_changes_with_what_decides_the_output(changes: dict[str, Any]) -> None:
    assert make_job(**changes).fingerprint() != make_job().fingerprint()
    assert differing_keys(make_job().identity(), make_job(**changes).identity())


@pytest.mark.parametrize("changes", DOES_NOT_DECIDE, ids=lambda changes: str(list(changes)))
def test_the_fingerprint_holds_still_for_the_rest(changes: dict[str, Any]) -> None:
    assert make_job(**changes).identity() == make_job().identity()
    assert make_job(**changes).fingerprint() == make_job().fingerprint()


def test_the_fingerprint_is_stable() -> None:
    # Existing outputs carry it: if it were made otherwise, every one of them would be another job's.
    assert make_job().fingerprint() == "7b3dcaf5cd3d"
    code = "from tests.conftest import make_job; print(make_job().fingerprint())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == make_job().fingerprint()


def test_storage_values_are_nowhere() -> None:
    job = make_job(input={"storage": {"secret": SECRET}}, output={"storage": {"key": SECRET}})
    assert job.input.storage == {"secret": SECRET}
    for text in (repr(job), str(job), repr(job.input), str(job.output), repr(job.identity())):
        assert SECRET not in text


def test_differing_keys_are_dotted_with_both_values() -> None:
    old = {"a": {"b": [1, {"c": 2}], "gone": 1}, "same": {}}
    new = {"a": {"b": [1, {"c": 3}, 4]}, "same": {}}
    assert differing_keys(old, new) == ["a.b.1.c: 2 → 3", "a.b.2: absent → 4", "a.gone: 1 → absent"]
    assert differing_keys(old, old) == []


def test_caption_keys_and_cards() -> None:
    job = make_job(captioners=[{"name": "a", "use": "m:C"}, {"name": "b", "use": "m:C", "tag": "dfn_mscoco38k"}])
    assert [card.caption_key for card in job.captioners] == ["syn_text", "syn_text_dfn_mscoco38k"]
    assert TeacherCard(name="a", use="m:C").logit_scale == 100.0


def test_a_rewriter_needs_the_alt_text_and_a_key_of_its_own() -> None:
    rewriter = {"name": "llm", "use": "lab:Llm", "tag": "other_words", "prompt": "Say it otherwise: {alt_text}"}
    job = make_job(rewriters=[rewriter])
    assert [card.caption_key for card in job.writers] == ["syn_text", "syn_text_other_words"]
    assert job.identity().keys() - make_job().identity().keys() == {"rewriters"}
    assert job.num_texts == 1 + 2 + 5
    with pytest.raises(ValidationError, match=r"so {alt_text} must be in it"):
        make_job(rewriters=[{**rewriter, "prompt": "Say something."}])
    with pytest.raises(ValidationError, match="two captioners write the same key"):
        make_job(rewriters=[{**rewriter, "tag": None}])


def test_how_a_model_is_reached_is_no_part_of_the_identity() -> None:
    here = {"name": "vlm", "use": "lab:Vlm", "connection": {"base_url": "http://a", "api_key": "${env:KEY}"}}
    there = {**here, "connection": {}, "on_failure": "fail", "prices": {"prompt": 1, "completion": 2}}
    assert make_job(captioners=[here]).identity() == make_job(captioners=[there]).identity()
    assert make_job(captioners=[here]).captioners[0].arguments == here["connection"]
    assert "http://a" not in repr(make_job(captioners=[here]))
    with pytest.raises(ValidationError, match=r"connection.base_url: options have it too"):
        make_job(captioners=[{**here, "options": {"base_url": "http://b"}}])
