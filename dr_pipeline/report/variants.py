"""Variants of a job that take less: fewer views, fewer captions, or one of its models left out."""

from collections.abc import Iterator
from dataclasses import dataclass

from dr_pipeline.config.job import Job

_VIEWS = (30, 20, 10, 5, 2, 1)
_FEWEST_VIEWS = 2
_CAPTIONS = (5, 2, 1)
_FEW_CAPTIONS = 2


@dataclass(frozen=True)
class Variant:
    """A job that differs from the one that is planned."""

    name: str
    change: str
    """The overrides to type, or what to do where no override does it; "" where nothing differs."""
    job: Job

    def also(self, name: str, change: str, job: Job) -> "Variant":
        """This one with one more change, which `job` has."""
        if not self.change:
            return Variant(name, change, job)
        return Variant(f"{self.name}, {name}", f"{self.change} {change}", job)


def variants_of(job: Job) -> list[Variant]:
    """The job as it is, and those that differ from it by one change each."""
    as_it_is = Variant("as it is", "", job)
    fewer = [found for most in _CAPTIONS for found in _with_captions(as_it_is, most)]
    return [as_it_is, *_with_fewer_views(as_it_is), *fewer, *_without_a_model(job)]


def in_order(job: Job) -> list[Variant]:
    """The job as it is, and what to try instead, in this order: every model stays, and the views become fewer, but 2;
    then the captions.

    Teachers and captions are what a student gains most by (the paper's tables 2 and 4), of these by the first two
    (sections 2.4 and 2.5). Views cost most, and DFNDR-2B has two (table 14).
    """
    order = [Variant("as it is", "", job)]
    order += [found for found in _with_fewer_views(order[0]) if found.job.augmentation.num_views >= _FEWEST_VIEWS]
    return [*order, *_with_captions(order[-1], _FEW_CAPTIONS)]


def _with_fewer_views(variant: Variant) -> Iterator[Variant]:
    recipe = variant.job.augmentation
    for num_views in _VIEWS:
        if num_views < recipe.num_views:
            job = variant.job.model_copy(update={"augmentation": recipe.model_copy(update={"num_views": num_views})})
            yield variant.also(f"{num_views} view{'s' * (num_views > 1)}", f"augmentation.num_views={num_views}", job)


def _with_captions(variant: Variant, most: int) -> Iterator[Variant]:
    """The variant with at most so many captions of each captioner and rewriter; none where no one has more."""
    changes, fewer = [], {}
    for kind in ("captioners", "rewriters"):
        cards = getattr(variant.job, kind)
        many = [index for index, card in enumerate(cards) if card.num_captions > most]
        changes += [f"{kind}.{index}.num_captions={most}" for index in many]
        fewer[kind] = tuple(card.model_copy(update={"num_captions": min(card.num_captions, most)}) for card in cards)
    if changes:
        name = f"{most} caption{'s' * (most > 1)} of each"
        yield variant.also(name, " ".join(changes), variant.job.model_copy(update=fewer))


def _without_a_model(job: Job) -> Iterator[Variant]:
    """The job without one of several teachers, and without one of several captioners and rewriters."""
    for kind in ("teachers", "captioners", "rewriters"):
        cards = getattr(job, kind)
        for index, card in enumerate(cards if len(job.teachers if kind == "teachers" else job.writers) > 1 else ()):
            others = (*cards[:index], *cards[index + 1 :])
            name, change = f"without {kind.removesuffix('s')} {card.name}", f"take {kind}.{index} out of the job"
            yield Variant(name, change, job.model_copy(update={kind: others}))
