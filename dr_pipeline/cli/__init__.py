"""The command line: a verb and a job file. Knobs live in the job, never here."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import click
from click.shell_completion import shell_complete

from dr_pipeline.cli import dataset, doctor, look, prepare, recipes, reinforce, status, student
from dr_pipeline.cli.output import BAD_USAGE, FAILURES, UNREAD, say, write_any_text
from dr_pipeline.cli.verbs import Verbs
from dr_pipeline.errors import PipelineError, reason

__all__ = ["FAILURES", "main", "program"]

_NAME = "dr-pipeline"
_COMPLETION = "_DR_PIPELINE_COMPLETE"
"""The variable by which a shell asks for completions, or for the script that asks for them."""


@click.group(
    _NAME,
    cls=Verbs,
    help="Reinforce image-text data and labelled images, and train and measure models on them. A job is one YAML file.",
    subcommand_metavar="VERB ...",
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name=_NAME, prog_name=_NAME, message="%(prog)s %(version)s")
def program() -> None:
    """The group of all verbs."""


for _verb in (
    reinforce.run,
    student.train,
    student.evaluate,
    student.compare,
    student.tune_logit_scale,
    reinforce.plan,
    status.status,
    dataset.verify,
    dataset.inspect,
    look.look,
    dataset.trainer_flags,
    prepare.prepare,
    recipes.check_teacher,
    doctor.doctor,
    recipes.init,
):
    program.add_command(_verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0 done, 1 finished with failures, 2 bad usage or configuration, 130 interrupted, 141 whoever read the output has
    gone. An interrupt that no verb answers is raised as KeyboardInterrupt.
    """
    words = sys.argv[1:] if arguments is None else [*arguments]
    write_any_text()
    try:
        code = _call(words)
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as end:  # of --help, --version and what is stopped
        return end.exit_code
    except click.ClickException as error:
        say(_usage(error), sys.stderr)
        return BAD_USAGE
    except PipelineError as error:
        say(f"error: {error}", sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # whoever read our output has gone, as `head` does
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a stream that is no file
                os.dup2(nowhere, stream.fileno())
        return UNREAD
    except OSError as error:  # a name that is a folder's, too long, on a disk that is gone: it says what and which
        say(f"error: {error.filename}: {reason(error)}" if error.filename else f"error: {reason(error)}", sys.stderr)
        return BAD_USAGE


def _call(words: list[str]) -> int:
    """Parse the words and run their verb.

    `program.main` would do the same, but answers a closed pipe and an interrupt with exit codes of its own.
    """
    if instruction := os.environ.get(_COMPLETION):
        return shell_complete(program, {}, _NAME, _COMPLETION, instruction)
    with program.make_context(_NAME, words) as context:
        return int(program.invoke(context))


def _usage(error: click.ClickException) -> str:
    """What is wrong with the words, below the form that they should have."""
    message = error.format_message()
    if isinstance(error, click.BadParameter) and error.param and not isinstance(error, click.MissingParameter):
        message = f"argument {'/'.join(error.param.opts)}: {error.message}"
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.get_usage()}\nerror: {message}" if context else f"error: {message}"
