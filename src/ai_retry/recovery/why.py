"""Why a generation can or can't be retried, in words that a support person can send on."""

import html
import textwrap
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    BackoffNotElapsed,
    GenerationNotFound,
    QuotaExhausted,
    RetryInProgress,
    TooManyParallel,
)
from ai_retry.domain.model import Outcome, Snapshot
from ai_retry.domain.names import as_uuid
from ai_retry.domain.policy import RetryPolicy, counted_attempts, queued_attempt, waiting_helps
from ai_retry.domain.reader import reader_name
from ai_retry.domain.recovery import Decision, FoundRow, LastError, UnreadableRow, Verdict, judge
from ai_retry.recovery.generation import retry_at
from ai_retry.recovery.parts import Parts
from ai_retry.recovery.requests import in_full
from ai_retry.tables import printable

_WAYS = {
    Decision.NOW: "can be retried now",
    Decision.LATER: "can't be retried now, but later",
    Decision.NEVER: "can't be retried as things are",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a generation failed and what to do next. ``str`` of it is the paragraph."""

    generation_id: UUID
    user_id: UUID | None  # None: it can't be read
    decision: Decision
    code: str | None  # of the rule that refuses a retry; None: it would be admitted
    retry_at: datetime | None  # when to come back, as far as it is known
    last_error: LastError | None
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return textwrap.fill(self.text, 100)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.text)}</p>"


def explain(parts: Parts, generation_id: UUID | str) -> Explanation:
    """See ``Client.why``."""
    generation_id = as_uuid(generation_id, "generation_id")
    row = parts.records.find_one(generation_id, parts.policy.quota)
    if row is None:
        raise GenerationNotFound(generation_id)
    return explain_row(parts, row)


def explain_row(parts: Parts, row: FoundRow | UnreadableRow) -> Explanation:
    """Explain a generation that was read."""
    if isinstance(row, UnreadableRow):
        return _unreadable(row)
    verdict = judge(row.snapshot, parts.policy, context_from=parts.context_from)
    return Explanation(
        generation_id=row.snapshot.generation.id,
        user_id=row.snapshot.generation.user_id,
        decision=verdict.decision,
        code=verdict.code,
        retry_at=retry_at(row, verdict),
        last_error=row.error,
        text=" ".join(_sentences(row, verdict, parts.policy, reader=reader_name(parts.context_from))),
    )


def _unreadable(row: UnreadableRow) -> Explanation:
    """Name what can't be read; the rest of the row decides nothing about a retry."""
    verdict = row.verdict
    sentences = [
        f"Generation {row.generation_id} {_WAYS[verdict.decision]} ({verdict.code}).",
        f"Its row can't be read: {printable(row.problem)}.",
        "Correct that in the app's table, or in the binding.",
        _last(row.error),
    ]
    return Explanation(
        generation_id=row.generation_id,
        user_id=row.user_id,
        decision=verdict.decision,
        code=verdict.code,
        retry_at=None,
        last_error=row.error,
        text=" ".join(sentences),
    )


def _sentences(row: FoundRow, verdict: Verdict, policy: RetryPolicy, *, reader: str) -> list[str]:
    snapshot, refusal = row.snapshot, verdict.refusal
    sentences = [f"As of {_utc(snapshot.as_of)}, generation {snapshot.generation.id} {_decided(verdict, snapshot)}."]
    if refusal is not None:
        sentences.append(_rule(refusal, snapshot, policy))
        queued = queued_attempt(snapshot) if isinstance(refusal, RetryInProgress) else None
        if queued is not None and queued.context_reader not in (None, reader):
            sentences.append(_other_reader(str(queued.context_reader), reader))
        if queued is None and refusal.retry_after is not None and not isinstance(refusal, BackoffNotElapsed):
            sentences.append(
                f"Come back at {_utc(snapshot.as_of + refusal.retry_after)}, in {_span(refusal.retry_after)}."
            )
    if snapshot.stored_answer is not None:
        sentences.append(
            f"The answer that attempt {snapshot.stored_answer.number} paid for is kept, and the next retry uses it."
        )
    if not isinstance(refusal, AlreadySucceeded):
        counted = counted_attempts(snapshot)
        sentences.append(f"{counted} of {policy.max_attempts} attempts counted; outages don't count.")
        sentences.append(_last(row.error))
        if (by := _rejected_by(snapshot)) is not None:
            sentences.append(f"Its session was rejected by {printable(by)}.")
        if not waiting_helps(snapshot):
            sentences.append(_cure(snapshot))
    if row.calls:
        sentences.append(f"The last attempt that called asked {in_full(row.calls)}.")
    return sentences


def _other_reader(accepted_with: str, ours: str) -> str:
    """Explain why a worker with the settings of this process does not run it."""
    return (
        f"It was accepted with the reader {accepted_with}, and a worker with another one leaves it queued: "
        f"{ours} is the reader here."
    )


def _rejected_by(snapshot: Snapshot) -> str | None:
    """Return what rejected the session of the last attempt: a constraint, a column or an SQLSTATE."""
    return snapshot.attempts[-1].refused_constraint if snapshot.attempts else None


def _cure(snapshot: Snapshot) -> str:
    """Say what cures the last failure, where waiting does not."""
    if snapshot.attempts[-1].operator_fault:
        return "Waiting does not cure that: an operator has to act first."
    return "Waiting does not cure that: the same request would fail again."


def _decided(verdict: Verdict, snapshot: Snapshot) -> str:
    if isinstance(verdict.refusal, AlreadySucceeded):
        return "has its session; there is nothing to retry (ALREADY_SUCCEEDED)"
    if isinstance(verdict.refusal, RetryInProgress) and queued_attempt(snapshot) is not None:
        return f"is queued for a retry ({verdict.code})"
    return _WAYS[verdict.decision] + (f" ({verdict.code})" if verdict.code else "")


def _rule(refusal: AiRetryError, snapshot: Snapshot, policy: RetryPolicy) -> str:
    """Say which rule refuses, with its numbers."""
    quota = snapshot.quota
    match refusal:
        case GenerationNotFound():
            rule = "The app hides it from its user"
        case AlreadySucceeded():
            rule = _success(snapshot)
        case BackoffNotElapsed():
            after, end = f"after attempt {snapshot.attempts[-1].number}", _utc(refusal.details["next_attempt_at"])
            wait = refusal.retry_after
            rule = (
                f"The wait {after} ends at {end}" if wait is None else f"Wait {_span(wait)} more {after}, until {end}"
            )
        case RetryInProgress() if (queued := queued_attempt(snapshot)) is not None:
            due = f" from {_utc(queued.next_attempt_at)} on" if queued.next_attempt_at else ""
            rule = f"Call {queued.number} is accepted, and waits for a worker{due}"
        case RetryInProgress() if snapshot.last_attempt is not None and snapshot.last_attempt.outcome is None:
            rule = f"A call of it runs, as far as is known: a lease lasts {_span(policy.lease)} at most"
        case RetryInProgress():
            believed = _span(policy.left_behind)
            rule = f"The app's own call of it runs, as far as is known: its status is believed for {believed}"
        case TooManyParallel():
            rule = f"Its user has {snapshot.live} retries running, and at most {policy.max_parallel} run at once"
        case QuotaExhausted():
            rule = (
                f"Its user has no units left in this period: {quota.captured} of {quota.limit} are spent in the last "
                f"{_span(quota.window)}, and {quota.held} are held for retries that wait or run"
            )
        case AttemptsExhausted():
            hard = counted_attempts(snapshot) < policy.max_attempts
            within = f", of {policy.hard_cap} in {_span(policy.hard_cap_window)}" if hard else ""
            rule = f"All its attempts are used up{within}; an operator can allow more"
        case _:
            rule = printable(refusal).rstrip(".")
    return f"{rule}."


def _success(snapshot: Snapshot) -> str:
    ours = next((each for each in snapshot.attempts if each.outcome is Outcome.SUCCEEDED), None)
    made_by = f"attempt {ours.number}" if ours is not None else "the app's own call"
    session_id = snapshot.generation.session_id
    return f"The session was made by {made_by}" + (f": {session_id}" if session_id else "")


def _last(error: LastError | None) -> str:
    if error is None:
        return "No error of it is recorded."
    at = f", at {_utc(error.at)}" if error.at else ""
    recorded_by = "" if error.ours else " (recorded by the app)"
    reason = f": {printable(error.reason).rstrip('.')}" if error.reason else ""
    return f"The last error{at}, was {printable(error.code)}{recorded_by}{reason}."


def _utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _span(duration: timedelta) -> str:
    """Write a duration in its two largest units: 1 h 30 min."""
    seconds = max(1, round(duration.total_seconds()))
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            parts.append(f"{seconds // size} {unit}")
            seconds %= size
    return " ".join(parts[:2])
