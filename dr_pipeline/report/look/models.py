"""The models that made a dataset, as tables, by its config.json; any program may have written that."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dr_pipeline.config.cards import caption_key_of
from dr_pipeline.report.page.parts import table

if TYPE_CHECKING:
    from markupsafe import Markup


def models_of(config: Mapping[str, Any]) -> "Iterator[Markup]":
    """A table of the teachers, one of what writes captions, and one of the scorers, where there are any."""
    ours = config.get("dr_pipeline", {})
    identity = ours.get("identity")
    identity = identity if isinstance(identity, dict) else {}
    if teachers := _cards(ours.get("teachers")):
        yield table("Teachers", ["name", "gives", "dims", "image px", "logit scale"], map(_teacher, teachers))
    writers = [(kind, card) for kind in ("captioner", "rewriter") for card in _cards(identity.get(f"{kind}s"))]
    if writers:
        header = ["name", "kind", "key", "sampling", "captions a sample"]
        yield table("Captions", header, [_writer(kind, card) for kind, card in writers])
    if scorers := _cards(identity.get("scorers")):
        rows = [[scorer.get("name"), scorer.get("min"), scorer.get("max")] for scorer in scorers]
        yield table("Scorers", ["name", "lowest that is kept", "highest that is kept"], rows)


def _cards(value: Any) -> list[dict[str, Any]]:
    """A list of dictionaries; an empty one in place of anything else."""
    return value if isinstance(value, list) and all(isinstance(card, dict) for card in value) else []


def _teacher(teacher: Mapping[str, Any]) -> list[Any]:
    encodes = teacher.get("encodes")
    inputs = " and ".join(map(str, encodes)) if isinstance(encodes, list) else "images and texts"
    gives = "probabilities" if teacher.get("output") == "probabilities" else "embeddings"
    return [
        teacher.get("name"),
        f"{gives} of {inputs}",
        *(teacher.get(name) for name in ("dim", "image_size", "logit_scale")),
    ]


def _writer(kind: str, card: Mapping[str, Any]) -> list[Any]:
    tag, sampling = card.get("tag"), card.get("sampling")
    method = sampling.get("method") if isinstance(sampling, dict) else None
    key = caption_key_of(str(tag) if tag else None)
    return [card.get("name"), kind, key, str(method or "").replace("_", " "), card.get("num_captions")]
