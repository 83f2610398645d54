"""The storage port of changes over the SQL verbs: one method, one function, one transaction.

How a function is called is the transport's business, and so are repeats of a call whose reply was lost.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from ai_retry.domain.change import Amend, Begin, CloseOver, Keep, Reply, Settle, Taken
from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.model import QuotaRule, Snapshot
from ai_retry.domain.queue_model import QueueState
from ai_retry.storage import change_rows as rows
from ai_retry.storage.rows import Json, read_state, understood
from ai_retry.storage.transport import Transport, reply_lost

_T = TypeVar("_T")
_log = logging.getLogger("ai_retry")
_HAS_NO_QUEUE = {"applied": False, "has_queue": False}
_NO_QUEUE = "there is no queue: enable Supabase Queues (pgmq), then run select public.ai_retry_create_queue()"


class FunctionStorage:
    """Implements ``ai_retry.domain.ports.QueueStorage`` over a transport."""

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
            return None if row is None else _understood(rows.read_change_snapshot, row)
        raise failure

    def begin(self, change: Begin | CloseOver) -> Reply:
        """See the port."""
        reply: Json = self._call("ai_retry_begin", {"p_change": rows.begin_document(change)})
        if reply == _HAS_NO_QUEUE:
            raise NotConfigured(_NO_QUEUE)
        return _understood(rows.read_reply, reply)

    def settle(self, change: Settle) -> Reply:
        """See the port."""
        return _understood(rows.read_reply, self._call("ai_retry_settle", {"p_change": rows.settle_document(change)}))

    def amend(self, change: Amend) -> Reply:
        """See the port."""
        return _understood(rows.read_reply, self._call("ai_retry_amend", {"p_change": rows.amend_document(change)}))

    def keep(self, change: Keep) -> None:
        """See the port."""
        self._call("ai_retry_keep", {"p_change": rows.keep_document(change)})

    def take(self, limit: int, visibility: timedelta, rule: QuotaRule) -> Sequence[Taken]:
        """See the port."""
        taken = self._call("ai_retry_take", {"p_request": rows.take_document(limit, visibility, rule)})
        if taken is None:
            raise NotConfigured(_NO_QUEUE)
        return [message for each in _understood(list, taken) if (message := _readable(each)) is not None]

    def overdue(self, limit: int) -> Sequence[UUID]:
        """See the port."""
        return _understood(_ids, self._call("ai_retry_overdue", {"p_limit": limit}))

    def state(self) -> QueueState:
        """See the port."""
        return _understood(read_state, self._call("ai_retry_state", {}))


def _understood(read: Callable[[Any], _T], reply: Any) -> _T:
    """Read a reply; one that is not of our shape, such as a gateway's page, is a lost reply.

    Raises:
        StorageOutcomeUnknown: it is not what the function returns.
        NotConfigured: what the app wrote is beyond what Python can hold.
    """
    try:
        return understood(read, reply)
    except (KeyError, AttributeError):
        reason = "a reply that is not ai-retry's"
    raise reply_lost(reason)


def _readable(row: Json) -> Taken | None:
    """Read a message; one whose generation can't be read comes again, and holds up no other."""
    try:
        return _understood(rows.read_taken, row)
    except AiRetryError as error:
        _log.warning("a message can't be read, and comes again: %s", error)
    return None


def _ids(reply: Sequence[str]) -> Sequence[UUID]:
    return [UUID(each) for each in reply]
