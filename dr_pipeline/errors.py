"""The package's few exceptions. Each message says what is wrong, where, and what to do next."""

import difflib
from collections.abc import Iterable

from dr_pipeline.redaction import without_secrets

_LONGEST_DETAIL = 500


class PipelineError(Exception):
    """Base of every error that is the user's to mend; the CLI prints it without a traceback."""

    exit_code = 1

    def __init__(self, message: str = ""):
        super().__init__(without_secrets(message))


class ConfigError(PipelineError):
    """The job, a card, the input pattern or the output cannot be used; nothing was written."""

    exit_code = 2


class ModelError(PipelineError):
    """A teacher or captioner breaks its contract: shape, dtype, NaN, missing weights."""

    exit_code = 2  # it reaches the user only at start; later it fails a shard


class HubError(ModelError):
    """A repository of the Hugging Face hub can neither be reached nor found in the hub's cache."""


class ShardError(PipelineError):
    """One shard cannot be reinforced; the others can."""


class SampleSkipped(Exception):  # noqa: N818  (a verdict on one sample, not a failure of the program)
    """One sample cannot be reinforced; `reason` is counted, and stored with `detail` in the manifest."""

    def __init__(self, reason: str, detail: str = ""):
        # A detail may quote what is wrong: megabytes, or what no file can store.
        detail = detail[:_LONGEST_DETAIL].encode(errors="backslashreplace").decode()
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def reason(error: Exception) -> str:
    """Why a file or its content cannot be used, in words, without numbers of errors and names of Python's classes."""
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, KeyError):
        return f"{error} is missing in it"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, TypeError | AttributeError | IndexError):
        return "a part of it has another form"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` with the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
