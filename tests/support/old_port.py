"""The storage ports that the product uses, over ``load``, ``begin``, ``settle``, ``amend`` and ``take``.

With it the suites that know the product by its ports run on a storage of changes as well, unchanged, and compare the
two. It goes when the product calls the storage of changes itself.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from ai_retry.domain.change import (
    Acceptance,
    Begin,
    CallRecord,
    CloseOver,
    Closing,
    Discard,
    Expected,
    Found,
    Open,
    Postpone,
    PutBack,
    Rejection,
    Reply,
    Run,
    Running,
    Settle,
    Success,
)
from ai_retry.domain.decide import queue
from ai_retry.domain.decide.begin import owned, visible
from ai_retry.domain.decide.settle import closing_without, found, is_recorded, verdict
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    GenerationFailed,
    RetryInProgress,
    SessionRejected,
)
from ai_retry.domain.model import (
    Admission,
    Answer,
    Claim,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    QuotaRule,
    Settled,
    Snapshot,
)
from ai_retry.domain.policy import DEFAULT_POLICY, queued_attempt
from ai_retry.domain.queue_model import Message, Outage, Parked, QueuedRetry, QueueState

_RULE = QuotaRule()
_PROBE_TRIES = 20  # begins that race for a probe: the losers see the winner once it has committed


class OldPort:
    """A ``QueueStorage`` over a storage of changes.

    Args:
        storage: a ``QueueStorage``, or for callers that wait a ``Storage``.
        message_of: finds the message of a generation's open attempt.
    """

    def __init__(self, storage: Any, message_of: Callable[[Snapshot], int | None] = lambda _: None) -> None:
        self._storage = storage
        self._message_of = message_of

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """See the port."""
        return visible(self._storage.load(user_id, generation_id, quota_rule, None), user_id)

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """See the port."""
        attempt = Open(
            start=_running(admission, lease, None),
            charge=admission.charge,
            idempotency_key=admission.idempotency_key,
            waived=admission.waived,
            operator=admission.operator,
        )
        return self._claim(admission, token, self._storage.begin(_begin(admission, token, attempt, admission.max_live)))

    def succeed(
        self,
        claim: Claim,
        answer: Answer,
        *,
        answer_from: int | None,
        duration: timedelta | None,
        quota_rule: QuotaRule,
        rejected_wait: timedelta,
        rejected_again_wait: timedelta,
    ) -> Settled:
        """See the port."""
        rejection = Rejection(message=SessionRejected.summary, wait=rejected_wait, again_wait=rejected_again_wait)
        success = Success(answer=answer, answer_from=answer_from, if_rejected=rejection)
        kept = answer if answer_from is None else None

        def end(now: Found) -> Success | Closing:
            if now is Found.READY:
                return success
            return closing_without(now, counted=answer_from is None, answer=None if now is Found.GONE else kept)

        call = None if answer_from is not None else _record(answer, ProviderOutcome.GENERATED, duration)
        snapshot = self._settle(claim, end, call, quota_rule, answered=answer_from is None)
        result = verdict(snapshot, claim.user_id, claim.generation_id)
        return Settled(generation=result.generation, session=result.session, quota=result.quota)

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """See the port."""
        self._fail(claim, failure, duration, delay, None, goes_on=False)

    def retry_later(
        self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta, outage: Outage | None
    ) -> None:
        """See the port."""
        self._fail(claim, failure, duration, delay, outage, goes_on=True)

    def _fail(
        self,
        claim: Claim,
        failure: Failure,
        duration: timedelta | None,
        delay: timedelta,
        outage: Outage | None,
        *,
        goes_on: bool,
    ) -> None:
        timeout = failure.code is FailureCode.TIMEOUT
        closing = Closing(
            outcome=Outcome.FAILED,
            code=failure.code.value,
            counted=failure.counted,
            wait=delay,
            status=GenerationStatus.TIMEOUT if timeout else GenerationStatus.ERROR,
            message=str(GenerationFailed(failure)),
            reason=failure.reason,
            transient=failure.transient,
            operator_fault=failure.operator_fault,
            goes_on=goes_on,
        )

        def end(now: Found) -> Closing:
            return closing if now is Found.READY else closing_without(now, counted=failure.counted, answer=None)

        call = _record(failure, failure.provider_outcome, duration)
        answered = failure.provider_outcome is not ProviderOutcome.UNKNOWN
        snapshot = self._settle(claim, end, call, _RULE, outage=outage, answered=answered)
        if is_recorded(snapshot, failure):
            return
        with suppress(SessionRejected):  # today a failure after a rejected session changes nothing
            verdict(snapshot, claim.user_id, claim.generation_id)
            raise AlreadySucceeded(claim.generation_id)

    def _settle(
        self,
        claim: Claim,
        end: Callable[[Found], Success | Closing],
        call: CallRecord | None,
        rule: QuotaRule,
        *,
        outage: Outage | None = None,
        answered: bool = False,
    ) -> Snapshot | None:
        now = Found.READY
        while True:
            reply = self._storage.settle(
                Settle(
                    user_id=claim.user_id,
                    generation_id=claim.generation_id,
                    token=claim.token,
                    found=now,
                    end=end(now),
                    quota_rule=rule,
                    call=call,
                    outage=outage,
                    answered=answered and outage is None,
                )
            )
            finds = found(reply.snapshot, claim.user_id)
            if reply.applied or finds is now:
                snapshot: Snapshot | None = reply.snapshot
                return snapshot
            now = finds

    def discard_answer(self, user_id: UUID, generation_id: UUID, *, operator: str) -> bool:
        """See the port."""
        return bool(
            self._storage.amend(Discard(user_id=user_id, generation_id=generation_id, operator=operator)).applied
        )

    def enqueue(self, admission: Admission, *, token: UUID, expires_after: timedelta) -> QueuedRetry | None:
        """See the port."""
        snapshot = self._storage.load(admission.user_id, admission.generation_id, admission.quota_rule, token)
        current = owned(snapshot, admission.user_id, admission.generation_id)
        if current.my_attempt is None:
            status, due_at = current.generation.status, admission.due_at
            failed = status in (GenerationStatus.ERROR, GenerationStatus.TIMEOUT)
            start = Acceptance(
                wait=max(due_at - admission.as_of, timedelta(0)) if due_at else timedelta(0),
                expires_after=expires_after,
                status_before=status if failed else GenerationStatus.TIMEOUT,
                in_line=admission.max_live,
                context_reader=admission.context_reader,
            )
            attempt = Open(
                start=start,
                charge=admission.charge,
                idempotency_key=admission.idempotency_key,
                waived=admission.waived,
                operator=admission.operator,
            )
            reply = self._storage.begin(_begin(admission, token, attempt, None))
            if not reply.applied or reply.snapshot is None:
                return None
            current = reply.snapshot
        return queue.accepted(current)

    def claim_queued(
        self, admission: Admission, *, token: UUID, lease: timedelta, route: str | None, spread: timedelta
    ) -> Claim | Parked | None:
        """See the port."""
        before = self._storage.load(admission.user_id, admission.generation_id, admission.quota_rule, token)
        if before is not None and before.my_attempt is None and queued_attempt(before) is None:
            self._storage.begin(CloseOver(user_id=admission.user_id))
            return None
        change = _begin(
            admission, token, Run(number=admission.number, start=_running(admission, lease, route)), admission.max_live
        )
        for _ in range(_PROBE_TRIES):
            reply = self._storage.begin(change)
            claim = self._claim(admission, token, reply)
            snapshot = reply.snapshot
            if claim is not None or snapshot is None or snapshot.version != admission.version:
                return claim
            parked = self._parked(snapshot, route, spread)
            if parked is not None:
                return parked
        return None

    def _parked(self, snapshot: Snapshot, route: str | None, spread: timedelta) -> Parked | None:
        """Postpone the message if the snapshot shows that its route is unavailable."""
        away = next((each for each in snapshot.routes if each.route == route), None)
        message_id = self._message_of(snapshot)
        if away is None or message_id is None:
            return None
        wait = max(away.not_before - snapshot.as_of, timedelta(0))
        if wait == timedelta(0) and away.running < away.slots:
            return None
        generation = snapshot.generation
        message = Message(id=message_id, user_id=generation.user_id, generation_id=generation.id)
        later = spread * (away.waiting + 1)
        self._storage.amend(Postpone(message=message, wait=wait, spread=later, route=route))
        return Parked(retry_after=wait + later)

    def _claim(self, admission: Admission, token: UUID, reply: Reply) -> Claim | None:
        found = reply.snapshot
        if reply.applied and found is None:
            found = self._storage.load(admission.user_id, admission.generation_id, admission.quota_rule, token)
        snapshot = owned(found, admission.user_id, admission.generation_id)
        mine = snapshot.my_attempt
        if mine is None or mine.lease_expires_at is None:
            return None
        failures = [each.failures for each in snapshot.routes]
        return Claim(
            user_id=admission.user_id,
            generation_id=admission.generation_id,
            number=mine.number,
            token=token,
            lease_expires_at=mine.lease_expires_at,
            outage_failures=max(failures, default=0),
        )

    def give_back(
        self, claim: Claim, *, delay: timedelta, reason: str, wire_requests: int, outage: Outage | None
    ) -> None:
        """See the port."""
        self._storage.amend(
            PutBack(
                user_id=claim.user_id,
                generation_id=claim.generation_id,
                token=claim.token,
                wait=delay,
                reason=reason,
                wire_requests=wire_requests,
                outage=outage,
            )
        )

    def cancel(self, user_id: UUID, generation_id: UUID, *, reason: AiRetryError | None) -> timedelta | None:
        """See the port."""
        while True:
            snapshot = self._storage.load(user_id, generation_id, _RULE, None)
            if snapshot is None:
                self._storage.begin(CloseOver(user_id=user_id))
                return None
            current = visible(snapshot, user_id)
            attempt = queue.open_attempt(snapshot)
            if current is None or attempt is None:
                return None
            if attempt.is_queued:
                change: Any = queue.end(current, user_id, reason, DEFAULT_POLICY)
                if self._storage.settle(change).applied:
                    return None
                continue
            try:
                change = queue.cancel(current, DEFAULT_POLICY)
            except RetryInProgress:
                return (attempt.lease_expires_at or current.as_of) - current.as_of
            if change is None:
                return None
            self._storage.begin(change)

    def receive(self, *, limit: int, visibility: timedelta, poll: timedelta) -> Sequence[Message]:  # noqa: ARG002
        """See the port."""
        return [each.message for each in self._storage.take(limit, visibility, _RULE)]

    def postpone(self, message: Message, *, delay: timedelta) -> None:
        """See the port."""
        self._storage.amend(Postpone(message=message, wait=delay))

    def resend(self, *, max_live: int, limit: int) -> int:  # noqa: ARG002
        """See the port."""
        users = self._storage.overdue(limit)
        for user_id in users:
            self._storage.begin(CloseOver(user_id=user_id))
        return len(users)

    def reap(self) -> bool:
        """See the port."""
        return bool(self.resend(max_live=0, limit=1))

    def queue_state(self) -> QueueState:
        """See the port."""
        state: QueueState = self._storage.state()
        return state


def _begin(admission: Admission, token: UUID, attempt: Open | Run, max_live: int | None) -> Begin:
    return Begin(
        user_id=admission.user_id,
        generation_id=admission.generation_id,
        token=token,
        attempt=attempt,
        expected=Expected(
            as_of=admission.as_of,
            version=admission.version,
            quota_rule=admission.quota_rule,
            max_live=max_live,
            max_used=admission.max_used,
        ),
    )


def _running(admission: Admission, lease: timedelta, route: str | None) -> Running:
    return Running(
        lease=lease,
        longest=lease,
        abandoned_wait=admission.abandoned_wait,
        answer_from=admission.stored_answer.number if admission.stored_answer else None,
        route=route,
    )


def _record(result: Answer | Failure, outcome: ProviderOutcome, duration: timedelta | None) -> CallRecord:
    return CallRecord(
        provider_outcome=outcome,
        duration=duration,
        model=result.model,
        usage=result.usage,
        provider_id=result.provider_id,
        wire_requests=result.wire_requests,
    )
