"""The migrations on empty projects and on apps that were there before."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tools.catalogue import rows_of, schema_of
from tools.migration import APP, OURS, Migration
from tools.push import apply_migrations, apply_schemas, grant_legacy_default_privileges
from tools.stack import MIGRATIONS

OUR_TABLES = {
    *("ai_retry_open", "ai_retry_attempts", "ai_retry_answers", "ai_retry_quotas", "ai_retry_outages"),
    *("ai_retry_recoveries", "ai_retry_installation", "ai_retry_outbox", "ai_retry_actions"),
}
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


def apply_only(url: str, migration: Migration) -> None:
    """Apply one of the two."""
    with TemporaryDirectory() as directory:
        shutil.copy(MIGRATIONS / migration.name, directory)
        apply_migrations(url, Path(directory))


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
    """The message with which the app's migration stops, after checking that it changed nothing."""
    apply_only(url, OURS)
    before = schema_of(url), rows_of(url)

    with pytest.raises(psycopg.Error) as caught:
        apply_only(url, APP)

    assert caught.value.sqlstate == "55000"
    assert (schema_of(url), rows_of(url)) == before
    return str(caught.value.diag.message_primary)


def test_empty_project_gets_all_tables(bare_database: str) -> None:
    """An empty project has the app's four tables and our seven after the migrations, all with RLS."""
    apply(bare_database)

    with connected(bare_database) as connection:
        tables = connection.execute(
            "select relname, relrowsecurity from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        ).fetchall()
    assert dict(tables) == dict.fromkeys(OUR_TABLES | APP_TABLES, True)


def test_schemas_and_migrations_lead_to_the_same(bare_database: str, migrated_database: str) -> None:
    """The catalogue is the same after the schemas, applied as they are, and after the migrations written from them."""
    with connected(bare_database) as connection:
        apply_schemas(connection)

    assert schema_of(bare_database) == schema_of(migrated_database)


@pytest.mark.parametrize("ddl", [None, AN_APP], ids=["empty", "app"])
def test_either_migration_may_be_applied_first(bare_database: str, another_database: str, ddl: str | None) -> None:
    """The app's migration before ours leads to the same catalogue as ours before the app's."""
    for url, migrations in ((bare_database, (OURS, APP)), (another_database, (APP, OURS))):
        if ddl:
            an_app_with_rows(url, ddl)
        for migration in migrations:
            apply_only(url, migration)

    assert schema_of(bare_database) == schema_of(another_database)


def test_ours_needs_no_table_of_the_app(bare_database: str) -> None:
    """Our migration creates our tables, and neither needs nor creates one of the app's."""
    apply_only(bare_database, OURS)

    assert set(rows_of(bare_database)) == OUR_TABLES


@pytest.mark.parametrize("migration", [OURS, APP], ids=["ours", "the app's"])
def test_other_databases_are_refused(bare_database: str, migration: Migration) -> None:
    """Where there is no Supabase Auth, each migration names what is missing, and changes nothing."""
    with connected(bare_database) as connection:
        connection.execute("drop schema auth cascade")
    before = schema_of(bare_database)

    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=r"there is no table auth\.users"):
        apply_only(bare_database, migration)

    assert schema_of(bare_database) == before


def test_installation_keeps_its_id(bare_database: str) -> None:
    """There is one id, which another application of the migrations keeps, and which nothing of ours can change."""
    question = "select public.ai_retry_installation()"
    apply(bare_database)
    with connected(bare_database) as connection:
        first = connection.execute(question).fetchone()
        apply(bare_database, force=True)
        connection.execute("set role service_role")

        assert connection.execute(question).fetchone() == first
        for change in ("insert into {} (id) values (gen_random_uuid())", "update {} set id = id", "delete from {}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(change.format("public.ai_retry_installation").encode())
    assert first is not None
    assert UUID(first[0]["id"]).version == 4
    assert first[0]["database"] == bare_database.rpartition("/")[2]


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


def test_own_sessions_table_needs_own_seam(bare_database: str) -> None:
    """An app with its own sessions table gets no default session function, and a notice says so."""
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


def test_own_binding_survives_every_application(bare_database: str) -> None:
    """A function of the binding that the app has replaced stays the app's."""
    question = "select prosrc from pg_proc where proname = 'app_strangers'"
    apply(bare_database)
    with connected(bare_database) as connection:
        connection.execute(
            "create or replace function ai_retry.app_strangers(p_generation_ids uuid[], p_user_id uuid)"
            " returns setof uuid language plpgsql stable set search_path = '' as 'begin return; end'"
        )

        apply(bare_database, force=True)

        assert connection.execute(question).fetchall() == [("begin return; end",)]


def test_enum_status_stops_with_lines_that_correct_it(bare_database: str) -> None:
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


def test_trigger_that_undoes_a_success_stops_and_changes_nothing(bare_database: str) -> None:
    """What a trigger of the app does to a success is found by the rehearsal, before any call is paid for."""
    with connected(bare_database) as connection:
        connection.execute(
            """
            create table public.generations (id uuid primary key, user_id uuid, status text, session_id uuid);
            alter table public.generations alter column id set default gen_random_uuid();
            create function public.undo() returns trigger language plpgsql as
              $$ begin new.session_id := null; return new; end $$;
            create trigger undo before update on public.generations for each row execute function public.undo();
            """
        )

    assert "a trigger undoes what was written" in refusal_of(bare_database)


def test_rehearsal_leaves_no_trace(bare_database: str) -> None:
    """After the migrations there is no session, no event, no log and no user that was not there before."""
    generation_id = an_app_with_rows(bare_database)

    apply(bare_database)

    with connected(bare_database) as connection:
        counts = connection.execute(
            "select (select count(*) from public.sessions), (select count(*) from public.events),"
            " (select count(*) from public.generation_error_logs), (select count(*) from auth.users)"
        ).fetchone()
        status = connection.execute("select status from public.generations where id = %s", [generation_id]).fetchone()
    assert counts == (0, 0, 0, 1)
    assert status == ("error",)


def test_every_object_of_ours_has_a_comment(migrated_database: str) -> None:
    """Each table, view, column and function of ours, and of the binding, says what it is."""
    with connected(migrated_database) as connection:
        silent = connection.execute(
            """
            with ours as (
              select c.oid, c.relkind from pg_class c
              where c.relkind in ('r', 'v')
                and (c.relname like 'ai\\_retry%' or c.relnamespace = 'ai_retry'::regnamespace)
            )
            select c.oid::regclass::text from ours c where obj_description(c.oid, 'pg_class') is null
            union all
            select c.oid::regclass || '.' || a.attname from ours c join pg_attribute a on a.attrelid = c.oid
              where c.relkind = 'r' and a.attnum > 0 and col_description(c.oid, a.attnum) is null
            union all
            select p.oid::regprocedure::text from pg_proc p
              where (p.proname like 'ai\\_retry%' or p.pronamespace = 'ai_retry'::regnamespace)
                and obj_description(p.oid, 'pg_proc') is null
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
            where c.relnamespace in ('public'::regnamespace, 'ai_retry'::regnamespace) and c.relkind in ('r', 'v')
              and has_table_privilege(r.rolname, c.oid, p.privilege)
            """
        ).fetchall()
        functions = connection.execute(
            """
            select r.rolname, p.proname from pg_proc p
            cross join (values ('anon'), ('authenticated')) r (rolname)
            where p.pronamespace in ('public'::regnamespace, 'ai_retry'::regnamespace)
              and has_function_privilege(r.rolname, p.oid, 'execute')
            """
        ).fetchall()
    assert {row for row in tables if row[0] == "anon"} == set()
    assert {row[1:] for row in tables} == {(name, "select") for name in APP_TABLES}
    assert functions == []


def test_now_is_nowhere_in_the_migrations() -> None:
    """A transaction's start is never taken for the present."""
    for path in Path(MIGRATIONS).glob("*.sql"):
        assert "now()" not in path.read_text()


def test_users_read_their_own_rows_alone(migrated_database: str) -> None:
    """On the tables that the migrations made, a user sees their own rows, and no others."""
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
