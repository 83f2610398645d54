"""What forms and queries say, read and bounded. What can't be used is refused with 400, before anything is done."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from flask import request

from ai_retry.domain.model import Waiver
from ai_retry.operate.acting import checked_reason
from ai_retry.problems import Problem, Refused
from ai_retry.recovery.when import read_duration

LONGEST: Final = 255  # characters of a field
_DIGITS: Final = 9


def unusable(message: str) -> Refused:
    """Refuse with 400."""
    return Refused(Problem(code="INVALID_REQUEST", http_status=400, message=message))


@contextmanager
def usable() -> Iterator[None]:
    """Refuse with 400 what the functions below call unusable, in their words; those name the argument."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:  # a decoder's: its text may hold anything
            raise
        raise unusable(f"{error}. Nothing was changed.") from None


def query(name: str, default: str = "") -> str:
    """Read one word of the query."""
    return _bounded(request.args.get(name, default), name)


def field(name: str, default: str = "") -> str:
    """Read one field of the form."""
    return _bounded(request.form.get(name, default), name)


def reason() -> str:
    """Read why an operator acts."""
    with usable():
        return checked_reason(request.form.get("reason", ""))


def whole(name: str, lowest: int, highest: int, default: int | None = None) -> int:
    """Read a whole number of the form."""
    text = field(name)
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS and lowest <= int(text) <= highest):
        raise unusable(f"{name} must be a whole number from {lowest} to {highest}.")
    return int(text)


def duration(name: str) -> timedelta:
    """Read how long: 90m, 24h or 7d."""
    found = read_duration(field(name))
    if found is None:
        raise unusable(f"{name} must be a duration such as 90m, 24h or 7d.")
    return found


def lifted() -> Mapping[str, Any]:
    """Read which limits an operator lifts."""
    words = request.form.getlist("waive")
    if not set(words) <= set(Waiver):
        raise unusable("waive must be backoff or quota.")
    return {"waive": frozenset(Waiver(each) for each in words), "charge": "no_charge" not in request.form}


def refresh(default: int, choices: tuple[int, ...]) -> int:
    """Read how often the page refreshes itself, in seconds; 0: not."""
    text = request.args.get("refresh", "")
    return int(text) if text in map(str, choices) else default


def _bounded(text: str, name: str) -> str:
    text = text.strip()
    if len(text) > LONGEST or not text.isprintable():
        raise unusable(f"{name} must be one line of at most {LONGEST} characters.")
    return text
