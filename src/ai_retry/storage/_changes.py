"""The storage port of changes over the SQL verbs: one method, one function, one transaction.

How a function is called is the transport's business. Attempts that are begun, settled and kept for a caller that waits
go through it; accepted retries do not yet.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from ai_retry.domain.change import Amend, Begin, CloseOver, Discard, Keep, Renew, Reply, Settle
from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.model import QuotaRule, Snapshot
from ai_retry.storage import _change_rows as rows
from ai_retry.storage._functions import Transport
from ai_retry.storage._rows import Json, understood

_T = TypeVar("_T")


class ChangeFunctions:
    """Implements ``ai_retry.domain.change_storage.ChangeStorage`` over a transport, for callers that wait."""

    def __init__(self, call: Transport) -> None:
        self._call = call

    def load(self, user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None) -> Snapshot | None:
        """See the port."""
        failure: AiRetryError
        try:
            row = self._call("ai_retry_load", {"p_request": rows.load_document(user_id, generation_id, rule, token)})
        except StorageOutcomeUnknown as error:
            failure = StorageUnavailable(error.reason, retry_after=error.retry_after)  # it writes nothing
        except (ValueError, RecursionError):
            failure = NotConfigured("prompt_data, or a session, is nested too deeply or holds too large a number")
        else:
            return None if row is None else understood(rows.read_change_snapshot, row)
        raise failure

    def begin(self, change: Begin | CloseOver) -> Reply:
        """See the port."""
        return self._change("ai_retry_begin", rows.begin_document(change), rows.read_reply)

    def settle(self, change: Settle) -> Reply:
        """See the port."""
        return self._change("ai_retry_settle", rows.settle_document(change), rows.read_reply)

    def amend(self, change: Amend) -> Reply:
        """See the port."""
        if not isinstance(change, Renew | Discard):
            raise NotConfigured("accepted retries are not kept by this storage yet")
        return self._change("ai_retry_amend", rows.amend_document(change), rows.read_reply)

    def keep(self, change: Keep) -> None:
        """See the port."""
        self._call("ai_retry_keep", {"p_change": rows.keep_document(change)})

    def _change(self, function: str, document: str, read: Callable[[Json], _T]) -> _T:
        reply: Any = self._call(function, {"p_change": document})
        return understood(read, reply)
