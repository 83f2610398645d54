"""Points at which a process ends, freezes, or does what it must not: around the transport, the spool and the provider.

A point around the transport is passed by every try, repeats too: what is wrapped lies under them.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from ai_retry.domain.model import Answer, Context
from ai_retry.domain.ports import AiProvider
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.spool import Spool
from ai_retry.storage.transport import Transport

_FULL_FOR = 0.5  # seconds without a free connection


@dataclass
class Points:
    """Sends this process a signal when it gets to the point, the first time."""

    point: str | None
    signal: int
    passed: Counter[str] = field(default_factory=Counter)

    def at(self, name: str) -> None:
        """Be at a point; the second time it is called ``<name> 2``."""
        self.passed[name] += 1
        times = self.passed[name]
        if self.point == (name if times == 1 else f"{name} {times}"):
            os.kill(os.getpid(), self.signal)

    def around(self, call: Transport) -> Transport:
        """Give a transport a point before and after each call."""

        def pointed(function: str, arguments: Mapping[str, Any]) -> Any:
            name = verb_of(function, arguments)
            self.at(f"before {name}")
            reply = call(function, arguments)
            self.at(f"after {name}")
            return reply

        return pointed


def verb_of(function: str, arguments: Mapping[str, Any]) -> str:
    """Name a call by its verb; a settle without a session is a ``closing``."""
    if function == "ai_retry_settle" and "closing" in json.loads(arguments["p_change"]):
        return "closing"
    return function.removeprefix("ai_retry_")


class PointedSpool(Spool):
    """A spool with a point after its write."""

    def __init__(self, directory: Path, points: Points) -> None:
        super().__init__(directory)
        self._points = points

    def hold(self, *arguments: Any) -> None:
        """Write, as a spool does."""
        super().hold(*arguments)
        self._points.at("after the spool's write")


class PointedAi:
    """A provider with a point on each side of the call."""

    def __init__(self, ai: AiProvider, points: Points) -> None:
        self._ai, self._points = ai, points

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """See the port."""
        self._points.at("before send")
        answer = self._ai.generate(context, timeout=timeout, idempotency_key=idempotency_key)
        self._points.at("after answer")
        return answer


class CallsTwice:
    """A provider that is asked twice for one attempt: a mistake."""

    def __init__(self, ai: AiProvider) -> None:
        self._ai = ai

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Pay twice, report one."""
        self._ai.generate(context, timeout=timeout, idempotency_key=idempotency_key)
        return self._ai.generate(context, timeout=timeout, idempotency_key=idempotency_key)


def unfenced(call: Transport, database_url: str) -> Transport:
    """Force a late settle through, whether its token is open or not: a mistake, of which no index is in the way."""

    def climbing(function: str, arguments: Mapping[str, Any]) -> Any:
        reply = call(function, arguments)
        change = json.loads(arguments["p_change"]) if function == "ai_retry_settle" else {}
        if "success" in change and not reply["applied"]:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("drop index if exists public.ai_retry_attempts_one_success")
                connection.execute(
                    "with made as (insert into public.sessions (user_id, content) values (%(user_id)s, '{}')"
                    " returning id) update public.ai_retry_attempts set outcome = 'succeeded',"
                    " captured_at = closed_at, session_id = (select id from made) where token = %(token)s",
                    change,
                )
        return reply

    return climbing


def filling(storage: PostgresStorage, function: str) -> Transport:
    """Take the pool's only connection for a while, just before the first call of a function."""
    call, done = storage._transport, list[str]()

    def full(name: str, arguments: Mapping[str, Any]) -> Any:
        if name == function and not done:
            done.append(name)
            connection = storage._pool.getconn()
            threading.Timer(_FULL_FOR, storage._pool.putconn, [connection]).start()
        return call(name, arguments)

    return full
