"""A call that waits for the database can be interrupted, and its reply goes to no other call."""

import signal
import threading
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest

from ai_retry.domain.model import QuotaRule
from ai_retry.storage._function_connection import CallFailed, FunctionConnection
from ai_retry.storage.postgres import PostgresStorage
from tools.waiting import eventually

pytestmark = pytest.mark.stack

WAITS = """
create function public.waits() returns jsonb language plpgsql as $$
begin
  perform pg_catalog.pg_advisory_xact_lock(42);
  return '"too late"';
end
$$
"""
WAITING = "select from pg_catalog.pg_locks where locktype = 'advisory' and not granted"


def interrupt(database: psycopg.Connection, interrupted: threading.Event, released: threading.Event) -> None:
    """Send Ctrl-C once the call waits; let the call go on, should that not have ended it."""
    eventually(lambda: database.execute(WAITING).fetchone() is not None)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    if not interrupted.wait(10):
        released.set()
        database.execute("select pg_catalog.pg_advisory_unlock(42)")


def test_waiting_call_is_interrupted(migrated_database: str) -> None:
    """Ctrl-C ends a call that the database does not answer, at once; the next call gets its own answer."""
    interrupted, released = threading.Event(), threading.Event()
    with (
        psycopg.connect(migrated_database, autocommit=True) as database,
        closing(PostgresStorage(migrated_database, max_connections=1)) as storage,
    ):
        database.execute(WAITS)
        database.execute("select pg_catalog.pg_advisory_lock(42)")
        user = threading.Thread(target=interrupt, args=[database, interrupted, released])
        user.start()
        with pytest.raises(KeyboardInterrupt):
            storage._call_function("waits", {})
        interrupted.set()
        user.join()

        assert not released.is_set()
        assert storage.load(uuid4(), uuid4(), QuotaRule(), None) is None


def test_dead_connection_is_a_failed_call(migrated_database: str) -> None:
    """However often a lost connection is called, that is a failure of the call, as any other one."""
    with FunctionConnection.connect(migrated_database, autocommit=True) as caller:
        caller.call("ai_retry_books", {})
        with psycopg.connect(migrated_database, autocommit=True) as database:
            database.execute("select pg_catalog.pg_terminate_backend(%s, 5000)", [caller.pgconn.backend_pid])

        for _ in range(2):
            with pytest.raises(CallFailed) as caught:
                caller.call("ai_retry_books", {})
            assert caught.value.sqlstate in (None, "57P01")
