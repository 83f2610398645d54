"""What the verbs reply: since when an answer is stored, and whether an attempt has the token."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.domain.errors import AiRetryError, SessionRejected
from tests.helpers.attempts import add_closed
from tests.helpers.core_app import App
from tests.helpers.world import owner_of

RULE = {"limit": 5, "window_seconds": 86400, "count_own_successes": False}
ANSWER = {"output": "late", "model": "small", "usage": None, "provider_id": None}
CALL = {"provider_outcome": "generated", "duration_ms": 1, "wire_requests": 1}


@pytest.fixture
def owner(core_database: str) -> Iterator[psycopg.Connection]:
    """The owner of the database."""
    with owner_of(core_database) as connection:
        yield connection


@pytest.fixture
def app(core_database: str, owner: psycopg.Connection) -> Iterator[App]:
    """A new user and generation."""
    app = App(core_database, owner)
    yield app
    app.close()


def asked(owner: psycopg.Connection, verb: str, app: App, **members: Any) -> Any:
    """Call a verb about the app's generation."""
    about = {"user_id": str(app.user_id), "generation_id": str(app.generation_id), "rule": RULE}
    document = json.dumps({"protocol": 2, **about, **members})
    row = owner.execute(f"select public.ai_retry_{verb}(%s)".encode(), [document]).fetchone()
    assert row is not None
    return row[0]


def value_of(owner: psycopg.Connection, statement: str, generation_id: UUID) -> Any:
    """Ask for one value about a generation."""
    row = owner.execute(statement.encode(), [generation_id]).fetchone()
    assert row is not None
    return row[0]


def settled(owner: psycopg.Connection, app: App, token: UUID, **members: Any) -> Any:
    """Settle an attempt as failed, with an answer that was paid for."""
    closing = {"outcome": "failed", "code": "AI_UNAVAILABLE", "counted": True, "wait_seconds": 1, "answer": ANSWER}
    closing |= {"status": "error", "goes_on": False}
    members = {"found": "ready", "answered": False, "closing": closing, "call": CALL, **members}
    return asked(owner, "settle", app, token=str(token), **members)


def open_attempt(owner: psycopg.Connection, app: App) -> UUID:
    """Begin an attempt, and return its token."""
    token = uuid4()
    version = asked(owner, "load", app)["version"]
    start = {"charge": True, "waived": [], "lease_seconds": 35, "longest_seconds": 60, "abandoned_wait_seconds": 2}
    as_of = value_of(owner, "select clock_timestamp() from public.generations where id = %s", app.generation_id)
    expected = {"as_of": as_of.isoformat(), "version": version, "max_live": 9, "max_used": 9}
    assert asked(owner, "begin", app, token=str(token), open=start, **expected)["applied"]
    return token


def test_stored_answer_says_since_when(app: App, owner: psycopg.Connection) -> None:
    """A session that is rejected leaves an answer with the instant at which it was stored."""
    app.world.refuse_sessions("title_is_short")
    with pytest.raises(SessionRejected):
        app.retry()

    stored_at = asked(owner, "load", app)["stored_answer"]["stored_at"]

    closed_at = "select closed_at from public.ai_retry_attempts where generation_id = %s"
    assert datetime.fromisoformat(stored_at) == value_of(owner, closed_at, app.generation_id)


def test_answer_kept_in_an_open_attempt_is_as_old_as_the_attempt(app: App, owner: psycopg.Connection) -> None:
    """An answer that waits for its attempt's end is from no earlier than the attempt's begin."""
    with psycopg.connect(app.url) as holder, pytest.raises(AiRetryError):
        app.retry(lambda: holder.execute("lock table public.sessions in access exclusive mode"))

    stored_at = asked(owner, "load", app)["stored_answer"]["stored_at"]

    started_at = "select started_at from public.ai_retry_open where generation_id = %s"
    assert datetime.fromisoformat(stored_at) == value_of(owner, started_at, app.generation_id)


def test_token_of_an_attempt_is_known(app: App, owner: psycopg.Connection) -> None:
    """The reply of a settle says that the database knows the attempt: applied, stale, and repeated."""
    token = open_attempt(owner, app)

    replies = [settled(owner, app, token, found=found) for found in ("succeeded", "ready", "ready")]

    assert [(each["applied"], each["known"]) for each in replies] == [(False, True), (True, True), (False, True)]


@pytest.mark.rule("once")
def test_success_is_found_whatever_the_row_says(app: App, owner: psycopg.Connection) -> None:
    """A generation that has its session by an attempt of ours is a success, whatever its user has written since."""
    token = open_attempt(owner, app)
    add_closed(
        owner, app.user_id, app.generation_id, number=9, outcome="succeeded", charge=False, session_id=str(uuid4())
    )

    replies = [settled(owner, app, token, found=found) for found in ("ready", "succeeded")]

    assert [each["applied"] for each in replies] == [False, True]


def test_token_of_another_database_is_unknown(app: App, owner: psycopg.Connection) -> None:
    """A token that no attempt has, of a generation that is not there, is unknown: its answer has no place here."""
    app.world.delete_generation(app.generation_id)

    reply = settled(owner, app, uuid4())

    assert (reply["applied"], reply["known"], reply["snapshot"]) == (False, False, None)


def test_token_is_known_once_its_late_answer_is_filed(app: App, owner: psycopg.Connection) -> None:
    """A fail-over has lost the begin: the answer is filed under the token, and the reply says so."""
    reply = settled(owner, app, uuid4())

    assert (reply["applied"], reply["known"]) == (False, True)
    assert reply["snapshot"]["stored_answer"]["output"] == "late"


def test_token_is_known_after_its_generation_is_gone(app: App, owner: psycopg.Connection) -> None:
    """A deleted generation leaves its attempts: a repeated settle finds its token, and nothing else."""
    token = open_attempt(owner, app)
    app.world.delete_generation(app.generation_id)

    replies = [settled(owner, app, token, found="gone") for _ in range(2)]

    assert [(each["applied"], each["known"], each["snapshot"]) for each in replies] == [
        (True, True, None),
        (False, True, None),
    ]
