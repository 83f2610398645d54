"""What the domain needs from outside, and the contract that every adapter keeps.

Contracts say, in this order: what becomes true, when it is allowed, atomicity, what a repeat does, what is raised and
whether it is safe to repeat. ``ai_retry.testing.contract`` checks them; an adapter that has not passed it is not one.
"""

from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from ai_retry.domain.model import Admission, Answer, Claim, Context, Failure, QuotaRule, Settled, Snapshot


class Storage(Protocol):
    """Where generations, attempts and quotas live. One method is one transaction.

    The storage's own time decides everything: instants come from it, and callers give durations.
    """

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """Read what ``admit`` needs; None when the user has no such generation.

        One consistent read; it writes nothing and takes no lock. An open attempt whose lease has run out is told
        as it stands; ``policy`` knows that the next claim closes it as abandoned.

        Raises:
            StorageUnavailable: safe to repeat.
            NotConfigured: the storage lacks its schema, or the row can't be understood.
        """
        ...

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """Open the admitted attempt under a lease that ends ``lease`` after the storage's now.

        First, every open attempt of this user whose lease has run out is closed as abandoned. Then the attempt is
        opened only if the version is still the admission's, the user has fewer than ``max_live`` live attempts and
        fewer than ``max_used`` captured and held units, and the admission is at most ten seconds old; otherwise
        None: load and admit again. The generation says ``processing``.

        Atomic, also against claims of the same user's other generations. A repeat with the same token returns the
        same claim and opens nothing, whatever became of the attempt since.

        Raises:
            GenerationNotFound: it is gone; safe to repeat.
            StorageUnavailable: nothing was written; safe to repeat.
            StorageOutcomeUnknown: safe to repeat with the same token.
        """
        ...

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
        """Close the attempt with its session: link it, set ``success``, capture the held unit, write the event.

        Counts for as long as the attempt is open, however late. All or nothing in one transaction, except that a
        session which the database refuses closes the attempt without charge and keeps the answer; the next attempt
        is due after ``rejected_wait``, or ``rejected_again_wait`` when the same constraint refused before.

        A repeat returns what stands and changes nothing.

        Args:
            claim: the open attempt, by its token.
            answer: what to make the session of.
            answer_from: number of the attempt whose stored answer it is; None when this attempt paid for it.
            duration: of the provider's call; None when a stored answer was used.
            quota_rule: for the quota that is told back.
            rejected_wait: see above.
            rejected_again_wait: see above.

        Raises:
            SessionRejected: the answer is kept; safe to repeat as a new retry.
            LeaseLost: the attempt was closed before; the answer is kept, nothing is charged.
            AlreadySucceeded: another hand made the session meanwhile; nothing is charged.
            GenerationNotFound: the generation or its user is gone; nothing is charged.
            StorageUnavailable: nothing was written; safe to repeat.
            StorageOutcomeUnknown: safe to repeat.
        """
        ...

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """Close the attempt without a session: release the unit, set ``error`` or ``timeout``, write log and event.

        The next attempt is due ``delay`` after the storage's now. Counts for as long as the attempt is open. One
        transaction. A repeat changes nothing.

        Raises:
            LeaseLost: the attempt was closed before, by another hand.
            AlreadySucceeded: another hand made the session meanwhile.
            GenerationNotFound: the generation or its user is gone.
            StorageUnavailable: nothing was written; safe to repeat.
            StorageOutcomeUnknown: safe to repeat.
        """
        ...

    def discard_answer(self, user_id: UUID, generation_id: UUID, *, operator: str) -> bool:
        """Drop the generation's stored answer, so that the next retry calls again; record who did, and when.

        For an answer that can never become a session. One transaction. A repeat finds none.

        Returns:
            Whether there was one.

        Raises:
            StorageUnavailable: nothing was written; safe to repeat.
            StorageOutcomeUnknown: safe to repeat.
        """
        ...


class AiProvider(Protocol):
    """The one slow, paid, unreliable call."""

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Ask for a complete answer that is valid under ``context.response_schema``.

        Everything, repeats of a request that certainly did not generate included, ends within ``timeout``.
        Not idempotent: a repeat may be paid for again. ``idempotency_key`` goes along for providers that honour one.

        Raises:
            GenerationFailed: nothing else; its ``failure`` says what is known.
        """
        ...


class Clock(Protocol):
    """Time as this process sees it. It never decides a lease, a wait or a quota: the storage's time does."""

    def now(self) -> datetime:
        """Wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
