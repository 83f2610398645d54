"""Does it stay as fast when there is much? A large database, a user with a long past, an idle transaction."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from uuid import UUID

import psycopg

from ai_retry.clock import SystemClock
from ai_retry.domain.model import QuotaRule
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.app_rows import AT_ONCE, failed_generations, failed_generations_of, finished_generations, new_users
from benchmarks.sampling import short
from benchmarks.section import Aim, Section
from benchmarks.sizes import Sizes
from tools.stack import Stack

EACH = 10  # finished generations of an ordinary user
BUSY_USERS = 1000  # who share the attempts while a transaction idles
BUSY_ATTEMPTS = 800  # of a sample
WORKERS = 8
_ATTEMPTS = 100  # per round
_FEWEST_ROUNDS = 5
_APART = timedelta(hours=1)
_WIDE = RetryPolicy(quota=QuotaRule(limit=1_000_000), max_parallel=1000)
_COUNTED_TABLES = ("generations", "sessions", "events", "ai_retry_open", "ai_retry_attempts", "ai_retry_quotas")

_TABLES = """
select relname, seq_scan, coalesce(idx_scan, 0) from pg_stat_user_tables
where schemaname = 'public' and relname = any(%s) order by 1
"""
_INDEXES = """
select indexrelname, idx_scan from pg_stat_user_indexes
where schemaname = 'public' and relname = any(%s) order by 1
"""

NOTES = [
    f"Ordinary users have {EACH} finished generations each, an hour apart, the latest two days ago; the user with "
    "many has them just so. Each row was a retry: generation, session, event and attempt. Tables were analysed after "
    "they were filled.",
    "Plans aren't printed by PostgreSQL from within functions, so its own counters say how tables were read: "
    "sequential and index scans during the measured attempts.",
]


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Compare in turns; count scans in the large one; hold a transaction open."""
    with ExitStack() as opened:
        small = opened.enter_context(_filled(stack, "growth_small", sizes.small, sizes.finished))
        large = opened.enter_context(_filled(stack, "growth_large", sizes.large, sizes.finished))
        ways: dict[str, Callable[[], float]] = {
            f"{sizes.small:,} generations": lambda: small.attempts_of_anyone(_ATTEMPTS),
            f"{sizes.large:,} generations": lambda: large.attempts_of_anyone(_ATTEMPTS),
            "a user with 1 finished generation": lambda: large.attempts_of(large.modest, _ATTEMPTS),
            f"a user with {sizes.finished:,} finished generations": lambda: large.attempts_of(large.busy, _ATTEMPTS),
        }
        large.attempts_of_anyone(_ATTEMPTS)  # plans are cached then
        scans, indexes = large.scans_of(_ATTEMPTS)
        found = _in_turns(ways, max(sizes.rounds, _FEWEST_ROUNDS))
        held_before, held_after = small.with_idle_transaction(sizes.held, sizes.rounds)
    medians = {way: median(samples) for way, samples in found.items()}
    few, many, one_finished, all_finished = medians.values()
    loss = 1 - median(held_after) / median(held_before)
    return Section(
        title="Growth",
        header=("", "ms per attempt, one after the other"),
        rows=[
            *((way, short(medians[way])) for way in ways),
            (f"{WORKERS} threads, before an idle transaction", _rates(held_before)),
            (f"{WORKERS} threads, after {sizes.held:g} s of one held open", _rates(held_after)),
        ],
        notes=[
            *NOTES,
            f"Reads in the large database per attempt, foreign keys included: {scans}; of indexes: {indexes}.",
            f"While the transaction idled, {BUSY_USERS:,} users shared all attempts, more than a quota would allow "
            "them, so that what can't be cleaned up meets their next attempts. Medians of "
            f"{sizes.rounds} samples, before and after (slowest to fastest).",
        ],
        aims=[
            Aim(text="ratio, large to small database", limit=1.2, measured=many / few, at_most=True),
            Aim(text="ratio, many to one finished", limit=1.2, measured=all_finished / one_finished, at_most=True),
            Aim(text="loss under an idle transaction", limit=0.25, measured=max(loss, 0.001), at_most=True),
        ],
        data={"ms": found, "scans": scans, "indexes": indexes, "idle": {"before": held_before, "after": held_after}},
    )


def _rates(samples: list[float]) -> str:
    return f"{short(median(samples))} attempts/s ({short(min(samples))} to {short(max(samples))})"


def _in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Warm up, then give the milliseconds of each in every round."""
    for work in ways.values():
        work()
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            found[way].append(1000 * work())
    return found


@dataclass(frozen=True)
class _Database:
    """A database with a past."""

    url: str
    connection: psycopg.Connection
    storage: PostgresStorage
    modest: UUID
    busy: UUID

    def attempts_of_anyone(self, count: int) -> float:
        """Attempts of new users, one each; seconds per attempt."""
        return self._timed(failed_generations(self.connection, count))

    def attempts_of(self, user_id: UUID, count: int) -> float:
        """Attempts of one user; what they leave is taken away again, so that rounds are alike."""
        rows = failed_generations_of(self.connection, [user_id] * count)
        seconds = self._timed(rows)
        with self.connection.transaction():
            self.connection.execute("set local session_replication_role = replica")
            made = [generation_id for _, generation_id in rows]
            for statement in (
                "delete from public.sessions s using public.generations g where g.id = any(%s) and s.id = g.session_id",
                "delete from public.ai_retry_attempts where generation_id = any(%s)",
                "delete from public.generations where id = any(%s)",
            ):
                self.connection.execute(statement.encode(), [made])
        return seconds

    def _timed(self, rows: list[tuple[UUID, UUID]]) -> float:
        began = time.perf_counter()
        for row in rows:
            self._retry(*row)
        return (time.perf_counter() - began) / len(rows)

    def _retry(self, user_id: UUID, generation_id: UUID) -> None:
        retry_generation(user_id, generation_id, storage=self.storage, ai=AT_ONCE, clock=SystemClock(), policy=_WIDE)

    def scans_of(self, count: int) -> tuple[str, str]:
        """Say in words how so many attempts of new users read: tables, and indexes."""
        rows = failed_generations(self.connection, count)
        before = self._scans(_TABLES), self._scans(_INDEXES)
        self._timed(rows)
        tables, indexes = self._scans(_TABLES), self._scans(_INDEXES)
        kinds = ("sequentially", "by index")
        said = [
            f"`{name}` {short(round((tables[name][kind] - before[0][name][kind]) / count, 1))} {kinds[kind]}"
            for name in tables
            for kind in (0, 1)
        ]
        used = [
            f"`{name}` {short(round((indexes[name][0] - before[1][name][0]) / count, 1))}"
            for name in indexes
            if indexes[name][0] > before[1][name][0]
        ]
        return ", ".join(said), ", ".join(used)

    def _scans(self, query: str) -> dict[str, tuple[int, ...]]:
        """Read the counters; connections report theirs after a statement, and once a second at most."""
        self.connection.execute("select pg_stat_force_next_flush()")
        for _ in range(2):
            time.sleep(1.2)
            self.storage.load(self.modest, self.modest, _WIDE.quota, None)
        rows = self.connection.execute(query.encode(), [list(_COUNTED_TABLES)]).fetchall()
        return {row[0]: tuple(row[1:]) for row in rows}

    def with_idle_transaction(self, seconds: float, samples: int) -> tuple[list[float], list[float]]:
        """Attempts per second before a transaction idles, and after so many seconds of it, while it still does."""
        users = new_users(self.connection, BUSY_USERS)
        self._rate(users)  # connections are open then
        before = [self._rate(users) for _ in range(samples)]
        with psycopg.connect(self.url) as idle:
            idle.execute("set transaction isolation level repeatable read")
            idle.execute("select count(*) from public.generations")
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self._rate(users)
            after = [self._rate(users) for _ in range(samples)]
            idle.rollback()
        return before, after

    def _rate(self, users: list[UUID]) -> float:
        """Let all threads make some attempts; return how many a second."""
        count = BUSY_ATTEMPTS
        rows = failed_generations_of(self.connection, (users * (count // len(users) + 1))[:count])
        began = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(lambda row: self._retry(*row), rows))
        return count / (time.perf_counter() - began)


@contextmanager
def _filled(stack: Stack, name: str, generations: int, finished: int) -> Iterator[_Database]:
    url = stack.create_database(name, migrated=True)
    with (
        psycopg.connect(url, autocommit=True) as connection,
        closing(PostgresStorage(url)) as storage,
    ):
        users = new_users(connection, generations // EACH)
        modest, busy = new_users(connection, 2)
        connection.execute("insert into public.ai_retry_quotas select u, 10 from unnest(%s::uuid[]) u", [users[::100]])
        for first in range(0, len(users), 10_000):
            finished_generations(connection, users[first : first + 10_000], EACH, _APART)
        finished_generations(connection, [modest], 1, _APART)
        finished_generations(connection, [busy], finished, _APART)
        yield _Database(url, connection, storage, modest, busy)
    stack.drop_database(name)
