"""The job that an output's config.json records, and whether that file agrees with itself."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from dr_pipeline.config.job import Job, fingerprint_of
from dr_pipeline.dataset.ledger import describe, plain
from dr_pipeline.dataset.sealed import CHECKSUM
from dr_pipeline.errors import ConfigError

_OF_THE_DATA = {"dr_pipeline.num_samples", "dr_pipeline.manifest_sha256", "dr_pipeline.pillow", CHECKSUM}
"""What config.json holds beside the description of its job."""


def recorded_job(config: dict[str, Any]) -> Job:
    """The job of a config.json, but for what is not recorded: where its input and output lie, and its workers.

    Raises ConfigError when the file is another program's, or no job.
    """
    if "dr_pipeline" not in config:
        raise ConfigError("config.json has no dr_pipeline block: another program made this dataset")
    try:
        ours = config["dr_pipeline"]
        identity = ours["identity"]
        by_name = {teacher["name"]: teacher for teacher in ours["teachers"]}
        return Job.model_validate(
            {
                **{key: identity[key] for key in ("seed", "captioners", "augmentation", "errors")},
                "name": ours["name"],
                "input": {"shards": (), **identity["input"]},
                "output": {"path": "", **identity["output"]},
                "teachers": [{**card, **by_name[card["name"]]} for card in identity["teachers"]],
                "workers": {"precision": identity["precision"]},
            }
        )
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise ConfigError(f"config.json records no job: {type(error).__name__}: {error}") from error


def contradictions(config: dict[str, Any]) -> Iterator[str]:
    """Where the parts of a config.json disagree, as sentences; all of its description follows from the identity."""
    try:
        described = plain(describe(recorded_job(config)))
    except ConfigError as error:
        yield str(error).removeprefix("config.json ")
        return
    ours = config["dr_pipeline"]
    if fingerprint_of(ours["identity"]) != ours.get("fingerprint"):
        yield "its fingerprint is not that of the identity beside it"
        return
    # The identity of an earlier version may lack keys; described anew it has them, and another fingerprint.
    described["dr_pipeline"] |= {key: ours[key] for key in ("identity", "fingerprint")}
    if "num_samples" not in ours:  # where the first version had the dataset's size
        described["num_samples"] = config.get("num_samples")
    wrong = set(_unlike(config, described))
    yield from (f"{key} is not what the identity in it says" for key in sorted(wrong))
    reinforce = config.get("reinforce")
    if isinstance(reinforce, dict):
        lacking = set(_unlike(described["reinforce"], reinforce, "reinforce.")) - wrong
        for key in sorted(lacking):
            yield f"lacks {key}, without which other trainers replay other pixels: run the job again"


def _unlike(stored: dict[str, Any], described: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of the one that the other has not, or has with another value."""
    for key, value in stored.items():
        if isinstance(value, dict) and isinstance(described.get(key), dict):
            yield from _unlike(value, described[key], f"{prefix}{key}.")
        elif f"{prefix}{key}" not in _OF_THE_DATA and (key not in described or described[key] != value):
            yield f"{prefix}{key}"
