"""From YAML to a Job: cards, overrides, and errors that name the field and the nearest valid one."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dr_pipeline.config.cards import CaptionerCard, TeacherCard
from dr_pipeline.config.evaluation import EvaluateJob
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load, load_card
from dr_pipeline.config.training import TrainJob, TuneJob
from dr_pipeline.errors import ConfigError
from tests.conftest import job_tree

SECRET = "CANARY-f00d"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(tree: Any, path: str = "job.yaml") -> str:
    """A file of this text, or of this tree as YAML."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return path


def loaded(*overrides: str, **changes: Any) -> Job:
    return load(write(job_tree(**changes)), Job, overrides)


def refused(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, Job, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def refusal(*overrides: str, **changes: Any) -> str:
    return refused(write(job_tree(**changes)), *overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=1", "sed: unknown key; did you mean seed?"),
        ("views.count=3", "views: unknown key; known here: name, seed, "),
        ("teachers=[a.yaml]", "teachers.0: expected a card, such as {card: PATH} (found 'a.yaml')"),
        ("input.shard=x", "input.shard: unknown key; did you mean shards?"),
        ("output.presicion=x", "output.presicion: unknown key; did you mean precision?"),
        ("augmentation.rand_augment.magnitud=3", "augmentation.rand_augment.magnitud: unknown key; did you mean magni"),
        ("augmentation.random_resized_crop.sise=3", "augmentation.random_resized_crop.sise: unknown key; did you mean"),
        ("teachers.1.logit_scael=3", "teachers.1.logit_scael: unknown key; did you mean logit_scale?"),
        ("captioners.0.sampling.topp=1", "captioners.0.sampling.topp: unknown key; did you mean top_p?"),
        ("captioners.0.logit_scale=3", "captioners.0.logit_scale: unknown key"),
        (
            "workers.zzz=1",
            "workers.zzz: unknown key; known here: engine, min, max, gpus, cpus, view_batch, caption_batch, "
            "text_batch, precision, compile, render",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(override: str, expected: str) -> None:
    message = refusal(override)
    assert message.splitlines()[0] == "job.yaml:"
    assert f"  {expected}" in message
    assert len(message.splitlines()) == 2


def test_missing_keys_are_named() -> None:
    message = refused(write({"name": "n", "input": {}, "teachers": [{}]}))
    for field in ("input.shards", "output", "teachers.0.name", "teachers.0.use"):
        assert f"  {field}: required, but missing" in message
    assert len(message.splitlines()) == 5


@pytest.mark.parametrize(
    ("override", "field", "found"),
    [
        ("seed=many", "seed", "'many'"),
        ("augmentation.num_views=-3", "augmentation.num_views", "-3"),
        ("augmentation.random_resized_crop.scale=1", "augmentation.random_resized_crop.scale", "1"),
        ("workers.cpus=1.5", "workers.cpus", "1.5"),
        ("output.layout=v9", "output.layout", "'v9'"),
        ("teachers.0.dim=wide", "teachers.0.dim", "'wide'"),
        ("teachers.0.use=Clip", "teachers.0.use", "'Clip'"),
        ("input=here", "input", "'here'"),
        ("teachers=3", "teachers", "3"),
        ("augmentation=null", "augmentation", "null"),
        ("plugin_dirs=plugins", "plugin_dirs", "'plugins'"),
        ("teachers.0.options=", "teachers.0.options", "null"),
    ],
)
def test_a_wrong_type_shows_field_and_value(override: str, field: str, found: str) -> None:
    lines = refusal(override).splitlines()[1:]
    assert any(line.startswith(f"  {field}") and line.endswith(f"(found {found})") for line in lines), lines


def test_every_bad_field_is_named_at_once() -> None:
    message = refusal("sed=1", "workers.maxx=2", "augmentation.num_views=none")
    assert len(message.splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "is not YAML"),
        ("- a\n- b\n", "expected keys and values, found a list"),
        ("", "expected keys and values, found nothing"),
        ("a: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("a: " + "[" * 20_000, "is not YAML"),
        ("seed: 2001-99-99\n", "is not YAML"),
        (f"seed: {'9' * 5000}\n", "is not YAML"),
        ("teachers: &endless [*endless]\n", "a value holds itself"),
        ("plugin_dirs: &endless [*endless]\n", "a value holds itself"),
    ],
)
def test_a_file_that_is_no_job_is_refused(text: str, expected: str) -> None:
    message = refused(write(text))
    assert "job.yaml" in message
    assert expected in message


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("name: a\nseed: 1\nname: b\n", "name", (1, 3)),
        ("name: a\ninput:\n  shards: in\n  storage: {}\n\n  shards: other\n", "shards", (3, 6)),
        ("teachers:\n  - name: a\n    options:\n      model: M\n      'model': N\n", "model", (4, 5)),
        ("workers: {cpus: 1, cpus: 2}\n", "cpus", (1, 1)),
        ("base: &base {a: 1}\nseed: 1\nother:\n  <<: *base\n  <<: *base\n", "<<", (4, 5)),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_both_lines(text: str, key: str, lines: tuple[int, int]) -> None:
    expected = f"the key {key!r} is given on line {lines[0]} and again on line {lines[1]}"
    assert expected in refused(write(text))
    for kind in (TrainJob, EvaluateJob, TuneJob):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            load("job.yaml", kind)
    with pytest.raises(ConfigError, match=re.escape(f"card job.yaml is not YAML: {expected}")):
        load_card("job.yaml", TeacherCard)
    write(text, "card.yaml")
    assert f"card of teachers.0 card.yaml is not YAML: {expected}" in refusal(teachers=[{"card": "card.yaml"}])


def test_a_key_that_an_override_gives_twice_is_refused() -> None:
    assert "override workers: its value is not YAML: the key 'cpus' is given" in refusal("workers={cpus: 1, cpus: 2}")


def test_what_is_merged_into_a_mapping_may_be_replaced_in_it() -> None:
    text = "".join(
        [
            "name: &name tiny\ninput: {shards: *name}\noutput: {path: out}\n",
            "augmentation: {random_resized_crop: &crop {size: 48, scale: [0.5, 1]}}\n",
            "teachers:\n  - &clip {name: a, use: 'lab:Clip', dim: 3}\n  - {<<: *clip, name: b}\n",
        ]
    )
    job = load(write(text), Job)
    assert [(card.name, card.dim) for card in job.teachers] == [("a", 3), ("b", 3)]


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_refused() -> None:
    Path("job.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not YAML" in refused("job.yaml")
    assert "absent.yaml: No such file" in refused("absent.yaml")
    assert "Is a directory" in refused(".")


def test_a_first_line_that_names_the_runner_is_a_comment() -> None:
    text = "#!/usr/bin/env -S python -m dr_pipeline run\n" + yaml.safe_dump(job_tree())
    assert load(write(text), Job).name == "tiny"


def test_overrides_are_dotted_paths_to_yaml_values() -> None:
    job = loaded(
        "seed=7",
        "input.shards=[a.tar, b.tar]",
        "input.storage.endpoint_url=http://127.0.0.1:9000/?a=b",
        "output.precision=float32",
        "augmentation.rand_augment=null",
        "augmentation.random_resized_crop={size: 48, scale: [0.5, 1]}",
        "teachers.1.logit_scale=60",
        "teachers.0.options.model=ViT-L-14",
        "captioners.0.sampling.method=greedy",
        "name='12'",
    )
    assert (job.seed, job.name) == (7, "12")
    assert job.input.shards == ("a.tar", "b.tar")
    assert job.input.storage == {"endpoint_url": "http://127.0.0.1:9000/?a=b"}
    assert job.output.precision == "float32"
    assert job.augmentation.rand_augment is None
    assert job.augmentation.random_resized_crop.size == 48
    assert job.augmentation.random_resized_crop.scale == (0.5, 1.0)
    assert [card.logit_scale for card in job.teachers] == [100.0, 60.0]
    assert job.teachers[0].options == {"model": "ViT-L-14", "weights": "w1"}
    assert job.captioners[0].sampling.method == "greedy"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "override 'seed': write it as key.path=value"),
        ("seed=[1", "override seed: its value is not YAML"),
        ("teachers.2.dim=3", "override teachers.2.dim: '2' is not a position in a list of 2"),
        ("teachers.-1.dim=3", "override teachers.-1.dim: '-1' is not a position"),
        ("teachers.first.dim=3", "'first' is not a position in a list of 2"),
        ("teachers.².dim=3", "is not a position in a list of 2"),
        ("seed=2001-99-99", "override seed: its value is not YAML"),
        ("seed.deeper=3", "override seed.deeper: seed is 1, which has no fields"),
    ],
)
def test_bad_overrides_are_refused(override: str, expected: str) -> None:
    assert expected in refusal(override)


CARD = {"use": "lab:Clip", "dim": 3, "image_size": 16, "options": {"model": "M", "weights": "w"}, "logit_scale": 70}


@pytest.mark.parametrize("place", ["teachers/clip.yaml", "jobs/teachers/clip.yaml", "top/teachers/clip.yaml"])
def test_a_card_is_looked_for_where_one_works_where_the_job_lies_and_above(place: str) -> None:
    job_path = "jobs/job.yaml" if place.startswith(("jobs", "teachers")) else "top/jobs/job.yaml"
    write(CARD, place)
    job = load(write(job_tree(teachers=[{"card": "teachers/clip.yaml"}]), job_path), Job)
    assert job.teachers[0] == TeacherCard.model_validate({"name": "clip", **CARD})


def test_the_working_folders_card_wins() -> None:
    write({**CARD, "dim": 9}, "jobs/clip.yaml")
    write({**CARD, "dim": 1}, "clip.yaml")
    job = load(write(job_tree(teachers=[{"card": "clip.yaml"}]), "jobs/job.yaml"), Job)
    assert job.teachers[0].dim == 1


def test_the_jobs_own_keys_win_over_the_cards() -> None:
    write(CARD, "clip.yaml")
    entry = {"card": "clip.yaml", "logit_scale": 60, "options": {"weights": "random"}, "name": "mine"}
    card = loaded(teachers=[entry]).teachers[0]
    assert (card.name, card.logit_scale, card.dim) == ("mine", 60, 3)
    assert card.options == {"model": "M", "weights": "random"}


def test_overrides_reach_a_cards_fields() -> None:
    write(CARD, "clip.yaml")
    job = loaded("teachers.0.options.weights=random", "teachers.0.dim=8", teachers=[{"card": "clip.yaml"}])
    assert job.teachers[0].options == {"model": "M", "weights": "random"}
    assert job.teachers[0].dim == 8


def test_connections_are_merged_and_hold_no_secret() -> None:
    connection = {"base_url": "http://a/v1", "max_in_flight": 8}
    write({"use": "lab:Vlm", "connection": connection}, "vlm.yaml")
    entry = {"card": "vlm.yaml", "connection": {"base_url": "http://b/v1", "api_key": "${env:KEY}"}}
    (card,) = loaded(captioners=[entry]).captioners
    assert card.connection == {"base_url": "http://b/v1", "max_in_flight": 8, "api_key": "${env:KEY}"}
    with pytest.raises(ConfigError, match=r"captioners.0.connection.api_key: this looks like a secret"):
        loaded("captioners.0.connection.api_key=abc", captioners=[entry])


def test_captioner_cards_take_the_jobs_sampling() -> None:
    write({"use": "lab:Coca"}, "coca.yaml")
    entry = {"card": "coca.yaml", "tag": "x", "num_captions": 4, "sampling": {"method": "beam"}}
    captioner = loaded(captioners=[entry]).captioners[0]
    assert (captioner.name, captioner.caption_key, captioner.num_captions) == ("coca", "syn_text_x", 4)
    assert captioner.sampling.method == "beam"


def test_cards_of_a_package() -> None:
    # The package itself ships some; any file will do to see the path rule.
    message = refusal(teachers=[{"card": "package://dr_pipeline.demo/cards/scene_clip_x.yaml"}])
    assert "did you mean scene_clip_a.yaml?" in message or "did you mean scene_clip_b.yaml?" in message
    job = loaded(
        teachers=[{"card": "package://dr_pipeline.demo/cards/scene_clip_a.yaml"}],
        augmentation={"random_resized_crop": {"size": 96}},
    )
    assert job.teachers[0].name == "scene_clip_a"


def test_an_inline_model_is_named_after_its_class() -> None:
    assert loaded(teachers=[{"use": "my_lab.siglip:SigLip"}]).teachers[0].name == "SigLip"


def test_a_card_that_is_not_there_names_the_nearest() -> None:
    write(CARD, "teachers/dfn2b_clip.yaml")
    write(CARD, "teachers/other.yaml")
    message = refusal(teachers=[{"card": "teachers/dfn2b_klip.yaml"}])
    assert message == "teachers.0.card: no card at teachers/dfn2b_klip.yaml; did you mean dfn2b_clip.yaml?"


@pytest.mark.parametrize("options", [None, [1]])
def test_a_cards_malformed_options_are_named(options: Any) -> None:
    write({**CARD, "options": options}, "clip.yaml")
    assert "teachers.0.options" in refusal(teachers=[{"card": "clip.yaml"}])


def test_a_bad_field_of_a_card_is_named_in_the_job() -> None:
    write({**CARD, "dmi": 5}, "clip.yaml")
    assert "teachers.0.dmi: unknown key; did you mean dim?" in refusal(teachers=[{"card": "clip.yaml"}])


def test_load_card_alone() -> None:
    assert load_card(write(CARD, "a/clip.yaml"), TeacherCard).name == "clip"
    assert load_card(write({"use": "m:C", "name": "n"}, "c.yaml"), CaptionerCard).name == "n"
    with pytest.raises(ConfigError, match=r"bad\.yaml:\n  dmi: unknown key; did you mean dim\?"):
        load_card(write({**CARD, "dmi": 5}, "bad.yaml"), TeacherCard)


def test_paths_in_options_start_here_or_from_the_file_that_gives_them(folder: Path) -> None:
    options = {
        "weights": "w.pt",
        "parts": ["w.pt", "sub/v.pt"],
        "tag": "w",
        "both": "both.pt",
        "url": "s3://w.pt",
        "n": 3,
    }
    for path in ("lab/w.pt", "lab/w", "lab/sub/v.pt", "lab/both.pt", "both.pt", "jobs/own.pt", "jobs/w.pt"):
        write("", path)
    card = write({"use": "lab:Clip", "options": options}, "lab/clip.yaml")
    from_here = {**options, "weights": "lab/w.pt", "parts": ["lab/w.pt", "lab/sub/v.pt"]}
    assert load_card(card, TeacherCard).options == from_here
    tree = job_tree(teachers=[{"card": card, "options": {"extra": "own.pt", "lost": "lost.pt"}}], captioners=[])
    (teacher,) = load(write(tree, "jobs/job.yaml"), Job).teachers
    assert teacher.options == {**from_here, "extra": "jobs/own.pt", "lost": "lost.pt"}
    (folder / "elsewhere").mkdir()
    os.chdir(folder / "elsewhere")
    assert load_card("../lab/clip.yaml", TeacherCard).options["weights"] == str(folder / "lab/w.pt")


def test_plugin_dirs_hold_the_job_files_folder_and_cards_folders_relative_where_it_can_be(tmp_path: Path) -> None:
    assert load(write(job_tree(), "jobs/job.yaml"), Job).plugin_dirs == (".", "jobs")
    assert load(write(job_tree(plugin_dirs=["lab"]), "jobs/job.yaml"), Job).plugin_dirs == ("lab", "jobs")
    assert load(write(job_tree()), Job).plugin_dirs == (".",)
    card = write({"use": "clip:Clip"}, "lab/clip.yaml")
    assert load(write(job_tree(teachers=[{"card": card}])), Job).plugin_dirs == (".", "lab")
    os.chdir(write(job_tree(), "elsewhere/job.yaml") and "jobs")
    assert load("../elsewhere/job.yaml", Job).plugin_dirs == (".", str(tmp_path / "elsewhere"))


LEAKY = {
    "storage of a wrong type": job_tree(input={"storage": SECRET}),
    "input as a list": job_tree(input=[{"shards": "a", "storage": {"secret": SECRET}}]),
    "storage under a wrong name": job_tree(output={"strage": {"secret": SECRET}}),
    "storage at the top": job_tree(storage={"secret": SECRET}),
    "another field wrong": job_tree(input={"storage": {"secret": SECRET}, "shards": 5, "x": 1}, seed="x"),
    "parts that do not fit": job_tree(input={"storage": {"secret": SECRET}}, teachers=[]),
    "no YAML": f"input:\n  storage: {{secret: '{SECRET}}}\n",
    "a stray colon": f"input:\n  storage:\n    secret: {SECRET}: {SECRET}\n",
}


@pytest.mark.parametrize("tree", LEAKY.values(), ids=LEAKY)
def test_errors_do_not_show_credentials(tree: Any) -> None:
    assert SECRET not in refused(write(tree))


@pytest.mark.parametrize("override", ["input.storage.secret='{}", "input.storage={}", "input.storage=[{}]"])
def test_errors_of_overrides_do_not_show_credentials(override: str) -> None:
    assert SECRET not in refusal(override.format(SECRET))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=8,
)
dotted_keys = st.lists(
    st.sampled_from([*Job.model_fields, "0", "card", "name", "use", "options", "sampling"]), min_size=1
)


def job_or_refusal(text: str, overrides: tuple[str, ...] = ()) -> None:
    """Nothing but a Job or a ConfigError may come of it."""
    with suppress(ConfigError):
        assert isinstance(load(write(text), Job, overrides), Job)


@given(trees)
def test_any_tree_is_a_job_or_refused(tree: Any) -> None:
    job_or_refusal(yaml.safe_dump(tree))


@given(st.sampled_from([*Job.model_fields, "card"]), trees)
def test_any_value_of_any_field_is_a_job_or_refused(field: str, value: Any) -> None:
    job_or_refusal(yaml.safe_dump(job_tree() | {field: value}))


@given(st.sampled_from(["teachers", "captioners"]), st.sampled_from([*TeacherCard.model_fields, "card", "tag"]), trees)
def test_any_value_in_a_card_is_a_job_or_refused(section: str, field: str, value: Any) -> None:
    tree = job_tree()
    tree[section][0][field] = value
    job_or_refusal(yaml.safe_dump(tree))


@given(st.text(max_size=60))
def test_any_text_is_a_job_or_refused(text: str) -> None:
    job_or_refusal(text)


@given(dotted_keys, trees)
def test_any_override_is_a_job_or_refused(key: list[str], value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True)
    job_or_refusal(yaml.safe_dump(job_tree()), (f"{'.'.join(key)}={text}",))


@given(st.text(max_size=30))
def test_any_text_as_override_is_a_job_or_refused(override: str) -> None:
    job_or_refusal(yaml.safe_dump(job_tree()), (override,))


def test_a_card_whose_path_is_too_long_for_any_file_is_not_there() -> None:
    assert "no card at long" in refusal(f"teachers.0.card={'long' * 2000}")
