"""The storage port of changes: it applies what ``decide`` decides, and adds nothing of its own.

``ports`` holds the ports that the product calls today; this one replaces their storages.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from ai_retry.domain.change import Amend, Begin, CloseOver, Keep, Reply, Settle, Taken
from ai_retry.domain.model import QuotaRule, Snapshot
from ai_retry.domain.queue_model import QueueState


class ChangeStorage(Protocol):
    """Where generations, attempts and quotas live, for changes that ``decide`` makes. One method is one transaction.

    The storage's own time decides everything: snapshots carry instants of it, and changes carry durations. A change is
    compared with what is there before anything is written; a reply that is not applied carries the fresh snapshot. A
    change that was applied before is stale: its token, in the fresh snapshot, says so.

    All methods raise ``StorageUnavailable`` (nothing was written; safe to repeat) and ``StorageOutcomeUnknown`` (safe
    to repeat, for the same reason). A generation's row that the app holds is ``StorageUnavailable``.
    """

    def load(self, user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None) -> Snapshot | None:
        """Read one generation, whoever owns it, and its owner's quota; None when it is absent. Writes nothing.

        Args:
            user_id: who asks.
            generation_id: which generation.
            rule: what counts as used.
            token: the snapshot's ``mine`` is the number of the attempt that has it.
        """
        ...

    def begin(self, change: Begin | CloseOver) -> Reply:
        """Close what is over for a user, then open an attempt or run the queued one: see ``Begin``.

        Raises:
            NotConfigured: a retry can't be accepted, since there is no queue; nothing was written.
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


class ChangeQueue(ChangeStorage, Protocol):
    """A storage of changes that workers use, too."""

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
