"""What a job's input names, as the tests of finding and planning look at it."""

from pathlib import Path

import pytest

from dr_pipeline.config.job import Input
from dr_pipeline.dataset.plan import find_tasks
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage


def found(shards: str | tuple[str, ...], root: str | None = None) -> dict[str, int | None]:
    _, tasks = find_tasks(Input(shards=shards, root=root), Storage())
    return {task.name: task.size_bytes for task in tasks}


def refusal(shards: str | tuple[str, ...]) -> str:
    with pytest.raises(ConfigError) as caught:
        found(shards)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{Path.cwd()}/", "")
