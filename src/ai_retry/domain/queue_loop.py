"""Retries that are accepted for later, as loops: accept, cancel, and what a worker does with a message."""

from datetime import timedelta
from uuid import UUID

from ai_retry.domain import policy as rules
from ai_retry.domain.change import CloseOver, Postpone, Reply, Settle, Taken
from ai_retry.domain.decide import begin, queue
from ai_retry.domain.decide.begin import Asked, owned, replay, visible
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.decide.settle import verdict
from ai_retry.domain.errors import (
    AlreadySucceeded,
    AttemptsExhausted,
    ContextMissing,
    GenerationNotFound,
    NotConfigured,
    RetryEnded,
    RetryInProgress,
    RetryRefused,
    RouteUnavailable,
    SessionConflict,
)
from ai_retry.domain.loop import TRIES, Ended, Load, Loop, RunningAttempt, Setting, has_begun, has_ended
from ai_retry.domain.model import Snapshot
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import QueuedRetry, QueueOutcome
from ai_retry.domain.reader import ContextUnusable


def accepting(asked: Asked, reader: Reader, policy: RetryPolicy) -> Loop[QueuedRetry]:
    """Accept a retry for later, or describe the one that is open already; raises what ``enqueue_generation`` does."""
    snapshot = yield Load(user_id=asked.user_id, generation_id=asked.generation_id, token=asked.token)
    for _ in range(TRIES):
        current = owned(snapshot, asked.user_id, asked.generation_id)
        if (replayed := replay(current, asked.idempotency_key)) is not None:
            return queue.done(replayed, current)
        if (accepted := queue.accepted(current)) is not None:
            return accepted
        if has_ended(current):
            return queue.done(verdict(current, asked.user_id, asked.generation_id), current)
        reply: Reply = yield begin.accept(current, asked, reader, policy)
        snapshot = reply.snapshot
        if reply.applied and snapshot is not None and (accepted := queue.accepted(snapshot)) is not None:
            return accepted
    raise RetryInProgress(wait=rules.SHORTEST_CALL)


def cancelling(user_id: UUID, generation_id: UUID, policy: RetryPolicy) -> Loop[None]:
    """Take a queued retry back; does nothing when none is queued.

    Raises:
        RetryInProgress: a worker has begun it; nothing was changed.
    """
    for _ in range(TRIES):
        snapshot = visible((yield Load(user_id=user_id, generation_id=generation_id)), user_id)
        change = queue.cancel(snapshot, policy) if snapshot is not None else None
        if change is None:
            return
        reply: Reply = yield change
        if reply.applied and isinstance(change, Settle):
            return
    raise RetryInProgress(wait=rules.SHORTEST_CALL)


def working(taken: Taken, token: UUID, setting: Setting) -> Loop[QueueOutcome]:
    """Do what a message hints at: run its generation's queued attempt, end it, or put the message back.

    Raises:
        NotConfigured: an operator has to act; the attempt is put back for a minute. ``OtherReader`` is one.
        ContextUnusable: the reader or the settings here are at fault; the attempt is put back for a minute.
        StorageFailure: the message comes again.
    """
    message, snapshot = taken.message, taken.snapshot
    for _ in range(TRIES):
        if snapshot is None or has_ended(snapshot) or not queue.concerns(message, snapshot):
            yield CloseOver(user_id=message.user_id)
            yield Postpone(message=message, wait=timedelta(0))
            return QueueOutcome.NOTHING
        if rules.queued_attempt(snapshot) is None:  # its worker is dead: the attempt that follows has its turn
            yield CloseOver(user_id=message.user_id)
            snapshot = yield Load(user_id=message.user_id, generation_id=message.generation_id, token=token)
            continue
        try:
            done = yield from _run_queued(snapshot, message.user_id, token, setting)
        except (NotConfigured, ContextUnusable):  # what an operator, or the next release of the app, cures
            yield Postpone(message=message, wait=queue.MISCONFIGURED_WAIT)
            raise
        except (GenerationNotFound, AlreadySucceeded, ContextMissing, AttemptsExhausted, RetryEnded) as reason:
            silent = isinstance(reason, GenerationNotFound | AlreadySucceeded)
            yield queue.end(snapshot, message.user_id, None if silent else reason, setting.policy)
            return QueueOutcome.ENDED
        except SessionConflict:  # what its user may cure any time
            yield Postpone(message=message, wait=queue.CONFLICT_WAIT, code=SessionConflict.code)
            return QueueOutcome.POSTPONED
        except RetryRefused as refusal:
            yield queue.postpone(message, refusal, snapshot, setting.fraction())
            return QueueOutcome.PARKED if isinstance(refusal, RouteUnavailable) else QueueOutcome.POSTPONED
        if isinstance(done, Ended):
            return outcome_of(done)
        snapshot = done
    yield Postpone(message=message, wait=rules.SHORTEST_CALL)
    return QueueOutcome.POSTPONED


def outcome_of(ended: Ended) -> QueueOutcome:
    """What became of a message whose attempt ran."""
    if ended.put_back:
        return QueueOutcome.PARKED
    if ended.goes_on:
        return QueueOutcome.GOES_ON
    return QueueOutcome.SUCCEEDED if ended.result is not None else QueueOutcome.FAILED


def _run_queued(snapshot: Snapshot, user_id: UUID, token: UUID, setting: Setting) -> Loop[Ended | Snapshot | None]:
    """Begin and run the queued attempt; the fresh snapshot instead when the begin is stale."""
    owned(snapshot, user_id, snapshot.generation.id)
    began = setting.monotonic()
    change, context = begin.run(snapshot, token, setting.reader, setting.policy)
    reply: Reply = yield change
    if not has_begun(reply):
        return reply.snapshot
    return (yield from RunningAttempt(snapshot, change, began, setting).run(context))
