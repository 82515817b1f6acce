"""Numbers with their nouns, in every message alike."""


def plural(count: float, noun: str) -> str:
    """A count of things, whose noun has an `s` but for one: `1 shard`, `2,000 shards`, `3 classes`, `0.5 GPUs`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    shown = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{shown} {noun}{ending}"
