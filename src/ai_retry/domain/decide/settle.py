"""How does an attempt end? The changes that close one, and what its caller is answered."""

from datetime import timedelta
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.change import Begin, CallRecord, Closing, Found, Keep, PutBack, Rejection, Running, Settle, Success
from ai_retry.domain.decide.begin import owned, visible
from ai_retry.domain.errors import (
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    SessionConflict,
    SessionRejected,
)
from ai_retry.domain.model import (
    Answer,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    RetryResult,
    Snapshot,
)
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import Outage

REJECTED_WAIT = timedelta(seconds=15)  # at most, before a click that follows a rejected session
OUTAGE_SPREAD = timedelta(seconds=5)  # over which the retries that a provider turned away come back


def found(snapshot: Snapshot | None, user_id: UUID) -> Found:
    """What a settle finds, as far as the snapshot knows."""
    if snapshot is None:
        return Found.GONE
    if visible(snapshot, user_id) is None:
        return Found.FOREIGN
    return Found.SUCCEEDED if rules.is_success(snapshot) else Found.READY


class Ending:
    """How one running attempt ends. The attempt, and the numbers that its waits are made of."""

    def __init__(self, begun: Snapshot, change: Begin, policy: RetryPolicy, fraction: float) -> None:
        """Keep them.

        Args:
            begun: the snapshot that the attempt was begun on.
            change: the begin.
            policy: the numbers behind the rules.
            fraction: where in its range a wait is, in [0, 1].
        """
        self._begun, self._policy, self._fraction = begun, policy, fraction
        self._user_id, self._generation_id, self._token = change.user_id, change.generation_id, change.token
        route = change.attempt.start.route if isinstance(change.attempt.start, Running) else None
        self._failures_before = next((each.failures for each in begun.routes if each.route == route), 0)
        queued = rules.queued_attempt(begun)
        self._accepted = queued is not None
        self._expires_at = queued.expires_at if queued is not None else None
        self._number = rules.next_number(begun)
        self._made = sum(queued is not None and each.accepted_at == queued.accepted_at for each in begun.attempts)

    @property
    def is_accepted(self) -> bool:
        """Whether it is an accepted retry's, that a worker runs."""
        return self._accepted

    def answered(self, now: Found, answer: Answer, answer_from: int | None, duration: timedelta | None) -> Settle:
        """Decide what an answer leads to: its session, or where there can't be one now, a place for the answer."""
        call = None if answer_from is not None else _record(answer, ProviderOutcome.GENERATED, duration)
        if now is not Found.READY:
            kept = answer if answer_from is None and now is not Found.GONE else None
            return self._settle(now, closing_without(now, counted=answer_from is None, answer=kept), call)
        wait = rules.wait_after(self._number, None, self._policy, fraction=self._fraction)
        rejection = Rejection(
            message=SessionRejected.summary,
            wait=wait if self._accepted else min(wait, REJECTED_WAIT),
            again_wait=self._policy.backoff_cap if self._accepted else REJECTED_WAIT,
        )
        success = Success(answer=answer, answer_from=answer_from, if_rejected=rejection)
        return self._settle(now, success, call, answered=answer_from is None)

    def kept(self, answer: Answer, duration: timedelta | None, cause: str) -> Keep:
        """Decide where an answer goes that could not be settled."""
        return Keep(
            user_id=self._user_id,
            generation_id=self._generation_id,
            token=self._token,
            answer=answer,
            cause=cause,
            wait=REJECTED_WAIT,
            call=_record(answer, ProviderOutcome.GENERATED, duration),
        )

    def failed(self, failure: Failure, duration: timedelta | None) -> Settle | PutBack:
        """Decide what a failure leads to; ``duration`` is the call's."""
        call = _record(failure, failure.provider_outcome, duration)
        outage = self._outage(failure)
        if self._accepted and outage is not None and (_is_turned_away(failure) or self._failures_before):
            return self.put_back(failure, outage)
        goes_on = self.goes_on(failure, outage)
        closing = Closing(
            outcome=Outcome.FAILED,
            code=failure.code.value,
            counted=failure.counted,
            wait=self.wait_after(failure),
            status=_status_after(failure.code),
            message=str(GenerationFailed(failure)),
            reason=failure.reason,
            transient=failure.transient,
            operator_fault=failure.operator_fault,
            goes_on=goes_on,
        )
        return self._settle(Found.READY, closing, call, outage=outage, answered=_has_answered(failure))

    def failed_without(self, now: Found, failure: Failure, duration: timedelta | None) -> Settle:
        """Decide what a failure leads to when the generation can't get a session any more: ``now`` says why."""
        call = _record(failure, failure.provider_outcome, duration)
        return self._settle(now, closing_without(now, counted=failure.counted, answer=None), call)

    def retry_after(self, failure: Failure) -> timedelta | None:
        """The wait after which coming back may help; None where it does not."""
        helps = failure.passes and rules.attempts_left(self._begun, failure, self._policy)
        return self.wait_after(failure) if helps else None

    def wait_after(self, failure: Failure) -> timedelta:
        """The wait before the next attempt."""
        return rules.wait_after(self._number, failure, self._policy, fraction=self._fraction)

    def goes_on(self, failure: Failure, outage: Outage | None) -> bool:
        """Whether an accepted retry's next attempt may succeed, and is in time."""
        wait = self.wait_after(failure)
        return (
            self._accepted
            and (failure.transient or outage is not None)
            and (self._expires_at is None or self._begun.as_of + wait < self._expires_at)
            and self._made < self._policy.hard_cap  # also of those that an operator has to answer for
            and rules.attempts_left(self._begun, failure, self._policy)
        )

    def put_back(self, failure: Failure, outage: Outage | None) -> PutBack:
        """Queue an accepted retry's attempt again, as if it had not begun."""
        wait = rules.asked_wait(failure, self._policy)
        if outage is not None:
            wait = max(outage.wait, wait) + OUTAGE_SPREAD * self._fraction
        return PutBack(
            user_id=self._user_id,
            generation_id=self._generation_id,
            token=self._token,
            wait=max(wait, rules.SHORTEST_CALL),
            reason=failure.reason,
            wire_requests=failure.wire_requests,
            outage=outage,
        )

    def _outage(self, failure: Failure) -> Outage | None:
        before = self._failures_before
        if not rules.is_outage(failure):
            return None
        wait = rules.outage_wait(before + 1, failure, self._policy, fraction=self._fraction)
        return Outage(wait=wait, failures=before + 1, doubts=1 if before else rules.outage_doubts(failure))

    def _settle(
        self,
        now: Found,
        end: Success | Closing,
        call: CallRecord | None,
        *,
        outage: Outage | None = None,
        answered: bool = False,
    ) -> Settle:
        return Settle(
            user_id=self._user_id,
            generation_id=self._generation_id,
            token=self._token,
            found=now,
            end=end,
            quota_rule=self._policy.quota,
            call=call,
            outage=outage,
            answered=answered and outage is None,
        )


def verdict(snapshot: Snapshot | None, user_id: UUID, generation_id: UUID) -> RetryResult:
    """Read how the attempt that has the caller's token ended, for a caller that has an answer.

    Raises:
        GenerationNotFound: the generation is gone, hidden or another user's.
        AlreadySucceeded: another hand created the session.
        SessionRejected: the answer is stored; the identical request may succeed after its wait. ``SessionConflict``:
            once its user has cured the conflict.
        LeaseLost: the attempt was closed without a session before; it says whether its answer is stored: the identical
            request then makes the session of it, without a call.
    """
    snapshot = owned(snapshot, user_id, generation_id)
    mine = snapshot.my_attempt
    if mine is not None and mine.outcome is Outcome.SUCCEEDED:
        return RetryResult(
            generation=snapshot.generation,
            session=snapshot.session or {},  # empty: the app removed it since
            quota=snapshot.quota,
            attempt=mine.number,
        )
    if found(snapshot, user_id) is Found.SUCCEEDED:
        raise AlreadySucceeded(generation_id, snapshot.generation.session_id)
    if mine is not None and mine.refused_constraint is not None:
        rejected = SessionConflict if mine.code == SessionConflict.code else SessionRejected
        raise rejected(mine.refused_constraint, retry_after=rules.wait_left(mine))
    if snapshot.stored_answer is None:
        raise LeaseLost(answer_kept=False)
    due_at = rules.next_attempt_at(snapshot) or snapshot.as_of
    raise LeaseLost(answer_kept=True, retry_after=max(due_at - snapshot.as_of, rules.SHORTEST_CALL))


def is_recorded(snapshot: Snapshot | None, failure: Failure) -> bool:
    """Whether the attempt that has the caller's token was closed by this failure."""
    mine = snapshot.my_attempt if snapshot is not None else None
    return mine is not None and mine.outcome is Outcome.FAILED and mine.code == failure.code.value


def closing_without(now: Found, *, counted: bool, answer: Answer | None) -> Closing:
    """Close without a session. What the app or its user did during the call saves no attempt and no wait."""
    code = AlreadySucceeded.code if now is Found.SUCCEEDED else GenerationNotFound.code
    status = GenerationStatus.ERROR
    return Closing(outcome=Outcome.FAILED, code=code, counted=counted, wait=None, status=status, answer=answer)


def _record(result: Answer | Failure, outcome: ProviderOutcome, duration: timedelta | None) -> CallRecord:
    return CallRecord(
        provider_outcome=outcome,
        duration=duration,
        model=result.model,
        usage=result.usage,
        provider_id=result.provider_id,
        wire_requests=result.wire_requests,
    )


def _status_after(code: FailureCode) -> GenerationStatus:
    return GenerationStatus.TIMEOUT if code is FailureCode.TIMEOUT else GenerationStatus.ERROR


def _is_turned_away(failure: Failure) -> bool:
    """Whether the request itself can't have caused the failure: then the attempt is as if it had not begun."""
    return failure.certainly_not_generated and not failure.operator_fault


def _has_answered(failure: Failure) -> bool:
    return failure.provider_outcome is not ProviderOutcome.UNKNOWN
