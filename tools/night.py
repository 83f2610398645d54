"""The night of an outage: 200 generations have failed, of many users, with several codes, models and times of the day.

Most failed in the hour in which the provider was down. Some users clicked again in that hour, in vain; others did so
later, and got their sessions. First calls before and after it succeeded.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Answer, Failure, FailureCode
from ai_retry.domain.ports import AiProvider
from ai_retry.testing.ai import ScriptedAiProvider
from tests.helpers.world import INSTANTS, move_back
from tools.outage import failed_generations, recovering_client

FAILED: Final = 200
UNWANTED: Final = "A marathon, tomorrow."  # a provider refuses it
_WISH: Final = "An easy run."
_SESSION: Final = {"title": "Easy run", "minutes": 30}
_HOUR: Final = timedelta(hours=1)
_DOWN: Final[dict[str, Any]] = {"ago": 6 * _HOUR, "spread": _HOUR, "model": "demo-small"}
_KINDS: Final[Sequence[dict[str, Any]]] = (
    {**_DOWN, "count": 116, "users": 70},
    {**_DOWN, "count": 2, "prompt_data": UNWANTED},
    {**_DOWN, "count": 36, "spread": _HOUR / 2, "status": "timeout", "code": "AI_TIMEOUT", "model": "demo-large"},
    {**_DOWN, "count": 16, "ago": 5 * _HOUR, "spread": _HOUR / 4, "code": "AI_RATE_LIMITED"},
    {**_DOWN, "count": 9, "users": 1, "ago": 5.6 * _HOUR, "spread": _HOUR / 4},  # more than the user's quota
    {**_DOWN, "count": 3, "ago": 5.2 * _HOUR, "spread": _HOUR / 10, "prompt_data": None},
    {
        "count": 6,
        "ago": 20 * _HOUR,
        "spread": 18 * _HOUR,
        "code": "AI_REJECTED",
        "model": "demo-small",
        "prompt_data": UNWANTED,
    },
    {"count": 4, "ago": 22 * _HOUR, "spread": 19 * _HOUR, "code": "AI_INVALID_OUTPUT", "model": "demo-large"},
)
_CLICKED_IN_VAIN, _CLICKED_AFTER_IT, _NEVER_FAILED = 8, 12, 30
_MARK: Final = uuid5(NAMESPACE_URL, "https://ai-retry.invalid/night")  # a user without generations
_MOVED: Final = {**INSTANTS, **dict.fromkeys(("sessions", "generation_error_logs", "events"), ("created_at",))}
_BROKEN: Final = Failure(code=FailureCode.UNAVAILABLE, reason="HTTP 500", transient=True, certainly_not_generated=False)

_ASK = """
update public.generations set prompt_data = jsonb_build_object('messages', jsonb_build_array(
  jsonb_build_object('role', 'user', 'content', %s || ' (' || left(id::text, 8) || ')')))
where id = any(%s)
"""
_SUCCEED = """
with created as (
  insert into public.sessions (user_id, content, created_at)
  select user_id, %s, created_at from public.generations where id = any(%s) returning id, user_id
)
update public.generations g set session_id = c.id from created c where g.user_id = c.user_id and g.id = any(%s)
"""
_MOST = """
select id from public.generations g where status in ('error', 'timeout')
order by (select count(*) from public.generations o where o.user_id = g.user_id and o.status = g.status) desc,
  created_at desc, id limit 1
"""


def happen(database_url: str) -> bool:
    """Let it happen, once in a database; whether it did now. What failed on the way is repeated by the next call."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        if connection.execute("select from auth.users where id = %s", [_MARK]).rowcount:
            return False
        _click(connection, database_url, ScriptedAiProvider(default=_BROKEN), _CLICKED_IN_VAIN, 5.5 * _HOUR)
        works = ScriptedAiProvider(default=Answer(output=_SESSION, model="demo-small"))
        _click(connection, database_url, works, _CLICKED_AFTER_IT, 4.5 * _HOUR)
        with connection.transaction():
            for kind in _KINDS:
                _fail(connection, **kind)
            _succeed(connection)
            connection.execute("insert into auth.users (id) values (%s)", [_MARK])
    return True


def one_to_explain(database_url: str) -> UUID | None:
    """Choose a failed generation, of the user who has most of them; None: there is none."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(_MOST).fetchone()
    return None if row is None else UUID(str(row[0]))


def _fail(connection: psycopg.Connection, *, prompt_data: str | None = _WISH, **kind: Any) -> list[UUID]:
    """Let generations of a kind fail, each with a wish of its own; without one if that is None."""
    failed = failed_generations(connection, **kind, prompt_data=None)
    if prompt_data is not None:
        connection.execute(_ASK, [prompt_data, failed])
    return failed


def _click(connection: psycopg.Connection, database_url: str, ai: AiProvider, count: int, ago: timedelta) -> None:
    """Let users retry their failed generations, and let that be so long ago."""
    failed = _fail(connection, count=count, model="demo-small", ago=_HOUR / 2, spread=_HOUR / 12)
    owners = dict(_owners(connection, failed))
    with recovering_client(database_url, ai) as client:
        client.events.end_log()
        for generation_id, user_id in owners.items():
            with suppress(AiRetryError):  # it fails again where the provider is down
                client.retry_generation(user_id, generation_id)
    move_back(connection, _MOVED, list(owners.values()), ago)


def _owners(connection: psycopg.Connection, generations: Sequence[UUID]) -> Iterator[tuple[UUID, UUID]]:
    query = "select id, user_id from public.generations where id = any(%s)"
    yield from connection.execute(query, [list(generations)])


def _succeed(connection: psycopg.Connection) -> None:
    """Let first calls succeed, around the hour and in it."""
    kind: dict[str, Any] = {"model": "demo-small", "ago": 8 * _HOUR, "spread": 6 * _HOUR}
    done = failed_generations(connection, _NEVER_FAILED, status="success", code=None, **kind)
    connection.execute(_SUCCEED, [Jsonb(_SESSION), done, done])
