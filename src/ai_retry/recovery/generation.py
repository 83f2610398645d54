"""A generation that was found, as people want to see it."""

from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.policy import counted_attempts
from ai_retry.domain.recovery import Decision, FoundRow, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGeneration:
    """A generation that failed, and what can be done about it. No prompt and no answer stand here."""

    failed_at: datetime
    status: GenerationStatus
    code: str | None  # of the last error
    model: str | None
    attempts: int  # those that count, the app's original call included
    decision: Decision
    reason: str | None  # the code of the refusal; None: a retry would be admitted
    retry_at: datetime | None  # when a rule that refuses it now no longer does, as far as it is known
    user_id: UUID
    generation_id: UUID


COLUMNS = tuple(field.name for field in fields(FoundGeneration))


def told(row: FoundRow, verdict: Verdict) -> FoundGeneration:
    """Tell of a row what people want to see."""
    generation, wait = row.snapshot.generation, verdict.refusal.retry_after if verdict.refusal else None
    return FoundGeneration(
        failed_at=row.failed_at,
        status=generation.status,
        code=row.error.code if row.error else None,
        model=generation.model,
        attempts=counted_attempts(row.snapshot),
        decision=verdict.decision,
        reason=verdict.code,
        retry_at=row.snapshot.as_of + wait if wait is not None else None,
        user_id=generation.user_id,
        generation_id=generation.id,
    )
