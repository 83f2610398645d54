"""What does a message, a cancellation or an overdue attempt lead to? Decisions about retries accepted for later."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.change import CloseOver, Closing, Found, Postpone, Settle
from ai_retry.domain.decide.settle import found
from ai_retry.domain.errors import AiRetryError, BackoffNotElapsed, RetryInProgress, RetryRefused, RouteUnavailable
from ai_retry.domain.model import Attempt, Outcome, RetryResult, Snapshot
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import Message, QueuedRetry

OUTAGE_PACE: Final = timedelta(milliseconds=200)  # between the looks of attempts that wait for a route
CONFLICT_WAIT: Final = timedelta(seconds=60)  # until a user may have made room for the session
HELD_LOOK: Final = timedelta(seconds=60)  # between looks at a route that an operator holds, and may open any time
MISCONFIGURED_WAIT: Final = timedelta(seconds=60)  # until an operator may have acted


def open_attempt(snapshot: Snapshot) -> Attempt | None:
    """Return the open attempt of the generation's user; that of a user who had it before is theirs, and ends soon."""
    last = snapshot.last_attempt
    return last if last is not None and last.outcome is None and not snapshot.open_is_foreign else None


def is_over(attempt: Attempt, snapshot: Snapshot) -> bool:
    """Whether the attempt runs under a lease that has run out."""
    return attempt.lease_expires_at is not None and attempt.lease_expires_at <= snapshot.as_of


def accepted(snapshot: Snapshot) -> QueuedRetry | None:
    """Describe the attempt that is queued, or that runs, if there is one that a second acceptance would repeat."""
    attempt = open_attempt(snapshot)
    if attempt is None or rules.is_success(snapshot):
        return None
    if is_over(attempt, snapshot) and attempt.accepted_at is None:
        return None
    return QueuedRetry(
        generation=snapshot.generation,
        quota=snapshot.quota,
        attempt=attempt.number,
        accepted_at=attempt.accepted_at,
        next_attempt_at=attempt.next_attempt_at if attempt.is_queued else None,
        expires_at=attempt.expires_at,
        as_of=snapshot.as_of,
    )


def done(result: RetryResult, snapshot: Snapshot) -> QueuedRetry:
    """Describe a retry that ended before it was asked for again under the same key."""
    return QueuedRetry(
        generation=result.generation,
        quota=result.quota,
        attempt=result.attempt,
        accepted_at=None,
        next_attempt_at=None,
        expires_at=None,
        as_of=snapshot.as_of,
        result=result,
    )


def cancel(snapshot: Snapshot, policy: RetryPolicy) -> CloseOver | Settle | None:
    """Decide how a user takes an accepted retry back; None when none is queued.

    An attempt that a dead worker left is closed first: the attempt that follows it is what can be cancelled.

    Raises:
        RetryInProgress: it runs; nothing is changed.
    """
    attempt = open_attempt(snapshot)
    if attempt is None or (attempt.accepted_at is None and is_over(attempt, snapshot)):
        return None
    if attempt.is_queued:
        return end(snapshot, snapshot.generation.user_id, None, policy)
    if is_over(attempt, snapshot):
        return CloseOver(user_id=snapshot.generation.user_id)
    left = (attempt.lease_expires_at or snapshot.as_of) - snapshot.as_of
    raise RetryInProgress(wait=min(left, rules.BUSY_WAIT))


def end(snapshot: Snapshot, user_id: UUID, reason: AiRetryError | None, policy: RetryPolicy) -> Settle:
    """Close the queued attempt without a call: cancelled by its user, or ended for a reason, which the app learns."""
    assert snapshot.open_token is not None  # noqa: S101 (the caller has looked: an attempt is queued)
    now = found(snapshot, user_id)
    closing = Closing(
        outcome=Outcome.FAILED if reason is not None else Outcome.CANCELLED,
        code=reason.code if reason is not None else None,
        counted=False,
        wait=None,
        message=str(reason) if reason is not None and now is Found.READY else None,
    )
    return Settle(
        user_id=user_id,
        generation_id=snapshot.generation.id,
        token=snapshot.open_token,
        found=now,
        end=closing,
        quota_rule=policy.quota,
    )


def concerns(message: Message, snapshot: Snapshot) -> bool:
    """Whether the message's user has an accepted retry here whose attempt no worker has, or whose worker is dead.

    A message in another user's name concerns nothing: of whatever the app has moved, ``CloseOver`` takes care.
    """
    attempt = open_attempt(snapshot)
    if snapshot.generation.user_id != message.user_id:
        return False
    if attempt is None or attempt.accepted_at is None:
        return False
    return attempt.is_queued or is_over(attempt, snapshot)


def postpone(message: Message, refusal: RetryRefused, snapshot: Snapshot, fraction: float) -> Postpone:
    """Put a message back whose attempt is refused now.

    To the end of a backoff; for a route, the later the more wait for it; otherwise for about as long as the refusal
    says.
    """
    wait = refusal.wait or rules.SHORTEST_CALL
    if isinstance(refusal, BackoffNotElapsed):
        return Postpone(message=message, wait=wait, code=refusal.code)
    if not isinstance(refusal, RouteUnavailable):
        return Postpone(message=message, wait=wait * (0.5 + fraction / 2), code=refusal.code)
    route = refusal.route
    if refusal.is_held:
        wait = min(wait, HELD_LOOK)
    waiting = sum(each.waiting for each in snapshot.routes if each.route == route)
    spread = OUTAGE_PACE * fraction * (waiting + 1)
    return Postpone(message=message, wait=wait, spread=spread, route=route, code=refusal.code)
