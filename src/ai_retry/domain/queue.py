"""A retry that is accepted now and run later, read top-down: enqueue, and what a worker does with a message.

The queued attempt is the truth and holds the user's unit; messages only say that it is time to look. An accepted retry
ends in its session, or in an error with its reason: when the identical request can't succeed, its attempts are used
up, its time is up, or its workers keep dying. While its provider is unavailable it waits and uses no attempt. It also
waits for a worker that has the reader with which it was accepted: no other may judge its context.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID, uuid4

from ai_retry.domain import policy as rules
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    BackoffNotElapsed,
    ContextMissing,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    NotConfigured,
    RetryEnded,
    RetryInProgress,
    RetryRefused,
    SessionRejected,
)
from ai_retry.domain.model import (
    Admission,
    Claim,
    Context,
    GenerationStatus,
    Purpose,
    RetryResult,
    Snapshot,
    Waiver,
)
from ai_retry.domain.names import check_key, check_operator, lifting
from ai_retry.domain.policy import DEFAULT_POLICY, SHORTEST_CALL, RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, QueueStorage
from ai_retry.domain.queue_model import Message, Parked, QueuedRetry
from ai_retry.domain.queued_attempt import OUTAGE_PACE, GoesOn, QueuedAttempt, QueueOutcome
from ai_retry.domain.reader import ContextFrom, ContextUnusable
from ai_retry.domain.retry import (
    CLAIM_TRIES,
    as_uuid,
    at_random,
    load,
    replay_of,
)

_MISCONFIGURED_WAIT = timedelta(seconds=60)  # until an operator may have acted


def enqueue_generation(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    storage: QueueStorage,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    idempotency_key: str | None = None,
    waive: frozenset[Waiver] = frozenset(),
    charge: bool = True,
    operator: str | None = None,
) -> QueuedRetry | RetryResult:
    """Accept a retry for later, and say where it stands; one that is queued or running already is only told.

    The user's quota is held from now on, spent by its success and given back by any other end. A wait that is not over
    is no refusal: the attempt is due when it is. Safe to repeat whatever it raised. Arguments as for
    ``retry_generation``.

    Returns:
        Where it stands; or the result that an earlier request with the same ``idempotency_key`` achieved.

    Raises:
        ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
            nothing was read.
        RetryRefused: a rule refuses it now; nothing was written.
        NotConfigured: there is no queue.
        AiRetryError: see ``ai_retry.domain.errors`` for the others.
    """
    user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
    check_key(idempotency_key)
    check_operator(operator, lifted=lifting(waive=waive, charge=charge))
    for _ in range(CLAIM_TRIES):
        snapshot = load(storage, user_id, generation_id, policy)
        if idempotency_key is not None and (replay := replay_of(snapshot, idempotency_key)):
            return replay
        if (standing := _standing(snapshot)) is not None:
            return standing
        admission = replace(
            rules.admit(
                snapshot, policy, purpose=Purpose.ENQUEUE, context_from=context_from, waive=waive, charge=charge
            ),
            idempotency_key=idempotency_key,
            operator=operator,
        )
        accepted = storage.enqueue(admission, token=uuid4(), expires_after=policy.max_queued)
        if accepted is not None:
            return accepted
    raise RetryInProgress(wait=SHORTEST_CALL)


def cancel_retry(user_id: UUID | str, generation_id: UUID | str, *, storage: QueueStorage) -> None:
    """Take a queued retry back: the generation says again what it said, and the unit of quota is free.

    Nothing happens when none is queued, so that a repeat is harmless.

    Raises:
        RetryInProgress: a worker has begun it; nothing was changed.
        ValueError: an id is not a UUID.
    """
    running_for = storage.cancel(as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id"), reason=None)
    if running_for is not None:
        raise RetryInProgress(wait=min(running_for, rules.BUSY_WAIT))


def run_queued(
    message: Message,
    *,
    storage: QueueStorage,
    ai: AiProvider,
    clock: Clock,
    route_of: Callable[[Context], str],
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    on_end: Callable[[AiRetryError], None] = lambda _: None,
    jitter: Callable[[], float] | None = None,
) -> QueueOutcome:
    """Do what a message hints at: run its generation's queued attempt, put it back, or drop a hint that is none.

    Args:
        message: the hint.
        storage: where attempts and messages live.
        ai: whom to ask.
        clock: measures durations; instants are the storage's.
        route_of: names the provider and model that a context asks; those that share a name share their outages.
        policy: the numbers behind the rules.
        context_from: reads what to ask out of the generation.
        on_end: called with the reason when the accepted retry ends without a call.
        jitter: where in its range a wait lies, in [0, 1]; at random when None.

    Raises:
        StorageFailure: the message comes again; safe to repeat.
        NotConfigured: an operator has to act; the attempt is put back for a minute. ``OtherReader`` is one.
        ContextUnusable: ``context_from`` has a defect, or the settings here do not allow the model that it names; the
            attempt is put back for a minute.
    """
    job = _Job(message, storage, ai, clock, policy, context_from, route_of, on_end, jitter or at_random)
    return job.run()


@dataclass(frozen=True, slots=True)
class _Job:
    """One message, from the look at its generation to the end of the attempt."""

    message: Message
    storage: QueueStorage
    ai: AiProvider
    clock: Clock
    policy: RetryPolicy
    context_from: ContextFrom
    route_of: Callable[[Context], str]
    on_end: Callable[[AiRetryError], None]
    jitter: Callable[[], float]

    def run(self) -> QueueOutcome:
        """Let the rules decide, as of now."""
        try:
            return self._run_admitted()
        except (GenerationNotFound, AlreadySucceeded):
            return self._end(None)
        except (NotConfigured, ContextUnusable):  # what an operator, or the next release of the app, cures
            self._postpone(_MISCONFIGURED_WAIT)
            raise
        except (ContextMissing, AttemptsExhausted, RetryEnded) as reason:
            outcome = self._end(reason)
            self.on_end(reason)
            return outcome
        except RetryRefused as refusal:
            return self._postpone(self._until(refusal))

    def _run_admitted(self) -> QueueOutcome:
        for _ in range(CLAIM_TRIES):
            snapshot = load(self.storage, self.message.user_id, self.message.generation_id, self.policy)
            if not _waits_for_worker(snapshot):
                return self._postpone(timedelta(0), QueueOutcome.NOTHING)
            admission = rules.admit(snapshot, self.policy, purpose=Purpose.RUN_QUEUED, context_from=self.context_from)
            claimed_after = self.clock.monotonic()
            claim = self._claim(admission)
            if isinstance(claim, Parked):
                return QueueOutcome.PARKED
            if claim is not None:
                return self._run_claimed(snapshot, admission, claim, claimed_after)
        return self._postpone(SHORTEST_CALL)

    def _claim(self, admission: Admission) -> Claim | Parked | None:
        return self.storage.claim_queued(
            admission,
            token=uuid4(),
            lease=self.policy.lease,
            route=None if admission.context is None else self.route_of(admission.context),
            spread=OUTAGE_PACE * self.jitter(),
        )

    def _run_claimed(
        self, snapshot: Snapshot, admission: Admission, claim: Claim, claimed_after: float
    ) -> QueueOutcome:
        attempt = QueuedAttempt(
            snapshot, admission, claim, claimed_after, self.storage, self.ai, self.clock, self.policy, self.jitter
        )
        try:
            attempt.run()
        except GoesOn as goes_on:
            return goes_on.outcome
        except SessionRejected:
            return QueueOutcome.GOES_ON
        except (GenerationFailed, LeaseLost, AlreadySucceeded, GenerationNotFound):
            return QueueOutcome.FAILED
        return QueueOutcome.SUCCEEDED

    def _end(self, reason: AiRetryError | None) -> QueueOutcome:
        self.storage.cancel(self.message.user_id, self.message.generation_id, reason=reason)
        return self._postpone(timedelta(0), QueueOutcome.ENDED)

    def _postpone(self, delay: timedelta, outcome: QueueOutcome = QueueOutcome.POSTPONED) -> QueueOutcome:
        self.storage.postpone(self.message, delay=delay)
        return outcome

    def _until(self, refusal: RetryRefused) -> timedelta:
        wait = refusal.wait or SHORTEST_CALL
        if isinstance(refusal, BackoffNotElapsed):
            return wait
        return wait * (0.5 + self.jitter() / 2)


def _waits_for_worker(snapshot: Snapshot) -> bool:
    """Whether an accepted retry has an attempt that no worker has, or whose worker was given up for dead."""
    last = snapshot.last_attempt
    if last is None or last.outcome is not None or last.accepted_at is None:
        return False
    return last.lease_expires_at is None or last.lease_expires_at <= snapshot.as_of


def _standing(snapshot: Snapshot) -> QueuedRetry | None:
    """Tell of the attempt that is queued, or running under a living lease, if there is one."""
    last = snapshot.last_attempt
    if last is None or last.outcome is not None or snapshot.generation.status is GenerationStatus.SUCCESS:
        return None
    if last.lease_expires_at is not None and last.lease_expires_at <= snapshot.as_of and last.accepted_at is None:
        return None
    return QueuedRetry(
        generation=snapshot.generation,
        quota=snapshot.quota,
        attempt=last.number,
        accepted_at=last.accepted_at,
        next_attempt_at=last.next_attempt_at if last.is_queued else None,
        expires_at=last.expires_at,
        as_of=snapshot.as_of,
    )
