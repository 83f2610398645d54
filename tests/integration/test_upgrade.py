"""A database of an older version, with data in every state, is upgraded: nothing is lost, and everything works on.

Every state of the shipped migrations but the last is an older version; a new migration joins by being there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from ai_retry import _shipped, retry_generation
from ai_retry.clock import SystemClock
from ai_retry.doctor import examine
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Answer, Claim
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.ai import ScriptedAiProvider
from tests.support.books import violations
from tests.support.migrations import apply_migrations

OLDER = _shipped.migrations()[:-1]
SUCCESS, STORED = "success", "success, without a call"
MINUTE = timedelta(minutes=1)
PAID = {"output": {"title": "Paid"}, "model": "small", "usage": None, "provider_id": "gen-1"}
# What the first version's package calls; an app of that version goes on while its database is upgraded.
CALLED_FROM_OUTSIDE = (
    "ai_retry_load",
    "ai_retry_claim",
    "ai_retry_succeed",
    "ai_retry_fail",
    "ai_retry_discard_answer",
    "ai_retry_reap",
)


@dataclass(frozen=True)
class State:
    """One state of a generation, as the first version writes it, and what a retry answers after the upgrade."""

    status: str | None  # None: the app has deleted the generation
    attempts: Sequence[Mapping[str, Any]]  # instants as timedelta from now
    answer: str
    limit: int | None = None  # the user's own quota


def closed(outcome: str, **columns: Any) -> Mapping[str, Any]:
    """An attempt with its outcome."""
    return {"state": "closed", "outcome": outcome, "closed_at": -MINUTE, "next_attempt_at": -MINUTE, **columns}


FAILED = closed("failed", code="AI_UNAVAILABLE", counted=True, provider_outcome="generated")
SUCCEEDED = closed("succeeded", captured_at=-MINUTE, next_attempt_at=None, session_id="made")
RUNNING = {"state": "running", "lease_expires_at": 60 * MINUTE, "next_attempt_at": 61 * MINUTE}

STATES: Mapping[str, State] = {
    "failed": State("error", [], SUCCESS),
    "timed out": State("timeout", [], SUCCESS),
    "the app's own call under way": State("processing", [], "RETRY_IN_PROGRESS"),
    "the app's own success": State("success", [], "ALREADY_SUCCEEDED"),
    "running": State("processing", [RUNNING], "RETRY_IN_PROGRESS"),
    "its worker died": State(
        "processing", [{**RUNNING, "lease_expires_at": -MINUTE, "next_attempt_at": -MINUTE}], SUCCESS
    ),
    "failed again": State("error", [FAILED], SUCCESS),
    "must wait": State("error", [{**FAILED, "next_attempt_at": 60 * MINUTE}], "RETRY_TOO_SOON"),
    "abandoned": State("timeout", [closed("abandoned", code="LEASE_LOST")], SUCCESS),
    "cancelled": State("error", [closed("cancelled", counted=False)], SUCCESS),
    "succeeded": State("success", [FAILED, SUCCEEDED], "ALREADY_SUCCEEDED"),
    "given for free": State(
        "success", [{**SUCCEEDED, "charge": False, "captured_at": None, "operator": "ada"}], "ALREADY_SUCCEEDED"
    ),
    "flipped back after its success": State("error", [SUCCEEDED], "ALREADY_SUCCEEDED"),
    "with a paid answer": State(
        "error", [closed("failed", code="SESSION_REJECTED", counted=False, stored_answer=PAID)], STORED
    ),
    "with a discarded answer": State(
        "error", [closed("failed", code="SESSION_REJECTED", counted=False, discarded_at=-MINUTE, discarded_by="ada")],
        SUCCESS,
    ),
    "used up": State("error", [FAILED, FAILED, FAILED], "RETRY_LIMIT_REACHED"),
    "without quota": State("error", [], "QUOTA_EXHAUSTED", limit=0),
    "deleted by the app": State(None, [FAILED], "GENERATION_NOT_FOUND"),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A generation in one of the states."""

    user_id: UUID
    generation_id: UUID
    tokens: Sequence[UUID]


def make(connection: psycopg.Connection, state: State) -> Made:
    """Write a state with the columns of the first version."""
    made = Made(uuid4(), uuid4(), [uuid4() for _ in state.attempts])
    connection.execute("insert into auth.users (id) values (%s)", [made.user_id])
    session_id = uuid4()
    if state.status == "success" or any(each.get("session_id") for each in state.attempts):
        connection.execute(
            "insert into public.sessions (id, user_id, content) values (%s, %s, '{}')", [session_id, made.user_id]
        )
    if state.status is not None:
        connection.execute(
            "insert into public.generations (id, user_id, status, model, prompt_data, session_id, created_at,"
            " updated_at) values (%s, %s, %s, 'small', %s, %s, clock_timestamp() - interval '1 hour',"
            " clock_timestamp() - %s)",
            [
                made.generation_id,
                made.user_id,
                state.status,
                Jsonb({"messages": [{"role": "user", "content": "plan"}]}),
                session_id if state.status == "success" else None,
                2 * MINUTE if state.attempts else timedelta(0),
            ],
        )
    if state.limit is not None:
        connection.execute(
            "insert into public.ai_retry_quotas (user_id, quota_limit) values (%s, %s)", [made.user_id, state.limit]
        )
    for place, (token, attempt) in enumerate(zip(made.tokens, state.attempts, strict=True)):
        row = {
            "user_id": made.user_id,
            "generation_id": made.generation_id,
            "number": place + 2,
            "token": token,
            "started_at": -2 * MINUTE,
            **attempt,
        }
        if row.get("session_id"):
            row["session_id"] = session_id
        insert(connection, row)
    return made


def insert(connection: psycopg.Connection, row: Mapping[str, Any]) -> None:
    """Insert an attempt; a duration is an instant, that far from now."""
    connection.execute(
        sql.SQL("insert into public.ai_retry_attempts ({}) values ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(
                sql.SQL("clock_timestamp() + %s") if isinstance(value, timedelta) else sql.SQL("%s")
                for value in row.values()
            ),
        ),
        [Jsonb(value) if isinstance(value, dict) else value for value in row.values()],
    )


def rows_of(connection: psycopg.Connection) -> dict[str, list[dict[str, Any]]]:
    """Every row of the tables in public, in a fixed order."""
    tables = connection.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
    ).fetchall()
    return {
        name: [
            row
            for (row,) in connection.execute(
                sql.SQL("select to_jsonb(t) from public.{} t order by to_jsonb(t) ->> 'token', to_jsonb(t) ->> 'id',"
                        " to_jsonb(t) ->> 'user_id'").format(sql.Identifier(name))
            )
        ]
        for (name,) in tables
    }  # fmt: skip


def signatures(connection: psycopg.Connection) -> dict[str, list[tuple[list[str], int]]]:
    """The names of the arguments of our functions, and how many of them must be given."""
    found: dict[str, list[tuple[list[str], int]]] = {}
    for name, arguments, needed in connection.execute(
        "select proname, coalesce(proargnames[1:pronargs], '{}'), pronargs - pronargdefaults from pg_proc"
        " where pronamespace = 'public'::regnamespace and proname like 'ai\\_retry\\_%'"
    ):
        found.setdefault(name, []).append((arguments, needed))
    return found


@pytest.fixture(params=range(1, len(OLDER) + 1), ids=lambda count: OLDER[count - 1].stem)
def older(request: pytest.FixtureRequest, bare_database: str, tmp_path: Path) -> str:
    """A database in the state of each older version."""
    for path in OLDER[: request.param]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    apply_migrations(bare_database, tmp_path)
    return bare_database


def upgrade(database_url: str) -> None:
    """Apply what was not applied yet, as `supabase db push` does."""
    assert apply_migrations(database_url, OLDER[0].parent) != []


def retried(storage: PostgresStorage, made: Made) -> str:
    """Retry, and say what came of it: success, with or without a call, or the code of the refusal."""
    ai = ScriptedAiProvider(default=Answer(output={"title": "Intervals"}, model="small"))
    try:
        result = retry_generation(made.user_id, made.generation_id, storage=storage, ai=ai, clock=SystemClock())
    except AiRetryError as error:
        return error.code
    assert result.session["content"] == ({"title": "Intervals"} if ai.calls else PAID["output"])
    return SUCCESS if ai.calls else STORED


def test_upgrade_loses_nothing_and_all_goes_on(older: str) -> None:
    """Every row keeps every column's value; then each generation is retried, or refused, as its state demands."""
    with psycopg.connect(older, autocommit=True) as connection:
        made = {name: make(connection, state) for name, state in STATES.items()}
        before = rows_of(connection)

        upgrade(older)

        after = rows_of(connection)
        for table, rows in before.items():
            assert len(after[table]) == len(rows)
            for old, new in zip(rows, after[table], strict=True):
                assert {column: new[column] for column in old} == old
        storage = PostgresStorage(older, max_connections=2)
        assert {name: retried(storage, each) for name, each in made.items()} == {
            name: state.answer for name, state in STATES.items()
        }
        storage.close()
        found = {(said, generation_id) for said, generation_id in violations(connection)}
        flipped = made["flipped back after its success"].generation_id
        assert found == {("a success whose generation says otherwise", flipped)}


def test_work_in_progress_is_settled_after_the_upgrade(older: str) -> None:
    """Who claimed before the upgrade settles after it, by the same token, once."""
    with psycopg.connect(older, autocommit=True) as connection:
        made = make(connection, STATES["running"])
        upgrade(older)
        storage = PostgresStorage(older, max_connections=2)
        lease = connection.execute("select clock_timestamp() + interval '1 hour'").fetchone()
        assert lease is not None
        claim = Claim(
            user_id=made.user_id,
            generation_id=made.generation_id,
            number=2,
            token=made.tokens[0],
            lease_expires_at=lease[0],
        )
        settled = [
            storage.succeed(
                claim,
                Answer(output={"title": "Late"}),
                answer_from=None,
                duration=None,
                quota_rule=DEFAULT_POLICY.quota,
                rejected_wait=MINUTE,
                rejected_again_wait=MINUTE,
            )
            for _ in range(2)
        ]
        storage.close()

        assert {each.session["content"]["title"] for each in settled} == {"Late"}
        assert {each.quota.captured for each in settled} == {1}
        assert violations(connection) == []


def test_app_of_the_older_version_goes_on(older: str) -> None:
    """Whatever the older version's package calls can still be called with the arguments that it gives."""
    with psycopg.connect(older) as connection:
        before = signatures(connection)

    upgrade(older)

    with psycopg.connect(older) as connection:
        after = signatures(connection)
    for name in CALLED_FROM_OUTSIDE:
        (given, _) = before[name][0]
        fitting = [each for each, needed in after[name] if set(given) <= set(each) and set(each[:needed]) <= set(given)]
        assert len(fitting) == 1, f"{name}({', '.join(given)})"


def test_upgraded_database_is_as_a_new_one(older: str) -> None:
    """The doctor finds no problem after the upgrade: every object is as shipped."""
    upgrade(older)

    environ = {"DATABASE_URL": f"{older}?options=-c%20role%3Dservice_role", "AI_BASE_URL": "http://127.0.0.1:9/v1"}
    examination = examine(environ, clock=SystemClock())

    assert [str(each.check) for each in examination.problems] == ["provider"]
