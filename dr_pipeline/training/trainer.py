"""One rank's part of a run: network, optimizer, moving average and data, and the step that moves them on."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.networks.device import pick_device
from dr_pipeline.networks.launching import HostCopy, Moment
from dr_pipeline.networks.network import Network
from dr_pipeline.training.checkpoint import Checkpoint
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.data.loader import Loader
from dr_pipeline.training.data.rendering import views_for
from dr_pipeline.training.data.training_set import TrainingSet
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.metrics import StepMetrics
from dr_pipeline.training.network import build_student
from dr_pipeline.training.objective import Comparison, make_objective
from dr_pipeline.training.online import OnlineTeachers, with_columns
from dr_pipeline.training.schedule import learning_rate, make_optimizer
from dr_pipeline.views.seeding import Stream
from dr_pipeline.words import plural

_LARGEST_LOGIT_SCALE = 100.0


class LaunchedStep(NamedTuple):
    """A step that a GPU may still be computing."""

    step: int
    first_key: str
    learning_rate: float
    skipped: dict[str, int]
    """Unusable samples up to this step, by reason."""
    waited_seconds: float
    """How long the trainer has waited for the batch."""
    begun: Moment
    figures: HostCopy
    """The loss and its parts, the gradient's norm and the logit scale."""
    ended: Moment


class Trainer:
    """Takes the steps of one rank; all ranks take each step at once."""

    def __init__(self, job: TrainJob, training_set: TrainingSet, rank: Rank, teachers: OnlineTeachers | None):
        schedule = job.schedule
        parts = rank.world_size * schedule.accumulation
        if schedule.batch_size % parts:
            raise ConfigError(
                f"schedule.batch_size ({schedule.batch_size}) must be a multiple of ranks × accumulation ({parts})"
            )
        self._job, self._rank, self._teachers = job, rank, teachers
        self._device = pick_device()
        self.network = build_student(job, self._device)
        self.step = 0
        self._module: Any = self.network.module
        # A classifier's logits have no scale: 1, which stays.
        self._log_scale = getattr(self._module, "logit_scale", torch.zeros((), device=self._device))
        scales = training_set.scales
        if teachers is not None:
            if not teachers.image_teachers == teachers.text_teachers == list(teachers.dims):
                raise ConfigError(
                    "distillation.online_teachers: each must embed both images and texts, and one does not"
                )
            scales = job.distillation.scales_of(job.distillation.online_teachers)
        comparison = Comparison(scales, training_set.affinities)
        objective = make_objective(job, self.network, comparison, rank)
        self._parts = objective.parts
        self._objective = objective if rank.world_size == 1 else DistributedDataParallel(objective)
        self._optimizer = make_optimizer(self._module, schedule)
        self._average: AveragedModel | None = None
        if schedule.ema_decay is not None:
            self._average = AveragedModel(self._module)
        num_rows = schedule.batch_size // rank.world_size
        network = self.network
        views = views_for(job, training_set.recipe, network.image.image_size, self._device)
        tokenizer = network.tokenizer if isinstance(network, Network) else None
        self._loader = Loader(job, training_set, tokenizer, views, num_rows, rank)
        self._batches: Iterator[Batch] | None = None
        self._rates = _Rates()
        self._skipped = Counter[str]()

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint; None: begin. Raises ConfigError where it is of another architecture, of other ranks,
        or of a step behind the last.
        """
        if checkpoint is None:
            return
        if checkpoint.step > self._job.schedule.last_step:
            raise ConfigError(
                f"schedule.stop_at is {self._job.schedule.stop_at}, but the run in run.path has gone on to step "
                f"{checkpoint.step}: remove its later checkpoints, or train in another run.path"
            )
        try:
            self._module.load_state_dict(checkpoint.network)
        except RuntimeError as error:
            raise ConfigError(f"run.path: its checkpoint is of another architecture: {error}") from None
        self._optimizer.load_state_dict(checkpoint.optimizer)
        if self._average is not None and checkpoint.average is not None:
            self._average.load_state_dict(checkpoint.average)
        if len(checkpoint.loaders) != self._rank.world_size:
            raise ConfigError(
                f"the checkpoint is of {plural(len(checkpoint.loaders), 'rank')}, now there are "
                f"{self._rank.world_size}: continue with torchrun --nproc-per-node so that there are as many"
            )
        self._loader.restore(checkpoint.loaders[self._rank.index])
        self.step = checkpoint.step

    def checkpoint(self) -> Checkpoint:
        """The state after the last step. Called by all ranks at once."""
        return Checkpoint(
            step=self.step,
            network=self._module.state_dict(),
            optimizer=self._optimizer.state_dict(),
            average=None if self._average is None else self._average.state_dict(),
            loaders=self._rank.collect(self._loader.state()),
        )

    @property
    def result(self) -> nn.Module:
        """The module that is evaluated and published: the moving average where there is one."""
        return self._module if self._average is None else self._average.module

    def steps(self, stops_after: Callable[[int], bool]) -> Iterator[StepMetrics]:
        """Take the job's steps that are left → the metrics of each. Raises what `finish` and loading raise.

        A step is launched before the metrics of the one before it are awaited, so that a GPU never waits for the next.
        Only behind a step that `stops_after` names, and the last, the trainer stands where its metrics say.
        """
        launched: LaunchedStep | None = None
        while self.step < self._job.schedule.last_step:
            begin = time.perf_counter()
            if self._batches is None:  # loading begins here, where a restored position is known
                self._batches = iter(self._loader)
            batch = next(self._batches)
            before, launched = launched, self.launch(batch, time.perf_counter() - begin)
            if before:
                yield self.finish(before)
            if stops_after(self.step) or self.step == self._job.schedule.last_step:
                yield self.finish(launched)
                launched = None

    def launch(self, batch: Batch, waited_seconds: float = 0.0) -> LaunchedStep:
        """Train on a batch, for which the trainer has waited, without waiting for a GPU."""
        # What a step draws, as dropout does, is seeded by its number and rank: a checkpoint need not hold it.
        torch.manual_seed(Stream(self._job.seed, "step", self.step, self._rank.index).integer(1 << 53))
        inputs = batch if self._teachers is None else with_columns(batch, self._teachers)
        begun = Moment(self._device)
        # How long its texts are is seen on the host: asking the device would wait for all that it has to do.
        losses_P = self._objective(replace(inputs.to(self._device), tokens_BL=inputs.tokens_BL))
        self._optimizer.zero_grad()
        losses_P[0].backward()
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), self._job.schedule.clip_norm)
        others = torch.stack([norm.detach(), self._log_scale.detach().exp()])
        figures = torch.cat([self._rank.mean(losses_P), others])
        rate = learning_rate(self.step, self._job.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        with torch.no_grad():
            self._log_scale.clamp_(0, math.log(_LARGEST_LOGIT_SCALE))
        if self._average is not None and self._job.schedule.ema_decay is not None:
            _follow(self._average, self._module, self._job.schedule.ema_decay)
        self.step += 1
        self._skipped.update(batch.skipped)
        ended = Moment(self._device)
        return LaunchedStep(
            self.step, batch.keys[0], rate, dict(self._skipped), waited_seconds, begun, HostCopy(figures), ended
        )

    def finish(self, launched: LaunchedStep) -> StepMetrics:
        """The metrics of a step, which is waited for. Raises PipelineError where the loss is not finite.

        The weights are lost then, and so is a step that was launched behind it.
        """
        loss, *parts, gradient_norm, logit_scale = launched.figures.wait().tolist()
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise PipelineError(
                f"step {launched.step}: the loss is {loss}, its gradient's norm {gradient_norm} (first sample "
                f"{launched.first_key}). The last checkpoint is kept: lower schedule.learning_rate, lengthen "
                "schedule.warmup_steps or set run.precision=float32, in another run.path"
            )
        batch_size = self._job.schedule.batch_size
        samples_per_second, wait_fraction = self._rates.after(launched, batch_size)
        return StepMetrics(
            step=launched.step,
            samples=launched.step * batch_size,
            loss=loss,
            learning_rate=launched.learning_rate,
            gradient_norm=gradient_norm,
            logit_scale=logit_scale,
            samples_per_second=samples_per_second,
            wait_fraction=wait_fraction,
            skipped=sum(launched.skipped.values()),
            skip_reasons=launched.skipped,
            losses=dict(zip(self._parts, parts, strict=True)),
        )


@torch.no_grad()
def _follow(average: AveragedModel, module: nn.Module, decay: float) -> None:
    """Have an exponential moving average take in the module; the first time it is the module.

    torch's own way copies the number of times to a GPU, and waits for all that it has to do.
    """
    own, followed = tuple(average.module.parameters()), tuple(module.parameters())
    torch._foreach_lerp_(own, followed, 1 - decay if average.n_averaged else 1.0)
    for buffer, current in zip(average.module.buffers(), module.buffers(), strict=True):
        buffer.copy_(current)
    average.n_averaged += 1


class _Rates:
    """Samples per second, and the part of the time that is spent waiting for data: means over some 20 steps."""

    _MEMORY = 0.95

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._wait_seconds = self._seconds = self._samples = 0.0
        self._before: LaunchedStep | None = None

    def after(self, launched: LaunchedStep, num_samples: int) -> tuple[float, float]:
        """A step of so many samples has ended → samples per second, and the part of the time that was waiting.

        While a GPU still computes the step before, it does not wait, though the trainer may.
        """
        now = time.perf_counter()
        waited = launched.waited_seconds
        if self._before:
            waited = min(waited, launched.begun.seconds_since(self._before.ended))
        self._wait_seconds += waited
        self._seconds += now - self._mark
        self._samples += num_samples
        self._mark, self._before = now, launched
        rates = self._samples / self._seconds, self._wait_seconds / self._seconds
        self._samples, self._seconds, self._wait_seconds = (
            self._MEMORY * value for value in (self._samples, self._seconds, self._wait_seconds)
        )
        return rates
