"""Where the files of an output lie, below its root:

    config.json                              how the dataset was made
    README.md                                its card, for people and for Hugging Face's tools
    run.json                                 the run that works on it now
    00/00000013.tar                          a shard, under its input's relative path
    reports/<fingerprint>/00/00000013.json   its report
    manifest/samples/00/00000013.parquet     its table of samples
    manifest/shards.parquet                  the table of all shards

`OutputPaths` gives URIs. Problems that `verify` finds are told by the names relative to the root.
"""

CONFIG = "config.json"
CARD = "README.md"
RUN = "run.json"
REPORTS = "reports"
SHARDS = "manifest/shards.parquet"
SAMPLES = "manifest/samples"


class OutputPaths:
    """The URIs of an output's files and folders."""

    def __init__(self, root: str):
        self.root = root
        self.config = f"{root}/{CONFIG}"
        self.card = f"{root}/{CARD}"
        self.reports = f"{root}/{REPORTS}"
        self.shard_table = f"{root}/{SHARDS}"
        self.sample_tables = f"{root}/{SAMPLES}"

    def shard(self, name: str) -> str:
        """A shard's tar."""
        return f"{self.root}/{name}"

    def reports_of(self, fingerprint: str) -> str:
        """The folder of the reports of one configuration."""
        return f"{self.reports}/{fingerprint}"

    def report(self, fingerprint: str, shard: str) -> str:
        """A shard's report."""
        return f"{self.reports_of(fingerprint)}/{shard.removesuffix('.tar')}.json"

    def samples(self, shard: str) -> str:
        """A shard's table of samples."""
        return f"{self.sample_tables}/{shard.removesuffix('.tar')}.parquet"

    def relative(self, uri: str) -> str:
        """The name of a file below the root."""
        return uri.removeprefix(f"{self.root}/")


def shard_of(file: str) -> str:
    """The shard of a report or a table of samples, which is named relative to its folder."""
    return f"{file.rpartition('.')[0]}.tar"
