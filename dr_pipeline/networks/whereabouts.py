"""Where the files of a model are that its card names: on the disk, in the hub's cache, on the hub, behind a URL.

Nothing large is downloaded or read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, list_repo_files

from dr_pipeline.config.recipes import PACKAGE_SCHEME
from dr_pipeline.errors import HubError, PipelineError
from dr_pipeline.networks.digests import HUB_FILES, address_of, kind_of_option, text_options
from dr_pipeline.networks.files import (
    HUB,
    RANDOM,
    SUFFIXES,
    cached_hub_file,
    first_line,
    hub_place,
    packaged,
    repo_and_file_of,
)
from dr_pipeline.storage import Storage


@dataclass(frozen=True)
class Whereabouts:
    """A file or repository that an option names, and where it was found."""

    option: str
    address: str
    place: str
    """Such as `in the hub's cache`; "" where it is nowhere that a worker on this machine could load it from."""
    why: str = ""
    """What was said where it is nowhere."""

    def __str__(self) -> str:
        return f"{self.address} {self.place or f'cannot be had: {self.why}'}"


def model_files(options: Mapping[str, Any]) -> Iterator[Whereabouts]:
    """The whereabouts of each file or repository that a card's options name. Raises ModelError for an unknown tag."""
    for name, value in text_options(options):
        address = address_of(name, value, options)
        try:
            place = _place(kind_of_option(name, options), address)
        except PipelineError as error:
            yield Whereabouts(name, address, "", str(error))
        except Exception as error:  # offline, gated, no such repository: the hub's client raises many kinds
            yield Whereabouts(name, address, "", first_line(error))
        else:
            if place is not None:
                yield Whereabouts(name, address, place)


def _place(kind: str, address: str) -> str | None:
    """Where the file is; None where the value names no file. Raises what a client raises where there is none."""
    if address.startswith(HUB):
        repo, file = repo_and_file_of(address.removeprefix(HUB))
        names, suffixes = ((file,), ()) if file else HUB_FILES.get(kind, ((), SUFFIXES))
        if cached_hub_file(repo, names, suffixes):
            return "in the hub's cache"
        if constants.HF_HUB_OFFLINE:
            raise HubError("it is not in the hub's cache, and the hub is out of reach, or HF_HUB_OFFLINE is set")
        list_repo_files(**hub_place(repo))
        return "on the hub"
    if address.startswith(PACKAGE_SCHEME):
        packaged(address)
        return "in a package"
    if address.endswith(SUFFIXES) or (kind == "weights" and address != RANDOM):
        is_there = Storage().exists(address) if "://" in address else Path(address).expanduser().exists()
        if not is_there:
            raise FileNotFoundError("no such file")
        return "there" if "://" in address else "on the disk"
    return None
