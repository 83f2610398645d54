"""What the domain needs from outside, and the contract that every adapter keeps.

A storage applies what ``decide`` decides, and adds no rule of its own. Contracts say what becomes true, when it is
allowed, what a repeat does, what is raised, and whether coming back helps.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable
from uuid import UUID

from ai_retry.domain.change import Amend, Begin, CloseOver, Keep, Reply, Settle, Taken
from ai_retry.domain.model import Answer, Context, GenerationStatus, Installation, QuotaRule, Snapshot
from ai_retry.domain.queue_model import QueueState
from ai_retry.domain.recovery import Cursor, FoundPage


class Storage(Protocol):
    """Where generations, attempts and quotas live, for changes that ``decide`` makes. One method is one transaction.

    The storage's own time decides everything: snapshots carry instants of it, and changes carry durations. A change is
    compared with what is there before anything is written; a reply that is not applied carries the fresh snapshot. A
    change that was applied before is stale: its token, in the fresh snapshot, says so.

    All methods raise ``StorageUnavailable`` (nothing was written; safe to repeat) and ``StorageOutcomeUnknown`` (safe
    to repeat, for the same reason). A generation's row that the app holds is ``StorageUnavailable``.
    """

    def load(
        self, user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None, *, creating: bool = False
    ) -> Snapshot | None:
        """Read one generation of any user, and that user's quota; None when it is absent. Writes nothing.

        Args:
            user_id: who asks.
            generation_id: which generation.
            rule: what counts as used.
            token: the snapshot's ``mine`` is the number of the attempt that has it.
            creating: read a generation that is absent as a begin finds it that creates it, for the user who asks: with
                its attempts, if it was deleted, and without prompt and model, which the caller has.
        """
        ...

    def browse(
        self, user_id: UUID, statuses: frozenset[GenerationStatus], before: Cursor, limit: int, rule: QuotaRule
    ) -> FoundPage:
        """List a user's generations that say one of these statuses, but hidden ones, the newest first. Writes nothing.

        A page is bounded in rows that are looked at, and in bytes, so that it may be short, or empty, although more
        follow. One that can't be read is listed as such. Snapshots have no session, and stored answers no output.

        Args:
            user_id: whose they must be.
            statuses: what they may say.
            before: where the page begins: what was created then, or later, is left out.
            limit: of the page.
            rule: what counts as used.
        """
        ...

    def begin(self, change: Begin | CloseOver) -> Reply:
        """Close what is over for a user, then open an attempt or run the queued one: see ``Begin``.

        The reply of one that has created its generation carries the snapshot, with what the app has stored.

        Raises:
            NotConfigured: a retry can't be accepted, since there is no queue; or the app's binding can't create the
                generation. Nothing was written but what is true anyway.
            TooManyParallel: the app's own tables let the user do one thing at a time; the same.
            SessionConflict: the app refuses another generation of this user, who can cure it; the same.
        """
        ...

    def settle(self, change: Settle) -> Reply:
        """Close one attempt, with its session or without: see ``Settle``. Counts however late, while it is open."""
        ...

    def amend(self, change: Amend) -> Reply:
        """Change an open attempt or a stored answer: see ``PutBack``, ``Postpone``, ``Renew`` and ``Discard``."""
        ...

    def keep(self, change: Keep) -> None:
        """Store a paid answer that could not be settled: see ``Keep``. A repeat changes nothing."""
        ...

    def installation(self) -> Installation:
        """Return which database it is, so that what waits on a disk is sent to no other one. Reads only."""
        ...


class QueueStorage(Storage, Protocol):
    """A storage that workers use, too."""

    def take(self, limit: int, visibility: timedelta, rule: QuotaRule) -> Sequence[Taken]:
        """Take messages, and the snapshots of what they are about; others don't see them for ``visibility``.

        Raises:
            NotConfigured: there is no queue.
        """
        ...

    def overdue(self, limit: int) -> Sequence[UUID]:
        """List users for whom ``CloseOver`` has something to do. Reads only."""
        ...

    def state(self) -> QueueState:
        """Count what waits and what runs of accepted retries. Reads only."""
        ...


@runtime_checkable
class Listens(Protocol):
    """A storage that may hear of messages as they come. What waits for its time is found by looking."""

    def listening(self, heard: Callable[[], object]) -> AbstractContextManager[None]:
        """Call ``heard``, from any thread, when messages may have come, for as long as the context lasts."""
        ...


class AiProvider(Protocol):
    """The one slow, paid, unreliable call."""

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Ask for a complete answer that is valid under ``context.response_schema``.

        Everything, repeats of a request that certainly did not generate included, ends within ``timeout``.
        Not idempotent: a repeat may be paid for again. ``idempotency_key`` goes along for providers that honour one.

        Raises:
            GenerationFailed: nothing else; its ``failure`` says what is known.
        """
        ...


class Clock(Protocol):
    """Time as this process sees it. It never decides a lease, a wait or a quota: the storage's time does."""

    def now(self) -> datetime:
        """Wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
