"""What fits a budget: each alternative is estimated anew, and the first that fits in a plain order is recommended."""

from typing import Any

import pytest

from dr_pipeline.config.job import Job
from dr_pipeline.errors import ConfigError
from dr_pipeline.networks.cost import Cost
from dr_pipeline.report.budget import Alternative, Budget, budget_of, check_prices
from dr_pipeline.report.estimate import Work
from dr_pipeline.report.forecast import forecast
from dr_pipeline.report.sample_time import Models
from tests.conftest import make_job

WORK = Work(num_samples=1_000_000, num_shards=100, input_bytes=2e11)
CLIP = Cost(1, image_flops=10**11, text_flops=10**10)
COCA = Cost(1, image_flops=10**11, token_flops=10**9)
MODELS = Models({"one": CLIP, "two": CLIP, "long": COCA, "short": COCA})
CAPTIONERS = [
    {"name": "long", "use": "lab:Coca", "tag": "long", "num_captions": 5},
    {"name": "short", "use": "lab:Coca", "tag": "short", "num_captions": 1},
]


def priced(**changes: Any) -> Job:
    settings: dict[str, Any] = {
        "augmentation": {"num_views": 30},
        "captioners": CAPTIONERS,
        "prices": {"worker_hour": 1000},
        "workers": {"max": 10, "gpus": 0, "cpus": 2},
    }
    return make_job(**{**settings, **changes})


def budget(amount: float, job: Job | None = None) -> Budget:
    return budget_of(job or priced(), WORK, MODELS, amount)


def by_name(found: Budget) -> dict[str, Alternative]:
    return {one.name: one for one in found.alternatives}


def cost_of(name: str) -> float:
    return by_name(budget(1e12))[name].amount


def recommended(amount: float, job: Job | None = None) -> Alternative:
    found = budget(amount, job).recommended
    assert found is not None
    assert found.fits
    assert found.amount <= amount
    return found


def test_the_alternatives_are_the_job_with_less_of_something() -> None:
    found = by_name(budget(1e12))
    assert list(found) == [
        "as it is", "20 views", "10 views", "5 views", "2 views", "1 view", "2 captions of each", "1 caption of each",
        "without teacher one", "without teacher two", "without captioner long", "without captioner short",
    ]  # fmt: skip
    assert found["2 captions of each"].change == "captioners.0.num_captions=2"
    assert found["without captioner short"].change == "take captioners.1 out of the job"
    whole = found["as it is"]
    assert all(one.amount < whole.amount and one.hours < whole.hours for one in found.values() if one is not whole)
    views = [found[f"{number} view{'s' * (number > 1)}"] for number in (20, 10, 5, 2, 1)]
    assert sorted(views, key=lambda one: (-one.amount, -one.stored_bytes)) == views
    assert "without teacher one" not in by_name(budget(1e12, priced(teachers=[{"name": "one", "use": "lab:C"}])))


def test_an_alternative_costs_what_the_job_with_its_overrides_costs() -> None:
    for name, changes in (
        ("10 views", {"augmentation": {"num_views": 10}}),
        ("1 caption of each", {"captioners": [{**card, "num_captions": 1} for card in CAPTIONERS]}),
        ("without captioner long", {"captioners": CAPTIONERS[1:]}),
    ):
        assert cost_of(name) == pytest.approx(forecast(priced(**changes), WORK, MODELS).bill.total)


def test_views_go_first_then_captions_then_shards_and_no_model() -> None:
    assert recommended(cost_of("as it is")).name == "as it is"
    assert recommended(cost_of("as it is") * 0.999).name == "20 views"
    assert recommended(cost_of("5 views")).change == "augmentation.num_views=5"
    last = recommended(cost_of("2 views") * 0.999)
    assert last.change == "augmentation.num_views=2 captioners.0.num_captions=2"
    fewer = recommended(last.amount * 0.55)
    assert (fewer.num_shards, fewer.name) == (50, "2 views, 2 captions of each, 50 of 100 shards")
    assert fewer.change == f"{last.change}, and name 50 of 100 shards in input.shards"
    few = priced(augmentation={"num_views": 2}, captioners=CAPTIONERS[1:])
    amount = forecast(few, WORK, MODELS).bill.total
    assert recommended(amount / 3, few).change == "name 30 of 100 shards in input.shards"


def test_the_shards_that_fit_are_as_many_as_can_be() -> None:
    amount = cost_of("as it is") / 2
    found = next(one for name, one in by_name(budget(amount)).items() if name.startswith("as it is, "))
    assert found.num_shards == 50
    more = Work(WORK.num_samples * 51 // 100, 51, WORK.input_bytes * 0.51)
    assert found.amount <= amount < forecast(priced(), more, MODELS).bill.total


def test_where_nothing_fits_it_says_so() -> None:
    found = budget(1e-9)
    assert found.recommended is None
    assert not any(one.fits for one in found.alternatives)
    assert "recommended: nothing: no shard fits" in found.lines()


def test_it_is_a_table_that_a_person_reads() -> None:
    first, as_it_is, *_, best, rule = budget(cost_of("10 views")).lines()
    assert first.endswith("USD, by this estimate:")
    assert as_it_is.startswith("too dear  as it is ")
    assert best == "recommended: 10 views: augmentation.num_views=10"
    assert rule.startswith("the rule: every model stays")


def test_storage_and_tokens_count_too() -> None:
    stored = priced(prices={"worker_hour": 0, "stored_tb_month": 1000})
    found = by_name(budget(1e12, stored))
    assert found["as it is"].amount == pytest.approx(1000 * found["as it is"].stored_bytes / 1e12)
    assert found["10 views"].amount < found["as it is"].amount


@pytest.mark.parametrize("prices", [None, {"stored_tb_month": 23}])
def test_without_the_price_of_a_worker_it_means_nothing(prices: dict[str, Any] | None) -> None:
    with pytest.raises(ConfigError, match=r"--budget 5000 needs prices, .* such as prices.worker_hour=3.5"):
        check_prices(priced(prices=prices), 5000)
