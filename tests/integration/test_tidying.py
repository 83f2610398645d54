"""The reaper for pg_cron only tidies, and the books in the documentation find what is wrong."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from ai_retry.domain.errors import LeaseLost
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.contract import claim_of, load, new_generation, succeed
from tests.support.world import SqlWorld

LEASE = timedelta(seconds=35)
SECOND = timedelta(seconds=1)


@pytest.fixture
def world(migrated_database: str, connection: psycopg.Connection) -> Iterator[SqlWorld]:
    """A storage on it, and the app around it."""
    storage = PostgresStorage(migrated_database, max_connections=4)
    yield SqlWorld(storage, connection)
    storage.close()


def reap(connection: psycopg.Connection) -> int:
    """Call the reaper as pg_cron would."""
    row = connection.execute("select public.ai_retry_reap()").fetchone()
    assert row is not None
    return int(row[0])


def test_reap_closes_expired_attempts_and_tells_the_app(world: SqlWorld, connection: psycopg.Connection) -> None:
    """An attempt whose lease ran out is abandoned, its generation says timeout, log and event are written."""
    user_id, generation_id = new_generation(world)
    claim_of(world, user_id, generation_id)
    world.advance(LEASE + SECOND)

    assert reap(connection) == 1

    assert [row["outcome"] for row in world.attempts(generation_id)] == ["abandoned"]
    assert world.generation(generation_id)["status"] == "timeout"
    assert [row["error_type"] for row in world.error_logs(generation_id)] == ["LEASE_LOST"]
    assert [row["event_type"] for row in world.events(user_id)] == ["ai_generation_failed"]


def test_reap_leaves_valid_leases_alone(world: SqlWorld, connection: psycopg.Connection) -> None:
    """An attempt that still has time is nobody's to close."""
    user_id, generation_id = new_generation(world)
    claim_of(world, user_id, generation_id)

    assert reap(connection) == 0

    assert world.attempts(generation_id)[0]["outcome"] is None


def test_reap_changes_no_decision(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Reaped or not, the next attempt is due at the same instant and the same units are free."""
    user_id, generation_id = new_generation(world)
    claim_of(world, user_id, generation_id)
    world.advance(LEASE + SECOND)
    before = load(world, user_id, generation_id)

    reap(connection)

    after = load(world, user_id, generation_id)
    assert after.attempts[-1].next_attempt_at == before.attempts[-1].next_attempt_at
    assert (after.quota, after.live, after.attempts[-1].counted) == (before.quota, before.live, True)


def test_reap_passes_over_who_is_busy(world: SqlWorld, connection: psycopg.Connection, migrated_database: str) -> None:
    """It waits for nobody: a user whose lock is taken, or a row that the app holds, is tidied another time."""
    busy_user, busy = new_generation(world)
    _, held = new_generation(world)
    for generation_id in (busy, held):
        claim_of(world, UUID(str(world.generation(generation_id)["user_id"])), generation_id)
    world.advance(LEASE + SECOND)

    with psycopg.connect(migrated_database) as app:
        app.execute("select public.ai_retry_lock(%s)", [busy_user])
        app.execute("select from public.generations where id = %s for update", [held])
        reaped = reap(connection)
        app.rollback()

    assert reaped == 0
    assert [world.attempts(each)[0]["outcome"] for each in (busy, held)] == [None, None]
    assert [reap(connection) for _ in range(3)] == [1, 1, 0]


def test_late_answer_after_reap_is_kept(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Who finishes after having been reaped charges nothing, and the next retry finds the answer."""
    user_id, generation_id = new_generation(world)
    claim = claim_of(world, user_id, generation_id)
    world.advance(LEASE + SECOND)
    reap(connection)

    with pytest.raises(LeaseLost, match="its answer is kept"):
        succeed(world, claim)

    assert load(world, user_id, generation_id).stored_answer is not None
    assert load(world, user_id, generation_id).quota.captured == 0


def test_discarded_answer_is_gone_and_recorded(world: SqlWorld) -> None:
    """An operator drops a stored answer: the next retry calls again, and the row says who dropped it."""
    user_id, generation_id = new_generation(world)
    claim = claim_of(world, user_id, generation_id)
    world.advance(LEASE + SECOND)
    claim_of(world, user_id, world.new_generation(user_id))  # closes the other one as abandoned
    with pytest.raises(LeaseLost, match="its answer is kept"):
        succeed(world, claim)

    first = world.storage.discard_answer(user_id, generation_id, operator="ada@example.com")
    again = world.storage.discard_answer(user_id, generation_id, operator="bob@example.com")

    assert (first, again) == (True, False)
    assert load(world, user_id, generation_id).stored_answer is None
    assert [row["discarded_by"] for row in world.attempts(generation_id)] == ["ada@example.com"]
