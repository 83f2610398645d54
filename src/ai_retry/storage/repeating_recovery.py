"""``RecoveryStorage`` with repeats: all of it may be repeated while the storage fails for passing reasons."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from ai_retry.domain.model import QuotaRule
from ai_retry.domain.recovery import (
    CallEstimate,
    Cursor,
    Filter,
    FoundPage,
    FoundRow,
    PlanAttempt,
    RecoveryStorage,
)
from ai_retry.storage.repeating import SETTLE_FOR, repeat


class RepeatingRecovery:
    """A ``RecoveryStorage`` that repeats another one's calls; nobody waits for an answer but an operator."""

    def __init__(self, storage: RecoveryStorage) -> None:
        self._storage = storage

    def find(self, wanted: Filter, *, before: Cursor | None, page: int, quota_rule: QuotaRule) -> FoundPage:
        """See the port."""
        return repeat(lambda: self._storage.find(wanted, before=before, page=page, quota_rule=quota_rule), SETTLE_FOR)

    def find_one(self, generation_id: UUID, quota_rule: QuotaRule) -> FoundRow | None:
        """See the port."""
        return repeat(lambda: self._storage.find_one(generation_id, quota_rule), SETTLE_FOR)

    def find_attempts(self, key: str, *, after: UUID | None, page: int) -> Sequence[PlanAttempt]:
        """See the port."""
        return repeat(lambda: self._storage.find_attempts(key, after=after, page=page), SETTLE_FOR)

    def estimate(self) -> Mapping[str | None, CallEstimate]:
        """See the port."""
        return repeat(self._storage.estimate, SETTLE_FOR)

    def record_recovery(
        self, run_id: UUID, *, plan_id: str, operator: str, plan: Mapping[str, Any], counts: Mapping[str, Any] | None
    ) -> str | None:
        """See the port."""
        return repeat(
            lambda: self._storage.record_recovery(run_id, plan_id=plan_id, operator=operator, plan=plan, counts=counts),
            SETTLE_FOR,
        )
