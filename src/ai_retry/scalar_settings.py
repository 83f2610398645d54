"""How numbers, durations, truths and paths are written in settings.

Each function reads a value, and raises ``ValueError`` with what it must be; the value is never in the message.
"""

from datetime import timedelta
from pathlib import Path

from ai_retry.provider_settings import matching


def count(text: str) -> int:
    """Read a whole number, not negative."""
    return int(matching(r"[0-9]{1,9}", text, "must be a whole number, not negative"))


def positive(text: str) -> int:
    """Read a whole number, at least 1."""
    return int(matching(r"0*[1-9][0-9]{0,8}", text, "must be a whole number, at least 1"))


def seconds(text: str) -> timedelta:
    """Read a duration."""
    pattern = r"[0-9]{1,9}(\.[0-9]+)?"
    return timedelta(seconds=float(matching(pattern, text, "must be a number of seconds, not negative")))


def yes_or_no(text: str) -> bool:
    """Read a truth."""
    return matching("true|false", text.lower(), "must be true or false") == "true"


def absolute_path(text: str) -> Path:
    """Read a path."""
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path
