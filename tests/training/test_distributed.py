"""Two gloo processes under torchrun compute what one process computes with the global batch."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from dr_pipeline.errors import ConfigError
from dr_pipeline.training.distributed import Rank, joined_ranks
from tests.training import two_ranks
from tests.training.conftest import TORCHRUN


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [*TORCHRUN, two_ranks.__file__, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]


@pytest.mark.parametrize("objective", two_ranks.OBJECTIVES)
def test_two_ranks_have_one_process_s_loss_and_gradient(ranks: list[dict], objective: str) -> None:
    dtype = torch.get_default_dtype()
    try:
        alone = two_ranks.step(objective, Rank())
    finally:
        torch.set_default_dtype(dtype)
    for seen in ranks:
        assert seen[objective].keys() == alone.keys()
        for name, values in alone.items():
            assert seen[objective][name] == pytest.approx(values, rel=1e-9, abs=1e-14), name
    trained = {
        "clip": "image.weight",
        "distillation": "text.weight",
        "affinity": "image.weight",
        "classify": "decoder.weight",
        "coca": "decoder.weight",
    }[objective]
    assert any(abs(value) > 1e-3 for value in alone[trained])


def test_an_architecture_with_a_logit_bias_is_trained_by_ranks_as_by_one_process(ranks: list[dict]) -> None:
    alone = two_ranks.siglip_steps(Rank())
    assert "logit_scale" in alone
    assert "logit_bias" not in alone
    for seen in ranks:
        assert seen["siglip"].keys() == alone.keys()
        for name, values in alone.items():
            assert seen["siglip"][name] == pytest.approx(values, rel=1e-3, abs=1e-5), name


def test_each_process_knows_its_place_and_hears_the_others(ranks: list[dict]) -> None:
    assert [seen["rank"] for seen in ranks] == [[0, 2, 0], [1, 2, 1]]
    told = [{"from": 0, "é": [1, None]}, {"from": 1, "é": [1, None] * 10}]
    assert [seen["told"] for seen in ranks] == [told] * 2


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks() as rank:
        assert rank == Rank(0, 1, 0)
        assert rank.leads
        assert not torch.distributed.is_initialized()
        values = torch.ones(3, requires_grad=True)
        assert rank.gather(values) is values
        assert not rank.mean(values).requires_grad
        assert rank.collect({"a": 1}) == [{"a": 1}]


def test_a_rank_without_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"rank 3 .* 2 GPUs"), joined_ranks():
        pass
