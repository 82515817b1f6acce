"""The money that a run takes, part by part, by the job's price list and the prices of its endpoints' tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dr_pipeline.config.job import Job
from dr_pipeline.config.planning import PriceList
from dr_pipeline.report.estimate import Estimate
from dr_pipeline.report.request_estimate import RequestEstimate
from dr_pipeline.report.traffic import Work
from dr_pipeline.report.units import in_bytes, in_money


@dataclass(frozen=True)
class BillPart:
    """One part of a bill."""

    name: str
    quantity: str
    """What is paid for, in words."""
    priced_by: str
    """The field of the job that prices it."""
    amount: float | None
    """None where it has no price."""


@dataclass(frozen=True)
class Bill:
    """What a run costs."""

    currency: str
    parts: tuple[BillPart, ...]
    total: float
    """Of the parts that have a price."""

    def lines(self) -> Iterator[str]:
        """A line for each part that has a price, and one for the total, with what is missing in it."""
        known = [part for part in self.parts if part.amount is not None]
        for part in known:
            yield f"{part.name}: {part.quantity}, {in_money(part.amount or 0, self.currency)}"
        missing = ", ".join(f"{part.name} ({part.priced_by})" for part in self.parts if part.amount is None)
        total = f"total {in_money(self.total, self.currency)}" if known else "unknown, for there are no prices"
        yield f"{total}; without a price: {missing}" if missing else total


def bill_of(job: Job, work: Work, estimate: Estimate, stored_bytes: float, requests: Sequence[RequestEstimate]) -> Bill:
    """What a run costs that stores so many bytes. All workers are paid for until the last shard is done."""
    prices = job.prices or PriceList()
    worker_hours, months = estimate.num_workers * estimate.hours, prices.stored_months
    num_writes = estimate.num_writes + estimate.num_listings
    stored = f"{in_bytes(stored_bytes)} for {months:g} month{'s' * (months != 1)}"
    priced = (
        ("workers", f"{worker_hours:,.4g} hours", "worker_hour", worker_hours),
        ("driver", f"{estimate.hours:,.4g} hours", "driver_hour", estimate.hours),
        ("stored", stored, "stored_tb_month", stored_bytes / 1e12 * months),
        ("read", in_bytes(work.input_bytes), "read_tb", work.input_bytes / 1e12),
        ("store's reads", f"{estimate.num_reads:,}", "million_reads", estimate.num_reads / 1e6),
        ("store's writes", f"{num_writes:,}", "million_writes", num_writes / 1e6),
    )
    parts = []
    for name, quantity, field, count in priced:
        price: float | None = getattr(prices, field)
        parts.append(BillPart(name, quantity, f"prices.{field}", None if price is None else price * count))
    for asked in requests:
        name = f"requests of {asked.name} for {asked.key}"
        parts.append(BillPart(name, asked.tokens, f"{asked.name}'s prices", asked.cost))
    return Bill(prices.currency, tuple(parts), total=sum(part.amount or 0 for part in parts))
