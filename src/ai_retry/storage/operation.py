"""The ``OperatorStorage`` port over SQL functions; a part of every storage over SQL. All of it can be repeated.

What the functions return is read in ``operator_rows``, which the first call imports: most processes have no operator.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from ai_retry.domain.model import QuotaRule
from ai_retry.domain.recovery import Filter
from ai_retry.storage.calling import Calls
from ai_retry.storage.codec import write, write_tagged
from ai_retry.storage.documents import document, read_nothing, without_none

if TYPE_CHECKING:
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
    from ai_retry.storage.operator_rows import OperatorRows


class OperatorFunctions(Calls):
    """Implements ``ai_retry.domain.operation.OperatorStorage`` over a transport."""

    def overview(self) -> "Overview":
        """See the port."""
        return self._look("ai_retry_overview", {}, _rows().overview, self._reading)

    def count_failures(self, wanted: Filter) -> "FailureCount":
        """See the port."""
        request = document(wanted, until=wanted.until.isoformat())
        return self._look("ai_retry_count_failures", {"p_request": request}, _rows().count_failures, self._reading)

    def attempt_records(self, generation_id: UUID) -> "Sequence[AttemptRecord]":
        """See the port."""
        request = document(generation_id=generation_id)
        return self._look("ai_retry_attempt_records", {"p_request": request}, _rows().attempt_records, self._reading)

    def user_quota(self, user_id: UUID, rule: QuotaRule) -> "UserQuota":
        """See the port."""
        request = document(user_id=user_id, rule=rule)
        return self._look("ai_retry_user_quota", {"p_request": request}, _rows().user_quota, self._reading)

    def actions(self, *, target: str | None, before: datetime | None, limit: int) -> "Sequence[Action]":
        """See the port."""
        start = before.isoformat() if before is not None else None
        request = document(target=target, before=start, page=limit)
        return self._look("ai_retry_list_actions", {"p_request": request}, _rows().actions, self._reading)

    def record(self, order: "Order", outcome: str | None) -> None:
        """See the port."""
        request = document(action=without_none(write(order)), outcome=outcome)
        self._look("ai_retry_record_action", {"p_request": request}, read_nothing, self._reading)

    def act(self, order: "Order", deed: "Deed") -> "Done":
        """See the port."""
        request = document(action=without_none(write(order)), **write_tagged(deed))
        return self._look("ai_retry_operate", {"p_request": request}, _rows().act, self._reading)


def _rows() -> "type[OperatorRows]":
    from ai_retry.storage.operator_rows import OperatorRows  # noqa: PLC0415 - see above

    return OperatorRows
