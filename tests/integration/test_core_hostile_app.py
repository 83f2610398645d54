"""What an app's functions, triggers and locks can do to a retry: nothing stays open, and no paid answer is lost.

On a real PostgreSQL, over the storage of changes, in a database of its own for every test: each changes the schema.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from ai_retry.domain.change import CallRecord, CloseOver, Keep
from ai_retry.domain.errors import (
    GenerationFailed,
    GenerationNotFound,
    RetryInProgress,
    SessionRejected,
    StorageOutcomeUnknown,
)
from ai_retry.domain.model import Answer, ProviderOutcome
from ai_retry.domain.queue_model import QueueOutcome
from ai_retry.storage.functions import FunctionStorage
from tests.helpers.builders import a_failure
from tests.helpers.core_app import POLICY, App
from tests.helpers.world import owner_of
from tools.stack import Stack

SESSION = (
    "insert into public.sessions (user_id, content) values (p_generation.user_id, p_output) returning id into v_id;"
)
ROW = "return (select to_jsonb(s) from public.sessions s where s.id = v_id);"
FUNCTION = """
create or replace function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)
returns jsonb language plpgsql as $f$ declare v_id uuid; begin {} end $f$
"""
REJECTED = {
    "raises an internal error": "raise sqlstate 'XX000';",
    "is cancelled": "raise sqlstate '57014';",
    "fails an assertion": "assert false;",
    "returns no id": "return '{}';",
    "returns an array": "return '[1]';",
    "returns null": "return null;",
    "returns a number as its id": "return '{\"id\": 7}';",
    "deletes the generation": SESSION + "delete from public.generations where id = p_generation.id;" + ROW,
    "gives the generation away": SESSION
    + "update public.generations set user_id = (select id from auth.users where id <> user_id limit 1)"
    " where id = p_generation.id;" + ROW,
}
ACCEPTED = {
    "takes another role": SESSION + "set local role authenticated; return jsonb_build_object('id', v_id);",
    "takes another path": SESSION + "set local search_path = pg_temp;" + ROW,
    "defers and enforces constraints": SESSION + "set constraints all immediate; set constraints all deferred;" + ROW,
    "creates temporary tables of our names": "create temp table ai_retry_open (x int) on commit drop;" + SESSION + ROW,
}
UNDOING = {
    "status": "new.status := old.status; return new;",
    "session": "new.session_id := null; return new;",
    "write": "return null;",
}
TRIGGER = """
create function public.app_trigger() returns trigger language plpgsql as $f$ begin {} end $f$;
create {} on public.{} for each row {} execute function public.app_trigger();
"""
REFUSALS = {"a check": "23514", "an internal error": "XX000", "a cancellation": "57014", "an assertion": "P0004"}


@pytest.fixture
def app(stack: Stack) -> Iterator[App]:
    """A new user and generation, in a new database."""
    name = f"test_{uuid4().hex}"
    url = stack.create_database(name, migrated=True)
    with owner_of(url) as connection:
        app = App(url, connection)
        yield app
        app.close()
    stack.drop_database(name)


def execute(app: App, statements: str) -> None:
    """Run DDL that is put together here."""
    with psycopg.connect(app.url, autocommit=True) as connection:
        connection.execute(statements.encode())


def die() -> None:
    """End as a process does that is killed."""
    raise RuntimeError


def overlong(app: App, during: Callable[[], None] = die) -> None:
    """Let a process die during its call, and its lease run out."""
    with pytest.raises(RuntimeError):
        app.retry(during)
    app.world.advance(POLICY.lease)


@pytest.mark.rule("passing")
@pytest.mark.parametrize("body", REJECTED.values(), ids=REJECTED.keys())
def test_answer_survives_any_session_function(app: App, body: str) -> None:
    """Whatever it does, the answer is stored, the unit released, and a cured function gets the same answer."""
    app.world.new_user()
    execute(app, FUNCTION.format(body))
    for _ in range(2):
        with pytest.raises(SessionRejected):
            app.retry()
        app.functions.begin(CloseOver(user_id=app.user_id))
        assert (app.load().quota.held, app.load().quota.captured) == (0, 0)

    execute(app, FUNCTION.format(SESSION + ROW))
    result = app.retry(output="second")

    assert result.session["content"] == "first"
    assert [row["outcome"] for row in app.world.attempts(app.generation_id)] == ["failed", "failed", "succeeded"]


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_session_is_created_whatever_function_sets(app: App, body: str) -> None:
    """Settings of the app's function end with it."""
    execute(app, FUNCTION.format(body))

    assert app.retry().session["content"] == "first"


@pytest.mark.parametrize("body", UNDOING.values(), ids=UNDOING.keys())
def test_session_is_rejected_when_trigger_undoes_it(app: App, body: str) -> None:
    """A unit is captured only for a session that the generation shows."""
    body = f"if new.status = 'success' then {body} end if; return new;"
    execute(app, TRIGGER.format(body, "trigger undo before update", "generations", ""))

    with pytest.raises(SessionRejected) as caught:
        app.retry()

    assert caught.value.details["constraint"] == "session_not_linked"
    assert (app.load().quota.captured, app.world.sessions(app.user_id)) == (0, [])
    assert app.load().stored_answer is not None


def test_session_is_rejected_by_constraint_at_end(app: App) -> None:
    """A constraint that is checked when the transaction ends rejects the session, not the settle."""
    timing = "constraint trigger late after insert"
    deferred = "deferrable initially deferred"
    trigger = TRIGGER.format("raise check_violation;", timing, "sessions", "")
    execute(app, trigger.replace("for each row", f"{deferred} for each row"))

    with pytest.raises(SessionRejected):
        app.retry()

    assert [row["outcome"] for row in app.world.attempts(app.generation_id)] == ["failed"]


@pytest.mark.parametrize("sqlstate", REFUSALS.values(), ids=REFUSALS.keys())
def test_session_is_created_when_events_refuse(app: App, sqlstate: str) -> None:
    """An event that the app refuses, by any error, costs no session."""
    execute(app, TRIGGER.format(f"raise sqlstate '{sqlstate}';", "trigger no before insert", "events", ""))

    assert app.retry().session["content"] == "first"


@pytest.mark.parametrize("table", ["events", "generation_error_logs"])
@pytest.mark.parametrize("sqlstate", REFUSALS.values(), ids=REFUSALS.keys())
def test_dead_attempt_is_closed_when_reports_refuse(app: App, sqlstate: str, table: str) -> None:
    """A user is not locked out since the app refuses the report of an attempt whose process died."""
    execute(app, TRIGGER.format(f"raise sqlstate '{sqlstate}';", "trigger no before insert", table, ""))
    overlong(app)

    assert app.retry().attempt == 3


@pytest.mark.parametrize("sqlstate", REFUSALS.values(), ids=REFUSALS.keys())
def test_attempts_end_when_app_refuses_statuses(app: App, sqlstate: str) -> None:
    """Failed, rejected, abandoned or expired: an attempt is closed, and its answer stored, whatever the app accepts."""
    body = f"if new.status in ('error', 'timeout') then raise sqlstate '{sqlstate}'; end if; return new;"
    execute(app, TRIGGER.format(body, "trigger no before update", "generations", ""))

    with pytest.raises(GenerationFailed):
        app.retry(output=a_failure())
    app.world.advance(POLICY.left_behind)  # until its status is no call of the app
    overlong(app)
    app.functions.begin(CloseOver(user_id=app.user_id))
    app.world.advance(timedelta(minutes=1))
    app.world.refuse_sessions("km_is_positive")
    with pytest.raises(SessionRejected):
        app.retry()

    assert [row["code"] for row in app.world.attempts(app.generation_id)] == [
        "AI_UNAVAILABLE",
        "LEASE_LOST",
        "SESSION_REJECTED",
    ]
    assert app.load().stored_answer is not None
    assert app.load().quota.held == 0


@pytest.mark.rule("unreported")
def test_report_waits_while_events_are_locked(app: App) -> None:
    """The attempt is closed at once, and reported by a later begin."""
    overlong(app)
    with psycopg.connect(app.url) as holder:
        holder.execute("lock table public.events in access exclusive mode")
        app.functions.begin(CloseOver(user_id=app.user_id))
        assert [row["outcome"] for row in app.world.attempts(app.generation_id)] == ["abandoned"]
        assert app.functions.overdue(10) == [app.user_id]

    app.functions.begin(CloseOver(user_id=app.user_id))

    assert app.world.generation(app.generation_id)["status"] == "timeout"
    assert [log["error_type"] for log in app.world.error_logs(app.generation_id)] == ["LEASE_LOST"]
    assert app.functions.overdue(10) == []


def test_new_owner_begins_after_dead_attempt(app: App) -> None:
    """The app has moved a generation whose attempt is dead: its new owner waits for no click of the old one."""
    other = app.world.new_user()

    def move() -> None:
        app.world.set_generation(app.generation_id, user_id=other)
        die()

    overlong(app, move)

    assert app.retry(user_id=other).attempt == 3


@pytest.mark.rule("once")
def test_new_owner_is_refused_while_attempt_runs(app: App) -> None:
    """One attempt of a generation is open, whoever it belongs to."""
    other = app.world.new_user()

    def click() -> None:
        app.world.set_generation(app.generation_id, user_id=other)
        with pytest.raises(RetryInProgress):
            app.retry(user_id=other)
        app.world.set_generation(app.generation_id, user_id=app.user_id)

    assert app.retry(click).attempt == 2


def test_late_answer_is_kept_when_generations_are_locked(app: App) -> None:
    """The attempt is closed already, and the app holds its tables: the late answer has its place all the same."""
    holder = psycopg.connect(app.url)

    def outlive() -> None:
        app.world.advance(POLICY.lease)
        app.functions.begin(CloseOver(user_id=app.user_id))
        holder.execute("lock table public.generations in access exclusive mode")

    with holder, pytest.raises(SessionRejected):
        app.retry(outlive)

    stored = app.load().stored_answer
    assert stored is not None
    assert (stored.number, stored.answer.output) == (2, "first")


def test_kept_answer_is_kept_once(app: App) -> None:
    """A repeat of the last resort changes nothing, not even when the attempt may be closed."""

    def keep_twice() -> None:
        token = app.load().open_token
        assert token is not None
        for output in ("first", "repeat"):
            app.functions.keep(
                Keep(
                    user_id=app.user_id,
                    generation_id=app.generation_id,
                    token=token,
                    answer=Answer(output=output, model="small"),
                    cause="55P03",
                    wait=timedelta(seconds=15),
                    call=CallRecord(provider_outcome=ProviderOutcome.GENERATED, wire_requests=1),
                )
            )
        die()

    with pytest.raises(RuntimeError):
        app.retry(keep_twice)

    stored = app.load().stored_answer
    assert stored is not None
    assert stored.answer.output == "first"
    assert not app.load().attempts[-1].counted


DROPS = {
    "dropped": "select pgmq.drop_queue('ai_retry')",
    "without its extension": "drop extension if exists pgmq cascade; drop schema if exists pgmq cascade",
}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS.keys())
def test_accepted_retry_ends_when_queue_is_gone(app: App, drop: str) -> None:
    """A queue that is dropped during the call takes no session and no unit."""
    app.accept()

    assert app.work(lambda: execute(app, drop)) == [QueueOutcome.SUCCEEDED]

    app.functions.begin(CloseOver(user_id=app.user_id))
    assert app.functions.overdue(10) == []
    assert (app.load().quota.held, app.load().quota.captured) == (0, 1)


def test_new_queue_knows_no_message_of_a_dropped_one(app: App) -> None:
    """Ids of messages begin anew with a queue: no attempt is taken to have another one's message."""
    app.accept()
    first, app.user_id = app.user_id, app.world.new_user()
    app.generation_id = app.world.new_generation(app.user_id)
    app.accept()
    execute(app, DROPS["dropped"])
    execute(app, "select public.ai_retry_create_queue()")

    app.functions.begin(CloseOver(user_id=app.user_id))

    assert app.functions.overdue(10) == [first]


def test_accepted_retry_ends_while_queue_is_locked(app: App) -> None:
    """A lock on the table of messages delays no session; the message finds nothing to do later."""
    app.accept()
    with psycopg.connect(app.url) as holder:

        def hold() -> None:
            holder.execute("lock table pgmq.q_ai_retry in access exclusive mode")

        assert app.work(hold) == [QueueOutcome.SUCCEEDED]

    app.world.advance(timedelta(minutes=2))
    execute(app, "update pgmq.q_ai_retry set vt = now() - interval '1 s'")
    assert app.work() == [QueueOutcome.NOTHING]
    with psycopg.connect(app.url) as connection:
        assert connection.execute("select count(*) from pgmq.q_ai_retry").fetchone() == (0,)


def test_role_without_queue_finds_none(app: App) -> None:
    """A role that may not use the schema of the queue retries as if there were none."""
    with psycopg.connect(app.url) as connection:
        connection.execute("revoke usage on schema pgmq from public, service_role")
        connection.execute("set role service_role")
        assert connection.execute("select ai_retry.has_queue()").fetchone() == (False,)


def test_unreadable_generation_stops_no_worker(app: App) -> None:
    """One row that the binding, or Python, can't read: the others in the line are worked on."""
    app.accept()
    bad, app.generation_id = app.generation_id, app.world.new_generation(app.user_id)
    app.accept()
    app.world.set_generation(bad, created_at="infinity")

    assert app.work() == [QueueOutcome.SUCCEEDED]

    app.generation_id = app.world.new_generation(app.user_id)
    app.accept()
    app.world.set_generation(bad, created_at="2026-01-01")
    execute(
        app,
        "alter function ai_retry.app_read(uuid) rename to app_read_well; create function ai_retry.app_read(p uuid)"
        f" returns jsonb language plpgsql stable as $$ begin if p = '{bad}' then raise data_exception; end if;"
        " return ai_retry.app_read_well(p); end $$; update pgmq.q_ai_retry set vt = now() - interval '1 s'",
    )

    assert app.work() == [QueueOutcome.SUCCEEDED]


@pytest.mark.rule("override")
def test_override_of_any_length_is_read(app: App) -> None:
    """A window is at most ten years, so that no override makes a user's requests fail."""
    app.world.set_quota(app.user_id, 3, timedelta(days=999_999_999))

    assert app.load().quota.window == timedelta(seconds=315_576_000)
    assert app.retry().quota.limit == 3


@pytest.mark.parametrize("reply", [None, "<html>", [], {}, 7, {"message": "gone"}])
def test_reply_of_another_shape_is_lost(reply: object) -> None:
    """What a gateway answers in our place is a lost reply, whatever it is, and no other error."""
    functions = FunctionStorage(lambda _name, _arguments: reply)

    with pytest.raises(StorageOutcomeUnknown):
        functions.begin(CloseOver(user_id=uuid4()))


def test_settle_counts_after_lease_while_open(app: App) -> None:
    """A click whose process lives on after its lease, while no other user is active, still gets its session."""
    assert app.retry(lambda: app.world.advance(POLICY.lease)).attempt == 2


def test_answer_of_deleted_user_goes_with_them(app: App) -> None:
    """The generation was given away, and its user deleted, during the call: the settle ends, and keeps nothing."""
    other = app.world.new_user()

    def leave() -> None:
        app.world.set_generation(app.generation_id, user_id=other)
        app.world.delete_user(app.user_id)

    with pytest.raises(GenerationNotFound):
        app.retry(leave)

    snapshot = app.functions.load(other, app.generation_id, POLICY.quota, None)
    assert snapshot is not None
    assert (snapshot.attempts, snapshot.stored_answer) == ((), None)
