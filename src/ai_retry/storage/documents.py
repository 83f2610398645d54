"""What the SQL functions read, as JSON in a string, and what they return as values. No rule, no call."""

import json
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from ai_retry.domain.change import Reply, Settle, Success, Taken
from ai_retry.domain.model import ClosedOver, Snapshot
from ai_retry.domain.queue_model import Message
from ai_retry.storage.codec import Json, NotOurs, read, write

PROTOCOL: Final = 2  # of changes; the database refuses another one


def document(value: Any = None, **members: Any) -> str:
    """Write a request of this protocol: a value's members, and further ones. Those that are None are left out."""
    row = members if value is None else {**write(value), **members}
    return _encode({"protocol": PROTOCOL, **without_none(row)})


def without_none(row: Json) -> Json:
    """Leave out the members that are None."""
    return {name: member for name, member in row.items() if member is not None}


def _plain(value: object) -> Any:
    return str(value) if isinstance(value, UUID) else write(value)


_encode: Final = json.JSONEncoder(allow_nan=False, default=_plain).encode


def read_settle(row: Json) -> Settle:
    """Read a settle of an answer that its attempt paid for: what a file of the spool holds is sent again as it was.

    Raises:
        Exception: of whatever type, where something is not as it was written.
    """
    change = read(Settle, row)
    assert isinstance(change.end, Success)  # noqa: S101 (nothing else is held)
    assert change.call is not None  # noqa: S101 (the same)
    answer = replace(change.end.answer, wire_requests=change.call.wire_requests)
    return replace(change, end=replace(change.end, answer=answer))


def read_reply(reply: Any) -> Reply:
    """Read what a verb returned."""
    row = shaped(reply, "applied")
    applied, known = row["applied"], row.get("known", True)
    if not isinstance(applied, bool) or not isinstance(known, bool):
        raise NotOurs
    closed = tuple(read(ClosedOver, each) for each in row.get("closed") or ())
    return Reply(applied=applied, snapshot=read_loaded(row.get("snapshot")), known=known, closed=closed)


def read_loaded(reply: Any) -> Snapshot | None:
    """Read a snapshot; None: there is no such generation."""
    return None if reply is None else read(Snapshot, reply)


def read_taken(row: Json) -> Taken:
    """Read a message, and what it is about: a document of its own, since one that can't be read must hide no other."""
    snapshot = row["snapshot"]
    return Taken(message=read(Message, row), snapshot=read_loaded(None if snapshot is None else json.loads(snapshot)))


def read_nothing(reply: Any) -> None:
    """Read what a function returned that returns nothing, which each API writes in its own way."""
    if reply not in (None, "", []):
        raise NotOurs


def shaped(reply: Any, *members: str) -> Json:
    """Return a reply that is an object with these members.

    Raises:
        NotOurs: it is not.
    """
    if not isinstance(reply, dict) or not reply.keys() >= set(members):
        raise NotOurs
    return reply
