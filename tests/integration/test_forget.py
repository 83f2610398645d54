"""What stays of a generation or a user that was deleted, and that the statements of the page remove it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from ai_retry.client import Client
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.builders import an_answer
from tests.helpers.payer import killed
from tests.helpers.queue_steps import accept
from tests.helpers.scene import Provider
from tests.helpers.steps import answer_too_late, begin, fail, keep, succeed
from tests.helpers.world import SqlWorld
from tests.integration.test_docs import HOW_TO
from tools.examples import example, examples, shell

PAGE = HOW_TO / "forget.md"
GENERATION = UUID("7d0f7c6e-5d5b-4f0b-9c57-2f6a1f6f2a10")
USER = UUID("0b54ad2c-73b0-4a52-8d6c-0f6f0a1d3c11")
# Every place that could name either, by any of their columns.
EVERYWHERE = """
select t.name from (
  select 'attempts' as name, to_jsonb(a)::text as row from public.ai_retry_attempts a
  union all select 'open', to_jsonb(o)::text from public.ai_retry_open o
  union all select 'answers', to_jsonb(w)::text from public.ai_retry_answers w
  union all select 'quotas', to_jsonb(q)::text from public.ai_retry_quotas q
  union all select 'outages', to_jsonb(r)::text from public.ai_retry_outages r
  union all select 'recoveries', to_jsonb(r)::text from public.ai_retry_recoveries r
  union all select 'outbox', to_jsonb(b)::text from public.ai_retry_outbox b
  union all select 'messages', to_jsonb(m)::text from pgmq.q_ai_retry m
  union all select 'archive', to_jsonb(m)::text from pgmq.a_ai_retry m
  union all select 'generations', to_jsonb(g)::text from public.generations g
  union all select 'sessions', to_jsonb(s)::text from public.sessions s
  union all select 'error logs', to_jsonb(l)::text from public.generation_error_logs l
  union all select 'events', to_jsonb(e)::text from public.events e
) t where t.row like '%%' || %s || '%%' group by t.name order by t.name
"""


@pytest.fixture
def world(migrated_database: str, connection: psycopg.Connection) -> Iterator[SqlWorld]:
    """A database with the user and the generation of the page."""
    storage = PostgresStorage(migrated_database, max_connections=2)
    world = SqlWorld(storage, connection)
    connection.execute("insert into auth.users (id) values (%s)", [USER])
    world._users.append(USER)
    rename(connection, world.new_generation(USER))
    yield world
    storage.close()


def rename(connection: psycopg.Connection, generation_id: UUID) -> None:
    """Give the page's id to a generation that nothing has happened to."""
    connection.execute("update public.generations set id = %s where id = %s", [GENERATION, generation_id])


def named(connection: psycopg.Connection, identity: UUID) -> list[str]:
    """Where an id is found."""
    return [str(name) for (name,) in connection.execute(EVERYWHERE, [str(identity)]).fetchall()]


def run_page(connection: psycopg.Connection) -> None:
    """Run every statement of the page, but the trigger, which is there already."""
    for each in examples(PAGE):
        if each.language == "sql" and "create trigger" not in each.code:
            for statement in each.code.split(";"):
                connection.execute(statement.encode())


def test_statements_remove_what_a_generation_leaves(world: SqlWorld, connection: psycopg.Connection) -> None:
    """After a generation is deleted its attempts, messages and events stay, and are gone with the page's statements."""
    fail(world, begin(world, USER, GENERATION))
    answer_too_late(world, USER, GENERATION)
    world.delete_generation(GENERATION)
    world.send_message({"user_id": str(USER), "generation_id": str(GENERATION)})

    assert named(connection, GENERATION) == ["attempts", "events", "messages"]
    run_page(connection)

    assert named(connection, GENERATION) == []


def test_statements_remove_what_a_user_leaves(world: SqlWorld, connection: psycopg.Connection) -> None:
    """After a user is deleted messages and the filter of a recovery stay, and are gone with the page's statements."""
    world.set_quota(USER, 9, timedelta(days=30))
    answer_too_late(world, USER, GENERATION)
    keep(world, begin(world, USER, world.new_generation(USER)))
    accept(world, USER, world.new_generation(USER))
    succeed(world, begin(world, USER, world.new_generation(USER)))
    storage = world.storage
    assert isinstance(storage, PostgresStorage)
    client = Client(
        storage=storage, queue_storage=storage, recovery_storage=storage, ai=Provider(an_answer()), provider="none"
    )
    found = client.find(user_id=USER, code="NO_SUCH_CODE")
    client.plan(found).run(operator="ada@example.com")
    world.delete_user(USER)

    assert named(connection, USER) == ["messages", "recoveries"]
    run_page(connection)

    assert named(connection, USER) == []


def test_trigger_of_the_page_works_on_a_table_that_was_there(world: SqlWorld, connection: psycopg.Connection) -> None:
    """Where the migration created no trigger, the page's one lets an answer go with its generation."""
    connection.execute("drop trigger ai_retry_forget on public.generations")
    connection.execute(example(PAGE, "sql", "create trigger").encode())
    answer_too_late(world, USER, GENERATION)

    world.delete_generation(GENERATION)

    assert connection.execute("select count(*) from public.ai_retry_answers").fetchone() == (0,)


def test_spool_file_of_a_deleted_user_goes_with_the_lines(
    world: SqlWorld,
    connection: psycopg.Connection,
    migrated_database: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`settle` removes the file of a generation that is gone; that of a user who is gone goes with the page's lines."""
    directory = folder / "spool"
    (script,) = [each.code for each in examples(PAGE) if each.language == "sh"]
    for name, value in {
        "DATABASE_URL": migrated_database,
        "AI_BASE_URL": "http://127.0.0.1:9/v1",
        "AI_RETRY_SPOOL_DIR": str(directory),
        "USER_ID": str(USER),
    }.items():
        monkeypatch.setenv(name, value)
    killed(migrated_database, connection, directory, of=(USER, GENERATION))
    _, gone = killed(migrated_database, connection, directory)
    _, waits = killed(migrated_database, connection, directory)
    world.delete_user(USER)
    world.delete_generation(gone)
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/none")
    shell("ai-retry settle || true", folder)
    assert len(list(directory.iterdir())) == 3
    monkeypatch.setenv("DATABASE_URL", migrated_database)

    printed = shell(script, folder)

    assert "unknown     1" in printed
    assert list(directory.iterdir()) == []
    assert world.generation(waits)["status"] == "success"
