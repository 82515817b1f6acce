"""Where all that belongs to an output lies, relative to its root: what is found wrong is told by these names, too.

A shard lies at its own name, `00/00000013.tar`; what is written of it at the same name, in another folder and with
another ending.
"""

CONFIG = "config.json"
CARD = "README.md"
RUN = "run.json"
REPORTS = "reports"
SHARDS = "manifest/shards.parquet"
SAMPLES = "manifest/samples"


def reports(fingerprint: str) -> str:
    """The folder of the reports of one configuration."""
    return f"{REPORTS}/{fingerprint}"


def report(fingerprint: str, shard: str) -> str:
    """A shard's report."""
    return f"{reports(fingerprint)}/{shard.removesuffix('.tar')}.json"


def samples(shard: str) -> str:
    """A shard's table of samples."""
    return f"{SAMPLES}/{shard.removesuffix('.tar')}.parquet"


def shard_of(file: str) -> str:
    """The shard of a report or a table of samples, which is named below its folder."""
    return f"{file.rpartition('.')[0]}.tar"
