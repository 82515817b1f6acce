"""The training jobs are what the paper's tables and the demo say."""

import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_pipeline.config.evaluation import EvaluateJob
from dr_pipeline.config.job import Job
from dr_pipeline.config.jobfile import load
from dr_pipeline.config.training import TrainJob
from dr_pipeline.networks.network import Network
from dr_pipeline.training.network import build_student

JOBS = Path(__file__).parent.parent / "jobs"
ABLATION = JOBS / "ablation_12m"

PAPERS_STUDENTS = ["s0", "s2", "b", "s3", "s4"]
# Table 15, its columns S0, S2, B, L and XL.
TABLE_15: dict[str, Any] = {
    "student.image_size": [256, 256, 224, 256, 256],
    "student.context_length": 77,
    "schedule.steps": 200_000,
    "schedule.warmup_steps": [10_000, 10_000, 2_000, 2_000, 2_000],
    "schedule.batch_size": [65_536, 65_536, 65_536, 114_688, 114_688],
    "schedule.betas": (0.9, 0.95),
    "schedule.learning_rate": 1e-3,
    "schedule.min_learning_rate": [1e-6, 1e-6, 1e-6, 0, 0],
    "schedule.weight_decay": 0.2,
    "schedule.clip_norm": 1.0,
    "run.precision": "bfloat16",
    "schedule.ema_decay": [0.9995, None, None, None, None],
    "distillation.weight": 1.0,  # CLIP loss weight 0.0, KD loss weight 1.0
    "captions.ground_truth_weight": 1.0,
    "captions.synthetic_weight": 1.0,
    "distillation.logit_scales": (70, 60),  # the order of the columns: see the names in reinforce_dfn's test
    # Not in the table: trained from scratch, on the views that the teachers saw.
    "student.weights": "random",
    "data.augmentation": None,
    "data.sampling": "resampled",
}
# Table 8: resolution and parameters in millions. Table 15's L and XL are open_clip's S3 and S4.
TABLE_8 = {
    "s0": ("MobileCLIP2-S0", 256, 11.4, 63.4),
    "s2": ("MobileCLIP2-S2", 256, 35.7, 63.4),
    "b": ("MobileCLIP2-B", 224, 86.3, 63.4),
    "s3": ("MobileCLIP2-S3", 256, 125.1, 123.6),
    "s4": ("MobileCLIP2-S4", 256, 321.6, 123.6),
}


@pytest.mark.parametrize("model", PAPERS_STUDENTS)
def test_train_mobileclip2_is_table_15(model: str) -> None:
    job = load(JOBS / f"train_mobileclip2_{model}.yaml", TrainJob)
    assert {row: field_of(job, row) for row in TABLE_15} == column(TABLE_15, PAPERS_STUDENTS.index(model))


@pytest.mark.parametrize("model", PAPERS_STUDENTS)
def test_train_mobileclip2_builds_table_8s_model(model: str) -> None:
    name, size, image_parameters, text_parameters = TABLE_8[model]
    network = build_on_meta(load(JOBS / f"train_mobileclip2_{model}.yaml", TrainJob))
    assert network.architecture.name == name
    assert network.image.image_size == size
    features_BD = network.module.encode_image(torch.zeros(2, 3, size, size, device="meta"))
    assert features_BD.shape == (2, network.dim)
    assert network.tokenizer(["a cube"]).shape == (1, 77)
    # The paper counts S2's, S3's and S4's image towers some 0.1 M smaller than open_clip builds them.
    image = millions(network.module.visual)
    assert image == pytest.approx(image_parameters, abs=0.25)
    assert millions(network.module) - image == pytest.approx(text_parameters, abs=0.1)


CAPTIONERS = [
    "train_coca_dfn2b",
    "finetune_coca_mscoco38k",
    "finetune_coca_docci",
    "finetune_coca_dci_extended",
    "finetune_coca_gbc",
    "finetune_coca_recap_coco30k",
    "finetune_coca_sharegpt4v",
]
# Table 16, its columns DFN-2B Pretrain, and of Fine-tune context length 77 twice, 255 twice, 77 twice.
TABLE_16: dict[str, Any] = {
    "objective": "coca",
    "student.architecture": "coca_ViT-L-14",
    "student.image_size": 224,
    "schedule.steps": [195_000, 3_000, 3_000, 6_000, 6_000, 3_000, 3_000],
    "schedule.stop_at": [143_000, None, None, None, None, None, None],
    "schedule.warmup_steps": [10_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000],
    "schedule.batch_size": [
        65_536,
        4_096,
        4_096,
        2_048,
        2_048,
        4_096,
        4_096,
    ],  # the table's 4092 is no multiple of its eight GPUs
    "schedule.betas": (0.9, 0.95),
    "schedule.learning_rate": [1e-3, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5],
    "schedule.min_learning_rate": 0,
    "schedule.weight_decay": [0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
    "schedule.clip_norm": 1.0,
    "coca.caption_weight": 2.0,
    "coca.contrastive_weight": 1.0,
    # Not in the table: the data's own captions, all five of MSCOCO's, tokens without CoCa's class, open_clip's crop.
    "captions.ground_truth_weight": [1.0, 0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "captions.synthetic_weight": [0, 1.0, 0, 0, 0, 0, 0],
    "student.context_length": [None, 76, 76, 255, 255, 76, 76],
    "student.positions": [None, None, None, "interpolate", "interpolate", None, None],
    "data.augmentation.random_resized_crop.size": 224,
    "data.augmentation.random_resized_crop.scale": (0.9, 1.0),
    "data.augmentation.rand_augment": None,
    "reads_embeddings": False,
}


@pytest.mark.parametrize("name", CAPTIONERS)
def test_train_coca_is_table_16(name: str) -> None:
    job = load(JOBS / f"{name}.yaml", TrainJob)
    assert {row: field_of(job, row) for row in TABLE_16} == column(TABLE_16, CAPTIONERS.index(name))


def test_the_captioner_is_fine_tuned_from_what_its_training_leaves() -> None:
    first, *others = (load(JOBS / f"{name}.yaml", TrainJob) for name in CAPTIONERS)
    assert first.student.weights == "random"
    assert {one.student.weights for one in others} == {f"{first.run.path}/model/open_clip_model.safetensors"}
    assert len({one.run.path for one in (first, *others)}) == len(CAPTIONERS)


def test_train_coca_builds_a_captioner_of_77_positions() -> None:
    network = build_on_meta(load(JOBS / "train_coca_dfn2b.yaml", TrainJob))
    assert network.image.image_size == 224
    assert network.architecture.context_length == 76
    assert network.module.text.num_pos == 77  # its class token is one of table 16's 77
    assert millions(network.module) == pytest.approx(638, abs=1)


def test_a_captioner_of_255_tokens_has_256_positions() -> None:
    job = load(JOBS / "finetune_coca_gbc.yaml", TrainJob, ["student.weights=random"])
    network = build_on_meta(job)
    assert network.module.text.num_pos == 256
    assert network.module.text_decoder.attn_mask.shape == (255, 255)
    assert network.tokenizer(["a dog"]).shape == (1, 255)


def test_the_ablation_trains_as_the_released_commands_do_on_what_it_reinforces() -> None:
    made, job = load(ABLATION / "reinforce.yaml", Job), load(ABLATION / "train.yaml", TrainJob)
    assert job.data.shards == made.output.path
    assert made.augmentation.num_views == 30
    network = build_on_meta(job)
    assert (network.architecture.name, network.image.image_size) == ("MobileCLIP-B", 224)
    schedule = job.schedule
    assert (schedule.steps, schedule.batch_size, schedule.warmup_steps) == (30_000, 8_192, 1_000)
    assert (schedule.learning_rate, schedule.min_learning_rate, schedule.weight_decay) == (1e-3, 0.0, 0.2)
    assert (schedule.betas, schedule.clip_norm, job.distillation.weight) == ((0.9, 0.95), 1.0, 1.0)
    assert load(ABLATION / "evaluate.yaml", EvaluateJob).tasks.model_dump() == {
        name: value for name, value in job.evaluation.model_dump().items() if name != "every"
    }


def test_every_line_that_an_ablation_changes_is_a_line_of_its_file() -> None:
    rows = re.findall(
        r"^\| [\d, ]+ \| .*? \| (reinforce|train) \| (.*) \|$", (ABLATION / "README.md").read_text(), re.M
    )
    lines = [(file, line) for file, text in rows for line in re.findall(r"`([\w.]+=[^`]+)`", text)]
    assert len(lines) >= 12
    for file, line in lines:
        kind, own_card = (Job, "my_coca.yaml") if file == "reinforce" else (TrainJob, "")
        if not own_card or own_card not in line:
            load(ABLATION / f"{file}.yaml", kind, [line])


def test_train_imagenet_plus_is_ml_dr_s() -> None:
    job = load(JOBS / "train_imagenet_plus.yaml", TrainJob)
    schedule, batches = job.schedule, 1_281_167 // job.schedule.batch_size
    assert (schedule.steps, schedule.warmup_steps) == (150 * batches, 5 * batches)
    assert (schedule.batch_size, schedule.optimizer, schedule.momentum) == (1024, "sgd", 0.9)
    assert (schedule.learning_rate, schedule.min_learning_rate, schedule.weight_decay) == (0.4, 0, 1e-4)
    assert (job.distillation.weight, job.classify.label_smoothing) == (0.99, 0.1)
    with torch.device("meta"):
        network = build_student(job, torch.device("meta"))
    assert network.image.image_size == 224
    assert network.module(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    assert millions(network.module) == pytest.approx(25.6, abs=0.05)


def test_train_quickstart_takes_what_the_demo_wrote() -> None:
    made = load(JOBS / "quickstart.yaml", Job)
    job = load(JOBS / "train_quickstart.yaml", TrainJob)
    assert job.data.shards == made.output.path
    assert job.distils
    network = build_student(job, torch.device("cpu"))
    assert network.image.image_size <= made.augmentation.random_resized_crop.size
    assert network.tokenizer(["a red circle"]).shape == (1, 36)


def build_on_meta(job: TrainJob) -> Network:
    """The job's network without memory for its weights."""
    with torch.device("meta"):
        return build_student(job, torch.device("meta"))


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def field_of(job: TrainJob, dotted: str) -> Any:
    return reduce(getattr, dotted.split("."), job)


def column(table: dict[str, Any], index: int) -> dict[str, Any]:
    """One column of a table in which a list is a row's values and anything else is the value of all."""
    return {row: values[index] if isinstance(values, list) else values for row, values in table.items()}
