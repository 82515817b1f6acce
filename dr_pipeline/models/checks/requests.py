"""Checks of a captioner or rewriter that works elsewhere: a few requests at once, sent twice."""

import asyncio
import io
import time
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from dr_pipeline.config.cards import CaptionerCard
from dr_pipeline.config.prompts import fill_in
from dr_pipeline.errors import ModelError, PipelineError
from dr_pipeline.models.checks.findings import Checked, finding, telling_where
from dr_pipeline.models.load import construct
from dr_pipeline.models.probes import TEXTS, probe_squares
from dr_pipeline.models.protocol import RequestCaptioner, WriteRequest, Written
from dr_pipeline.networks.device import pick_device
from dr_pipeline.words import plural

_MOST_REQUESTS = 8
"""As many as are sent to see whether it works; what it can take is found with a batch."""
_IMAGE_SIZE = 224


def check_requests(card: CaptionerCard, plugin_dirs: Sequence[str] = (), batch: int | None = None) -> Checked:
    """Ask a card's captioner about a few images, or `batch`, all at once and then again.

    One that is asked about the alt-text, and fails with an image, is asked without: it may be a rewriter.
    """
    with finding() as checked:
        captioner = construct(card, pick_device(), plugin_dirs)
        if not isinstance(captioner, RequestCaptioner):
            raise ModelError(f"{card.use} has a method write, but lacks max_in_flight or close")
        number = batch or min(captioner.max_in_flight, _MOST_REQUESTS)
        requests = [_request(card, index) for index in range(number)]
        with telling_where(f"asking {card.use}"):
            asyncio.run(_ask(captioner, requests, checked, may_rewrite="{alt_text}" in (card.prompt or "")))
    return checked


async def _ask(captioner: RequestCaptioner, requests: list[WriteRequest], checked: Checked, may_rewrite: bool) -> None:
    """Send the requests twice, and say what came of it. Raises ModelError where an answer cannot be used."""
    what = "captions images"
    try:
        begun = time.perf_counter()
        first = await _all(captioner, requests)
        if may_rewrite and any(getattr(written, "failure", "") for written in first):
            what, requests = "writes texts in other words", [replace(request, image=None) for request in requests]
            begun = time.perf_counter()
            first = await _all(captioner, requests)
        seconds = time.perf_counter() - begun
        usable = [_usable(request, written) for request, written in zip(requests, first, strict=True)]
        again = await _all(captioner, requests)
    finally:
        await captioner.close()
    num_texts = sum(len(written.texts) for written in usable)
    tokens = sum(written.usage.prompt_tokens + written.usage.completion_tokens for written in usable)
    retries = sum(written.usage.retries for written in usable)
    checked.facts |= {
        "captioner": f"{what} by request, {captioner.max_in_flight} at once at most",
        "speed": f"{num_texts / seconds:.3g} texts/s, {plural(len(requests), 'request')} at once, {retries} repeated",
        "tokens": f"{tokens / num_texts:.0f} for a text" if tokens else "the answers do not say",
        "reruns": "gave the same texts twice here; whether they will again is up to the server"
        if [written.texts for written in usable] == [getattr(written, "texts", None) for written in again]
        else "will differ: it gave other texts to the same requests, so what is made again is not what was",
    }


async def _all(captioner: RequestCaptioner, requests: list[WriteRequest]) -> list[Written]:
    """The answers of all requests at once. Raises ModelError where the captioner raises."""
    try:
        return list(await asyncio.gather(*(captioner.write(request) for request in requests)))
    except PipelineError:
        raise
    except Exception as error:
        raise ModelError(f"write() fails: {type(error).__name__}: {error}") from error


def _usable(request: WriteRequest, written: object) -> Written:
    """The answer. Raises ModelError unless it holds the texts that were asked for."""
    if not isinstance(written, Written):
        raise ModelError(f"write() returned a {type(written).__name__}; return a dr_pipeline.models.protocol.Written")
    if written.failure:
        raise ModelError(f"a request failed: {written.failure}")
    if len(written.texts) != len(request.seeds) or not all(isinstance(text, str) for text in written.texts):
        raise ModelError(
            f"write() returned {written.texts!r:.100}: return a text (str) for each of the request's seeds"
        )
    return written


def _request(card: CaptionerCard, index: int) -> WriteRequest:
    squares_BHWC = probe_squares(_IMAGE_SIZE)
    buffer = io.BytesIO()
    Image.fromarray(squares_BHWC[index % len(squares_BHWC)].numpy()).save(buffer, "PNG")
    text = TEXTS[index % len(TEXTS)] or "a lake"
    return WriteRequest(
        key=f"check{index}",
        image=buffer.getvalue(),
        prompt=fill_in(card.prompt or "", key=f"check{index}", alt_text=text),
        alt_text=text,
        seeds=tuple(range(card.num_captions)),
        sampling=card.sampling,
    )
