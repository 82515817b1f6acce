"""What a check says of a model: facts, and problems that keep it out of a job."""

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dr_pipeline.errors import PipelineError
from dr_pipeline.models.protocol import OwnPrecision, is_reproducible

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 60.0


@dataclass
class Checked:
    """`facts`: a few words by subject, in the order in which they are found. `problems`: a sentence each."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def say_rounding(self, model: Any) -> None:
        """Tell of a captioner, rewriter or scorer that it can do that."""
        if isinstance(model, OwnPrecision):
            self.facts["can also"] = "round its weights to bfloat16"

    def say_reruns(self, model: Any) -> bool:
        """Whether the model's outputs are to be the same each time, which it may deny by `reproducible = False`."""
        if is_reproducible(model):
            return True
        self.facts["reruns"] = "will differ, as the class says: what is made again is not what was"
        return False


@contextmanager
def finding() -> Iterator[Checked]:
    """What the block finds. An error that ends it is the last problem."""
    checked = Checked()
    try:
        yield checked
    except PipelineError as error:
        checked.problems.append(str(error))


@contextmanager
def telling_where(what: str, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Warn where this thread is, after a minute in the block: Python cannot end what hangs, but a reader can."""
    thread, done = threading.get_ident(), threading.Event()

    def watch() -> None:
        if not done.wait(patience_seconds):
            frame = traceback.extract_stack(sys._current_frames()[thread])[-1]
            place = f"{frame.filename}:{frame.lineno}, in {frame.name}"
            log.warning("%s takes more than %g s; it is at %s. Ctrl-C ends it", what, patience_seconds, place)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
