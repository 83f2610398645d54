"""Instants and durations as people write them: yesterday, 2026-01-31, 2026-01-31T02:00+00:00, or 90m, 24h, 7d."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeAlias

When: TypeAlias = datetime | timedelta | str

_DURATION = re.compile(r"(\d{1,6})\s*([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_DAYS = {"today": timedelta(0), "yesterday": timedelta(days=1)}


def read_duration(text: str) -> timedelta | None:
    """Read 90m, 24h or 7d; None: it is something else."""
    found = _DURATION.fullmatch(text.strip())
    return int(found[1]) * _UNITS[found[2]] if found else None


def read_instant(value: When | None, name: str, now: datetime) -> datetime | None:
    """Read an instant: aware, ISO 8601 with its offset, a day in UTC, or how long ago it was.

    A day is a date, ``today`` or ``yesterday``, and means its beginning. How long ago is a timedelta, or 90m, 24h, 7d.

    Raises:
        ValueError: names the argument and what it may be.
    """
    if isinstance(value, str):
        value = _read(value, name, now)
    if isinstance(value, timedelta):
        if value <= timedelta(0):
            raise ValueError(f"{name} must be how long ago it was: a positive timedelta")
        try:
            return now - value
        except OverflowError:
            raise ValueError(f"{name} must not be before the year 1") from None
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{name} must have an offset from UTC, such as 2026-01-31T02:00+00:00, or be 90m, 24h or 7d")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name} must be in the years 1 to 9999, in UTC") from None


def _read(text: str, name: str, now: datetime) -> datetime | timedelta:
    if (ago := read_duration(text)) is not None:
        return ago
    if (back := _DAYS.get(text.strip().lower())) is not None:
        return _midnight(now.astimezone(UTC).date() - back)
    try:
        return _midnight(date.fromisoformat(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{name} must be how long ago (90m, 24h, 7d), a day in UTC (yesterday, 2026-01-31), or an instant "
            "such as 2026-01-31T02:00+00:00"
        ) from None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
