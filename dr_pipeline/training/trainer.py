"""One rank's part of a run: network, optimizer, moving average and data, and the step that moves them on."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dr_pipeline.config.training import TrainJob
from dr_pipeline.errors import ConfigError, PipelineError
from dr_pipeline.networks.device import pick_device
from dr_pipeline.training.checkpoint import Checkpoint
from dr_pipeline.training.data.batch import Batch
from dr_pipeline.training.data.loader import Loader
from dr_pipeline.training.data.training_set import TrainingSet
from dr_pipeline.training.distributed import Rank
from dr_pipeline.training.metrics import StepMetrics
from dr_pipeline.training.network import build_student
from dr_pipeline.training.objective import make_objective
from dr_pipeline.training.online import OnlineTeachers, check_online, with_columns
from dr_pipeline.training.schedule import learning_rate, make_optimizer
from dr_pipeline.views.seeding import Stream

_LARGEST_LOGIT_SCALE = 100.0


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
        scales = training_set.scales
        if teachers is not None:
            check_online(teachers)
            scales = job.distillation.scales_of(job.distillation.online_teachers)
        objective = make_objective(job, self.network, scales, rank)
        self._objective = objective if rank.world_size == 1 else DistributedDataParallel(objective)
        self._optimizer = make_optimizer(self._module, schedule)
        self._average: AveragedModel | None = None
        if schedule.ema_decay is not None:
            self._average = AveragedModel(self._module, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema_decay))
        num_rows = schedule.batch_size // rank.world_size
        network = self.network
        self._loader = Loader(job, training_set, network.tokenizer, network.image.image_size, num_rows, rank)
        self._batches: Iterator[Batch] | None = None
        self._rates = _Rates()
        self._skipped = 0

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint; None: begin. Raises ConfigError where it is of another architecture or ranks."""
        if checkpoint is None:
            return
        try:
            self._module.load_state_dict(checkpoint.network)
        except RuntimeError as error:
            raise ConfigError(f"run.path: its checkpoint is of another architecture: {error}") from None
        self._optimizer.load_state_dict(checkpoint.optimizer)
        if self._average is not None and checkpoint.average is not None:
            self._average.load_state_dict(checkpoint.average)
        if len(checkpoint.loaders) != self._rank.world_size:
            raise ConfigError(
                f"the checkpoint is of {len(checkpoint.loaders)} ranks, now there are {self._rank.world_size}: "
                f"continue with torchrun --nproc-per-node so that there are as many"
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

    def take_step(self) -> StepMetrics:
        """Load a batch and train on it. Raises what `train_on` and loading raise."""
        with self._rates.waiting():
            if self._batches is None:  # loading begins here, where a restored position is known
                self._batches = iter(self._loader)
            batch = next(self._batches)
        return self.train_on(batch)

    def train_on(self, batch: Batch) -> StepMetrics:
        """One step. Raises PipelineError, with the weights as they were, where the loss is not finite."""
        # What a step draws, as dropout does, is seeded by its number and rank: a checkpoint need not hold it.
        torch.manual_seed(Stream(self._job.seed, "step", self.step, self._rank.index).integer(1 << 53))
        inputs = batch if self._teachers is None else with_columns(batch, self._teachers)
        loss = self._objective(inputs.to(self._device))
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), self._job.schedule.clip_norm)
        figures = [self._rank.mean(loss), norm.detach(), self._module.logit_scale.detach().exp()]
        mean_loss, gradient_norm, logit_scale = torch.stack(figures).tolist()
        if not (math.isfinite(mean_loss) and math.isfinite(gradient_norm)):
            raise PipelineError(
                f"step {self.step + 1}: the loss is {mean_loss}, its gradient's norm {gradient_norm} (first sample "
                f"{batch.keys[0]}). The last checkpoint is kept: lower schedule.learning_rate, lengthen "
                "schedule.warmup_steps or set run.precision=float32, in another run.path"
            )
        rate = learning_rate(self.step, self._job.schedule)
        self._update(rate)
        self.step += 1
        self._skipped += sum(batch.skipped.values())
        batch_size = self._job.schedule.batch_size
        samples_per_second, wait_fraction = self._rates.after(batch_size)
        return StepMetrics(
            step=self.step,
            samples=self.step * batch_size,
            loss=mean_loss,
            learning_rate=rate,
            gradient_norm=gradient_norm,
            logit_scale=logit_scale,
            samples_per_second=samples_per_second,
            wait_fraction=wait_fraction,
            skipped=self._skipped,
        )

    def _update(self, rate: float) -> None:
        """Move the weights by their gradients, and the moving average behind them."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        with torch.no_grad():
            self._module.logit_scale.clamp_(0, math.log(_LARGEST_LOGIT_SCALE))
        if self._average is not None:
            self._average.update_parameters(self._module)


class _Rates:
    """Samples per second, and the part of the time that is spent waiting for data: means over some 20 steps."""

    _MEMORY = 0.95

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._wait_seconds = self._seconds = self._samples = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time within counts as waiting."""
        begin = time.perf_counter()
        yield
        self._wait_seconds += time.perf_counter() - begin

    def after(self, num_samples: int) -> tuple[float, float]:
        """A step of so many samples has ended → samples per second, and the part of the time that was waiting."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._samples += num_samples
        self._mark = now
        rates = self._samples / self._seconds, self._wait_seconds / self._seconds
        self._samples, self._seconds, self._wait_seconds = (
            self._MEMORY * value for value in (self._samples, self._seconds, self._wait_seconds)
        )
        return rates
