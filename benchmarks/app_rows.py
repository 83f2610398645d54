"""What the app would have written before a retry: users, failed generations, and a past."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.domain.model import Answer, Context, Usage

PROMPT_DATA: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You write short training sessions as JSON."},
        {"role": "user", "content": "An easy run for a beginner."},
    ],
    "parameters": {"max_tokens": 80, "temperature": 0},
}
OUTPUT = {"title": "Easy run", "minutes": 30}
LARGER_OUTPUT: dict[str, Any] = OUTPUT | {
    "sport": "running",
    "level": "beginner",
    "warm_up": "Walk five minutes.",
    "main_part": "Run slowly, and walk whenever you like.",
    "cool_down": "Walk five minutes.",
    "distance_km": 3.5,
    "heart_rate": 130,
    "indoors": False,
}
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": _TYPES[type(value)]} for name, value in LARGER_OUTPUT.items()},
    "required": [*LARGER_OUTPUT],
    "additionalProperties": False,
}
PROMPT_WITH_SCHEMA = PROMPT_DATA | {"response_schema": SCHEMA}

_FAILED = """
with owners as (
  insert into auth.users (id) select gen_random_uuid() from generate_series(1, %s) returning id
)
insert into public.generations (user_id, status, model, prompt_data, created_at, updated_at)
select id, 'error', 'small', %s, clock_timestamp() - interval '2 days', clock_timestamp() - interval '2 days'
from owners
returning user_id, id
"""

_FAILED_OF = """
insert into public.generations (user_id, status, model, prompt_data, created_at, updated_at)
select u, 'error', 'small', %s, clock_timestamp() - interval '2 days', clock_timestamp() - interval '2 days'
from unnest(%s::uuid[]) u
returning user_id, id
"""

# Finished generations with all that their success leaves, the older the higher their number. Foreign keys are not
# checked (`replica`), or a million of them would take minutes.
_PAST = """
with seeds as (
  select gen_random_uuid() as generation_id, gen_random_uuid() as session_id, u.user_id,
    clock_timestamp() - interval '2 days' - n.number * %(apart)s as at
  from unnest(%(users)s::uuid[]) as u (user_id), generate_series(1, %(each)s) as n (number)
),
s as (
  insert into public.sessions (id, user_id, content, created_at) select session_id, user_id, %(output)s, at from seeds
),
g as (
  insert into public.generations
    (id, user_id, status, model, prompt_data, duration_ms, session_id, created_at, updated_at)
  select generation_id, user_id, 'success', 'small', %(prompt)s, 900, session_id, at, at from seeds
),
e as (
  insert into public.events (user_id, event_type, event_data, created_at)
  select user_id, 'ai_generation_succeeded', jsonb_build_object('generation_id', generation_id), at from seeds
)
insert into public.ai_retry_attempts (
  user_id, generation_id, number, token, started_at, lease_expires_at, outcome, closed_at, captured_at, counted, charge,
  session_id, provider_outcome, wire_requests, model
)
select user_id, generation_id, 2, gen_random_uuid(), at, at, 'succeeded', at, at, true, true, session_id::text,
  'generated', 1, 'small'
from seeds
"""


class AtOnce:
    """A provider whose call costs nothing."""

    def __init__(self, output: object = OUTPUT) -> None:
        usage = Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46)
        self._answer = Answer(output=output, model="small", usage=usage, provider_id="gen-1")

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Answer."""
        return self._answer


AT_ONCE = AtOnce()


def new_users(database: psycopg.Connection, count: int) -> list[UUID]:
    """Add users as Auth does."""
    rows = database.execute(
        "insert into auth.users (id) select gen_random_uuid() from generate_series(1, %s) returning id", [count]
    )
    return [row[0] for row in rows]


def failed_generations(
    database: psycopg.Connection, count: int, prompt_data: object = PROMPT_DATA
) -> list[tuple[UUID, UUID]]:
    """Add failed generations, each with a user of its own; return users and generations."""
    return [(row[0], row[1]) for row in database.execute(_FAILED, [count, Jsonb(prompt_data)])]


def failed_generations_of(database: psycopg.Connection, users: list[UUID]) -> list[tuple[UUID, UUID]]:
    """Add a failed generation for every user in the list, who may be in it more than once."""
    return [(row[0], row[1]) for row in database.execute(_FAILED_OF, [Jsonb(PROMPT_DATA), users])]


def finished_generations(database: psycopg.Connection, users: list[UUID], each: int, apart: timedelta) -> None:
    """Give users a past: so many finished generations each, outside of the quota's window; then tidy up.

    The connection must be a superuser's, in autocommit.
    """
    values = {
        "users": users,
        "each": each,
        "apart": apart,
        "output": Jsonb(OUTPUT),
        "prompt": Jsonb(PROMPT_DATA),
    }
    with database.transaction():
        database.execute("set local session_replication_role = replica")
        database.execute(_PAST.encode(), values)
    database.execute("vacuum analyze")
