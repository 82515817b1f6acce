"""Times and sizes in words."""

from datetime import UTC, datetime


def in_time(hours: float) -> str:
    """A time in seconds, minutes, hours or days, whichever is read most easily."""
    for unit, seconds, most in (("seconds", 1, 60), ("minutes", 60, 60), ("hours", 3600, 100)):
        if (count := hours * 3600 / seconds) < most:
            return f"{count:.3g} {unit}"
    return f"{hours / 24:,.0f} days"


def in_utc(seconds: float) -> str:
    """A time since 1970 as a date with hours and minutes."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def in_bytes(count: float) -> str:
    """A number of bytes in B, kB, MB, GB, TB or PB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} PB"
