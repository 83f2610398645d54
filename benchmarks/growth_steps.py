"""What is timed as a database grows: each step of an attempt, and what operators run."""

import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import psycopg

from ai_retry.clock import SystemClock
from ai_retry.domain.model import QuotaRule
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue import enqueue_generation
from ai_retry.domain.recovery import Filter
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.app_rows import AT_ONCE, failed_generations_of
from benchmarks.timed_storage import TimedStorage

STEPS: Final = ("load", "begin", "settle", "take", "find", "estimate", "prune", "books", "books since a day")
_LIMIT: Final = 200  # units of a user in a day, more than are spent here
_WIDE: Final = RetryPolicy(quota=QuotaRule(limit=_LIMIT), max_parallel=1000)
_SAMPLED: Final = 0.02  # seconds between two looks at a process


@dataclass
class Found:
    """What one database took."""

    ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: int = 0  # bytes of the server process that reads the books, shared memory apart
    temporary: int = 0  # bytes of temporary files that the books wrote


@dataclass(frozen=True)
class Grown:
    """A database that has grown, and what its steps took so far."""

    url: str
    users: int
    storage: PostgresStorage
    connection: psycopg.Connection
    found: Found = field(default_factory=Found)

    def attempts(self, count: int) -> None:
        """Retry failed generations of users with a past."""
        storage = TimedStorage(self.storage, self._timed)
        for user_id, generation_id in failed_generations_of(self.connection, self._users(count)):
            retry_generation(user_id, generation_id, storage=storage, ai=AT_ONCE, clock=SystemClock(), policy=_WIDE)

    def queue(self, count: int) -> None:
        """Accept retries, and take them."""
        for user_id, generation_id in failed_generations_of(self.connection, self._users(count)):
            enqueue_generation(user_id, generation_id, storage=self.storage, policy=_WIDE)
        for _ in range(count):
            with self._timed("take"):
                self.storage.take(1, timedelta(minutes=5), _WIDE.quota)

    def operate(self) -> None:
        """Run what operators run, but the books."""
        wanted = Filter(since=None, until=SystemClock().now())
        with self._timed("find"):
            self.storage.find(wanted, before=None, page=200, quota_rule=_WIDE.quota)
        with self._timed("estimate"):
            self.storage.estimate()
        with self._timed("prune"):
            self.storage.prune(older_than=timedelta(days=90), window=timedelta(days=1), after=uuid4(), dry_run=False)

    def books(self) -> None:
        """Read the books, on a connection of their own that is watched."""
        for name, since in (("books", "null"), ("books since a day", "clock_timestamp() - interval '1 day'")):
            before = self._temporary()
            with psycopg.connect(self.url, autocommit=True) as connection, _watched(connection) as memory:
                connection.execute("set role service_role")
                with self._timed(name):
                    (violations,) = connection.execute(
                        f"select public.ai_retry_books({_LIMIT}, 86400, {since})".encode()
                    ).fetchone() or (None,)
            if violations != []:
                raise RuntimeError("the books do not balance")
            self.found.memory = max(self.found.memory, *memory)
            self.found.temporary = max(self.found.temporary, self._temporary() - before)

    def _users(self, count: int) -> list[UUID]:
        """Choose users by chance."""
        numbers = random.choices(range(1, self.users + 1), k=count)
        rows = self.connection.execute("select md5('u' || n)::uuid from unnest(%s::integer[]) n", [numbers])
        return [row[0] for row in rows]

    def _temporary(self) -> int:
        """Give the bytes of all temporary files so far."""
        time.sleep(1.2)  # a session that goes on reports once a second at most
        row = self.connection.execute(
            "select temp_bytes from pg_stat_database where datname = current_database()"
        ).fetchone()
        assert row is not None
        return int(row[0])

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.found.ms[step].append(1000 * (time.perf_counter() - began))


@contextmanager
def _watched(connection: psycopg.Connection) -> Iterator[list[int]]:
    """Look at the memory of a connection's server process until the end; nothing is found where there is no /proc."""
    status = Path(f"/proc/{connection.info.backend_pid}/status")
    seen: list[int] = [0]
    over = threading.Event()

    def look() -> None:
        while status.exists() and not over.wait(_SAMPLED):
            if found := re.search(r"^RssAnon:\s+(\d+) kB", status.read_text(), re.MULTILINE):
                seen.append(1024 * int(found[1]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
