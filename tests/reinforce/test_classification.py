"""Labelled images and classifiers, from a job's run to its verification."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError

from dr_pipeline.cli import main
from dr_pipeline.config.job import Job
from dr_pipeline.config.training import Base
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.base_index import BaseReader, open_index
from dr_pipeline.dataset.config_json import read_config
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.dataset.sample import IMAGE, PROBS_INDICES, PROBS_VALUES, Column, Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError
from dr_pipeline.reinforce import mixing
from dr_pipeline.reinforce.rendering import renderer_for
from dr_pipeline.report.trainer_flags import trainer_flags
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.recompute import SampleComparison, recompute
from dr_pipeline.verification.verify import verify
from dr_pipeline.views.mixing import pair_of
from dr_pipeline.views.recipe import WINDOW, Recipe
from dr_pipeline.views.render import decode, render
from tests.conftest import write_tar
from tests.demo_job import Silent, digests
from tests.reinforce.classification import job_of, write_digits
from tests.tars import read_members
from tests.verification.datasets import altered_tensors

LETTERS = """
import torch
from dr_pipeline.models.protocol import TeacherSpec

class Letters:
    def __init__(self, device):
        self.spec = TeacherSpec(dim=1)

    def encode_texts(self, texts):
        return torch.tensor([[1.0 + len(text)] for text in texts])
"""
VALUES, INDICES = Column(PROBS_VALUES, IMAGE), Column(PROBS_INDICES, IMAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classification")
    write_digits(folder / "in", num_shards=2)
    assert not run(job_of(folder), Silent()).failed
    return folder


def samples(output: Path) -> list[Sample]:
    found = []
    for path in sorted(output.glob("*.tar")):
        with path.open("rb") as stream:
            found += list(read_samples(stream))
    return found


@cache
def network_of(model: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(model, num_classes=10).eval()


def mean_probabilities(job: Job, sample: Sample, images: Mapping[int, Image.Image] | None = None) -> torch.Tensor:
    """What torch alone makes of a sample's views: the mean of the classifiers' softmax, [views, classes].

    `images`: those of its shard, by place.
    """
    recipe = Recipe(job.augmentation)
    views_NHWC = render(decode(sample.image, 1 << 20), sample.views, recipe, pairs=images or {})
    images_NCHW = (torch.from_numpy(views_NHWC).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    total = torch.zeros(1)
    for card in job.teachers:
        network = network_of(card.options["model"], card.options["seed"])
        with torch.inference_mode():
            total = total + torch.softmax(card.options["scale"] * network(images_NCHW), dim=1)
    return total / len(job.teachers)


def test_a_sample_holds_its_image_class_views_and_largest_probabilities_and_no_text(folder: Path) -> None:
    made = samples(folder / "out")
    assert len(made) == 12
    assert [sorted(sample.members) for sample in made[:6]] == [["cls", "paug.json", "png", "pth.gz"]] * 5 + [
        ["paug.json", "png", "pth.gz"]
    ]
    with (folder / "in/00000.tar").open("rb") as stream:
        for sample, base in zip(made, read_samples(stream), strict=False):
            assert (sample.key, sample.image, sample.members.get("cls")) == (
                base.key,
                base.image,
                base.members.get("cls"),
            )
    for sample in made:
        layout.decode(sample)
        assert sample.texts == {}
        assert {column: array.shape for column, array in sample.columns.items()} == {VALUES: (3, 4), INDICES: (3, 4)}
        assert sample.columns[INDICES].dtype == np.int32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_probabilities_are_those_of_torchs_own_mean(precision: str, folder: Path, tmp_path: Path) -> None:
    output = folder / "out"
    if precision == "float32":
        output = tmp_path / "out"
        assert not run(job_of(folder, output={"path": str(output), "precision": precision}), Silent()).failed
    for sample in samples(output)[:4]:
        layout.decode(sample, Recipe(job_of(folder).augmentation))
        values_NK, indices_NK = mean_probabilities(job_of(folder), sample).topk(4, dim=1)
        np.testing.assert_array_equal(sample.columns[INDICES], indices_NK)
        tolerance = {"float32": 1e-5, "bfloat16": 2.0**-8}[precision]
        np.testing.assert_allclose(sample.columns[VALUES], values_NK, rtol=tolerance, atol=1e-6)


def test_without_top_k_every_classifiers_probabilities_are_stored_whole(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, output={"path": str(tmp_path / "out"), "top_k": None, "precision": "float32"})
    assert not run(job, Silent()).failed
    (sample, *_) = samples(tmp_path / "out")
    layout.decode(sample, Recipe(job.augmentation))
    both = [sample.columns[Column(card.name, IMAGE)] for card in job.teachers]
    np.testing.assert_allclose(sum(both) / 2, mean_probabilities(job_of(folder), sample), rtol=1e-4)
    assert verify(str(tmp_path / "out"), Storage()).problems == []


def test_batches_and_a_second_run_change_nothing(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, output={"path": str(tmp_path / "out")}, workers={"view_batch": 8, "cpus": 1})
    assert not run(job, Silent()).failed
    first = digests(tmp_path / "out")
    (tmp_path / "out/00001.tar").unlink()
    next((tmp_path / "out/reports").rglob("00001.json")).unlink()
    observer = Silent()
    assert not run(job, observer).failed
    assert [report.name for report in observer.reports] == ["00001.tar"]
    assert digests(tmp_path / "out") == first


def mixing_job(folder: Path, **changes: Any) -> Job:
    """The job with views that are mixed as in ImageNet+ with mixing, each kind for half of them."""
    mixing = {"num_views": 6, "mixup": {"div_by": 2, "p": 0.5}, "cutmix": {"p": 0.5}}
    return job_of(folder, **{"augmentation": mixing, "errors": {"max_skipped": 0.5}, **changes})


@pytest.fixture(scope="module")
def mixed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of mixed views, of tars in which the first and the fourth image are cut."""
    mixed = tmp_path_factory.mktemp("mixed")
    for path in sorted((folder / "in").glob("*.tar")):
        with path.open("rb") as stream:
            members = read_members(stream)
        cut = {
            name
            for number, (name, _) in enumerate(part for part in members if part[0].endswith("png"))
            if number in (0, 3)
        }
        write_tar(mixed / "in" / path.name, [(name, data[: -40 if name in cut else None]) for name, data in members])
    assert not run(mixing_job(mixed), Silent()).failed
    return mixed


def test_mixed_views_are_mixed_with_images_of_the_output(mixed: Path) -> None:
    """Places count the output's samples: those that were skipped shift nothing."""
    job, num_pairs = mixing_job(mixed), 0
    made = samples(mixed / "out")
    assert [sample.index for sample in made] == [0, 1, 2, 3] * 2
    images: dict[int, Image.Image] = {}
    for sample in made:
        layout.decode(sample, Recipe(job.augmentation))
        pairs = [pair.id2 for view in sample.views if (pair := pair_of(view))]
        assert all(id2 < sample.index for id2 in pairs)
        num_pairs += len(pairs)
        values_NK, indices_NK = mean_probabilities(job, sample, images).topk(4, dim=1)
        np.testing.assert_array_equal(sample.columns[INDICES], indices_NK)
        np.testing.assert_allclose(sample.columns[VALUES], values_NK, rtol=2.0**-8, atol=1e-6)
        images[sample.index] = decode(sample.image, 1 << 20)
    assert num_pairs > 15


def test_threads_batches_and_large_images_change_no_mixed_view(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "_LARGEST_KEPT", 0)
    job = mixing_job(mixed, output={"path": str(tmp_path / "out")}, workers={"view_batch": 64, "cpus": 3})
    assert not run(job, Silent()).failed
    for one, other in zip(samples(tmp_path / "out"), samples(mixed / "out"), strict=True):
        assert one.members["paug.json"] == other.members["paug.json"]
        layout.decode(one, Recipe(job.augmentation))
        layout.decode(other, Recipe(job.augmentation))
        np.testing.assert_array_equal(one.columns[INDICES], other.columns[INDICES])


def test_verify_and_recheck_take_mixed_views_and_find_wrong_ones(mixed: Path, tmp_path: Path) -> None:
    findings = verify(str(mixed / "out"), Storage())
    recompute(str(mixed / "out"), Storage(), findings, plugin_dirs=(str(mixed),))
    assert (findings.problems, findings.num_recomputed) == ([], 8)

    def id2_is(place: int) -> Callable[[bytes], bytes]:
        def reencode(data: bytes) -> bytes:
            tree = json.loads(data)
            next(view for view in tree["param_aug"] if view[0] is not None)[0] = place
            return json.dumps(tree).encode()

        return reencode

    for place, problem in ((4, "id2 is 4, which is none of the 64 samples before number 3"), (2, None)):
        found = problems_of(mixed, tmp_path / str(place), "paug.json", id2_is(place), key="d0005")
        assert found == [] if problem is None else problem in found[0]


def test_images_and_the_pairs_come_from_the_base_where_a_dataset_omits_them(mixed: Path, tmp_path: Path) -> None:
    for path in sorted((mixed / "in").glob("*.tar")):
        with path.open("rb") as stream:
            members = read_members(stream)
        texts = [(f"{name[:-3]}txt", b"a digit") for name, _ in members if name.endswith("png")]
        write_tar(tmp_path / "in" / path.name, sorted([*members, *texts]))
    assert not run(mixing_job(tmp_path, output={"images": "omit"}), Silent()).failed
    assert {ext for sample in samples(tmp_path / "out") for ext in sample.members} == {"cls", "paug.json", "pth.gz"}
    base = BaseReader(open_index(Base(shards=str(tmp_path / "in"), match="key"), tmp_path / "cache"))
    findings = verify(str(tmp_path / "out"), Storage(), base)
    recompute(str(tmp_path / "out"), Storage(), findings, plugin_dirs=(str(tmp_path),), base=base)
    assert (findings.problems, findings.num_recomputed) == ([], 8)
    assert not any("without an image" in remark for remark in findings.remarks)
    with pytest.raises(ConfigError, match="no teacher embeds both images and texts"):
        trainer_flags(str(tmp_path / "out"), Storage())


def test_a_window_of_earlier_samples_is_kept(tmp_path: Path) -> None:
    mixer, image = mixing.Mixer(mixing_job(tmp_path)), Image.new("RGB", (40, 40))
    made = [Sample(str(index), {"png": b""}, views=((),) * 9, decoded=image) for index in range(130)]
    farthest = 0
    for index, (sample, others) in enumerate(mixer.pair(made)):
        assert others.keys() == {pair.id2 for view in sample.views if (pair := pair_of(view))}
        farthest = max([farthest, *(index - id2 for id2 in others)])
    assert farthest == WINDOW


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"workers": {"render": "device"}}, "views that are mixed"),
        ({"input": {"caption": "auto"}}, "set input.caption=none"),
    ],
)
def test_mixing_where_it_cannot_be_is_refused(changes: dict[str, Any], refusal: str, tmp_path: Path) -> None:
    def load() -> None:
        job = mixing_job(tmp_path, **changes)
        renderer_for(job.workers.render, job.augmentation, torch.device("cpu"))

    with pytest.raises((ConfigError, ValidationError), match=refusal):
        load()


def test_config_json_names_the_classifiers_and_their_classes(folder: Path) -> None:
    ours = json.loads((folder / "out/config.json").read_bytes())["dr_pipeline"]
    assert ours["identity"]["output"]["top_k"] == 4
    described = [(card["name"], card["dim"], card["encodes"], card["output"]) for card in ours["teachers"]]
    assert described == [(name, 10, ["images"], "probabilities") for name in ("resnet", "efficientnet")]


def test_verify_recheck_inspect_and_plan_take_the_dataset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(folder / "out")
    findings = verify(output, Storage())
    assert (findings.problems, findings.num_samples) == ([], 12)
    recompute(output, Storage(), findings, plugin_dirs=(str(folder),))
    assert (findings.problems, findings.num_recomputed) == ([], 12)
    assert main(["verify", f"{output}/00000.tar"]) == 0
    assert main(["inspect", output, "--count", "1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  class +0$", shown, re.MULTILINE)
    assert re.search(r"^  view 2 +class", shown, re.MULTILINE)


def test_the_manifest_counts_no_captions_and_has_no_similarity(folder: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "out/manifest/samples").to_pylist()
    assert {(row["captions"], row["synthetic_captions"], row["similarity"]) for row in rows} == {(0, 0, None)}


@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (lambda arrays: arrays["image_probs_indices"][1, 2].fill_(10), "row 1 names a class that is none of the 10"),
        (lambda arrays: arrays["image_probs_indices"][1, 2].fill_(-1), "row 1 names a class that is none of the 10"),
        (lambda arrays: arrays["image_probs_indices"][0].fill_(3), "row 0 names a class twice"),
        (lambda arrays: arrays["image_probs_values"][2].fill_(0.4), "row 2 sums to more than 1"),
        (lambda arrays: arrays["image_probs_values"][2].neg_(), "row 2 holds NaN, or a probability below 0"),
        (lambda arrays: arrays["image_probs_values"].copy_(arrays["image_probs_values"].flip(1)), "the largest first"),
        (lambda arrays: arrays.pop("image_probs_indices"), "misshapen probabilities: values are"),
        (lambda arrays: arrays.update(image_probs_indices=arrays["image_probs_values"]), "not integers"),
        (lambda arrays: arrays.update({name: array[:2] for name, array in arrays.items()}), "2 rows for 3 views"),
        (lambda arrays: arrays.update({name: array[:, :2] for name, array in arrays.items()}), "has 2 dims"),
    ],
)
def test_verify_finds_damaged_probabilities(
    alter: Callable[[dict[str, torch.Tensor]], Any], problem: str, folder: Path, tmp_path: Path
) -> None:
    assert any(problem in text for text in problems_of(folder, tmp_path, "pth.gz", altered_tensors(alter)))


def test_verify_finds_a_class_that_is_none(folder: Path, tmp_path: Path) -> None:
    assert "bad cls" in problems_of(folder, tmp_path / "a", "cls", lambda data: b"dog")[0]
    assert "cls is 12, and the classifiers know 10" in problems_of(folder, tmp_path / "b", "cls", lambda data: b"12")[0]


def test_recheck_finds_probabilities_of_other_classes(folder: Path, tmp_path: Path) -> None:
    def rotate(arrays: dict[str, torch.Tensor]) -> None:
        arrays["image_probs_indices"].add_(1).remainder_(10)

    copy = damaged(folder, tmp_path, "pth.gz", altered_tensors(rotate))
    findings = Findings()
    config = read_config(str(copy), Storage())
    job = job_of(folder, output={"path": str(copy)})
    comparison = SampleComparison(job, findings)
    report = Reports(Storage(), str(copy), config["dr_pipeline"]["fingerprint"]).find("00000.tar")
    assert report is not None
    for sample in samples(copy)[:2]:
        comparison.check(report, sample, {})
    comparison.close()
    problems = [(key, text) for _, key, text in findings.problems]
    assert {key for key, _ in problems} == {"d0000"}
    assert "image_probs_values: teacher mean of the classifiers now embeds row" in problems[0][1]


def damaged(folder: Path, to: Path, ext: str, alter: Callable[[bytes], bytes], key: str = "d0000") -> Path:
    """A copy of the dataset in which a member of one sample is altered."""
    shutil.copytree(folder / "out", to / "out")
    path = to / "out/00000.tar"
    with path.open("rb") as stream:
        members = read_members(stream)
    write_tar(path, [(name, alter(data) if name == f"{key}.{ext}" else data) for name, data in members])
    return to / "out"


def problems_of(folder: Path, to: Path, ext: str, alter: Callable[[bytes], bytes], key: str = "d0000") -> list[str]:
    found = verify(str(damaged(folder, to, ext, alter, key)), Storage()).problems
    return [text for _, hit, text in found if hit]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"captioners": [{"name": "coca", "use": "lab:Coca"}]}, "samples have no texts: remove captioners and"),
        ({"output": {"layout": "v1"}}, "layout v1 is one of samples with texts"),
        ({"output": {"top_k": 0}}, "greater than 0"),
    ],
)
def test_a_job_that_needs_texts_is_refused(changes: dict[str, Any], refusal: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=refusal):
        job_of(tmp_path, **changes)


def test_a_teacher_of_texts_is_refused(folder: Path, tmp_path: Path) -> None:
    card = {"name": "letters", "use": "letters:Letters"}
    (folder / "letters.py").write_text(LETTERS)
    with pytest.raises(
        ConfigError, match="teacher letters encodes texts, and with input\\.caption none samples have none"
    ):
        run(job_of(folder, teachers=[card], output={"path": str(tmp_path / "out"), "top_k": None}), Silent())
