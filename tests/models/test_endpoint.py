"""The endpoint's captioner against a real server: what it sends, how it waits, and what it takes for a failure."""

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import torch
from aiohttp import web
from PIL import Image

from dr_pipeline.config.cards import Sampling
from dr_pipeline.dataset.caption_faults import CutCaption
from dr_pipeline.errors import ConfigError, ModelError
from dr_pipeline.models.endpoint import EndpointCaptioner
from dr_pipeline.models.protocol import RequestCaptioner, Usage, WriteRequest, Written
from tests.chat_server import (
    Answer,
    Body,
    ChatServer,
    always,
    chat_server,
    completion,
    hang,
    hang_up,
    image_of,
    in_turn,
    prompt_of,
    said,
)
from tests.conftest import image_bytes
from tests.ports import free_port

FINE = always(completion("a red cube"))


@pytest.fixture(scope="module")
def served() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def server(served: ChatServer) -> ChatServer:
    served.bodies, served.headers, served.answer, served.most_in_flight = [], [], None, 0
    return served


def request_of(image: bytes | None = None, seeds: tuple[int, ...] = (1,), **fields: Any) -> WriteRequest:
    given = {"key": "a", "prompt": "Describe it.", "alt_text": "", "sampling": Sampling(), **fields}
    return WriteRequest(image=image, seeds=seeds, **given)


def write(server: ChatServer, request: WriteRequest, *more: WriteRequest, **options: Any) -> Written:
    """The first one's texts; the others are asked for at the same time."""

    async def main() -> Written:
        captioner = EndpointCaptioner(
            torch.device("cpu"), **{"base_url": server.base_url, "model": "m", "backoff_s": 0.001, **options}
        )
        assert isinstance(captioner, RequestCaptioner)
        try:
            return (await asyncio.gather(*map(captioner.write, [request, *more])))[0]
        finally:
            await captioner.close()

    return asyncio.run(main())


def test_sends_prompt_image_seeds_and_sampling(server: ChatServer) -> None:
    jpeg = image_bytes()
    sampling = Sampling(top_p=0.8, temperature=0.7, max_tokens=40)
    written = write(
        server,
        request_of(jpeg, seeds=(5, 6), sampling=sampling),
        api_key="secret-of-mine",
        system_prompt="Be brief.",
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    first, second = sorted(server.bodies, key=lambda body: body["seed"])
    assert first == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"},
                    },
                    {"type": "text", "text": "Describe it."},
                ],
            },
        ],
        "max_tokens": 40,
        "temperature": 0.7,
        "top_p": 0.8,
        "chat_template_kwargs": {"enable_thinking": False},
        "seed": 5,
    }
    assert second == {**first, "seed": 6}
    assert server.headers[0]["Authorization"] == "Bearer secret-of-mine"
    assert [text.partition(" of ")[0] for text in written.texts] == [f"Describe it., seen as {seed}" for seed in (5, 6)]
    assert written.usage == Usage(requests=2, prompt_tokens=200, completion_tokens=14)


@pytest.mark.parametrize(
    ("sampling", "fields"),
    [
        ({"method": "top_k", "top_k": 7, "min_tokens": 3}, {"top_k": 7, "temperature": 1.0, "min_tokens": 3}),
        ({"method": "greedy", "repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}),
    ],
)
def test_passes_the_sampling_on(server: ChatServer, sampling: dict[str, Any], fields: dict[str, Any]) -> None:
    write(server, request_of(sampling=Sampling(**sampling)))
    (body,) = server.bodies
    assert body.keys() - {"model", "messages", "max_tokens", "seed"} == fields.keys()
    assert {name: body[name] for name in fields} == fields
    assert image_of(body) == ""
    assert prompt_of(body) == "Describe it."


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_sent_as_it_is_stored(server: ChatServer, form: str) -> None:
    stored = image_bytes(form=form)
    write(server, request_of(stored))
    kind, _, data = image_of(server.bodies[0]).partition(";base64,")
    assert (kind, base64.b64decode(data)) == (f"data:image/{form.lower()}", stored)


@pytest.mark.parametrize(("form", "side", "size"), [("BMP", None, (40, 30)), ("JPEG", 20, (20, 15)), ("GIF", 40, None)])
def test_other_formats_and_large_images_are_sent_without_loss(
    server: ChatServer, form: str, side: int | None, size: tuple[int, int] | None
) -> None:
    stored = image_bytes(form=form)
    write(server, request_of(stored), max_image_side=side)
    kind, _, data = image_of(server.bodies[0]).partition(";base64,")
    sent, before = Image.open(io.BytesIO(base64.b64decode(data))), Image.open(io.BytesIO(stored)).convert("RGB")
    assert (kind, sent.format, sent.size) == ("data:image/png", "PNG", size or before.size)
    if sent.size == before.size:
        assert sent.tobytes() == before.tobytes()


def test_a_caption_cut_at_the_limit_is_marked(server: ChatServer) -> None:
    server.answer = always(completion(" a red \n", finish_reason="length"))
    (text,) = write(server, request_of()).texts
    assert (text, type(text)) == ("a red", CutCaption)


@pytest.mark.parametrize(
    "trouble",
    [
        always("busy", 429, **{"Retry-After": "0"}),
        always("busy", 429, **{"Retry-After": format_datetime(datetime.now(UTC))}),
        always("busy", 429, **{"Retry-After": "soon"}),
        always("broken", 500),
        always("restarting", 503),
        hang_up,
    ],
    ids=["429", "429 by date", "429 by word", "500", "503", "hangs up"],
)
def test_asks_again_after_trouble_that_passes(server: ChatServer, trouble: Answer) -> None:
    server.answer = in_turn(trouble, trouble, FINE)
    written = write(server, request_of())
    assert written == Written(["a red cube"], Usage(requests=3, retries=2, prompt_tokens=100, completion_tokens=7))
    assert server.bodies[0] == server.bodies[2]


def test_waits_as_long_as_the_endpoint_asks_for(server: ChatServer) -> None:
    server.answer = in_turn(always("", 429, **{"Retry-After": "1"}), FINE)
    started = time.monotonic()
    assert write(server, request_of()).texts == ["a red cube"]
    assert time.monotonic() - started >= 1
    late = format_datetime(datetime.now(UTC) + timedelta(hours=2))
    server.answer = always("", 503, **{"Retry-After": late})
    assert "HTTP 503: asks to come again in 7" in write(server, request_of()).failure


@pytest.mark.parametrize(
    ("answer", "failure", "requests"),
    [
        (always("out of memory", 500), "HTTP 500: out of memory (3 attempts in ", 3),
        (always("slow down", 429), "HTTP 429: slow down (3 attempts", 3),
        (hang_up, "the connection broke: ServerDisconnectedError", 3),
        (hang, "no answer within timeout_s = 0.3", 1),
        (always('{"error": "no such model"}', 404), 'HTTP 404: {"error": "no such model"}', 1),
        (always("", 401), "HTTP 401: no words", 1),
        (always("", 302, Location="/login"), "HTTP 302 to /login: write that address", 1),
        (always("", 304), "HTTP 304: no words", 1),
        (always("<html>welcome</html>"), "the answer is not JSON: <html>welcome</html>", 1),
        (always("[" * 100_000), "the answer is not JSON: [[", 1),
        (always("[1]"), "the answer is no JSON object: [1]", 1),
        (always("x" * (17 << 20)), "the answer has more than 16777216 bytes", 1),
        (always({"error": {"message": "no quota"}}), 'has no list of choices, but {"message": "no quota"}', 1),
        (always({"choices": []}), 'the answer has no list of choices, but {"choices": []}', 1),
        (always({"choices": {"a": 1}}), 'the answer has no list of choices, but {"choices": {"a": 1}}', 1),
        (always({"choices": [None]}), "the first choice has no message", 1),
        (always(completion(None)), "the content is None, which is no text: stop", 1),
        (always(completion(" \n\u200b")), "which is no text: stop", 1),
        (always(completion([{"text": "a"}])), "which is no text", 1),
        (always(completion(7)), "the content is 7, which is no text", 1),
        (always(completion("", finish_reason="content_filter")), "the model refused: content_filter", 1),
        (always(completion(None, message={"refusal": "I cannot.", "content": None})), "the model refused: I cannot", 1),
    ],
)
def test_failures_for_good_say_why(server: ChatServer, answer: Answer, failure: str, requests: int) -> None:
    server.answer = answer
    written = write(server, request_of(), retries=2, timeout_s=0.3 if answer is hang else 60)
    assert failure in written.failure
    assert written.texts == []
    assert (written.usage.failures, written.usage.requests, written.usage.retries) == (1, requests, requests - 1)


def test_tokens_that_are_no_numbers_count_as_none(server: ChatServer) -> None:
    server.answer = always({**completion("a"), "usage": {"prompt_tokens": "many", "completion_tokens": -1}})
    assert write(server, request_of()).usage == Usage(requests=1)
    server.answer = always({**completion("a"), "usage": None})
    assert write(server, request_of()).usage == Usage(requests=1)


def test_one_text_that_fails_cancels_the_sample_s_others(server: ChatServer) -> None:
    async def some_hang(server: ChatServer, body: Body) -> web.StreamResponse:
        return await (always("no", 400) if body["seed"] == 2 else hang)(server, body)

    server.answer = some_hang
    assert "HTTP 400: no" in write(server, request_of(seeds=(1, 2, 3))).failure


def test_an_endpoint_that_is_down_is_named(server: ChatServer) -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    written = write(server, request_of(), base_url=address, retries=1)
    assert written.failure.startswith(f"{address}/chat/completions: the connection broke: ClientConnectorError")
    assert "(2 attempts in " in written.failure


def test_no_more_requests_are_in_flight_than_allowed(server: ChatServer) -> None:
    async def at_once(server: ChatServer, body: Body) -> web.StreamResponse:
        while server.most_in_flight < 5:
            await asyncio.sleep(0.01)
        return await said(server, body)

    server.answer = at_once
    requests = [request_of(seeds=(1, 2), key=str(index)) for index in range(20)]
    write(server, *requests, max_in_flight=5)
    assert (server.most_in_flight, len(server.bodies)) == (5, 40)


def test_what_can_never_be_asked_is_refused(server: ChatServer) -> None:
    with pytest.raises(ModelError, match="prompt: a chat needs one"):
        write(server, request_of(prompt=""))
    with pytest.raises(ModelError, match="an endpoint has no beam search"):
        write(server, request_of(sampling=Sampling(method="beam")))
    for options in ({"max_in_flight": 0}, {"retries": -1}, {"timeout_s": 0}, {"max_image_side": 0}):
        with pytest.raises(ConfigError, match="at least"):
            write(server, request_of(), **options)
    with pytest.raises(ConfigError, match=r"base_url .localhost.* is no address"):
        write(server, request_of(), base_url="localhost:8000/v1")
    assert server.bodies == []
