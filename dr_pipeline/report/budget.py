"""What fits a budget: the job as it is, variants of it, or fewer of its shards, each estimated anew."""

from collections.abc import Iterator
from dataclasses import dataclass

from dr_pipeline.config.job import Job
from dr_pipeline.errors import ConfigError
from dr_pipeline.report.forecast import Models, forecast
from dr_pipeline.report.traffic import Work
from dr_pipeline.report.units import in_bytes, in_money, in_time
from dr_pipeline.report.variants import Variant, in_order, variants_of

RULE = "every model stays; fewer views first, but 2; then 2 captions of each captioner; then fewer shards"


@dataclass(frozen=True)
class Alternative:
    """A variant of a job for all of its shards, or for fewer."""

    name: str
    change: str
    """The overrides to type, and in words what no override does."""
    num_shards: int
    hours: float
    stored_bytes: int
    amount: float
    """What it costs, as far as it has prices."""
    fits: bool


@dataclass(frozen=True)
class Budget:
    """What can be had for an amount."""

    amount: float
    currency: str
    alternatives: tuple[Alternative, ...]
    """The first is the job as it is."""
    recommended: Alternative | None
    """By `RULE`; None where not even a shard fits."""

    def lines(self) -> Iterator[str]:
        """A line for each alternative, and the recommendation."""
        yield f"{in_money(self.amount, self.currency)}, by this estimate:"
        rows = [
            (one.name, in_time(3600 * one.hours), in_bytes(one.stored_bytes), in_money(one.amount, self.currency))
            for one in self.alternatives
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row, one in zip(rows, self.alternatives, strict=True):
            columns = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            yield f"{'fits' if one.fits else 'too dear':8}  {columns}  {one.change}".rstrip()
        found = self.recommended
        best = ": ".join(part for part in (found.name, found.change) if part) if found else "nothing: no shard fits"
        yield f"recommended: {best}"
        yield f"the rule: {RULE}"


def check_prices(job: Job, amount: float) -> None:
    """Raise ConfigError where a budget means nothing, for the job does not say what a worker costs."""
    if job.prices is None or job.prices.worker_hour is None:
        raise ConfigError(
            f"--budget {amount:g} needs prices, and the job has no price of a worker's hour: say it, such as "
            "prices.worker_hour=3.5, and what else costs money (docs/planning.md)"
        )


def budget_of(job: Job, work: Work, models: Models, amount: float) -> Budget:
    """What of a job fits an amount, in the currency of its prices."""
    estimator = _Estimator(work, models, amount)
    alternatives = [estimator.of(variant) for variant in variants_of(job)]
    order = in_order(job)
    recommended = next((found for variant in order if (found := estimator.of(variant)).fits), None)
    recommended = recommended or estimator.of_fewer_shards(order[-1])
    for more in (estimator.of_fewer_shards(order[0]), recommended):
        if more and more not in alternatives:
            alternatives.append(more)
    return Budget(amount, job.prices.currency if job.prices else "", tuple(alternatives), recommended)


class _Estimator:
    """Estimates variants of a job for the same work, or for fewer of its shards."""

    def __init__(self, work: Work, models: Models, amount: float):
        self._work, self._models, self._amount = work, models, amount

    def of(self, variant: Variant) -> Alternative:
        """What a variant takes for all shards."""
        return self._of(variant.name, variant.change, variant.job, self._work.num_shards)

    def of_fewer_shards(self, variant: Variant) -> Alternative | None:
        """What it takes for as many of the shards as fit; None where none does."""
        fewest, most = 0, self._work.num_shards
        while fewest < most:
            middle = (fewest + most + 1) // 2
            fits = self._of("", "", variant.job, middle).fits
            fewest, most = (middle, most) if fits else (fewest, middle - 1)
        if not most:
            return None
        if most == self._work.num_shards:
            return self.of(variant)
        shards = f"{most:,} of {self._work.num_shards:,} shards"
        change = f"{variant.change}, and name {shards} in input.shards".removeprefix(", and ")
        return self._of(f"{variant.name}, {shards}", change, variant.job, most)

    def _of(self, name: str, change: str, job: Job, num_shards: int) -> Alternative:
        part = num_shards / self._work.num_shards
        num_samples = max(1, round(self._work.num_samples * part))
        found = forecast(job, Work(num_samples, num_shards, self._work.input_bytes * part), self._models)
        amount, hours = found.bill.total, found.estimate.hours
        return Alternative(name, change, num_shards, hours, found.stored_bytes, amount, amount <= self._amount)
