"""What an output holds: its config.json, and one report per finished shard, which is that shard's commit.

    config.json                          the contract's form, and the identity of the job that made it
    00/00000013.tar                      a shard, under its input's relative path
    reports/<fingerprint>/00/00000013.json
    manifest/samples/00/00000013.parquet and manifest/shards.parquet

A report's folder carries the job's fingerprint, so that one listing tells what is done, and a shard made under another
configuration never counts. Each file can be told from a damaged one: a report has the SHA-256 of its shard and of its
table, config.json that of `shards.parquet`, and both have their own.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeVar

import PIL

from dr_pipeline.config.augmentation import ViewRecipe
from dr_pipeline.config.cards import Card, TeacherCard
from dr_pipeline.config.job import Job, differing_keys
from dr_pipeline.dataset import paths
from dr_pipeline.dataset.report import ShardReport
from dr_pipeline.dataset.sealed import is_intact, seal, unseal
from dr_pipeline.errors import ConfigError
from dr_pipeline.redaction import without_secrets_in
from dr_pipeline.storage import Storage
from dr_pipeline.views.resample import other_pillow

AnyCard = TypeVar("AnyCard", bound=Card)

_READERS = 32
_PAGE_REPORTS = 1024
_MODELS = ("captioners", "teachers")
_OF_A_MODEL = re.compile(r"(captioners|teachers)\.(\d+)\.digests\.[^:]+")


class Ledger:
    """The books of one output."""

    def __init__(self, job: Job):
        self._job = job
        self._root = job.output.path
        self._storage = Storage(job.output.storage)
        self._reports = f"{self._root}/{paths.reports(job.fingerprint())}"

    def known_job(self) -> Job:
        """The job, with those digests of its models' files that one side alone knows taken as the output has them.

        An output of before there were digests can so be gone on with, and a file that only workers can read is known.
        """
        stored = self._intact_config().get("dr_pipeline", {}).get("identity")
        if not stored:
            return self._job
        cards = {field: _known_cards(getattr(self._job, field), stored.get(field, [])) for field in _MODELS}
        job = self._job.model_copy(update=cards)
        if job == self._job:
            return job
        return job if self._storage.files(f"{self._root}/{paths.reports(job.fingerprint())}") else self._job

    def done(self) -> set[str]:
        """The names of the shards that are committed under this job's fingerprint: one listing."""
        return {paths.shard_of(file) for file in self._storage.files(self._reports)}

    def commit(self, report: ShardReport) -> None:
        """Write a shard's report, after its tar: from here on the shard is done."""
        self._storage.write(self._report_uri(report.name), seal(asdict(report)))

    def withdraw(self, name: str) -> None:
        """Delete a shard's report: the shard is to be done again."""
        self._storage.delete(self._report_uri(name))

    def find(self, name: str) -> ShardReport | None:
        """A shard's report; None when it is not committed."""
        try:
            return read_report(self._storage.read(self._report_uri(name)))
        except FileNotFoundError:
            return None

    def reports(self, names: Iterable[str]) -> Iterator[ShardReport]:
        """The stored reports of these shards: a request each, some at a time."""
        left = iter(names)
        with ThreadPoolExecutor(_READERS) as pool:
            while page := list(islice(left, _PAGE_REPORTS)):
                for data in pool.map(lambda name: self._storage.read(self._report_uri(name)), page):
                    yield read_report(data)

    def refusal(self) -> str | None:
        """Why this job may not write here: the output's own job differs. None when it may."""
        config = read_config(self._root, self._storage)
        if config is None or "dr_pipeline" not in config:
            return None
        identity = plain(self._job.identity())
        stored = config["dr_pipeline"].get("identity", {})
        changed = [_with_name(line, identity) for line in differing_keys(stored, identity)]
        pillow = other_pillow(config)
        # Else it was claimed, but nothing was ever committed.
        if not (changed or pillow) or not self._storage.files(f"{self._root}/{paths.REPORTS}"):
            return None
        if not changed:
            return f"{self._root}: {pillow}. Or choose another output.path, or redo all of its shards with --force."
        return "\n".join(
            [
                f"{self._root} was made by another configuration:",
                *(f"  {line}" for line in changed),
                "Choose another output.path, or redo all of its shards with --force.",
            ]
        )

    def check_pillow(self) -> None:
        """Raise ConfigError where the views would be those of another Pillow than the output's: one node's, say."""
        pillow = other_pillow(read_config(self._root, self._storage) or {})
        if pillow:
            raise ConfigError(f"{self._root}: {pillow}")

    def open(self, force: bool) -> None:
        """Claim the output before any model loads. Raises ConfigError when it is another job's, or not writable."""
        refusal = self.refusal()
        if refusal and not force:
            raise ConfigError(refusal)
        try:
            if refusal:
                self._storage.delete_folder(f"{self._root}/{paths.REPORTS}")
            stored = self._intact_config()
            ours = stored.get("dr_pipeline", {}).get("fingerprint") == self._job.fingerprint()
            ours = ours and not other_pillow(stored)  # such a one holds nothing, or is to be redone
            self._write_config(_with_recipe(stored, self._job) if ours else describe(self._job))
        except OSError as error:
            raise ConfigError(f"output.path {self._root} cannot be written: {error}") from error

    def knows_teachers(self) -> bool:
        """Whether config.json has what the loaded teachers are."""
        teachers = self._intact_config()["dr_pipeline"]["teachers"]
        return all(value is not None for teacher in teachers for value in teacher.values())

    def record_teachers(self, cards: tuple[TeacherCard, ...]) -> None:
        """Store what the loaded teachers are: a student configures itself by it."""
        described = describe(self._job.model_copy(update={"teachers": cards}))
        described["dr_pipeline"]["num_samples"] = num_samples_of(read_config(self._root, self._storage) or {}) or 0
        self._write_config(described)

    def record_totals(self, num_samples: int, manifest_sha256: str) -> None:
        """Store how many samples the dataset holds, and the digest of its `shards.parquet`."""
        config = read_config(self._root, self._storage) or describe(self._job)
        ours = config["dr_pipeline"] | {"num_samples": num_samples, "manifest_sha256": manifest_sha256}
        self._write_config(config | {"num_samples": self._job.augmentation.num_views, "dr_pipeline": ours})

    def _intact_config(self) -> dict[str, Any]:
        """config.json; {} where there is none, or a byte of it was changed: to be written anew, not to be sealed."""
        uri = f"{self._root}/{paths.CONFIG}"
        if not self._storage.exists(uri):
            return {}
        data = self._storage.read(uri)
        config = unseal(data) if is_intact(data) else {}
        return config if isinstance(config.get("dr_pipeline", {}), dict) else {}

    def _write_config(self, config: dict[str, Any]) -> None:
        self._storage.write(f"{self._root}/{paths.CONFIG}", seal(config))

    def _report_uri(self, name: str) -> str:
        return f"{self._root}/{paths.report(self._job.fingerprint(), name)}"


def _known_cards(cards: Sequence[AnyCard], stored: list[dict[str, Any]]) -> tuple[AnyCard, ...]:
    """The cards with the digests that a config.json has of the same models, where only one side has one."""
    known = [*cards]
    for index, (card, theirs) in enumerate(zip(cards, stored, strict=False)):
        digests = {name: card.digests.get(name, digest) for name, digest in theirs.get("digests", {}).items()}
        known[index] = card.model_copy(update={"digests": digests})
    return tuple(known)


def _with_name(line: str, identity: dict[str, Any]) -> str:
    """A line about the files of a model with the model's name in it."""
    if match := _OF_A_MODEL.match(line):
        return f"{match[0]} of {identity[match[1]][int(match[2])]['name']}{line[match.end() :]}"
    return line


def read_report(data: bytes) -> ShardReport:
    """A stored report. Raises ValueError or TypeError when it is none."""
    return ShardReport(**unseal(data))


def read_config(root: str, storage: Storage) -> dict[str, Any] | None:
    """An output's config.json; None when there is none. Raises ConfigError when it is not a JSON of that form."""
    uri = f"{root}/{paths.CONFIG}"
    if not storage.exists(uri):
        return None
    try:
        config = json.loads(storage.read(uri))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{uri} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("dr_pipeline", {}), dict):
        raise ConfigError(f"{uri}, or dr_pipeline in it, is not an object: it describes no dataset")
    return config


def num_samples_of(config: dict[str, Any]) -> int | None:
    """The dataset's samples; None where a config.json does not say.

    The `num_samples` beside `model_name` counts the views of an image, as in the released configs. Only in this
    package's first outputs, which have no count in their own block, it is the dataset's.
    """
    ours = config.get("dr_pipeline")
    return ours.get("num_samples", config.get("num_samples")) if isinstance(ours, dict) else None


def describe(job: Job) -> dict[str, Any]:
    """The config.json of a job's output: what the consumers read, and what a student needs to configure itself."""
    first = job.teachers[0]
    tree = {
        "model_name": ",".join(str(card.options.get("model", card.name)) for card in job.teachers),
        "pretrained": ",".join(str(card.options.get("weights", card.name)) for card in job.teachers),
        "num_samples": job.augmentation.num_views,
        "reinforce": {
            "image_augmentation": {
                "normalize": {"mean": first.mean, "std": first.std},
                **_drawn(job.augmentation),
                "to_rgb": {"enable": True},
                "to_tensor": {"enable": True},
            }
        },
        "dr_pipeline": {
            "name": job.name,
            "fingerprint": job.fingerprint(),
            "layout": job.output.layout,
            "precision": job.output.precision,
            "seed": job.seed,
            "num_samples": 0,
            "num_views": job.augmentation.num_views,
            "resampler": job.augmentation.resampler,
            "pillow": PIL.__version__,
            "caption_keys": [captioner.caption_key for captioner in job.captioners],
            "teachers": [_teacher(card) for card in job.teachers],
            "identity": plain(job.identity()),
        },
    }
    return without_secrets_in(tree)


_OWN_FIELDS = {"resampler", "magnitudes"}
"""Settings that torchvision's classes do not take; a replay needs none of them, but for the resampler's last bits."""


def _drawn(recipe: ViewRecipe) -> dict[str, Any]:
    """The transforms that make a view, in the consumers' terms, with each parameter that is not as by default.

    The consumers construct torchvision's classes with them, whose defaults are ours too, but for the interpolation.
    They look for random_resized_crop also where it is left out.
    """
    crop, ops = recipe.random_resized_crop, recipe.rand_augment
    drawn: dict[str, Any] = {
        "rand_augment": {"enable": bool(ops), "p": 1.0},
        "random_resized_crop": {"interpolation": crop.interpolation, "size": crop.size} if crop else {"enable": False},
    }
    for name, settings in recipe.transforms.items():
        chosen = settings.model_dump(mode="json", exclude_defaults=True, exclude=_OWN_FIELDS)
        drawn[name] = {**drawn.get(name, {"enable": True}), **chosen}
    return drawn


def _with_recipe(config: dict[str, Any], job: Job) -> dict[str, Any]:
    """A config.json of the same job, with what an earlier version did not tell the consumers."""
    stored = config["reinforce"]["image_augmentation"]
    image_augmentation = {**stored, **_drawn(job.augmentation)}
    return config | {"reinforce": {"image_augmentation": image_augmentation}}


def _teacher(card: TeacherCard) -> dict[str, Any]:
    fields = {"name", "dim", "encodes", "output", "logit_scale"}
    if card.encodes != ("texts",):
        fields |= {"image_size", "mean", "std"}
    return card.model_dump(mode="json", include=fields)


def plain(tree: dict[str, Any]) -> dict[str, Any]:
    """As JSON will give it back, so that what is stored and what is live compare."""
    return json.loads(json.dumps(tree))
