"""Numbers with their nouns, in every message alike."""


def plural(count: int, noun: str) -> str:
    """A count of things, whose noun has an `s` but for one: `1 shard`, `2,000 shards`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
