"""Many runs, a few at a time; those whose fault hits the whole stack together."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from random import Random
from typing import TypeAlias
from uuid import UUID

import psycopg

from tests.faults.checker import History, violations
from tests.faults.kinds import LOCKS, Kind
from tests.faults.plan import SETTLE_FOR
from tests.faults.run import Run
from tests.faults.stage import Stage
from tests.helpers import books

Turn: TypeAlias = tuple[Kind, int]  # and the run's own seed

_STARTS_WITHIN, _CALLS_WITHIN = 3.0, 0.2  # seconds; a slow answer takes longer than the second
_LOCKED_FOR = SETTLE_FOR.total_seconds() + 1
_ENOUGH = 3  # runs of a kind, in one of which its fault must have happened


class Campaign:
    """Runs kinds of faults in turn, and collects what the checker says."""

    def __init__(self, stage: Stage, *, seed: int, at_once: int = 8) -> None:
        self.histories: list[History] = []
        self.violations: list[str] = []
        self.seconds = 0.0
        self._stage, self._seed, self._random = stage, seed, Random(seed)
        self._fsync, self._at_once = stage.fsync(), at_once
        self._runs: dict[UUID, History] = {}

    def run(self, kinds: Sequence[Kind], *, runs: int, seconds: float) -> None:
        """Make so many runs, each kind in its turn; begin none after so many seconds.

        The first run has the campaign's seed, the next one has one more: to repeat a run, begin with its seed and kind.
        """
        began = time.monotonic()
        turns = list(zip(itertools.cycle(kinds), range(self._seed, self._seed + runs), strict=False))
        single = [turn for turn in turns if turn[0].event is None]
        together = sorted((turn for turn in turns if turn[0].event), key=lambda turn: turn[0].name)
        with ThreadPoolExecutor(self._at_once) as threads:
            for _, group in itertools.groupby(together, key=lambda turn: turn[0].name):
                if time.monotonic() - began < seconds:
                    self._together(list(group), threads)
            for batch in _batches(single, self._at_once):
                if time.monotonic() - began < seconds:
                    list(threads.map(self._alone, batch))
        self.seconds = time.monotonic() - began
        self._check_books()
        self._check_hits()

    def lines(self) -> Iterator[str]:
        """What there is to say, the verdict last."""
        yield self._fsync
        lost = Counter[str]()
        for history in self.histories:
            lost[history.kind.name] += history.lost_answers
        yield from self.violations
        yield from (f"answers lost, {name}: {count}" for name, count in sorted(lost.items()) if count)
        calls = sum(len(history.calls) for history in self.histories)
        abandoned = sum(row["outcome"] == "abandoned" for history in self.histories for row in history.attempts)
        yield (
            f"{self.seconds:.0f} s, {sum(history.killed for history in self.histories)} processes killed,"
            f" {sum(history.hit for history in self.histories)} faults hit, {calls} calls, {abandoned} abandoned,"
            f" {sum(lost.values())} answers lost that had no other place than their process"
        )
        kinds = len({history.kind.name for history in self.histories})
        yield f"faults: {len(self.histories)} runs, {kinds} kinds, {len(self.violations)} violations"

    def _alone(self, turn: Turn) -> None:
        run = self._new_run(turn)
        run.start()
        self._judge(run)

    def _together(self, turns: Sequence[Turn], threads: ThreadPoolExecutor) -> None:
        """Start all, let the event happen, end all."""
        kind = turns[0][0]
        runs = list(threads.map(self._new_run, turns))
        list(threads.map(Run.start, runs))
        if kind.event in LOCKS:
            self._wait_for_calls([run.generation_id for run in runs])
        time.sleep(self._random.uniform(*kind.event_after))
        self._let_happen(kind.event or "")
        list(threads.map(self._judge, runs))

    def _wait_for_calls(self, generation_ids: Sequence[UUID]) -> None:
        """Wait until all have called, or some, a while ago: their answers come just then."""
        calls, ends = self._stage.provider.calls, time.monotonic() + _STARTS_WITHIN
        while time.monotonic() < ends and not all(map(calls, generation_ids)):
            time.sleep(0.01)
            if any(map(calls, generation_ids)):
                ends = min(ends, time.monotonic() + _CALLS_WITHIN)

    def _let_happen(self, event: str) -> None:
        if event in LOCKS:
            with self._stage.connect() as holder, holder.transaction():
                holder.execute(LOCKS[event].encode())
                time.sleep(_LOCKED_FOR)
            return
        if event != "data api restarts":
            self._stage.stack.restart_postgres(immediate=event == "postgres crashes")
        self._stage.stack.restart_data_api()  # Supabase Lite 0.10 bears no crash amid a transaction

    def _new_run(self, turn: Turn) -> Run:
        run = Run(self._stage, *turn)
        self._runs[run.generation_id] = run.history
        return run

    def _judge(self, run: Run) -> None:
        history = run.finish()
        self.histories.append(history)
        self.violations += [f"seed {history.seed}, {history.kind.name}: {said}" for said in violations(history)]

    def _check_hits(self) -> None:
        """A kind that never happened in several runs has proved nothing."""
        made = Counter(history.kind.name for history in self.histories)
        hit = Counter(history.kind.name for history in self.histories if history.hit)
        self.violations += [
            f"never happened in {count} runs: {name}"
            for name, count in sorted(made.items())
            if count >= _ENOUGH and not hit[name]
        ]

    def _check_books(self) -> None:
        with closing(psycopg.connect(self._stage.stack.database_url)) as connection:
            for said, generation_id in books.violations(connection):
                if history := self._runs.get(generation_id):  # others may use the database too
                    self.violations.append(f"seed {history.seed}, {history.kind.name}: the books say {said}")


def _batches(turns: Sequence[Turn], size: int) -> Iterator[Sequence[Turn]]:
    for first in range(0, len(turns), size):
        yield turns[first : first + size]
