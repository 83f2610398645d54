"""How many calls of this process run at once on a route that recovers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Rooms:
    """Counts the calls of one provider by route. Safe to share between threads."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def taken(self, route: str, most: int | None) -> Iterator[bool]:
        """Count a call while the block runs; give whether there is room for it.

        Args:
            route: where it goes.
            most: calls that may run there at once; None: any number.
        """
        with self._lock:
            has_room = most is None or self._running[route] < most
            self._running[route] += 1
        try:
            yield has_room
        finally:
            with self._lock:
                self._running[route] -= 1
                if not self._running[route]:
                    del self._running[route]
