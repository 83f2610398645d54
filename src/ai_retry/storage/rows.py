"""Rows of the SQL functions, which are JSON, to the domain's values and back.

A pure mapping: no rule, no call. A row that can't be understood is ``NotConfigured``, with the remedy.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.model import (
    Answer,
    Attempt,
    Generation,
    GenerationStatus,
    Installation,
    Outcome,
    ProviderOutcome,
    Quota,
    QuotaRule,
    Route,
    Snapshot,
    StoredAnswer,
    Usage,
)
from ai_retry.domain.queue_model import QueueState, RouteState

Json: TypeAlias = Mapping[str, Any]
_T = TypeVar("_T")
_Number = TypeVar("_Number", int, float)
_LARGEST: Final = 2**63
_LONGEST_REASON: Final = 200  # characters


class NotOurs(Exception):
    """A reply is not of the shape that the function returns; something in between has answered."""


def shaped(reply: Any, *members: str) -> Json:
    """Return a reply that is an object with these members.

    Raises:
        NotOurs: it is not.
    """
    if not isinstance(reply, dict) or not reply.keys() >= set(members):
        raise NotOurs
    return reply


def listed(reply: Any) -> Sequence[Any]:
    """Return a reply that is an array.

    Raises:
        NotOurs: it is not.
    """
    if not isinstance(reply, list):
        raise NotOurs
    return reply


def rule_row(rule: QuotaRule) -> Json:
    """What counts as used."""
    return {
        "limit": rule.limit,
        "window_seconds": rule.window.total_seconds(),
        "count_own_successes": rule.count_own_successes,
    }


def answer_row(answer: Answer) -> Json:
    """An answer as the attempt row keeps it."""
    return {
        "output": answer.output,
        "model": storable(answer.model),
        "usage": usage_row(answer.usage) if answer.usage else None,
        "provider_id": storable(answer.provider_id),
    }


def usage_row(usage: Usage) -> Json:
    """Usage as the attempt row keeps it."""
    return {
        "prompt_tokens": _number(usage.prompt_tokens),
        "completion_tokens": _number(usage.completion_tokens),
        "total_tokens": _number(usage.total_tokens),
        "cost": _number(float(usage.cost)) if usage.cost is not None and usage.cost.is_finite() else None,
    }


def _number(number: _Number | None) -> _Number | None:
    """Leave out what can't be written as a number: an answer is not lost for what its provider says that it cost."""
    return number if number is not None and -_LARGEST < number < _LARGEST else None


def storable(text: str | None) -> str | None:
    """Replace what PostgreSQL's ``text`` can't hold: NUL and lone surrogates."""
    return None if text is None else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def understood(read: Callable[[Any], _T], row: Any) -> _T:
    """Read a row; what an app wrote there may be beyond what Python can hold, such as an infinite instant.

    Raises:
        NotConfigured: says that it can't be understood, without its content.
    """
    try:
        return read(row)
    except (ValueError, OverflowError, TypeError, RecursionError):
        problem = (
            "a row of generations, or of ours, holds a value out of range (an instant, a duration, a number, a depth)"
        )
    raise NotConfigured(problem)


def read_installation(reply: Any) -> Installation:
    """Read what ``ai_retry_installation`` returned."""
    row = shaped(reply, "id", "database")
    return Installation(id=str(row["id"]), database=str(row["database"]))


def read_snapshot(reply: Any) -> Snapshot:
    """Read what ``ai_retry.snapshot`` returned."""
    row = shaped(
        reply,
        "as_of",
        "version",
        "generation",
        "attempts",
        "quota",
        "hidden",
        "mine",
        "open_token",
        "open_is_foreign",
        "routes",
        "session_conflict",
    )
    return Snapshot(
        as_of=instant(row["as_of"]),
        version=row["version"],
        generation=read_generation(row["generation"]),
        attempts=tuple(map(read_attempt, row["attempts"])),
        live=row["live"],
        live_until=maybe_instant(row["live_until"]),
        quota=read_quota(row["quota"]),
        stored_answer=_stored_answer(row["stored_answer"]),
        session=row["session"],
        can_create_session=row["can_create_session"],
        session_conflict=_conflict(row["session_conflict"]),
        hidden=row["hidden"],
        mine=row["mine"],
        open_token=UUID(row["open_token"]) if row["open_token"] else None,
        open_is_foreign=row["open_is_foreign"],
        routes=tuple(map(_route, row["routes"])),
    )


def _conflict(reason: str | None) -> str | None:
    """Read the app's own words, in one line."""
    return " ".join(reason.split())[:_LONGEST_REASON] if reason is not None else None


def _route(row: Json) -> Route:
    return Route(
        route=row["route"],
        not_before=instant(row["not_before"]),
        failures=row["failures"],
        slots=row["slots"],
        running=row["running"],
        waiting=row["waiting"],
    )


def read_generation(row: Json) -> Generation:
    """Read a generation; ``NotConfigured`` when its status is no word of ours."""
    return Generation(
        id=UUID(row["id"]),
        user_id=UUID(row["user_id"]),
        status=_status(row["status"]),
        model=row["model"],
        prompt_data=row.get("prompt_data"),  # settles leave it out
        session_id=row["session_id"],
        duration=None if row["duration_ms"] is None else timedelta(milliseconds=float(row["duration_ms"])),
        created_at=instant(row["created_at"]),
        updated_at=maybe_instant(row["updated_at"]),
    )


def _status(word: str | None) -> GenerationStatus:
    try:
        return GenerationStatus(word or "")
    except ValueError:
        known = ", ".join(GenerationStatus)
        raise NotConfigured(f"generations.status holds a word that is not one of {known}") from None


def read_attempt(row: Json) -> Attempt:
    """Read an attempt, open or closed, as the view ``ai_retry.attempts`` has it."""
    return Attempt(
        number=row["number"],
        started_at=instant(row["started_at"]),
        lease_expires_at=maybe_instant(row["lease_expires_at"]),
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        closed_at=maybe_instant(row["closed_at"]),
        code=row["code"],
        counted=row["counted"],
        next_attempt_at=maybe_instant(row["next_attempt_at"]),
        idempotency_key=row["idempotency_key"],
        refused_constraint=row["refused_constraint"],
        provider_outcome=ProviderOutcome(row["provider_outcome"]),
        accepted_at=maybe_instant(row["accepted_at"]),
        expires_at=maybe_instant(row["expires_at"]),
        transient=row["transient"],
        operator_fault=row["operator_fault"],
        context_reader=row["context_reader"],
        answer_from=row["answer_from"],
    )


def read_quota(row: Json) -> Quota:
    """Read what ``ai_retry_quota`` returned."""
    return Quota(
        limit=row["limit"],
        window=timedelta(seconds=row["window_seconds"]),
        captured=row["captured"],
        held=row["held"],
        resets_at=maybe_instant(row["resets_at"]),
    )


def _stored_answer(row: Json | None) -> StoredAnswer | None:
    if row is None:
        return None
    return StoredAnswer(
        number=row["number"], answer=read_answer(row, wire_requests=0), stored_at=maybe_instant(row.get("stored_at"))
    )


def read_answer(row: Json, *, wire_requests: int) -> Answer:
    """Read what ``answer_row`` wrote."""
    usage = row["usage"]
    return Answer(
        output=row["output"],
        model=row["model"],
        usage=None if usage is None else read_usage(usage),
        provider_id=row["provider_id"],
        wire_requests=wire_requests,
    )


def read_usage(row: Json) -> Usage:
    """Read what ``usage_row`` wrote."""
    cost = row["cost"]
    return Usage(
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        total_tokens=row["total_tokens"],
        cost=None if cost is None else Decimal(str(cost)),
    )


def read_state(reply: Any) -> QueueState:
    """Read what counts accepted retries."""
    row = shaped(reply, "as_of", "queued", "outages")
    return QueueState(
        as_of=instant(row["as_of"]),
        configured=row["configured"],
        queued=row["queued"],
        due=row["due"],
        parked=row["parked"],
        running=row["running"],
        oldest_accepted_at=maybe_instant(row["oldest_accepted_at"]),
        poisoned=row["poisoned"],
        outages=tuple(
            RouteState(
                route=each["route"],
                not_before=instant(each["not_before"]),
                failures=each["failures"],
                slots=each["slots"],
            )
            for each in row["outages"]
        ),
    )


def instant(text: str) -> datetime:
    """Read an instant; the database writes them with their offset."""
    return datetime.fromisoformat(text).astimezone(UTC)


def maybe_instant(text: str | None) -> datetime | None:
    """Read an instant that may be absent."""
    return None if text is None else instant(text)


def milliseconds(duration: timedelta | None) -> int | None:
    """Round to whole milliseconds, as ``generations.duration_ms`` keeps them."""
    return None if duration is None else round(duration / timedelta(milliseconds=1))
