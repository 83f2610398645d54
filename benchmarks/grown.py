"""A database that has grown: so many attempts, filled in bulk, then vacuumed."""

from collections.abc import Iterator
from typing import Final

import psycopg

from tools.stack import Stack

PER_GENERATION: Final = 2  # attempts: the first retry failed, and of ten second ones nine succeeded
PER_USER: Final = 500

# Two years of them, evenly: ids are hashes, so that neighbours in time are nowhere near each other in an index.
_FILL: Final = (
    "insert into auth.users (id) select md5('u' || n)::uuid from generate_series(1, %(users)s) n",
    """
    insert into public.generations (id, user_id, status, model, prompt_data, created_at, updated_at)
    select md5('g' || n)::uuid, md5('u' || (n %% %(users)s + 1))::uuid,
      case when n %% 10 = 0 then 'error' else 'success' end, 'small', '{"messages": []}', at, at
    from generate_series(1, %(generations)s) n,
      lateral (select clock_timestamp() - interval '730 days' * (1.01 - n::float8 / %(generations)s) as at) t
    """,
    """
    insert into public.ai_retry_attempts (
      generation_id, number, user_id, token, started_at, closed_at, outcome, code, counted, session_id, charge,
      captured_at, lease_expires_at, provider_outcome, wire_requests, model, usage, provider_id, duration_ms
    )
    select md5('g' || g)::uuid, k, md5('u' || (g %% %(users)s + 1))::uuid, gen_random_uuid(), at, at + interval '8 s',
      case when ok then 'succeeded' else 'failed' end, case when not ok then 'AI_TIMEOUT' end, true,
      case when ok then gen_random_uuid()::text end, true, case when ok then at + interval '8 s' end,
      at + interval '35 s', 'generated', 1, 'small', case when ok then
        '{"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300, "cost": 0.001}'::jsonb end,
      'chatcmpl-' || g, 8000
    from (
      select (n + 1) / 2 as g, 2 + (n + 1) %% 2 as k from generate_series(1, 2 * %(generations)s) n
    ) numbered,
    lateral (
      select
        k * interval '1 min' + clock_timestamp() - interval '730 days' * (1.01 - g::float8 / %(generations)s) as at,
        k = 3 and g %% 10 <> 0 as ok
    ) t
    """,
)
_INDEXES: Final = """
select i.indexdef, i.indexname from pg_catalog.pg_indexes i
where i.schemaname = 'public' and i.tablename in ('ai_retry_attempts', 'generations')
  and i.indexname not in ('ai_retry_attempts_pkey', 'generations_pkey')
"""


def users_of(attempts: int) -> int:
    """Say how many users share them; they are numbered from 1, and a user's id is the hash of ``u`` and the number."""
    return max(10, attempts // PER_USER)


def grown(stack: Stack, name: str, attempts: int) -> str:
    """Create a database with so many closed attempts; return its URL."""
    url = stack.create_database(name, migrated=True)
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(_INDEXES).fetchall()
        for statement in _statements(attempts, indexes):
            connection.execute(statement.encode())
    return url


def _statements(attempts: int, indexes: list[tuple[str, str]]) -> Iterator[str]:
    generations = attempts // PER_GENERATION
    values = {"generations": generations, "users": users_of(attempts)}
    yield "set session_replication_role = replica"  # foreign keys are not looked up ten million times
    yield "set maintenance_work_mem = '1GB'"
    for _, index in indexes:
        yield f"drop index public.{index}"
    for statement in _FILL:
        yield statement % values
    for definition, _ in indexes:
        yield definition
    yield "vacuum analyze"
