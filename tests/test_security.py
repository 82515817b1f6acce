"""Nothing in this tree runs what data says: by its text, and by files made to do harm."""

import ast
import gzip
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dr_pipeline.config.training import TrainJob
from dr_pipeline.dataset import layout
from dr_pipeline.dataset.sample import Sample
from dr_pipeline.errors import ConfigError, ModelError, SampleSkipped
from dr_pipeline.networks.architecture import read_architecture
from dr_pipeline.networks.tokenizer import make_tokenizer
from dr_pipeline.networks.weights import load_weights
from dr_pipeline.runners import cluster
from dr_pipeline.storage import Storage
from dr_pipeline.training.checkpoint import RunFolder
from dr_pipeline.verification.verify import verify
from tests.conftest import write_tar

ROOT = Path(__file__).parent.parent
FOLDERS = ("dr_pipeline", "teachers", "jobs", "benchmarks", "docker", "tests")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
RUNNING = {"eval", "exec", "compile", "os.system", "os.popen", "os.execv", "torch.hub.load", "pd.read_pickle"}
YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader"}
UNPACKING = {"extractall", "extract", "unpack_archive"}
EXEMPT = {
    "tests/test_security.py",
    "tests/test_redaction.py",
    "tests/test_jobs.py",
    "tests/test_api.py",
    "tests/foreign/test_classification.py",
    "tests/test_package.py",
    "tests/clusters/test_compose.py",
}
"""Tests that make pickles, send an error of ours through one, run commands and code of our own pages and files, and
unpack our own archive.
"""


def wrong_calls(source: str) -> list[str]:
    """The calls in a source that could run what data says, as `line: call`."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        module, _, method = name.rpartition(".")
        if (
            name in RUNNING | YAML
            or module in UNPICKLING
            or method in UNPACKING
            or (name == "torch.load" and options.get("weights_only") != "True")
            or (name in {"np.load", "numpy.load"} and options.get("allow_pickle") != "False")
            or options.get("weights_only", "True") != "True"
            or options.get("allow_pickle", "False") != "False"
            or options.get("shell", "False") != "False"
            or options.get("trust_remote_code", "False") != "False"
        ):
            found.append(f"{call.lineno}: {ast.unparse(call)[:80]}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_data_says(path: Path) -> None:
    if str(path.relative_to(ROOT)) not in EXEMPT:
        assert wrong_calls(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pickle.loads(data)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "tarfile.open(path).extractall()",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert wrong_calls(source)


class Harm:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path):
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What harm would leave."""
    return tmp_path / "harm-was-done"


def harmful_archives(trace: Path) -> dict[str, bytes]:
    """Real pickles in the forms in which tensors come, by what they pretend to be."""
    saved, archive, bare, arrays = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"image_emb": Harm(trace)}, saved)
    torch.save({"image_emb": Harm(trace)}, archive, _use_new_zipfile_serialization=False)
    pickle.dump(Harm(trace), bare)
    np.savez(arrays, image_emb=np.array([Harm(trace)], dtype=object))
    return {"torch": saved.getvalue(), "torch legacy": archive.getvalue(), "pickle": bare.getvalue(),
            "npz": arrays.getvalue()}  # fmt: skip


FORMS = ["torch", "torch legacy", "pickle", "npz"]


def sample_fields(form: str, data: bytes) -> dict[str, bytes]:
    embeddings = {"npz": data} if form == "npz" else {"pth.gz": gzip.compress(data)}
    return {"txt": b"a", "syn.json": b'{"syn_text": ["a"]}', "paug.json": b'{"param_aug": []}', **embeddings}


@pytest.mark.parametrize("form", FORMS)
def test_embeddings_that_are_code_are_refused(form: str, trace: Path, tmp_path: Path) -> None:
    fields = sample_fields(form, harmful_archives(trace)[form])
    with pytest.raises(SampleSkipped):
        layout.decode(Sample("k", fields))
    write_tar(tmp_path / "x.tar", [(f"a.{ext}", data) for ext, data in fields.items()])
    assert verify(str(tmp_path / "x.tar"), Storage()).problems
    assert not trace.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_weights_that_are_code_are_refused(suffix: str, form: str, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(harmful_archives(trace)[form])
    with pytest.raises(ModelError, match=r"neither \.safetensors nor a plain torch state dict"):
        load_weights(torch.nn.Linear(1, 1), path)
    assert not trace.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_that_is_code_is_refused(form: str, trace: Path, tmp_path: Path) -> None:
    tree = {
        "name": "x",
        "data": {"shards": "x.tar"},
        "student": {"architecture": "ViT-B-32"},
        "schedule": {"steps": 1, "batch_size": 1, "warmup_steps": 0, "learning_rate": 1e-3},
        "run": {"path": str(tmp_path)},
    }
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-0000001.pt").write_bytes(harmful_archives(trace)[form])
    with pytest.raises(ConfigError, match="cannot be read"):
        RunFolder(TrainJob.model_validate(tree)).newest()
    assert not trace.exists()


def test_the_harm_is_real(trace: Path) -> None:
    pickle.loads(harmful_archives(trace)["pickle"])
    assert trace.exists()


def test_a_model_brings_no_code_of_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = read_architecture("ViT-B-32", "random")
    seen: dict[str, Any] = {}
    monkeypatch.setattr("dr_pipeline.networks.tokenizer.HFTokenizer", lambda name, **options: seen.update(options))
    monkeypatch.setattr("dr_pipeline.networks.tokenizer.list_models", list)
    architecture.config["text_cfg"] |= {"hf_tokenizer_name": "x/y", "tokenizer_kwargs": {"trust_remote_code": True}}
    make_tokenizer(architecture, None, 77)
    assert seen["trust_remote_code"] is False


def test_the_dashboard_is_not_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **options: started.update(options))
    monkeypatch.setattr(cluster.ray, "nodes", list)
    monkeypatch.setattr(cluster, "replace_rays_own", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.connect()
    assert started["include_dashboard"] is False
    heads = [
        line for line in (ROOT / "docs" / "ray.md").read_text().splitlines() if line.startswith("ray start --head")
    ]
    assert heads
    assert all("--dashboard-host=127.0.0.1" in line for line in heads)
