"""A collector of what no process knows: it reads the database, at most every ten seconds."""

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from time import monotonic
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.queue_model import QueueState

CACHED_FOR: Final = 10.0  # seconds


class DatabaseCollector(Collector):
    """Reads the queue's state, and counts the spool's files.

    While the database can't be read, ``ai_retry_database_up`` is 0, and what it would say is absent.

    Args:
        state: reads it.
        spool_files: counts the answers that wait on this machine; None: there is no spool.
        clock: seconds, of a clock that never goes back.
    """

    def __init__(
        self,
        state: Callable[[], QueueState],
        spool_files: Callable[[], int] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._state, self._spool_files, self._clock = state, spool_files, clock
        self._lock = Lock()
        self._read_at: float | None = None
        self._known: QueueState | None = None

    def describe(self) -> Iterable[Metric]:
        """Name nothing: to be registered, it need not read."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give what was read in the last ten seconds, else read again: one thread reads, the others wait for it."""
        with self._lock:
            now = self._clock()
            if self._read_at is None or now - self._read_at >= CACHED_FOR:
                self._known, self._read_at = self._read(), now
            state = self._known
        yield _gauge("ai_retry_database_up", "Whether the queue could be read", state is not None)
        if self._spool_files is not None:
            yield _gauge("ai_retry_spool_files", "Answers that wait on this machine's disk", self._spool_files())
        if state is not None:
            yield from _of_state(state)

    def _read(self) -> QueueState | None:
        try:
            return self._state()
        except AiRetryError:
            return None  # the gauge says so; the storage's own events and retries do, too


def _of_state(state: QueueState) -> Iterator[Metric]:
    oldest = state.oldest_accepted_at
    age = (state.as_of - oldest).total_seconds() if oldest is not None else 0.0
    yield _gauge("ai_retry_oldest_accepted_age_seconds", "Age of the oldest accepted retry; 0: there is none", age)
    yield _gauge("ai_retry_queued", "Attempts that wait for a worker", state.queued)
    yield _gauge("ai_retry_due", "Of them, those that a worker could begin now", state.due)
    yield _gauge("ai_retry_parked", "Of them, those that wait for a provider", state.parked)
    yield _gauge("ai_retry_running", "Attempts of accepted retries that run", state.running)
    yield _gauge("ai_retry_held_units", "Units that open attempts hold", state.held)
    yield _gauge("ai_retry_kept_answers", "Paid answers that have no session", state.kept)
    yield _gauge("ai_retry_poisoned", "Retries given up in 24 hours, since their workers kept dying", state.poisoned)
    closed = sum(each.not_before > state.as_of for each in state.outages)
    yield _gauge("ai_retry_closed_routes", "Providers and models that are not asked now", closed)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(value))
