"""The ports with points at which the process ends, freezes, or does what it must not: decorators, no hooks."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from ai_retry.domain.errors import AlreadySucceeded, LeaseLost
from ai_retry.domain.model import Admission, Answer, Claim, Context, Failure, QuotaRule, Settled, Snapshot
from ai_retry.domain.ports import AiProvider, Storage
from ai_retry.storage.postgres import PostgresStorage

_FULL_FOR = 0.5  # seconds without a free connection


@dataclass
class Points:
    """Sends this process a signal when it gets to the point, the first time."""

    point: str | None
    signal: int
    passed: Counter[str] = field(default_factory=Counter)

    def at(self, name: str) -> None:
        """Be at a point."""
        self.passed[name] += 1
        if name == self.point and self.passed[name] == 1:
            os.kill(os.getpid(), self.signal)


class PointedStorage:
    """A storage with points around its writing calls: each try passes them, repeats too."""

    def __init__(self, storage: Storage, points: Points, before: Callable[[str], None] = lambda _: None) -> None:
        self._storage, self._points, self._before = storage, points, before
        self._settles = 0
        self.discard_answer = storage.discard_answer

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """See the port."""
        return self._storage.load(user_id, generation_id, quota_rule)

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """See the port."""
        self._points.at("before claim")
        self._before("claim")
        claim = self._storage.claim(admission, token=token, lease=lease)
        self._points.at("after claim")
        return claim

    def succeed(self, claim: Claim, answer: Answer, **arguments: Any) -> Settled:
        """See the port."""
        self._settles += 1
        self._points.at("before settle" if self._settles == 1 else "before second settle")
        self._before("succeed")
        settled = self._storage.succeed(claim, answer, **arguments)
        self._points.at("after settle")
        return settled

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """See the port."""
        self._points.at("before fail")
        self._before("fail")
        self._storage.fail(claim, failure, duration=duration, delay=delay)
        self._points.at("after fail")


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
        """Pay twice, tell of one."""
        self._ai.generate(context, timeout=timeout, idempotency_key=idempotency_key)
        return self._ai.generate(context, timeout=timeout, idempotency_key=idempotency_key)


class Unfenced(PointedStorage):
    """A storage whose late settle is forced through by generation and number, not by an open token: a mistake."""

    database_url = ""

    def succeed(self, claim: Claim, answer: Answer, **arguments: Any) -> Settled:
        """Settle, and where the fence holds, climb over it."""
        try:
            return super().succeed(claim, answer, **arguments)
        except (LeaseLost, AlreadySucceeded):
            with psycopg.connect(self.database_url, autocommit=True) as connection:
                connection.execute(
                    "with made as (insert into public.sessions (user_id, content) values (%s, '{}') returning id)"
                    " update public.ai_retry_attempts set outcome = 'succeeded', captured_at = clock_timestamp(),"
                    " stored_answer = null, session_id = (select id from made)"
                    " where generation_id = %s and number = %s",
                    [claim.user_id, claim.generation_id, claim.number],
                )
            raise


def filling(storage: PostgresStorage, function: str) -> Callable[[str], None]:
    """Take the pool's only connection for a while, just before the first call of a function."""
    done: list[str] = []

    def before(name: str) -> None:
        if name == function and not done:
            done.append(name)
            connection = storage._pool.getconn()
            threading.Timer(_FULL_FOR, storage._pool.putconn, [connection]).start()

    return before
