"""The rehearsal: what refuses ai-retry's writes is found before a user meets it, and nothing is left behind."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from ai_retry.cli.rehearsal import Rehearsal, rehearse
from benchmarks.app_rows import failed_generations, failed_generations_of
from tests.integration.test_own_binding import OWN, add_text

pytestmark = pytest.mark.stack

ALL = (
    *("begin: ai_retry.app_lock", "begin: ai_retry.app_write"),
    *("fail: ai_retry.app_lock", "fail: ai_retry.app_write", "fail: ai_retry.app_report"),
    *("accept: ai_retry.app_lock", "accept: ai_retry.app_write"),
    *("expire: ai_retry.app_lock", "expire: ai_retry.app_write"),
    *("two at once: public.ai_retry_begin", "claim twice: public.ai_retry_begin"),
    *("retry: ai_retry.app_lock", "retry: ai_retry.app_write"),
    "succeed: ai_retry.app_create_session",
    *("succeed: ai_retry.app_lock", "succeed: ai_retry.app_write", "succeed: ai_retry.app_report"),
)


@pytest.fixture
def owner(migrated_database: str) -> Iterator[psycopg.Connection]:
    """The owner of a database with the default binding."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


def contents(connection: psycopg.Connection) -> list[tuple[str, int]]:
    """How many rows each table has."""
    names = connection.execute(
        "select format('%I.%I', schemaname, relname) from pg_stat_user_tables"
        " where schemaname in ('public', 'auth', 'shop', 'ai_retry') order by 1"
    ).fetchall()
    return [
        (name, (connection.execute(f"select count(*) from {name}".encode()).fetchone() or (0,))[0]) for (name,) in names
    ]


def test_rehearsal_leaves_nothing(owner: psycopg.Connection) -> None:
    """With no generation at all one is inserted; every write is tried, and afterwards nothing is there."""
    before = contents(owner)

    rehearsal = rehearse(owner)

    assert rehearsal == Rehearsal(ALL, (), ())
    assert rehearsal.passed
    assert contents(owner) == before


def test_rehearsal_uses_what_failed(migrated_database: str, owner: psycopg.Connection) -> None:
    """As the service role, which can insert no user, failed generations are used, and are as they were."""
    ((user_id, _),) = failed_generations(owner, 1)
    failed_generations_of(owner, [user_id])
    before = owner.execute("select g from public.generations g").fetchall()

    with psycopg.connect(f"{migrated_database}?options=-c%20role%3Dservice_role", autocommit=True) as service:
        rehearsal = rehearse(service)

    assert rehearsal == Rehearsal(ALL, (), ())
    assert owner.execute("select g from public.generations g").fetchall() == before


def test_rehearsal_within_a_transaction_leaves_it(owner: psycopg.Connection) -> None:
    """A transaction that is open stays open, and what it has written before is still there."""
    with owner.transaction():
        owner.execute("create table public.written_before ()")
        rehearse(owner)
        role = owner.execute("select current_user, to_regclass('public.written_before') is not null").fetchone()

    assert role == ("postgres", True)


def test_nothing_to_rehearse_with_is_said(migrated_database: str) -> None:
    """Where no generation failed and none may be inserted, nothing is said to be well."""
    with psycopg.connect(f"{migrated_database}?options=-c%20role%3Dservice_role", autocommit=True) as service:
        rehearsal = rehearse(service)

    assert not rehearsal.passed
    (reason,) = rehearsal.not_run
    assert reason == "nothing was rehearsed: no failed generation is there, and none could be inserted (42501)"


REFUSALS = {
    "a check": (
        "alter table public.generations add column completed_at timestamptz,"
        " add constraint done_has_time check (status <> 'success' or completed_at is not null)",
        ["succeed"], "ai_retry.app_write: the constraint done_has_time on public.generations refuses it (23514)",
    ),
    "an enum": (
        "alter table public.generations drop constraint status_is_known;"
        "create type public.state as enum ('queued', 'processing', 'success', 'error');"
        "alter table public.generations alter column status drop default, alter column status type public.state"
        " using status::public.state",
        ["begin", "fail", "accept", "expire", "claim twice", "retry", "succeed"], "(42804)",
    ),
    "a column that became required": (
        "alter table public.events add column tenant uuid not null",
        ["fail", "succeed"], 'ai_retry.app_report: null value in column "tenant"',
    ),
    "a trigger that refuses": (
        "create function public.no_queue() returns trigger language plpgsql as"
        " $$ begin if new.status = 'queued' then raise exception 'the prompt is %', new.prompt_data; end if;"
        " return new; end $$;"
        "create trigger no_queue before update on public.generations for each row execute function public.no_queue()",
        ["accept"], "ai_retry.app_write: it raises an error (P0001) in no_queue, line 1",
    ),
    "a trigger that undoes": (
        "create function public.stays() returns trigger language plpgsql as"
        " $$ begin new.status := 'error'; return new; end $$;"
        "create trigger stays before update on public.generations for each row execute function public.stays()",
        ["succeed"], "ai_retry.app_write: the generation does not say",
    ),
    "one at a time": (
        "create unique index one_active on public.generations (user_id) where status in ('queued', 'processing');"
        "insert into public.generations (user_id, status) select user_id, 'processing' from public.generations",
        ["begin", "accept", "claim twice", "retry"], "constraint one_active on public.generations refuses it",
    ),
    "a grant": (
        "revoke update on public.generations from service_role",
        ["begin", "fail", "accept", "expire", "two at once", "claim twice", "retry", "succeed"],
        "permission denied for table",
    ),
    "a session function that returns nothing": (
        "create or replace function ai_retry.app_create_session(p_user_id uuid, p_generation_id uuid, p_output jsonb,"
        " p_attempt jsonb) returns jsonb language sql as 'select null::jsonb'",
        ["succeed"], "ai_retry.app_create_session: it returns no row with an id",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "steps", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_refuses_is_named(owner: psycopg.Connection, statement: str, steps: list[str], reason: str) -> None:
    """Each write that would fail is named with its step and what refuses it; the others are tried all the same."""
    failed_generations(owner, 1, prompt_data={"messages": [{"role": "user", "content": "a secret prompt"}]})
    owner.execute(statement.encode())

    rehearsal = rehearse(owner)

    assert list(dict.fromkeys(each.step for each in rehearsal.refusals)) == steps
    assert any(reason in each.problem for each in rehearsal.refusals), rehearsal.refusals
    assert all("ai-retry doctor --rehearse" in each.remedy for each in rehearsal.refusals)
    assert "secret" not in str(rehearsal)


def test_what_lets_one_retry_run_is_noted(owner: psycopg.Connection) -> None:
    """An app's own "one at a time" refuses no rehearsal: its name is said, and what the second retry gets."""
    failed_generations(owner, 1)
    owner.execute("create unique index one_runs on public.generations (user_id) where status = 'processing'")

    rehearsal = rehearse(owner)

    assert rehearsal.refusals == ()
    (note,) = rehearsal.notes
    assert note.startswith("the constraint one_runs lets one retry of a user run at once")


def test_two_of_one_user_need_a_second_generation(migrated_database: str, owner: psycopg.Connection) -> None:
    """Where there is none, and the role may insert none, it is said that two at once were not tried."""
    failed_generations(owner, 1)
    owner.execute("revoke insert on public.generations from service_role")

    with psycopg.connect(f"{migrated_database}?options=-c%20role%3Dservice_role", autocommit=True) as service:
        rehearsal = rehearse(service)

    (note,) = rehearsal.notes
    assert note.startswith("two retries of one user at once were not tried")
    assert "two at once: public.ai_retry_begin" not in rehearsal.ran


@pytest.mark.parametrize("limit", ["max_live", "max_used"])
def test_a_limit_that_lets_two_begin_is_found(owner: psycopg.Connection, limit: str) -> None:
    """Two retries of one user that begin at once, though a limit has room for one, are a refusal."""
    (definition,) = owner.execute("select pg_get_functiondef('public.ai_retry_begin'::regproc)").fetchone() or ("",)
    assert f"'{limit}'" in definition
    owner.execute(definition.replace(f"'{limit}'", "'nothing'").encode())

    refusals = rehearse(owner).refusals

    assert [each.step for each in refusals] == ["two at once"]
    assert "two retries of one user began at once" in refusals[0].reason


def test_events_are_not_fatal(owner: psycopg.Connection) -> None:
    """An event that the app refuses is left out of a retry, and everything else keeps it from working."""
    owner.execute("alter table public.events add column tenant uuid not null")
    events = rehearse(owner).refusals
    owner.execute("revoke update on public.generations from service_role")
    others = [each for each in rehearse(owner).refusals if each not in events]

    assert {each.is_fatal for each in events} == {False}
    assert {each.is_fatal for each in others} == {True}


def test_own_binding_is_rehearsed(owner: psycopg.Connection) -> None:
    """An app with tables and words of its own; its session is rehearsed with an example, else said not to be."""
    owner.execute(OWN.encode())
    add_text(owner, "failed", hours=1)
    owner.execute(
        "insert into shop.texts (owner, state, prompt, made) select owner, state, prompt, made from shop.texts"
    )
    before = contents(owner)

    without, with_one = rehearse(owner), rehearse(owner, output={"title": "x"})

    assert without.refusals == ()
    assert [each.partition(":")[0] for each in without.not_run] == ["no session was rehearsed"]
    assert with_one == Rehearsal(ALL, (), ())
    assert contents(owner) == before


def test_first_call_is_rehearsed(owner: psycopg.Connection) -> None:
    """The app's own insert comes first, and the rest is played with what it made; one that is refused is named."""
    owner.execute(OWN.encode())
    user_id, _ = add_text(owner, "done", hours=1)

    def insert(prompt: str | None) -> UUID:
        made = uuid4()
        owner.execute(
            "insert into shop.texts (id, owner, prompt, made) values (%s, %s, %s, now())", [made, user_id, prompt]
        )
        return made

    sound = rehearse(owner, output={}, first_call=lambda *_: insert("a text"))
    broken = rehearse(owner, output={}, first_call=lambda *_: insert(None))

    assert sound == Rehearsal(("first call: ai_retry.app_create_generation", *ALL), (), ())
    assert broken.refusals[0].step == "first call"
    assert 'null value in column "prompt"' in broken.refusals[0].problem


def test_a_role_that_may_not_become_the_service_rehearses_as_itself(
    migrated_database: str, owner: psycopg.Connection
) -> None:
    """Since PostgreSQL 16 a member may have the grants of a role and not its name: nothing raises, all is tried."""
    ((user_id, _),) = failed_generations(owner, 1)
    failed_generations_of(owner, [user_id])
    role = f"member_{uuid4().hex}"
    owner.execute(f"create role {role} login bypassrls".encode())
    owner.execute(f"grant service_role to {role} with inherit true, set false".encode())

    with psycopg.connect(migrated_database.replace("//postgres@", f"//{role}@"), autocommit=True) as member:
        rehearsal = rehearse(member)
    owner.execute(f"drop owned by {role}; drop role {role}".encode())

    assert rehearsal == Rehearsal(ALL, (), ())
