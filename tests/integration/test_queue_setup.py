"""The queue's migration where pgmq is, where it is not, and where it comes later; and what Realtime publishes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from ai_retry.domain.errors import NotConfigured
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.queue_steps import accept, cancel, new_accepted, run, take, tidy
from tests.helpers.steps import POLICY, begin, begin_new, fail, new_generation, succeed
from tests.helpers.world import SqlWorld, owner_of
from tools.push import apply_migrations, load_pgmq
from tools.stack import MIGRATIONS

CREATE_QUEUE = "select public.ai_retry_create_queue()"
PUBLISH = "select public.ai_retry_publish()"
PUBLISHED = "select schemaname || '.' || tablename from pg_publication_tables where pubname = 'supabase_realtime'"


@pytest.fixture
def without_pgmq(bare_database: str) -> str:
    """The URL of a project without Supabase Queues, before our migrations."""
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute("drop schema pgmq cascade")
    return bare_database


@contextmanager
def project(url: str) -> Iterator[tuple[PostgresStorage, psycopg.Connection]]:
    """Connect the storage, and the owner."""
    with (
        closing(PostgresStorage(url, max_connections=2)) as storage,
        owner_of(url) as connection,
    ):
        yield storage, connection


def value_of(connection: psycopg.Connection, statement: str) -> object:
    """Ask for one value."""
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def migrate(url: str) -> list[str]:
    """Apply the shipped migrations; return the notices that speak of the queue."""
    notices: list[str] = []
    apply_migrations(url, MIGRATIONS, on_notice=notices.append)
    return [each for each in notices if "queued retries" in each]


# pgmq


def test_migration_without_pgmq_says_what_to_do(without_pgmq: str) -> None:
    """Where there is no pgmq the migration goes on, and its one notice names the remedy."""
    (notice,) = migrate(without_pgmq)

    assert "there is no pgmq" in notice
    assert "select public.ai_retry_create_queue()" in notice


def test_migration_with_pgmq_says_nothing(bare_database: str) -> None:
    """Where there is one, the queue is made, and no notice speaks of it."""
    assert migrate(bare_database) == []

    with psycopg.connect(bare_database) as connection:
        assert value_of(connection, "select to_regclass('pgmq.q_ai_retry') is not null") is True


def test_without_pgmq_nothing_is_accepted(without_pgmq: str) -> None:
    """Asking for later, and working, name the missing queue and what to do; nothing is written."""
    migrate(without_pgmq)
    with project(without_pgmq) as (storage, connection):
        world = SqlWorld(storage, connection)
        user_id, generation_id = new_generation(world)

        with pytest.raises(NotConfigured, match="ai_retry_create_queue"):
            accept(world, user_id, generation_id)
        with pytest.raises(NotConfigured, match="ai_retry_create_queue"):
            take(world)

        assert world.attempts(generation_id) == []
        assert world.generation(generation_id)["status"] == "error"


def test_without_pgmq_the_rest_works(without_pgmq: str) -> None:
    """Retries whose caller waits for them, taking back, tidying and the state of the queue need no pgmq."""
    migrate(without_pgmq)
    with project(without_pgmq) as (storage, connection):
        world = SqlWorld(storage, connection)
        user_id, generation_id = new_generation(world)
        fail(world, begin(world, user_id, generation_id))
        begin_new(world, user_id)
        world.advance(POLICY.lease)

        assert (tidy(world), tidy(world)) == (1, 0)
        cancel(world, user_id, generation_id)
        assert not storage.state().configured
        succeed(world, begin(world, user_id, generation_id))
        assert len(world.sessions(user_id)) == 1


def test_pgmq_that_comes_later_is_used(without_pgmq: str) -> None:
    """After pgmq was enabled the owner calls one function, and retries are accepted; a repeat changes nothing."""
    migrate(without_pgmq)
    with project(without_pgmq) as (storage, connection):
        before = value_of(connection, CREATE_QUEUE)
        load_pgmq(without_pgmq)
        after = [value_of(connection, CREATE_QUEUE) for _ in range(2)]
        world = SqlWorld(storage, connection)

        succeed(world, run(world, *new_accepted(world)))

        assert (before, after) == (False, [True, True])
        assert storage.state().configured


def test_a_queue_that_was_dropped_is_missed(migrated_database: str) -> None:
    """Where the queue was dropped, callers who wait for a session are still served, and later is refused."""
    with project(migrated_database) as (storage, connection):
        world = SqlWorld(storage, connection)
        user_id, generation_id = new_generation(world)
        connection.execute("select pgmq.drop_queue('ai_retry')")

        with pytest.raises(NotConfigured):
            accept(world, user_id, generation_id)
        succeed(world, begin(world, user_id, generation_id))


def test_migration_again_keeps_what_waits(migrated_database: str) -> None:
    """Applied once more, it loses no message and no queued attempt."""
    with project(migrated_database) as (storage, connection):
        world = SqlWorld(storage, connection)
        user_id, generation_id = new_accepted(world)

        apply_migrations(migrated_database, MIGRATIONS, force=True)

        assert [row["generation_id"] for row in world.messages()] == [generation_id]
        succeed(world, run(world, user_id, generation_id))


# Realtime


def test_publish_adds_generations_alone(migrated_database: str) -> None:
    """On demand, generations joins the publication of Realtime; no other table of ours or of the app does."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("create publication supabase_realtime")

        published = [value_of(connection, PUBLISH) for _ in range(2)]

        assert published == [True, False]
        assert connection.execute(PUBLISHED).fetchall() == [("public.generations",)]


def test_publish_keeps_what_is_published(migrated_database: str) -> None:
    """What the app publishes stays published."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("create publication supabase_realtime for table public.sessions")

        value_of(connection, PUBLISH)

        assert set(connection.execute(PUBLISHED).fetchall()) == {("public.generations",), ("public.sessions",)}


def test_publish_of_everything_is_nothing_new(migrated_database: str) -> None:
    """A publication of all tables has generations already."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("create publication supabase_realtime for all tables")

        assert value_of(connection, PUBLISH) is False


def test_publish_without_realtime_says_so(migrated_database: str) -> None:
    """Where there is no such publication, the error says what is missing, and none is made."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UndefinedObject, match=r"publication .supabase_realtime. does not exist"):
            connection.execute(PUBLISH)

        assert value_of(connection, "select count(*) from pg_publication") == 0


def test_migrations_publish_nothing(bare_database: str) -> None:
    """A migration publishes no rows by itself."""
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute("create publication supabase_realtime")
        migrate(bare_database)

        assert connection.execute(PUBLISHED).fetchall() == []
