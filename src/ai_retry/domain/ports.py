"""What the domain needs from outside, and the contract that every adapter keeps.

Contracts say, in this order: what becomes true, when it is allowed, atomicity, what a repeat does, what is raised and
whether it is safe to repeat. ``ai_retry.testing.contract`` checks them; an adapter that has not passed it is not one.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Admission, Answer, Claim, Context, Failure, QuotaRule, Settled, Snapshot
from ai_retry.domain.queue_model import Message, Outage, Parked, QueuedRetry, QueueState


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

        First, every open attempt of this user whose lease has run out is closed as abandoned, and the app is told: its
        generation says ``timeout``, with an error log and an event. Then the attempt is opened only if the version is
        still the admission's, the user has fewer than ``max_live`` live attempts and fewer than ``max_used`` captured
        and held units, and the admission is at most ten seconds old; otherwise None: load and admit again. The
        generation says ``processing``.

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

        The next attempt is due ``delay`` after the storage's now. The attempt records whether the failure is transient
        and an operator's fault. Counts for as long as the attempt is open. One transaction. A repeat changes nothing.

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


class QueueStorage(Storage, Protocol):
    """A storage that also keeps retries which were accepted for later.

    The queued attempt is the truth; a message is a hint that it is time to look at one, and may come twice, late or not
    at all. Whatever closes an accepted retry's attempt ends its message too, in the same transaction: ``succeed``,
    ``fail``, and the methods below. A refused session (``SessionRejected``) and an abandoned attempt open the next
    queued one by themselves: the accepted retry goes on with the stored answer, or another call.

    Methods raise ``StorageUnavailable`` (nothing was written; safe to repeat) and ``StorageOutcomeUnknown`` (safe to
    repeat) like those of ``Storage``.
    """

    def enqueue(self, admission: Admission, *, token: UUID, expires_after: timedelta) -> QueuedRetry | None:
        """Accept a retry for later: open a queued attempt, which holds its unit of the quota, and send a message.

        Under the same conditions as a claim, but for ``max_live``: the user's attempts wait for each other. None: load
        and admit again. The generation says ``queued``. The attempt is due at ``admission.due_at``, at once when None.
        It records ``admission.context_reader``, which goes with every later attempt of the accepted retry.

        A repeat with the same token returns what stands, until a worker began the attempt; then None.

        Raises:
            GenerationNotFound: it is gone.
            NotConfigured: there is no queue here; nothing was written.
        """
        ...

    def claim_queued(
        self, admission: Admission, *, token: UUID, lease: timedelta, route: str | None, spread: timedelta
    ) -> Claim | Parked | None:
        """Turn the queued attempt to running, as ``claim`` opens one.

        Expired attempts are closed first. ``Parked`` when ``route`` is closed or all its slots are taken: the attempt
        is due when it opens, its message comes later by its ``spread``.

        Args:
            admission: of the purpose ``RUN_QUEUED``.
            token: the worker's; it replaces the queued attempt's.
            lease: how long the worker may take.
            route: provider and model that will be asked; None when nobody will be.
            spread: for each that waits for the same route, so much later this one looks again; who answers wakes it.

        Raises:
            GenerationNotFound: it is gone.
        """
        ...

    def retry_later(
        self,
        claim: Claim,
        failure: Failure,
        *,
        duration: timedelta | None,
        delay: timedelta,
        outage: Outage | None,
    ) -> None:
        """Close the attempt as ``fail`` does, and open the next queued one, due after ``delay``: the unit stays held.

        The generation says ``queued``. With ``outage`` the attempt's route is closed for a while, as soon as that
        is believed. A provider that is overloaded uses up no attempt.

        Raises:
            LeaseLost, AlreadySucceeded, GenerationNotFound: as ``fail``; nothing goes on.
        """
        ...

    def give_back(
        self, claim: Claim, *, delay: timedelta, reason: str, wire_requests: int, outage: Outage | None
    ) -> None:
        """Turn a running attempt that certainly did not generate back to queued, due after ``delay``.

        No attempt is used up, and the app is told of no failure. Its token ends: a repeat changes nothing. With
        ``outage`` its route is closed for a while.
        """
        ...

    def cancel(self, user_id: UUID, generation_id: UUID, *, reason: AiRetryError | None) -> timedelta | None:
        """Close the queued attempt and release its unit; the generation says again what it said before.

        Args:
            user_id: whose.
            generation_id: which.
            reason: why the accepted retry ends, for the app's error log; None: its user took it back.

        Returns:
            None when nothing is queued any more; else how long the lease of the attempt lasts that is running, and
            nothing was changed.
        """
        ...

    def receive(self, *, limit: int, visibility: timedelta, poll: timedelta) -> Sequence[Message]:
        """Wait up to ``poll`` for messages; others don't see them for ``visibility``. Nothing is begun.

        Raises:
            NotConfigured: there is no queue here.
        """
        ...

    def postpone(self, message: Message, *, delay: timedelta) -> None:
        """Put a message back, and its queued attempt with it, for ``delay``; for the lease when that is running.

        A message that belongs to no open attempt is deleted. A repeat is harmless.
        """
        ...

    def resend(self, *, max_live: int, limit: int) -> int:
        """Send messages for queued attempts that have been due for a minute without one; tell for how many users.

        For any worker, at any time. Waits for nobody.
        """
        ...

    def reap(self) -> bool:
        """End one accepted retry whose time is up, or close one attempt whose lease ran out; tell if there was one.

        For any worker, at any time. Waits for nobody.
        """
        ...

    def queue_state(self) -> QueueState:
        """Tell what waits and what runs. Reads only."""
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
