"""Changes as the JSON that the SQL verbs read, and their replies as values. A pure mapping: no rule, no call."""

import json
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from ai_retry.domain.change import (
    Acceptance,
    Amend,
    Begin,
    CloseOver,
    Discard,
    Keep,
    Open,
    Postpone,
    PutBack,
    Renew,
    Reply,
    Run,
    Running,
    Settle,
    Taken,
)
from ai_retry.domain.model import QuotaRule, Snapshot
from ai_retry.domain.queue_model import Message
from ai_retry.storage.rows import Json, NotOurs, answer_row, read_snapshot, rule_row, shaped
from ai_retry.storage.settle_rows import call_row, elsewhere_rows, outage_row, settle_members

PROTOCOL: Final = 2  # of changes; the database refuses another one
_encode: Final = json.JSONEncoder(allow_nan=False).encode


def document(**members: Any) -> str:
    """Write a request of this protocol; those of its members that are None are left out."""
    present = {name: value for name, value in members.items() if value is not None}
    return _encode({"protocol": PROTOCOL, **present})


def load_document(user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None) -> str:
    """What to read."""
    return document(
        user_id=str(user_id),
        generation_id=str(generation_id),
        rule=rule_row(rule),
        token=str(token) if token is not None else None,
    )


def begin_document(change: Begin | CloseOver) -> str:
    """Write a begin."""
    if isinstance(change, CloseOver):
        return document(user_id=str(change.user_id))
    expected = change.expected
    start: dict[str, Any] = {"run" if isinstance(change.attempt, Run) else "open": _attempt(change.attempt)}
    return document(
        user_id=str(change.user_id),
        generation_id=str(change.generation_id),
        token=str(change.token),
        as_of=expected.as_of.isoformat(),
        version=expected.version,
        rule=rule_row(expected.quota_rule),
        max_live=expected.max_live,
        max_used=expected.max_used,
        **start,
    )


def settle_document(change: Settle) -> str:
    """Write a settle."""
    return document(**settle_members(change))


def keep_document(change: Keep) -> str:
    """Write the last resort."""
    return document(
        user_id=str(change.user_id),
        generation_id=str(change.generation_id),
        token=str(change.token),
        answer=answer_row(change.answer),
        cause=change.cause,
        wait_seconds=change.wait.total_seconds(),
        call=call_row(change.call),
    )


def amend_document(change: Amend) -> str:
    """Write an amendment."""
    match change:
        case Renew():
            renew = {"token": str(change.token), "lease_seconds": change.lease.total_seconds()}
            return document(renew={"generation_id": str(change.generation_id), **renew})
        case Discard():
            discard = {"user_id": str(change.user_id), "operator": change.operator}
            return document(discard={"generation_id": str(change.generation_id), **discard})
        case PutBack():
            return document(put_back=_put_back(change))
        case Postpone():
            return document(postpone=_postpone(change))


def take_document(limit: int, visibility: timedelta, rule: QuotaRule) -> str:
    """What messages to take."""
    return document(limit=limit, visibility_seconds=round(visibility.total_seconds()), rule=rule_row(rule))


def read_taken(row: Json) -> Taken:
    """Read a message, and what it is about: a document of its own, since one that can't be read must hide no other."""
    message = Message(id=row["message_id"], user_id=UUID(row["user_id"]), generation_id=UUID(row["generation_id"]))
    snapshot = row["snapshot"]
    return Taken(message=message, snapshot=read_loaded(None if snapshot is None else json.loads(snapshot)))


def _put_back(change: PutBack) -> Json:
    back = {
        "user_id": str(change.user_id),
        "generation_id": str(change.generation_id),
        "token": str(change.token),
        "wait_seconds": change.wait.total_seconds(),
        "wire_requests": change.wire_requests,
    }
    notes = {
        "outage": outage_row(change.outage) if change.outage is not None else None,
        "elsewhere": elsewhere_rows(change.elsewhere),
    }
    return back | {name: note for name, note in notes.items() if note is not None}


def _postpone(change: Postpone) -> Json:
    message = change.message
    return {
        "user_id": str(message.user_id),
        "generation_id": str(message.generation_id),
        "message_id": message.id,
        "wait_seconds": change.wait.total_seconds(),
        "spread_seconds": change.spread.total_seconds(),
        "route": change.route,
    }


def read_reply(reply: Any) -> Reply:
    """Read what a verb returned."""
    row = shaped(reply, "applied")
    applied, known = row["applied"], row.get("known", True)
    if not isinstance(applied, bool) or not isinstance(known, bool):
        raise NotOurs
    return Reply(applied=applied, snapshot=read_loaded(row.get("snapshot")), known=known)


def read_loaded(reply: Any) -> Snapshot | None:
    """Read what ``ai_retry_load`` returned; None: there is no such generation."""
    return None if reply is None else read_snapshot(reply)


def read_nothing(reply: Any) -> None:
    """Read what a function returned that returns nothing, which each API writes in its own way."""
    if reply not in (None, "", []):
        raise NotOurs


def _attempt(attempt: Open | Run) -> Json:
    if isinstance(attempt, Run):
        return {"number": attempt.number, **_running(attempt.start)}
    start = attempt.start
    return {
        "charge": attempt.charge,
        "idempotency_key": attempt.idempotency_key,
        "waived": sorted(attempt.waived),
        "operator": attempt.operator,
        **(_running(start) if isinstance(start, Running) else _acceptance(start)),
    }


def _running(start: Running) -> Json:
    return {
        "lease_seconds": start.lease.total_seconds(),
        "longest_seconds": start.longest.total_seconds(),
        "abandoned_wait_seconds": start.abandoned_wait.total_seconds(),
        "answer_from": start.answer_from,
        "route": start.route,
    }


def _acceptance(start: Acceptance) -> Json:
    return {
        "wait_seconds": start.wait.total_seconds(),
        "expires_after_seconds": start.expires_after.total_seconds(),
        "status_before": start.status_before,
        "in_line": start.in_line,
        "context_reader": start.context_reader,
    }
