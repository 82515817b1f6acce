"""The command line: a verb and a job file. Knobs live in the job, never here."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pydantic import BaseModel

from dr_pipeline import plugins
from dr_pipeline.arguments import parse
from dr_pipeline.config import Job
from dr_pipeline.ending import INTERRUPTED
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.jobfile import kind_of, load, load_card
from dr_pipeline.recipes import copy_recipes, located, plugin_folders, recipes_folder
from dr_pipeline.shards.storage import Storage
from dr_pipeline.shards.texts import describe_faults
from dr_pipeline.shown import printable, without_secrets_in

if TYPE_CHECKING:
    import torch

    from dr_pipeline.report.findings import Findings
    from dr_pipeline.runners.run import Observer, Outcome
    from dr_pipeline.student.config import TrainJob
    from dr_pipeline.student.data.join import BaseReader
    from dr_pipeline.student.evaluation.evaluate import Result
    from dr_pipeline.student.feed import OnlineTeachers

AnyJob = TypeVar("AnyJob", bound=BaseModel)

DONE, FAILURES, BAD_USAGE, UNREAD = 0, 1, 2, 141


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 finished with failures, 2 bad usage or configuration."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    options = parse(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what job managers send: stop as at Ctrl-C
    try:
        with plugins.refused() if options.no_plugins else nullcontext():
            code = _COMMANDS[options.verb](options)
        sys.stdout.flush()
        return code
    except PipelineError as error:
        _say(f"error: {error}", sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _give_up_output()
        return UNREAD
    except OSError as error:  # a name that is a folder's, too long, on a disk that is gone: it says what and which
        _say(f"error: {error}", sys.stderr)
        return BAD_USAGE


def _give_up_output() -> None:
    """Who read our output has gone, as `head` does: what is still to be flushed goes nowhere, without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream that is no file
            os.dup2(nowhere, stream.fileno())


class _Lines(logging.Formatter):
    """Log lines for a terminal: what they quote comes from data."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, escaped."""
        return printable(super().format(record))


def _say(text: str, stream: TextIO | None = None) -> None:
    """Print, to standard output if nothing else is said; nothing else here may: keys and captions come from data."""
    print(printable(text), file=stream)


def _emit(record: dict[str, Any]) -> None:
    """Print one line of JSON, which escapes by itself."""
    print(json.dumps(without_secrets_in(record)))


def _load(path: str, kind: type[AnyJob], overrides: Sequence[str] = ()) -> AnyJob:
    """A job file of this kind. Raises ConfigError; for a file of another kind, with the verb that takes it."""
    try:
        return load(path, kind, overrides)
    except ConfigError as error:
        raise _meant(path, kind) or error from None


def _meant(path: str, kind: type[BaseModel]) -> ConfigError | None:
    """Which verb takes this file; None where none does, or the one that it was given to."""
    from dr_pipeline.config import Card
    from dr_pipeline.student.config import TrainJob
    from dr_pipeline.student.evaluation.config import EvaluateJob
    from dr_pipeline.student.tuning.config import TuneJob

    kinds: dict[str, type[BaseModel]] = {
        "run": Job,
        "train": TrainJob,
        "evaluate": EvaluateJob,
        "tune-logit-scale": TuneJob,
        "check-teacher": Card,
    }
    verb = kind_of(path, kinds)
    if verb is None or issubclass(kind, kinds[verb]):
        return None
    return ConfigError(f"{path} is no file for this verb: use `dr-pipeline {verb} {path}`")


def _run(options: argparse.Namespace) -> int:
    from dr_pipeline.runners.run import run

    job = _load(options.job, Job, options.overrides)
    return _watched(lambda observer: run(job, observer, options.force, options.retry_failed), options.json)


def _watched(work: "Callable[[Observer], Outcome]", as_json: bool) -> int:
    """Do the work under a progress display and say how it ended: the exit code."""
    from dr_pipeline.report.progress import progress

    shown = progress(as_json)
    try:
        outcome = work(shown)
    except KeyboardInterrupt:
        _say("stopped; finished shards are safe: run the same command again to go on", sys.stderr)
        return INTERRUPTED
    finally:
        shown.close()
    if as_json:
        failed_names = [report.name for report in outcome.failed]
        counts = {"num_samples": outcome.num_samples, "captions": outcome.captions}
        _emit({"event": "finished", **counts, "failed": failed_names})
    else:
        _say(f"{outcome.num_samples} samples in {outcome.num_shards} shards at {outcome.job.output.path}")
        for key, found in outcome.captions.items():
            _say(describe_faults(key, found, found["drawn"]))
        for report in outcome.failed:
            _say(f"failed {report.name}: {report.error}")
    return FAILURES if outcome.failed else DONE


def _train(options: argparse.Namespace) -> int:
    from dr_pipeline.student.config import TrainJob

    job = _load(options.job, TrainJob, options.overrides)  # before torch, which takes seconds to import

    from dr_pipeline.report.training import training_display
    from dr_pipeline.student.train import train

    shown = training_display(options.json)
    try:
        outcome = train(job, shown, _online_teachers(job))
    except KeyboardInterrupt:
        _say("stopped; run the same command again to go on from the last checkpoint", sys.stderr)
        return INTERRUPTED
    finally:
        shown.close()
    if outcome:
        _show(outcome.results, options.json)
        _say(f"the student is in {outcome.model}, its curves in {outcome.curves}", sys.stderr)
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from dr_pipeline.student.evaluation.config import EvaluateJob

    job = _load(options.job, EvaluateJob, options.overrides)  # before torch

    from dr_pipeline.student.evaluation.evaluate import evaluate

    _show(evaluate(job), options.json)
    return DONE


def _show(results: "list[Result]", as_json: bool) -> None:
    from rich.console import Console

    from dr_pipeline.student.evaluation.evaluate import show

    if as_json:
        for result in results:
            _emit({"event": "result", **asdict(result)})
    elif results:
        Console(markup=False).print(show(results))


def _tune(options: argparse.Namespace) -> int:
    from dr_pipeline.student.tuning.config import TuneJob

    job = _load(options.job, TuneJob, options.overrides)  # before torch

    from rich.console import Console

    from dr_pipeline.report.training import training_display
    from dr_pipeline.student.tuning.results import show
    from dr_pipeline.student.tuning.tune import tune

    shown = training_display(options.json)
    try:
        tuning = tune(job, shown, _online_teachers)
    except KeyboardInterrupt:
        _say("stopped; runs that ended are kept: run the same command again to go on", sys.stderr)
        return INTERRUPTED
    finally:
        shown.close()
    if tuning is None:
        return DONE
    if options.json:
        _emit({"event": "tuned", **tuning.record()})
    else:
        Console(markup=False).print(show(tuning))
        _say("\n".join([*tuning.remarks(), f"all figures are in {job.path}/tuning.json, drawn in tuning.png"]))
    return FAILURES if tuning.failed else DONE


def _online_teachers(job: "TrainJob") -> "Callable[[torch.device], OnlineTeachers] | None":
    """How to load the teachers that are to see every batch; None where the stored embeddings are used."""
    if not job.distillation.online_teachers:
        return None
    from dr_pipeline.models.ensemble import Ensemble
    from dr_pipeline.models.load import load_teacher
    from dr_pipeline.student.columns import chosen

    cards = chosen(job.distillation, job.distillation.online_teachers)

    def load_teachers(device: "torch.device") -> "OnlineTeachers":
        teachers = [(card.name, load_teacher(card, device, job.plugin_dirs)) for card in cards]
        return Ensemble(teachers, device, job.run.precision)

    return load_teachers


def _plan(options: argparse.Namespace) -> int:
    from dr_pipeline.runners.rehearse import rehearse

    shown = rehearse(_load(options.job, Job, options.overrides))
    if options.json:
        _emit(asdict(shown))
    else:
        _say(str(shown))
    return BAD_USAGE if shown.refused else DONE


def _verify(options: argparse.Namespace) -> int:
    from dr_pipeline.report.verify import verify

    job = _job_of(options)
    storage_options = job.output.storage if job else _storage_options(options)
    storage = Storage(storage_options)
    base = _base(options)
    findings = verify(options.output, storage, base, job)
    if options.deep:
        from dr_pipeline.reinforce.recheck import Choice, Dataset, recheck

        plugin_dirs = job.plugin_dirs if job else (".",)
        dataset = Dataset(storage.absolute(options.output), storage_options, plugin_dirs, base)
        recheck(dataset, Choice(options.samples, options.seed), findings)
    if options.json:
        _emit(asdict(findings))
    else:
        for file, key, problem in findings.problems:
            _say(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")
        for remark in findings.remarks:
            _say(remark)
        verdict = f"{len(findings.problems)} problems" if findings.problems else "no problem"
        _say(f"{findings.num_samples} samples in {findings.num_shards} shards read: {verdict}")
    if findings.problems and options.repair:
        assert job is not None
        return _repair(job, findings, options.json)
    return FAILURES if findings.problems else DONE


def _base(options: argparse.Namespace) -> "BaseReader | None":
    """The dataset that `verify --base` looks images up in."""
    if not options.base:
        return None
    from dr_pipeline.shards.storage import cache_folder
    from dr_pipeline.student.config import Base
    from dr_pipeline.student.data.join import BaseReader, open_index

    storage = _pairs("--base-storage", options.base_storage)
    try:
        base = Base(shards=options.base, match=options.base_match, storage=storage)
        return BaseReader(open_index(base, cache_folder()))
    except (PipelineError, ValueError) as error:
        raise ConfigError(f"--base: {error}") from error


def _job_of(options: argparse.Namespace) -> Job | None:
    """The job that `verify --job` names, its output being the one that is verified."""
    if options.repair and not options.job:
        raise ConfigError("--repair: say with --job which job file made the dataset: it knows the input")
    if not options.job:
        return None
    job = _load(options.job[0], Job, options.job[1:])
    output = {"path": options.output, "storage": {**job.output.storage, **_storage_options(options)}}
    return job.model_copy(update={"output": job.output.model_copy(update=output)})


def _repair(job: Job, findings: "Findings", as_json: bool) -> int:
    from dr_pipeline.runners.repair import repair

    return _watched(lambda observer: repair(job, findings, observer), as_json)


def _inspect(options: argparse.Namespace) -> int:
    from dr_pipeline.report.inspect import inspect

    for line in inspect(options.output, Storage(_storage_options(options)), options.count):
        _say(line)
    return DONE


def _trainer_flags(options: argparse.Namespace) -> int:
    from dr_pipeline.report.trainer_flags import trainer_flags

    shown = trainer_flags(options.output, Storage(_storage_options(options)))
    _say(str(shown))
    for remark in shown.remarks:
        _say(f"note: {remark}", sys.stderr)
    return DONE


def _check_teacher(options: argparse.Namespace) -> int:
    from dr_pipeline.config import CaptionerCard, TeacherCard
    from dr_pipeline.plugins import load_class
    from dr_pipeline.testing import check_captioner, check_teacher

    path = located(options.card)
    plugin_dirs = (".", *map(str, plugin_folders(path)))
    try:
        card = load_card(options.card, TeacherCard)
    except ConfigError as error:
        raise _meant(options.card, TeacherCard) or error from None
    if hasattr(load_class(card.use, plugin_dirs), "caption"):
        problems = check_captioner(load_card(options.card, CaptionerCard), plugin_dirs)
    else:
        problems = check_teacher(card, plugin_dirs)
    for problem in problems:
        _say(problem)
    _say(f"{options.card}: {len(problems)} problems" if problems else f"{options.card}: ready to teach")
    return FAILURES if problems else DONE


def _storage_options(options: argparse.Namespace) -> dict[str, object]:
    """`--storage key=value` pairs; anything secret belongs in the environment instead."""
    return _pairs("--storage", options.storage)


def _pairs(option: str, given: list[str]) -> dict[str, object]:
    pairs = [pair.partition("=") for pair in given]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"{option} {key}: write it as key=value, such as endpoint_url=http://127.0.0.1:9000")
    return {key: value for key, _, value in pairs}


def _init(options: argparse.Namespace) -> int:
    new, differing = copy_recipes(Path(options.folder))
    _say(f"{len(new)} recipes copied from {recipes_folder()} to {options.folder}: jobs/ and teachers/")
    for path in differing:
        _say(f"{path} is another than the package's, and was left as it is")
    return DONE


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "train": _train,
    "evaluate": _evaluate,
    "tune-logit-scale": _tune,
    "plan": _plan,
    "verify": _verify,
    "inspect": _inspect,
    "trainer-flags": _trainer_flags,
    "check-teacher": _check_teacher,
    "init": _init,
}
"""By verb; the options are those of `arguments.py`."""
