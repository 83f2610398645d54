"""The migrations on empty projects and on apps that were there before."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.migrations import apply_migrations, grant_legacy_default_privileges
from tests.support.stack import MIGRATIONS

OUR_TABLES = {"ai_retry_attempts", "ai_retry_outages", "ai_retry_quotas", "ai_retry_recoveries"}
APP_TABLES = {"generations", "sessions", "generation_error_logs", "events"}

AN_APP = """
create table public.sessions (id uuid primary key default gen_random_uuid(), user_id uuid not null, content jsonb);
create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  model text not null,
  status text not null check (status in ('success', 'error', 'timeout')),
  duration_ms integer,
  prompt_data jsonb,
  response_data jsonb,
  session_id uuid references public.sessions (id),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table public.generation_error_logs (
  id bigint generated always as identity primary key,
  generation_id uuid references public.generations (id) on delete cascade,
  error_type text not null, error_message text not null, error_stack text,
  created_at timestamptz not null default now()
);
create table public.events (
  id bigint generated always as identity primary key,
  user_id uuid, event_type text not null, event_data jsonb, created_at timestamptz not null default now()
);
alter table public.generations enable row level security;
create policy "update own" on public.generations for update to authenticated
  using (auth.uid() = user_id) with check (auth.uid() = user_id);
grant select, update on public.generations to authenticated;
"""


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection]:
    """Connect as the owner, in autocommit."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def apply(url: str, *, force: bool = False) -> list[str]:
    """Apply the shipped migrations; return the notices."""
    notices: list[str] = []
    apply_migrations(url, MIGRATIONS, force=force, on_notice=notices.append)
    return notices


def schema_of(url: str) -> object:
    """Everything in the catalogue that a migration could have changed, comparable."""
    queries = (
        "select table_name, column_name, data_type, is_nullable, column_default from information_schema.columns"
        " where table_schema = 'public' order by 1, 2",
        "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
        " where connamespace = 'public'::regnamespace order by 1, 2",
        "select indexname, indexdef from pg_indexes where schemaname = 'public' order by 1",
        "select tablename, policyname, roles::text, cmd, qual, with_check from pg_policies order by 1, 2",
        "select relname, relacl::text, relrowsecurity from pg_class where relnamespace = 'public'::regnamespace"
        " and relkind = 'r' order by 1",
        "select oid::regprocedure::text, proacl::text, prosrc, proconfig::text from pg_proc"
        " where pronamespace = 'public'::regnamespace order by 1",
    )
    with connected(url) as connection:
        return [connection.execute(query).fetchall() for query in queries]


def rows_of(url: str) -> object:
    """Every row of the public tables."""
    with connected(url) as connection:
        tables = connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1"
        ).fetchall()
        return {
            name: connection.execute(f"select to_jsonb(t) from public.{name} t order by 1").fetchall()
            for (name,) in tables
        }


def add_user(connection: psycopg.Connection) -> UUID:
    """Add a user as Auth would."""
    user_id = uuid4()
    connection.execute("insert into auth.users (id) values (%s)", [user_id])
    return user_id


def an_app_with_rows(url: str, ddl: str = AN_APP) -> UUID:
    """Make the app of the issue, with a user and a failed generation; return the generation's id."""
    with connected(url) as connection:
        connection.execute(ddl)
        row = connection.execute(
            "insert into public.generations (user_id, model, status, prompt_data) values (%s, 'm', 'error', %s)"
            " returning id",
            [add_user(connection), Jsonb({"messages": [{"role": "user", "content": "plan"}]})],
        ).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def refusal_of(url: str) -> str:
    """The message with which the migrations stop, after checking that nothing changed."""
    before = schema_of(url), rows_of(url)

    with pytest.raises(psycopg.Error) as caught:
        apply(url)

    assert caught.value.sqlstate == "55000"
    assert (schema_of(url), rows_of(url)) == before
    return str(caught.value.diag.message_primary)


def test_empty_project_gets_all_tables(bare_database: str) -> None:
    """An empty project has the app's four tables and our two after the migrations, all with RLS."""
    apply(bare_database)

    with connected(bare_database) as connection:
        tables = connection.execute(
            "select relname, relrowsecurity from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        ).fetchall()
    assert dict(tables) == dict.fromkeys(OUR_TABLES | APP_TABLES, True)


@pytest.mark.parametrize("ddl", [None, AN_APP], ids=["empty", "app"])
def test_second_application_changes_nothing(bare_database: str, ddl: str | None) -> None:
    """Applying the migrations twice leaves catalogue and rows as they were after the first time."""
    if ddl:
        an_app_with_rows(bare_database, ddl)
    apply(bare_database)
    before = schema_of(bare_database), rows_of(bare_database)

    apply(bare_database, force=True)

    assert (schema_of(bare_database), rows_of(bare_database)) == before


def test_existing_app_keeps_rows_grants_and_policies(bare_database: str) -> None:
    """An app's rows, policies and its users' grants are the same before and after."""
    an_app_with_rows(bare_database)
    question = """
      select (select jsonb_agg(to_jsonb(g) order by g.id) from public.generations g),
        (select jsonb_agg(to_jsonb(p) order by policyname) from pg_policies p where tablename = 'generations'),
        (select jsonb_agg(x) from (
          select grantee, table_name, privilege_type from information_schema.role_table_grants
          where grantee in ('anon', 'authenticated') and table_name in ('generations', 'sessions', 'events')
          order by 1, 2, 3
        ) x)
    """
    with connected(bare_database) as connection:
        before = connection.execute(question).fetchone()

    apply(bare_database)

    with connected(bare_database) as connection:
        assert connection.execute(question).fetchone() == before


def test_status_check_is_widened_and_keeps_its_words(bare_database: str) -> None:
    """A check that enumerates statuses lets ours through afterwards, and still refuses what it refused."""
    generation_id = an_app_with_rows(bare_database)
    apply(bare_database)

    with connected(bare_database) as connection:
        for status in ("queued", "processing", "success", "error", "timeout"):
            connection.execute("update public.generations set status = %s where id = %s", [status, generation_id])
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("update public.generations set status = 'nonsense'")


def test_policy_that_lets_users_write_is_told(bare_database: str) -> None:
    """Where end users may write generations, a notice names the policy and the remedy."""
    an_app_with_rows(bare_database)

    notices = apply(bare_database)

    assert any('"update own" (UPDATE)' in notice and "AI_MODELS" in notice for notice in notices)


def test_own_sessions_table_needs_own_seam(bare_database: str) -> None:
    """An app with its own sessions table gets no default seam, and is told so."""
    an_app_with_rows(bare_database)

    notices = apply(bare_database)

    with connected(bare_database) as connection:
        seam = connection.execute(
            "select to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)')"
        ).fetchone()
    assert seam == (None,)
    assert any("ai_retry_create_session" in notice for notice in notices)


def test_own_seam_survives_every_application(bare_database: str) -> None:
    """An app's own seam, made before or after the migrations, is never replaced and its grants are left alone."""
    an_app_with_rows(
        bare_database,
        AN_APP.replace(
            "user_id uuid not null, content jsonb)", "user_id uuid not null, title text not null, plan jsonb not null)"
        )
        + """
        create function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)
        returns jsonb language sql set search_path = '' as $$
          insert into public.sessions as s (user_id, title, plan)
          values (p_generation.user_id, p_output ->> 'title', p_output) returning to_jsonb(s)
        $$;
        """,
    )
    question = "select prosrc, proacl::text from pg_proc where proname = 'ai_retry_create_session'"
    with connected(bare_database) as connection:
        before = connection.execute(question).fetchall()

    apply(bare_database)
    apply(bare_database, force=True)

    with connected(bare_database) as connection:
        assert connection.execute(question).fetchall() == before


def test_enum_status_stops_with_lines_that_mend_it(bare_database: str) -> None:
    """An enum status stops the migrations, nothing changes, and the printed lines are enough to go on."""
    an_app_with_rows(
        bare_database,
        "create type public.generation_status as enum ('success', 'error', 'timeout');"
        + AN_APP.replace(
            "status text not null check (status in ('success', 'error', 'timeout'))",
            "status public.generation_status not null default 'error'",
        ),
    )

    message = refusal_of(bare_database)

    assert "public.generations.status is the enum" in message
    remedy = [line.strip() for line in message.splitlines() if line.strip().startswith("alter table")]
    assert len(remedy) == 3
    with connected(bare_database) as connection:
        for line in remedy:
            connection.execute(line)
    apply(bare_database)
    with connected(bare_database) as connection:
        default = connection.execute(
            "select column_default from information_schema.columns where table_name = 'generations'"
            " and column_name = 'status'"
        ).fetchone()
    assert default == ("'error'::text",)


def test_bigint_ids_stop_and_change_nothing(bare_database: str) -> None:
    """Ids that are no UUIDs stop the migrations; one message names every obstacle at once."""
    with connected(bare_database) as connection:
        connection.execute(
            """
            create table public.sessions (id bigint primary key, user_id uuid);
            create table public.generations (
              id bigint primary key, user_id uuid not null, status text, session_id bigint, created_at timestamp
            );
            """
        )

    message = refusal_of(bare_database)

    for obstacle in (
        "public.generations.id is bigint and must be uuid",
        "public.generations.session_id is bigint and must be uuid",
        "public.generations.created_at is timestamp without time zone and must be timestamptz",
        "public.sessions.id is bigint and must be uuid",
    ):
        assert obstacle in message


@pytest.mark.parametrize("with_rows", [True, False], ids=["rows", "no rows"])
def test_events_check_that_refuses_ours_stops_and_changes_nothing(bare_database: str, with_rows: bool) -> None:
    """A check on events that refuses our types is found by the rehearsal, named, and nothing is left behind."""
    ddl = AN_APP.replace(
        "event_type text not null,",
        "event_type text not null constraint known_events check (event_type in ('signed_up', 'paid')),",
    ).replace("model text not null", "model text")
    if with_rows:
        an_app_with_rows(bare_database, ddl)
    else:
        with connected(bare_database) as connection:
            connection.execute(ddl)

    message = refusal_of(bare_database)

    assert "known_events" in message
    assert "ai_generation_succeeded" in message


def test_rehearsal_leaves_no_trace(bare_database: str) -> None:
    """After the migrations there is no attempt, no event, no log and no user that was not there before."""
    generation_id = an_app_with_rows(bare_database)

    apply(bare_database)

    with connected(bare_database) as connection:
        counts = connection.execute(
            "select (select count(*) from public.ai_retry_attempts), (select count(*) from public.events),"
            " (select count(*) from public.generation_error_logs), (select count(*) from auth.users)"
        ).fetchone()
        status = connection.execute("select status from public.generations where id = %s", [generation_id]).fetchone()
    assert counts == (0, 0, 0, 1)
    assert status == ("error",)


def test_every_object_of_ours_has_a_comment(migrated_database: str) -> None:
    """Each table, column and function named ai_retry_* says what it is."""
    with connected(migrated_database) as connection:
        silent = connection.execute(
            """
            select c.relname from pg_class c where c.relname like 'ai\\_retry%' and c.relkind = 'r'
              and obj_description(c.oid, 'pg_class') is null
            union all
            select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
              where c.relname like 'ai\\_retry%' and c.relkind = 'r' and a.attnum > 0
              and col_description(c.oid, a.attnum) is null
            union all
            select p.proname from pg_proc p
              where p.proname like 'ai\\_retry%' and obj_description(p.oid, 'pg_proc') is null
            """
        ).fetchall()
    assert silent == []


@pytest.mark.parametrize("legacy", [False, True], ids=["new project", "older project"])
def test_end_users_can_do_nothing_with_ours(bare_database: str, legacy: bool) -> None:
    """No end user may touch a table or run a function of ours, also under an older project's default privileges."""
    if legacy:
        grant_legacy_default_privileges(bare_database)
    apply(bare_database)

    with connected(bare_database) as connection:
        tables = connection.execute(
            """
            select r.rolname, c.relname, p.privilege from pg_class c
            cross join (values ('anon'), ('authenticated')) r (rolname)
            cross join unnest(
              array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p (privilege)
            where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
              and has_table_privilege(r.rolname, c.oid, p.privilege)
            """
        ).fetchall()
        functions = connection.execute(
            """
            select r.rolname, p.proname from pg_proc p
            cross join (values ('anon'), ('authenticated')) r (rolname)
            where p.pronamespace = 'public'::regnamespace and has_function_privilege(r.rolname, p.oid, 'execute')
            """
        ).fetchall()
    assert {row for row in tables if row[0] == "anon"} == set()
    assert {row[1:] for row in tables} == {(name, "select") for name in APP_TABLES}
    assert functions == []


def test_functions_are_pinned(migrated_database: str) -> None:
    """Every function of ours runs as its invoker with an empty search_path."""
    with connected(migrated_database) as connection:
        loose = connection.execute(
            "select proname from pg_proc where proname like 'ai\\_retry%'"
            " and (prosecdef or not coalesce(proconfig, '{}') @> array['search_path=\"\"'])"
        ).fetchall()
    assert loose == []


def test_now_is_nowhere_in_the_migrations() -> None:
    """A transaction's start is never taken for the present."""
    for path in Path(MIGRATIONS).glob("*.sql"):
        assert "now()" not in path.read_text()


def test_users_read_their_own_rows_alone(migrated_database: str) -> None:
    """On the tables that the migrations made, a user sees their own rows, and nobody else's."""
    with connected(migrated_database) as connection:
        mine, other = add_user(connection), add_user(connection)
        for user_id in (mine, other):
            connection.execute("insert into public.generations (user_id) values (%s)", [user_id])
            connection.execute("insert into public.sessions (user_id, content) values (%s, '{}')", [user_id])
            connection.execute("insert into public.events (user_id, event_type) values (%s, 'x')", [user_id])
        claims = json.dumps({"sub": str(mine)})
        connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        connection.execute("select set_config('request.jwt.claim.sub', %s, false)", [str(mine)])
        connection.execute("set role authenticated")
        seen = [
            connection.execute(f"select user_id from public.{table}").fetchall()
            for table in ("generations", "sessions", "events")
        ]
    assert seen == [[(mine,)]] * 3
