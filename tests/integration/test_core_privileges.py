"""What the catalogue says of the core: who may execute and read, under which path, in which transactions."""

import json
from collections.abc import Iterator
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest

SERVICE = "service_role"
OWNERS = {"ai_retry_create_queue()", "ai_retry_publish()"}
FUNCTIONS: LiteralString = """
select p.oid::regprocedure::text from pg_proc p
where (p.pronamespace = 'ai_retry'::regnamespace or p.proname like 'ai\\_retry\\_%%')
"""
TABLES: LiteralString = """
select c.oid::regclass::text from pg_class c
where (c.relnamespace = 'ai_retry'::regnamespace or c.relname like 'ai\\_retry\\_%%') and c.relkind in ('r', 'v')
"""
CHANGES = ("ai_retry_begin", "ai_retry_settle", "ai_retry_keep", "ai_retry_amend", "ai_retry_load", "ai_retry_take")
MALFORMED = {
    "no object": "[]",
    "a string": '"begin"',
    "another protocol": '{"protocol": 1}',
    "the protocol as a string": '{"protocol": "2"}',
    "an unknown key": '{"protocol": 2, "surprise": null}',
}

# An object of a change, by its path, and the verb that reads it.
OBJECTS = {
    **dict.fromkeys(("rule", "open", "run"), "ai_retry_begin"),
    **dict.fromkeys(
        ("success", "success.if_rejected", "success.answer", "closing", "closing.answer"), "ai_retry_settle"
    ),
    **dict.fromkeys(("call", "outage"), "ai_retry_settle"),
    **dict.fromkeys(("renew", "discard", "put_back", "put_back.outage", "postpone"), "ai_retry_amend"),
    "answer": "ai_retry_keep",
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
    """Each function can be executed, but for those that only the owner may call, and each table read."""
    functions = connection.execute(FUNCTIONS + " and not has_function_privilege(%s, p.oid, 'execute')", [SERVICE])
    tables = connection.execute(TABLES + " and not has_table_privilege(%s, c.oid, 'select')", [SERVICE])

    assert {name for (name,) in functions} == OWNERS
    assert tables.fetchall() == []


def test_functions_run_as_their_caller_on_pinned_path(connection: psycopg.Connection) -> None:
    """No function borrows its owner's rights, and none looks a name up where its caller may create one."""
    loose = connection.execute(
        FUNCTIONS.replace("%%", "%") + " and (p.prosecdef or not exists (select from unnest(p.proconfig) c"
        " where c in ('search_path=pg_catalog, pg_temp', 'search_path=pg_catalog, public, extensions, pg_temp')))"
    ).fetchall()

    assert loose == []


def test_temporary_types_are_never_used(connection: psycopg.Connection) -> None:
    """What an end user put into a session that is then the service role's, such as a domain ``jsonb``, never runs."""
    connection.execute(
        """
        create table public.proof (role text);
        grant insert on public.proof to public;
        set local role authenticated;
        create function pg_temp.run() returns boolean language plpgsql as
          $$ begin insert into public.proof values (current_user); return true; end $$;
        create domain pg_temp.jsonb as pg_catalog.jsonb check (pg_temp.run());
        create domain pg_temp.uuid as pg_catalog.uuid check (pg_temp.run());
        create domain pg_temp.text as pg_catalog.text check (pg_temp.run());
        create domain pg_temp.timestamptz as pg_catalog.timestamptz check (pg_temp.run());
        set local role service_role;
        """
    )
    user_id = str(uuid4())

    connection.execute("select public.ai_retry_load(%s)", [json.dumps({"protocol": 2, "generation_id": user_id})])
    connection.execute("select public.ai_retry_begin(%s)", [json.dumps({"protocol": 2, "user_id": user_id})])

    connection.execute("reset role")
    assert connection.execute("select * from public.proof").fetchall() == []


@pytest.mark.parametrize("function", CHANGES)
@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_change_is_refused(connection: psycopg.Connection, function: LiteralString, change: str) -> None:
    """A change of another protocol or shape is refused before any lock."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute("select public." + function + "(%s)", [change])


@pytest.mark.parametrize("path", OBJECTS)
def test_misspelt_key_is_refused_before_any_lock(connection: psycopg.Connection, path: str) -> None:
    """A key that no version knows, at any depth, is named and refused: a misspelt one would end an accepted retry."""
    change: Any = {"goes_onn": True}
    for name in reversed(path.split(".")):
        change = {name: change}
    connection.execute("set transaction isolation level serializable")  # which the first lock refuses

    with pytest.raises(psycopg.errors.InvalidParameterValue, match="unknown key goes_onn"):
        connection.execute(f"select public.{OBJECTS[path]}(%s)".encode(), [json.dumps({"protocol": 2, **change})])


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
