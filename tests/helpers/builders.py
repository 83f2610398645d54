"""Builders of domain values: each gives something plausible, and takes what a test wants different."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.change import CallRecord, Found, Rejection, Settle, Success
from ai_retry.domain.model import (
    Answer,
    Attempt,
    Context,
    Failure,
    FailureCode,
    Generation,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    Quota,
    QuotaRule,
    Snapshot,
    StoredAnswer,
    Usage,
)

AS_OF = datetime(2026, 1, 1, 12, tzinfo=UTC)
USER_ID = UUID("0b54ad2c-73b0-4a52-8d6c-0f6f0a1d3c11")
GENERATION_ID = UUID("6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11")
SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=35)
MESSAGES = [{"role": "user", "content": "Plan an easy run."}]


def a_generation(**columns: Any) -> Generation:
    """Give a generation that failed ten minutes ago."""
    row: dict[str, Any] = {
        "id": GENERATION_ID,
        "user_id": USER_ID,
        "status": GenerationStatus.ERROR,
        "model": "small",
        "prompt_data": {"messages": MESSAGES},
        "session_id": None,
        "duration": None,
        "created_at": AS_OF - timedelta(minutes=10),
        "updated_at": None,
    }
    return Generation(**row | columns)


def an_attempt(number: int = 2, **columns: Any) -> Attempt:
    """Give an attempt that failed a minute ago; its wait is over."""
    row: dict[str, Any] = {
        "number": number,
        "started_at": AS_OF - timedelta(seconds=70),
        "lease_expires_at": AS_OF - timedelta(seconds=35),
        "outcome": Outcome.FAILED,
        "closed_at": AS_OF - timedelta(seconds=60),
        "code": "AI_UNAVAILABLE",
        "next_attempt_at": AS_OF - timedelta(seconds=30),
    }
    return Attempt(**row | columns)


def an_open_attempt(number: int = 2, *, lease_expires_at: datetime = AS_OF + LEASE, **columns: Any) -> Attempt:
    """Give an attempt that runs; with a lease in the past, one to be abandoned."""
    row: dict[str, Any] = {
        "started_at": lease_expires_at - LEASE,
        "lease_expires_at": lease_expires_at,
        "outcome": None,
        "closed_at": None,
        "code": None,
        "next_attempt_at": lease_expires_at + 2 * SECOND,
    }
    return an_attempt(number, **row | columns)


def a_quota(**columns: Any) -> Quota:
    """Give a quota of five a day, of which nothing is used."""
    row: dict[str, Any] = {"limit": 5, "window": timedelta(hours=24), "captured": 0, "held": 0, "resets_at": None}
    return Quota(**row | columns)


def a_snapshot(**columns: Any) -> Snapshot:
    """Give the snapshot of a generation that may be retried."""
    row: dict[str, Any] = {
        "as_of": AS_OF,
        "version": "1/error",
        "generation": a_generation(),
        "attempts": (),
        "live": 0,
        "live_until": None,
        "quota": a_quota(),
        "stored_answer": None,
        "session": None,
        "can_create_session": True,
    }
    return Snapshot(**row | columns)


def a_context(**columns: Any) -> Context:
    """Give the context that ``a_generation`` holds."""
    return Context(**{"messages": tuple(MESSAGES), "model": "small"} | columns)


def an_answer(**columns: Any) -> Answer:
    """Give a complete answer."""
    row: dict[str, Any] = {
        "output": {"title": "Easy run"},
        "model": "small",
        "usage": Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46),
        "provider_id": "gen-1",
    }
    return Answer(**row | columns)


def a_stored_answer(number: int = 2, **columns: Any) -> StoredAnswer:
    """Give an answer that has no session yet."""
    return StoredAnswer(number=number, answer=an_answer(**columns))


def a_failure(code: FailureCode = FailureCode.UNAVAILABLE, **columns: Any) -> Failure:
    """Give a failure of which nothing is known but that the provider is unavailable."""
    row: dict[str, Any] = {
        "code": code,
        "reason": "503 from the upstream",
        "transient": True,
        "certainly_not_generated": False,
    }
    return Failure(**row | columns)


def a_settle() -> Settle:
    """Give a settle, of another attempt each, whose answer was paid for."""
    return Settle(
        user_id=uuid4(),
        generation_id=uuid4(),
        token=uuid4(),
        found=Found.READY,
        end=Success(
            answer=an_answer(),
            answer_from=None,
            if_rejected=Rejection(message="rejected", wait=SECOND, again_wait=SECOND),
        ),
        quota_rule=QuotaRule(),
        call=CallRecord(provider_outcome=ProviderOutcome.GENERATED, duration=SECOND),
        answered=True,
    )
