"""An estimate of what captioners and rewriters take that are asked by request: requests, tokens, and their cost."""

from collections.abc import Collection
from dataclasses import dataclass

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.prompts import fill_in

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
    """At most: every text is as long as the card's sampling allows."""
    cost: float | None
    """At most, in the currency of the card's prices; None where it has none."""

    def __str__(self) -> str:
        tokens = f"{self.prompt_tokens:,} tokens in, at most {self.completion_tokens:,} out"
        cost = "the card has no prices" if self.cost is None else f"costs at most {self.cost:,.2f}"
        return f"{self.name} for {self.key}: about {self.requests:,}, {tokens}; {cost}"


def estimate_requests(job: Job, num_samples: int, by_request: Collection[str]) -> tuple[RequestEstimate, ...]:
    """What the cards of these names take for so many samples: a request for each text, as `EndpointCaptioner` asks."""
    return tuple(_estimate(job, card, num_samples) for card in job.writers if card.name in by_request)


def _estimate(job: Job, card: CaptionerCard, num_samples: int) -> RequestEstimate:
    asked = fill_in(card.prompt or "", key="", alt_text=_TYPICAL_ALT_TEXT)
    tokens = len(asked) * job.assumptions.tokens_per_character
    if not isinstance(card, RewriterCard):
        tokens += job.assumptions.image_tokens
    requests = num_samples * card.num_captions
    prompt_tokens, completion_tokens = round(requests * tokens), requests * card.sampling.max_tokens
    cost = None
    if card.prices:
        cost = (prompt_tokens * card.prices.prompt + completion_tokens * card.prices.completion) / 1e6
    return RequestEstimate(card.name, card.caption_key, requests, prompt_tokens, completion_tokens, cost)
