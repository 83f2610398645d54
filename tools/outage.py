"""A night after which generations have failed: rows by the thousand, and a client to recover them with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.client import Client
from ai_retry.domain.ports import AiProvider
from ai_retry.storage.postgres import PostgresStorage
from tests.helpers.attempts import ATTEMPTS

PROMPT_DATA = {"messages": [{"role": "user", "content": "a prompt that no log may hold"}]}

_FAIL = """
with users as (
  insert into auth.users (id) select gen_random_uuid() from generate_series(1, %(users)s) returning id
), numbered as (
  select id, row_number() over () - 1 as place from users
), failed as (
  insert into public.generations (user_id, status, model, prompt_data, created_at, updated_at)
  select u.id, %(status)s, %(model)s, %(prompt_data)s, f.failed_at, f.failed_at
  from generate_series(0, %(count)s - 1) as n
  join numbered u on u.place = n %% %(users)s,
  lateral (
    select clock_timestamp() - %(ago)s + n * %(spread)s::interval / greatest(%(count)s - 1, 1) as failed_at
  ) f
  returning id, user_id, created_at
), logged as (
  insert into public.generation_error_logs (generation_id, user_id, error_type, error_message, created_at)
  select id, user_id, %(code)s, 'the user''s own words', created_at from failed where %(code)s::text is not null
)
select id from failed order by created_at, id
"""


def failed_generations(
    connection: psycopg.Connection,
    count: int,
    *,
    users: int | None = None,
    status: str = "error",
    code: str | None = "AI_UNAVAILABLE",
    model: str | None = "small",
    ago: timedelta = timedelta(hours=8),
    spread: timedelta = timedelta(hours=1),
    prompt_data: Any = PROMPT_DATA,
) -> list[UUID]:
    """Let generations fail, one of each of so many new users in turn, evenly over a time; return them, oldest first."""
    rows = connection.execute(
        _FAIL,
        {
            "count": count,
            "users": users or count,
            "status": status,
            "code": code,
            "model": model,
            "ago": ago,
            "spread": spread,
            "prompt_data": None if prompt_data is None else Jsonb(prompt_data),
        },
    ).fetchall()
    return [UUID(str(row[0])) for row in rows]


@contextmanager
def recovering_client(database_url: str, ai: AiProvider, **options: Any) -> Iterator[Client]:
    """Give a client as ``connect`` makes it, with another provider."""
    storage = PostgresStorage(database_url)
    with Client(storage=storage, recovery_storage=storage, ai=ai, on_close=storage.close, **options) as client:
        yield client


def attempts(connection: psycopg.Connection) -> Sequence[dict[str, Any]]:
    """Read all attempts, closed and open, by generation and number."""
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(f"select * from {ATTEMPTS} a order by a.generation_id, a.number".encode()).fetchall()
