"""The plan of a job: its input's shards, which of them are done, and whether its output may be written where it is."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from dr_pipeline.config.job import Input, Job
from dr_pipeline.dataset.config_json import ConfigJson
from dr_pipeline.dataset.reports import Reports, ShardTask
from dr_pipeline.dataset.shard_patterns import LeftOut, Shards, find_shards, is_within, without_query
from dr_pipeline.errors import ConfigError
from dr_pipeline.storage import Storage, refuse_ray_working_dir
from dr_pipeline.storage.naming import output_name


@dataclass(frozen=True)
class Plan:
    """A job with its paths made absolute, and its shards."""

    job: Job
    todo: tuple[ShardTask, ...]
    done: tuple[ShardTask, ...]
    left_out: tuple[LeftOut, ...] = ()

    def only(self, names: set[str]) -> "Plan":
        """The plan to do the shards of these names, whether they are done or not, and no others."""
        every = sorted((*self.todo, *self.done), key=lambda task: task.name)
        return replace(
            self,
            todo=tuple(task for task in every if task.name in names),
            done=tuple(task for task in self.done if task.name not in names),
        )

    @property
    def missing(self) -> tuple[ShardTask, ...]:
        """Shards that the pattern names but a listing of their folder does not show."""
        return tuple(task for task in self.todo if task.size_bytes is None)


def make_plan(job: Job) -> Plan:
    """List the input once per folder and the output's reports once. Raises ConfigError; writes nothing."""
    sources, results = Storage(job.input.storage), Storage(job.output.storage)
    output = results.absolute(job.output.path)
    _check_output(output)
    shards, tasks = find_tasks(job.input, sources)
    _refuse_output_among_input(shards, tasks, sources, output, results)
    job = job.model_copy(
        update={
            "input": job.input.model_copy(update={"root": shards.root}),
            "output": job.output.model_copy(update={"path": output}),
        }
    )
    job = ConfigJson(job).job_with_stored_digests()
    done_names = Reports.of(job).shards()
    todo = tuple(task for task in tasks if task.name not in done_names)
    done = tuple(task for task in tasks if task.name in done_names)
    return Plan(job, todo, done, shards.left_out)


def find_tasks(source: Input, storage: Storage) -> tuple[Shards, list[ShardTask]]:
    """The shards of a job's input, and a task for each, sorted by URI, named by its path below the root.

    The root is `input.root`, or else the folder that all shards share. Raises ConfigError where an entry of
    `input.shards` names no shard that is there, a shard does not lie below the root, or two would have one name.
    """
    shards = find_shards(source.shards, storage, "input.shards")
    if source.root:
        shards = replace(shards, root=storage.absolute(source.root))
    tasks: dict[str, ShardTask] = {}
    for uri, size in shards.sizes.items():
        path = without_query(uri)
        if not path.startswith(shards.root.rstrip("/") + "/"):
            raise ConfigError(f"input.root: {path} does not lie below {shards.root}")
        relative = path.removeprefix(shards.root).lstrip("/")  # the root of two buckets is "s3:": a slash more follows
        if ".." in relative.split("/"):
            raise ConfigError(f"input.shards: {path} would lead out of the output: write it without `..`")
        name = output_name(relative)
        if name in tasks:
            raise ConfigError(
                f"input.shards: {tasks[name].uri} and {uri} would both be {name} in the output: leave one out, or "
                "rename it"
            )
        tasks[name] = ShardTask(name, uri, size)
    return shards, list(tasks.values())


def _check_output(output: str) -> None:
    """Raise ConfigError where no output can be written, or where others would remove it."""
    refuse_ray_working_dir(output, "output.path")
    if output.startswith(("http://", "https://")):
        raise ConfigError(f"output.path {output}: a web server takes no files: choose a folder or a bucket")
    if output.encode(errors="replace").decode() != output:
        raise ConfigError(f"output.path {output!r} is no text in UTF-8: choose another name")
    for folder in () if "://" in output else (Path(output), *Path(output).parents):
        if (folder / "job.json").is_file() and (folder / "checkpoints").is_dir():
            raise ConfigError(f"output.path {output} lies in the training run {folder}: choose a folder outside of it")


def _refuse_output_among_input(
    shards: Shards, tasks: list[ShardTask], sources: Storage, output: str, results: Storage
) -> None:
    """Raise ConfigError where the output holds a shard of the input, or a later run would take its shards for input."""
    place = results.canonical(output)
    places: dict[str, str] = {}  # of the input's folders
    for task in tasks:
        folder, _, file = task.uri.rpartition("/")
        if folder not in places:
            places[folder] = sources.canonical(folder)
        shard_place = sources.canonical(task.uri) if os.path.islink(task.uri) else f"{places[folder]}/{file}"
        if is_within(shard_place, place):
            raise ConfigError(f"output.path {output} holds the input shard {task.uri}: choose another folder")
    names = {task.name.rpartition("/")[0]: task.name for task in tasks}.values()  # one of each folder stands for all
    written = [f"{folder}/{name}" for folder in (output, place) for name in names]
    for entry in shards.entries:
        if entry.would_find(written):
            raise ConfigError(
                f"output.path {output} lies where input.shards looks, in {entry.label}: a later run would take its "
                "shards for input: choose another folder"
            )
