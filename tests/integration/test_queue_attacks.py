"""Accepted retries under attack: each of these once ended in a 202 without end, a unit too many, or a stuck worker."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import BackoffNotElapsed, QuotaExhausted, StorageUnavailable
from ai_retry.domain.model import Answer, Failure, FailureCode
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.queue import cancel_retry, enqueue_generation, run_taken
from ai_retry.domain.queue_model import QueueOutcome
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from ai_retry.worker import Worker
from tests.helpers.queue_steps import VISIBILITY, accept, an_outage, new_accepted, postpone, put_back, run, take, tidy
from tests.helpers.steps import begin, close_over, fail, load, new_generation
from tests.helpers.world import SqlWorld
from tools.push import apply_migrations
from tools.stack import MIGRATIONS
from tools.waiting import eventually

A_DAY, AN_HOUR, A_MINUTE, A_SECOND = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
LONG_DEAD = timedelta(minutes=10)  # lease and backoff of a worker that died
ROUTE = "provider.example/small"
ANSWER = Answer(output={"title": "Easy run"})
TURNED_AWAY = Failure(code=FailureCode.RATE_LIMITED, reason="429", transient=True, certainly_not_generated=True)


@pytest.fixture
def world(migrated_database: str, connection: psycopg.Connection) -> Iterator[SqlWorld]:
    """A storage on it, and the app around it."""
    storage = PostgresStorage(migrated_database, max_connections=8)
    yield SqlWorld(storage, connection)
    storage.close()


def work(world: SqlWorld, *script: AiStep, policy: RetryPolicy = DEFAULT_POLICY) -> list[QueueOutcome]:
    """Do what every message hints at that is there now, once."""
    ai = ScriptedAiProvider(*script)
    return [
        run_taken(
            taken,
            storage=world.storage,
            ai=ai,
            clock=SystemClock(),
            policy=policy,
            context_from=stored_context,
            route_of=lambda _: ROUTE,
        )
        for taken in world.storage.take(10, VISIBILITY, policy.quota)
    ]


def worker_dies(world: SqlWorld, user_id: UUID, generation_id: UUID) -> None:
    """Let a worker begin a queued attempt, and never be heard of again."""
    run(world, user_id, generation_id, route=ROUTE)
    world.advance(LONG_DEAD)


@pytest.mark.parametrize("change", ["no attempt is left", "deleted", "success by another hand", "no context"])
def test_dead_workers_attempt_ends_although_nothing_may_follow(world: SqlWorld, change: str) -> None:
    """When its worker died and no further attempt is possible, the retry ends: its message does not come for ever."""
    user_id, generation_id = new_accepted(world)
    worker_dies(world, user_id, generation_id)
    policy = replace(DEFAULT_POLICY, max_attempts=2) if change == "no attempt is left" else DEFAULT_POLICY
    if change == "deleted":
        world.delete_generation(generation_id)
    elif change == "success by another hand":
        world.set_generation(generation_id, status="success")
    elif change == "no context":
        world.set_generation(generation_id, prompt_data=None)

    assert work(world, policy=policy) == [QueueOutcome.NOTHING if change == "deleted" else QueueOutcome.ENDED]

    assert world.messages() == []
    assert all(row["outcome"] for row in world.attempts(generation_id))


def test_dead_workers_attempt_is_taken_back(world: SqlWorld) -> None:
    """A retry that is taken back after its worker died is taken back: no worker runs it later."""
    user_id, generation_id = new_accepted(world)
    worker_dies(world, user_id, generation_id)

    cancel_retry(user_id, generation_id, storage=world.storage)

    assert (world.generation(generation_id)["status"], world.messages()) == ("timeout", [])
    assert [row["outcome"] for row in world.attempts(generation_id)] == ["abandoned", "cancelled"]


@pytest.mark.parametrize("step", ["cancel", "enqueue another"])
def test_dead_attempt_that_was_waited_for_is_tidied(world: SqlWorld, step: str) -> None:
    """A dead attempt that was not accepted for later is closed, and its generation says processing no longer."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    world.advance(LONG_DEAD)

    if step == "cancel":
        cancel_retry(user_id, generation_id, storage=world.storage)
    else:
        accept(world, user_id, world.new_generation(user_id))

    assert tidy(world) == (1 if step == "cancel" else 0)  # whoever begins anything closes what is over
    assert world.generation(generation_id)["status"] == "timeout"
    assert [row["outcome"] for row in world.attempts(generation_id)] == ["abandoned"]


def test_dead_workers_unit_is_not_given_away(world: SqlWorld) -> None:
    """An accepted retry holds its unit also before its worker's death is noticed."""
    user_id, generation_id = new_generation(world)
    world.set_quota(user_id, 1, A_DAY)
    accept(world, user_id, generation_id)
    worker_dies(world, user_id, generation_id)

    with pytest.raises(QuotaExhausted):
        enqueue_generation(user_id, world.new_generation(user_id), storage=world.storage)

    assert work(world, ANSWER) == [QueueOutcome.SUCCEEDED]
    assert load(world, user_id, generation_id).quota.captured == 1


def test_no_wait_outlasts_the_promise(world: SqlWorld) -> None:
    """However long a provider asks to wait, an accepted retry is looked at when its time is up, and ends then."""
    _, generation_id = new_accepted(world)
    world.advance(AN_HOUR)
    assert work(world, replace(TURNED_AWAY, retry_after=A_DAY)) == [QueueOutcome.PARKED]
    other_user, other = new_generation(world)
    accept(world, other_user, other, expires_after=AN_HOUR)
    assert work(world) == [QueueOutcome.PARKED]  # the route is closed for a day

    world.advance(AN_HOUR + A_SECOND)
    assert work(world) == [QueueOutcome.ENDED]
    world.advance(A_DAY - 2 * AN_HOUR)
    assert work(world) == [QueueOutcome.ENDED]

    for each in (generation_id, other):
        assert world.generation(each)["status"] == "error"
        assert [log["error_type"] for log in world.error_logs(each)] == ["RETRY_EXPIRED"]


def test_one_requests_wait_is_not_every_requests(world: SqlWorld) -> None:
    """A provider that asks one request to wait for hours is asked by others after minutes, by that one after hours."""
    _, asked_to_wait = new_accepted(world)
    assert work(world, replace(TURNED_AWAY, retry_after=9 * AN_HOUR)) == [QueueOutcome.PARKED]
    new_accepted(world)

    world.advance(DEFAULT_POLICY.backoff_cap)

    assert work(world, ANSWER) == [QueueOutcome.SUCCEEDED]
    world.advance(9 * AN_HOUR)
    assert work(world, ANSWER) == [QueueOutcome.SUCCEEDED]
    assert world.generation(asked_to_wait)["status"] == "success"


def test_wait_beyond_the_promise_is_refused(world: SqlWorld) -> None:
    """A retry that could only begin when its time is up is not accepted."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id), wait=A_DAY)
    policy = replace(DEFAULT_POLICY, max_queued=AN_HOUR)

    with pytest.raises(BackoffNotElapsed):
        enqueue_generation(user_id, generation_id, storage=world.storage, policy=policy)

    assert world.attempts(generation_id)[-1]["outcome"] == "failed"


def test_returned_message_saves_no_wait(world: SqlWorld) -> None:
    """A worker that gives a message back, whenever it came, brings no attempt before its time."""
    user_id, generation_id = new_accepted(world)
    (message,) = take(world)
    assert put_back(world, run(world, user_id, generation_id), wait=AN_HOUR)

    assert postpone(world, message, timedelta(0))

    assert world.attempts(generation_id)[0]["next_attempt_at"] > load(world, user_id, generation_id).as_of + A_MINUTE
    assert take(world) == []


def test_hundred_that_wait_wait_in_line_as_two(world: SqlWorld) -> None:
    """Of a user's retries that all wait for the same instant no more have a message than may run; all are served."""
    user_id = world.new_user()
    world.set_quota(user_id, 100, A_DAY)
    generation_ids = [world.new_generation(user_id) for _ in range(6)]
    for each in generation_ids:
        fail(world, begin(world, user_id, each), wait=AN_HOUR)
    for each in generation_ids:
        accept(world, user_id, each, policy=DEFAULT_POLICY)
    assert len(world.messages()) <= DEFAULT_POLICY.max_parallel

    world.advance(AN_HOUR + A_SECOND)
    done = [work(world, ANSWER, ANSWER) for _ in range(3)]

    assert done == [[QueueOutcome.SUCCEEDED] * 2] * 3
    assert {world.generation(each)["status"] for each in generation_ids} == {"success"}


def test_what_is_due_sooner_waits_for_nothing_due_later(world: SqlWorld) -> None:
    """A retry that is due at once has its message, however many of its user's wait for later."""
    user_id = world.new_user()
    for each in (world.new_generation(user_id) for _ in range(3)):
        fail(world, begin(world, user_id, each), wait=AN_HOUR)
        accept(world, user_id, each, policy=DEFAULT_POLICY)
    generation_id = world.new_generation(user_id)

    accept(world, user_id, generation_id, policy=DEFAULT_POLICY)

    assert [message.generation_id for message in take(world)] == [generation_id]


def test_routes_that_are_asked_no_more_are_forgotten(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Users may invent models: what was learnt of one is gone a day after it was last unavailable, and not before."""
    new_accepted(world)
    assert work(world, replace(TURNED_AWAY, retry_after=A_SECOND)) == [QueueOutcome.PARKED]
    world.advance(A_DAY - A_MINUTE)
    assert [outage.route for outage in world.storage.state().outages] == [ROUTE]

    world.advance(2 * A_MINUTE)

    assert not world.storage.state().outages
    user_id, generation_id = new_generation(world)
    assert load(world, user_id, generation_id).routes == ()
    fail(world, begin(world, user_id, generation_id, route="another/small"), outage=an_outage())
    assert connection.execute("select route from public.ai_retry_outages").fetchall() == [("another/small",)]


def _a_worker(world: SqlWorld, ai: ScriptedAiProvider) -> Worker:
    return Worker(
        storage=world.storage,
        ai=ai,
        clock=SystemClock(),
        policy=DEFAULT_POLICY,
        context_from=stored_context,
        route_of=lambda _: ROUTE,
    )


def _run_until(worker: Worker, condition: Any) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        eventually(condition)
    finally:
        stop.set()
        thread.join()


def test_worker_ends_what_it_cannot_read(world: SqlWorld, connection: psycopg.Connection) -> None:
    """A generation whose row can't be read ends with its time, too: no message needs to be understood for that."""
    _, generation_id = new_accepted(world)
    connection.execute("alter table public.generations drop constraint status_is_known")
    world.set_generation(generation_id, status="archived")
    world.advance(A_DAY + A_SECOND)

    _run_until(_a_worker(world, ScriptedAiProvider()), lambda: world.attempts(generation_id)[0]["outcome"])

    assert world.attempts(generation_id)[0]["code"] == "RETRY_EXPIRED"


@pytest.mark.parametrize("number", ["[" * 3_000 + "]" * 3_000, "9" * 100_000], ids=["depth", "digits"])
def test_worker_serves_others_beside_what_python_cannot_hold(
    world: SqlWorld, connection: psycopg.Connection, number: str
) -> None:
    """A user who writes what Python can't hold into an accepted generation ends no worker, and delays no other user."""
    _, hostile = new_accepted(world)
    _, other = new_accepted(world)
    connection.execute(
        "update public.generations set prompt_data = %s::jsonb where id = %s", [f'{{"n": {number}}}', hostile]
    )

    _run_until(_a_worker(world, ScriptedAiProvider(ANSWER)), lambda: world.generation(other)["status"] == "success")
    assert world.attempts(hostile)[-1]["outcome"] is None

    world.advance(A_DAY + A_SECOND)
    _run_until(_a_worker(world, ScriptedAiProvider()), lambda: world.attempts(hostile)[-1]["outcome"])
    assert world.attempts(hostile)[-1]["code"] == "RETRY_EXPIRED"


def test_worker_goes_on_beside_a_row_that_is_held(world: SqlWorld, migrated_database: str) -> None:
    """A transaction that sits on one user, whose message and worker are lost, keeps no other user waiting."""
    user_id, generation_id = new_accepted(world)
    worker_dies(world, user_id, generation_id)
    world.lose_messages()
    _, other = new_accepted(world)

    with psycopg.connect(migrated_database) as app:
        app.execute("select from auth.users where id = %s for update", [user_id])
        _run_until(_a_worker(world, ScriptedAiProvider(ANSWER)), lambda: world.generation(other)["status"] == "success")
        assert world.attempts(generation_id)[-1]["outcome"] is None
        app.execute("delete from auth.users where id = %s", [user_id])  # nor does it wait for us
    assert world.attempts(generation_id) == []


def test_no_user_is_tidied_in_anothers_place(world: SqlWorld, migrated_database: str) -> None:
    """A dead worker's attempt whose generation is gone is closed although an older one's row is held; only that one."""
    user_id, held = new_accepted(world)
    worker_dies(world, user_id, held)
    other_user, gone = new_accepted(world)
    worker_dies(world, other_user, gone)
    world.delete_generation(gone)

    with psycopg.connect(migrated_database) as app:
        app.execute("select from auth.users where id = %s for update", [user_id])
        with pytest.raises(StorageUnavailable):
            close_over(world, user_id)
        close_over(world, other_user)
        app.rollback()

    assert world.error_logs(held) == []
    assert [row["outcome"] for row in world.attempts(held)] == [None]
    assert [row["outcome"] for row in world.attempts(gone)] == ["abandoned", "cancelled"]


def test_migration_bears_a_pgmq_that_is_none(bare_database: str) -> None:
    """A schema of that name that is not ours to use, or is something else, leaves a notice and no queue."""
    notices: list[str] = []
    with psycopg.connect(bare_database, autocommit=True) as owner:
        owner.execute("drop schema pgmq cascade")
        owner.execute("create schema pgmq")

    apply_migrations(bare_database, MIGRATIONS, on_notice=notices.append)

    (notice,) = (notice for notice in notices if "NOT_CONFIGURED" in notice)
    assert "ai_retry_create_queue" in notice
    storage = PostgresStorage(bare_database)
    assert not storage.state().configured
    storage.close()
