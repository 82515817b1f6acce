"""`--no-plugins`: a job file is data."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dr_pipeline.cli import main
from dr_pipeline.config import plugins
from dr_pipeline.errors import ConfigError
from tests.demo_job import QUICKSTART, make_scenes, small

EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: ...\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plug-in that leaves a trace where it is imported, and a card and jobs that name it."""
    (tmp_path / "evil_plugin.py").write_text(EVIL)
    (tmp_path / "card.yaml").write_text("{name: evil, use: 'evil_plugin:Evil'}")
    return tmp_path


def job_with(folder: Path, **changes: object) -> str:
    tree = yaml.safe_load(QUICKSTART.read_text()) | changes
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teachers": [{"card": "card.yaml"}]}, "evil: use: evil_plugin:Evil"),
        ({"captioners": [{"name": "c", "use": "os:system"}]}, "c: use: os:system"),
        ({"teachers": [{"name": "t", "use": "dr_pipeline.models.open_clip:OpenClipTeacher",
                        "options": {"model": "m", "weights": "w", "tokenizer": "evil_plugin:Evil"}}]}, "t: tokenizer"),
        ({"teachers": [{"name": "t", "use": "dr_pipeline.models.open_clip:OpenClipTeacher",
                        "options": {"model": "m", "weights": "package://evil_plugin/w"}}]}, "t: package://evil_plugin"),
        ({"scorers": [{"name": "s", "use": "dr_pipeline.models.scorers:SimilarityScorer",
                       "options": {"teacher": "evil_plugin:Evil"}}]}, "s: teacher: evil_plugin:Evil"),
        ({"plugin_dirs": ["lab"]}, "plugin_dirs"),
    ],
    ids=["card", "use", "tokenizer", "package", "teacher", "dirs"],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_foreign_code_is_refused_by_card_and_never_imported(
    verb: str, changes: dict, named: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    before = [*sys.path]
    assert main([verb, job_with(folder, **changes), "--no-plugins"]) == 2
    assert named in capsys.readouterr().err
    assert sys.path == before
    assert not (folder / "ran").exists()
    assert "evil_plugin" not in sys.modules


def test_a_card_alone_is_refused_too(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check-teacher", str(folder / "card.yaml"), "--no-plugins"]) == 2
    assert "evil: use: evil_plugin:Evil" in capsys.readouterr().err


def test_so_are_the_cards_that_a_dataset_records() -> None:
    before = [*sys.path]
    with plugins.refused():
        for path in (
            "evil_plugin:Evil",
            "os:system",
            "dr_pipeline.config.plugins:sys",
            "dr_pipeline.config.plugins:Path",
        ):
            with pytest.raises(ConfigError, match="--no-plugins"):
                plugins.load_class(path, ("/tmp",))
        plugins.load_class("dr_pipeline.models.open_clip:OpenClipTeacher", ("/tmp",))
    assert sys.path == before


def test_the_packages_own_models_run_without_plugins(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=1)
    command = ["run", str(QUICKSTART), *small(scenes, tmp_path / "out"), "--no-plugins"]
    code = "import sys; from dr_pipeline.cli import main; before = [*sys.path]; "
    code += f"sys.exit(main({command!r}) or before != sys.path)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
