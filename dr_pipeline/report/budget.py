"""What fits a budget: the job as it is, variants of it, or fewer of its shards, each estimated anew."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from dr_pipeline.config.job import Job
from dr_pipeline.errors import ConfigError
from dr_pipeline.report.estimate import Work
from dr_pipeline.report.forecast import forecast
from dr_pipeline.report.sample_time import Models
from dr_pipeline.report.units import in_bytes, in_money, in_time
from dr_pipeline.words import plural

RULE = "every model stays; fewer views first, but 2; then 2 captions of each captioner; then fewer shards"
_VIEWS = (30, 20, 10, 5, 2, 1)
_FEWEST_VIEWS = 2
_CAPTIONS = (5, 2, 1)
_FEW_CAPTIONS = 2


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

    def estimated(variant: _Variant, num_shards: int = work.num_shards) -> Alternative:
        """For so many of the shards."""
        part = num_shards / work.num_shards
        of_part = Work(max(1, round(work.num_samples * part)), num_shards, work.input_bytes * part)
        found = forecast(variant.job, of_part, models)
        hours, cost = found.estimate.hours, found.bill.total
        return Alternative(variant.name, variant.change, num_shards, hours, found.stored_bytes, cost, cost <= amount)

    def of_fewer_shards(variant: _Variant) -> Alternative | None:
        """For as many of the shards as fit; None where none does."""
        numbers = range(1, work.num_shards + 1)
        most = bisect_left(numbers, True, key=lambda number: not estimated(variant, number).fits)
        if not most or most == work.num_shards:
            return estimated(variant) if most else None
        shards = f"{most:,} of {plural(work.num_shards, 'shard')}"
        change = f"{variant.change}, and name {shards} in input.shards".removeprefix(", and ")
        return estimated(_Variant(f"{variant.name}, {shards}", change, variant.job), most)

    order, alternatives = _in_order(job), [estimated(variant) for variant in _variants_of(job)]
    recommended = next((found for found in map(estimated, order) if found.fits), None) or of_fewer_shards(order[-1])
    for more in (of_fewer_shards(order[0]), recommended):
        if more and more not in alternatives:
            alternatives.append(more)
    return Budget(amount, job.prices.currency if job.prices else "", tuple(alternatives), recommended)


@dataclass(frozen=True)
class _Variant:
    """A job that differs from the one that is planned."""

    name: str
    change: str
    """The overrides to type, or what to do where no override does it; "" where nothing differs."""
    job: Job

    def also(self, name: str, change: str, job: Job) -> "_Variant":
        """This one with one more change, which `job` has."""
        if not self.change:
            return _Variant(name, change, job)
        return _Variant(f"{self.name}, {name}", f"{self.change} {change}", job)


def _variants_of(job: Job) -> list[_Variant]:
    """The job as it is, and those that differ from it by one change each."""
    as_it_is = _Variant("as it is", "", job)
    fewer = [found for most in _CAPTIONS for found in _with_captions(as_it_is, most)]
    return [as_it_is, *_with_fewer_views(as_it_is), *fewer, *_without_a_model(job)]


def _in_order(job: Job) -> list[_Variant]:
    """The job as it is, and what to try instead, in this order: every model stays, and the views become fewer, but 2;
    then the captions.

    Teachers and captions are what a student gains most by (the paper's tables 2 and 4), of these by the first two
    (sections 2.4 and 2.5). Views cost most, and DFNDR-2B has two (table 14).
    """
    order = [_Variant("as it is", "", job)]
    order += [found for found in _with_fewer_views(order[0]) if found.job.augmentation.num_views >= _FEWEST_VIEWS]
    return [*order, *_with_captions(order[-1], _FEW_CAPTIONS)]


def _with_fewer_views(variant: _Variant) -> Iterator[_Variant]:
    recipe = variant.job.augmentation
    for num_views in _VIEWS:
        if num_views < recipe.num_views:
            job = variant.job.model_copy(update={"augmentation": recipe.model_copy(update={"num_views": num_views})})
            yield variant.also(plural(num_views, "view"), f"augmentation.num_views={num_views}", job)


def _with_captions(variant: _Variant, most: int) -> Iterator[_Variant]:
    """The variant with at most so many captions of each captioner and rewriter; none where no one has more."""
    changes, fewer = [], {}
    for kind in ("captioners", "rewriters"):
        cards = getattr(variant.job, kind)
        many = [index for index, card in enumerate(cards) if card.num_captions > most]
        changes += [f"{kind}.{index}.num_captions={most}" for index in many]
        fewer[kind] = tuple(card.model_copy(update={"num_captions": min(card.num_captions, most)}) for card in cards)
    if changes:
        name = f"{plural(most, 'caption')} of each"
        yield variant.also(name, " ".join(changes), variant.job.model_copy(update=fewer))


def _without_a_model(job: Job) -> Iterator[_Variant]:
    """The job without one of several teachers, and without one of several captioners and rewriters."""
    for kind in ("teachers", "captioners", "rewriters"):
        cards = getattr(job, kind)
        for index, card in enumerate(cards if len(job.teachers if kind == "teachers" else job.writers) > 1 else ()):
            others = (*cards[:index], *cards[index + 1 :])
            name, change = f"without {kind.removesuffix('s')} {card.name}", f"take {kind}.{index} out of the job"
            yield _Variant(name, change, job.model_copy(update={kind: others}))
