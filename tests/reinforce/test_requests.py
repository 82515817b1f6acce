"""Captions of an endpoint in whole jobs, with the demo's teachers: a real server answers, late, badly or not at all."""

import asyncio
import io
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dr_pipeline.config.job import Job
from dr_pipeline.dataset.plan import make_plan
from dr_pipeline.dataset.reports import ShardReport
from dr_pipeline.errors import ModelError
from dr_pipeline.reinforce.worker import Worker
from dr_pipeline.report.inspect import inspect
from dr_pipeline.runners.run import run
from dr_pipeline.storage import Storage
from dr_pipeline.verification.recompute import recompute
from dr_pipeline.verification.verify import verify
from dr_pipeline.views.seeding import Stream
from tests.chat_server import (
    Answer,
    Body,
    ChatServer,
    always,
    chat_server,
    completion,
    hang,
    image_of,
    in_turn,
    prompt_of,
    said,
)
from tests.demo_job import Silent, demo_job, digests, make_scenes
from tests.ports import free_port
from tests.tars import group, read_members, read_reinforced, stored
from tests.waiting import wait_until

KEY = "syn_text_vlm"
ALT_TEXT = "Alt-text: "


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes"), num_shards=2, samples_per_shard=6)


@pytest.fixture(scope="module")
def served() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def server(served: ChatServer) -> ChatServer:
    wait_until(lambda: not served.in_flight)
    served.bodies, served.headers, served.answer, served.most_in_flight = [], [], None, 0
    return served


def endpoint_job(
    server: ChatServer,
    scenes: Path,
    output: Path,
    *overrides: str,
    connection: dict[str, Any] | None = None,
    **card: Any,
) -> Job:
    """The demo's job with an endpoint for a captioner, and one view of each image."""
    captioner = {
        "name": "vlm",
        "use": "dr_pipeline.models.endpoint:EndpointCaptioner",
        "options": {"model": "m"},
        "connection": {"base_url": server.base_url, "max_in_flight": 5, "backoff_s": 0.001, **(connection or {})},
        "tag": "vlm",
        "prompt": f"{ALT_TEXT}{{alt_text}}",
        "num_captions": 2,
        **card,
    }
    return demo_job(scenes, output, f"captioners={json.dumps([captioner])}", "augmentation.num_views=1", *overrides)


def reports_of(job: Job) -> list[ShardReport]:
    observer = Silent()
    run(job, observer)
    return observer.reports


def captions_in(output: Path) -> dict[str, list[str]]:
    """By sample key."""
    return {key: sample.synthetic[KEY] for tar in output.rglob("*.tar") for key, sample in read_reinforced(tar).items()}


def for_alt_texts(chosen: set[str], answer: Answer) -> Answer:
    """This answer to requests with one of these alt-texts in them, the usual one to others."""

    async def respond(server: ChatServer, body: Body) -> web.StreamResponse:
        is_chosen = prompt_of(body).removeprefix(ALT_TEXT) in chosen
        return await (answer if is_chosen else said)(server, body)

    return respond


def alt_texts_of(scenes: Path) -> dict[str, str]:
    """By sample key, in the order of the shards."""
    tars = [tar.read_bytes() for tar in sorted(scenes.glob("*.tar"))]
    return {key: fields["txt"].decode() for tar in tars for key, fields in group(read_members(io.BytesIO(tar)))}


async def late(server: ChatServer, body: Body) -> web.StreamResponse:
    """The usual answer, after a while of its own; about a sample none before five are in flight."""
    alt_text = prompt_of(body).partition(ALT_TEXT)[2]
    while server.most_in_flight < 5 and alt_text not in ("", "a blank image"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(random.Random(body["seed"] + server.most_in_flight).uniform(0, 0.03))
    return await said(server, body)


def test_captions_of_two_shards_are_written_at_once_and_depend_on_their_seeds_alone(
    server: ChatServer, scenes: Path, tmp_path: Path
) -> None:
    server.answer = late
    prices = {"prompt": 2.0, "completion": 10.0}
    reports = reports_of(endpoint_job(server, scenes, tmp_path / "first", prices=prices))
    assert [report.status for report in reports] == ["done", "done"]
    assert server.most_in_flight == 5
    alone = reports_of(endpoint_job(server, scenes, tmp_path / "alone", connection={"max_in_flight": 1}))
    assert [report.status for report in alone] == ["done", "done"]
    assert digests(tmp_path / "first") == digests(tmp_path / "alone")
    captions, alt_texts = captions_in(tmp_path / "first"), alt_texts_of(scenes)
    assert captions.keys() == alt_texts.keys()
    for key, texts in captions.items():
        seeds = [Stream(0, "caption", key, KEY, index).integer(2**31) for index in range(2)]
        assert [text.rpartition(" of ")[0] for text in texts] == [
            f"{ALT_TEXT}{alt_texts[key]}, seen as {seed}" for seed in seeds
        ]
    assert [*inspect(str(tmp_path / "first"), Storage(), 0).lines][1].endswith(
        f"{KEY}: 12 requests, 1,200 + 84 tokens, cost 0.00"
    )
    for report in reports:
        assert report.usage == {
            KEY: {
                "requests": 12,
                "retries": 0,
                "failures": 0,
                "prompt_tokens": 1200,
                "completion_tokens": 84,
                "cost": 0.00324,
            }
        }
        assert report.captions == {KEY: {"drawn": 12}}
    assert verify(str(tmp_path / "first"), Storage()).problems == []


def test_a_shard_s_requests_do_not_wait_for_the_last_answer_of_the_shard_before(
    server: ChatServer, scenes: Path, tmp_path: Path
) -> None:
    alt_texts = [*alt_texts_of(scenes).values()]
    of_second, has_begun = {*alt_texts[6:]}, asyncio.Event()

    async def respond(server: ChatServer, body: Body) -> web.StreamResponse:
        asked = prompt_of(body).removeprefix(ALT_TEXT)
        if asked in of_second:
            has_begun.set()
        elif asked == alt_texts[5]:
            await has_begun.wait()
        return await said(server, body)

    server.answer = respond
    assert [report.status for report in reports_of(endpoint_job(server, scenes, tmp_path))] == ["done", "done"]
    assert has_begun.is_set()


def test_where_an_endpoint_is_and_how_it_is_asked_is_no_part_of_the_job_s_identity(
    server: ChatServer, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", "a-key-that-is-long")
    job = endpoint_job(server, scenes, tmp_path, connection={"api_key": "${env:ENDPOINT_KEY}"})
    here = reports_of(job)
    assert server.headers[0]["Authorization"] == "Bearer a-key-that-is-long"
    elsewhere = endpoint_job(
        server, scenes, tmp_path, connection={"base_url": "http://elsewhere/v1"}, on_failure="fail", prices=None
    )
    assert make_plan(elsewhere).todo == ()
    assert here[0].fingerprint == make_plan(elsewhere).job.fingerprint()
    for change in ({"options": {"model": "other"}}, {"prompt": "Other."}, {"sampling": {"top_p": 0.5}}):
        assert len(make_plan(endpoint_job(server, scenes, tmp_path, **change)).todo) == 2
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".json", ".parquet", ".md")]
    for secret in (b"a-key-that-is-long", server.base_url.encode()):
        assert not [data for data in written if secret in data]


def test_a_sample_whose_request_fails_is_skipped_and_counted(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    (poor, alt_text), *_ = alt_texts_of(scenes).items()
    server.answer = for_alt_texts({alt_text}, always(completion(None)))
    first, second = sorted(reports_of(endpoint_job(server, scenes, tmp_path)), key=lambda report: report.name)
    assert (first.status, first.skipped, second.skipped) == ("done", {"caption request failed": 1}, {})
    assert captions_in(tmp_path).keys() == alt_texts_of(scenes).keys() - {poor}
    assert first.usage[KEY]["failures"] == 1
    assert verify(str(tmp_path), Storage()).problems == []


def test_too_many_failed_samples_fail_the_shard(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    server.answer = for_alt_texts({*alt_texts_of(scenes).values()}, always("<html>"))
    report, _ = reports_of(endpoint_job(server, scenes, tmp_path))
    assert "6 of 6 samples skipped" in report.error
    assert "caption request failed (6)" in report.error
    assert "vlm: http://127.0.0.1" in report.error
    assert "the answer is not JSON: <html>" in report.error
    assert report.usage[KEY]["failures"] == 6


def test_a_failed_request_fails_the_shard_where_the_card_says_so(
    server: ChatServer, scenes: Path, tmp_path: Path
) -> None:
    """Its other requests, which would never end, are cancelled."""
    (poor, alt_text), *others = alt_texts_of(scenes).items()
    six = {text for _, text in others[:5]}

    async def respond(server: ChatServer, body: Body) -> web.StreamResponse:
        asked = prompt_of(body).removeprefix(ALT_TEXT)
        return await (always("no", 400) if asked == alt_text else hang if asked in six else said)(server, body)

    server.answer = respond
    job = endpoint_job(server, scenes, tmp_path, on_failure="fail")
    first, second = sorted(reports_of(job), key=lambda report: report.name)
    assert first.error == (
        f"captioner vlm: caption request failed: vlm: {server.base_url}/chat/completions: HTTP 400: no (sample {poor})"
    )
    assert second.status == "done"
    wait_until(lambda: not server.in_flight)


BROKEN_TEACHER = """
import time
import torch
from dr_pipeline.models.protocol import TeacherSpec

class Broken:
    def __init__(self, device):
        self.spec = TeacherSpec(dim=2)

    def encode_texts(self, texts):
        if any("seen as" in text for text in texts):
            time.sleep(0.2)  # until the next sample's answer is waited for
            raise RuntimeError("no more")
        return torch.ones(len(texts), 2)
"""


def test_a_shard_that_fails_elsewhere_waits_for_no_answer(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_teacher.py").write_text(BROKEN_TEACHER)
    first, *_ = alt_texts_of(scenes).values()

    async def respond(server: ChatServer, body: Body) -> web.StreamResponse:
        is_answered = len(server.bodies) == 1 or prompt_of(body).removeprefix(ALT_TEXT) == first
        return await (said if is_answered else hang)(server, body)

    server.answer = respond
    changes = ['teachers=[{"use": "broken_teacher:Broken"}]', f"plugin_dirs=[{tmp_path}]", "workers.text_batch=1"]
    job = endpoint_job(server, scenes, tmp_path / "out", *changes)
    plan = make_plan(job)
    worker = Worker(plan.job)
    worker.load()
    assert "RuntimeError: no more" in worker.run(plan.todo[0]).error
    wait_until(lambda: not server.in_flight)


def test_a_key_that_an_answer_quotes_is_in_no_message(
    server: ChatServer, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", "a-key-that-is-long")
    server.answer = in_turn(said, always("no such key: a-key-that-is-long", 401))
    job = endpoint_job(server, scenes, tmp_path, connection={"api_key": "${env:ENDPOINT_KEY}"}, on_failure="fail")
    for report in reports_of(job):
        assert "HTTP 401: no such key: ${env:ENDPOINT_KEY} (sample" in report.error


def test_an_endpoint_that_dies_fails_the_shard_long_before_its_last_sample(server: ChatServer, tmp_path: Path) -> None:
    many = make_scenes(tmp_path / "in", num_shards=1, samples_per_shard=120)
    server.answer = in_turn(said, always("gone", 503))
    (report,) = reports_of(endpoint_job(server, many, tmp_path / "out", connection={"retries": 1}))
    assert re.match(r"captioner vlm: the requests of 3\d samples in a row failed; the last one, of 0000", report.error)
    assert "HTTP 503: gone (2 attempts in " in report.error
    assert len({prompt_of(body) for body in server.bodies}) < 100
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_a_stop_cancels_the_requests_in_flight(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    plan = make_plan(endpoint_job(server, scenes, tmp_path))
    worker = Worker(plan.job)
    worker.load()
    server.answer = hang
    reports: list[ShardReport] = []
    threads = [threading.Thread(target=lambda task=task: reports.append(worker.run(task))) for task in plan.todo]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.in_flight == 5)
    worker.stop()
    for thread in threads:
        thread.join()
    assert [report.error for report in reports] == ["stopped", "stopped"]
    wait_until(lambda: not server.in_flight)
    assert worker.run(plan.todo[0]).error == "stopped"


def test_an_endpoint_that_is_down_or_no_use_is_found_at_start(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ModelError, match=rf"card vlm: a first request failed: {address}/chat/completions: the conn"):
        run(endpoint_job(server, scenes, tmp_path, connection={"base_url": address, "retries": 0}))
    server.answer = always('{"message": "The model `m` does not exist."}', 404)
    with pytest.raises(ModelError, match=r"card vlm: a first request failed: .* HTTP 404: .*`m` does not exist"):
        run(endpoint_job(server, scenes, tmp_path))
    with pytest.raises(ModelError, match=r"card vlm: sampling.method beam: an endpoint has no beam search"):
        run(endpoint_job(server, scenes, tmp_path, sampling={"method": "beam"}))
    assert not list(tmp_path.rglob("*.tar"))


def test_captions_that_repeat_themselves_are_drawn_again(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    async def stutter(server: ChatServer, body: Body) -> web.StreamResponse:
        is_poor = body["seed"] % 2
        return await (always(completion("dog dog dog dog")) if is_poor else said)(server, body)

    server.answer = stutter
    reports = reports_of(endpoint_job(server, scenes, tmp_path, redraws=50))
    assert not [text for texts in captions_in(tmp_path).values() for text in texts if "dog" in text]
    seeds = [body["seed"] for body in server.bodies]
    assert len({*seeds}) == len(seeds) == 1 + sum(report.usage[KEY]["requests"] for report in reports) > 25


def test_cards_of_one_endpoint_share_its_limit(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    server.answer = late
    job = endpoint_job(server, scenes, tmp_path)
    second = job.captioners[0].model_copy(update={"tag": "tags", "prompt": "List.", "num_captions": 1})
    job = job.model_copy(update={"captioners": (*job.captioners, second)})
    reports = reports_of(job)
    assert [report.usage.keys() for report in reports] == [{KEY, "syn_text_tags"}] * 2
    assert server.most_in_flight == 5
    for tar in tmp_path.rglob("*.tar"):
        for sample in read_reinforced(tar).values():
            assert [len(sample.synthetic[key]) for key in (KEY, "syn_text_tags")] == [2, 1]


def test_a_rewriter_is_shown_the_text_and_no_image(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    job = endpoint_job(server, scenes, tmp_path)
    rewriter = {
        **job.captioners[0].model_dump(),
        "name": "llm",
        "tag": "rewritten",
        "prompt": "Other words for: {alt_text}",
    }
    written = demo_job(scenes, tmp_path, f"rewriters={json.dumps([rewriter])}", "augmentation.num_views=1")
    assert [report.status for report in reports_of(written)] == ["done", "done"]
    assert {image_of(body) for body in server.bodies} == {""}
    alt_texts = alt_texts_of(scenes)
    for tar in tmp_path.rglob("*.tar"):
        for key, sample in read_reinforced(tar).items():
            assert sample.synthetic.keys() == {"syn_text_scene_coca", "syn_text_rewritten"}
            assert len(stored(sample, "syn_text_rewritten")) == 2
            for text in sample.synthetic["syn_text_rewritten"]:
                assert text.startswith(f"Other words for: {alt_texts[key]}, seen as ")
    findings = verify(str(tmp_path), Storage())
    recompute(str(tmp_path), Storage(), findings, num_samples=2)
    assert findings.problems == []
    assert len(make_plan(written.model_copy(update={"rewriters": ()})).todo) == 2


def test_verify_says_that_captions_of_an_endpoint_are_not_compared(
    server: ChatServer, scenes: Path, tmp_path: Path
) -> None:
    reports_of(endpoint_job(server, scenes, tmp_path))
    num_asked = len(server.bodies)
    findings = verify(str(tmp_path), Storage())
    recompute(str(tmp_path), Storage(), findings, num_samples=2)
    assert (findings.problems, findings.num_recomputed) == ([], 2)
    assert any(remark.startswith(f"the captions of {KEY} were written by request") for remark in findings.remarks)
    assert len(server.bodies) == num_asked
