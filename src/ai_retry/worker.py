"""A process that runs accepted retries: takes messages, runs each in a thread, and stops without losing anything.

It decides nothing: ``domain.decide`` does. No state of its own matters: killed at any line, its attempts are abandoned
when their leases end, and the accepted retries go on, here or on another machine.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from ai_retry.config import DEFAULT_CONCURRENCY
from ai_retry.domain.change import CloseOver, Postpone, Taken
from ai_retry.domain.decide.route import RouteOf
from ai_retry.domain.drive import Renewing
from ai_retry.domain.errors import AiRetryError, NotConfigured, SessionRejected, StorageFailure
from ai_retry.domain.model import UNKNOWN_ORIGIN
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, Listens, QueueStorage
from ai_retry.domain.queue import run_taken
from ai_retry.domain.queue_model import QueueState
from ai_retry.domain.reader import ContextFrom, ContextUnusable, ReaderFailed
from ai_retry.events import (
    RouteWaits,
    TidyFailed,
    WorkerFailed,
    WorkerPolled,
    WorkerStarted,
    WorkerStopped,
    WorkerWaits,
)
from ai_retry.logs import LOG
from ai_retry.looks import Looks
from ai_retry.rejections import Rejections
from ai_retry.tables import printable
from ai_retry.watching.loop_events import LoopEvents
from ai_retry.watching.reports import Reports

_VISIBILITY_MARGIN: Final = timedelta(seconds=5)  # beyond the lease
_TIDY_EVERY: Final = 30.0  # seconds
_TIDY_USERS: Final = 100  # whose attempts that are over are closed, and lost messages sent again, at once
_STORAGE_WAITS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries while the storage is unavailable
_REJECTED_WAIT: Final = 60.0  # seconds between paid calls while every session is rejected
_CRASHED_WAIT: Final = timedelta(seconds=60)  # before a message is looked at again that met a bug


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Runs accepted retries until it is stopped. Any number of them may run, on any number of machines.

    Args:
        storage: where attempts and messages live.
        ai: which provider is called.
        clock: measures durations.
        policy: the numbers behind the rules; the same as the app's.
        context_from: reads what to ask out of a generation.
        route_of: names the provider and model that a context asks.
        renewing: renews the leases of running attempts; None: calls end within the policy's lease.
        concurrency: attempts that run at once here.
        tidy: called every half minute, such as to settle what waits in the spool.
        reports: gets the events.
    """

    storage: QueueStorage
    ai: AiProvider
    clock: Clock
    policy: RetryPolicy
    context_from: ContextFrom
    route_of: RouteOf
    renewing: Renewing | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    tidy: Callable[[], object] = lambda: None
    reports: Reports = field(default_factory=lambda: Reports(LOG))

    def run(self, stop: threading.Event, *, grace: timedelta | None = None) -> bool:
        """Work until ``stop`` is set; then give back what was not begun, and let what runs end.

        While the storage is unavailable it waits. Safe to repeat.

        Args:
            stop: ends it.
            grace: how long to wait then; None: until every call has ended, which takes its deadline at most.

        Returns:
            Whether everything has ended. Else attempts still run in threads of this process: end it, so that their
            leases are not renewed any more, and others take over. What became of their calls is unknown.

        Raises:
            NotConfigured: there is no queue, or an operator has to act first.
        """
        return _Run(self, stop).run(grace)


class _Run:
    """One run of a worker: its free places and its threads."""

    def __init__(self, worker: Worker, stop: threading.Event) -> None:
        self._worker = worker
        self._emit = worker.reports.emit
        self._stop = stop
        self._changed = threading.Condition()
        self._looks = Looks(stop)
        self._free = worker.concurrency
        self._failures = 0
        self._tidied_at = float("-inf")
        self._rejections = Rejections()

    def run(self, grace: timedelta | None) -> bool:
        self._emit(WorkerStarted(concurrency=self._worker.concurrency))
        threads = ThreadPoolExecutor(self._worker.concurrency, thread_name_prefix="ai_retry")
        storage = self._worker.storage
        try:
            with storage.listening(self._looks.announced) if isinstance(storage, Listens) else nullcontext():
                self._serve(threads)
        finally:
            left = self._finish(threads, grace)
        self._emit(WorkerStopped(left=left))
        return not left

    def _serve(self, threads: ThreadPoolExecutor) -> None:
        while not self._stop.is_set():
            self._looks.begin()
            try:
                self._tidy()
                taken = self._take()
                for each in taken:
                    self._begin(threads, each)
                self._failures = 0
            except StorageFailure as error:
                self._wait_for_storage(error)
            else:
                self._looks.wait(found=bool(taken))

    def _finish(self, threads: ThreadPoolExecutor, grace: timedelta | None) -> int:
        """Wait for what runs, for so long; return how much still runs."""
        with self._changed:
            seconds = grace.total_seconds() if grace is not None else None
            self._changed.wait_for(lambda: self._free == self._worker.concurrency, timeout=seconds)
            left = self._worker.concurrency - self._free
        threads.shutdown(wait=not left)
        return left

    def _take(self) -> Sequence[Taken]:
        """Wait for a free place, then take as many messages as there are places."""
        with self._changed:
            while self._free == 0 and not self._stop.is_set():
                self._changed.wait(timeout=0.5)
            places = self._free
        if (cause := self._rejections.cause) is not None:
            places = self._wait_for_operator(cause)
        if self._stop.is_set():
            return []
        worker = self._worker
        taken = worker.storage.take(places, worker.policy.lease + _VISIBILITY_MARGIN, worker.policy.quota)
        self._emit(WorkerPolled(taken=len(taken)))
        return taken

    def _wait_for_operator(self, cause: str) -> int:
        """Slow down while the app's tables reject every session; return how many messages to take."""
        self._emit(WorkerWaits(code=SessionRejected.code, cause=cause, wait_seconds=_REJECTED_WAIT))
        self._stop.wait(_REJECTED_WAIT)
        return 1

    def _begin(self, threads: ThreadPoolExecutor, taken: Taken) -> None:
        if self._stop.is_set():
            self._put_back(taken, timedelta(0))  # for another worker
            return
        with self._changed:
            self._free -= 1
        threads.submit(self._work, taken).add_done_callback(self._ended)

    def _ended(self, _: Future[None]) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()
        self._looks.again()  # the user's next message came with the settle

    def _work(self, taken: Taken) -> None:
        worker, message = self._worker, taken.message
        queued = taken.snapshot.last_attempt if taken.snapshot is not None else None
        watch = LoopEvents(
            worker.reports,
            "run",
            worker.clock.monotonic,
            user_id=message.user_id,
            generation_id=message.generation_id,
            origin=queued.origin if queued is not None else UNKNOWN_ORIGIN,
            snapshot=taken.snapshot,
        )
        try:
            with watch:
                self._run_taken(taken, watch)
        except AiRetryError as error:
            self._failed(watch, error)
        except Exception as error:  # noqa: BLE001 - the outermost place of a thread: the worker goes on
            self._emit(WorkerFailed(**watch.named(), code="INTERNAL", reason=type(error).__qualname__))
            self._put_aside(taken, watch)

    def _run_taken(self, taken: Taken, watch: LoopEvents) -> None:
        worker = self._worker
        run_taken(
            taken,
            storage=worker.storage,
            ai=worker.ai,
            clock=worker.clock,
            policy=worker.policy,
            context_from=worker.context_from,
            route_of=worker.route_of,
            renewing=worker.renewing,
            watches=[watch, self._rejections],
        )

    def _failed(self, watch: LoopEvents, error: AiRetryError) -> None:
        """Report what failed: of what an operator has to act on, its reason and place, too."""
        is_ours = isinstance(error, NotConfigured | ContextUnusable)
        wait = watch.postponed_for
        self._emit(
            WorkerFailed(
                **watch.named(),
                code=error.code,
                reason=printable(error) if is_ours else None,
                at=error.place if isinstance(error, ReaderFailed) and error.place else None,
                route=watch.route,
                wait_seconds=wait.total_seconds() if wait is not None else None,
                until=watch.until(wait) if wait is not None else None,
            )
        )

    def _put_aside(self, taken: Taken, watch: LoopEvents) -> None:
        try:
            self._put_back(taken, _CRASHED_WAIT)
        except AiRetryError as error:
            self._failed(watch, error)

    def _put_back(self, taken: Taken, wait: timedelta) -> None:
        self._worker.storage.amend(Postpone(message=taken.message, wait=wait))

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
            for user_id in worker.storage.overdue(_TIDY_USERS):
                if not self._stop.is_set():
                    self._close_over(user_id)
            worker.tidy()
            self._report_routes(worker.storage.state())
        except StorageFailure as error:
            self._emit(TidyFailed(code=error.code))

    def _close_over(self, user_id: UUID) -> None:
        """Close what is over for one user; what fails for one stops the tidying of no other."""
        try:
            reply = self._worker.storage.begin(CloseOver(user_id=user_id))
            self._worker.reports.closed_over(reply.closed)
        except AiRetryError as error:
            self._emit(TidyFailed(code=error.code, user_id=user_id))

    def _report_routes(self, state: QueueState) -> None:
        for each in state.outages:
            self._emit(
                RouteWaits(
                    route=each.route,
                    failures=each.failures,
                    slots=each.slots,
                    parked=state.parked,
                    until=each.not_before,
                )
            )

    def _wait_for_storage(self, error: StorageFailure) -> None:
        wait = _STORAGE_WAITS[min(self._failures, len(_STORAGE_WAITS) - 1)]
        self._failures += 1
        self._emit(WorkerWaits(code=error.code, wait_seconds=wait))
        self._stop.wait(wait)
