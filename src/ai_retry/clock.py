"""The real clock. It measures and waits; no rule reads it, since the storage's time decides."""

import time
from datetime import UTC, datetime


class SystemClock:
    """This machine's time, as the ``Clock`` port wants it."""

    def now(self) -> datetime:
        """Wall clock, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
