"""How the pages write values: instants, durations, numbers and costs; what is unknown is a dash."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from markupsafe import Markup

UNKNOWN = "\N{EN DASH}"
_LONGEST = 200  # characters of a value
_LONGEST_ADDRESS = 2_000
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def utc(instant: datetime | None) -> str:
    """Write an instant for people."""
    return UNKNOWN if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(instant: datetime) -> str:
    """Write it for programs, as ``<time datetime>`` has it."""
    return instant.astimezone(UTC).isoformat(timespec="seconds")


def span(duration: timedelta | float | None) -> str:
    """Write a duration in its two largest units: 1 h 30 min; below a second, in milliseconds."""
    if duration is None:
        return UNKNOWN
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if abs(seconds) < 1:
        return f"{round(seconds * 1000)} ms"
    whole, parts = round(abs(seconds)), []
    for size, unit in _UNITS:
        if whole >= size:
            parts.append(f"{whole // size} {unit}")
            whole %= size
    return " ".join(parts[:2])


def ago(instant: datetime | None, now: datetime) -> str:
    """Write how long ago it was, or how soon it is."""
    if instant is None:
        return UNKNOWN
    passed = now - instant
    return f"{span(passed)} ago" if passed >= timedelta(0) else f"in {span(-passed)}"


def number(value: float | Decimal | None) -> str:
    """Write a number with its thousands apart."""
    return UNKNOWN if value is None else f"{value:,}"


def cost(value: Decimal | float | None) -> str:
    """Write a cost as the provider counts it; no currency is known."""
    if value is None:
        return UNKNOWN
    text = f"{Decimal(str(value)):,.6f}".rstrip("0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:0<2}"


def share(part: int, whole: int) -> str:
    """Write a share in percent."""
    return UNKNOWN if not whole else f"{100 * part / whole:.0f} %"


def short(value: UUID | None) -> str:
    """Shorten an id to its beginning."""
    return UNKNOWN if value is None else str(value)[:8]


class Whole(str):
    """Words that were bounded where they were made: a page shows all of them."""

    __slots__ = ()


def within(address: str) -> Whole:
    """Bound an address: without its query, should that be longer than is read."""
    return Whole(address if len(address) <= _LONGEST_ADDRESS else f"{address.partition('?')[0]}?")


def lines(value: object, most: int = 2_000) -> Whole:
    """Write any value without control characters, but for ends of lines, and not more of it than that."""
    return Whole(_readable(_clipped(str(value), most)))


def bounded(value: object) -> object:
    """Bound what a page shows of a value: users and apps may write a megabyte, or what turns the words around it."""
    if isinstance(value, str) and not isinstance(value, Whole | Markup):
        return _readable(_clipped(value, _LONGEST))
    return value


def _readable(text: str) -> str:
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS}"
