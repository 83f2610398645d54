"""The durable writes of a retry, as an app makes them by hand around another engine's job: those that ours makes.

It imports no ``ai_retry``: it runs in the peers' environment.
"""

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

WITH_WRITES = ", with the app's writes"
_FAILED = """
with owners as (
  insert into auth.users (id) select gen_random_uuid() from generate_series(1, %s) returning id
)
insert into public.generations (user_id, status, model, prompt_data)
select id, 'error', 'small', '{"messages": [{"role": "user", "content": "An easy run for a beginner."}]}' from owners
returning id::text
"""
SET_STATUS = "update public.generations set status = %s, updated_at = now() where id = %s"
SUCCEED = """
with s as (
  insert into public.sessions (user_id, content) select g.user_id, %(output)s from public.generations g
  where g.id = %(id)s returning id, user_id
),
e as (
  insert into public.events (user_id, event_type, event_data)
  select user_id, 'ai_generation_succeeded', jsonb_build_object('generation_id', %(id)s::text) from s
)
update public.generations g set status = 'success', session_id = s.id, duration_ms = 0, updated_at = now()
from s where g.id = %(id)s
"""


def failed(database: psycopg.Connection[Any], count: int) -> list[str]:
    """Add failed generations, each with a user of its own."""
    return [row[0] for row in database.execute(_FAILED, [count])]


def success(generation: str) -> dict[str, object]:
    """Give the parameters of ``SUCCEED``."""
    return {"id": generation, "output": Jsonb({"title": "Easy run", "minutes": 30})}
