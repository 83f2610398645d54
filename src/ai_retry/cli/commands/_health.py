"""Whether a worker is well: it reads the queue, and has looked for messages lately."""

import json
from collections.abc import Callable
from threading import Lock
from time import monotonic

from ai_retry.cli.commands._ports import Answer
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.queue_model import QueueState
from ai_retry.events import Event, WorkerPolled, WorkerWaits

_READ_EVERY = 1.0  # seconds at least: whoever asks more often takes no connection from what is to be settled
_LATE = 90.0  # seconds beyond a call's deadline: a worker whose places are all taken does not look


class WorkerHealth:
    """A hook that notes when a worker looked last, and the page that says so.

    Args:
        deadline: seconds that a call may take.
        clock: seconds, of a clock that never goes back.
    """

    def __init__(self, deadline: float, clock: Callable[[], float] = monotonic) -> None:
        self._late, self._clock = deadline + _LATE, clock
        self._polled_at = clock()
        self._cause: str | None = None

    def __call__(self, event: Event) -> None:
        """Note it."""
        if isinstance(event, WorkerPolled):
            self._polled_at, self._cause = self._clock(), None
        elif isinstance(event, WorkerWaits):
            self._cause = event.code

    def page(self, state: Callable[[], QueueState]) -> Callable[[str], Answer]:
        """Return what answers ``/healthz``: 200, or 503 with what is wrong."""
        looked = _Looked(state, self._clock)

        def answer(_: str) -> Answer:
            waiting, failed = looked()
            age, cause = self._clock() - self._polled_at, failed or self._cause
            is_well = waiting is not None and age <= self._late
            document = {
                "status": "ok" if is_well else "unavailable",
                "lastPollSeconds": round(age, 1),
                "due": waiting,
                "code": cause,
            }
            return 200 if is_well else 503, "application/json", json.dumps(document).encode()

        return answer


class _Looked:
    """What was seen of the queue lately: how many attempts are due, or the code of what failed."""

    def __init__(self, state: Callable[[], QueueState], clock: Callable[[], float]) -> None:
        self._state, self._clock = state, clock
        self._lock = Lock()
        self._looked_at = float("-inf")
        self._seen: tuple[int | None, str | None] = (None, None)

    def __call__(self) -> tuple[int | None, str | None]:
        """Look again if that is due: one thread does, the others wait for it."""
        with self._lock:
            if self._clock() - self._looked_at >= _READ_EVERY:
                self._seen = self._look()
                self._looked_at = self._clock()
            return self._seen

    def _look(self) -> tuple[int | None, str | None]:
        try:
            return self._state().due, None
        except AiRetryError as error:
            return None, error.code
