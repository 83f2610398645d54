"""An app with tables and status words of its own: recovery and operators reach them through its binding only."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from ai_retry.cli.doctor.case import Case
from ai_retry.cli.doctor.database import judge
from ai_retry.cli.doctor.model import Database
from ai_retry.cli.doctor.shipped import shipped
from ai_retry.client import Client
from ai_retry.domain.model import Answer, Usage
from ai_retry.domain.recovery import Decision
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import ScriptedAiProvider
from tests.helpers.attempts import add_closed
from tests.helpers.books import violations

# Texts that are failed, done or new; some are hidden. Errors are a column, and events a table of another form.
OWN = """
drop table public.generations, public.sessions, public.generation_error_logs, public.events cascade;
create schema shop;
grant usage on schema shop to service_role;
create table shop.texts (
  id uuid primary key default gen_random_uuid(), owner uuid not null references auth.users (id) on delete cascade,
  state text not null default 'failed', engine text, prompt text not null, made timestamptz not null,
  ended timestamptz, why text, removed boolean not null default false, page uuid
);
create table shop.pages (id uuid primary key default gen_random_uuid(), body jsonb not null);
create table shop.news (who uuid not null, what text not null);
alter table shop.texts enable row level security;
alter table shop.pages enable row level security;
alter table shop.news enable row level security;
grant select, update on shop.texts to service_role;
grant select, insert on shop.pages, shop.news to service_role;

create function shop.word(p_state text) returns text language sql immutable
  return case p_state when 'failed' then 'error' when 'done' then 'success' when 'busy' then 'processing'
    else 'queued' end;
create function shop.state(p_word text) returns text language sql immutable
  return case p_word when 'success' then 'done' when 'processing' then 'busy' when 'queued' then 'new'
    else 'failed' end;

create or replace function ai_retry.app_read(p_generation_id uuid) returns jsonb language plpgsql as $$
begin
  return (
    select jsonb_build_object(
      'id', t.id, 'user_id', t.owner, 'status', shop.word(t.state), 'hidden', t.removed, 'model', t.engine,
      'prompt_data', jsonb_build_object('messages', jsonb_build_array(
        jsonb_build_object('role', 'user', 'content', t.prompt))),
      'session_id', t.page, 'duration_ms', null, 'created_at', t.made, 'updated_at', t.ended,
      'session', (select to_jsonb(p) from shop.pages p where p.id = t.page), 'can_create_session', true)
    from shop.texts t where t.id = p_generation_id);
end $$;
create or replace function ai_retry.app_session(p_session_id text, p_user_id uuid) returns jsonb language plpgsql as $$
begin
  return (select to_jsonb(p) from shop.pages p where p.id = p_session_id::uuid);
end $$;
create or replace function ai_retry.app_lock(p_generation_id uuid, p_timeout text) returns jsonb language plpgsql as $$
begin
  perform set_config('lock_timeout', p_timeout, true);
  return (
    select jsonb_build_object('user_id', l.owner, 'status', shop.word(l.state), 'hidden', l.removed)
    from (select * from shop.texts t where t.id = p_generation_id for no key update) l);
end $$;
create or replace function ai_retry.app_write(
  p_generation_id uuid, p_status text, p_session_id text, p_duration_ms integer, p_at timestamptz
) returns void language plpgsql as $$
begin
  update shop.texts t set state = shop.state(p_status), page = coalesce(p_session_id::uuid, t.page), ended = p_at
    where t.id = p_generation_id;
end $$;
create or replace function ai_retry.app_create_session(
  p_user_id uuid, p_generation_id uuid, p_output jsonb, p_attempt jsonb
) returns jsonb language plpgsql as $$
declare v_page jsonb;
begin
  insert into shop.pages as p (body) values (p_output) returning to_jsonb(p) into v_page;
  return v_page;
end $$;
create or replace function ai_retry.app_report(
  p_user_id uuid, p_generation_id uuid, p_event text, p_code text, p_message text, p_attempt integer, p_at timestamptz
) returns void language plpgsql as $$
begin
  insert into shop.news values (p_user_id, p_event);
end $$;
create or replace function ai_retry.app_own_successes(
  p_user_id uuid, p_since timestamptz, p_limit integer, p_at timestamptz
) returns setof timestamptz language plpgsql as $$
begin
end $$;
create or replace function ai_retry.app_strangers(p_generation_ids uuid[], p_user_id uuid)
returns setof uuid language plpgsql as $$
begin
  return query select i from unnest(p_generation_ids) i
    where not exists (select from shop.texts t where t.id = i and t.owner = p_user_id);
end $$;
create or replace function ai_retry.app_look_up(p_generation_ids uuid[])
returns table (id uuid, model text) language plpgsql as $$
begin
  return query select t.id, t.engine from shop.texts t where t.id = any (p_generation_ids);
end $$;
create or replace function ai_retry.app_not_succeeded(p_generation_ids uuid[])
returns setof uuid language plpgsql as $$
begin
  return query select t.id from shop.texts t
    where (p_generation_ids is null or t.id = any (p_generation_ids)) and shop.word(t.state) is distinct from 'success';
end $$;
create or replace function ai_retry.app_find(
  p_since timestamptz, p_before_at timestamptz, p_before_id uuid, p_user_id uuid, p_limit integer
) returns table (id uuid, status text, model text, created_at timestamptz) language plpgsql as $$
begin
  return query
    select t.id, shop.word(t.state), t.engine, t.made from shop.texts t
    where (t.made, t.id) < (p_before_at, p_before_id) and t.made >= coalesce(p_since, '-infinity')
      and (p_user_id is null or t.owner = p_user_id) and not t.removed
    order by t.made desc, t.id desc limit p_limit;
end $$;
create or replace function ai_retry.app_last_error(p_generation_id uuid) returns jsonb language plpgsql as $$
begin
  return (
    select jsonb_build_object('code', t.why, 'at', t.ended)
    from shop.texts t where t.id = p_generation_id and t.why is not null);
end $$;
create or replace function ai_retry.app_report_recovery(
  p_user_id uuid, p_run_id uuid, p_plan_id text, p_retried integer, p_succeeded integer, p_at timestamptz
) returns void language plpgsql as $$
begin
  insert into shop.news values (p_user_id, format('%s of %s recovered', p_succeeded, p_retried));
end $$;
create or replace function ai_retry.app_describe() returns jsonb language sql as $$
  select '{"version": 1, "generations": "shop.texts", "session_function": null, "tables": {
    "shop.texts": ["select", "update"], "shop.pages": ["select", "insert"], "shop.news": ["insert"]}}'::jsonb
$$;
"""
ANSWER = Answer(
    output={"title": "x"}, usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2), model="m-2026"
)


@pytest.fixture
def database(migrated_database: str) -> Iterator[psycopg.Connection]:
    """The owner of a database whose app has tables of its own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(OWN.encode())
        yield connection


@pytest.fixture
def client(migrated_database: str) -> Iterator[Client]:
    """A client of that database, as service_role."""
    storage = PostgresStorage(f"{migrated_database}?options=-c%20role%3Dservice_role")
    with Client(
        storage=storage, recovery_storage=storage, ai=ScriptedAiProvider(default=ANSWER), on_close=storage.close
    ) as client:
        yield client


def add_text(database: psycopg.Connection, state: str, *, hours: int, why: str | None = None) -> tuple[UUID, UUID]:
    """Add a generation of a new user that was created so long ago; return the user's id and its own."""
    row = database.execute(
        "with u as (insert into auth.users (id) values (gen_random_uuid()) returning id)"
        " insert into shop.texts (owner, state, engine, prompt, made, why) select id, %s, 'm', 'a text', now() - %s, %s"
        " from u returning owner, id",
        [state, timedelta(hours=hours), why],
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_search_speaks_the_products_words(database: psycopg.Connection, client: Client) -> None:
    """What failed is found by the product's words, newest first, with the app's last error; hidden texts are not."""
    _, older = add_text(database, "failed", hours=3, why="OVERLOAD")
    _, newer = add_text(database, "failed", hours=2)
    _, busy = add_text(database, "busy", hours=1)
    _, removed = add_text(database, "failed", hours=1)
    add_text(database, "done", hours=1)
    database.execute("update shop.texts set removed = true where id = %s", [removed])

    found = list(client.find())

    assert [(each.generation_id, each.code, each.decision) for each in found] == [
        (newer, None, Decision.NOW),
        (older, "OVERLOAD", Decision.NOW),
    ]
    assert [each.generation_id for each in client.find(code="OVERLOAD", model="m")] == [older]
    assert [each.generation_id for each in client.find(status="processing")] == [busy]
    assert "can be retried now" in client.why(older).text
    assert "was OVERLOAD (recorded by the app)." in client.why(older).text
    hidden = client.why(removed)
    assert (hidden.decision, hidden.code) == (Decision.NEVER, "GENERATION_NOT_FOUND")
    assert "The app hides it from its user." in hidden.text


def test_recovery_reports_to_the_apps_own_tables(database: psycopg.Connection, client: Client) -> None:
    """A run creates the app's own sessions and reports in its own words; the books balance, and see contradictions."""
    user_id, text_id = add_text(database, "failed", hours=1)

    report = client.plan(client.find(), everything=True).run(operator="ada")
    pages = database.execute("select t.state, p.body from shop.texts t join shop.pages p on p.id = t.page").fetchall()
    news = database.execute("select who, what from shop.news").fetchall()

    assert report.totals["succeeded"] == 1
    assert pages == [("done", {"title": "x"})]
    assert (user_id, "1 of 1 recovered") in news
    assert violations(database) == []
    database.execute("update shop.texts set state = 'failed'")
    assert violations(database) == [("a success whose generation says otherwise", text_id)]


def test_estimates_are_by_the_models_that_the_app_names(database: psycopg.Connection, client: Client) -> None:
    """What calls took is estimated by the generations' models, whatever name a provider answers with."""
    user_id, text_id = add_text(database, "failed", hours=1)
    for number, tokens in ((2, 10), (3, 20)):
        usage = f'{{"total_tokens": {tokens}, "cost": 0.5}}'
        add_closed(database, user_id, text_id, number=number, usage=usage, model="m-2026", next_attempt_at=None)

    estimates = client.plan(client.find(), everything=True).estimates

    assert (estimates.calls, estimates.tokens) == (1, 15)


def test_doctor_judges_the_apps_own_tables(database: psycopg.Connection, migrated_database: str) -> None:
    """The doctor finds nothing wrong with such an app, and says so of its tables when something is."""
    with closing(PostgresStorage(f"{migrated_database}?options=-c%20role%3Dservice_role")) as storage:
        sound = findings(storage)
        database.execute("alter table shop.texts disable row level security; grant update on shop.texts to anon")
        database.execute("revoke insert on shop.news from service_role")
        broken = findings(storage)

    assert sound == []
    assert broken == [
        "service_role may not insert in shop.news",
        "it is off on shop.texts: any user may update everybody's rows",
    ]


def findings(storage: PostgresStorage) -> list[str]:
    """What is wrong."""
    case = Case(Database.from_row(storage.inspect()), shipped(), models_are_restricted=False)
    return [each.problem for each in judge(case)]
