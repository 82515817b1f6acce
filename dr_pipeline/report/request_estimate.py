"""An estimate of what captioners and rewriters take that are asked by request: requests, tokens, and their cost."""

from collections.abc import Collection
from dataclasses import dataclass

from dr_pipeline.config.cards import CaptionerCard, RewriterCard
from dr_pipeline.config.job import Job
from dr_pipeline.config.planning import RequestTokens
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
    cost: float | None
    """In the currency of the card's prices; None where it has none."""
    is_bound: bool
    """Whether tokens and cost are the most that may be: every text as long as the card's sampling allows."""

    @property
    def tokens(self) -> str:
        """The tokens in words."""
        return f"{self.prompt_tokens:,} tokens in, {self._how} {self.completion_tokens:,} out"

    @property
    def _how(self) -> str:
        return "at most" if self.is_bound else "about"

    def __str__(self) -> str:
        cost = "the card has no prices" if self.cost is None else f"costs {self._how} {self.cost:,.2f}"
        return f"{self.name} for {self.key}: about {self.requests:,}, {self.tokens}; {cost}"


def estimate_requests(job: Job, num_samples: int, by_request: Collection[str]) -> tuple[RequestEstimate, ...]:
    """What the cards of these names take for so many samples: a request for each text, as `EndpointCaptioner` asks."""
    return tuple(_estimate(job, card, num_samples) for card in job.writers if card.name in by_request)


def _estimate(job: Job, card: CaptionerCard, num_samples: int) -> RequestEstimate:
    requests, known = num_samples * card.num_captions, job.assumptions.tokens.get(card.caption_key)
    each = known or RequestTokens(prompt=_prompt_tokens(job, card), completion=card.sampling.max_tokens)
    prompt_tokens, completion_tokens = round(requests * each.prompt), round(requests * each.completion)
    cost = None
    if card.prices:
        cost = (prompt_tokens * card.prices.prompt + completion_tokens * card.prices.completion) / 1e6
    bounds = known is None
    return RequestEstimate(card.name, card.caption_key, requests, prompt_tokens, completion_tokens, cost, bounds)


def _prompt_tokens(job: Job, card: CaptionerCard) -> float:
    """By the length of the prompt with a usual alt-text in it, and by what an image has."""
    asked = fill_in(card.prompt or "", key="", alt_text=_TYPICAL_ALT_TEXT)
    image_tokens = 0 if isinstance(card, RewriterCard) else job.assumptions.image_tokens
    return len(asked) * job.assumptions.tokens_per_character + image_tokens
