"""An app's own tables and functions misbehave: no paid answer is lost, and no generation says processing for ever."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ai_retry.domain.errors import AiRetryError, LeaseLost, NotConfigured, SessionConflict, SessionRejected
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.domain.recovery import judge
from ai_retry.storage._function_connection import FunctionConnection
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.steps import abandon, begin, discard, fail, load, new_generation, succeed
from tests.helpers.world import SqlWorld
from tests.integration.test_migrations import AN_APP, an_app_with_rows, apply, connected, refusal_of

SEAM = """
create or replace function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)
returns jsonb language plpgsql as $$ {body} $$
"""
RAISES = "begin raise exception 'secret row' using errcode = '{}'; end"


@pytest.fixture
def connection(migrated_database: str) -> Iterator[psycopg.Connection]:
    """The owner of a database of one's own."""
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def world(migrated_database: str, connection: psycopg.Connection) -> Iterator[SqlWorld]:
    """A storage on it, and the app around it."""
    connection.execute("create schema refusals; create table refusals.by_user (user_id uuid, constraint_name text)")
    storage = PostgresStorage(migrated_database, max_connections=4)
    yield SqlWorld(storage, connection)
    storage.close()


@pytest.mark.rule("passing")
@pytest.mark.parametrize(
    "body",
    [
        "begin assert false, 'secret row'; end",
        RAISES.format("PT402"),
        RAISES.format("AP001"),
        RAISES.format("54000"),
        RAISES.format("44000"),
        RAISES.format("55000"),
        RAISES.format("0A000"),
        "declare v uuid; begin v := (select id from (values (1), (2)) t (id))::text::uuid; return null; end",
        "begin return null; end",
        'begin return \'{"id": "no uuid"}\'; end',
        "begin return jsonb_build_object('id', gen_random_uuid()); end",
    ],
    ids=["assert", "PT402", "own", "54000", "44000", "55000", "0A000", "21000", "null", "no-uuid", "no-session"],
)
def test_seam_that_errs_keeps_the_answer(world: SqlWorld, connection: psycopg.Connection, body: str) -> None:
    """Whatever an app's seam raises or returns, the attempt is closed uncharged, and the answer waits for the next."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    connection.execute(SEAM.format(body=body).encode())

    with pytest.raises(SessionRejected) as caught:
        succeed(world, begun)

    assert "secret" not in repr(caught.value) + str(caught.value)
    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["code"], row["counted"], row["captured_at"]) == (
        "failed",
        "SESSION_REJECTED",
        False,
        None,
    )
    assert load(world, user_id, generation_id).stored_answer is not None
    assert world.generation(generation_id)["status"] == "error"


@pytest.mark.rule("conflicting")
@pytest.mark.parametrize(
    ("body", "kind", "cause"),
    [
        (RAISES.format("PT409"), SessionConflict, "PT409"),
        (RAISES.format("23505"), SessionConflict, "23505"),
        (RAISES.format("23P01"), SessionConflict, "23P01"),
        (RAISES.format("PT400"), SessionRejected, "PT400"),
        (RAISES.format("23514"), SessionRejected, "23514"),
        (RAISES.format("23503"), SessionRejected, "23503"),
        (RAISES.format("P0001"), SessionRejected, "P0001"),
        (RAISES.format("42501"), SessionRejected, "42501"),
    ],
)
def test_only_conflicts_are_the_users_to_cure(
    world: SqlWorld, connection: psycopg.Connection, body: str, kind: type[SessionRejected], cause: str
) -> None:
    """PT409, and unique and exclusion constraints, are conflicts, the rest is an operator's; the answer is stored."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    connection.execute(SEAM.format(body=body).encode())

    with pytest.raises(SessionRejected) as caught:
        succeed(world, begun)

    assert type(caught.value) is kind
    assert caught.value.details == {"constraint": cause, "answer_kept": True}
    assert load(world, user_id, generation_id).stored_answer is not None


@pytest.mark.rule("conflicting")
@pytest.mark.parametrize(
    "statement",
    [
        "create unique index one_planned_session on public.sessions (user_id)",
        "alter table public.sessions add constraint one_planned_session unique (user_id) deferrable initially deferred",
        "alter table public.sessions add constraint one_planned_session exclude (user_id with =)",
    ],
    ids=["unique", "deferred", "exclusion"],
)
def test_second_session_of_a_user_is_a_conflict(
    world: SqlWorld, connection: psycopg.Connection, statement: str
) -> None:
    """One planned session per user, by any kind of constraint: the second is a conflict that names it."""
    connection.execute(statement.encode())
    user_id, first = new_generation(world)
    second = world.new_generation(user_id)
    succeed(world, begin(world, user_id, first))

    with pytest.raises(SessionConflict) as caught:
        succeed(world, begin(world, user_id, second))

    assert caught.value.details == {"constraint": "one_planned_session", "answer_kept": True}


CHECK = """
create or replace function ai_retry.app_may_create_session(p_user_id uuid, p_generation_id uuid) returns text
language plpgsql as $$ begin {body} end $$
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return E' One at\\n a time. ';", "One at a time."),
        ("return repeat('x', 1000);", "x" * 200),
        ("return case when exists (select from public.sessions s where s.user_id = p_user_id) then 'One.' end;",
         None),
        ("return case when p_user_id is null or p_generation_id is null then 'not asked for' end;", None),
    ],
    ids=["one line", "long", "its own tables", "both ids"],
)  # fmt: skip
def test_binding_is_asked_before_any_call(
    world: SqlWorld, connection: psycopg.Connection, body: str, said: str | None
) -> None:
    """What the binding's check returns is shown as one short line; it may look wherever it likes."""
    connection.execute(CHECK.format(body=body).encode())
    user_id, generation_id = new_generation(world)

    refusal = judge(load(world, user_id, generation_id), DEFAULT_POLICY).refusal

    assert (refusal.details["reason"] if refusal is not None else None) == said


def test_check_that_fails_makes_no_call(world: SqlWorld, connection: psycopg.Connection) -> None:
    """A check that raises is reported as what an operator has to correct, without its text; nothing begins."""
    user_id, generation_id = new_generation(world)
    connection.execute(CHECK.format(body="raise exception 'secret row';").encode())

    with pytest.raises(NotConfigured) as caught:
        begin(world, user_id, generation_id)

    assert "secret" not in str(caught.value)
    assert world.attempts(generation_id) == []


@pytest.mark.rule("passing")
@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "53200", "57014"])
def test_passing_error_in_seam_leaves_the_attempt_open(
    world: SqlWorld, connection: psycopg.Connection, sqlstate: str
) -> None:
    """An error that passes by itself undoes everything; the settle may be sent again, and then succeeds."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    good = connection.execute(
        "select pg_get_functiondef('public.ai_retry_create_session(public.generations,jsonb)'::regprocedure)"
    ).fetchone()
    connection.execute(SEAM.format(body=RAISES.format(sqlstate)).encode())

    with pytest.raises(AiRetryError) as caught:
        succeed(world, begun)
    assert good is not None
    connection.execute(str(good[0]).encode())
    succeed(world, begun)

    assert caught.value.retry_after is not None
    assert [row["outcome"] for row in world.attempts(generation_id)] == ["succeeded"]


def test_trigger_that_guards_session_id_keeps_the_answer(world: SqlWorld, connection: psycopg.Connection) -> None:
    """A trigger that puts the old session_id back is named as a refusal; nothing is half done."""
    connection.execute(
        """
        create function public.guard() returns trigger language plpgsql as $$
        begin new.session_id := old.session_id; return new; end $$;
        create trigger guard before update on public.generations for each row execute function public.guard();
        """
    )
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)

    with pytest.raises(SessionRejected):
        succeed(world, begun)

    assert world.sessions(user_id) == []
    assert load(world, user_id, generation_id).stored_answer is not None


@pytest.fixture
def heard(migrated_database: str, connection: psycopg.Connection) -> Iterator[tuple[SqlWorld, list[str]]]:
    """A storage on one connection, the app around it, and what the database says to that connection."""
    said: list[str] = []
    connection.execute("create schema refusals; create table refusals.by_user (user_id uuid, constraint_name text)")
    with FunctionConnection.connect(migrated_database, autocommit=True) as caller:
        caller.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        yield SqlWorld(FunctionStorage(caller.call), connection), said


def test_refused_failure_rows_leave_the_status(
    heard: tuple[SqlWorld, list[str]], connection: psycopg.Connection
) -> None:
    """An app that refuses the event of a failure still gets its status; the database's log says what it refused."""
    world, said = heard
    connection.execute("alter table public.events add constraint no_events check (false) not valid")
    user_id, generation_id = new_generation(world)

    fail(world, begin(world, user_id, generation_id))

    assert world.generation(generation_id)["status"] == "error"
    assert [(row["outcome"], row["code"], row["cause"]) for row in world.attempts(generation_id)] == [
        ("failed", "AI_UNAVAILABLE", None)
    ]
    assert world.error_logs(generation_id) == []
    (warning,) = said
    assert "refused an event or error log (23514)" in warning
    assert str(generation_id) in warning


def test_refused_event_of_a_success_keeps_the_session(world: SqlWorld, connection: psycopg.Connection) -> None:
    """An app that refuses the event of a success still gets the session, for one unit."""
    connection.execute("alter table public.events add constraint no_events check (false) not valid")
    user_id, generation_id = new_generation(world)

    done = succeed(world, begin(world, user_id, generation_id))

    assert (world.generation(generation_id)["status"], done.quota.captured) == ("success", 1)
    assert len(world.sessions(user_id)) == 1
    assert world.events(user_id) == []


def test_column_type_changed_under_open_connection_heals(world: SqlWorld, connection: psycopg.Connection) -> None:
    """After an app changed a column's type, a pooled connection fails once at most and is replaced."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id))
    connection.execute("alter table public.generations alter column model type varchar(40)")

    for _ in range(3):
        try:
            load(world, user_id, generation_id)
        except AiRetryError as error:
            assert error.retry_after is not None  # noqa: PT017 - a passing failure is allowed, once
        else:
            break
    assert load(world, user_id, generation_id).generation.id == generation_id


@pytest.mark.parametrize("value", ["infinity", "4000-01-01 BC"])
def test_instant_beyond_python_is_a_named_problem(world: SqlWorld, connection: psycopg.Connection, value: str) -> None:
    """An instant that Python can't hold is NotConfigured for its own generation, and no other's."""
    user_id, generation_id = new_generation(world)
    other = world.new_generation(user_id)
    connection.execute(
        "update public.generations set created_at = %s, status = 'success' where id = %s", [value, generation_id]
    )

    with pytest.raises(NotConfigured, match="out of range"):
        load(world, user_id, generation_id)
    assert load(world, user_id, other).generation.id == other


def test_session_of_another_user_is_never_shown(world: SqlWorld, connection: psycopg.Connection) -> None:
    """A user who points session_id at a stranger's session gets nothing of it."""
    stranger, theirs = new_generation(world)
    done = succeed(world, begin(world, stranger, theirs))
    user_id, mine = new_generation(world)

    connection.execute("update public.generations set session_id = %s where id = %s", [done.session["id"], mine])

    assert load(world, user_id, mine).session is None


@pytest.mark.parametrize("flip", ["update", "delete"])
def test_flips_during_the_call_save_no_attempt(world: SqlWorld, connection: psycopg.Connection, flip: str) -> None:
    """Who flips the status, or deletes and re-inserts the row, during the call used up an attempt and waits."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    if flip == "update":
        world.set_generation(generation_id, status="success")
    else:
        world.delete_generation(generation_id)

    with pytest.raises(AiRetryError):
        succeed(world, begun)
    if flip == "update":
        world.set_generation(generation_id, status="error")
    else:
        connection.execute(
            "insert into public.generations (id, user_id, status, prompt_data) values (%s, %s, 'error', %s)",
            [generation_id, user_id, Jsonb({"messages": [{"role": "user", "content": "x"}]})],
        )

    (attempt,) = load(world, user_id, generation_id).attempts
    assert attempt.counted
    assert attempt.next_attempt_at is not None
    assert (load(world, user_id, generation_id).stored_answer is not None) == (flip == "update")


def test_discarded_answer_does_not_come_back(world: SqlWorld) -> None:
    """A settle that is sent again after an operator dropped its answer stores nothing."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    abandon(world, begun)
    with pytest.raises(LeaseLost):
        succeed(world, begun)
    assert discard(world, user_id, generation_id)

    with pytest.raises(LeaseLost):
        succeed(world, begun)

    assert load(world, user_id, generation_id).stored_answer is None


APPS: dict[str, tuple[str, str]] = {
    "seam of another type": (
        AN_APP + "create function public.ai_retry_create_session(public.generations, jsonb) returns uuid"
        " language sql as 'select gen_random_uuid()';",
        "must return jsonb",
    ),
    "short error types": (AN_APP.replace("error_type text", "error_type varchar(12)"), "rehearsing"),
    "sequence without a grant": (
        AN_APP.replace("id bigint generated always as identity primary key,\n  user_id", "id bigserial, user_id"),
        "rehearsing",
    ),
    "ids that are not unique": (
        AN_APP.replace(
            "id uuid primary key default gen_random_uuid(),\n  user_id uuid not null references",
            "id uuid default gen_random_uuid(),\n  user_id uuid not null references",
        ).replace("generation_id uuid references public.generations (id) on delete cascade", "generation_id uuid"),
        "must be unique",
    ),
}


@pytest.mark.parametrize("name", APPS)
def test_app_that_would_fail_later_is_stopped_now(bare_database: str, name: str) -> None:
    """What would refuse a paid answer or a failure later is named at installation, and nothing is changed."""
    ddl, words = APPS[name]
    an_app_with_rows(bare_database, ddl)

    assert words in refusal_of(bare_database)


@pytest.mark.parametrize(
    "extra",
    [
        "alter table public.generations add constraint linked check ((status = 'success') = (session_id is not null))"
        " not valid;",
        "create unique index one_at_a_time on public.generations (user_id) where status = 'processing';",
        "alter table public.generations add column title text not null default 'x';",
        "create function public.audit() returns trigger language plpgsql as"
        " $$ begin perform 1 from events; return new; end $$;"
        "create trigger audit before update on public.generations for each row execute function public.audit();",
    ],
    ids=["success has a session", "one processing per user", "own column", "trigger without a search_path"],
)
def test_legal_app_is_installed(bare_database: str, extra: str) -> None:
    """Constraints that a real retry satisfies, and triggers that need the usual search_path, stop no installation."""
    an_app_with_rows(bare_database, AN_APP + extra)

    apply(bare_database)


def code_of(call: Callable[[], object]) -> str | None:
    """Call; return the error's code, None when there was none."""
    try:
        call()
    except AiRetryError as error:
        return error.code
    return None


def test_restarted_database_costs_one_read_at_most(migrated_database: str) -> None:
    """When the server cut all idle connections, the pool replaces them at once, not one by one."""
    storage = PostgresStorage(migrated_database, max_connections=8)
    rule = DEFAULT_POLICY.quota
    absent: Any = (uuid4(), UUID(int=0), rule, None)
    with connected(migrated_database) as owner:
        connections = [storage._pool.getconn() for _ in range(8)]
        for connection in connections:
            storage._pool.putconn(connection)
        owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )

        codes = [code_of(lambda: storage.load(*absent)) for _ in range(4)]
    storage.close()

    assert codes in ([None] * 4, ["STORAGE_UNAVAILABLE", None, None, None])
