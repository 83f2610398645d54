"""Bounds the values of a label: each is a series in memory, and users may choose models, and apps codes."""

from threading import Lock
from typing import Final

_MOST_VALUES: Final = 64  # of a label whose values no list bounds


class Bounded:
    """Lets the first values of a label through. Safe to share between threads.

    Args:
        other: instead of those that come later.
    """

    def __init__(self, other: str) -> None:
        self._other = other
        self._known: set[str] = set()
        self._lock = Lock()

    def __call__(self, value: str) -> str:
        """Return the value, or the other."""
        if value in self._known:
            return value
        with self._lock:
            if value not in self._known and len(self._known) >= _MOST_VALUES:
                return self._other
            self._known.add(value)
        return value
