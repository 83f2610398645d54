"""A clock that moves only when a test moves it, so that tests of waits take no time.

No rule of the product may live here.
"""

import threading
from datetime import UTC, datetime, timedelta


class ManualClock:
    """A ``Clock`` under a test's control; ``sleep`` moves it instead of waiting.

    Wall clock and monotonic clock move together; ``monotonic`` begins at 0.0. May be shared between threads.

    Attributes:
        sleeps: the seconds of every ``sleep``, in order.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be aware")
        self.sleeps: list[float] = []
        self._start = start.astimezone(UTC)
        self._elapsed = timedelta(0)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Wall clock, aware, UTC."""
        with self._lock:
            return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the clock was created."""
        with self._lock:
            return self._elapsed.total_seconds()

    def sleep(self, seconds: float) -> None:
        """Move on by ``seconds`` at once, and note it in ``sleeps``."""
        self.advance(timedelta(seconds=seconds))
        with self._lock:
            self.sleeps.append(seconds)

    def advance(self, duration: timedelta) -> None:
        """Move on; a clock never goes back, so a negative duration is a ``ValueError``."""
        if duration < timedelta(0):
            raise ValueError("a clock can't go back")
        with self._lock:
            self._elapsed += duration
