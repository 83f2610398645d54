"""A generation that was found, as people want to see it."""

from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from ai_retry.domain.policy import counted_attempts, queued_attempt
from ai_retry.domain.recovery import Decision, FoundRow, UnreadableRow, Verdict
from ai_retry.recovery.requests import in_brief


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGeneration:
    """A generation that failed, and what can be done about it. It holds no prompt and no answer."""

    failed_at: datetime | None  # None: unknown, as the row can't be read
    status: str | None
    code: str | None  # of the last error
    model: str | None
    attempts: int | None  # those that count, the app's original call included
    decision: Decision
    reason: str | None  # the code of the refusal; None: a retry would be admitted
    retry_at: datetime | None  # when a rule that refuses it now no longer does, as far as it is known
    user_id: UUID | None
    generation_id: UUID
    calls: str | None = None  # the models that the last attempt asked, and what came of it; None: unknown
    problem: str | None = None  # why the row can't be read, with its column; None: it can


COLUMNS = tuple(field.name for field in fields(FoundGeneration))


def readable(row: FoundRow, verdict: Verdict) -> FoundGeneration:
    """Return of a row what people want to see."""
    generation = row.snapshot.generation
    return FoundGeneration(
        failed_at=row.failed_at,
        status=generation.status,
        code=row.error.code if row.error else None,
        model=generation.model,
        attempts=counted_attempts(row.snapshot),
        decision=verdict.decision,
        reason=verdict.code,
        retry_at=retry_at(row, verdict),
        user_id=generation.user_id,
        generation_id=generation.id,
        calls=in_brief(row.calls),
    )


def retry_at(row: FoundRow, verdict: Verdict) -> datetime | None:
    """Return when a rule no longer refuses a retry; None: unknown, it refuses none, or a worker will retry."""
    wait = verdict.refusal.retry_after if verdict.refusal else None
    return None if wait is None or queued_attempt(row.snapshot) is not None else row.snapshot.as_of + wait


def unreadable(row: UnreadableRow) -> FoundGeneration:
    """Return what could be read of a row that can't be understood, and why it is never retried as it is."""
    return FoundGeneration(
        failed_at=row.failed_at,
        status=row.status,
        code=row.error.code if row.error else None,
        model=row.model,
        attempts=None,
        decision=row.verdict.decision,
        reason=row.verdict.code,
        retry_at=None,
        user_id=row.user_id,
        generation_id=row.generation_id,
        problem=row.problem,
    )
