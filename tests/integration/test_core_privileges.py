"""What the catalogue says of the core: who may execute and read, under which path, in which transactions."""

from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest

FUNCTIONS: LiteralString = """
select p.oid::regprocedure::text from pg_proc p
where (p.pronamespace = 'ai_retry'::regnamespace or p.proname in (
  'ai_retry_load', 'ai_retry_begin', 'ai_retry_settle', 'ai_retry_keep', 'ai_retry_amend', 'ai_retry_take',
  'ai_retry_overdue', 'ai_retry_state'))
"""
TABLES: LiteralString = """
select c.oid::regclass::text from pg_class c
where (c.relnamespace = 'ai_retry'::regnamespace or c.relname in (
  'ai_retry_open', 'ai_retry_attempts', 'ai_retry_answers', 'ai_retry_quotas', 'ai_retry_outages'))
  and c.relkind in ('r', 'v')
"""
CHANGES = ("ai_retry_begin", "ai_retry_settle", "ai_retry_keep", "ai_retry_amend", "ai_retry_load", "ai_retry_take")
MALFORMED = {
    "no object": "[]",
    "a string": '"begin"',
    "another protocol": '{"protocol": 1}',
    "the protocol as a string": '{"protocol": "2"}',
    "an unknown key": '{"protocol": 2, "surprise": null}',
}


@pytest.fixture
def connection(core_database: str) -> Iterator[psycopg.Connection]:
    """The owner; what a test changes is undone."""
    with psycopg.connect(core_database) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_end_users_can_execute_and_read_nothing(connection: psycopg.Connection, role: str) -> None:
    """No verb, part or binding function, no table and no view of the core is open to end users."""
    functions = connection.execute(FUNCTIONS + " and has_function_privilege(%s, p.oid, 'execute')", [role]).fetchall()
    tables = connection.execute(
        TABLES + " and has_table_privilege(%s, c.oid, 'select, insert, update, delete, truncate, references, trigger')",
        [role],
    ).fetchall()

    assert (functions, tables) == ([], [])
    assert connection.execute("select has_schema_privilege(%s, 'ai_retry', 'usage')", [role]).fetchone() == (False,)


def test_service_role_has_what_it_needs(connection: psycopg.Connection) -> None:
    """Each function can be executed, and each table read."""
    assert (
        connection.execute(FUNCTIONS + " and not has_function_privilege('service_role', p.oid, 'execute')").fetchall()
        == []
    )
    assert connection.execute(TABLES + " and not has_table_privilege('service_role', c.oid, 'select')").fetchall() == []


def test_functions_run_as_their_caller_on_pinned_path(connection: psycopg.Connection) -> None:
    """No function borrows its owner's rights, and none looks a name up where its caller may create one."""
    loose = connection.execute(
        FUNCTIONS + " and (p.prosecdef or not exists (select from unnest(p.proconfig) c"
        " where c in ('search_path=\"\"', 'search_path=pg_catalog, public, extensions, pg_temp')))"
    ).fetchall()

    assert loose == []


@pytest.mark.parametrize("function", CHANGES)
@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_change_is_refused(connection: psycopg.Connection, function: LiteralString, change: str) -> None:
    """A change of another protocol or shape is refused before any lock."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute("select public." + function + "(%s)", [change])


def test_begin_without_version_opens_nothing(connection: psycopg.Connection) -> None:
    """A begin that names nothing that it expects is stale, not a mere tidy that was applied."""
    user_id = connection.execute("insert into auth.users (id) values (gen_random_uuid()) returning id").fetchone()
    assert user_id is not None
    change = (
        f'{{"protocol": 2, "user_id": "{user_id[0]}", "generation_id": "{user_id[0]}", "open": {{}}, "rule": {{}}}}'
    )

    reply = connection.execute("select public.ai_retry_begin(%s) -> 'applied'", [change]).fetchone()

    assert reply == (False,)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_other_isolation_levels_are_refused(connection: psycopg.Connection, level: str) -> None:
    """After a lock, a statement must see what the lock's last holder has written."""
    connection.execute(f"set transaction isolation level {level}".encode())

    with pytest.raises(psycopg.errors.InvalidTransactionState):
        connection.execute('select public.ai_retry_begin(\'{"protocol": 2, "user_id": null}\')')
