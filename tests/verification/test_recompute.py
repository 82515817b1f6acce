"""`verify --deep` finds what agrees with its reports and yet is not what the models of config.json make."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dr_pipeline.cli import main
from dr_pipeline.codecs import codec_for
from dr_pipeline.config.training import Base
from dr_pipeline.dataset import checksum, manifest
from dr_pipeline.dataset.base_index import BaseReader, open_index
from dr_pipeline.dataset.config_json import job_of
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.dataset.sample import IMAGE, Column, Sample
from dr_pipeline.dataset.shard_io import read_samples
from dr_pipeline.errors import ConfigError
from dr_pipeline.report.inspect import inspect
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.embeddings import EmbeddingComparison
from dr_pipeline.verification.findings import Findings
from dr_pipeline.verification.recompute import SampleComparison, recompute
from dr_pipeline.verification.verify import verify
from tests.conftest import GOLDEN, tar_bytes
from tests.demo_job import Silent, demo_job, make_scenes
from tests.models.checks.test_captioners import CAPTIONERS
from tests.models.checks.test_teachers import RANDOM_RESNET
from tests.tars import read_members
from tests.verification.datasets import altered_tensors, found

SHARD = "00001.tar"
Change = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenes = make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=3)
    output = tmp_path_factory.mktemp("finished")
    run(demo_job(scenes, output), Silent())
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "out")


def deep(output: Path, num_samples: int = 64, seed: int = 0) -> Findings:
    findings = found(output)
    recompute(str(output), Storage(), findings, num_samples, seed)
    return findings


def forge(output: Path, ext: str, change: Change) -> str:
    """Change a member of a shard's first sample, and the report and the tables with it: the sample's key."""
    path = output / SHARD
    with path.open("rb") as file:
        members = list(read_members(file))
    name = next(name for name, _ in members if name.endswith(f".{ext}"))
    path.write_bytes(tar_bytes((other, change(data) if other == name else data) for other, data in members))
    report_path = next(output.rglob(f"reports/*/{SHARD.replace('.tar', '.json')}"))
    report = ShardReport.from_json(report_path.read_bytes())
    report = replace(report, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size_bytes=path.stat().st_size)
    report_path.write_bytes(report.to_json())
    config = checksum.load((output / "config.json").read_bytes())
    table = manifest.ShardTable(Storage(), str(output))
    table.carry_over({"00000.tar", SHARD}, report.fingerprint)
    table.add([report])
    config["dr_pipeline"]["manifest_sha256"] = table.publish()
    (output / "config.json").write_bytes(checksum.dump(config))
    assert found(output).problems == []
    return name.partition(".")[0]


def swap_views(content: dict[str, torch.Tensor]) -> None:
    content["image_emb"] = content["image_emb"][[1, 0, 2]]


def negate_text(content: dict[str, torch.Tensor]) -> None:
    content["text_emb"][:, 64:] *= -1


def move_crop(data: bytes) -> bytes:
    tree = json.loads(data)
    tree["param_aug"][2][0] = [0, 0, 9, 9]
    return json.dumps(tree).encode()


def rewrite_caption(data: bytes) -> bytes:
    tree = json.loads(data)
    next(iter(tree.values()))[0] = "a dog"
    return json.dumps(tree).encode()


def test_what_a_run_writes_is_made_again(output: Path) -> None:
    findings = deep(output)
    assert (findings.problems, findings.num_recomputed) == ([], 6)
    assert findings.remarks[0].startswith("6 samples recomputed in c")
    assert "12 of 12 synthetic captions" in findings.remarks[1]


def cut_within(jpeg: bytes) -> bytes:
    return jpeg[:-40] + b"\xff\xd9"


@pytest.mark.parametrize(
    ("ext", "change", "problems"),
    [
        ("jpg", cut_within, ["jpg: its pixels are not all there: Corrupt JPEG data"]),
        (
            "pth.gz",
            altered_tensors(swap_views),
            ["image_emb: teacher scene_clip_a now", "image_emb: teacher scene_clip_b now"],
        ),
        (
            "pth.gz",
            altered_tensors(negate_text),
            ["similarity/scene_clip_b/text is", "text_emb: teacher scene_clip_b now embeds row 0 2 from"],
        ),
        ("paug.json", move_crop, ["its views are not those", "image_emb: ", "image_emb: "]),
        ("syn.json", rewrite_caption, ["syn_text_scene_coca_emb: ", "syn_text_scene_coca_emb: ", "syn_text_scene_coc"]),
    ],
    ids=["image", "views", "text", "crop", "caption"],
)
def test_a_forged_sample_is_found(ext: str, change: Change, problems: list[str], output: Path) -> None:
    key = forge(output, ext, change)
    findings = deep(output).problems
    assert {(file, hit) for file, hit, _ in findings} == {(SHARD, key)}
    assert len(findings) == len(problems)
    assert all(text.startswith(start) for (_, _, text), start in zip(findings, problems, strict=True)), findings


def test_views_of_another_pillow_are_told(output: Path) -> None:
    config = checksum.load((output / "config.json").read_bytes())
    config["dr_pipeline"]["pillow"] = "12.3.0"
    (output / "config.json").write_bytes(checksum.dump(config))
    findings = deep(output, 1)
    assert findings.problems == []
    assert findings.remarks[0].startswith("its views are those of Pillow 12.3.0, and here is")


def test_the_seed_chooses_the_samples(output: Path) -> None:
    forge(output, "pth.gz", altered_tensors(swap_views))
    seeds: dict[bool, int] = {}
    """One that hits the forged sample, and one that does not."""
    for seed in range(8):
        if len(seeds) < 2:
            seeds.setdefault(bool(deep(output, 1, seed).problems), seed)
    assert seeds.keys() == {True, False}
    for hits, seed in seeds.items():
        assert bool(deep(output, 1, seed).problems) == hits
    assert deep(output, 4).num_recomputed == 4


def test_damaged_shards_are_not_recomputed(output: Path) -> None:
    path = output / SHARD
    path.write_bytes(path.read_bytes()[:-512])
    findings = deep(output)
    assert findings.bad_files == {SHARD}
    assert findings.num_recomputed == 3
    (output / "config.json").write_text("{")
    assert "config.json is damaged" in deep(output).remarks[0]


def test_without_images_it_is_said_what_could_not_be_checked(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=2)
    run(demo_job(scenes, tmp_path / "out", "output.images=omit"), Silent())
    findings = deep(tmp_path / "out")
    assert (findings.problems, findings.num_recomputed) == ([], 2)
    assert findings.remarks[-1].startswith("2 of them are without an image")


def test_images_that_were_omitted_come_from_the_base(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=2)
    run(demo_job(scenes, tmp_path / "out", "output.images=omit"), Silent())
    base = BaseReader(open_index(Base(shards=str(scenes)), tmp_path / "cache"))
    findings = verify(str(tmp_path / "out"), Storage(), base)
    recompute(str(tmp_path / "out"), Storage(), findings, base=base)
    assert (findings.problems, findings.num_recomputed) == ([], 2)
    assert findings.remarks[-1] == "4 of 4 synthetic captions came out the same"


def test_a_dataset_of_another_program_is_refused(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "shards" / "v2_bf16.tar", tmp_path)
    with pytest.raises(ConfigError, match="another program made this dataset"):
        deep(tmp_path)


def test_by_the_command_line(output: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["verify", str(output), "--deep", "--samples", "2"]) == 0
    assert "2 samples recomputed" in capsys.readouterr().out
    forge(output, "syn.json", rewrite_caption)
    assert main(["verify", str(output), "--deep", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["num_recomputed"] == 6


def test_an_output_in_float8_says_so_and_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    scenes = make_scenes(tmp_path / "scenes", num_shards=1, samples_per_shard=3)
    observer = Silent()
    run(demo_job(scenes, output, "workers.precision=float8"), observer)
    assert [report.arithmetic for report in observer.reports] == ["cpu float8"]
    config = checksum.load((output / "config.json").read_bytes())
    errors = {teacher["name"]: teacher["float8_error"] for teacher in config["dr_pipeline"]["teachers"]}
    assert errors.keys() == {"scene_clip_a", "scene_clip_b"}
    assert all(0 < error["mean"] < error["worst"] < 0.01 for error in errors.values())
    said = f"scene_clip_a computed in float8: its embeddings are {errors['scene_clip_a']['mean']:.2g} from those in"
    assert next(inspect(str(output), Storage(), 1).lines).startswith(said)
    assert said in (output / "README.md").read_text()
    findings = deep(output)
    assert findings.problems == []
    assert findings.remarks[0].startswith("3 samples recomputed in cpu float8: embeddings at most ")
    monkeypatch.delattr(torch, "_scaled_mm")
    without = deep(output)
    assert without.problems == []
    assert without.remarks[0].startswith("recomputed in bfloat16: workers.precision=float8: this cpu device does not")
    assert without.remarks[1].startswith("3 samples recomputed in cpu bfloat16: embeddings at most ")


@pytest.fixture(scope="module")
def of_random_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of models that nobody trained: images nearly alike, and a captioner to whom all letters are alike."""
    scenes = make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=4)
    output = tmp_path_factory.mktemp("of_random_models")
    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / "uniform_writer.py").write_text(CAPTIONERS)
    (plugins / "resnet.json").write_text(json.dumps({"model_cfg": RANDOM_RESNET}))
    options = f"options: {{model: '{plugins}/resnet.json', weights: random}}"
    models = [
        f"teachers=[{{use: 'dr_pipeline.models.open_clip:OpenClipTeacher', {options}}}]",
        "captioners=[{use: 'uniform_writer:Uniform', num_captions: 3}]",
        f"plugin_dirs=['{plugins}']",
        "output.precision=float32",
    ]
    run(demo_job(scenes, output, *models), Silent())
    return output


def test_no_fault_is_found_where_rounding_changes_captions_and_images_are_nearly_alike(of_random_models: Path) -> None:
    findings = deep(of_random_models)
    assert findings.problems == []
    same, of = (int(word) for word in findings.remarks[-1].split() if word.isdecimal())
    assert 0 < same < of == 24


def arrays(change: Callable[[dict[str, np.ndarray]], None]) -> Change:
    def reencode(data: bytes) -> bytes:
        content = dict(np.load(io.BytesIO(data), allow_pickle=False))
        change(content)
        buffer = io.BytesIO()
        np.savez(buffer, **content)
        return buffer.getvalue()

    return reencode


def test_swapped_views_are_found_where_images_are_nearly_alike(of_random_models: Path, tmp_path: Path) -> None:
    output = shutil.copytree(of_random_models, tmp_path / "out")

    def swap(content: dict[str, np.ndarray]) -> None:
        content["image_emb"] = content["image_emb"][[1, 0, 2]]

    forge(output, "npz", arrays(swap))
    ((_, _, problem),) = deep(output).problems
    assert float(problem.split(" now embeds row ")[1].split()[1]) < 0.06  # how little it is


def test_captions_of_another_seed_are_found_though_rounding_changes_captions(
    of_random_models: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(of_random_models, tmp_path / "out")
    job = job_of(checksum.load((output / "config.json").read_bytes()))
    findings = Findings()
    comparison = SampleComparison(job.model_copy(update={"seed": 9}), findings)
    for report_path in sorted(output.rglob("reports/*/*.json")):
        report = ShardReport.from_json(report_path.read_bytes())
        with (output / report.name).open("rb") as file:
            for sample in read_samples(file):
                comparison.check(report, sample, {})
    comparison.close()
    assert sum("3 of 3 captions are not those made of it now" in problem for _, _, problem in findings.problems) == 8


DICE = """
import torch
from dr_pipeline.models.protocol import ImageSpec, TeacherSpec

class Dice:
    reproducible = False
    def __init__(self, device):
        self.spec = ImageSpec(16, (0.5,) * 3, (0.5,) * 3)
    def caption(self, images_BCHW, streams, sampling):
        return [[str(torch.rand(()).item()) for stream in of_image] for of_image in streams]
    def score_images(self, images_BCHW):
        return torch.rand(len(images_BCHW))

class DiceTeacher:
    reproducible = False
    def __init__(self, device):
        self.spec = TeacherSpec(dim=64, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    def encode_images(self, images_BCHW):
        return torch.randn(len(images_BCHW), 64)

class DiceClassifier(DiceTeacher):
    def __init__(self, device):
        super().__init__(device)
        self.spec = TeacherSpec(
            dim=64, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3, output="probabilities"
        )
    def encode_images(self, images_BCHW):
        return super().encode_images(images_BCHW).softmax(dim=1)
"""


def test_what_says_that_it_gives_something_else_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "dice.py").write_text(DICE)
    scenes = make_scenes(tmp_path / "scenes", num_shards=1, samples_per_shard=3)
    models = [
        "teachers=[{use: 'dice:DiceTeacher'}, {use: 'dice:DiceClassifier'}]",
        "captioners=[{name: dice_writer, use: 'dice:Dice'}]",
        "scorers=[{name: dice_scorer, use: 'dice:Dice'}]",
        f"plugin_dirs=['{tmp_path}']",
        "output.top_k=3",
    ]
    run(demo_job(scenes, tmp_path / "out", *models), Silent())
    findings = deep(tmp_path / "out")
    assert findings.problems == []
    assert "what DiceTeacher, DiceClassifier, dice_writer, dice_scorer gave was not compared" in findings.remarks[-1]


@pytest.mark.parametrize(("rows", "num_problems"), [([0, 1, 2, 3], 0), ([1, 0, 2, 3], 1)])
def test_scores_are_compared_relative_to_their_length(rows: list[int], num_problems: int) -> None:
    scores_RD = 40 * np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    sample = Sample("key", {}, columns={Column("scorer", IMAGE): scores_RD[rows] * np.float32(1.0001)})
    findings = Findings()
    comparison = EmbeddingComparison(codec_for("float32"), findings, {})
    comparison.check(SHARD, sample, IMAGE, {"scorer": scores_RD}, is_exact=True)
    comparison.close()
    assert len(findings.problems) == num_problems
