"""The world around a storage over SQL: the app, its owner, the queue and the passing of time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ai_retry.domain.ports import QueueStorage
from tests.helpers.attempts import ATTEMPTS
from tests.helpers.worlds import PROMPT_DATA, Row

INSTANTS: Final[Mapping[str, Sequence[str]]] = {
    "generations": ("created_at", "updated_at"),
    "ai_retry_open": (*("started_at", "lease_expires_at", "renewable_until", "due_at", "accepted_at", "expires_at"),),
    "ai_retry_attempts": (
        *("started_at", "lease_expires_at", "closed_at", "next_attempt_at", "captured_at"),
        *("accepted_at", "expires_at", "discarded_at"),
    ),
    "ai_retry_actions": ("at", "ended_at"),
    "ai_retry_quotas": ("set_at",),
}
_MOVE_ANSWERS = """
update public.ai_retry_answers a set stored_at = a.stored_at - %(by)s from public.ai_retry_attempts c
where (c.generation_id, c.number) = (a.generation_id, a.number) and c.user_id = any(%(users)s)
"""
_MOVE_WEBHOOK = """
with moved as (update public.ai_retry_installation set webhook_until = webhook_until - %(by)s)
update public.ai_retry_outbox set happened_at = happened_at - %(by)s, due_at = due_at - %(by)s
"""
_MOVE_OUTAGES = """
update public.ai_retry_outages set not_before = not_before - %(by)s, since = since - %(by)s,
  began_at = began_at - %(by)s, held_until = held_until - %(by)s
"""
_MOVE_MESSAGES = "update pgmq.q_ai_retry set vt = vt - %(by)s"
_MESSAGES = """
select msg_id as id, vt <= clock_timestamp() as ready, case
  when message ->> 'generation_id' ~ '^[0-9a-f-]{36}$' then (message ->> 'generation_id')::uuid end as generation_id
from pgmq.q_ai_retry order by msg_id
"""

# A sessions table refuses the sessions of some users, as an app's own constraint would.
REFUSALS = """
create schema if not exists refusals;
create table if not exists refusals.by_user (
  user_id uuid primary key, constraint_name text not null, code text not null default '23514');
grant usage on schema refusals to service_role;
grant select on refusals.by_user to service_role;
create or replace function refusals.refuse() returns trigger language plpgsql set search_path = '' as $$
declare
  v_refusal refusals.by_user%rowtype;
begin
  select * into v_refusal from refusals.by_user r where r.user_id = new.user_id;
  if found then
    raise exception 'refused' using
      errcode = v_refusal.code, constraint = v_refusal.constraint_name, detail = 'the row is secret';
  end if;
  return new;
end
$$;
create or replace trigger refuse before insert on public.sessions for each row execute function refusals.refuse();

-- And its generations table, those of some users, once they are inserted.
create table if not exists refusals.generations (
  user_id uuid primary key, code text not null, constraint_name text not null);
grant select on refusals.generations to service_role;
create or replace function refusals.refuse_generation() returns trigger
language plpgsql security definer set search_path = '' as $$  -- whoever inserts
declare
  v_refusal refusals.generations%rowtype;
begin
  select * into v_refusal from refusals.generations r where r.user_id = new.user_id;
  if found then
    raise exception 'refused' using
      errcode = v_refusal.code, constraint = v_refusal.constraint_name, detail = 'the row is secret';
  end if;
  return null;
end
$$;
create or replace trigger refuse after insert on public.generations for each row
execute function refusals.refuse_generation();
"""

# The binding knows of some users that no session could be created now.
FORESEEN = """
create table if not exists refusals.foreseen (user_id uuid primary key, reason text);
grant select on refusals.foreseen to service_role;
create or replace function ai_retry.app_may_create_session(p_user_id uuid, p_generation_id uuid)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return (select f.reason from refusals.foreseen f where f.user_id = p_user_id);
end
$$;
"""


@contextmanager
def owner_of(database_url: str) -> Iterator[psycopg.Connection]:
    """Connect as the owner of a database with our migrations, whose sessions table can refuse sessions."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute((REFUSALS + FORESEEN).encode())
        yield connection


def move_back(
    connection: psycopg.Connection, instants: Mapping[str, Sequence[str]], users: Sequence[UUID], by: timedelta
) -> None:
    """Move these columns of these tables of `public` back in time, in the rows of these users."""
    for table, columns in instants.items():
        assignments = [sql.SQL("{0} = {0} - %(by)s").format(sql.Identifier(column)) for column in columns]
        connection.execute(
            sql.SQL("update public.{} set {} where user_id = any(%(users)s)").format(
                sql.Identifier(table), sql.SQL(", ").join(assignments)
            ),
            {"by": by, "users": list(users)},
        )


def empty_queue(connection: psycopg.Connection) -> None:
    """Leave no message, outage, open attempt or webhook of earlier tests: a worker would take care of them."""
    for table in ("pgmq.q_ai_retry", "public.ai_retry_outages", "public.ai_retry_open", "public.ai_retry_outbox"):
        connection.execute(f"delete from {table}".encode())
    connection.execute("update public.ai_retry_installation set webhook_until = null")


class SqlWorld:
    """Implements ``tests.helpers.worlds.World`` for a storage on a database with our migrations.

    Users are new in every world, so that worlds share a database; its queue and outages are shared, and
    ``empty_queue`` removes those of earlier worlds.

    Attributes:
        storage: the storage under test.
    """

    def __init__(self, storage: QueueStorage, connection: psycopg.Connection) -> None:
        self.storage = storage
        self._connection = connection
        self._users: list[UUID] = []
        self._refusal: tuple[str, str] | None = None  # constraint and SQLSTATE

    def new_user(self) -> UUID:
        """Add a user as Auth does."""
        user_id = uuid4()
        self._connection.execute("insert into auth.users (id) values (%s)", [user_id])
        self._users.append(user_id)
        self._refuse(self._refusal)
        return user_id

    def new_generation(self, user_id: UUID, *, status: str = "error", age: timedelta = timedelta(0)) -> UUID:
        """Add a generation of the app."""
        row = self._rows(
            "insert into public.generations (user_id, status, model, prompt_data, created_at, updated_at)"
            " values (%s, %s, 'small', %s, clock_timestamp() - %s, clock_timestamp() - %s) returning id",
            user_id,
            status,
            Jsonb(PROMPT_DATA),
            age,
            age,
        )[0]
        return UUID(str(row["id"]))

    def generation(self, generation_id: UUID) -> Row:
        """Read the app's row."""
        return self._rows("select * from public.generations where id = %s", generation_id)[0]

    def set_generation(self, generation_id: UUID, **columns: Any) -> None:
        """Write columns and ``updated_at``, as an app would."""
        assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns]
        self._connection.execute(
            sql.SQL("update public.generations set updated_at = clock_timestamp(), {} where id = %s").format(
                sql.SQL(", ").join(assignments)
            ),
            [*columns.values(), generation_id],
        )

    def delete_generation(self, generation_id: UUID) -> None:
        """Delete the app's row."""
        self._connection.execute("delete from public.generations where id = %s", [generation_id])

    def delete_user(self, user_id: UUID) -> None:
        """Delete the user; the rest goes by foreign keys."""
        self._connection.execute("delete from auth.users where id = %s", [user_id])

    def set_quota(self, user_id: UUID, limit: int, window: timedelta) -> None:
        """Override the user's quota."""
        self._connection.execute(
            "insert into public.ai_retry_quotas values (%s, %s, %s) on conflict (user_id) do update"
            " set quota_limit = excluded.quota_limit, window_seconds = excluded.window_seconds",
            [user_id, limit, window.total_seconds()],
        )

    def refuse_sessions(self, constraint: str | None, *, conflict: bool = False) -> None:
        """Make the table of sessions refuse those of this world's users."""
        self._refuse((constraint, "23505" if conflict else "23514") if constraint is not None else None)

    def refuse_generations(self, sqlstate: str | None, constraint: str = "") -> None:
        """Make the table of generations refuse those of the users that this world has now."""
        self._connection.execute("delete from refusals.generations where user_id = any(%s)", [self._users])
        if sqlstate is not None:
            self._connection.execute(
                "insert into refusals.generations select u, %s, %s from unnest(%s::uuid[]) u",
                [sqlstate, constraint, self._users],
            )

    def foresee_conflict(self, user_id: UUID, reason: str | None) -> None:
        """Write it where the app's own check looks."""
        self._connection.execute(
            "insert into refusals.foreseen values (%s, %s)"
            " on conflict (user_id) do update set reason = excluded.reason",
            [user_id, reason],
        )

    def _refuse(self, refusal: tuple[str, str] | None) -> None:
        if refusal == self._refusal is None:
            return
        self._refusal = refusal
        self._connection.execute("delete from refusals.by_user where user_id = any(%s)", [self._users])
        if refusal is not None:
            self._connection.execute(
                "insert into refusals.by_user select u, %s, %s from unnest(%s::uuid[]) u", [*refusal, self._users]
            )

    def advance(self, duration: timedelta) -> None:
        """Move every stored instant of this world's users back; and of all messages and outages."""
        moved = {"by": duration, "users": self._users}
        move_back(self._connection, INSTANTS, self._users, duration)
        self._connection.execute(_MOVE_ANSWERS, moved)
        self._connection.execute(_MOVE_OUTAGES, moved)
        self._connection.execute(_MOVE_WEBHOOK, moved)
        if self._rows("select to_regclass('pgmq.q_ai_retry') is not null as it_is")[0]["it_is"]:
            self._connection.execute(_MOVE_MESSAGES, moved)

    def attempts(self, generation_id: UUID) -> Sequence[Row]:
        """Rows of our attempts, closed and open, by number."""
        return self._rows(f"select * from {ATTEMPTS} a where a.generation_id = %s order by a.number", generation_id)

    def sessions(self, user_id: UUID) -> Sequence[Row]:
        """Rows of the user's sessions."""
        return self._rows("select * from public.sessions where user_id = %s", user_id)

    def events(self, user_id: UUID) -> Sequence[Row]:
        """Rows of the user's events, oldest first."""
        return self._rows("select * from public.events where user_id = %s order by created_at", user_id)

    def error_logs(self, generation_id: UUID) -> Sequence[Row]:
        """Rows of the generation's error log, oldest first."""
        return self._rows(
            "select * from public.generation_error_logs where generation_id = %s order by created_at", generation_id
        )

    def messages(self) -> Sequence[Row]:
        """Rows of the queue; a payload that names no generation has none."""
        return self._rows(_MESSAGES)

    def send_message(self, payload: Any) -> None:
        """Send it as anything with the queue's privileges could."""
        self._connection.execute("select pgmq.send('ai_retry', %s::jsonb)", [Jsonb(payload)])

    def forget_attempts(self) -> None:
        """Delete every closed attempt, of whatever world: what is counted over all users begins anew."""
        self._connection.execute("delete from public.ai_retry_attempts")

    def lose_messages(self) -> None:
        """Empty the table."""
        self._connection.execute("delete from pgmq.q_ai_retry")

    def _rows(self, statement: str, *arguments: Any) -> list[Row]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return list(cursor.execute(statement.encode(), arguments).fetchall())
