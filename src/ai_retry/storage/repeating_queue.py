"""``RepeatingStorage`` for storages with a queue: what of it is repeated, and what comes again by itself."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Admission, Claim, Failure
from ai_retry.domain.ports import QueueStorage
from ai_retry.domain.queue_model import Message, Outage, Parked, QueuedRetry, QueueState
from ai_retry.spool import Spool
from ai_retry.storage.repeating import READ_FOR, SETTLE_FOR, RepeatingStorage, repeat


class RepeatingQueueStorage(RepeatingStorage):
    """A ``QueueStorage`` that repeats another one's calls while they fail for passing reasons."""

    def __init__(
        self,
        storage: QueueStorage,
        spool: Spool | None = None,
        *,
        read_for: timedelta = READ_FOR,
        settle_for: timedelta = SETTLE_FOR,
    ) -> None:
        super().__init__(storage, spool, read_for=read_for, settle_for=settle_for)
        self._queue = storage

    def enqueue(self, admission: Admission, *, token: UUID, expires_after: timedelta) -> QueuedRetry | None:
        """See the port."""
        return repeat(lambda: self._queue.enqueue(admission, token=token, expires_after=expires_after), self._read_for)

    def claim_queued(
        self, admission: Admission, *, token: UUID, lease: timedelta, route: str | None, spread: timedelta
    ) -> Claim | Parked | None:
        """See the port."""
        return repeat(
            lambda: self._queue.claim_queued(admission, token=token, lease=lease, route=route, spread=spread),
            self._read_for,
        )

    def retry_later(
        self,
        claim: Claim,
        failure: Failure,
        *,
        duration: timedelta | None,
        delay: timedelta,
        outage: Outage | None,
    ) -> None:
        """See the port."""
        repeat(
            lambda: self._queue.retry_later(claim, failure, duration=duration, delay=delay, outage=outage),
            self._settle_for,
        )

    def give_back(
        self, claim: Claim, *, delay: timedelta, reason: str, wire_requests: int, outage: Outage | None
    ) -> None:
        """See the port."""
        repeat(
            lambda: self._queue.give_back(
                claim, delay=delay, reason=reason, wire_requests=wire_requests, outage=outage
            ),
            self._settle_for,
        )

    def cancel(self, user_id: UUID, generation_id: UUID, *, reason: AiRetryError | None) -> timedelta | None:
        """See the port."""
        return repeat(lambda: self._queue.cancel(user_id, generation_id, reason=reason), self._read_for)

    def receive(self, *, limit: int, visibility: timedelta, poll: timedelta) -> Sequence[Message]:
        """See the port. Once: what a lost reply held comes again when its visibility ends."""
        return self._queue.receive(limit=limit, visibility=visibility, poll=poll)

    def postpone(self, message: Message, *, delay: timedelta) -> None:
        """See the port."""
        repeat(lambda: self._queue.postpone(message, delay=delay), self._read_for)

    def resend(self, *, max_live: int, limit: int) -> int:
        """See the port. Once: any worker does the same soon."""
        return self._queue.resend(max_live=max_live, limit=limit)

    def reap(self) -> bool:
        """See the port. Once: any worker does the same soon."""
        return self._queue.reap()

    def queue_state(self) -> QueueState:
        """See the port."""
        return repeat(self._queue.queue_state, self._read_for)
