"""No paid answer depends on the app's tables: whatever the app has locked while we settle, the answer has a place.

On a real PostgreSQL, over the storage of changes. The repeats that a client makes are left out here, so that a lock of
the app is a failure at once.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from ai_retry.domain.change import CloseOver
from ai_retry.domain.errors import AlreadySucceeded, GenerationNotFound, LeaseLost, RetryInProgress, SessionRejected
from ai_retry.storage.spool import Spool
from tests.helpers.core_app import POLICY, App
from tests.helpers.world import owner_of

LOCKS = {
    "the generation's row": "select from public.generations where id = %(generation)s for update",
    "the generations' table": "lock table public.generations in access exclusive mode",
    "the sessions' table": "lock table public.sessions in access exclusive mode",
    "the user's row": "select from auth.users where id = %(user)s for update",
    "the users' table": "lock table auth.users in access exclusive mode",
    "the user's advisory lock": "select pg_advisory_xact_lock(hashtextextended('ai_retry:' || %(user)s, 0))",
}


@pytest.fixture
def app(core_database: str) -> Iterator[App]:
    """A new user and generation."""
    with owner_of(core_database) as connection:
        app = App(core_database, connection)
        yield app
        app.close()


@pytest.fixture(params=["a spool", "no spool"])
def locked_app(request: pytest.FixtureRequest, core_database: str, tmp_path: Path) -> Iterator[App]:
    """The same, with a spool and without; nothing stays on disk."""
    spool = Spool(tmp_path / "spool") if request.param == "a spool" else None
    with owner_of(core_database) as connection:
        app = App(core_database, connection, spool)
        yield app
        app.close()
    assert spool is None or spool.names() == []


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS.keys())
def test_answer_is_kept_whatever_is_locked(locked_app: App, lock: str) -> None:
    """The settle fails, the answer stays, and the next retry makes the session of it without a call."""
    app = locked_app
    with psycopg.connect(app.url) as holder:

        def hold() -> None:
            holder.execute(lock.encode(), {"generation": app.generation_id, "user": str(app.user_id)})

        with pytest.raises(SessionRejected):
            app.retry(hold)

    result = app.retry(output="second")

    assert result.session["content"] == "first"
    assert [row["outcome"] for row in app.world.attempts(app.generation_id)] == ["failed", "succeeded"]
    assert (result.quota.captured, len(app.world.sessions(app.user_id))) == (1, 1)


def test_kept_answer_is_reported_by_whoever_closes_the_attempt(app: App) -> None:
    """The app learns of the rejection when its row is free again, and the unit is released."""
    with psycopg.connect(app.url) as holder:

        def hold() -> None:
            holder.execute("select from public.generations where id = %s for update", [app.generation_id])

        with pytest.raises(SessionRejected):
            app.retry(hold)
        app.functions.begin(CloseOver(user_id=app.user_id))  # the app holds its row still
        assert app.world.generation(app.generation_id)["status"] == "processing"

    app.functions.begin(CloseOver(user_id=app.user_id))

    assert app.world.generation(app.generation_id)["status"] == "error"
    assert [log["error_type"] for log in app.world.error_logs(app.generation_id)] == ["SESSION_REJECTED"]
    snapshot = app.functions.load(app.user_id, app.generation_id, POLICY.quota, None)
    assert snapshot is not None
    assert (snapshot.quota.held, snapshot.stored_answer is not None) == (0, True)


def test_answer_of_a_moved_generation_is_stored(app: App) -> None:
    """The generation is another user's when the answer comes: nothing is charged, and the answer is its payer's."""
    other = app.world.new_user()

    with pytest.raises(GenerationNotFound):
        app.retry(lambda: app.world.set_generation(app.generation_id, user_id=other))

    assert app.load().stored_answer is None
    assert app.world.sessions(app.user_id) == app.world.sessions(other) == []
    app.world.set_generation(app.generation_id, user_id=app.user_id)
    assert app.retry(output="second").session["content"] == "first"


def test_answer_whose_begin_a_fail_over_lost_is_stored(app: App) -> None:
    """The attempt is unknown to the database that answers now: its answer is filed as a late one."""

    def fail_over() -> None:
        with psycopg.connect(app.url) as connection:
            connection.execute("delete from public.ai_retry_open where generation_id = %s", [app.generation_id])
            connection.execute("update public.generations set status = 'error' where id = %s", [app.generation_id])

    with pytest.raises(LeaseLost) as caught:
        app.retry(fail_over)

    assert caught.value.details["answer_kept"]
    assert app.retry(output="second").session["content"] == "first"


def test_late_answer_beside_a_success_is_recorded(app: App) -> None:
    """Another process has made the session meanwhile: the answer is not needed, and what it cost is known, once."""

    def outlive() -> None:
        app.world.advance(POLICY.lease)
        app.retry(output="other")

    with pytest.raises(AlreadySucceeded):
        app.retry(outlive)

    late, success = app.world.attempts(app.generation_id)
    assert (late["outcome"], late["provider_outcome"], late["wire_requests"]) == ("abandoned", "generated", 1)
    assert (success["outcome"], app.load().stored_answer) == ("succeeded", None)


@pytest.mark.rule("once")
def test_session_of_another_generation_is_rejected(app: App) -> None:
    """A session function that returns one session for two generations is not paid twice."""
    with psycopg.connect(app.url, autocommit=True) as connection:
        connection.execute(
            "create or replace function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)"
            " returns jsonb language sql set search_path = '' as $$"
            " insert into public.sessions as s (id, user_id, content) values"
            " (md5(p_generation.user_id::text)::uuid, p_generation.user_id, p_output)"
            " on conflict (id) do update set content = excluded.content returning to_jsonb(s) $$"
        )
    app.retry()
    first, app.generation_id = app.generation_id, app.world.new_generation(app.user_id)

    with pytest.raises(SessionRejected) as caught:
        app.retry()

    assert caught.value.details["constraint"] == "session_reused"
    assert app.world.generation(first)["session_id"] is not None
    snapshot = app.functions.load(app.user_id, app.generation_id, POLICY.quota, None)
    assert snapshot is not None
    assert snapshot.quota.captured == 1


def test_event_that_the_app_refuses_is_not_fatal(app: App) -> None:
    """A paid session is not lost because a table of events has no partition for today."""
    with psycopg.connect(app.url, autocommit=True) as connection:
        connection.execute("alter table public.events add constraint none_today check (false) not valid")
    try:
        assert app.retry().attempt == 2
    finally:
        with psycopg.connect(app.url, autocommit=True) as connection:
            connection.execute("alter table public.events drop constraint none_today")


def test_begin_closes_what_is_over_before_it_admits(app: App) -> None:
    """Limit 1: a click outlives its lease, another one is admitted, and the late answer is stored, not charged."""
    app.world.set_quota(app.user_id, 1, timedelta(hours=24))
    first, other = app.generation_id, app.world.new_generation(app.user_id)

    def outlive() -> None:
        app.world.advance(POLICY.lease)
        app.generation_id = other
        app.retry(output="other")
        app.generation_id = first

    with pytest.raises((LeaseLost, RetryInProgress)):
        app.retry(outlive)

    snapshot = app.functions.load(app.user_id, first, POLICY.quota, None)
    assert snapshot is not None
    assert (snapshot.quota.captured, snapshot.quota.held) == (1, 0)
    assert snapshot.stored_answer is not None


def test_unknown_key_of_a_change_is_refused(app: App) -> None:
    """A change that the database's version does not know is refused before any lock."""
    with psycopg.connect(app.url) as connection, pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute("select public.ai_retry_begin(%s)", ['{"protocol": 2, "user_id": null, "surprise": 1}'])
    with psycopg.connect(app.url) as connection, pytest.raises(psycopg.errors.InvalidParameterValue):
        connection.execute("select public.ai_retry_begin(%s)", ['{"protocol": 3}'])
