"""The settings of `prepare`: which published dataset becomes tars, and what of it."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dr_pipeline.config.strict import PositiveInt, Strict

Kind = Literal["mscoco", "docci", "dci", "gbc", "sharegpt4v", "recap-coco-30k", "image-folder"]

CAPTIONS: dict[Kind, tuple[str, ...]] = {"dci": ("extended", "short", "complete"), "gbc": ("short", "long", "relation")}
"""The captions that a kind offers, its default first; the other kinds have one sort."""

SPLITS: dict[Kind, str | None] = {"mscoco": None, "docci": "train"}
"""Kinds that come in splits, and the one that is taken by default; None: all."""


class Preparation(Strict):
    """A published dataset and the tars that are made of it."""

    kind: Kind
    source: str
    """The folder that holds what was downloaded."""
    output: str
    """The folder of the tars, local or an fsspec URL."""
    images: str | None = None
    """The folder of the images; None: `source`."""
    captions: str | None = None
    """One of CAPTIONS; None: the kind's default."""
    split: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    permissive: bool = False
    """Of MSCOCO the images under CC BY, BY-SA and BY-ND 2.0 alone, as in the paper, section 2.5."""
    samples_per_shard: PositiveInt = 1000
    max_image_pixels: PositiveInt = 180_000_000
    storage: dict[str, Any] = Field(default={}, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, tree: dict[str, Any]) -> dict[str, Any]:
        """The kind's own default captions and split, where none is given."""
        captions, split = CAPTIONS.get(tree["kind"], (None,))[0], SPLITS.get(tree["kind"])
        return {**tree, "captions": tree.get("captions") or captions, "split": tree.get("split") or split}

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        known = CAPTIONS.get(self.kind, ())
        if self.captions is not None and self.captions not in known:
            raise ValueError(f"captions: {self.kind} has {' or '.join(known) or 'one sort alone'}, not {self.captions}")
        if self.split is not None and self.kind not in SPLITS:
            raise ValueError(f"split: {self.kind} comes in no splits; {' and '.join(SPLITS)} do")
        if self.permissive and self.kind != "mscoco":
            raise ValueError(f"permissive: {self.kind} has no licences of single images; mscoco has")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the tars but for the source's files, as plain JSON."""
        return self.model_dump(mode="json", exclude={"source", "output", "images", "storage"})
