"""What `verify` found."""

from dataclasses import dataclass, field


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

    def add(self, file: str, key: str, problem: str) -> None:
        """Enter a problem; the file is relative to the dataset, the key empty where the file as a whole is meant."""
        self.problems.append((file, key, problem))

    @property
    def bad_files(self) -> set[str]:
        """The files that something is wrong with."""
        return {file for file, _, _ in self.problems}
