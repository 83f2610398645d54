"""How does an attempt end? The changes that close one, and what its caller is answered."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.calls import ends_by_route
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
    Usage,
)
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import Outage, RouteNote

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
        self._route = change.attempt.start.route if isinstance(change.attempt.start, Running) else None
        queued = rules.queued_attempt(begun)
        self._accepted = queued is not None
        self._expires_at = queued.expires_at if queued is not None else None
        self._in_doubt = queued is not None and queued.provider_outcome is ProviderOutcome.UNKNOWN  # a try before
        self._number = rules.next_number(begun)
        self._made = sum(queued is not None and each.accepted_at == queued.accepted_at for each in begun.attempts)

    def is_elsewhere(self) -> None:
        """Note that the route it was begun with is not asked: nothing is learned of that one."""
        self._route = None

    @property
    def is_accepted(self) -> bool:
        """Whether it is an accepted retry's, that a worker runs."""
        return self._accepted

    def answered(self, now: Found, answer: Answer, answer_from: int | None, duration: timedelta | None) -> Settle:
        """Decide what an answer leads to: its session, or where there can't be one now, a place for the answer."""
        call = None if answer_from is not None else self._record(answer, duration)
        paid = replace(answer, calls=())  # they are of the call
        if now is not Found.READY:
            kept = paid if answer_from is None and now is not Found.GONE else None
            return self._settle(now, closing_without(now, counted=answer_from is None, answer=kept), call)
        wait = rules.wait_after(self._number, None, self._policy, fraction=self._fraction)
        rejection = Rejection(
            message=SessionRejected.summary,
            wait=wait if self._accepted else min(wait, REJECTED_WAIT),
            again_wait=self._policy.backoff_cap if self._accepted else REJECTED_WAIT,
        )
        success = Success(answer=paid, answer_from=answer_from, if_rejected=rejection)
        return self._settle(now, success, call, showed=None if answer_from is not None else answer)

    def kept(self, answer: Answer, duration: timedelta | None, cause: str) -> Keep:
        """Decide where an answer goes that could not be settled."""
        return Keep(
            user_id=self._user_id,
            generation_id=self._generation_id,
            token=self._token,
            answer=replace(answer, calls=()),
            cause=cause,
            wait=REJECTED_WAIT,
            call=self._record(answer, duration),
        )

    def failed(self, failure: Failure, duration: timedelta | None) -> Settle | PutBack:
        """Decide what a failure leads to; ``duration`` is the call's."""
        outage, _, elsewhere = self._notes(failure)
        if self._accepted and self._is_put_back(failure):
            return self.put_back(failure, outage, elsewhere)
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
            goes_on=self.goes_on(failure, unavailable=any((outage, *(each.outage for each in elsewhere)))),
        )
        return self._settle(Found.READY, closing, self._record(failure, duration), showed=failure)

    def failed_without(self, now: Found, failure: Failure, duration: timedelta | None) -> Settle:
        """Decide what a failure leads to when the generation can't get a session any more: ``now`` says why."""
        call = self._record(failure, duration)
        return self._settle(now, closing_without(now, counted=failure.counted, answer=None), call)

    def retry_after(self, failure: Failure) -> timedelta | None:
        """The wait after which coming back may help; None where it does not."""
        helps = failure.passes and rules.attempts_left(self._begun, failure, self._policy)
        return self.wait_after(failure) if helps else None

    def wait_after(self, failure: Failure) -> timedelta:
        """The wait before the next attempt."""
        return rules.wait_after(self._number, failure, self._policy, fraction=self._fraction)

    def goes_on(self, failure: Failure, *, unavailable: bool) -> bool:
        """Whether an accepted retry's next attempt may succeed, and is in time."""
        wait = self.wait_after(failure)
        return (
            self._accepted
            and (failure.transient or unavailable)
            and (self._expires_at is None or self._begun.as_of + wait < self._expires_at)
            and self._made < self._policy.hard_cap  # also of those that an operator has to answer for
            and rules.attempts_left(self._begun, failure, self._policy)
        )

    def put_back(self, failure: Failure, outage: Outage | None, elsewhere: Sequence[RouteNote] = ()) -> PutBack:
        """Queue an accepted retry's attempt again, as if it had not begun: until the first of its routes opens."""
        wait = rules.asked_wait(failure, self._policy)
        if outages := [each for each in (outage, *(note.outage for note in elsewhere)) if each is not None]:
            wait = max(min(each.wait for each in outages), wait) + OUTAGE_SPREAD * self._fraction
        return PutBack(
            user_id=self._user_id,
            generation_id=self._generation_id,
            token=self._token,
            wait=max(wait, rules.SHORTEST_CALL),
            reason=failure.reason,
            wire_requests=failure.wire_requests,
            provider_outcome=ProviderOutcome.UNKNOWN if self._in_doubt else failure.provider_outcome,
            outage=outage,
            elsewhere=elsewhere,
        )

    def _is_put_back(self, failure: Failure) -> bool:
        """Whether an outage of every route that was asked is why it failed, and nothing was generated.

        A call of which it is not known whether it generated must have gone to a route that had failed before.
        """
        ends = ends_by_route(failure, self._route)
        outcomes = {failure.provider_outcome, *(each.provider_outcome for each in failure.calls)}
        if ProviderOutcome.GENERATED in outcomes:
            return False
        if not all(each is not None and rules.is_outage(each) for each in ends.values()):
            return False
        before = {route for route in ends if self._failures_before(route)}
        unsure = {route for route, each in ends.items() if each is not None and not each.certainly_not_generated}
        return _is_turned_away(failure) or (bool(before) and unsure <= before)

    def _failures_before(self, route: str | None) -> int:
        return next((each.failures for each in self._begun.routes if each.route == route), 0)

    def _notes(self, result: Answer | Failure) -> tuple[Outage | None, bool, Sequence[RouteNote]]:
        """What the calls showed: an outage of the begun route, whether that answered, and the other routes."""
        ends = dict(ends_by_route(result, self._route))
        begun = {self._route: ends.pop(self._route)} if self._route in ends else {}
        notes = [
            RouteNote(route=route, outage=outage)
            for route, end in ends.items()
            if route is not None and ((outage := self._outage(route, end)) is not None or _has_answered(end))
        ]
        for route, end in begun.items():
            outage = self._outage(route, end)
            return outage, outage is None and _has_answered(end), tuple(notes)
        return None, False, tuple(notes)

    def _outage(self, route: str | None, failure: Failure | None) -> Outage | None:
        if failure is None or not rules.is_outage(failure):
            return None
        before = self._failures_before(route)
        wait = rules.outage_wait(before + 1, failure, self._policy, fraction=self._fraction)
        return Outage(wait=wait, failures=before + 1, doubts=1 if before else rules.outage_doubts(failure))

    def _record(self, result: Answer | Failure, duration: timedelta | None) -> CallRecord:
        """Record a call; an attempt that was put back in doubt stays in doubt, whatever came of its next try."""
        return CallRecord(
            provider_outcome=ProviderOutcome.UNKNOWN if self._in_doubt else result.provider_outcome,
            duration=duration,
            model=result.model,
            usage=result.usage,
            provider_id=result.provider_id,
            wire_requests=result.wire_requests,
            calls=tuple(result.calls),
        )

    def _settle(
        self,
        now: Found,
        end: Success | Closing,
        call: CallRecord | None,
        *,
        showed: Answer | Failure | None = None,
    ) -> Settle:
        outage, answered, elsewhere = self._notes(showed) if showed is not None else (None, False, ())
        return Settle(
            user_id=self._user_id,
            generation_id=self._generation_id,
            token=self._token,
            found=now,
            end=end,
            quota_rule=self._policy.quota,
            call=call,
            outage=outage,
            answered=answered,
            elsewhere=elsewhere,
        )


def verdict(
    snapshot: Snapshot | None, user_id: UUID, generation_id: UUID, *, usage: Usage | None = None
) -> RetryResult:
    """Read how the attempt that has the caller's token ended, for a caller that has an answer, and may know its usage.

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
            usage=usage,
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


def _status_after(code: FailureCode) -> GenerationStatus:
    return GenerationStatus.TIMEOUT if code is FailureCode.TIMEOUT else GenerationStatus.ERROR


def _is_turned_away(failure: Failure) -> bool:
    """Whether the request itself can't have caused the failure: then the attempt is as if it had not begun."""
    return failure.certainly_not_generated and not failure.operator_fault


def _has_answered(end: Failure | None) -> bool:
    """Whether a call showed that its route answers: one that was never sent shows nothing."""
    return end is None or (end.wire_requests > 0 and end.provider_outcome is not ProviderOutcome.UNKNOWN)
