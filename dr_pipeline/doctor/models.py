"""The job's models: their classes, packages and options, whether their files are at hand, and endpoints."""

import http.client
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

from dr_pipeline.config.cards import Card
from dr_pipeline.config.job import Job
from dr_pipeline.config.references import resolve
from dr_pipeline.doctor.examination import Diagnosis
from dr_pipeline.errors import PipelineError
from dr_pipeline.models.cards import card_cost
from dr_pipeline.networks.files import HUB
from dr_pipeline.networks.whereabouts import model_files

_ANSWER_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
_HOW_TO_GET = (
    "check the name and `hf auth whoami`; where the hub is out of reach, copy its cache (HF_HOME) from a machine that "
    "has the model, or give a path or a URL instead"
)
_HOW_TO_GET_FILE = "correct the path, or write the file first, such as by the job that trains it"


def models(job: Job) -> Iterator[Diagnosis]:
    """Whether each model's class can be made, and its files be had: on the disk, in the hub's cache, or on the hub."""
    yield from of_cards(job.cards, job.plugin_dirs)


def of_cards(cards: Iterable[Card], plugin_dirs: Sequence[str]) -> Iterator[Diagnosis]:
    """The same of some cards."""
    stay_offline_where_the_hub_is_out_of_reach()
    for card in cards:
        try:
            card_cost(card, plugin_dirs)
        except PipelineError as error:
            yield Diagnosis("fails", f"{card.name}: {error}")
            continue
        yield from files_of(card.name, card.options)


def files_of(name: str, options: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Whether the files can be had that a model's options name."""
    try:
        found = list(model_files(options))
    except PipelineError as error:
        yield Diagnosis("fails", f"{name}: {error}")
        return
    missing = [file for file in found if not file.place]
    for file in missing:
        advice = _HOW_TO_GET if file.address.startswith(HUB) else _HOW_TO_GET_FILE
        yield Diagnosis("fails", f"{name}: {file}", advice)
    if not missing:
        named = [f"{file.option} {file.place}" for file in found]
        yield Diagnosis("ok", f"{name}: {', '.join(named) or 'has no files'}")


def stay_offline_where_the_hub_is_out_of_reach() -> None:
    """Its client would try each file again and again, for minutes."""
    if not getproxies():
        try:
            socket.create_connection((urlsplit(constants.ENDPOINT).hostname or "", 443), _CONNECT_SECONDS).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True


def endpoints(job: Job) -> Iterator[Diagnosis]:
    """Whether the servers of models that are asked by requests answer, and take the key. No text is asked for."""
    for card in job.cards:
        if isinstance(base_url := card.arguments.get("base_url"), str):
            options = resolve({"base_url": base_url, "api_key": card.arguments.get("api_key", "")}, card.name)
            yield _ask(card.name, options["base_url"].rstrip("/"), options["api_key"])


def _ask(name: str, base_url: str, api_key: str) -> Diagnosis:
    """Ask a server for its list of models. A redirect is not followed: the key is for this host."""
    parts = urlsplit(base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_ANSWER_SECONDS)
    try:
        connection.request(
            "GET", f"{parts.path}/models", headers={"Authorization": f"Bearer {api_key}"} if api_key else {}
        )
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return Diagnosis(
            "fails", f"{name}: nothing answers at {base_url}: {error}", "start the server, or correct base_url"
        )
    finally:
        connection.close()
    if status in (401, 403):
        return Diagnosis("fails", f"{name}: {base_url} refuses the key (HTTP {status})", "set connection.api_key")
    if status >= 500:
        return Diagnosis("fails", f"{name}: {base_url} is broken (HTTP {status})", "look at the server's log")
    return Diagnosis("ok", f"{name}: {base_url} answers")
