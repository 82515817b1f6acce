"""Zero-shot figures: those of CLIP_benchmark on the same data, those of brute force, and data that cannot be used."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from clip_benchmark import cli as clip_benchmark
from clip_benchmark.metrics import zeroshot_classification
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from dr_pipeline.config.evaluation import Engine, EvaluatedModel, EvaluateJob, Tasks
from dr_pipeline.config.jobfile import load
from dr_pipeline.demo.held_out import write_held_out
from dr_pipeline.errors import ConfigError, ModelError, ShardError
from dr_pipeline.evaluation import evaluate as module
from dr_pipeline.evaluation.evaluate import TaskResult, fill_preprocessing, recalls, run_tasks, show
from dr_pipeline.networks.architecture import build, read_architecture
from dr_pipeline.networks.network import Network, load_network
from dr_pipeline.runners.evaluation import evaluate
from tests.conftest import image_bytes, rename_as_others_do, write_tar
from tests.tars import read_members

ROOT = Path(__file__).parents[2]
DEMO = "package://dr_pipeline.demo/scene_clip_a"
WORDS = "dr_pipeline.demo.tokenizer:WordTokenizer"
VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CLIP = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
SIGLIP = {
    **CLIP,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {**VISION, "pool_type": "avg", "patch_dropout": 0.5},
    "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
}
COCA = {
    **CLIP,
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
}

IMAGES_ALONE = """
from dr_pipeline.models.protocol import TeacherSpec

class Lone:
    def __init__(self, device):
        self.spec = TeacherSpec(dim=12, image_size=2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    def encode_images(self, images_BCHW):
        return images_BCHW.flatten(1)
"""


def write_model(folder: Path, model_cfg: dict[str, Any]) -> Path:
    """A network of random weights in the hub's form, which plain open_clip reads as `local-dir:folder`."""
    folder.mkdir(parents=True)
    preprocess_cfg = {"mean": [0.9, 0.1, 0.5], "std": [0.1, 1.0, 0.4]}
    config = folder / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}))
    network = build(read_architecture(str(config), "random"), seed=1)
    save_file(
        {name: values.contiguous() for name, values in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def load_model(folder: Path) -> Network:
    weights = str(folder / "open_clip_model.safetensors")
    return load_network(str(folder / "open_clip_config.json"), weights, torch.device("cpu"))


def tasks(classification: dict[str, Any] | None = None, retrieval: dict[str, Any] | None = None) -> Tasks:
    given = {"classification": classification, "retrieval": retrieval}
    return Tasks.model_validate({kind: [{"name": "it", **task}] for kind, task in given.items() if task is not None})


def classes(data: Path | str, **changes: Any) -> Tasks:
    return tasks({"data": str(data), "class_names": ["a", "b"], "templates": ["a {}"], **changes})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny", CLIP)


@pytest.fixture(scope="module")
def network(tiny: Path) -> Network:
    return load_model(tiny)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    write_held_out(folder, 90)
    return folder


@pytest.fixture
def run_clip_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """CLIP_benchmark's own command line → the metrics it writes."""

    def number(value: Any) -> float:
        """float() as it was before NumPy 2.4, which refuses arrays of one element; CLIP_benchmark 1.6.2 has them."""
        return value.item() if isinstance(value, np.ndarray) else float(value)

    def run(model: Path, data: Path, *options: str) -> dict[str, float]:
        output = tmp_path / "metrics.json"
        arguments = ["--model", f"local-dir:{model}", "--pretrained", "", "--dataset", "wds/it", "--dataset_root"]
        monkeypatch.setattr(
            sys,
            "argv",
            ["", "eval", *arguments, str(data), "--no_amp", "--num_workers", "0", "--output", str(output), *options],
        )
        monkeypatch.setattr(zeroshot_classification, "float", number, raising=False)
        clip_benchmark.main()
        return json.loads(output.read_text())["metrics"]

    return run


@pytest.mark.filterwarnings("ignore")
def test_clip_benchmark_gives_the_same_accuracy(run_clip_benchmark: Callable, tiny: Path, held_out: Path) -> None:
    data = held_out / "classification"
    theirs = run_clip_benchmark(tiny, data, "--task", "zeroshot_classification")
    (ours,) = run_tasks(
        load_model(tiny), tasks({"data": str(data / "test")}), Engine(batch_size=32, precision="float32")
    )
    assert ours.figures == pytest.approx({"acc1": theirs["acc1"], "acc5": theirs["acc5"]}, abs=1e-9)
    assert ours.num_images == 90
    assert 0 < ours.figures["acc1"] < ours.figures["acc5"] < 1


@pytest.mark.filterwarnings("ignore")
def test_clip_benchmark_gives_the_same_recalls(run_clip_benchmark: Callable, tiny: Path, tmp_path: Path) -> None:
    members = []
    for index in range(40):
        captions = "\n".join(f"a thing {index} of kind {kind}" for kind in range(1 + index % 3))
        members += [(f"{index}.jpg", image_bytes(seed=index)), (f"{index}.txt", captions.encode())]
    write_tar(tmp_path / "test/0.tar", members)
    (tmp_path / "test/nshards.txt").write_text("1")
    (tmp_path / "dataset_type.txt").write_text("retrieval")
    theirs = run_clip_benchmark(tiny, tmp_path, "--task", "zeroshot_retrieval", "--recall_k", "1", "5", "10")
    (ours,) = run_tasks(
        load_model(tiny), tasks(retrieval={"data": str(tmp_path)}), Engine(precision="float32", batch_size=16)
    )
    for k in (1, 5, 10):
        assert ours.figures[f"text_to_image_r{k}"] == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-6)
        assert ours.figures[f"image_to_text_r{k}"] == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)
    assert 0 < ours.figures["text_to_image_r10"] < 1


def test_the_job_file_evaluates_the_demo_s_teacher(held_out: Path) -> None:
    overrides = [f"tasks.{kind}.0.data={held_out / kind / 'test'}" for kind in ("classification", "retrieval")]
    job = load(ROOT / "jobs/evaluate_quickstart.yaml", EvaluateJob, overrides)
    classified, retrieved = evaluate(job)
    assert classified.figures["acc1"] > 0.95
    assert retrieved.figures["image_to_text_r5"] > 0.95
    assert retrieved.num_images == 90


def test_the_table_of_many_figures_fits_a_terminal() -> None:
    recalls = {f"{way}_r{k}": 0.5 for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    classified = TaskResult("scene classes", {"acc1": 1.0, "acc5": 1.0}, 90, {}, 1.0)
    table = show([classified, TaskResult("captions of scenes", recalls, 5000, {"corrupt image": 3}, 1.0)])
    console = Console(width=80, record=True)
    console.print(table)
    text = console.export_text()
    assert all(name in text for name in ("scene classes", *classified.figures, *recalls, "corrupt image (3)"))
    assert "unreadable" not in [column.header for column in show([classified]).columns]


def test_a_teacher_by_its_card_has_the_figures_of_its_network(held_out: Path, tmp_path: Path) -> None:
    overrides = [f"tasks.{kind}.0.data={held_out / kind / 'test'}" for kind in ("classification", "retrieval")]
    card = "teacher={card: package://dr_pipeline.demo/cards/scene_clip_a.yaml}"
    of_network = load(ROOT / "jobs/evaluate_quickstart.yaml", EvaluateJob, overrides)
    of_card = load(ROOT / "jobs/evaluate_quickstart.yaml", EvaluateJob, [*overrides, card, "model=null"])
    assert [result.figures for result in evaluate(of_card)] == [result.figures for result in evaluate(of_network)]


def test_a_teacher_of_images_alone_cannot_be_evaluated(tmp_path: Path) -> None:
    (tmp_path / "lone.py").write_text(IMAGES_ALONE)
    tasks = {"retrieval": [{"name": "any", "data": "any"}]}
    (tmp_path / "job.yaml").write_text(json.dumps({"name": "lone", "teacher": {"use": "lone:Lone"}, "tasks": tasks}))
    with pytest.raises(ModelError, match="card Lone: lone:Lone has not both encode_images and encode_texts"):
        evaluate(load(tmp_path / "job.yaml", EvaluateJob))


def test_recalls_are_those_of_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    torch.manual_seed(0)
    image_of_text_T = torch.tensor([index for index in range(30) for _ in range(1 + index % 4)])
    images_ID = torch.nn.functional.normalize(torch.randn(30, 4), dim=1)
    texts_TD = torch.nn.functional.normalize(images_ID[image_of_text_T] + torch.randn(len(image_of_text_T), 4), dim=1)
    similar_TI = texts_TD @ images_ID.T
    found = recalls(images_ID, texts_TD, image_of_text_T, ks=(1, 5))
    for k in (1, 5):
        by_text = [
            own in row.argsort(descending=True)[:k] for row, own in zip(similar_TI, image_of_text_T, strict=True)
        ]
        by_image = [
            index in image_of_text_T[row.argsort(descending=True)[:k]] for index, row in enumerate(similar_TI.T)
        ]
        assert found[f"text_to_image_r{k}"] == pytest.approx(np.mean(by_text))
        assert found[f"image_to_text_r{k}"] == pytest.approx(np.mean(by_image))
    assert 0 < found["text_to_image_r1"] < found["image_to_text_r5"] < 1


def test_a_folder_per_class_and_any_url_give_the_figures_of_tars(
    network: Network, held_out: Path, tmp_path: Path
) -> None:
    data = held_out / "classification"
    fields: dict[str, dict[str, bytes]] = {}
    for tar in sorted((data / "test").glob("*.tar")):
        with tar.open("rb") as stream:
            for name, content in read_members(stream):
                fields.setdefault(name[:-4], {})[name[-3:]] = content
    labels = sorted({int(sample["cls"]) for sample in fields.values()})
    for key, sample in fields.items():
        image = tmp_path / f"folders/{int(sample['cls']):02d}/{key}.JPEG"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(sample["jpg"])
    names = (data / "classnames.txt").read_text().splitlines()
    (tmp_path / "names.txt").write_text("\n".join(names[label] for label in labels))
    chosen = {"class_names": str(tmp_path / "names.txt"), "templates": ["a {c}", "the {}"]}
    relabelled = [
        (f"{key}.{ext}", str(labels.index(int(content))).encode() if ext == "cls" else content)
        for key, sample in fields.items()
        for ext, content in sample.items()
    ]
    write_tar(tmp_path / "tars/0.tar", relabelled)
    fsspec.filesystem("memory").pipe_file("/bucket/0.tar", (tmp_path / "tars/0.tar").read_bytes())

    places = (tmp_path / "tars", tmp_path / "folders", "memory://bucket", "memory://bucket/0.tar")
    figures = [run_tasks(network, classes(data, **chosen))[0].figures for data in places]
    assert figures == [figures[0]] * 4
    with pytest.raises(ConfigError, match=rf"{len(labels)} class folders, and there are 2 class names"):
        run_tasks(network, classes(tmp_path / "folders"))


@pytest.mark.parametrize("model_cfg", [SIGLIP, COCA], ids=["siglip", "coca"])
def test_every_kind_of_network_is_evaluated_and_put_back_to_work(
    model_cfg: dict, held_out: Path, tmp_path: Path
) -> None:
    network = load_model(write_model(tmp_path / "model", model_cfg))
    both = tasks(
        {"data": str(held_out / "classification/test")}, {"name": "pairs", "data": str(held_out / "retrieval/test")}
    )
    at_rest = [result.figures for result in run_tasks(network, both)]
    network.module.train().requires_grad_(True)
    assert [result.figures for result in run_tasks(network, both)] == at_rest
    assert network.module.training
    assert at_rest[0]["acc5"] > 0


def test_images_that_cannot_be_read_are_counted(network: Network, tmp_path: Path) -> None:
    thin = tmp_path / "thin.png"
    Image.new("RGB", (9000, 1)).save(thin)
    images = {
        "a.jpg": image_bytes(seed=1),
        "b.jpg": b"no image",
        "c.png": thin.read_bytes(),
        "e.jpg": image_bytes(seed=2),
    }
    members = [member for name, data in images.items() for member in ((name, data), (f"{name[0]}.cls", b"1"))] + [
        ("d.cls", b"0")
    ]
    write_tar(tmp_path / "tars/0.tar", members)
    (result,) = run_tasks(network, classes(tmp_path / "tars"), Engine(max_image_pixels=5_000_000, batch_size=2))
    assert result.num_images == 2
    assert result.unreadable == {"corrupt image": 1, "image too large": 1, "no image": 1}
    assert result.figures.keys() == {"acc1"}


@pytest.mark.parametrize(
    ("members", "changes", "message"),
    [
        ([("a.jpg", b"x"), ("a.cls", b"2")], {}, r"0\.tar: a: its label '2' is none of the 2 classes, 0 to 1"),
        ([("a.jpg", b"x"), ("a.cls", b"cat")], {}, r"0\.tar: a: its label 'cat'"),
        ([("a.jpg", b"x"), ("a.txt", b"cat")], {}, r"0\.tar: a has no cls member, only jpg, txt"),
        ([("a.jpg", b"x"), ("a.cls", b"1")], {}, r"task it: no image can be used: corrupt image \(1\)"),
        ([], {}, r"task it: no image can be used: the tars are empty"),
        ([("a.cls", b"1")], {"class_names": None}, r"it\.class_names: required, as there is no classnames\.txt in /"),
        ([("a.cls", b"1")], {"class_names": "/no/names.txt"}, r"it\.class_names: no file at /no/names\.txt"),
        ([("a.cls", b"1")], {"templates": None}, r"it\.templates: required"),
        ([("a.cls", b"1")], {"templates": ["a photo"]}, r"it\.templates: 'a photo' has no \{\} or \{c\}"),
        ([("a.cls", b"1")], {"class_names": []}, r"it\.class_names: an empty list"),
        ([], {"data": "/no/where"}, r"it\.data: no shard found at /no/where: nothing is there"),
        ([], {"data": "/no/{0..1}.tar"}, r"it\.data: no shard found at /no/\{0\.\.1\}\.tar: none of"),
    ],
)
def test_data_that_does_not_fit_is_named(
    network: Network, tmp_path: Path, members: list, changes: dict[str, Any], message: str
) -> None:
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(ConfigError, match=message):
        run_tasks(network, classes(**{"data": tmp_path, **changes}))


def test_retrieval_needs_captions(network: Network, tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.jpg", image_bytes()), ("a.txt", b" \n")])
    with pytest.raises(ConfigError, match=r"0\.tar: a has no captions"):
        run_tasks(network, tasks(retrieval={"data": str(tmp_path)}))
    (tmp_path / "folders/a").mkdir(parents=True)
    (tmp_path / "folders/a/1.jpg").write_bytes(image_bytes())
    with pytest.raises(ConfigError, match="images without captions; retrieval takes tars"):
        run_tasks(network, tasks(retrieval={"data": str(tmp_path / "folders")}))


def test_a_torn_tar_is_named(network: Network, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.jpg", image_bytes()), ("a.cls", b"1")])
    path.write_bytes(path.read_bytes()[:-1024])
    with pytest.raises(ShardError, match=r"0\.tar: truncated"):
        run_tasks(network, classes(tmp_path))


def test_openai_names_imagenet_s_classes_and_templates(network: Network, tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.jpg", image_bytes()), ("a.cls", b"999")])
    data = module.open_labelled(classes(tmp_path, class_names="openai", templates="openai").classification[0])
    assert (data.class_names[0], len(data.class_names), len(data.templates)) == ("tench", 1000, 80)
    assert data.templates[0]("tench") == "a bad photo of a tench."


def test_images_are_prepared_as_the_checkpoint_s_record_says() -> None:
    mobile = EvaluatedModel(architecture="MobileCLIP2-S0", weights="dfndr2b")
    siglip = EvaluatedModel(architecture="ViT-B-16-SigLIP", weights="webli")
    assert fill_preprocessing(Engine(), mobile).interpolation == "bilinear"
    assert fill_preprocessing(Engine(), siglip).resize_mode == "squash"
    assert fill_preprocessing(Engine(interpolation="bicubic", threads=2), mobile) == Engine(
        interpolation="bicubic", resize_mode="shortest", threads=2
    )


def test_a_config_s_own_preprocessing_counts(tiny: Path, tmp_path: Path) -> None:
    tree = json.loads((tiny / "open_clip_config.json").read_text())
    tree["preprocess_cfg"]["resize_mode"] = "squash"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tree))
    model = EvaluatedModel(architecture=str(path), weights="x.pt")
    assert fill_preprocessing(Engine(), model) == Engine(resize_mode="squash")
    path.write_text(json.dumps(tree).replace("squash", "stretch"))
    with pytest.raises(ConfigError, match=r"resize_mode 'stretch': set engine\.resize_mode"):
        fill_preprocessing(Engine(), model)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks={}", "nothing is evaluated"),
        ("model=null", "give either model, a network of open_clip, or teacher"),
        ("teacher={use: 'lab:Clip'}", "give either model, a network of open_clip, or teacher"),
        ("teacher={card: lost.yaml}", r"teacher\.card: no card at lost\.yaml"),
        ("tasks.classification.0.templtes=openai", r"templtes: unknown key; did you mean templates\?"),
        ("tasks.retrieval.0.name=scene classes", "two tasks are called scene classes"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(ROOT / "jobs/evaluate_quickstart.yaml", EvaluateJob, [override])


def test_classes_without_an_image_and_links_that_lead_nowhere_are_named(
    network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for label in ("a", "b"):
        (tmp_path / "sets" / label).mkdir(parents=True)
        (tmp_path / "sets" / label / "0.jpg").write_bytes(image_bytes())
    (tmp_path / "sets/a/notes.md").write_text("")
    (tmp_path / "sets/.cache").mkdir()
    (tmp_path / "sets/.cache/0.jpg").write_bytes(image_bytes())
    (result,) = run_tasks(network, classes(tmp_path / "sets"))
    assert result.num_images == 2
    assert f"1 file not named as an image is, such as {tmp_path}/sets/a/notes.md" in caplog.text
    for name, make, why in (
        ("b/1.jpg", lambda path: path.symlink_to("nowhere"), "links that lead nowhere"),
        ("c", lambda path: path.mkdir(), "empty folders"),
        ("d", lambda path: path.mkdir() or (path / "notes.md").write_text(""), "holds no image"),
    ):
        make(tmp_path / "sets" / name)
        with pytest.raises(ConfigError, match=rf"it\.data: {tmp_path}/sets: .*{name}: {why}"):
            run_tasks(network, classes(tmp_path / "sets"))


def test_tars_are_read_under_the_names_that_others_give(network: Network, held_out: Path, tmp_path: Path) -> None:
    data = held_out / "classification"
    (plain,) = run_tasks(network, tasks({"data": str(data / "test")}))
    shutil.copytree(data, tmp_path / "data")
    rename_as_others_do(tmp_path / "data")
    (renamed,) = run_tasks(network, tasks({"data": str(tmp_path / "data/test")}))
    assert (renamed.figures, renamed.num_images) == (plain.figures, plain.num_images)
