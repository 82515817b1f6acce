"""What a job takes: time, bytes, requests and money. `plan` asks for it of the job, and of each alternative.

Requests are those of captioners and rewriters that work elsewhere; money is by the job's price list and their cards'.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.planning import PriceList, RequestTokens
from dr_pipeline.config.prompts import fill_in
from dr_pipeline.report.estimate import Estimate, Work, estimate, stored_bytes
from dr_pipeline.report.sample_time import Models
from dr_pipeline.report.units import in_bytes, in_money
from dr_pipeline.words import plural

_TYPICAL_ALT_TEXT = "x" * 60


@dataclass(frozen=True)
class RequestEstimate:
    """What one card's requests take over the whole run, without those that are repeated."""

    name: str
    key: str
    """Of `syn.json`: several cards may have one name."""
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """In the currency of the card's prices; None where it has none."""
    is_bound: bool
    """Whether tokens and cost are the most that may be: every text as long as the card's sampling allows."""

    @property
    def tokens(self) -> str:
        """The tokens in words."""
        most = "at most" if self.is_bound else "about"
        return f"{plural(self.prompt_tokens, 'token')} in, {most} {self.completion_tokens:,} out"

    def __str__(self) -> str:
        most = "at most" if self.is_bound else "about"
        cost = "the card has no prices" if self.cost is None else f"costs {most} {self.cost:,.2f}"
        return f"{self.name} for {self.key}: about {self.requests:,}, {self.tokens}; {cost}"


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


@dataclass(frozen=True)
class Forecast:
    """What a run takes."""

    estimate: Estimate
    stored_bytes: int
    requests: tuple[RequestEstimate, ...]
    bill: Bill


def forecast(job: Job, work: Work, models: Models) -> Forecast:
    """What the job takes for the work."""
    found, stored = estimate(job, work, models), round(stored_bytes(job, work))
    asked = [card for card in job.writers if card.name in models.by_request]
    requests = tuple(_estimate_requests(job, card, work.num_samples) for card in asked)
    return Forecast(found, stored, requests, _bill(job, work, found, stored, requests))


def _estimate_requests(job: Job, card: CaptionerCard, num_samples: int) -> RequestEstimate:
    """What a card takes for so many samples: a request for each text, as `EndpointCaptioner` asks.

    Where the job does not know the tokens, the prompt's are those of a usual alt-text in it, and of an image.
    """
    known = job.assumptions.tokens.get(card.caption_key)
    asked = fill_in(card.prompt or "", key="", alt_text=_TYPICAL_ALT_TEXT)
    image_tokens = 0 if isinstance(card, RewriterCard) else job.assumptions.image_tokens
    prompt = len(asked) * job.assumptions.tokens_per_character + image_tokens
    each = known or RequestTokens(prompt=prompt, completion=card.sampling.max_tokens)
    requests = num_samples * card.num_captions
    prompt_tokens, completion_tokens = round(requests * each.prompt), round(requests * each.completion)
    cost = None
    if card.prices:
        cost = (prompt_tokens * card.prices.prompt + completion_tokens * card.prices.completion) / 1e6
    return RequestEstimate(
        card.name, card.caption_key, requests, prompt_tokens, completion_tokens, cost, is_bound=known is None
    )


def _bill(job: Job, work: Work, found: Estimate, stored: float, requests: tuple[RequestEstimate, ...]) -> Bill:
    """What a run costs that stores so many bytes. All workers are paid for until the last shard is done."""
    prices = job.prices or PriceList()
    worker_hours, months = found.num_workers * found.hours, prices.stored_months
    num_writes = found.num_writes + found.num_listings
    kept = f"{in_bytes(stored)} for {months:g} month{'s' * (months != 1)}"
    priced = (
        ("workers", f"{worker_hours:,.4g} hours", "worker_hour", worker_hours),
        ("driver", f"{found.hours:,.4g} hours", "driver_hour", found.hours),
        ("stored", kept, "stored_tb_month", stored / 1e12 * months),
        ("read", in_bytes(work.input_bytes), "read_tb", work.input_bytes / 1e12),
        ("store's reads", f"{found.num_reads:,}", "million_reads", found.num_reads / 1e6),
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
