"""What a worker tidies in passing changes no decision, and the books in the documentation find what is wrong."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import psycopg
import pytest

from ai_retry.domain.errors import LeaseLost, StorageUnavailable
from ai_retry.storage.postgres import PostgresStorage
from tests.support.books import violations
from tests.support.queue_steps import tidy
from tests.support.stack import Stack
from tests.support.steps import (
    POLICY,
    SECOND,
    answer_too_late,
    begin,
    begin_new,
    close_over,
    discard,
    load,
    new_generation,
    outcomes,
    status_of,
    succeed,
)
from tests.support.world import SqlWorld

ONCE = timedelta(0)


@pytest.fixture
def world(migrated_database: str, connection: psycopg.Connection) -> Iterator[SqlWorld]:
    """A storage on it that repeats nothing, and the app around it."""
    storage = PostgresStorage(migrated_database, max_connections=4, read_for=ONCE, settle_for=ONCE)
    with closing(storage):
        yield SqlWorld(storage, connection)


def test_expired_attempts_are_closed_and_the_app_is_told(world: SqlWorld) -> None:
    """An attempt whose lease ran out is abandoned, its generation says timeout, log and event are written."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    world.advance(POLICY.lease + SECOND)

    assert tidy(world) == 1

    assert outcomes(world, generation_id) == ["abandoned"]
    assert status_of(world, generation_id) == "timeout"
    assert [row["error_type"] for row in world.error_logs(generation_id)] == ["LEASE_LOST"]
    assert [row["event_type"] for row in world.events(user_id)] == ["ai_generation_failed"]


def test_valid_leases_are_left_alone(world: SqlWorld) -> None:
    """An attempt that still has time is no one's to close, also when its user is tidied."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)

    assert tidy(world) == 0
    close_over(world, user_id)

    assert outcomes(world, generation_id) == [None]


def test_tidying_changes_no_decision(world: SqlWorld) -> None:
    """Tidied or not, the next attempt is due at the same instant and the same units are free."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    world.advance(POLICY.lease + SECOND)
    before = load(world, user_id, generation_id)

    tidy(world)

    after = load(world, user_id, generation_id)
    assert after.attempts[-1].next_attempt_at == before.attempts[-1].next_attempt_at
    assert (after.quota, after.live, after.attempts[-1].counted) == (before.quota, before.live, True)


def test_busy_user_is_tidied_another_time(world: SqlWorld, migrated_database: str) -> None:
    """A user whose lock is taken is passed over after a moment, and is closed another time; others are not affected."""
    busy_user, busy = new_generation(world)
    begin(world, busy_user, busy)
    other = begin_new(world, world.new_user())
    world.advance(POLICY.lease + SECOND)

    with psycopg.connect(migrated_database) as somebody:
        somebody.execute("select ai_retry.lock_user(%s)", [busy_user])
        with pytest.raises(StorageUnavailable):
            close_over(world, busy_user)
        close_over(world, other.user_id)
        assert (outcomes(world, busy), outcomes(world, other.generation_id)) == ([None], ["abandoned"])
        somebody.rollback()

    assert tidy(world) == 1
    assert outcomes(world, busy) == ["abandoned"]


def test_row_that_the_app_holds_is_told_another_time(world: SqlWorld, migrated_database: str) -> None:
    """An attempt is closed although the app holds its row; the row says processing no longer when it is free again."""
    user_id, held = new_generation(world)
    begin(world, user_id, held)
    world.advance(POLICY.lease + SECOND)

    with psycopg.connect(migrated_database) as app:
        app.execute("select from public.generations where id = %s for update", [held])
        assert tidy(world) == 1
        assert (outcomes(world, held), status_of(world, held)) == (["abandoned"], "processing")
        app.rollback()

    assert (tidy(world), tidy(world)) == (1, 0)
    assert status_of(world, held) == "timeout"
    assert [row["event_type"] for row in world.events(user_id)] == ["ai_generation_failed"]


def test_late_answer_after_tidying_is_kept(world: SqlWorld) -> None:
    """Who finishes after having been closed charges nothing, and the next retry finds the answer."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.advance(POLICY.lease + SECOND)
    tidy(world)

    with pytest.raises(LeaseLost, match="its answer is kept"):
        succeed(world, begun)

    assert load(world, user_id, generation_id).stored_answer is not None
    assert load(world, user_id, generation_id).quota.captured == 0


def test_discarded_answer_is_gone_and_recorded(world: SqlWorld) -> None:
    """An operator drops a stored answer: the next retry calls again, and the row says who dropped it."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)

    first = discard(world, user_id, generation_id, operator="ada@example.com")
    again = discard(world, user_id, generation_id, operator="bob@example.com")

    assert (first, again) == (True, False)
    assert load(world, user_id, generation_id).stored_answer is None
    assert [row["discarded_by"] for row in world.attempts(generation_id)] == ["ada@example.com"]


# The books


def test_books_of_sound_work_balance(world: SqlWorld, connection: psycopg.Connection) -> None:
    """After a success, an abandoned attempt with a late answer and an open one the documented query finds nothing."""
    user_id, generation_id = new_generation(world)
    succeed(world, begin(world, user_id, generation_id))
    answer_too_late(world, user_id, world.new_generation(user_id))
    begin_new(world, user_id)

    assert violations(connection) == []


DAMAGES = {
    "a success whose generation says otherwise": "update public.generations set status = 'error' where id = %s",
    "a number is missing or double": "update public.ai_retry_attempts set number = 9 where generation_id = %s",
    "closed before it began": (
        "update public.ai_retry_attempts set closed_at = started_at - interval '1 s' where generation_id = %s"
    ),
    "captured at another time than closed": (
        "update public.ai_retry_attempts set captured_at = closed_at - interval '1 day' where generation_id = %s"
    ),
    "an open attempt beside a success": (
        "insert into public.ai_retry_open (generation_id, user_id, number, token, started_at, charge, waived,"
        " lease_expires_at, renewable_until, abandoned_wait_seconds) select generation_id, user_id, 3,"
        " gen_random_uuid(), clock_timestamp(), true, '{}', clock_timestamp(), clock_timestamp(), 2"
        " from public.ai_retry_attempts where generation_id = %s"
    ),
    "a stored answer beside a success": (
        "insert into public.ai_retry_answers select generation_id, number, '{}', closed_at"
        " from public.ai_retry_attempts where generation_id = %s"
    ),
    "a discarded answer that is stored": (
        "with discarded as (update public.ai_retry_attempts set discarded_at = closed_at where generation_id = %s"
        " returning *) insert into public.ai_retry_answers select generation_id, number, '{}', closed_at from discarded"
    ),
}


@pytest.mark.parametrize("violation", DAMAGES, ids=lambda value: re.sub(r"\W+", "-", value)[:30])
def test_books_find_what_is_wrong(world: SqlWorld, connection: psycopg.Connection, violation: str) -> None:
    """Each kind of damage that the constraints allow is named by the documented query."""
    user_id, generation_id = new_generation(world)
    succeed(world, begin(world, user_id, generation_id))

    connection.execute(DAMAGES[violation].encode(), [generation_id])

    assert violation in {name for name, _ in violations(connection)}


@pytest.mark.parametrize(
    ("columns", "refused_by"),
    [
        ("3 as number, 'another' as session_id", "ai_retry_attempts_one_success"),
        ("gen_random_uuid() as generation_id", "ai_retry_attempts_one_generation_per_session"),
        ("3 as number, 'failed' as outcome, null as session_id", "only_charged_success_captures"),
        ("3 as number, null as session_id", "only_success_has_a_session"),
    ],
)
def test_books_need_not_ask_what_is_impossible(
    world: SqlWorld, connection: psycopg.Connection, columns: str, refused_by: str
) -> None:
    """Two successes of a generation, a session of two, a unit without its success: no such row can be written."""
    user_id, generation_id = new_generation(world)
    succeed(world, begin(world, user_id, generation_id))
    copy = (
        "insert into public.ai_retry_attempts select (jsonb_populate_record(a, (select to_jsonb(d) from"
        f" (select {columns}) d))).* from public.ai_retry_attempts a where a.generation_id = %s"
    )

    with pytest.raises(psycopg.IntegrityError) as caught:
        connection.execute(copy.encode(), [generation_id])

    assert caught.value.diag.constraint_name == refused_by


def test_books_of_the_whole_run_balance(stack: Stack) -> None:
    """Whatever the other tests did to the shared database so far, no captured unit lacks its success."""
    with psycopg.connect(stack.database_url) as connection:
        found = {name for name, _ in violations(connection)}

    assert found <= {"a success whose generation says otherwise"}  # some tests write as a careless app would
