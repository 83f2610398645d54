"""A million failed generations, and the attempts of a bad day: every page of the console stays bounded.

The million takes minutes to make, so `make test-console` has it, and `make test` a twentieth. Times are printed; none
decides whether the test passes.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.console_scene import Scene
from tests.helpers.console_visits import HOSTS, Visits
from tests.helpers.world import owner_of

FAILURES = 1_000_000 if os.environ.get("CONSOLE") else 50_000
USERS, ATTEMPTS = FAILURES // 50, FAILURES // 5
PAGE_BYTES = 300_000
VIEWER = "vic.viewer"
FILL = f"""
set session_replication_role = replica; -- triggers and foreign keys would take minutes, and change nothing here
insert into auth.users (id) select md5('user' || n)::uuid from generate_series(0, {USERS - 1}) n;
insert into public.generations (id, user_id, status, model, prompt_data, created_at, updated_at)
select md5('generation' || n)::uuid, md5('user' || n % {USERS})::uuid, 'error', 'small', null, at, at
from generate_series(1, {FAILURES}) n, lateral (select clock_timestamp() - n * interval '80 milliseconds' as at) t;
insert into public.generation_error_logs (generation_id, user_id, error_type, error_message, created_at)
select g.id, g.user_id, case when random() < 0.7 then 'AI_UNAVAILABLE' else 'AI_TIMEOUT' end, '', g.created_at
from public.generations g;
insert into public.ai_retry_attempts (
  generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, transient, charge,
  next_attempt_at, idempotency_key, lease_expires_at, provider_outcome, wire_requests)
select md5('generation' || n)::uuid, 2, md5('user' || n % {USERS})::uuid, gen_random_uuid(), at, at, 'failed',
  'AI_UNAVAILABLE', '503', true, true, true, at, n::text, at, 'not_generated', 1
from generate_series(1, {ATTEMPTS}) n, lateral (select clock_timestamp() - n * interval '300 milliseconds' as at) t;
set session_replication_role = origin;
analyze;
"""


@pytest.fixture(scope="module")
def scene(core_database: str) -> Iterator[Scene]:
    """The million."""
    with closing(PostgresStorage(core_database)) as storage, owner_of(core_database) as connection:
        began = time.monotonic()
        connection.execute(FILL.encode())
        print(f"{FAILURES:,} failures in {time.monotonic() - began:.0f} s")
        scene = Scene(core_database, connection, storage)
        yield scene
        scene.client.close()


def newest(connection: psycopg.Connection) -> tuple[UUID, UUID]:
    """The newest failure, and its user."""
    row = connection.execute("select id, user_id from public.generations order by created_at desc limit 1").fetchone()
    assert row is not None
    return UUID(str(row[0])), UUID(str(row[1]))


@pytest.mark.timeout(600)
def test_pages_are_bounded(scene: Scene, tmp_path: Path) -> None:
    """Every page, and every search that a viewer can ask for, is answered and small; a count names its bound."""
    visits = Visits(HOSTS["plain"], scene.client, tmp_path / "plans")
    generation_id, user_id = newest(scene.connection)
    searches: Mapping[str, Mapping[str, object]] = {
        "now": {},
        "failures": {},
        "failures of all times": {"since": ""},
        "failures of a week": {"since": "7d"},
        "failures by code": {"since": "", "code": "AI_TIMEOUT"},
        "failures by a code that none has": {"since": "", "code": "AI_REJECTED"},
        "failures by a model that none has": {"since": "", "model": "none"},
        "failures of a user": {"since": "", "user": user_id},
        "failures of no user": {"since": "", "user": generation_id},
        "failures long ago": {"since": "", "until": "2020-01-01"},
        "recover": {},
        "routes": {},
        "users": {},
        "books of an hour": {"since": "1h"},
        "books of all times": {"since": ""},
    }
    paths = {name: visits.address(name.split()[0], **asked) for name, asked in searches.items()}
    paths["generation"] = visits.address("generation", generation_id=generation_id)
    paths["user"] = visits.address("user", user_id=user_id)

    wrong = {}
    for name, path in paths.items():
        began = time.perf_counter()
        response = visits.get(path, VIEWER)
        took = time.perf_counter() - began
        print(f"{name}: {took * 1000:.0f} ms, {len(response.data) / 1000:.0f} kB")
        if response.status_code != 200 or len(response.data) > PAGE_BYTES:
            wrong[name] = response.status_code, len(response.data)

    assert wrong == {}
    assert "or more" in visits.get(paths["failures of all times"], VIEWER).text
