"""The storage port of changes over the SQL verbs: one method, one function, one transaction.

How a function is called is the transport's business, and so are repeats of a call whose reply was lost.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from ai_retry.domain.change import Amend, Begin, CloseOver, Keep, Reply, Settle, Taken
from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.model import QuotaRule, Snapshot
from ai_retry.domain.queue_model import QueueState
from ai_retry.storage import _change_rows as rows
from ai_retry.storage._functions import Transport
from ai_retry.storage._rows import Json, read_state, understood

_T = TypeVar("_T")
_NO_QUEUE = "there is no queue: enable Supabase Queues (pgmq), then run select public.ai_retry_create_queue()"


class ChangeFunctions:
    """Implements ``ai_retry.domain.change_storage.ChangeQueue`` over a transport."""

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
        reply: Json = self._call("ai_retry_begin", {"p_change": rows.begin_document(change)})
        if reply.get("has_queue") is False:
            raise NotConfigured(_NO_QUEUE)
        return understood(rows.read_reply, reply)

    def settle(self, change: Settle) -> Reply:
        """See the port."""
        return self._change("ai_retry_settle", rows.settle_document(change), rows.read_reply)

    def amend(self, change: Amend) -> Reply:
        """See the port."""
        return self._change("ai_retry_amend", rows.amend_document(change), rows.read_reply)

    def keep(self, change: Keep) -> None:
        """See the port."""
        self._call("ai_retry_keep", {"p_change": rows.keep_document(change)})

    def take(self, limit: int, visibility: timedelta, rule: QuotaRule) -> Sequence[Taken]:
        """See the port."""
        taken = self._call("ai_retry_take", {"p_request": rows.take_document(limit, visibility, rule)})
        if taken is None:
            raise NotConfigured(_NO_QUEUE)
        return [understood(rows.read_taken, each) for each in taken]

    def overdue(self, limit: int) -> Sequence[UUID]:
        """See the port."""
        return [UUID(each) for each in self._call("ai_retry_overdue", {"p_limit": limit})]

    def state(self) -> QueueState:
        """See the port."""
        return understood(read_state, self._call("ai_retry_state", {}))

    def _change(self, function: str, document: str, read: Callable[[Json], _T]) -> _T:
        reply: Any = self._call(function, {"p_change": document})
        return understood(read, reply)
