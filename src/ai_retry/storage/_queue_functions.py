"""The ``QueueStorage`` port over the SQL functions of the queue's migration. See ``_functions``, on which it stands."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from ai_retry.domain.errors import AiRetryError, GenerationNotFound, NotConfigured
from ai_retry.domain.model import Admission, Claim, Failure
from ai_retry.domain.queue_model import Message, Outage, Parked, QueuedRetry, QueueState
from ai_retry.storage._functions import FunctionStorage
from ai_retry.storage._rows import (
    Json,
    admission_arguments,
    claim_arguments,
    instant,
    read_generation,
    read_quota,
    read_state,
    storable,
)

_NO_QUEUE = "there is no queue: enable Supabase Queues (pgmq), then run: select public.ai_retry_create_queue()"


class FunctionQueueStorage(FunctionStorage):
    """Implements ``ai_retry.domain.ports.QueueStorage`` over a transport."""

    def enqueue(self, admission: Admission, *, token: UUID, expires_after: timedelta) -> QueuedRetry | None:
        """See the port."""
        answer = self._call(
            "ai_retry_accept",
            {
                **admission_arguments(admission),
                "p_context_reader": storable(admission.context_reader),
                "p_token": str(token),
                "p_due_at": (admission.due_at or admission.as_of).isoformat(),
                "p_expires_seconds": expires_after.total_seconds(),
                "p_limit": admission.quota_rule.limit,
            },
        )
        if answer["status"] == "not_configured":
            raise NotConfigured(_NO_QUEUE)
        if answer["status"] == "not_found":
            raise GenerationNotFound(admission.generation_id)
        return None if answer["status"] == "stale" else _queued_retry(answer)

    def claim_queued(
        self, admission: Admission, *, token: UUID, lease: timedelta, route: str | None, spread: timedelta
    ) -> Claim | Parked | None:
        """See the port."""
        return self._claim(
            "ai_retry_open",
            admission,
            token,
            lease,
            {"p_queued": True, "p_route": storable(route), "p_spread_seconds": spread.total_seconds()},
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
        counted = failure.counted and not failure.overloaded
        follows = {"p_requeue": True, "p_counted": counted, **_outage_arguments(outage)}
        self._close(claim, failure, duration, delay, follows)

    def give_back(
        self, claim: Claim, *, delay: timedelta, reason: str, wire_requests: int, outage: Outage | None
    ) -> None:
        """See the port."""
        self._call(
            "ai_retry_give_back",
            {
                **claim_arguments(claim),
                "p_delay_seconds": delay.total_seconds(),
                "p_reason": storable(reason),
                "p_wire_requests": wire_requests,
                **_outage_arguments(outage),
            },
        )

    def cancel(self, user_id: UUID, generation_id: UUID, *, reason: AiRetryError | None) -> timedelta | None:
        """See the port."""
        answer = self._call(
            "ai_retry_cancel",
            {
                "p_user_id": str(user_id),
                "p_generation_id": str(generation_id),
                "p_code": reason.code if reason else None,
                "p_message": storable(str(reason)) if reason else None,
            },
        )
        return timedelta(seconds=answer["retry_after_seconds"]) if answer["status"] == "running" else None

    def receive(self, *, limit: int, visibility: timedelta, poll: timedelta) -> Sequence[Message]:
        """See the port."""
        rows = self._call(
            "ai_retry_receive",
            {
                "p_limit": limit,
                "p_visibility_seconds": round(visibility.total_seconds()),
                "p_poll_seconds": round(poll.total_seconds()),
            },
        )
        if rows is None:
            raise NotConfigured(_NO_QUEUE)
        return tuple(
            Message(id=row["message_id"], user_id=UUID(row["user_id"]), generation_id=UUID(row["generation_id"]))
            for row in rows
        )

    def postpone(self, message: Message, *, delay: timedelta) -> None:
        """See the port."""
        self._call(
            "ai_retry_postpone",
            {
                "p_user_id": str(message.user_id),
                "p_generation_id": str(message.generation_id),
                "p_message_id": message.id,
                "p_delay_seconds": delay.total_seconds(),
            },
        )

    def resend(self, *, max_live: int, limit: int) -> int:
        """See the port."""
        sent: int = self._call("ai_retry_resend", {"p_max_live": max_live, "p_limit": limit})
        return sent

    def reap(self) -> bool:
        """See the port."""
        reaped: int = self._call("ai_retry_reap", {})
        return reaped > 0

    def queue_state(self) -> QueueState:
        """See the port."""
        return read_state(self._call("ai_retry_queue", {}))


def _queued_retry(row: Json) -> QueuedRetry:
    return QueuedRetry(
        generation=read_generation(row["generation"]),
        quota=read_quota(row["quota"]),
        attempt=row["number"],
        accepted_at=instant(row["accepted_at"]),
        next_attempt_at=instant(row["next_attempt_at"]),
        expires_at=instant(row["expires_at"]),
        as_of=instant(row["as_of"]),
    )


def _outage_arguments(outage: Outage | None) -> Json:
    return {
        "p_outage_wait_seconds": outage.wait.total_seconds() if outage else None,
        "p_outage_failures": outage.failures if outage else None,
        "p_outage_doubts": outage.doubts if outage else None,
    }
