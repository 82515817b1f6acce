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
from dr_pipeline.train.checkpoint import Checkpoint
from dr_pipeline.train.columns import compared, places
from dr_pipeline.train.data.batch import Batch
from dr_pipeline.train.data.dataset import Dataset
from dr_pipeline.train.data.loader import Loader
from dr_pipeline.train.distributed import Rank
from dr_pipeline.train.feed import Feed, OnlineTeachers, online_columns
from dr_pipeline.train.journal import StepRecord
from dr_pipeline.train.network import build_student
from dr_pipeline.train.objective import ClipObjective, CocaObjective
from dr_pipeline.train.schedule import learning_rate, make_optimizer
from dr_pipeline.views.seeding import Stream

_LARGEST_LOGIT_SCALE = 100.0


class Trainer:
    """Takes the steps of one rank; all ranks take each step at once."""

    def __init__(self, job: TrainJob, dataset: Dataset, rank: Rank, teachers: OnlineTeachers | None):
        device = pick_device()
        self._job, self._rank = job, rank
        self.network = build_student(job, device)
        self.step = 0
        self._module: Any = self.network.module
        held = dataset.teachers if teachers is None else online_columns(job, teachers)
        chosen = compared(job.distillation, held)
        objective: nn.Module = (
            CocaObjective(job, self.network, rank)
            if job.objective == "coca"
            else ClipObjective(job, self.network, chosen, rank)
        )
        self._objective = objective if rank.world_size == 1 else DistributedDataParallel(objective)
        self._optimizer = make_optimizer(self._module, job.schedule)
        self._average = _moving_average(job, self._module)
        columns = None if job.distillation.teachers is None else places(held, chosen)
        self._feed = Feed(job, device, teachers, columns)
        self._loader = Loader(
            job, dataset, self.network.tokenizer, self.network.image.image_size, _rows_per_rank(job, rank), rank
        )
        self._batches: Iterator[Batch] | None = None
        self._rates = _Rates()
        self._skipped = 0

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint; from nothing, begin. Raises ConfigError where it is another architecture's."""
        if checkpoint is None:
            return
        try:
            self._module.load_state_dict(checkpoint.network)
        except RuntimeError as error:
            raise ConfigError(f"run.path: its checkpoint is of another architecture: {error}") from None
        self._optimizer.load_state_dict(checkpoint.optimizer)
        if self._average is not None and checkpoint.average is not None:
            self._average.load_state_dict(checkpoint.average)
        self._restore_loader(checkpoint.loaders)
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

    def take_step(self) -> StepRecord:
        """Load a batch and train on it. Raises what `train_on` and loading raise."""
        with self._rates.waiting():
            batch = self._next_batch()
        return self.train_on(batch)

    def train_on(self, batch: Batch) -> StepRecord:
        """One step. Raises PipelineError, with the weights as they were, where the loss is not finite."""
        self._seed_step()
        loss = self._objective(self._feed.inputs(batch))
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), self._job.schedule.clip_norm)
        figures = torch.stack([self._rank.mean(loss), norm.detach(), self._module.logit_scale.detach().exp()]).tolist()
        self._check_finite(figures[0], figures[1], batch)
        rate = learning_rate(self.step, self._job.schedule)
        self._update(rate)
        self.step += 1
        self._skipped += sum(batch.skipped.values())
        num_samples = self._job.schedule.batch_size
        samples_per_second, wait_fraction = self._rates.after(num_samples)
        return StepRecord(
            step=self.step,
            samples=self.step * num_samples,
            loss=figures[0],
            learning_rate=rate,
            gradient_norm=figures[1],
            logit_scale=figures[2],
            samples_per_second=samples_per_second,
            wait_fraction=wait_fraction,
            skipped=self._skipped,
        )

    def _next_batch(self) -> Batch:
        if self._batches is None:  # loading begins here, where a restored position is known
            self._batches = iter(self._loader)
        return next(self._batches)

    def _restore_loader(self, loaders: list[Any]) -> None:
        if len(loaders) != self._rank.world_size:
            raise ConfigError(
                f"the checkpoint is of {len(loaders)} ranks, now there are {self._rank.world_size}: "
                f"continue with torchrun --nproc-per-node so that there are as many"
            )
        self._loader.restore(loaders[self._rank.index])

    def _seed_step(self) -> None:
        """What is drawn within a step (dropout) depends on its number and rank alone: nothing to store for a resume."""
        torch.manual_seed(Stream(self._job.seed, "step", self.step, self._rank.index).integer(1 << 53))

    def _update(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        with torch.no_grad():
            self._module.logit_scale.clamp_(0, math.log(_LARGEST_LOGIT_SCALE))
        if self._average is not None:
            self._average.update_parameters(self._module)

    def _check_finite(self, loss: float, norm: float, batch: Batch) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        raise PipelineError(
            f"step {self.step + 1}: the loss is {loss}, its gradient's norm {norm} (first sample {batch.keys[0]}). "
            "The last checkpoint is kept: lower schedule.learning_rate, lengthen schedule.warmup_steps or set "
            "run.precision=float32, in another run.path"
        )


def _rows_per_rank(job: TrainJob, rank: Rank) -> int:
    parts = rank.world_size * job.schedule.accumulation
    if job.schedule.batch_size % parts:
        raise ConfigError(
            f"schedule.batch_size ({job.schedule.batch_size}) must be a multiple of ranks × accumulation ({parts})"
        )
    return job.schedule.batch_size // rank.world_size


def _moving_average(job: TrainJob, module: nn.Module) -> AveragedModel | None:
    decay = job.schedule.ema_decay
    return None if decay is None else AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))


class _Rates:
    """How fast steps are, and what part of their time is spent waiting for data: means over some 20 steps."""

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
