"""The ``OutboxStorage`` port over a SQL function; a part of every storage over SQL."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ai_retry.domain.outbox import Announcement, Delivery
from ai_retry.storage.calling import Calls
from ai_retry.storage.codec import listed, read
from ai_retry.storage.documents import document


class OutboxFunctions(Calls):
    """Implements ``ai_retry.domain.outbox.OutboxStorage`` over a transport."""

    def drain(self, limit: int, lease: timedelta, results: Sequence[Delivery]) -> Sequence[Announcement]:
        """See the port."""
        request = document(limit=limit, lease_seconds=lease.total_seconds(), results=list(results))
        return self._ask("ai_retry_drain", {"p_request": request}, _announcements, self._polling)


def _announcements(reply: Any) -> Sequence[Announcement]:
    return [read(Announcement, row) for row in listed(reply)]
