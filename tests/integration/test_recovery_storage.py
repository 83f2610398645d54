"""What recovery asks of a database: a plan's last attempts, and the record of a run."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.domain.model import Outcome, Usage
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.attempts import add_closed, add_queued, add_running
from tests.helpers.world import SqlWorld

KEY = "plan:0123456789abcdef"


@pytest.fixture
def storage(migrated_database: str) -> Iterator[PostgresStorage]:
    """The storage, as service_role."""
    storage = PostgresStorage(f"{migrated_database}?options=-c%20role%3Dservice_role", max_connections=2)
    yield storage
    storage.close()


@pytest.fixture
def user_id(storage: PostgresStorage, connection: psycopg.Connection) -> UUID:
    """A user."""
    return SqlWorld(storage, connection).new_user()


def test_last_attempts_of_a_plan(storage: PostgresStorage, connection: psycopg.Connection, user_id: UUID) -> None:
    """The last attempt of each generation, open or closed, with the plan's key, page by page."""
    succeeded, running, queued, again, other = sorted(uuid4() for _ in range(5))
    usage = '{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.25}'
    now = datetime.now(UTC)
    success = {"outcome": "succeeded", "session_id": "a", "captured_at": now, "closed_at": now, "usage": usage}
    add_closed(connection, user_id, succeeded, idempotency_key=KEY, **success)
    add_closed(connection, user_id, running, idempotency_key=KEY, code="LEASE_LOST", outcome="abandoned")
    add_running(connection, user_id, running, number=3, idempotency_key=KEY)
    add_queued(connection, user_id, queued, idempotency_key=KEY)
    add_closed(connection, user_id, again, idempotency_key=KEY, code="AI_TIMEOUT")
    add_closed(connection, user_id, again, number=3, idempotency_key=KEY, code="AI_REJECTED")
    add_running(connection, user_id, again, number=4, idempotency_key="plan:another")
    add_closed(connection, user_id, other, idempotency_key="plan:another")
    add_closed(connection, user_id, uuid4(), idempotency_key="not of a plan")

    first = storage.find_attempts(KEY, after=None, page=2)
    second = storage.find_attempts(KEY, after=first[-1].generation_id, page=2)

    found = [(each.generation_id, each.attempt) for each in (*first, *second)]
    assert [(generation_id, each.number, each.outcome, each.code) for generation_id, each in found] == [
        (succeeded, 2, Outcome.SUCCEEDED, None),
        (running, 3, None, None),
        (queued, 2, None, None),
        (again, 3, Outcome.FAILED, "AI_REJECTED"),
    ]
    spent = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, cost=Decimal("0.25"))
    assert (first[0].usage, first[1].usage) == (spent, None)
    assert all(each.attempt.next_attempt_at is not None for each in (first[1], second[0]))
    assert storage.find_attempts(KEY, after=again, page=2) == []
    assert storage.find_attempts("not of a plan", after=None, page=2) == []


@pytest.mark.parametrize(
    ("verdict", "settled"),
    [
        ({"transient": True, "counted": False}, False),
        ({"transient": True, "counted": True}, True),
        ({"transient": False, "counted": False}, True),
        ({"transient": None, "counted": False}, True),
        ({"transient": True, "counted": False, "operator_fault": True}, True),
    ],
)
def test_attempt_that_was_turned_away_is_not_settled(
    storage: PostgresStorage, connection: psycopg.Connection, user_id: UUID, verdict: dict[str, Any], *, settled: bool
) -> None:
    """The database returns what its failure was, and the plan goes on where the provider took no requests."""
    add_closed(connection, user_id, uuid4(), idempotency_key=KEY, code="AI_UNAVAILABLE", **verdict)

    (found,) = storage.find_attempts(KEY, after=None, page=2)

    assert found.settled is settled


def test_run_is_recorded_once(storage: PostgresStorage, connection: psycopg.Connection, user_id: UUID) -> None:
    """A repeat of a record changes nothing, and reports nothing twice; open attempts of the run count as retried."""
    run_id = uuid4()
    record: dict[str, Any] = {"plan_id": KEY.removeprefix("plan:"), "operator": "ada", "plan": {"selected": 2}}
    for _ in range(2):
        assert storage.record_recovery(run_id, **record, counts=None) is None
    add_closed(connection, user_id, uuid4(), idempotency_key=KEY)
    add_running(connection, user_id, uuid4(), idempotency_key=KEY)
    for operator in ("ada", "bob"):
        assert storage.record_recovery(run_id, **record | {"operator": operator}, counts={"failed": 1}) is None

    runs = connection.execute("select run_id, operator, counts from public.ai_retry_recoveries").fetchall()
    events = connection.execute("select user_id, event_data - 'run_id' from public.events").fetchall()

    assert runs == [(run_id, "ada", {"failed": 1})]
    assert events == [(user_id, {"plan_id": record["plan_id"], "retried": 2, "succeeded": 0})]


@pytest.mark.parametrize(
    ("raised", "refused_by"),
    [
        ("'23514', constraint = 'known_types'", "known_types"),
        ("'XX000'", "XX000"),
        ("'57014'", "57014"),
        ("'P0004'", "P0004"),
    ],
)
def test_event_that_the_app_refuses_ends_no_record(
    storage: PostgresStorage, connection: psycopg.Connection, user_id: UUID, raised: str, refused_by: str
) -> None:
    """Whatever error the app's table of events has, the run is recorded as ended, with what refused its events."""
    connection.execute(
        "create function public.refuse() returns trigger language plpgsql as"
        f" $$ begin raise exception 'no' using errcode = {raised}; end $$;"
        " create trigger refuse before insert on public.events for each row execute function public.refuse()".encode()
    )
    run_id = uuid4()
    record: dict[str, Any] = {"plan_id": KEY.removeprefix("plan:"), "operator": "ada", "plan": {}}
    storage.record_recovery(run_id, **record, counts=None)
    add_closed(connection, user_id, uuid4(), idempotency_key=KEY)

    said = [storage.record_recovery(run_id, **record, counts={"failed": 1}) for _ in range(2)]

    row = connection.execute("select counts, events_refused_by from public.ai_retry_recoveries").fetchone()
    assert said == [refused_by, refused_by]
    assert row == ({"failed": 1}, refused_by)
