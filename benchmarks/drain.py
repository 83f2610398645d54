"""Accepted retries by the thousand, drained by four workers: how fast, how fairly, with how much memory.

All are accepted before a worker starts, in an order that chance gave: as after a night on which many users clicked.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import psutil
import psycopg

from ai_retry.domain.queue import enqueue_generation
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.app_rows import failed_generations_of, new_users
from benchmarks.line_process import LineProcess
from benchmarks.queues.protocol import CALL_MS, PRODUCERS, THREADS
from benchmarks.sampling import percentile, short
from benchmarks.section import Section
from tools.stack import Stack

WORKERS = 4
EACH = 5  # accepted retries of a user: what the usual quota allows in a day
LATENCY_MS = 300
_LOOK = 0.5  # seconds between two looks at the workers
_PATIENCE = 20.0  # seconds that a worker has to end
_LONGEST = 900.0  # seconds

_SETTLED = """
select user_id, extract(epoch from closed_at)::float8 from public.ai_retry_attempts
where outcome = 'succeeded' and accepted_at is not null order by closed_at
"""

NOTES = [
    f"{WORKERS} workers with {THREADS} threads each, a provider of {LATENCY_MS} ms, {EACH} accepted retries for each "
    "user, all accepted before the first worker starts, in an order that chance gave, by "
    f"{PRODUCERS} threads. Workers / latency is what the calls alone would take.",
    "Fairness: how even the users' shares are when half of all are settled, by Jain's index: 1 if each user has as "
    "many as any other, near 0 if one has them all. Taken in the order in which they were accepted, it would be about "
    "0.83.",
    "Memory and descriptors are those of a worker: the most of all four, when each was ready, at its peak, and when "
    "all were settled.",
]


@dataclass
class Looks:
    """What a worker held, by the time."""

    memory: list[float] = field(default_factory=list)  # MiB, resident
    descriptors: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Drained:
    """What was found."""

    accepted: float  # a second
    seconds: float  # from the first settle's start to the last settle
    settled: Sequence[tuple[UUID, float]]  # user and time, in order
    looks: Sequence[Looks]

    @property
    def rate(self) -> float:
        """Settled a second."""
        return len(self.settled) / self.seconds


def measure(stack: Stack, users: int) -> Section:
    """Accept, drain, look."""
    url = stack.create_database("drain", migrated=True)
    found = drain(url, users)
    count, ideal = users * EACH, WORKERS * THREADS * 1000 / LATENCY_MS
    shares = _shares(found)
    began = found.settled[0][1] - LATENCY_MS / 1000
    first = _waits(found, began, of_last=False)
    last = _waits(found, began, of_last=True)
    memory = [max(values) for values in zip(*(_ends(each.memory) for each in found.looks), strict=True)]
    files = [max(values) for values in zip(*(_ends(each.descriptors) for each in found.looks), strict=True)]
    rows: list[tuple[str, ...]] = [
        ("accepted", f"{short(found.accepted)}/s"),
        ("settled", f"{short(found.rate)}/s, {found.rate / ideal:.0%} of workers / latency"),
        ("in all", f"{found.seconds:.0f} s"),
        ("a user's first, p50; p99", f"{short(percentile(first, 50))} s; {short(percentile(first, 99))} s"),
        ("a user's last, p50; p99", f"{short(percentile(last, 50))} s; {short(percentile(last, 99))} s"),
        ("fairness at half", f"{jain(list(shares.values())):.2f}"),
        ("a user's settled at half", ", ".join(_counted(shares))),
        ("memory of a worker: ready; peak; at the end", "; ".join(f"{short(round(one, 1))} MiB" for one in memory)),
        ("descriptors of a worker: the same", "; ".join(map(str, files))),
    ]
    return Section(
        title=f"{count:,} accepted retries of {users:,} users",
        header=("", "measured"),
        rows=rows,
        notes=NOTES,
        data={
            "accepted_per_second": found.accepted,
            "per_second": found.rate,
            "fairness": jain(list(shares.values())),
            "memory": [each.memory for each in found.looks],
            "descriptors": [each.descriptors for each in found.looks],
        },
    )


def drain(url: str, users: int) -> Drained:
    """Accept so many users' retries, and let the workers settle all of them."""
    with psycopg.connect(url, autocommit=True) as database, ExitStack() as started:
        accepted = _accept(url, database, users)
        workers = [
            LineProcess("queues.ours", url, "work", url, ours=True, env={CALL_MS: str(LATENCY_MS)})
            for _ in range(WORKERS)
        ]
        for each in workers:
            started.callback(each.close, patience=_PATIENCE)
        began = time.perf_counter()
        with _looking([each.pid for each in workers]) as looks:
            count, until = users * EACH, began + _LONGEST
            while (settled := _count(database)) < count:
                if time.perf_counter() > until:
                    raise TimeoutError(f"{settled} of {count} were settled")
                time.sleep(_LOOK)
        rows = [(row[0], row[1]) for row in database.execute(_SETTLED)]
    seconds = rows[-1][1] - rows[0][1] + LATENCY_MS / 1000
    return Drained(accepted, seconds, rows, looks)


def jain(shares: Sequence[float]) -> float:
    """Say how even shares are: 1 if all are the same, 1/n if one of n has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def _accept(url: str, database: psycopg.Connection, users: int) -> float:
    """Accept them; return how many a second."""
    ids = [each for each in new_users(database, users) for _ in range(EACH)]
    random.Random(1).shuffle(ids)
    rows = failed_generations_of(database, ids)
    with closing(PostgresStorage(url)) as storage, ThreadPoolExecutor(PRODUCERS) as threads:
        began = time.perf_counter()
        for _ in threads.map(lambda row: enqueue_generation(*row, storage=storage), rows):
            pass
        return len(rows) / (time.perf_counter() - began)


def _count(database: psycopg.Connection) -> int:
    row = database.execute(
        "select count(*) from public.ai_retry_attempts where outcome = 'succeeded' and accepted_at is not null"
    ).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _looking(pids: Sequence[int]) -> Iterator[Sequence[Looks]]:
    """Look at processes until the end, in a thread."""
    looks, over = [Looks() for _ in pids], threading.Event()
    processes = [psutil.Process(pid) for pid in pids]

    def look() -> None:
        while True:
            for process, of in zip(processes, looks, strict=True):
                of.memory.append(process.memory_info().rss / 2**20)
                of.descriptors.append(process.num_fds())
            if over.wait(_LOOK):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()


def _ends(values: Sequence[float]) -> tuple[float, float, float]:
    """Give the first, the largest and the last."""
    return values[0], max(values), values[-1]


def _shares(found: Drained) -> Counter[UUID]:
    """Count each user's when half of all are settled; those with none yet, too."""
    half = found.settled[: len(found.settled) // 2]
    shares = Counter(user for user, _ in half)
    shares.update({user: 0 for user, _ in found.settled})
    return shares


def _waits(found: Drained, began: float, *, of_last: bool) -> list[float]:
    """Give each user's seconds until the first, or the last, was settled."""
    by_user: dict[UUID, float] = {}
    for user, at in found.settled:
        if of_last or user not in by_user:
            by_user[user] = at - began
    return list(by_user.values())


def _counted(shares: Counter[UUID]) -> Iterator[str]:
    """Say how many users have how many."""
    for done, users in sorted(Counter(shares.values()).items()):
        yield f"{done} of {EACH} for {users / len(shares):.0%}"
