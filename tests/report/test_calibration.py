"""A calibration in words: what was measured beside what was assumed, and what to be careful about."""

from dataclasses import replace

import yaml

from dr_pipeline.report.preview import Calibration, Measured

QUIET = Calibration(
    shard="00/1.tar",
    device="CPU, 2 threads, float32",
    num_samples=40,
    num_skipped=0,
    seconds=31.4,
    load=0.1,
    figures=(Measured("samples/s of a worker", 12.5, 36.02), Measured("mean, ms a sample", 3, None)),
    assumptions={"models": {"mean": {"image_ms": 0.3}}, "decode_ms": 2.25},
    usage={},
)


def test_figures_stand_beside_what_was_assumed() -> None:
    assert [*QUIET.lines()] == [
        "40 samples of 00/1.tar on CPU, 2 threads, float32, in 31 s",
        "samples/s of a worker  12.5     assumed 36.02",
        "mean, ms a sample      3        assumed unknown",
    ]
    assert yaml.safe_load(QUIET.as_yaml()) == {"assumptions": QUIET.assumptions}


def test_what_makes_figures_doubtful_or_costs_money_is_said() -> None:
    used = {"requests": 20.0, "retries": 1.0, "failures": 0.0, "prompt_tokens": 2000.0, "completion_tokens": 140.0}
    lines = [*replace(QUIET, num_skipped=3, load=4.25, usage={"syn_text": {**used, "cost": 0.5}}).lines()]
    assert lines[1] == "3 of them were skipped"
    assert lines[2] == "others kept this machine busy, 4.2 tasks a core: measure again when it is idle"
    assert lines[-1].startswith("asked of endpoints for syn_text: 20 requests, 1 retries")
