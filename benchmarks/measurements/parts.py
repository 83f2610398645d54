"""Where the time of an attempt goes: statements, commits, Python, and the way between them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import quote
from uuid import uuid4

import psycopg

from ai_retry.clock import SystemClock
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.app_rows import AT_ONCE, failed_generations
from benchmarks.sampling import short
from benchmarks.section import Section
from benchmarks.sizes import Sizes
from benchmarks.timed_storage import TimedStorage
from tools.stack import Stack

STEPS = ("load", "begin", "settle")
_COMMITS = ("begin", "settle")  # what writes
_ATTEMPTS = 200  # of a round of one way
_WARM_UP = 50
_WHOLE, _BESIDE = "attempt", "beside them"
_COUNTED = "-c track_functions=pl"
_WAYS = {"flushed": _COUNTED, "unflushed": f"{_COUNTED} -c synchronous_commit=off"}
_REPORTED = 1.1  # seconds: a connection reports what it has counted after a statement, once a second at most

NOTES = [
    "One after the other, over a direct connection, with a call that answers at once. *Statements* is the time within "
    "our functions, by PostgreSQL's own counters. *Commit* is what a step takes longer than with "
    "`synchronous_commit = off`, which doesn't wait for the disk. *Python* is processor time of this process: "
    "decisions, JSON, the driver. *Between* is the rest: the way to the server and back, the plan's start, locks, and "
    "waking up on either side.",
]


@dataclass
class _Spent:
    """Milliseconds of a round, by step; those of the whole attempt have a name of their own."""

    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    python: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    functions: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add what happens meanwhile."""
        began, used = time.perf_counter(), time.thread_time()
        yield
        self.python[step] += 1000 * (time.thread_time() - used)
        self.wall[step] += 1000 * (time.perf_counter() - began)

    def of_each(self, count: int) -> "_Spent":
        """Divide by the number of attempts."""
        parts = (self.wall, self.python, self.functions)
        return _Spent(*({step: ms / count for step, ms in part.items()} for part in parts))


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Take turns: with and without waiting for the disk."""
    rounds: dict[str, list[_Spent]] = {way: [] for way in _WAYS}
    with ExitStack() as opened:
        databases = {way: opened.enter_context(_opened(stack, way)) for way in _WAYS}
        for each in databases.values():
            each.round(_WARM_UP)
        for _ in range(sizes.rounds):
            for way, each in databases.items():
                rounds[way].append(each.round(_ATTEMPTS))
    flushed, unflushed = rounds.values()
    table = {step: _line(step, flushed, unflushed) for step in STEPS}
    every = _median_of(flushed, lambda spent: spent.wall[_WHOLE])
    python = _median_of(flushed, lambda spent: spent.python[_WHOLE])
    whole = {column: sum(line[column] for line in table.values()) for column in next(iter(table.values()))}
    table[_BESIDE] = _parts(0, 0, max(0, python - whole["Python"]), max(0, every - whole["all"]))
    whole = {column: ms + table[_BESIDE][column] for column, ms in whole.items()}
    table[_WHOLE] = whole
    rows = [(step, *(short(ms) for ms in line.values())) for step, line in table.items()]
    rows.append(("share of the attempt", *(f"{ms / whole['all']:.0%}" for ms in whole.values())))
    return Section(
        title="Where the time of an attempt goes",
        header=("ms", *whole),
        rows=rows,
        notes=[*NOTES, f"Medians of {sizes.rounds} rounds of {_ATTEMPTS} attempts."],
        data={"ms": table},
    )


def _line(step: str, flushed: list[_Spent], unflushed: list[_Spent]) -> Mapping[str, float]:
    """Take one step apart."""
    every, unwritten = (_median_of(rounds, lambda spent: spent.wall[step]) for rounds in (flushed, unflushed))
    commit = max(0, every - unwritten) if step in _COMMITS else 0
    statements = _median_of(flushed, lambda spent: spent.functions[step])
    return _parts(statements, commit, _median_of(flushed, lambda spent: spent.python[step]), every)


def _parts(statements: float, commit: float, python: float, every: float) -> Mapping[str, float]:
    between = max(0, every - statements - commit - python)
    return {"statements": statements, "commit": commit, "Python": python, "between": between, "all": every}


def _median_of(rounds: list[_Spent], read: Callable[[_Spent], float]) -> float:
    return median(map(read, rounds))


@dataclass(frozen=True)
class _Database:
    """A database of its own, whose counters nothing else moves, and one connection as the app's."""

    storage: PostgresStorage
    connection: psycopg.Connection

    def round(self, count: int) -> _Spent:
        """Make so many attempts; ms per attempt."""
        rows = failed_generations(self.connection, count)
        before, spent = self._functions(), _Spent()
        timed = TimedStorage(self.storage, spent.timed)
        for row in rows:
            with spent.timed(_WHOLE):
                retry_generation(*row, storage=timed, ai=AT_ONCE, clock=SystemClock())
        after = self._functions()
        spent.functions = {step: after[step] - before.get(step, 0.0) for step in STEPS}
        return spent.of_each(count)

    def _functions(self) -> Mapping[str, float]:
        """Read how many ms the steps' functions have taken so far."""
        time.sleep(_REPORTED)
        self.storage.load(uuid4(), uuid4(), DEFAULT_POLICY.quota, None)
        rows = self.connection.execute(
            "select substr(funcname, 10), total_time from pg_stat_user_functions where funcname = any(%s)",
            [[f"ai_retry_{step}" for step in STEPS]],
        )
        return {row[0]: row[1] for row in rows}


@contextmanager
def _opened(stack: Stack, way: str) -> Iterator[_Database]:
    name = f"parts_{way}"
    url = stack.create_database(name, migrated=True)
    with (
        psycopg.connect(url, autocommit=True) as connection,
        closing(PostgresStorage(f"{url}?options={quote(_WAYS[way])}", max_connections=1)) as storage,
    ):
        yield _Database(storage, connection)
    stack.drop_database(name)
