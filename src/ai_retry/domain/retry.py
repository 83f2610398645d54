"""One retry, read top-down: load, admit, claim, call, settle.

Two commits per attempt, the claim and the settle, and one read before them; the provider is called between the two
and never inside a transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NoReturn
from uuid import UUID, uuid4

from ai_retry.domain import policy as rules
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import (
    AiRetryError,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    RetryInProgress,
)
from ai_retry.domain.model import (
    Admission,
    Answer,
    Claim,
    Failure,
    FailureCode,
    Outcome,
    RetryResult,
    Settled,
    Snapshot,
    Waiver,
)
from ai_retry.domain.names import check_key, check_operator, lifting
from ai_retry.domain.policy import DEFAULT_POLICY, SHORTEST_CALL, RetryPolicy
from ai_retry.domain.ports import AiProvider, Clock, Storage
from ai_retry.domain.reader import ContextFrom

CLAIM_TRIES = 3  # a snapshot that is stale three times in a row means that others are at work


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryStatus:
    """Where a generation stands, and what a retry would be answered now."""

    snapshot: Snapshot
    admission: Admission | None  # what a retry would claim; None when it is refused
    refusal: AiRetryError | None  # what a retry would raise


def retry_generation(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    storage: Storage,
    ai: AiProvider,
    clock: Clock,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
    idempotency_key: str | None = None,
    waive: frozenset[Waiver] = frozenset(),
    charge: bool = True,
    operator: str | None = None,
    jitter: Callable[[], float] | None = None,
) -> RetryResult:
    """Try a failed generation again, once, and return its session.

    The user's quota is held while the attempt runs, spent by its success and given back by any other end. Safe to
    repeat whatever it raised: no repeat makes a second session, charges a second unit or starts a second call beside
    a running one.

    Args:
        user_id: whose generation it must be.
        generation_id: which one; as ``UUID`` or in canonical text form, like ``user_id``.
        storage: where generations and attempts live.
        ai: whom to ask.
        clock: measures durations; instants are the storage's.
        policy: the numbers behind the rules.
        context_from: reads what to ask out of the generation.
        idempotency_key: if the latest attempt made with it succeeded, its session is returned instead. A key that
            begins with ``plan:`` belongs to a recovery plan, and is refused.
        waive: limits that an operator lifts for this attempt; recorded on it.
        charge: False gives the user the session without spending quota; recorded.
        operator: who lifted a limit; recorded. Without a name no limit is lifted.
        jitter: where in its range a wait lies, in [0, 1]; at random when None.

    Raises:
        ValueError: an id is not a UUID, a key or a name can't be used, or a limit is lifted without ``operator``;
            nothing was read.
        RetryRefused: a rule refuses it now; nothing was written.
        GenerationFailed: the provider gave no usable answer; the attempt is recorded.
        AiRetryError: see ``ai_retry.domain.errors`` for the others.
    """
    user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
    check_key(idempotency_key)
    check_operator(operator, lifted=lifting(waive=waive, charge=charge))
    for _ in range(CLAIM_TRIES):
        snapshot = load(storage, user_id, generation_id, policy)
        if idempotency_key is not None and (replay := replay_of(snapshot, idempotency_key)):
            return replay
        admission = replace(
            rules.admit(snapshot, policy, context_from=context_from, waive=waive, charge=charge),
            idempotency_key=idempotency_key,
            operator=operator,
        )
        claimed_after = clock.monotonic()
        claim = storage.claim(admission, token=uuid4(), lease=policy.lease)
        if claim is not None:
            attempt = RunningAttempt(
                snapshot, admission, claim, claimed_after, storage, ai, clock, policy, jitter or at_random
            )
            return attempt.run()
    raise RetryInProgress(wait=SHORTEST_CALL)


def retry_status(
    user_id: UUID | str,
    generation_id: UUID | str,
    *,
    storage: Storage,
    policy: RetryPolicy = DEFAULT_POLICY,
    context_from: ContextFrom = stored_context,
) -> RetryStatus:
    """Tell where a generation stands and what a retry would be answered. Reads only.

    Raises:
        ValueError: an id is not a UUID.
        GenerationNotFound: there is none for this user.
        StorageFailure: safe to repeat.
    """
    user_id, generation_id = as_uuid(user_id, "user_id"), as_uuid(generation_id, "generation_id")
    snapshot = load(storage, user_id, generation_id, policy)
    try:
        admission = rules.admit(snapshot, policy, context_from=context_from)
    except AiRetryError as refusal:
        return RetryStatus(snapshot=snapshot, admission=None, refusal=refusal)
    return RetryStatus(snapshot=snapshot, admission=admission, refusal=None)


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """A claimed attempt, from the call to the settle. What a failure leads to is for ``_fail`` and ``_give_back``."""

    snapshot: Snapshot
    admission: Admission
    claim: Claim
    claimed_after: float  # monotonic, taken before the claim was sent: the lease began no earlier
    storage: Storage
    ai: AiProvider
    clock: Clock
    policy: RetryPolicy
    jitter: Callable[[], float]

    def run(self) -> RetryResult:
        """Call and settle; raises what ``retry_generation`` does."""
        answer, duration = self._answer()
        settled = self._succeed(answer, duration)
        return RetryResult(
            generation=settled.generation,
            session=settled.session,
            quota=settled.quota,
            attempt=self.claim.number,
        )

    def _answer(self) -> tuple[Answer, timedelta | None]:
        """Use the stored answer, or make the one call."""
        if self.admission.stored_answer is not None:
            return self.admission.stored_answer.answer, None
        context = self.admission.context
        assert context is not None  # noqa: S101 (admit gives one or the other)
        called_after = self.clock.monotonic()
        timeout = rules.call_timeout(timedelta(seconds=called_after - self.claimed_after), self.policy)
        if timeout < min(SHORTEST_CALL, self.policy.deadline / 2):
            self._give_back()
        try:
            answer = self.ai.generate(
                context, timeout=timeout, idempotency_key=rules.provider_key(self.snapshot, context)
            )
        except GenerationFailed as error:
            wait = self._fail(error.failure, self._since(called_after))
            raise GenerationFailed(error.failure, retry_after=wait) from error
        if not rules.storable(answer.output):
            self._refuse_unstorable(answer, self._since(called_after))
        return answer, self._since(called_after)

    def _refuse_unstorable(self, answer: Answer, duration: timedelta) -> None:
        failure = Failure(
            code=FailureCode.INVALID_OUTPUT,
            reason="the output is no JSON that a database can hold",
            transient=True,
            certainly_not_generated=False,
            model=answer.model,
            usage=answer.usage,
            provider_id=answer.provider_id,
            wire_requests=answer.wire_requests,
        )
        raise GenerationFailed(failure, retry_after=self._fail(failure, duration))

    def _give_back(self) -> NoReturn:
        wait = self._fail(_NO_TIME_TO_CALL, None)
        raise LeaseLost(answer_kept=False, retry_after=wait)

    def _fail(self, failure: Failure, duration: timedelta | None) -> timedelta | None:
        """Record the failure; return the wait before the next attempt, None where none helps."""
        wait = rules.wait_after(self.claim.number, failure, self.policy, fraction=self.jitter())
        self.storage.fail(self.claim, failure, duration=duration, delay=wait)
        return wait if failure.passes and rules.attempts_left(self.snapshot, failure, self.policy) else None

    def _succeed(self, answer: Answer, duration: timedelta | None) -> Settled:
        return self.storage.succeed(
            self.claim,
            answer,
            answer_from=self.admission.stored_answer.number if self.admission.stored_answer else None,
            duration=duration,
            quota_rule=self.policy.quota,
            rejected_wait=rules.wait_after(self.claim.number, None, self.policy, fraction=self.jitter()),
            rejected_again_wait=self.policy.backoff_cap,
        )

    def _since(self, monotonic: float) -> timedelta:
        return timedelta(seconds=self.clock.monotonic() - monotonic)


def at_random() -> float:
    """Say where in its range a wait lies."""
    import random  # noqa: PLC0415 (importing ai_retry shall be quick)

    return random.random()  # noqa: S311 (spreads waits, guards nothing)


_NO_TIME_TO_CALL = Failure(
    code=FailureCode.LEASE_LOST,
    reason="the claim took so long that no time was left for the call",
    transient=True,
    certainly_not_generated=True,
    wire_requests=0,
)


def load(storage: Storage, user_id: UUID, generation_id: UUID, policy: RetryPolicy) -> Snapshot:
    """Read the snapshot; ``GenerationNotFound`` when the user has none such."""
    snapshot = storage.load(user_id, generation_id, policy.quota)
    if snapshot is None:
        raise GenerationNotFound(generation_id)
    return snapshot


def replay_of(snapshot: Snapshot, idempotency_key: str) -> RetryResult | None:
    """What an earlier request with this key achieved: the key belongs to the latest attempt made with it."""
    made = [attempt for attempt in snapshot.attempts if attempt.idempotency_key == idempotency_key]
    if not made or made[-1].outcome is not Outcome.SUCCEEDED or snapshot.session is None:
        return None
    return RetryResult(
        generation=snapshot.generation,
        session=snapshot.session,
        quota=snapshot.quota,
        attempt=made[-1].number,
        replayed=True,
    )


def as_uuid(value: UUID | str, name: str) -> UUID:
    """Accept a ``UUID`` or its canonical text form (RFC 9562, section 4), in either case."""
    if isinstance(value, UUID):
        return value
    try:
        parsed = UUID(value)
    except (ValueError, AttributeError, TypeError):
        parsed = None
    if parsed is None or str(parsed) != value.lower():
        raise ValueError(f"{name} must be a UUID such as 6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11")
    return parsed
