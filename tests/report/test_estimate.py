"""The estimate is arithmetic: each figure follows from the assumptions, and the slowest part decides."""

from dataclasses import replace
from typing import Any

import pytest

from dr_pipeline.networks.cost import Cost
from dr_pipeline.report.estimate import DRIVER_SHARDS_PER_S, Estimate, Work, added_bytes, estimate
from dr_pipeline.report.sample_time import Models
from tests.conftest import make_job

WORK = Work(num_samples=1_000_000, num_shards=1000, input_bytes=20e9)
TEACHER = Cost(1, image_flops=10**11, text_flops=10**10)
COSTS = {"one": TEACHER, "two": TEACHER, "coca": Cost(1, image_flops=2 * 10**11, token_flops=10**9)}


def estimated(work: Work = WORK, costs: dict[str, Cost | None] | None = None, **changes: Any) -> Estimate:
    recipe = {"augmentation": {"num_views": 10, "random_resized_crop": {"size": 224}}}
    assumed = {
        "gpu_tflops": 100,
        "view_ms": 1,
        "decode_ms": 2,
        "write_ms": 3,
        "caption_step_ms": 16,
        "caption_steps": 5,
    }
    settings: dict[str, Any] = {
        **recipe,
        "workers": {"max": 10, "cpus": 4, "caption_batch": 4, "render": "host"},
        "assumptions": assumed,
    }
    for name, change in changes.items():
        settings[name] = {**settings.get(name, {}), **change} if isinstance(change, dict) else change
    return estimate(make_job(**settings), work, Models(costs or COSTS))


def test_a_device_that_is_the_slowest() -> None:
    found = estimated()
    embedding_ms = 2 * (10 * 1.0 + 3 * 0.1)  # two teachers, ten views, a caption and two synthetic ones
    caption_ms = 2.0 + 5 * 16 / 4  # the image, and five steps for the four images of a batch
    assert found.caption_ms == pytest.approx(caption_ms)
    assert found.device_ms == found.sample_ms == pytest.approx(embedding_ms + caption_ms)
    assert found.cpu_ms == pytest.approx(2 + 10 * 1 + 3 * 13 * 8 / (36 * 1536))
    assert found.cores_to_keep_up == pytest.approx(found.cpu_ms / found.device_ms)
    assert found.held_by == "its device"
    assert found.worker_hours == pytest.approx(1e6 * found.device_ms / 3.6e6)
    assert found.hours == pytest.approx(found.worker_hours / 10)
    assert found.read_bytes_per_s == pytest.approx(10 * 20_000 / (found.sample_ms / 1000))
    assert found.shards_per_s == pytest.approx(10 / found.sample_ms)
    assert found.reads_per_s == pytest.approx(found.shards_per_s * (3 + 1))  # 20 MB in blocks of 8 MiB, and its size
    assert found.num_listings == 2
    assert found.not_counted == ()


def test_cores_and_network_can_be_slower() -> None:
    cores = estimated(assumptions={"view_ms": 30})
    assert (cores.held_by, cores.sample_ms) == ("its cores", pytest.approx(cores.cpu_ms / 4))
    network = estimated(assumptions={"network_gbit_s": 0.001})
    written = 20_000 + added_bytes(make_job(augmentation={"num_views": 10}))
    assert (network.held_by, network.sample_ms) == ("its network", pytest.approx(written * 8 / 1e6 * 1000))


def test_without_a_gpu_the_models_share_the_cores() -> None:
    found = estimated(workers={"gpus": 0}, assumptions={"core_tflops": 0.1})
    assert found.caption_ms == pytest.approx((2e11 + 5 * 2 * 1e9) / 0.4e9)
    assert found.sample_ms == pytest.approx(found.device_ms + found.cpu_ms / 4)
    assert found.held_by == "its cores"


def test_half_a_gpu_takes_twice_the_time() -> None:
    whole, half = (estimated(workers={"gpus": gpus}) for gpus in (1, 0.5))
    embedding_ms = whole.device_ms - whole.caption_ms
    assert half.device_ms - half.caption_ms == pytest.approx(2 * embedding_ms)


def test_a_view_costs_by_its_pixels() -> None:
    small, large = (
        estimated(augmentation={"num_views": 10, "random_resized_crop": {"size": size}}).cpu_ms for size in (224, 448)
    )
    assert large - small == pytest.approx(10 * 3)


def test_views_cost_the_device_or_the_cores() -> None:
    device, host = (
        estimated(workers={"render": place}, assumptions={"gpu_view_ms": 0.1}) for place in ("auto", "host")
    )
    assert host.cpu_ms - device.cpu_ms == pytest.approx(10 * 1)
    assert device.device_ms - host.device_ms == pytest.approx(10 * 0.1)
    without = [estimated(workers={"render": place, "gpus": 0}) for place in ("auto", "host")]
    assert without[0] == without[1]


def test_the_last_round_of_shards_is_a_whole_one() -> None:
    uneven = estimated(replace(WORK, num_shards=1001))
    assert uneven.hours == pytest.approx(uneven.worker_hours / 1001 * 101)
    few = estimated(replace(WORK, num_shards=3))
    assert few.num_workers == 3


def test_what_workers_share_is_short_first() -> None:
    assert (estimated().first_limit, estimated().first_limit_workers) == ("the number of shards", 1000)
    many = replace(WORK, num_shards=10**6)
    store = estimated(many)
    assert store.first_limit == "the store's requests"
    assert store.first_limit_workers == int(3500 * store.sample_ms / 1000 / 5)  # the upload, its ends, table, report
    driver = estimated(many, assumptions={"store_requests_s": 1e9})
    assert driver.first_limit == "the driver"
    assert driver.first_limit_workers == int(DRIVER_SHARDS_PER_S * driver.sample_ms / 1000)


def test_scorers_cost_the_device_and_a_second_decoding() -> None:
    plain = estimated()
    scored = estimated(costs={**COSTS, "dfn": TEACHER}, scorers=[{"name": "dfn", "use": "lab:Dfn"}])
    assert scored.device_ms == pytest.approx(plain.device_ms + 1.0 + 0.1)
    assert scored.cpu_ms == pytest.approx(plain.cpu_ms + 2)
    assert scored.caption_ms == plain.caption_ms


def test_a_model_of_unknown_cost_is_named() -> None:
    found = estimated(costs={"one": TEACHER, "two": None})
    assert found.not_counted == ("coca", "two")
    assert found.device_ms == pytest.approx(10.3)


def test_of_averaged_classifiers_the_kept_probabilities_count_and_mixed_views_twice() -> None:
    classifiers = [{"name": name, "use": "lab:C", "dim": 1000, "output": "probabilities"} for name in ("one", "two")]
    changes: dict[str, Any] = {"captioners": [], "teachers": classifiers, "input": {"caption": "none"}}
    whole, kept = (make_job(**changes, output={"top_k": top_k}) for top_k in (None, 10))
    assert (whole.num_values, kept.num_values) == (4 * 2000, 4 * 10 * 3)
    mixing = {"mixup": {"p": 0.5}, "cutmix": {"p": 0.5}}
    plain = estimated(**changes, workers={"render": "device"}).device_ms
    mixed = estimated(**changes, augmentation=mixing, workers={"render": "auto"})
    assert mixed.device_ms < plain
    assert mixed.cpu_ms == pytest.approx(estimated(**changes).cpu_ms + 0.75 * 10 * 1)


def test_times_that_were_measured_stand_for_operations() -> None:
    times = {"one": {"image_ms": 2, "text_ms": 1}, "coca": {"sample_ms": 3, "text_ms": 4}}
    found = estimated(costs={"two": TEACHER}, assumptions={"models": times})
    assert found.caption_ms == pytest.approx(3 + 2 * 4)
    assert found.device_ms == pytest.approx(found.caption_ms + 10 * 2 + 3 * 1 + 10 * 1.0 + 3 * 0.1)
    assert found.not_counted == ()
    half = estimated(costs={"two": TEACHER}, assumptions={"models": times}, workers={"gpus": 0.5})
    assert half.caption_ms == pytest.approx(2 * found.caption_ms)


def test_overhead_and_start_are_in_the_hours() -> None:
    plain, slow = estimated(), estimated(assumptions={"overhead": 1.5, "start_s": 60})
    assert slow.sample_ms == pytest.approx(1.5 * plain.sample_ms)
    assert slow.hours == pytest.approx(1.5 * plain.hours + 60 / 3600)
    assert slow.worker_hours == pytest.approx(1.5 * plain.worker_hours + 10 * 60 / 3600)


def test_an_endpoint_takes_as_long_as_its_requests_at_once_allow() -> None:
    card = {"name": "vlm", "use": "m:C", "num_captions": 3}
    job = make_job(
        captioners=[{**card, "tag": tag} for tag in "ab"], assumptions={"models": {"vlm": {"text_ms": 2000}}}
    )
    found = estimate(job, WORK, Models(COSTS, {"vlm": 32}))
    assert found.request_ms == pytest.approx(2 * 3 * 2000 / 32)
    assert (found.held_by, found.sample_ms) == ("its endpoints", found.request_ms)
    assert found.caption_ms == 0
    assert found.not_timed == ()
    unknown = estimate(make_job(captioners=[card]), WORK, Models(COSTS, {"vlm": 32}))
    assert (unknown.request_ms, unknown.not_timed) == (0, ("vlm",))
