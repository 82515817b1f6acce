"""config.json of an output: how it was made. This module alone writes it, and reads the job back from it.

Its outer part has the form that the contract's consumers read. The block `dr_pipeline` is for this package: the job's
identity and fingerprint, the loaded teachers, the number of samples, the digest of the manifest.
"""

import re
from collections.abc import Iterator
from typing import Any

import PIL
from pydantic import ValidationError

from dr_pipeline.config.cards import Card, Float8Error, TeacherCard
from dr_pipeline.config.job import Job, differing_keys, fingerprint_of, flatten
from dr_pipeline.config.wording import what_is_wrong
from dr_pipeline.dataset import checksum
from dr_pipeline.dataset.paths import OutputPaths
from dr_pipeline.dataset.reports import Reports
from dr_pipeline.errors import ConfigError, reason
from dr_pipeline.redaction import without_secrets_in
from dr_pipeline.storage import Storage
from dr_pipeline.views.recipe import describe_transforms
from dr_pipeline.views.render import other_pillow

FORMAT = "1.0"
"""Of a dataset's files, as docs/format.md describes them: whoever reads 1.0 reads every 1.x."""

_MODELS = ("scorers", "captioners", "rewriters", "teachers")
_DIGEST_OF_A_MODEL = re.compile(r"^(scorers|captioners|rewriters|teachers)\.(\d+)\.digests\.[^:]+")
_IMAGE_FIELDS = {"image_size", "mean", "std"}  # left out where a teacher encodes texts alone
_TEACHER_FIELDS = {"name", "dim", "encodes", "output", "logit_scale", "float8_error"} | _IMAGE_FIELDS
"""What readers are told of a teacher."""
_BESIDE_THE_JOB = {f"dr_pipeline.{key}" for key in ("format", "num_samples", "manifest_sha256", "pillow")}
"""Keys whose values do not follow from the job."""


def read_config(root: str, storage: Storage) -> dict[str, Any]:
    """The config.json of a dataset, of any writer; {} when there is none. Its checksum is not compared.

    Raises ConfigError when the file, or `dr_pipeline` in it, is not a JSON object, or is of a later format.
    """
    uri = OutputPaths(root).config
    if not storage.exists(uri):
        return {}
    try:
        config = checksum.load(storage.read(uri))
    except ValueError as error:
        raise ConfigError(f"{uri} describes no dataset: {error}") from error
    if not isinstance(config.get("dr_pipeline", {}), dict):
        raise ConfigError(f"{uri} describes no dataset: dr_pipeline in it is not an object")
    written = str(config.get("dr_pipeline", {}).get("format", FORMAT))
    if written.partition(".")[0] != FORMAT.partition(".")[0]:
        raise ConfigError(
            f"{uri} is of format {written}, and this dr-pipeline reads {FORMAT}: install the one of its writer"
        )
    return config


def num_samples_of(config: dict[str, Any]) -> int | None:
    """How many samples the dataset holds; None where another program wrote its config.json, which does not say.

    The `num_samples` beside `model_name` counts the views of an image, as in the released configs.
    """
    return config.get("dr_pipeline", {}).get("num_samples")


def paired_teachers_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The recorded teachers that embed both images and texts, in the order of their columns."""
    return [teacher for teacher in config.get("dr_pipeline", {}).get("teachers", []) if not teacher.get("encodes")]


def embedding_teachers_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The recorded teachers that give embeddings, of images and texts or of one of these, in the job's order."""
    teachers = config.get("dr_pipeline", {}).get("teachers", [])
    return [teacher for teacher in teachers if teacher.get("output", "embedding") == "embedding"]


def describe_float8(ours: dict[str, Any]) -> Iterator[str]:
    """A sentence about each teacher that computed in float8, by a config's block `dr_pipeline`, damaged or not."""
    teachers = ours.get("teachers")
    for teacher in teachers if isinstance(teachers, list) else []:
        try:
            error = Float8Error.model_validate(teacher["float8_error"])
        except (KeyError, TypeError, ValidationError):
            continue
        yield (
            f"{teacher['name']} computed in float8: its embeddings are {error.mean:.2g} from those in bfloat16 "
            f"on average, {error.worst:.2g} at worst (1 - cosine, on a few images and texts)"
        )


class ConfigJson:
    """The config.json of a job's output: a run claims the output by it, and completes it."""

    def __init__(self, job: Job):
        self._job = job
        self._storage = Storage(job.output.storage)
        self._paths = OutputPaths(job.output.path)

    def job_with_stored_digests(self) -> Job:
        """The job with config.json's digests of model files, where that gives the job that made the shards there are.

        A file may be readable on one machine alone, and a digest that is missing for that makes no other job. So
        config.json decides which files have a digest; where both sides have one, the job's own stays.
        """
        identity = self._read_intact().get("dr_pipeline", {}).get("identity", {})
        known: dict[str, list[Card]] = {kind: [] for kind in _MODELS}
        for kind in _MODELS:
            cards, stored = getattr(self._job, kind), identity.get(kind, [])
            if len(cards) != len(stored):
                return self._job
            for card, model in zip(cards, stored, strict=True):
                digests = {name: card.digests.get(name, digest) for name, digest in model.get("digests", {}).items()}
                known[kind].append(card.model_copy(update={"digests": digests}))
        job = self._job.model_copy(update={kind: tuple(cards) for kind, cards in known.items()})
        return job if job != self._job and Reports.of(job).shards() else self._job

    def refusal(self) -> str | None:
        """Why this job may not add shards to its output: another configuration made those that are there.

        None when it may: the configuration is the same, or no shard was ever committed.
        """
        root = self._paths.root
        config = read_config(root, self._storage)
        if "dr_pipeline" not in config:
            return None
        stored, identity = config["dr_pipeline"].get("identity", {}), self._job.identity()
        changed = differing_keys(stored, identity)
        pillow = other_pillow(config)
        if not (changed or pillow) or not self._storage.files(self._paths.reports):
            return None
        if not changed:
            return f"{root}: {pillow}. Or choose another output.path, or redo all of its shards with --force."
        return "\n".join(
            [
                f"{root} was made by another configuration:",
                *(f"  {_with_model_name(line, identity, stored)}" for line in changed),
                "Choose another output.path, or redo all of its shards with --force.",
            ]
        )

    def claim(self, force: bool) -> None:
        """Describe this job in the output, before any model loads; with `force` drop another configuration's reports.

        Raises ConfigError when another configuration made the output's shards, or it cannot be written.
        """
        refusal = self.refusal()
        if refusal and not force:
            raise ConfigError(refusal)
        try:
            if refusal:
                self._storage.delete_folder(self._paths.reports)
            config = self._read_intact()
            is_ours = config.get("dr_pipeline", {}).get("fingerprint") == self._job.fingerprint()
            if not is_ours or other_pillow(config):
                config = describe(self._job)
            self._write(config)  # also where it stays as it is: an output that cannot be written shows here
        except OSError as error:
            raise ConfigError(f"output.path {self._paths.root} cannot be written: {error}") from error

    def check_pillow(self) -> None:
        """Raise ConfigError where this process would make other views than the output's, by another Pillow."""
        pillow = other_pillow(read_config(self._paths.root, self._storage))
        if pillow:
            raise ConfigError(f"{self._paths.root}: {pillow}")

    def has_teachers(self) -> bool:
        """Whether config.json has all that only the loaded teachers tell."""
        teachers = self._read_intact()["dr_pipeline"]["teachers"]
        return all(value is not None for teacher in teachers for value in teacher.values())

    def write_teachers(self, cards: tuple[TeacherCard, ...]) -> None:
        """Store the completed cards of the loaded teachers, which configure a student."""
        config = describe(self._job.model_copy(update={"teachers": cards}))
        config["dr_pipeline"]["num_samples"] = num_samples_of(self._read_intact()) or 0
        self._write(config)

    def write_totals(self, num_samples: int, manifest_sha256: str) -> None:
        """Store how many samples the dataset holds, and the SHA-256 of its table of shards."""
        config = self._read_intact() or describe(self._job)
        config["dr_pipeline"] |= {"num_samples": num_samples, "manifest_sha256": manifest_sha256}
        self._write(config)

    def _read_intact(self) -> dict[str, Any]:
        """{} where there is none, or where a byte was changed: a damaged file is never given a checksum that fits."""
        uri = self._paths.config
        data = self._storage.read(uri) if self._storage.exists(uri) else b""
        return checksum.load(data) if checksum.is_intact(data) else {}

    def _write(self, config: dict[str, Any]) -> None:
        self._storage.write(self._paths.config, checksum.dump(config))


def describe(job: Job) -> dict[str, Any]:
    """The config.json of a job's output before its run; values that only loaded teachers tell are None."""
    recipe = job.augmentation
    # The pixels are normalized as for the first CLIP, else for the first teacher of images.
    first = min(job.teachers, key=lambda card: (card.encodes is not None, card.encodes == ("texts",)))
    tree = {
        "model_name": ",".join(str(card.options.get("model", card.name)) for card in job.teachers),
        "pretrained": ",".join(str(card.options.get("weights", card.name)) for card in job.teachers),
        "num_samples": recipe.num_views,
        "reinforce": {
            "image_augmentation": {
                "normalize": {"mean": first.mean, "std": first.std},
                **describe_transforms(recipe),
                "to_rgb": {"enable": True},
                "to_tensor": {"enable": True},
            }
        },
        "dr_pipeline": {
            "format": FORMAT,
            "name": job.name,
            "fingerprint": job.fingerprint(),
            "layout": job.output.layout,
            "precision": job.output.precision,
            "seed": job.seed,
            "num_samples": 0,
            "num_views": recipe.num_views,
            "pillow": PIL.__version__,
            "caption_keys": [writer.caption_key for writer in job.writers],
            "teachers": [
                card.model_dump(
                    mode="json",
                    include=_TEACHER_FIELDS,
                    exclude=_IMAGE_FIELDS if card.encodes == ("texts",) else None,
                )
                for card in job.teachers
            ],
            "identity": job.identity(),
        },
    }
    return without_secrets_in(tree)


def job_of(config: dict[str, Any]) -> Job:
    """The job that a config.json describes, but for the places of input and output and the workers, which it lacks.

    Raises ConfigError when another program wrote it, or it describes no job.
    """
    if "dr_pipeline" not in config:
        raise ConfigError("config.json has no dr_pipeline block: another program made this dataset")
    try:
        ours = config["dr_pipeline"]
        identity = ours["identity"]
        teachers = {teacher["name"]: teacher for teacher in ours["teachers"]}
        return Job.model_validate(
            {
                **{key: identity[key] for key in ("seed", "captioners", "augmentation", "errors")},
                "name": ours["name"],
                "rewriters": identity.get("rewriters", ()),
                "input": {"shards": (), **identity["input"]},
                "output": {"path": "", **identity["output"]},
                "scorers": identity.get("scorers", ()),
                "teachers": [{**card, **teachers[card["name"]]} for card in identity["teachers"]],
                "workers": {"precision": identity["precision"]},
            }
        )
    except ValidationError as error:
        raise ConfigError(f"config.json describes no job: {'; '.join(what_is_wrong(Job, error))}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"config.json describes no job: {reason(error)}") from error


def contradictions(config: dict[str, Any]) -> Iterator[str]:
    """Sentences about the parts of a config.json that do not follow from the identity in it."""
    try:
        described = describe(job_of(config))
    except ConfigError as error:
        yield str(error).removeprefix("config.json ")
        return
    ours = config["dr_pipeline"]
    if fingerprint_of(ours["identity"]) != ours.get("fingerprint"):
        yield "its fingerprint is not that of the identity beside it"
        return
    found, expected = dict(flatten(config)), dict(flatten(described))
    unknown = found.keys() - expected.keys() if ours.get("format", FORMAT) == FORMAT else set()  # else a later one's
    for key in sorted((expected.keys() | unknown) - _BESIDE_THE_JOB):
        if found.get(key, ...) != expected.get(key, ...):
            yield f"{key} is not what the identity in it says"


def _with_model_name(line: str, *identities: dict[str, Any]) -> str:
    """A line of `differing_keys` with the model's name in it, if it is about one of a model's files."""
    if match := _DIGEST_OF_A_MODEL.match(line):
        kind, index = match[1], int(match[2])
        model = next(identity[kind][index] for identity in identities if index < len(identity[kind]))
        return f"{match[0]} of {model['name']}{line[match.end() :]}"
    return line
