"""Operators' reads are bounded in rows, whatever the size: FAILURES=1000000 reads as much as fewer do.

The rows that a read fetches are counted by the server. How long each read takes is printed, and decides nothing.
"""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ai_retry.client import Client
from ai_retry.operate.operations import Operations
from ai_retry.operate.operator import Operator
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import ScriptedAiProvider

SIZE = int(os.environ.get("FAILURES", "60000"))  # more than the overview counts
USER = UUID(int=7)
FILL = """
insert into auth.users (id) select ('00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid
  from generate_series(1, 1000) n;
insert into public.generations (id, user_id, status, model, prompt_data, created_at, updated_at)
  select ('10000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid,
    ('00000000-0000-0000-0000-' || lpad(to_hex(1 + mod(n, 1000)), 12, '0'))::uuid,
    'error', 'small', '{"messages": [{"role": "user", "content": "Plan an easy run."}]}',
    clock_timestamp() - interval '23 hours' * n / %(size)s, clock_timestamp()
  from generate_series(1, %(size)s) n;
insert into public.ai_retry_attempts (
    generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, charge,
    provider_outcome, wire_requests, usage, route, calls)
  select g.id, 2, g.user_id, gen_random_uuid(), g.created_at, g.created_at, 'failed',
    case when random() < 0.001 then 'AI_REJECTED' else 'AI_UNAVAILABLE' end, '503 from the upstream', true, true,
    'unknown', 1, '{"total_tokens": 46, "cost": 0.001}', 'p/small', '[{"route": "p/small", "code": "AI_UNAVAILABLE"}]'
  from public.generations g;
insert into public.ai_retry_actions (id, operator, role, action, target, reason, at)
  select gen_random_uuid(), 'ada', 'admin', 'retry', 'generation:' || g.id, 'x', g.created_at from public.generations g;
insert into public.ai_retry_outages (route, not_before, since, began_at, failures, slots)
  select 'p/' || n, clock_timestamp() + interval '1 hour', clock_timestamp(), clock_timestamp(), 1, 1
  from generate_series(1, 100) n;
analyze;
"""
READ = """
select relname, coalesce(seq_scan, 0) as scans, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows
from pg_stat_xact_user_tables where relname in ('ai_retry_attempts', 'ai_retry_actions', 'generations')
"""
GENERATION = UUID("10000000-0000-0000-0000-000000000040")

# How many rows of each table a read may fetch, at most.
READS: dict[str, tuple[Callable[[Operations], Any], dict[str, int]]] = {
    "overview": (lambda can: can.overview(), {"ai_retry_attempts": 50_100, "ai_retry_actions": 0, "generations": 0}),
    "failures": (
        lambda can: can.failures(),
        {"ai_retry_attempts": 3_000, "ai_retry_actions": 0, "generations": 30_000},
    ),
    "failures with a rare code": (
        lambda can: can.failures(code="AI_REJECTED", limit=50),
        {"ai_retry_attempts": 5_000, "ai_retry_actions": 0, "generations": 80_000},
    ),
    "failures with no such code": (
        lambda can: can.failures(code="NO_SUCH_CODE", limit=200),
        {"ai_retry_attempts": 10_000, "ai_retry_actions": 0, "generations": 220_000},
    ),
    "failures of a user": (
        lambda can: can.failures(user_id=USER),
        {"ai_retry_attempts": 5_000, "ai_retry_actions": 0, "generations": 30_000},
    ),
    "timeline": (
        lambda can: can.timeline(GENERATION),
        {"ai_retry_attempts": 20, "ai_retry_actions": 2, "generations": 200},
    ),
    "user": (lambda can: can.user(USER), {"ai_retry_attempts": 200, "ai_retry_actions": 2, "generations": 3_000}),
    "actions": (lambda can: can.actions(), {"ai_retry_attempts": 0, "ai_retry_actions": 60, "generations": 0}),
    "actions on one": (
        lambda can: can.actions(target=f"generation:{GENERATION}"),
        {"ai_retry_attempts": 0, "ai_retry_actions": 2, "generations": 0},
    ),
}


class Counted(PostgresStorage):
    """A storage that has the server count, for each call, the rows that it fetches."""

    counting: psycopg.Connection
    fetched: dict[str, int]

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self._transport = self._counted

    def _counted(self, function: str, arguments: Any) -> Any:
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        with self.counting.transaction():
            before = self._counts()  # the server keeps those of earlier transactions for a while
            row = self.counting.execute(f"select public.{function}({names})".encode(), dict(arguments)).fetchone()
            for table, (scans, rows) in self._counts().items():
                assert scans == before[table][0], f"{function} reads all of {table}"
                self.fetched[table] = self.fetched.get(table, 0) + rows - before[table][1]
        assert row is not None
        return row[0]

    def _counts(self) -> dict[str, tuple[int, int]]:
        return {table: (scans, rows) for table, scans, rows in self.counting.execute(READ.encode()).fetchall()}


@pytest.fixture(scope="module")
def filled(core_database: str) -> Iterator[Counted]:
    """A database with many failures, all of the last day."""
    with psycopg.connect(core_database, autocommit=True) as connection:
        connection.execute((FILL % {"size": SIZE}).encode())
    storage = Counted(core_database)
    with psycopg.connect(core_database, autocommit=True) as storage.counting:
        yield storage
    storage.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", READS)
def test_reads_are_bounded(filled: Counted, name: str) -> None:
    """No read goes through a whole table, and each fetches no more rows than it may."""
    read, bounds = READS[name]
    filled.fetched = {}
    client = Client(
        storage=filled,
        recovery_storage=filled,
        operator_storage=filled,
        queue_storage=filled,
        ai=ScriptedAiProvider(),
        provider="p",
    )
    can = client.operate(Operator("ada", "viewer"))

    began = time.monotonic()
    read(can)
    took = timedelta(seconds=time.monotonic() - began)

    print(f"{name}, of {SIZE}: {took / timedelta(milliseconds=1):.0f} ms, rows {filled.fetched}")
    assert {table: rows for table, rows in filled.fetched.items() if rows > bounds[table]} == {}


def test_counts_say_that_they_are_bounds(filled: Counted) -> None:
    """What is not counted to its end says so."""
    filled.fetched = {}
    overview = filled.overview()

    assert (overview.last_day.attempts, overview.last_day.is_whole) == (50_000, False)
    assert overview.last_hour.is_whole
    assert len(overview.routes) == 64
