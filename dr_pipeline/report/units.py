"""Times, sizes, amounts of money, shares and counts in words."""

from datetime import UTC, datetime, timedelta

_LONGEST_SECONDS = timedelta(days=365_000).total_seconds()
"""A forecast by the first bytes of a large job may be of any length."""


def in_time(seconds: float) -> str:
    """A time in seconds, minutes, hours or days, whichever is read most easily."""
    for unit, length, most in (("seconds", 1, 60), ("minutes", 60, 60), ("hours", 3600, 100)):
        if (count := seconds / length) < most:
            return f"{count:.3g} {unit}"
    return f"{seconds / 86400:,.0f} days"


def in_utc(seconds: float) -> str:
    """A time since 1970 as a date with hours and minutes."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def in_clock(seconds: float) -> str:
    """A time as a clock shows it, to the second: how long something takes that is going on, or has taken."""
    return str(timedelta(seconds=round(min(seconds, _LONGEST_SECONDS))))


def in_bytes(count: float) -> str:
    """A number of bytes in B, kB, MB, GB, TB or PB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} PB"


def in_money(amount: float, currency: str) -> str:
    """An amount with its currency: to the hundredth below a thousand, and to two digits below one."""
    return f"{amount:.2g} {currency}" if 0 < amount < 1 else f"{amount:,.{2 if amount < 1000 else 0}f} {currency}"


def share(part: float, whole: float) -> str:
    """A part in per cent: to the tenth, and to two digits below that."""
    if not whole:
        return "–"
    return f"{100 * part / whole:.2g} %" if 0 < part / whole < 0.001 else f"{100 * part / whole:.1f} %"
