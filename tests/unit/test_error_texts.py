"""The exact words and details of every refusal, which clients show."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from ai_retry.domain.context import PARAMETERS, stored_context
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    BackoffNotElapsed,
    ContextMissing,
    GenerationFailed,
    GenerationNotFound,
    IdempotencyConflict,
    LeaseLost,
    NotConfigured,
    QuotaExhausted,
    RetryCancelled,
    RetryExpired,
    RetryInProgress,
    RetryPoisoned,
    RouteUnavailable,
    StorageUnavailable,
    TooManyParallel,
)
from ai_retry.domain.model import FailureCode, GenerationStatus
from ai_retry.domain.policy import RetryPolicy, admit
from tests.helpers.builders import AS_OF, GENERATION_ID, MESSAGES, SECOND, a_failure, a_generation, a_snapshot

# Each is made inside its test: a mutant that is switched on after this module was loaded would not be seen otherwise.
TEXTS: list[tuple[Callable[[], AiRetryError], str]] = [
    (lambda: GenerationNotFound(GENERATION_ID), f"No generation {GENERATION_ID}."),
    (lambda: AlreadySucceeded(GENERATION_ID), f"Generation {GENERATION_ID} has already succeeded."),
    (lambda: BackoffNotElapsed(AS_OF, wait=SECOND), "Too soon: the next attempt is possible in 1 s."),
    (lambda: RetryInProgress(wait=SECOND), "This generation is being worked on."),
    (lambda: RetryInProgress(wait=SECOND, queued=True), "Accepted; it waits for a worker."),
    (lambda: RouteUnavailable(wait=SECOND), "The AI provider is unavailable at the moment."),
    (lambda: TooManyParallel(2, wait=SECOND), "At most 2 retries run at once."),
    (lambda: QuotaExhausted(limit=5, resets_at=None, wait=None), "The user has no units left in this period."),
    (lambda: AttemptsExhausted(attempts=4, max_attempts=3), "All 3 attempts are used up."),
    (lambda: NotConfigured("no queue"), "ai-retry is not set up: no queue."),
    (lambda: StorageUnavailable("55P03"), "The storage failed (55P03)."),
    (lambda: GenerationFailed(a_failure(FailureCode.INCOMPLETE)), "The AI provider's answer was cut off."),
    (
        lambda: LeaseLost(answer_kept=True),
        "The attempt's time was up before it could be settled; its answer is kept for the next one.",
    ),
    (IdempotencyConflict, "The idempotency key was used for another request."),
    (RetryCancelled, "It was cancelled before it was begun."),
    (RetryExpired, "The accepted retry was not finished in time."),
    (lambda: RetryPoisoned(3), "3 attempts were not finished in time."),
    (lambda: LeaseLost(answer_kept=False), "The attempt's time was up before it could be settled."),
]


@pytest.mark.parametrize(("make", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_error_says_its_sentence(make: Callable[[], AiRetryError], text: str) -> None:
    """Each error's message is one whole sentence made of its data."""
    assert str(make()) == text


@pytest.mark.parametrize("transient", [True, False])
def test_failed_generation_says_if_transient(*, transient: bool) -> None:
    """Callers learn whether the identical request may succeed later."""
    assert GenerationFailed(a_failure(transient=transient)).details == {"transient": transient}


def test_success_without_session_has_no_details() -> None:
    """A success whose session is not known names none."""
    assert AlreadySucceeded(GENERATION_ID).details == {}


def test_not_configured_names_what_is_missing() -> None:
    """The operator finds what is missing as data, too."""
    assert NotConfigured("no queue").details == {"missing": "no queue"}


def test_storage_failure_has_reason_and_wait() -> None:
    """The code of the failure and the wait that was asked for are there as data."""
    error = StorageUnavailable("55P03", retry_after=SECOND)

    assert (error.reason, error.retry_after) == ("55P03", SECOND)


def test_refused_success_names_its_generation() -> None:
    """The refusal of ``admit`` is about the generation that was asked for."""
    with pytest.raises(AlreadySucceeded, match=f"^Generation {GENERATION_ID} has"):
        admit(a_snapshot(generation=a_generation(status=GenerationStatus.SUCCESS)))


def test_missing_seam_is_named() -> None:
    """Without the session function the operator learns which one is missing, as it is written in SQL."""
    with pytest.raises(NotConfigured) as caught:
        admit(a_snapshot(can_create_session=False))

    missing = "the function public.ai_retry_create_session(generations, jsonb) does not exist"
    assert caught.value.details == {"missing": missing}


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"backoff_base": 2 * SECOND, "backoff_cap": SECOND}, "backoff_base must not exceed backoff_cap"),
        ({"lease": SECOND}, "lease must be longer than settle_margin"),
    ],
)
def test_wrong_policy_is_named_whole(numbers: dict[str, Any], text: str) -> None:
    """Two numbers that don't work together are named in one plain sentence."""
    with pytest.raises(ValueError, match=f"^{text}$"):
        RetryPolicy(**numbers)


@pytest.mark.parametrize(
    ("prompt_data", "problem"),
    [
        (None, "prompt_data is null"),
        ([], "prompt_data must be a JSON object"),
        ({}, "prompt_data.messages must be a list of at least one message"),
        ({"messages": MESSAGES, "model": 1}, "prompt_data.model must be a string"),
        (
            {"messages": MESSAGES, "parameters": {"n": 2}},
            f"prompt_data.parameters may hold {', '.join(sorted(PARAMETERS))}, and nothing else",
        ),
    ],
)
def test_unusable_context_is_named_whole(prompt_data: Any, problem: str) -> None:
    """The problem is the sentence, and nothing around it."""
    with pytest.raises(ContextMissing, match=f": {re.escape(problem)}\\.$") as caught:
        stored_context(a_generation(prompt_data=prompt_data, model=None))

    assert caught.value.details == {"problem": problem}
