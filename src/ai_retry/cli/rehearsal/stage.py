"""Writes what ai-retry writes for a generation, and undoes it.

The generation fails, is accepted, expires, is claimed beside another one of its user, then twice, is retried and
succeeds. Each write is tried by itself, so that one that is refused hides no other.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from ai_retry.cli.rehearsal.claims import ClaimFailed, claim_for_two, claim_twice
from ai_retry.cli.rehearsal.model import Refusal, Rehearsal, of_error
from ai_retry.cli.rehearsal.second import FirstCall, second_generation

SERVICE_ROLE: Final = "service_role"

_FAILURES = ("error", "timeout")
_FAILED = "The AI provider's answer does not have the form asked for."
_CANDIDATES = """
select r.document ->> 'user_id', r.document ->> 'id'
from (
  select ai_retry.app_read(f.id) as document
  from ai_retry.app_find(null, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', null, 200) f
  where f.status in ('error', 'timeout')
    and not exists (select from ai_retry.attempts a
      where a.generation_id = f.id and (a.is_open or a.attempt ->> 'outcome' = 'succeeded'))
  limit 20
) r
where not (r.document -> 'hidden')::boolean
order by exists (
  select from ai_retry.app_find(
    null, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff', (r.document ->> 'user_id')::uuid, 50) o
  where o.status in ('queued', 'processing'))
limit 1
"""
_NEW = """
with owner as (insert into auth.users (id) values (gen_random_uuid()) returning id)
insert into {} (user_id, status) select id, 'error' from owner returning user_id, id
"""
_MAY_SET = """
select pg_catalog.pg_has_role(current_user, r.oid, case
  when current_setting('server_version_num')::integer < 160000 then 'member' else 'set' end)
from pg_catalog.pg_roles r where r.rolname = %s
"""
_OURS = """
select coalesce(pg_catalog.obj_description(
  pg_catalog.to_regprocedure(ai_retry.app_describe() ->> 'session_function'), 'pg_proc'
) like 'Created by ai-retry%', false)
"""


def rehearse(
    connection: "psycopg.Connection[Any]",
    *,
    output: Any = None,
    first_call: FirstCall | None = None,
    role: str = SERVICE_ROLE,
) -> Rehearsal:
    """Write what ai-retry writes, and roll all of it back.

    Args:
        connection: to a database that has both migrations; in a transaction, that one stays open and as it was.
        output: an example of what the provider answers. None: a session is rehearsed only with the session function
            that ai-retry created.
        first_call: inserts a new generation as the app does, for a user or, for None, for one that it chooses, and
            returns its id. None: a failed generation that is there is used.
        role: whose grants apply, where the connection may take it on.

    Raises:
        psycopg.OperationalError: the connection was lost.
    """
    with connection.transaction(force_rollback=True):
        connection.execute("set local lock_timeout = '5s'")
        connection.execute("set local statement_timeout = '30s'")
        stage = _Stage(connection)
        chosen = stage.generation(first_call)
        if chosen is None:
            return stage.result()
        own = _first(connection, "select pg_catalog.current_setting('role')")
        if _first(connection, _MAY_SET, role) is True:
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        stage.play(chosen, output, partial(second_generation, connection, chosen.user_id, chosen.id, first_call, own))
        return stage.result()


@dataclass(frozen=True, slots=True)
class _Chosen:
    user_id: UUID
    id: UUID


class _Stage:
    """What was written, what was refused and what was not tried."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection
        self._ran: list[str] = []
        self._refusals: list[Refusal] = []
        self._not_run: list[str] = []
        self._notes: list[str] = []

    def result(self) -> Rehearsal:
        return Rehearsal(tuple(self._ran), tuple(self._refusals), tuple(self._not_run), tuple(self._notes))

    def generation(self, first_call: FirstCall | None) -> _Chosen | None:
        """Choose what is rehearsed with: a new one, one that failed, or one that is inserted by the seed's columns."""
        if first_call is not None:
            made: list[UUID] = []
            with self._step("first call", "ai_retry.app_create_generation"):
                made.append(first_call(self._connection, None))
            if made:
                row = _first(self._connection, "select ai_retry.app_read(%s)", made[0])
                if isinstance(row, Mapping):
                    return _Chosen(UUID(row["user_id"]), UUID(row["id"]))
        try:
            with self._connection.transaction():
                found = self._connection.execute(_CANDIDATES.encode()).fetchone()
            if found is not None:
                return _Chosen(UUID(found[0]), UUID(found[1]))
            with self._connection.transaction():
                table = _first(self._connection, "select (ai_retry.app_describe() ->> 'generations')::regclass::text")
                new = self._connection.execute(_NEW.format(table).encode()).fetchone()
                return None if new is None else _Chosen(*new)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            self._not_run.append(
                "nothing was rehearsed: no failed generation is there, and none could be inserted "
                f"({error.sqlstate or 'the connection was lost'})"
            )
            return None

    def play(self, chosen: _Chosen, output: Any, another: Callable[[], UUID | str]) -> None:
        """Go through an attempt's ways to end."""
        self._write("begin", chosen, "processing")
        self._write("fail", chosen, "error", duration_ms=1)
        self._report("fail", chosen, "ai_generation_failed", "AI_INVALID_OUTPUT", _FAILED)
        self._write("accept", chosen, "queued")
        self._write("expire", chosen, "timeout")
        self._two_at_once(chosen, another)
        with self._step("claim twice", "public.ai_retry_begin"):
            claim_twice(self._connection, chosen.user_id, chosen.id)
        self._write("retry", chosen, "processing")
        self._succeed(chosen, output)
        self._report("succeed", chosen, "ai_generation_succeeded", None, None)

    def _two_at_once(self, chosen: _Chosen, another: Callable[[], UUID | str]) -> None:
        """Claim two generations of one user; that the app lets no two run at once is no fault."""
        with self._undone():
            other = another()
            if isinstance(other, str):
                self._notes.append(
                    "two retries of one user at once were not tried: the user has no other failed generation, and none "
                    f"could be inserted ({other})"
                )
                return
            with self._step("two at once", "public.ai_retry_begin"):
                refused_by = claim_for_two(self._connection, chosen.user_id, chosen.id, other)
                if refused_by is not None:
                    self._notes.append(
                        f"the constraint {refused_by} lets one retry of a user run at once: a second one waits, with "
                        "429 TOO_MANY_PARALLEL"
                    )

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Undo what is written meanwhile, such as the second generation."""
        with self._connection.transaction(force_rollback=True):
            yield

    def _succeed(self, chosen: _Chosen, output: Any) -> None:
        if output is None and _first(self._connection, _OURS) is True:
            output = {}
        if output is None:
            self._not_run.append(
                "no session was rehearsed: your tables may refuse an output that no provider gave; "
                "give an answer of your provider with --example-output FILE"
            )
            return
        session_id: list[str] = []
        with self._step("succeed", "ai_retry.app_create_session"):
            row = _first(
                self._connection,
                "select ai_retry.app_create_session(%s, %s, %s, '{\"number\": 2}')",
                *(chosen.user_id, chosen.id, Jsonb(output)),
            )
            if not isinstance(row, Mapping) or row.get("id") is None:
                raise _Undone("it returns no row with an id")
            session_id.append(str(row["id"]))
        if session_id:
            self._write("succeed", chosen, "success", session_id=session_id[0], duration_ms=1)

    def _write(
        self, step: str, chosen: _Chosen, status: str, *, session_id: str | None = None, duration_ms: int | None = None
    ) -> None:
        with self._step(step, "ai_retry.app_lock"):
            if _first(self._connection, "select ai_retry.app_lock(%s, '5s')", chosen.id) is None:
                raise _Undone("it returns nothing: the role has to bypass row level security")
        with self._step(step, "ai_retry.app_write"):
            self._connection.execute(
                "select ai_retry.app_write(%s, %s, %s, %s, clock_timestamp())",
                [chosen.id, status, session_id, duration_ms],
            )
            self._connection.execute("set constraints all immediate")
            row = _first(self._connection, "select ai_retry.app_read(%s)", chosen.id)
            if not _says(row, status, session_id):
                raise _Undone(f"the generation does not say {status} afterwards: a trigger undoes it")

    def _report(self, step: str, chosen: _Chosen, event: str, code: str | None, message: str | None) -> None:
        with self._step(step, "ai_retry.app_report"):
            self._connection.execute(
                "select ai_retry.app_report(%s, %s, %s, %s, %s, 2, clock_timestamp())",
                [chosen.user_id, chosen.id, event, code, message],
            )
            self._connection.execute("set constraints all immediate")

    @contextmanager
    def _step(self, step: str, function: str) -> Iterator[None]:
        """Try one write; what is refused is undone, and noted."""
        try:
            with self._connection.transaction():
                self._connection.execute("set constraints all deferred")
                yield
        except psycopg.OperationalError as error:
            if error.sqlstate is None:
                raise
            self._refusals.append(of_error(step, function, error))
        except psycopg.Error as error:
            self._refusals.append(of_error(step, function, error))
        except (_Undone, ClaimFailed) as undone:
            self._refusals.append(Refusal(step=step, function=function, reason=str(undone)))
        else:
            self._ran.append(f"{step}: {function}")


def _says(row: Any, status: str, session_id: str | None) -> bool:
    """Whether the row says it; an app may have one word for both failures, and none for a retry that runs."""
    if not isinstance(row, Mapping):
        return False
    if status == "success":
        return (row["status"], row["session_id"]) == (status, session_id)
    return status not in _FAILURES or row["status"] in _FAILURES


class _Undone(Exception):
    """A write was not refused, and is not there."""


def _first(connection: "psycopg.Connection[Any]", query: str, *values: object) -> Any:
    row = connection.execute(query.encode(), values or None).fetchone()
    return None if row is None else row[0]
