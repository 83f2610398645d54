"""Every way in which a retry can end without a session, organised by "is it safe to repeat?".

::

    AiRetryError                  code                        http  safe to repeat
    ├─ GenerationNotFound         GENERATION_NOT_FOUND        404   yes, and useless; also when it is someone else's
    ├─ ContextMissing             CONTEXT_MISSING             404   yes, once the context is corrected
    ├─ AlreadySucceeded           ALREADY_SUCCEEDED           409   yes, and useless
    ├─ IdempotencyConflict        IDEMPOTENCY_KEY_REUSED      422   yes, and useless: another request has the key
    ├─ RetryRefused                                           429   yes: nothing was written, nothing was called
    │  ├─ BackoffNotElapsed       RETRY_TOO_SOON              429
    │  ├─ RetryInProgress         RETRY_IN_PROGRESS           429
    │  ├─ RouteUnavailable        ROUTE_UNAVAILABLE           429
    │  ├─ TooManyParallel         TOO_MANY_PARALLEL_RETRIES   429
    │  ├─ QuotaExhausted          QUOTA_EXHAUSTED             429
    │  └─ AttemptsExhausted       RETRY_LIMIT_REACHED         429
    ├─ GenerationFailed           AI_…, six codes             502   yes, after its wait: the attempt is recorded
    ├─ SessionRejected            SESSION_REJECTED            500   yes: the paid answer is stored and used again
    │  └─ SessionConflict         SESSION_CONFLICT            409   yes, once its user has cured the conflict
    ├─ LeaseLost                  LEASE_LOST                  500   yes: a late answer is kept and used
    ├─ NotConfigured              NOT_CONFIGURED              500   yes, once the operator acted; no call was made
    ├─ Unauthenticated            UNAUTHENTICATED             401   yes, with another token
    ├─ AuthUnavailable            AUTH_UNAVAILABLE            500   yes: nothing was read
    ├─ RetryEnded                                             409   why an accepted retry ended without a call
    │  ├─ RetryExpired            RETRY_EXPIRED               409   its time was up
    │  ├─ RetryPoisoned           RETRY_POISONED              409   its workers kept dying
    │  └─ RetryCancelled          RETRY_CANCELLED             409   its user took it back
    └─ StorageFailure                                         500
       ├─ StorageUnavailable      STORAGE_UNAVAILABLE         500   yes: nothing was written
       └─ StorageOutcomeUnknown   STORAGE_OUTCOME_UNKNOWN     500   yes: begins and settles are known by their token

"Safe to repeat" means that the same request can't make a second session, charge a second unit or start a second call
beside a running one. Constructors take data and build the message; no message holds a prompt, an answer or a key.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from ai_retry.domain.model import Failure

_SOON = timedelta(seconds=1)
_LONGEST_REASON = 200  # characters of the app's own words


class AiRetryError(Exception):
    """Base of all errors of this library."""

    code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        retry_after: timedelta | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the error; subclasses call this with data that is safe to show to the user."""
        super().__init__(message)
        self.retry_after = retry_after
        self.details: dict[str, Any] = dict(details or {})
        self.generation_id: UUID | None = None  # of a first call: its generation, once it may exist

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed after ``retry_after``; repeating it is safe in any case."""
        return self.retry_after is not None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle past the constructors, which take data rather than the message."""
        return _unconstructed, (type(self), self.args), self.__dict__


def _unconstructed(cls: type[AiRetryError], args: tuple[Any, ...]) -> AiRetryError:
    return cls.__new__(cls, *args)


class GenerationNotFound(AiRetryError):
    """There is no such generation for this user; someone else's looks exactly the same."""

    code = "GENERATION_NOT_FOUND"
    http_status = 404

    def __init__(self, generation_id: UUID) -> None:
        super().__init__(f"No generation {generation_id}.")


class ContextMissing(AiRetryError):
    """The generation holds nothing that could be asked again, or something that can't be used."""

    code = "CONTEXT_MISSING"
    http_status = 404

    def __init__(self, problem: str) -> None:
        super().__init__(f"The generation's stored context can't be used: {problem}.", details={"problem": problem})


class AlreadySucceeded(AiRetryError):
    """The generation has its session; there is nothing to retry."""

    code = "ALREADY_SUCCEEDED"
    http_status = 409

    def __init__(self, generation_id: UUID, session_id: str | None = None) -> None:
        super().__init__(
            f"Generation {generation_id} has already succeeded.",
            details={"session_id": session_id} if session_id else None,
        )


class IdempotencyConflict(AiRetryError):
    """The idempotency key, or the generation's id, belongs to another request: another prompt's, or the app's own."""

    code = "IDEMPOTENCY_KEY_REUSED"
    http_status = 422

    def __init__(self) -> None:
        super().__init__("The idempotency key was used for another request.")


class RetryRefused(AiRetryError):
    """A rule refuses the retry now. Nothing was written, and no provider was called.

    ``wait`` lasts until the rule no longer refuses; it is ``retry_after``, too, where coming back then may help.
    """

    http_status = 429

    def __init__(
        self,
        message: str,
        *,
        wait: timedelta | None = None,
        helps: bool = True,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, retry_after=wait if helps else None, details=details)
        self.wait = wait


class BackoffNotElapsed(RetryRefused):
    """The wait after the last attempt is not over."""

    code = "RETRY_TOO_SOON"

    def __init__(self, next_attempt_at: datetime, *, wait: timedelta, helps: bool = True) -> None:
        possible = f"Too soon: the next attempt is possible in {whole_seconds(wait)} s"
        super().__init__(
            f"{possible}." if helps else f"{possible}, but waiting does not cure what failed.",
            wait=wait,
            helps=helps,
            details={"next_attempt_at": next_attempt_at},
        )


class RetryInProgress(RetryRefused):
    """An attempt works on this generation, or one is queued for it."""

    code = "RETRY_IN_PROGRESS"

    def __init__(self, *, wait: timedelta, queued: bool = False) -> None:
        super().__init__(
            "Accepted; it waits for a worker." if queued else "This generation is being worked on.", wait=wait
        )


class RouteUnavailable(RetryRefused):
    """The provider and model that the retry would ask are known to be unavailable, or are just being probed."""

    code = "ROUTE_UNAVAILABLE"

    def __init__(self, *, wait: timedelta, route: str | None = None, is_held: bool = False) -> None:
        super().__init__("The AI provider is unavailable at the moment.", wait=wait)
        self.route = route  # the one that opens first
        self.is_held = is_held  # by an operator, who may open it any time


class TooManyParallel(RetryRefused):
    """The user, or this process, has as many calls running as are allowed, by ai-retry or by the app's own tables."""

    code = "TOO_MANY_PARALLEL_RETRIES"

    def __init__(self, max_parallel: int, *, wait: timedelta, helps: bool = True) -> None:
        super().__init__(
            f"At most {max_parallel} retries run at once.",
            wait=wait,
            helps=helps,
            details={"max_parallel": max_parallel},
        )


class QuotaExhausted(RetryRefused):
    """Captured and held units fill the user's quota."""

    code = "QUOTA_EXHAUSTED"

    def __init__(self, *, limit: int, resets_at: datetime | None, wait: timedelta | None, helps: bool = True) -> None:
        super().__init__(
            "The user has no units left in this period.",
            wait=wait,
            helps=helps,
            details={"limit": limit, "resets_at": resets_at},
        )


class AttemptsExhausted(RetryRefused):
    """The generation has used up its attempts: for good, or, where ``wait`` is given, those of a day."""

    code = "RETRY_LIMIT_REACHED"

    def __init__(self, *, attempts: int, max_attempts: int, wait: timedelta | None = None, helps: bool = True) -> None:
        super().__init__(
            f"All {max_attempts} attempts are used up.",
            wait=wait,
            helps=helps,
            details={"attempts": attempts, "max_attempts": max_attempts},
        )


class GenerationFailed(AiRetryError):
    """The provider gave no usable answer.

    Raised by a provider with what it knows, and by ``retry_generation`` once the attempt is recorded; then
    ``retry_after`` is the wait before the next attempt, None when there is none, or when waiting does not cure what
    failed (``Failure.passes``).
    """

    http_status = 502

    def __init__(self, failure: Failure, *, retry_after: timedelta | None = None) -> None:
        super().__init__(
            _FAILURE_TEXTS[failure.code],
            retry_after=retry_after,
            details={"transient": failure.transient},
        )
        self.failure = failure

    @property
    def code(self) -> str:  # type: ignore[override]
        """One of the ``AI_…`` codes."""
        return self.failure.code.value


_FAILURE_TEXTS: Mapping[str, str] = {
    "AI_TIMEOUT": "The AI provider gave no complete answer in time.",
    "AI_RATE_LIMITED": "The AI provider is limiting requests.",
    "AI_UNAVAILABLE": "The AI provider is unavailable.",
    "AI_REJECTED": "The AI provider rejected the request.",
    "AI_INVALID_OUTPUT": "The AI provider's answer does not have the form asked for.",
    "AI_INCOMPLETE": "The AI provider's answer was cut off.",
    "LEASE_LOST": "The time was up before the AI provider could be called.",
}


class SessionRejected(AiRetryError):
    """The app's tables or its session function rejected the session. The paid answer is stored; the next retry uses it.

    An operator has to cure the cause. ``cause``: the constraint, column or SQLSTATE that rejected it, if known.
    ``answer_kept``: False once an operator has discarded the answer.
    """

    code = "SESSION_REJECTED"
    summary: ClassVar[str] = "The result was rejected; its answer is stored."  # for the app's users

    def __init__(self, cause: str | None, *, retry_after: timedelta | None, answer_kept: bool = True) -> None:
        by, kept = f" by {cause}" if cause else "", "; its answer is stored" if answer_kept else ""
        super().__init__(
            f"The result was rejected{by}{kept}.",
            retry_after=retry_after,
            details={"constraint": cause, "answer_kept": answer_kept},
        )


class SessionConflict(SessionRejected):
    """The session conflicts with another one of its user, who can cure that: a unique or an exclusion constraint.

    ``reason``: the app knew before the call that no session could be created, and says so in its own words for its
    user: one line of at most 200 characters. Then nothing was written, and no provider was called.
    """

    code = "SESSION_CONFLICT"
    http_status = 409

    def __init__(
        self,
        cause: str | None = None,
        *,
        retry_after: timedelta | None = None,
        reason: str | None = None,
        answer_kept: bool = True,
    ) -> None:
        super().__init__(cause, retry_after=retry_after, answer_kept=answer_kept)
        self.reason = reason
        if reason is not None:
            reason = self.reason = " ".join(reason.split())[:_LONGEST_REASON]
            self.args = (f"No session can be created now: {reason}",)
            self.details = {"reason": reason, "answer_kept": answer_kept}


class LeaseLost(AiRetryError):
    """The attempt was closed, or its time was up, before it could be settled. It charged nothing."""

    code = "LEASE_LOST"

    def __init__(self, *, answer_kept: bool, retry_after: timedelta | None = None) -> None:
        kept = "; its answer is kept for the next one" if answer_kept else ""
        super().__init__(
            f"The attempt's time was up before it could be settled{kept}.",
            retry_after=retry_after,
            details={"answer_kept": answer_kept},
        )


class NotConfigured(AiRetryError):
    """Something that an operator must set up is missing. Refused before any call."""

    code = "NOT_CONFIGURED"

    def __init__(self, missing: str) -> None:
        super().__init__(f"ai-retry is not set up: {missing}.", details={"missing": missing})


class Unauthenticated(AiRetryError):
    """The access token does not prove who is asking. Every refusal reads the same.

    ``reason``: one of a few fixed words for a debug log, never shown to the caller.
    """

    code = "UNAUTHENTICATED"
    http_status = 401

    def __init__(self, reason: str = "token") -> None:
        super().__init__("A valid access token is needed: Authorization: Bearer <token>.")
        self.reason = reason


class AuthUnavailable(AiRetryError):
    """Supabase Auth gave no usable answer: nothing is known about the token.

    ``reason``: the HTTP status or the kind of network error, for the operator.
    """

    code = "AUTH_UNAVAILABLE"

    def __init__(self, reason: str = "unreachable") -> None:
        super().__init__("The access token can't be verified now.", retry_after=_SOON)
        self.reason = reason


class RetryEnded(AiRetryError):
    """Why an accepted retry goes on no longer: for the app's error log, and for who asks for a first call again."""

    http_status = 409


class RetryExpired(RetryEnded):
    """The time for which an accepted retry is tried is up."""

    code = "RETRY_EXPIRED"

    def __init__(self) -> None:
        super().__init__("The accepted retry was not finished in time.")


class RetryPoisoned(RetryEnded):
    """Attempt after attempt was abandoned: perhaps it is this generation that kills its workers."""

    code = "RETRY_POISONED"

    def __init__(self, abandoned: int) -> None:
        super().__init__(f"{abandoned} attempts were not finished in time.", details={"abandoned": abandoned})


class RetryCancelled(RetryEnded):
    """Its user took it back before it was begun."""

    code = "RETRY_CANCELLED"

    def __init__(self) -> None:
        super().__init__("It was cancelled before it was begun.")


class StorageFailure(AiRetryError):
    """The storage failed; ``sqlstate`` or an API's code says how. The database's own text is never kept."""

    def __init__(self, reason: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(f"The storage failed ({reason}).", retry_after=retry_after)
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """True: the next request may find the storage as it should be, whether or not a wait is known."""
        return True


class StorageUnavailable(StorageFailure):
    """Nothing was written."""

    code = "STORAGE_UNAVAILABLE"


class StorageOutcomeUnknown(StorageFailure):
    """The reply was lost: the write may have been committed. Repeat it with the same token."""

    code = "STORAGE_OUTCOME_UNKNOWN"


def whole_seconds(wait: timedelta) -> int:
    """Return a wait as clients and people read it: rounded up, and at least 1 (RFC 9110, section 10.2.3)."""
    return max(1, math.ceil(wait / timedelta(seconds=1)))
