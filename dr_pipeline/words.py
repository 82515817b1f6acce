"""Numbers with their nouns, in every message alike."""


def plural(count: int, noun: str) -> str:
    """A count of things, whose noun has an `s` but for one: `1 shard`, `2,000 shards`, `3 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"
