"""A worker hears of what is accepted, and finds it by looking where nothing can be heard."""

import errno
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.context import stored_context
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.domain.ports import Listens
from ai_retry.domain.queue import enqueue_generation
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.worker import Worker
from benchmarks.app_rows import AT_ONCE, failed_generations
from tests.helpers.pooler import transaction_pooler
from tools.waiting import eventually

pytestmark = pytest.mark.stack

LISTENERS = "select pid from pg_stat_activity where datname = current_database() and query = 'listen ai_retry'"


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """The owner of a database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def storage(migrated_database: str) -> Iterator[PostgresStorage]:
    """Straight to that database."""
    with closing(PostgresStorage(migrated_database)) as storage:
        yield storage


def accept(storage: PostgresStorage, database: psycopg.Connection) -> UUID:
    """Accept a new user's retry, whose message is due at once."""
    ((user_id, generation_id),) = failed_generations(database, 1)
    enqueue_generation(user_id, generation_id, storage=storage)
    return generation_id


def listeners(database: psycopg.Connection) -> list[int]:
    """The backends that listen."""
    return [row[0] for row in database.execute(LISTENERS)]


def hears(heard: threading.Event) -> None:
    """Wait until it is heard that something came, and forget it."""
    eventually(heard.is_set)
    heard.clear()


def test_accepted_retry_is_heard(storage: PostgresStorage, database: psycopg.Connection) -> None:
    """Who listens hears once that it listens now, then of a message that comes into an empty queue."""
    heard = threading.Event()
    with storage.listening(heard.set):
        hears(heard)
        accept(storage, database)
        hears(heard)
    eventually(lambda: listeners(database) == [])


def test_message_beside_waiting_ones_is_not_announced(storage: PostgresStorage, database: psycopg.Connection) -> None:
    """While messages wait that are due, no commit waits for its turn to announce one more: workers look anyway."""
    with psycopg.connect(storage._conninfo, autocommit=True) as listener:
        listener.execute("listen ai_retry")
        accept(storage, database)
        accept(storage, database)
        database.execute("notify ai_retry, 'last'")
        payloads = []
        for each in listener.notifies(timeout=15):
            payloads.append(each.payload)
            if each.payload == "last":
                break
    assert payloads == ["", "last"]


def test_nothing_is_announced_while_the_servers_queue_fills_up(
    storage: PostgresStorage, database: psycopg.Connection
) -> None:
    """A commit with a notification fails where the queue of them is full: the retry is accepted without one.

    The queue of a whole server is not filled here: a function of the server's name says that it is.
    """
    database.execute("set allow_system_table_mods = on")
    database.execute("alter function pg_catalog.pg_notification_queue_usage() rename to usage_before")
    database.execute(
        "create function pg_catalog.pg_notification_queue_usage() returns double precision "
        "language sql stable as 'select 0.9::double precision'"
    )
    with psycopg.connect(storage._conninfo, autocommit=True) as listener:
        listener.execute("listen ai_retry")
        generation_id = accept(storage, database)
        database.execute("notify ai_retry, 'last'")
        heard = next(listener.notifies(timeout=15))
    assert heard.payload == "last"
    with working(storage):
        is_served(database, generation_id)


def test_lost_connection_is_made_anew(
    storage: PostgresStorage, database: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that ends is replaced, and whoever listens looks once, since nothing was heard meanwhile."""
    heard = threading.Event()
    with storage.listening(heard.set):
        hears(heard)
        (first,) = listeners(database)
        database.execute("select pg_terminate_backend(%s)", [first])
        hears(heard)
        accept(storage, database)
        hears(heard)
        assert listeners(database) != [first]
    assert [each for each in caplog.messages if each.startswith("event=listening_failed error=")]


def test_machine_without_a_free_file_is_waited_for(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses for a moment, beneath the driver, ends no listening."""
    connect, refused = psycopg.connect, [OSError(errno.EMFILE, "too many open files")]

    def refusing(*arguments: Any, **options: Any) -> psycopg.Connection:
        if refused:
            raise refused.pop()
        return connect(*arguments, **options)

    monkeypatch.setattr("ai_retry.storage.listening.psycopg.connect", refusing)
    heard = threading.Event()
    with storage.listening(heard.set):
        hears(heard)
    assert refused == []


def test_known_pooler_is_not_listened_to(migrated_database: str, database: psycopg.Connection) -> None:
    """Where the connection string shows a pooler in transaction mode no connection is opened to listen."""
    separator = "&" if "?" in migrated_database else "?"
    with closing(PostgresStorage(f"{migrated_database}{separator}pgbouncer=true")) as storage:
        heard = threading.Event()
        with storage.listening(heard.set):
            accept(storage, database)
            assert listeners(database) == []
        assert not heard.is_set()


def test_data_api_does_not_listen() -> None:
    """Over HTTP nothing is heard: a worker there looks by itself."""
    assert not issubclass(SupabaseStorage, Listens)


@contextmanager
def working(storage: PostgresStorage) -> Iterator[None]:
    """Let a worker serve meanwhile."""
    stop = threading.Event()
    worker = Worker(
        storage=storage,
        ai=AT_ONCE,
        clock=SystemClock(),
        policy=DEFAULT_POLICY,
        context_from=stored_context,
        route_of=lambda context: str(context.model),
    )
    thread = threading.Thread(target=worker.run, args=[stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def is_served(database: psycopg.Connection, generation_id: UUID) -> None:
    """Wait until it has its session."""
    status = "select status from public.generations where id = %s"
    eventually(lambda: database.execute(status, [generation_id]).fetchone() == ("success",))


def test_worker_that_hears_need_not_look(
    storage: PostgresStorage, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose next look is an hour away serves what it hears of."""
    monkeypatch.setattr("ai_retry.looks._IDLE_WAITS", (3600.0,))
    with working(storage):
        for _ in range(3):
            is_served(database, accept(storage, database))


def test_worker_behind_an_unknown_pooler_finds_messages(migrated_database: str, database: psycopg.Connection) -> None:
    """A pooler in transaction mode that can't be seen delivers nothing; the worker serves all the same."""
    with (
        transaction_pooler(migrated_database, connections=3) as url,
        closing(PostgresStorage(url)) as storage,
        working(storage),
    ):
        for _ in range(3):
            is_served(database, accept(storage, database))
