"""Requests and money are arithmetic: texts, tokens, hours and bytes by the job's assumptions and its price lists."""

from typing import Any

import pytest
from pydantic import ValidationError

from dr_pipeline.networks.cost import Cost
from dr_pipeline.report.estimate import Work
from dr_pipeline.report.forecast import Bill, Forecast, forecast
from dr_pipeline.report.sample_time import Models
from tests.conftest import make_job

WORK = Work(num_samples=1_000_000, num_shards=100, input_bytes=2e12)
ENDPOINT = {"name": "vlm", "use": "dr_pipeline.models.endpoint:EndpointCaptioner", "prompt": "What?"}
MODELS = Models({name: Cost(1, image_flops=10**11, text_flops=10**10) for name in ("one", "two", "coca")}, {"vlm": 64})
EVERY_PRICE = {
    "worker_hour": 2,
    "driver_hour": 0.5,
    "stored_tb_month": 20,
    "stored_months": 6,
    "read_tb": 90,
    "million_reads": 0.4,
    "million_writes": 5,
}


def forecast_of(work: Work = WORK, **changes: Any) -> Forecast:
    return forecast(make_job(**{"workers": {"max": 30}, **changes}), work, MODELS)


def amounts(bill: Bill) -> dict[str, float | None]:
    return {part.name: part.amount for part in bill.parts}


def test_requests_tokens_and_cost_follow_from_the_cards() -> None:
    sampling = {"max_tokens": 40}
    seeing: dict[str, Any] = {
        "name": "vlm",
        "use": ENDPOINT["use"],
        "tag": "seen",
        "num_captions": 3,
        "sampling": sampling,
    }
    blind = {"name": "llm", "use": ENDPOINT["use"], "tag": "told", "num_captions": 2, "prompt": "Reword: {alt_text}"}
    job = make_job(
        captioners=[{**seeing, "prompt": "x" * 20, "prices": {"prompt": 2, "completion": 8}}],
        rewriters=[{**blind, "sampling": sampling}],
        assumptions={"image_tokens": 300, "tokens_per_character": 0.2},
    )
    vlm, llm = forecast(job, Work(1000, 1, 1e6), Models(by_request={"vlm": 64, "llm": 64})).requests
    assert (vlm.requests, vlm.prompt_tokens, vlm.completion_tokens) == (3000, 3000 * (300 + 4), 3000 * 40)
    assert vlm.cost == pytest.approx((3000 * 304 * 2 + 3000 * 40 * 8) / 1e6)
    assert (llm.requests, llm.prompt_tokens, llm.completion_tokens) == (2000, round(2000 * 68 * 0.2), 2000 * 40)
    assert str(vlm) == "vlm for syn_text_seen: about 3,000, 912,000 tokens in, at most 120,000 out; costs at most 2.78"
    assert "the card has no prices" in str(llm)


def test_a_model_elsewhere_takes_no_time_of_the_device_and_is_not_called_unknown() -> None:
    job, work = make_job(captioners=[ENDPOINT]), Work(1000, 1, 1e6)
    found = forecast(job, work, Models(by_request={"vlm": 64}))
    assert found.estimate.caption_ms == 0
    assert found.estimate.not_counted == ("one", "two")
    assert forecast(job, work, Models()).requests == ()


def test_each_part_is_what_is_paid_for_times_its_price() -> None:
    found = forecast_of(prices={"currency": "EUR", **EVERY_PRICE})
    took = found.estimate
    assert amounts(found.bill) == pytest.approx(
        {
            "workers": 2 * 30 * took.hours,
            "driver": 0.5 * took.hours,
            "stored": 20 * 6 * found.stored_bytes / 1e12,
            "read": 90 * 2,
            "store's reads": 0.4 * took.num_reads / 1e6,
            "store's writes": 5 * (took.num_writes + took.num_listings) / 1e6,
        }
    )
    assert took.hours * 30 > took.worker_hours, "workers are paid for while the last ones finish"
    assert found.bill.total == pytest.approx(sum(amounts(found.bill).values()))
    *parts, total = found.bill.lines()
    assert len(parts) == 6
    assert total == f"total {found.bill.total:,.2f} EUR"


def test_what_has_no_price_is_named_and_not_counted() -> None:
    found = forecast_of(prices={"stored_tb_month": 20, "read_tb": 0})
    assert found.bill.total == pytest.approx(20 * found.stored_bytes / 1e12)
    stored, read, total = found.bill.lines()
    assert stored.endswith(f" for 1 month, {found.bill.total:.2f} USD")
    assert read == "read: 2 TB, 0.00 USD"
    assert "; without a price: workers (prices.worker_hour), driver (prices.driver_hour), store's reads" in total
    (unknown,) = forecast_of().bill.lines()
    assert unknown.startswith("unknown, for there are no prices; without a price: workers (prices.worker_hour), ")


def test_tokens_of_endpoints_are_in_the_total_by_their_cards_prices() -> None:
    priced = {**ENDPOINT, "tag": "long", "prices": {"prompt": 1, "completion": 4}}
    found = forecast_of(captioners=[priced, {**ENDPOINT, "tag": "short"}], prices={"worker_hour": 1})
    long, _ = found.requests
    workers = amounts(found.bill)["workers"]
    assert workers is not None
    assert long.cost is not None
    assert found.bill.total == pytest.approx(workers + long.cost)
    assert amounts(found.bill)["requests of vlm for syn_text_short"] is None
    assert [*found.bill.lines()][-1].endswith("requests of vlm for syn_text_short (vlm's prices)")


def test_shards_without_their_images_are_cheaper_to_keep() -> None:
    whole, bare = (forecast_of(output={"images": images}).stored_bytes for images in ("copy", "omit"))
    assert whole - bare == pytest.approx(2e12)


def test_a_price_does_not_change_what_a_job_makes() -> None:
    plain, priced = make_job(), make_job(prices=EVERY_PRICE, assumptions={"models": {"one": {"image_ms": 3}}})
    assert priced.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize(
    "prices",
    [{"worker_hour": -1}, {"worker_hour": "inf"}, {"currency": "US dollars"}, {"stored_months": 0}, {"gpu_hour": 2}],
)
def test_a_price_list_is_strict(prices: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(prices))):
        make_job(prices=prices)
