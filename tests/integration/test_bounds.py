"""One user with thousands of retries, or with all users' attention at once: bounds that hold on a real PostgreSQL."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ai_retry.clock import SystemClock
from ai_retry.domain.change import CloseOver
from ai_retry.domain.errors import RouteUnavailable
from ai_retry.domain.model import Answer, QuotaRule
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue import enqueue_generation, run_taken
from ai_retry.domain.queue_model import QueuedRetry, QueueOutcome
from ai_retry.storage.documents import document
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import ScriptedAiProvider
from tests.helpers.operating import hold
from tests.helpers.steps import new_generation, to_begin
from tests.helpers.world import SqlWorld
from tests.helpers.worlds import PROMPT_DATA
from tools.waiting import eventually

QUEUED = 5_000
ROUTES = 64  # as many as a snapshot lists
SNAPSHOT = 16 * 1024  # bytes
CLICKS = 100
GENERATIONS, WORKERS = 300, 32
PATIENCE = 240.0  # seconds until a test that would never end is given up; no machine is that busy
VISIBILITY = timedelta(minutes=5)
POLICY = RetryPolicy(max_parallel=WORKERS, quota=QuotaRule(limit=10_000))
QUEUE_MANY = """
insert into public.ai_retry_open (
  generation_id, user_id, number, token, started_at, charge, waived, idempotency_key, due_at, accepted_at, expires_at,
  status_before, in_line, context_reader)
select case n when 1 then %(generation_id)s else gen_random_uuid() end, %(user_id)s, 2 + %(closed)s,
  gen_random_uuid(), clock_timestamp(), true, '{}', gen_random_uuid()::text, clock_timestamp(), clock_timestamp(),
  clock_timestamp() + interval '1 day', 'error', 2, 'ai_retry.domain.context:stored_context'
from generate_series(1, %(queued)s) n
"""
CLOSE_MANY = """
insert into public.ai_retry_attempts (
  generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, transient, charge,
  next_attempt_at, idempotency_key, lease_expires_at, provider_outcome, accepted_at, expires_at, context_reader)
select %(generation_id)s, 1 + n, %(user_id)s, gen_random_uuid(), clock_timestamp(), clock_timestamp(), 'failed',
  'AI_UNAVAILABLE', repeat('x', 500), true, true, true, clock_timestamp(), gen_random_uuid()::text, clock_timestamp(),
  'not_generated', clock_timestamp(), clock_timestamp(), 'ai_retry.domain.context:stored_context'
from generate_series(1, %(closed)s) n
"""
CLOSE_ROUTES = """
insert into public.ai_retry_outages (route, not_before, since, failures, slots)
select 'a-model-of-some-length-' || n || ' at https://provider.example', clock_timestamp(), clock_timestamp(), 3, 1
from generate_series(1, %(routes)s) n
"""


@pytest.fixture
def user_id(connection: psycopg.Connection) -> UUID:
    """A user."""
    user_id = uuid4()
    connection.execute("insert into auth.users (id) values (%s)", [user_id])
    return user_id


@pytest.fixture
def storage(migrated_database: str) -> Iterator[PostgresStorage]:
    """The storage as a service has it, as its role."""
    with closing(PostgresStorage(f"{migrated_database}?options=-c%20role%3Dservice_role")) as storage:
        yield storage


def failed_generations(connection: psycopg.Connection, user_id: UUID, count: int) -> list[UUID]:
    """Add failed generations of the user."""
    rows = connection.execute(
        "insert into public.generations (user_id, status, model, prompt_data)"
        " select %s, 'error', 'small', %s from generate_series(1, %s) returning id",
        [user_id, Jsonb(PROMPT_DATA), count],
    )
    return [row[0] for row in rows]


def test_snapshot_is_small_whatever_is_queued(connection: psycopg.Connection, user_id: UUID) -> None:
    """With 5,000 queued retries of its user, its attempts used up and many outages, a snapshot has 16 kB at most."""
    (generation_id,) = failed_generations(connection, user_id, 1)
    facts = {"generation_id": generation_id, "user_id": user_id, "queued": QUEUED, "routes": ROUTES}
    facts |= {"closed": POLICY.max_attempts - 1}
    for statement in (CLOSE_MANY, QUEUE_MANY, CLOSE_ROUTES):
        connection.execute(statement.encode(), facts)

    request = document(user_id=user_id, generation_id=generation_id, rule=POLICY.quota)
    row = connection.execute("select public.ai_retry_load(%s)", [request]).fetchone()
    assert row is not None
    snapshot = row[0]
    snapshot["generation"].pop("prompt_data")
    snapshot.pop("session")

    assert snapshot["quota"]["held"] == QUEUED
    assert len(snapshot["routes"]) == ROUTES
    assert len(snapshot["attempts"]) == POLICY.max_attempts
    size = len(json.dumps(snapshot).encode())
    print(f"a snapshot with {QUEUED} queued retries: {size} bytes")
    assert size <= SNAPSHOT


@pytest.mark.timeout(PATIENCE + 60)
def test_enqueues_of_one_user_wait_for_each_other(
    storage: PostgresStorage, connection: psycopg.Connection, user_id: UUID
) -> None:
    """A hundred generations of one user that are enqueued at once are all accepted."""
    generations = failed_generations(connection, user_id, CLICKS)
    barrier = threading.Barrier(CLICKS)

    def enqueue(generation_id: UUID) -> object:
        barrier.wait(timeout=PATIENCE)
        return enqueue_generation(user_id, generation_id, storage=storage, policy=POLICY)

    with ThreadPoolExecutor(CLICKS) as threads:
        accepted = list(threads.map(enqueue, generations))

    queued = connection.execute(
        "select count(*) from public.ai_retry_open where user_id = %s and charge and lease_expires_at is null",
        [user_id],
    ).fetchone()
    assert all(isinstance(each, QueuedRetry) for each in accepted)
    assert queued == (CLICKS,)


def test_held_route_is_known_however_many_are_unavailable(
    storage: PostgresStorage, connection: psycopg.Connection
) -> None:
    """Users may invent models that are unavailable for longer: a click and the overview know a route that is held."""
    world = SqlWorld(storage, connection)
    connection.execute(CLOSE_ROUTES.encode(), {"routes": 2 * ROUTES})
    connection.execute("update public.ai_retry_outages set not_before = not_before + interval '1 hour'")
    hold(world, "p/held", timedelta(minutes=1))

    with pytest.raises(RouteUnavailable):
        to_begin(world, *new_generation(world), route="p/held")
    assert "p/held" in [each.route for each in storage.overview().routes]


@pytest.mark.timeout(PATIENCE + 60)
def test_workers_of_one_user_wait_for_each_other(
    storage: PostgresStorage, connection: psycopg.Connection, user_id: UUID
) -> None:
    """Three hundred retries of one user, run by 32 workers at once: each ends in its session at its first attempt."""
    for generation_id in failed_generations(connection, user_id, GENERATIONS):
        enqueue_generation(user_id, generation_id, storage=storage, policy=POLICY)
    ai = ScriptedAiProvider(default=Answer(output={"title": "Easy run"}))
    outcomes: Counter[QueueOutcome] = Counter()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            for taken in storage.take(1, VISIBILITY, POLICY.quota):
                outcomes[run_taken(taken, storage=storage, ai=ai, clock=SystemClock(), policy=POLICY)] += 1
            done.wait(0.01)

    def is_done() -> bool:
        for each in storage.overdue(10):  # a message that could not be sent
            storage.begin(CloseOver(user_id=each))
        return outcomes.total() >= GENERATIONS or any(each.done() for each in works)

    with ThreadPoolExecutor(WORKERS) as threads:
        works = [threads.submit(work) for _ in range(WORKERS)]
        try:
            eventually(is_done, within=PATIENCE)
        finally:
            done.set()
        for each in works:
            each.result()

    rows = connection.execute(
        "select outcome, number, count(distinct session_id) from public.ai_retry_attempts where user_id = %s"
        " group by outcome, number",
        [user_id],
    ).fetchall()
    assert rows == [("succeeded", 2, GENERATIONS)]
    assert outcomes == {QueueOutcome.SUCCEEDED: GENERATIONS}
    assert len(ai.calls) == GENERATIONS
