"""What requests take is arithmetic: texts, tokens by the job's assumptions, and the card's prices."""

from typing import Any

import pytest

from dr_pipeline.report.estimate import estimate
from dr_pipeline.report.request_estimate import estimate_requests
from dr_pipeline.report.traffic import Work
from tests.conftest import make_job

USE = "dr_pipeline.models.endpoint:EndpointCaptioner"


def test_requests_tokens_and_cost_follow_from_the_cards() -> None:
    sampling = {"max_tokens": 40}
    seeing: dict[str, Any] = {"name": "vlm", "use": USE, "tag": "seen", "num_captions": 3, "sampling": sampling}
    blind = {"name": "llm", "use": USE, "tag": "told", "num_captions": 2, "prompt": "Reword: {alt_text}"}
    job = make_job(
        captioners=[{**seeing, "prompt": "x" * 20, "prices": {"prompt": 2, "completion": 8}}],
        rewriters=[{**blind, "sampling": sampling}],
        assumptions={"image_tokens": 300, "tokens_per_character": 0.2},
    )
    vlm, llm = estimate_requests(job, 1000, {"vlm": 64, "llm": 64})
    assert (vlm.requests, vlm.prompt_tokens, vlm.completion_tokens) == (3000, 3000 * (300 + 4), 3000 * 40)
    assert vlm.cost == pytest.approx((3000 * 304 * 2 + 3000 * 40 * 8) / 1e6)
    assert (llm.requests, llm.prompt_tokens, llm.completion_tokens) == (2000, round(2000 * 68 * 0.2), 2000 * 40)
    assert str(vlm) == "vlm for syn_text_seen: about 3,000, 912,000 tokens in, at most 120,000 out; costs at most 2.78"
    assert "the card has no prices" in str(llm)


def test_a_model_elsewhere_takes_no_time_of_the_device_and_is_not_called_unknown() -> None:
    job = make_job(captioners=[{"name": "vlm", "use": USE, "prompt": "What?"}])
    found = estimate(job, Work(1000, 1, 1e6), {}, by_request={"vlm": 64})
    assert found.caption_ms == 0
    assert found.not_counted == ("one", "two")
    assert estimate_requests(job, 1000, {}) == ()
