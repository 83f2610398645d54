"""A storage whose steps of an attempt are timed by whoever measures them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID

from ai_retry.domain.change import Amend, Begin, CloseOver, Keep, Reply, Settle
from ai_retry.domain.model import GenerationStatus, Installation, QuotaRule, Snapshot
from ai_retry.domain.ports import Storage
from ai_retry.domain.recovery import Cursor, FoundPage


@dataclass(frozen=True)
class TimedStorage:
    """Does what another one does; ``timed`` is entered for each step, with its name."""

    storage: Storage
    timed: Callable[[str], AbstractContextManager[None]]

    def load(
        self, user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None, *, creating: bool = False
    ) -> Snapshot | None:
        """See the port."""
        with self.timed("load"):
            return self.storage.load(user_id, generation_id, rule, token, creating=creating)

    def browse(
        self, user_id: UUID, statuses: frozenset[GenerationStatus], before: Cursor, limit: int, rule: QuotaRule
    ) -> FoundPage:
        """See the port."""
        return self.storage.browse(user_id, statuses, before, limit, rule)

    def begin(self, change: Begin | CloseOver) -> Reply:
        """See the port."""
        with self.timed("begin"):
            return self.storage.begin(change)

    def settle(self, change: Settle) -> Reply:
        """See the port."""
        with self.timed("settle"):
            return self.storage.settle(change)

    def amend(self, change: Amend) -> Reply:
        """See the port."""
        return self.storage.amend(change)

    def keep(self, change: Keep) -> None:
        """See the port."""
        self.storage.keep(change)

    def installation(self) -> Installation:
        """See the port."""
        return self.storage.installation()
