"""The errors: what each says, that it travels between processes, and that it reveals nothing."""

import copy
import pickle
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from ai_retry.domain import errors
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    AuthUnavailable,
    BackoffNotElapsed,
    ContextMissing,
    GenerationFailed,
    GenerationNotFound,
    IdempotencyConflict,
    LeaseLost,
    NotConfigured,
    QuotaExhausted,
    RetryCancelled,
    RetryEnded,
    RetryExpired,
    RetryInProgress,
    RetryPoisoned,
    RetryRefused,
    RouteUnavailable,
    SessionConflict,
    SessionRejected,
    StorageFailure,
    StorageOutcomeUnknown,
    StorageUnavailable,
    TooManyParallel,
    Unauthenticated,
)
from ai_retry.domain.model import FailureCode
from tests.helpers.builders import AS_OF, GENERATION_ID, SECOND, a_failure

EXAMPLES: list[AiRetryError] = [
    GenerationNotFound(GENERATION_ID),
    ContextMissing("prompt_data is null"),
    AlreadySucceeded(GENERATION_ID),
    AlreadySucceeded(GENERATION_ID, "4711"),
    BackoffNotElapsed(AS_OF, wait=1.5 * SECOND),
    RetryInProgress(wait=SECOND),
    RouteUnavailable(wait=SECOND),
    TooManyParallel(2, wait=SECOND),
    QuotaExhausted(limit=5, resets_at=AS_OF, wait=SECOND),
    QuotaExhausted(limit=0, resets_at=None, wait=None),
    AttemptsExhausted(attempts=4, max_attempts=4),
    *(GenerationFailed(a_failure(code), retry_after=SECOND) for code in FailureCode),
    SessionRejected("title_is_short", retry_after=SECOND),
    SessionRejected(None, retry_after=None),
    SessionConflict("one_planned_session", retry_after=SECOND),
    LeaseLost(answer_kept=True),
    LeaseLost(answer_kept=False, retry_after=SECOND),
    NotConfigured("no migration"),
    Unauthenticated(),
    AuthUnavailable("503"),
    RetryExpired(),
    RetryPoisoned(3),
    RetryCancelled(),
    IdempotencyConflict(),
    StorageUnavailable("55P03", retry_after=SECOND),
    StorageOutcomeUnknown("08006"),
]

every_error = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def concrete_errors() -> set[type[AiRetryError]]:
    """Every error of the module that is raised."""
    classes = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, AiRetryError)}
    return classes - {AiRetryError, RetryEnded, RetryRefused, StorageFailure}


def test_examples_show_every_error() -> None:
    """The tests below leave no error out."""
    assert {type(error) for error in EXAMPLES} == concrete_errors()


@every_error
@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_error_travels_whole(error: AiRetryError, travel: Any) -> None:
    """Pickled or copied, an error keeps its type, its message and its data."""
    arrived = travel(error)

    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))
    assert (arrived.code, arrived.http_status) == (error.code, error.http_status)


@every_error
def test_error_says_what_to_do(error: AiRetryError) -> None:
    """Every error has a code, a status and a sentence, and says whether the same request may succeed later."""
    assert error.code.isupper()
    assert error.http_status in (401, 404, 409, 422, 429, 500, 502)
    assert str(error).endswith(".")
    assert error.retryable is (error.retry_after is not None or isinstance(error, StorageFailure))


@pytest.mark.parametrize(
    ("error", "code", "http_status"),
    [
        (GenerationNotFound(GENERATION_ID), "GENERATION_NOT_FOUND", 404),
        (ContextMissing("…"), "CONTEXT_MISSING", 404),
        (AlreadySucceeded(GENERATION_ID), "ALREADY_SUCCEEDED", 409),
        (IdempotencyConflict(), "IDEMPOTENCY_KEY_REUSED", 422),
        (RetryCancelled(), "RETRY_CANCELLED", 409),
        (RetryExpired(), "RETRY_EXPIRED", 409),
        (RetryPoisoned(3), "RETRY_POISONED", 409),
        (BackoffNotElapsed(AS_OF, wait=SECOND), "RETRY_TOO_SOON", 429),
        (RetryInProgress(wait=SECOND), "RETRY_IN_PROGRESS", 429),
        (RouteUnavailable(wait=SECOND), "ROUTE_UNAVAILABLE", 429),
        (TooManyParallel(2, wait=SECOND), "TOO_MANY_PARALLEL_RETRIES", 429),
        (QuotaExhausted(limit=5, resets_at=None, wait=None), "QUOTA_EXHAUSTED", 429),
        (AttemptsExhausted(attempts=4, max_attempts=4), "RETRY_LIMIT_REACHED", 429),
        (GenerationFailed(a_failure(FailureCode.INCOMPLETE)), "AI_INCOMPLETE", 502),
        (SessionRejected(None, retry_after=None), "SESSION_REJECTED", 500),
        (SessionConflict("…", retry_after=None), "SESSION_CONFLICT", 409),
        (LeaseLost(answer_kept=False), "LEASE_LOST", 500),
        (NotConfigured("…"), "NOT_CONFIGURED", 500),
        (StorageUnavailable("…"), "STORAGE_UNAVAILABLE", 500),
        (StorageOutcomeUnknown("…"), "STORAGE_OUTCOME_UNKNOWN", 500),
    ],
)
def test_error_has_its_code_and_status(error: AiRetryError, code: str, http_status: int) -> None:
    """Codes and statuses are the API's."""
    assert (error.code, error.http_status) == (code, http_status)


def test_wait_is_named_in_whole_seconds() -> None:
    """Waits are rounded up, so that no client comes back a moment too early."""
    assert "in 2 s" in str(BackoffNotElapsed(AS_OF, wait=timedelta(seconds=1.001)))


def test_failed_generation_hides_the_reason() -> None:
    """What the provider said is for the operator: neither message nor details nor repr show it."""
    failure = a_failure(reason="key sk-secret is over its limit")

    error = GenerationFailed(failure)

    assert error.failure is failure
    assert "sk-secret" not in f"{error} {error!r} {error.details}"


@pytest.mark.parametrize("kind", [SessionRejected, SessionConflict])
@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("title_is_short", "The result was rejected by title_is_short; its answer is stored."),
        (None, SessionRejected.summary),
    ],
)
def test_rejected_session_names_the_cause(kind: type[SessionRejected], cause: str | None, message: str) -> None:
    """The constraint, column or SQLSTATE is named where it is known."""
    error = kind(cause, retry_after=SECOND)

    assert str(error) == message
    assert (error.details, error.retry_after) == ({"constraint": cause, "answer_kept": True}, SECOND)


@pytest.mark.parametrize("answer_kept", [False, True])
def test_foreseen_conflict_says_why(*, answer_kept: bool) -> None:
    """A conflict that the app knew beforehand is said in its words; an answer is kept only if there was one."""
    error = SessionConflict(reason="There is one already.", answer_kept=answer_kept)

    assert str(error) == "No session can be created now: There is one already."
    assert (error.details, error.retry_after) == (
        {"reason": "There is one already.", "answer_kept": answer_kept},
        None,
    )
    assert str(copy.copy(error)) == str(error)


def test_conflict_is_a_rejected_session() -> None:
    """Whoever handles rejected sessions handles those that their users can cure, too."""
    assert issubclass(SessionConflict, SessionRejected)


def test_lost_lease_says_if_answer_is_kept() -> None:
    """Whoever lost the lease learns what became of the answer."""
    kept, not_kept = LeaseLost(answer_kept=True), LeaseLost(answer_kept=False)

    assert ("kept" in str(kept), kept.details) == (True, {"answer_kept": True})
    assert ("kept" in str(not_kept), not_kept.details) == (False, {"answer_kept": False})


def test_details_are_the_errors_own() -> None:
    """Changing an error's details changes no other's."""
    first, second = RetryInProgress(wait=SECOND), RetryInProgress(wait=SECOND)

    first.details["seen"] = True

    assert second.details == {}


@pytest.mark.parametrize(
    "refuse",
    [
        partial(BackoffNotElapsed, AS_OF),
        partial(TooManyParallel, 2),
        partial(QuotaExhausted, limit=5, resets_at=AS_OF),
    ],
    ids=lambda refuse: refuse.func.__name__,
)
def test_refusal_has_its_wait_unless_it_is_useless(refuse: Callable[..., RetryRefused]) -> None:
    """Coming back helps where the caller does not say otherwise."""
    error, useless = refuse(wait=SECOND), refuse(wait=SECOND, helps=False)

    assert (error.retry_after, error.wait) == (SECOND, SECOND)
    assert (useless.retry_after, useless.wait) == (None, SECOND)
