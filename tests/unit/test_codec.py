"""Values as JSON objects: what the members are called, and what can't be read."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from ai_retry.domain.change import Discard, Open, PutBack, Running, Settle, Success
from ai_retry.domain.model import Installation, Snapshot, StoredAnswer
from ai_retry.storage.codec import NotOurs, read, write, write_tagged
from ai_retry.storage.documents import document, read_settle
from tests.helpers.builders import a_settle

SECOND = timedelta(seconds=1)
RUNNING = Running(lease=SECOND, longest=SECOND, abandoned_wait=SECOND, answer_from=None, route=None)


def test_duration_names_its_unit() -> None:
    """A duration is a number of seconds, and its member says so; what it is a part of may be spread."""
    assert write(Open(start=RUNNING)) == {
        "charge": True,
        "idempotency_key": None,
        "waived": [],
        "request_id": None,
        "traceparent": None,
        "operator": None,
        "lease_seconds": 1.0,
        "longest_seconds": 1.0,
        "abandoned_wait_seconds": 1.0,
        "answer_from": None,
        "route": None,
        "create": None,
    }


def test_value_of_several_types_names_its_own() -> None:
    """The member that holds it is called as its type is."""
    change = PutBack(
        user_id=uuid4(), generation_id=uuid4(), token=uuid4(), wait=SECOND, reason="x", wire_requests=1, outage=None
    )

    assert list(write_tagged(change)) == ["put_back"]
    assert "reason" not in write_tagged(change)["put_back"]
    assert "success" in write(a_settle())


@pytest.mark.parametrize("text", ["a\0b", "\ud800"], ids=["nul", "surrogate"])
def test_no_string_holds_what_the_database_refuses(text: str) -> None:
    """NUL and lone surrogates are replaced in whatever string of ours they are: nothing is lost for them."""
    written = write(Discard(user_id=uuid4(), generation_id=uuid4(), operator=text))["operator"]

    assert written != text
    assert "\0" not in written
    written.encode()


def test_settle_is_read_as_it_was_written() -> None:
    """What is absent is None, and an answer was sent as often as its call says."""
    change = a_settle()
    assert isinstance(change.end, Success)

    unsent = replace(change.end, answer=replace(change.end.answer, wire_requests=0))
    assert read_settle(json.loads(document(change))) == replace(change, end=unsent)


@pytest.mark.parametrize("kind", [Snapshot, Installation, StoredAnswer, Settle])
@pytest.mark.parametrize("row", [None, 7, "<html>", [], [{}]], ids=repr)
def test_what_is_no_object_is_not_ours(kind: type, row: Any) -> None:
    """Whatever is expected: a page, a number or a list in its place is another's reply."""
    with pytest.raises(NotOurs):
        read(kind, row)


@pytest.mark.parametrize("kind", [Snapshot, Installation, StoredAnswer, Settle])
def test_absent_member_is_noticed(kind: type) -> None:
    """An object without what is always there is not read as something empty."""
    with pytest.raises(KeyError):
        read(kind, {})
