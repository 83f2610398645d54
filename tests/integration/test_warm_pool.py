"""The pool of connections: the next call gets the one that was used last."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from ai_retry.storage.postgres import PostgresStorage
from tools.waiting import eventually

pytestmark = pytest.mark.stack

AT_ONCE = 4
OURS = (
    "select count(*) from pg_stat_activity where datname = current_database() and query like '%ai_retry_overview%' "
    "and pid <> pg_backend_pid()"
)


def test_quiet_calls_share_the_connection_that_was_used_last(migrated_database: str) -> None:
    """After a burst that opened four connections, calls one after the other all run on one of them."""
    with (
        closing(PostgresStorage(migrated_database)) as storage,
        psycopg.connect(migrated_database, autocommit=True) as witness,
    ):

        def count(condition: str) -> int:
            row = witness.execute((OURS + condition).encode()).fetchone()
            assert row is not None
            return int(row[0])

        def used_by_calls_in_turn() -> int:
            now = witness.execute("select clock_timestamp()").fetchone()
            assert now is not None
            for _ in range(3 * AT_ONCE):
                storage.overview()
            return count(f" and query_start > '{now[0].isoformat()}'")

        with ThreadPoolExecutor(AT_ONCE) as threads:
            with psycopg.connect(migrated_database) as holder:
                holder.execute("lock table public.ai_retry_attempts in access exclusive mode")
                burst = [threads.submit(storage.overview) for _ in range(AT_ONCE)]
                eventually(lambda: count(" and wait_event_type = 'Lock'") == AT_ONCE)
            for each in burst:
                each.result()

        eventually(lambda: used_by_calls_in_turn() == 1)  # the pool may still open a connection for the burst
