"""A process that runs accepted retries: reads hints, runs each in a thread, and stops without losing anything.

It decides nothing: ``domain.queue`` does. No state of its own matters: killed at any line, its attempts are abandoned
when their leases end, and the accepted retries go on, here or on another machine.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure
from ai_retry.domain.model import Context
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, QueueStorage
from ai_retry.domain.queue import run_queued
from ai_retry.domain.queue_model import Message, QueueState
from ai_retry.domain.queued_attempt import QueueOutcome
from ai_retry.domain.reader import ContextFrom, ContextUnusable, ReaderFailed
from ai_retry.tables import printable

DEFAULT_CONCURRENCY: Final = 8
_POLL: Final = timedelta(seconds=2)  # one long poll: shorter than the Data API's patience
_VISIBILITY_MARGIN: Final = timedelta(seconds=5)  # beyond the lease
_TIDY_EVERY: Final = 30.0  # seconds
_TIDY_USERS: Final = 100  # who get their lost message back, or are reaped, at once
_STORAGE_WAITS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries while the storage is away
_CRASHED_WAIT: Final = timedelta(seconds=60)  # before a message is looked at again that met a bug
_log = logging.getLogger("ai_retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Runs accepted retries until it is told to stop. Any number of them may run, on any number of machines.

    Args:
        storage: where attempts and messages live.
        ai: whom to ask.
        clock: measures durations.
        policy: the numbers behind the rules; the same as the app's.
        context_from: reads what to ask out of a generation.
        route_of: names the provider and model that a context asks.
        concurrency: attempts that run at once here.
        tidy: called every half minute, such as to settle what waits in the spool.
    """

    storage: QueueStorage
    ai: AiProvider
    clock: Clock
    policy: RetryPolicy
    context_from: ContextFrom
    route_of: Callable[[Context], str]
    concurrency: int = DEFAULT_CONCURRENCY
    tidy: Callable[[], object] = lambda: None

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; then give back what was not begun, and let what runs end within its deadline.

        A storage that is away is waited for. Safe to repeat.

        Raises:
            NotConfigured: there is no queue, or an operator has to act first.
        """
        _Run(self, stop).run()


class _Run:
    """One run of a worker: its free places and its threads."""

    def __init__(self, worker: Worker, stop: threading.Event) -> None:
        self._worker = worker
        self._stop = stop
        self._changed = threading.Condition()
        self._free = worker.concurrency
        self._failures = 0
        self._tidied_at = float("-inf")

    def run(self) -> None:
        _log.info("event=worker_started concurrency=%s", self._worker.concurrency)
        with ThreadPoolExecutor(self._worker.concurrency, thread_name_prefix="ai_retry") as threads:
            while not self._stop.is_set():
                try:
                    self._tidy()
                    for message in self._receive():
                        self._begin(threads, message)
                    self._failures = 0
                except StorageFailure as error:
                    self._wait_for_storage(error)
        _log.info("event=worker_stopped")

    def _receive(self) -> list[Message]:
        """Wait for a free place, then for as many messages as there are places."""
        with self._changed:
            while self._free == 0 and not self._stop.is_set():
                self._changed.wait(timeout=0.5)
            places = self._free
        if self._stop.is_set():
            return []
        worker = self._worker
        visibility = worker.policy.lease + _VISIBILITY_MARGIN
        return list(worker.storage.receive(limit=places, visibility=visibility, poll=_POLL))

    def _begin(self, threads: ThreadPoolExecutor, message: Message) -> None:
        if self._stop.is_set():
            self._worker.storage.postpone(message, delay=timedelta(0))  # for another worker
            return
        with self._changed:
            self._free -= 1
        threads.submit(self._work, message).add_done_callback(self._ended)

    def _ended(self, _: Future[None]) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()

    def _work(self, message: Message) -> None:
        worker = self._worker
        try:
            outcome = run_queued(
                message,
                storage=worker.storage,
                ai=worker.ai,
                clock=worker.clock,
                policy=worker.policy,
                context_from=worker.context_from,
                route_of=worker.route_of,
                on_end=partial(_log_end, message),
            )
        except (NotConfigured, ContextUnusable) as error:
            place = f" at={error.place}" if isinstance(error, ReaderFailed) and error.place else ""
            _log.error(
                "event=worker_failed code=%s generation_id=%s%s reason=%s",
                *(error.code, message.generation_id, place, printable(error)),
            )
        except AiRetryError as error:
            _log.error("event=worker_failed code=%s generation_id=%s", error.code, message.generation_id)
        except Exception as error:  # noqa: BLE001 - the outermost place of a thread: the worker goes on
            _log.error("event=worker_failed code=INTERNAL error=%s", type(error).__qualname__)
            self._put_aside(message)
        else:
            level = logging.DEBUG if outcome in (QueueOutcome.POSTPONED, QueueOutcome.NOTHING) else logging.INFO
            _log.log(level, "event=worker_%s generation_id=%s", outcome, message.generation_id)

    def _put_aside(self, message: Message) -> None:
        try:
            self._worker.storage.postpone(message, delay=_CRASHED_WAIT)
        except AiRetryError as error:
            _log.error("event=worker_failed code=%s generation_id=%s", error.code, message.generation_id)

    def _tidy(self) -> None:
        """Every half minute: what is overdue, lost messages, the spool, and a line about outages.

        What fails waits for the next time: messages don't wait for it.
        """
        worker = self._worker
        now = worker.clock.monotonic()
        if now - self._tidied_at < _TIDY_EVERY:
            return
        self._tidied_at = now
        try:
            self._reap()
            resent = worker.storage.resend(max_live=worker.policy.max_parallel, limit=_TIDY_USERS)
            if resent:
                _log.warning("event=messages_lost users=%s", resent)
            worker.tidy()
            self._tell_outages(worker.storage.queue_state())
        except StorageFailure as error:
            _log.error("event=tidy_failed code=%s", error.code)

    def _reap(self) -> None:
        for _ in range(_TIDY_USERS):
            if self._stop.is_set() or not self._worker.storage.reap():
                return

    def _tell_outages(self, state: QueueState) -> None:
        for each in state.outages:
            _log.warning(
                "event=outage route=%s not_before=%s failures=%s slots=%s parked=%s",
                *(each.route, each.not_before.isoformat(), each.failures, each.slots, state.parked),
            )

    def _wait_for_storage(self, error: StorageFailure) -> None:
        wait = _STORAGE_WAITS[min(self._failures, len(_STORAGE_WAITS) - 1)]
        self._failures += 1
        _log.error("event=worker_waits code=%s seconds=%s", error.code, wait)
        self._stop.wait(wait)


def _log_end(message: Message, reason: AiRetryError) -> None:
    """Write why an accepted retry ended without a call; a context that is missing names the field, and no content."""
    _log.warning(
        "event=accepted_retry_ended code=%s generation_id=%s reason=%s",
        *(reason.code, message.generation_id, printable(reason)),
    )
