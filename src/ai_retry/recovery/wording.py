"""Searches and spans of time in words for people."""

from collections.abc import Iterator
from datetime import datetime

from ai_retry.domain.recovery import FAILED, Filter

_MINUTE, _SECOND = "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"


def search_in_words(wanted: Filter) -> Iterator[tuple[str, str]]:
    """Write what a search looks for, its range first, then a line for each code, model or other restriction."""
    if wanted.since is not None:
        yield "from", f"{wanted.since:{_SECOND}} UTC"
    yield "before", f"{wanted.until:{_SECOND}} UTC"
    if wanted.statuses != FAILED:
        yield "status", ", ".join(sorted(wanted.statuses))
    if wanted.codes is not None:
        yield from (("code", code) for code in sorted(wanted.codes))
    if wanted.models is not None:
        yield from (("model", model) for model in sorted(wanted.models))
    if wanted.user_id is not None:
        yield "user", str(wanted.user_id)


def span(first: datetime, last: datetime) -> str:
    """Write a range of time in UTC; a day is named once, and seconds only where the minutes are the same."""
    style = _MINUTE if f"{first:{_MINUTE}}" != f"{last:{_MINUTE}}" else _SECOND
    end = style.partition(" ")[2] if first.date() == last.date() else style
    return f"{first:{style}} to {last:{end}} UTC"


def count_of(number: int, noun: str) -> str:
    """Write a number and its noun: 1 user, 2 users."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
