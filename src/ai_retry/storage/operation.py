"""The ``OperatorStorage`` port over SQL functions; a part of every storage over SQL. All of it can be repeated."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from ai_retry.domain.model import QuotaRule
from ai_retry.domain.operation import (
    Action,
    AttemptRecord,
    Deed,
    Done,
    FailureCount,
    Order,
    Overview,
    UserQuota,
)
from ai_retry.domain.recovery import Filter
from ai_retry.storage.calling import Calls
from ai_retry.storage.codec import listed, read, write, write_tagged
from ai_retry.storage.documents import document, read_nothing, without_none


class OperatorFunctions(Calls):
    """Implements ``ai_retry.domain.operation.OperatorStorage`` over a transport."""

    def overview(self) -> Overview:
        """See the port."""
        return self._look("ai_retry_overview", {}, partial(read, Overview), self._reading)

    def count_failures(self, wanted: Filter) -> FailureCount:
        """See the port."""
        request = document(wanted, until=wanted.until.isoformat())
        return self._look("ai_retry_count_failures", {"p_request": request}, partial(read, FailureCount), self._reading)

    def attempt_records(self, generation_id: UUID) -> Sequence[AttemptRecord]:
        """See the port."""
        request = document(generation_id=generation_id)
        return self._look("ai_retry_attempt_records", {"p_request": request}, _records, self._reading)

    def user_quota(self, user_id: UUID, rule: QuotaRule) -> UserQuota:
        """See the port."""
        request = document(user_id=user_id, rule=rule)
        return self._look("ai_retry_user_quota", {"p_request": request}, partial(read, UserQuota), self._reading)

    def actions(self, *, target: str | None, before: datetime | None, limit: int) -> Sequence[Action]:
        """See the port."""
        start = before.isoformat() if before is not None else None
        request = document(target=target, before=start, page=limit)
        return self._look("ai_retry_list_actions", {"p_request": request}, _actions, self._reading)

    def record(self, order: Order, outcome: str | None) -> None:
        """See the port."""
        request = document(action=without_none(write(order)), outcome=outcome)
        self._look("ai_retry_record_action", {"p_request": request}, read_nothing, self._reading)

    def act(self, order: Order, deed: Deed) -> Done:
        """See the port."""
        request = document(action=without_none(write(order)), **write_tagged(deed))
        return self._look("ai_retry_operate", {"p_request": request}, partial(read, Done), self._reading)


def _records(reply: Any) -> Sequence[AttemptRecord]:
    return [read(AttemptRecord, row) for row in listed(reply)]


def _actions(reply: Any) -> Sequence[Action]:
    return [read(Action, row) for row in listed(reply)]
