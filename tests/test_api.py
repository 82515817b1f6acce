"""The public API: its names, what importing it costs, and another trainer that uses it."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

import dr_pipeline
from dr_pipeline.dataset.sample import IMAGE, TEXT
from dr_pipeline.views.render import decode, render
from dr_pipeline.views.transforms import Box
from tests.conftest import GOLDEN, STANDARD
from tests.demo_job import QUICKSTART, make_scenes, small
from tests.tars import read_reinforced, stored
from tests.training.data.loading import GOLDEN_TEACHERS
from tests.verification.datasets import write_dataset

PACKAGE = Path(dr_pipeline.__file__)


def test_every_name_is_there_and_typed() -> None:
    for name in dr_pipeline.__all__:
        assert getattr(dr_pipeline, name).__doc__, name
    tree = ast.parse(PACKAGE.read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: (node.module or "").removeprefix("dr_pipeline.")
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == dr_pipeline._HOMES
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dr_pipeline.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import dr_pipeline", {"torch", "ray", "open_clip", "tensorboard", "matplotlib"}),
        ("from dr_pipeline import open_dataset, distillation_loss", {"ray", "open_clip", "tensorboard", "matplotlib"}),
    ],
)
def test_importing_loads_no_more_than_it_needs(code: str, heavy: set[str]) -> None:
    code += f"; import sys; print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_job_is_loaded_run_and_verified(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=3)
    job = dr_pipeline.load_job(QUICKSTART, small(scenes, tmp_path / "out"))
    result = dr_pipeline.run(job)
    assert (result.num_samples, result.failed) == (3, ())
    assert dr_pipeline.verify(job.output.path).problems == []


V2 = GOLDEN / "shards" / "v2_bf16.tar"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two shards of three samples, by teachers of 3 and 5 dims."""
    write_dataset(tmp_path / "data")
    return tmp_path / "data"


def test_a_sample_is_one_view_its_texts_and_their_embeddings(dataset: Path) -> None:
    opened = dr_pipeline.open_dataset(str(dataset), image_size=20)
    assert (opened.dims, opened.num_samples, list(opened.logit_scales)) == ({"one": 3, "two": 5}, 6, ["one", "two"])
    whole = read_reinforced(dataset / "00/0.tar") | read_reinforced(dataset / "00/1.tar")
    found = {sample["key"]: sample for sample in opened}
    assert found.keys() == whole.keys()
    for key, sample in found.items():
        image_emb_D = np.concatenate([*sample["image_emb"].values()])
        (row,) = (i for i, emb_D in enumerate(stored(whole[key], IMAGE)) if np.array_equal(emb_D, image_emb_D))
        image = decode(whole[key].image, 10**6)
        assert np.array_equal(sample["image"], render(image, [whole[key].views[row]], STANDARD, 20)[0])
        assert sample["text"] == whole[key].members["txt"].decode()
        assert np.array_equal(np.concatenate([*sample["text_emb"].values()]), stored(whole[key], TEXT)[0])
        place = whole[key].synthetic["syn_text"].index(sample["synthetic_text"])
        expected = stored(whole[key], "syn_text")[place]
        assert np.array_equal(np.concatenate([*sample["synthetic_emb"].values()]), expected)


def test_epochs_choose_anew_and_processes_share_the_samples(dataset: Path) -> None:
    opened = dr_pipeline.open_dataset(str(dataset / "*" / "*.tar"))
    views = []
    for epoch in range(3):
        opened.set_epoch(epoch)
        views.append({sample["key"]: sample["image"].tobytes() for sample in opened})
    assert views[0] != views[1] != views[2]
    opened.set_epoch(0)
    loaded = list(DataLoader(opened, batch_size=2, num_workers=2))
    keys = [key for batch in loaded for key in batch["key"]]
    assert sorted(keys) == sorted(views[0])
    assert loaded[0]["image_emb"]["two"].shape == (2, 5)


def test_an_own_transform_is_given_the_image_and_the_stored_crop(dataset: Path) -> None:
    whole = read_reinforced(dataset / "00/0.tar") | read_reinforced(dataset / "00/1.tar")
    seen = list(dr_pipeline.open_dataset(str(dataset), transform=lambda image, box: (image.size, box)))
    assert len(seen) == 6
    for sample in seen:
        size, box = sample["image"]
        assert size == decode(whole[sample["key"]].image, 10**6).size
        assert box in [dict(view)["random_resized_crop"] for view in whole[sample["key"]].views]


def test_a_webdataset_pipeline_takes_it_as_its_source(dataset: Path) -> None:
    source = dr_pipeline.open_dataset(str(dataset))
    to_tuple = webdataset.map(lambda sample: (sample["image"], sample["text"]))
    pipeline = webdataset.DataPipeline(source, webdataset.shuffle(10), to_tuple, webdataset.batched(3))
    assert [(images.shape, len(texts)) for images, texts in pipeline] == [((3, 24, 24, 3), 3)] * 2


def test_the_loss_is_that_of_plain_tensors() -> None:
    unit = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape), dim=-1)  # noqa: E731
    student = dr_pipeline.Embeddings(unit(4, 8), unit(4, 8), 10.0)
    assert dr_pipeline.distillation_loss(student, [student]) == pytest.approx(0, abs=1e-6)
    teacher = dr_pipeline.Embeddings(unit(4, 16), unit(4, 16), 20.0)
    assert dr_pipeline.distillation_loss(student, [teacher, teacher]) > 0.1


def test_the_readme_s_trainer_trains(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs").mkdir()
    dataset.rename(tmp_path / "outputs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    readme = (PACKAGE.parent.parent / "README.md").read_text()
    code = readme.partition("### Use it in your own trainer")[2].partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["student"].images_BD.shape[1] == 512
    assert all(parameter.grad is not None for name, parameter in names["model"].named_parameters())


def test_what_is_no_reinforced_dataset_is_told(tmp_path: Path) -> None:
    with pytest.raises(dr_pipeline.ConfigError, match="no shard"):
        dr_pipeline.open_dataset(str(tmp_path))
    with pytest.raises(dr_pipeline.ConfigError, match="teachers"):
        dr_pipeline.open_dataset(str(V2))
    with pytest.raises(dr_pipeline.ConfigError, match="synthetic_key: not a regular expression"):
        dr_pipeline.open_dataset(str(V2), synthetic_key="[")
    with pytest.raises(dr_pipeline.ConfigError, match="image_size is 0"):
        dr_pipeline.open_dataset(str(V2), image_size=0)


def test_a_dataset_of_another_writer_is_told_its_teachers() -> None:
    opened = dr_pipeline.open_dataset(str(V2), teachers=GOLDEN_TEACHERS)
    assert opened.logit_scales == {"one": 7, "two": 6}
    assert {sample["image_emb"]["two"].shape for sample in opened} == {(48,)}


def test_an_error_of_the_transform_is_the_caller_s(dataset: Path) -> None:
    def broken(image: Image.Image, box: Box) -> None:
        raise ValueError("no such size")

    with pytest.raises(ValueError, match="no such size"):
        next(iter(dr_pipeline.open_dataset(str(dataset), transform=broken)))
