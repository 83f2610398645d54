"""What a worker tidies in passing changes no decision."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import psycopg
import pytest

from ai_retry.domain.errors import LeaseLost, StorageUnavailable
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.queue_steps import tidy
from tests.helpers.steps import (
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
from tests.helpers.world import SqlWorld

ONCE = timedelta(0)


@pytest.fixture
def world(migrated_database: str, connection: psycopg.Connection) -> Iterator[SqlWorld]:
    """A storage on it that repeats nothing, and the app around it."""
    storage = PostgresStorage(migrated_database, max_connections=4, read_for=ONCE, settle_for=ONCE)
    with closing(storage):
        yield SqlWorld(storage, connection)


def test_expired_attempts_are_closed_and_reported(world: SqlWorld) -> None:
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
    idle = begin_new(world, world.new_user())
    world.advance(POLICY.lease + SECOND)

    with psycopg.connect(migrated_database) as other:
        other.execute("select ai_retry.lock_user(%s)", [busy_user])
        with pytest.raises(StorageUnavailable):
            close_over(world, busy_user)
        close_over(world, idle.user_id)
        assert (outcomes(world, busy), outcomes(world, idle.generation_id)) == ([None], ["abandoned"])
        other.rollback()

    assert tidy(world) == 1
    assert outcomes(world, busy) == ["abandoned"]


@pytest.mark.rule("unreported")
def test_row_that_the_app_holds_is_written_another_time(world: SqlWorld, migrated_database: str) -> None:
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
