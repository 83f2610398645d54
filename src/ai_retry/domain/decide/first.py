"""What does a first call find? A generation to be created, or what an earlier request with the same key has come to."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from ai_retry.domain import policy as rules
from ai_retry.domain.change import Begin, CallRecord, Closing, Found, NewGeneration, Settle
from ai_retry.domain.decide.queue import is_over, open_attempt
from ai_retry.domain.decide.settle import closing_without
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    ContextMissing,
    GenerationFailed,
    IdempotencyConflict,
    LeaseLost,
    NotConfigured,
    RetryCancelled,
    RetryExpired,
    RetryInProgress,
    RetryPoisoned,
    SessionConflict,
    SessionRejected,
    TooManyParallel,
)
from ai_retry.domain.model import (
    Attempt,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    QuotaRule,
    RetryResult,
    Snapshot,
)
from ai_retry.domain.policy import RetryPolicy

NOT_AS_ASKED: Final = "ARGEN"  # the SQLSTATE of a begin whose generation is not the one that was asked for
NO_SESSIONS: Final = "ARSES"  # and of one that could have no session
_ONE_AT_A_TIME: Final = ("23505", "23P01")
_CONFLICT: Final = "PT409"
_NOT_ALLOWED: Final = "42501"
_RECORDED: Final = "recorded by an earlier request"


def proposed(snapshot: Snapshot, new: NewGeneration) -> Snapshot:
    """Return the snapshot with what would be created, where there is nothing yet."""
    if snapshot.exists:
        return snapshot
    generation = replace(snapshot.generation, prompt_data=new.prompt_data, model=new.model)
    return replace(snapshot, generation=generation)


def check_same(snapshot: Snapshot, new: NewGeneration) -> None:
    """Refuse a request that is not the one which created the generation.

    Raises:
        IdempotencyConflict: it is another one, or the generation's first call is not ours.
    """
    first = snapshot.first_call
    if first is None or first.request_digest != new.digest:
        raise IdempotencyConflict


def is_left(snapshot: Snapshot) -> bool:
    """Whether a process that died has left its attempt open: it is closed before anything is said of it."""
    attempt = open_attempt(snapshot)
    return attempt is not None and is_over(attempt, snapshot)


def replayed(snapshot: Snapshot, policy: RetryPolicy) -> RetryResult:
    """Return what the generation has come to, by whichever attempt.

    Raises:
        RetryInProgress: an attempt works on it, or the app does.
        AlreadySucceeded: the app has given it its session.
        AiRetryError: the last attempt has none, and this is what was recorded of it; another attempt is a retry.
    """
    if rules.is_success(snapshot):
        ours = next((each for each in snapshot.attempts if each.outcome is Outcome.SUCCEEDED), None)
        if ours is None:
            raise AlreadySucceeded(snapshot.generation.id, snapshot.generation.session_id)
        return RetryResult(
            generation=snapshot.generation,
            session=snapshot.session or {},  # empty: the app removed it since
            quota=snapshot.quota,
            attempt=ours.number,
            replayed=True,
        )
    rules.refuse_in_progress(snapshot, policy)
    last = snapshot.last_attempt
    if last is None or last.outcome is None:  # that of a user who had the generation before
        raise RetryInProgress(wait=rules.SHORTEST_CALL)
    raise recorded(snapshot, last, policy)


def recorded(snapshot: Snapshot, last: Attempt, policy: RetryPolicy) -> AiRetryError:
    """Build the error of the last attempt, which is closed, from what is recorded; its wait is what is left of it."""
    wait = max((last.next_attempt_at or snapshot.as_of) - snapshot.as_of, timedelta(0))
    retry_after = wait if last.passes and rules.may_go_on(snapshot, policy) else None
    if last.refused_constraint is not None:
        rejected = SessionConflict if last.code == SessionConflict.code else SessionRejected
        kept = snapshot.stored_answer is not None
        return rejected(last.refused_constraint, retry_after=wait, answer_kept=kept)
    if snapshot.stored_answer is not None:
        return LeaseLost(answer_kept=True, retry_after=wait)
    if last.code in set(FailureCode) - {FailureCode.LEASE_LOST}:
        return GenerationFailed(_failure_of(last), retry_after=retry_after)
    return _ended(snapshot, last, policy) or LeaseLost(answer_kept=False, retry_after=retry_after)


def refused(sqlstate: str, name: str | None) -> AiRetryError:
    """Say what it means that the app refuses to create a generation; nothing of it was written.

    Args:
        sqlstate: of the error; never its text, in which a row may stand.
        name: of the constraint or column that refuses it.
    """
    if sqlstate in _ONE_AT_A_TIME:
        return TooManyParallel(1, wait=rules.BUSY_WAIT)
    if sqlstate == _CONFLICT:
        return SessionConflict(reason="The app accepts no further generation of this user.", answer_kept=False)
    if sqlstate == NO_SESSIONS:
        return NotConfigured(rules.NO_SESSION_FUNCTION)
    if sqlstate == NOT_AS_ASKED:
        return NotConfigured(
            "ai_retry.app_create_generation must insert the generation under the id and for the user that it is given, "
            "so that ai_retry.app_read returns it, not hidden"
        )
    if sqlstate == _NOT_ALLOWED:
        return NotConfigured(
            f"ai_retry.app_create_generation may not insert the generation ({sqlstate}): grant ai-retry's role insert"
        )
    by = f"{sqlstate}, {name}" if name else sqlstate
    return NotConfigured(
        f"ai_retry.app_create_generation can't insert the generation: the app's tables refuse it ({by})"
    )


def unreadable(now: Found, change: Begin, error: AiRetryError, rule: QuotaRule) -> Settle:
    """Decide how a first call ends whose generation was created so that its context can't be read: nothing was sent."""
    closing = Closing(
        outcome=Outcome.FAILED,
        code=ContextMissing.code,
        counted=False,
        wait=timedelta(0),
        status=GenerationStatus.ERROR,
        message=str(error),
        reason=str(error),
        transient=False,
        operator_fault=True,
    )
    return Settle(
        user_id=change.user_id,
        generation_id=change.generation_id,
        token=change.token,
        found=now,
        end=closing if now is Found.READY else closing_without(now, counted=False, answer=None),
        quota_rule=rule,
        call=CallRecord(provider_outcome=ProviderOutcome.NOT_GENERATED),
    )


def _failure_of(closed: Attempt) -> Failure:
    return Failure(
        code=FailureCode(closed.code or ""),
        reason=_RECORDED,
        transient=closed.transient is not False,
        certainly_not_generated=closed.provider_outcome is ProviderOutcome.NOT_GENERATED,
        operator_fault=closed.operator_fault,
    )


def _ended(snapshot: Snapshot, last: Attempt, policy: RetryPolicy) -> AiRetryError | None:
    """Build the reason why an attempt ended without a call; None: it had one, or its process died."""
    if last.outcome is Outcome.CANCELLED:
        return RetryCancelled()
    attempts = rules.counted_attempts(snapshot)
    reasons = (
        RetryExpired(),
        RetryPoisoned(policy.max_abandoned),
        ContextMissing(f"it could not be read, as was {_RECORDED}"),
        AttemptsExhausted(attempts=attempts, max_attempts=policy.max_attempts, helps=False),
    )
    return next((each for each in reasons if each.code == last.code), None)
