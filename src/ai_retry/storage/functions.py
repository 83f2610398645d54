"""The storage ports over the SQL verbs: one method, one function, one transaction.

Where a spool is configured, a paid answer is on disk from before its first settle until the storage has decided.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from logging import WARNING
from typing import Any
from uuid import UUID

from ai_retry.domain.change import Amend, Begin, CloseOver, Keep, PutBack, Renew, Reply, Settle, Taken
from ai_retry.domain.decide.first import refused
from ai_retry.domain.errors import AiRetryError, NotConfigured, TooManyParallel
from ai_retry.domain.model import GenerationStatus, Installation, QuotaRule, Snapshot
from ai_retry.domain.policy import BUSY_WAIT
from ai_retry.domain.queue_model import QueueState
from ai_retry.domain.recovery import Cursor, FoundPage
from ai_retry.logs import write_line
from ai_retry.storage.calling import ONCE, Calls, read_reply_of
from ai_retry.storage.codec import Json, listed, read, write_tagged
from ai_retry.storage.documents import (
    document,
    read_loaded,
    read_nothing,
    read_reply,
    read_taken,
    shaped,
    without_none,
)
from ai_retry.storage.found_rows import read_page
from ai_retry.storage.repeating import READ_FOR, SETTLE_FOR, repeat
from ai_retry.storage.spool import Spool, is_decided, is_paid_here
from ai_retry.storage.transport import RowTaken, Transport

_HAS_NO_QUEUE = {"applied": False, "has_queue": False}
_NO_QUEUE = "there is no queue: enable Supabase Queues (pgmq), then run select public.ai_retry_create_queue()"


class FunctionStorage(Calls):
    """Implements ``ai_retry.domain.ports.QueueStorage`` over a transport.

    Args:
        call: calls a function of the database.
        spool: where a paid answer is until it is settled; None: nowhere.
        read_for: how long a call is repeated that settles nothing, at least once.
        settle_for: how long a settle is repeated, and the last resort after it, at least once.
    """

    def __init__(
        self,
        call: Transport,
        *,
        spool: Spool | None = None,
        read_for: timedelta = READ_FOR,
        settle_for: timedelta = SETTLE_FOR,
    ) -> None:
        super().__init__(call, read_for=read_for, settle_for=settle_for)
        self._spool = spool
        self._installation: Installation | None = None

    def once(self) -> "FunctionStorage":
        """Return the same storage without repeats, and without its spool."""
        storage = FunctionStorage(self._transport, read_for=ONCE, settle_for=ONCE)
        storage._installation = self._installation
        return storage

    def load(
        self, user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None, *, creating: bool = False
    ) -> Snapshot | None:
        """See the port."""
        request = document(
            user_id=user_id, generation_id=generation_id, rule=rule, token=token, creating=creating or None
        )
        return self._look("ai_retry_load", {"p_request": request}, read_loaded, self._reading)

    def browse(
        self, user_id: UUID, statuses: frozenset[GenerationStatus], before: Cursor, limit: int, rule: QuotaRule
    ) -> FoundPage:
        """See the port."""
        request = document(user_id=user_id, statuses=sorted(statuses), before=before, page=limit, rule=rule)
        return self._look("ai_retry_browse", {"p_request": request}, read_page, self._reading)

    def begin(self, change: Begin | CloseOver) -> Reply:
        """See the port. An answer of this generation that waits in the spool is sent before."""
        if self._spool is not None and isinstance(change, Begin):
            self._send_first(self._spool, change.generation_id)
        failure: AiRetryError
        try:
            return self._ask("ai_retry_begin", {"p_change": document(change)}, _begun, self._reading)
        except RowTaken as error:
            failure = TooManyParallel(1, wait=BUSY_WAIT) if isinstance(change, Begin) else error
        raise failure

    def settle(self, change: Settle) -> Reply:
        """See the port. A paid answer is in the spool before, and until the storage has decided."""
        request, spool = document(change), self._spool
        if spool is not None and is_paid_here(change):
            spool.hold(change, request, self.installation())
        reply = self._ask("ai_retry_settle", {"p_change": request}, read_reply, self._settling)
        if spool is not None and is_decided(change, reply):
            spool.release(change)
        return reply

    def amend(self, change: Amend) -> Reply:
        """See the port. A renewal is tried once: its next turn comes soon, and other leases wait for theirs."""
        match change:
            case Renew():
                patience = self._polling
            case PutBack():
                patience = self._keeping
            case _:
                patience = self._reading
        request = document(**{name: without_none(row) for name, row in write_tagged(change).items()})
        return self._ask("ai_retry_amend", {"p_change": request}, read_reply, patience)

    def keep(self, change: Keep) -> None:
        """See the port."""
        self._ask("ai_retry_keep", {"p_change": document(change)}, read_nothing, self._keeping)
        if self._spool is not None:
            self._spool.release(change)

    def installation(self) -> Installation:
        """See the port; asked once."""
        if self._installation is None:
            self._installation = self._look("ai_retry_installation", {}, partial(read, Installation), self._reading)
        return self._installation

    def take(self, limit: int, visibility: timedelta, rule: QuotaRule) -> Sequence[Taken]:
        """See the port."""
        request = document(limit=limit, visibility_seconds=round(visibility.total_seconds()), rule=rule)
        taken = self._ask("ai_retry_take", {"p_request": request}, _messages, self._polling)
        return [message for each in taken if (message := _readable(each)) is not None]

    def overdue(self, limit: int) -> Sequence[UUID]:
        """See the port."""
        return self._look("ai_retry_overdue", {"p_limit": limit}, _ids, self._polling)

    def state(self) -> QueueState:
        """See the port."""
        return self._look("ai_retry_state", {}, partial(read, QueueState), self._reading)

    def _send_first(self, spool: Spool, generation_id: UUID) -> None:
        self.installation()  # before anything is paid for: a settle may find no database to ask
        if spool.names(generation_id):
            repeat(lambda: spool.send_first(generation_id, self.once()), self._reading)


def _begun(reply: Any) -> Reply:
    if reply == _HAS_NO_QUEUE:
        raise NotConfigured(_NO_QUEUE)
    refusal = shaped(reply, "applied").get("refused")
    if refusal is not None:
        raise refused(**shaped(refusal, "sqlstate", "name"))
    return read_reply(reply)


def _messages(reply: Any) -> Sequence[Any]:
    if reply is None:
        raise NotConfigured(_NO_QUEUE)
    return listed(reply)


def _readable(row: Json) -> Taken | None:
    """Read a message; one whose generation can't be read comes again, and holds up no other."""
    try:
        return read_reply_of(read_taken, row)
    except AiRetryError as error:
        write_line(WARNING, "message_unreadable", code=error.code, reason=str(error))
    return None


def _ids(reply: Any) -> Sequence[UUID]:
    return [UUID(each) for each in listed(reply)]
