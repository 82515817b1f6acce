"""What `verify` found."""

from dataclasses import dataclass, field

from dr_pipeline.words import plural


@dataclass
class Findings:
    """What was read, and what is wrong with it as (file, key, problem)."""

    num_shards: int = 0
    num_samples: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    num_recomputed: int = 0
    """Samples that were made again and compared."""
    remarks: list[str] = field(default_factory=list)
    """What was measured on the way, and what could not be checked."""

    def add(self, file: str, problem: str, key: str = "") -> None:
        """Add a problem of a file, named relative to the dataset, or of the sample with this key in it."""
        self.problems.append((file, key, problem))

    @property
    def bad_files(self) -> set[str]:
        """The files that something is wrong with."""
        return {file for file, _, _ in self.problems}

    def __str__(self) -> str:
        """A line a problem and a remark, and the verdict."""
        lines = [f"{file}: {key}: {problem}" if key else f"{file}: {problem}" for file, key, problem in self.problems]
        verdict = plural(len(self.problems), "problem") if self.problems else "no problem"
        read = f"{plural(self.num_samples, 'sample')} in {plural(self.num_shards, 'shard')} read: {verdict}"
        return "\n".join([*lines, *self.remarks, read])
