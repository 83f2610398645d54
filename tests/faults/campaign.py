"""Many runs, a few at a time; those whose fault hits the whole stack together."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from random import Random
from uuid import UUID

import psycopg

from tests.faults.checker import History, violations
from tests.faults.kinds import Kind
from tests.faults.run import Run
from tests.faults.stage import Stage
from tests.support import books

_AT_ONCE = 8


class Campaign:
    """Runs kinds of faults in turn, and collects what the checker says."""

    def __init__(self, stage: Stage, *, seed: int) -> None:
        self.histories: list[History] = []
        self.violations: list[str] = []
        self.seconds = 0.0
        self._stage, self._random = stage, Random(seed)
        self._seeds = itertools.count(seed * 1_000_000)
        self._runs: dict[UUID, History] = {}

    def run(self, kinds: Sequence[Kind], *, runs: int, seconds: float) -> None:
        """Make so many runs, each kind in its turn; begin none after so many seconds."""
        began = time.monotonic()
        turns = [kind for kind, _ in zip(itertools.cycle(kinds), range(runs), strict=False)]
        alone = [kind for kind in turns if kind.event is None]
        together = sorted((kind for kind in turns if kind.event), key=lambda kind: kind.name)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for _, group in itertools.groupby(together, key=lambda kind: kind.name):
                if time.monotonic() - began < seconds:
                    self._together(list(group), threads)
            for batch in _batches(alone):
                if time.monotonic() - began < seconds:
                    list(threads.map(self._alone, batch))
        self.seconds = time.monotonic() - began
        self._check_books()
        for name in {history.kind.name for history in self.histories}:
            if not any(history.hit for history in self.histories if history.kind.name == name):
                self.violations.append(f"the fault never happened: {name}")

    def lines(self) -> Iterator[str]:
        """What there is to say, the verdict last."""
        lost = Counter[str]()
        for history in self.histories:
            lost[history.kind.name] += history.lost_answers
        yield from self.violations
        yield from (f"answers lost with the process, {name}: {count}" for name, count in sorted(lost.items()) if count)
        calls = sum(len(history.calls) for history in self.histories)
        abandoned = sum(row["outcome"] == "abandoned" for history in self.histories for row in history.attempts)
        yield (
            f"{self.seconds:.0f} s, {sum(history.killed for history in self.histories)} processes killed,"
            f" {sum(history.hit for history in self.histories)} faults hit, {calls} calls, {abandoned} abandoned,"
            f" {sum(lost.values())} answers lost with their process before the first settle"
        )
        kinds = len({history.kind.name for history in self.histories})
        yield f"faults: {len(self.histories)} runs, {kinds} kinds, {len(self.violations)} violations"

    def _alone(self, kind: Kind) -> None:
        run = self._new_run(kind)
        run.start()
        self._judge(run)

    def _together(self, kinds: Sequence[Kind], threads: ThreadPoolExecutor) -> None:
        """Start all, let the event happen, end all."""
        runs = list(threads.map(self._new_run, kinds))
        list(threads.map(Run.start, runs))
        early = kinds[0].name.endswith("early")
        time.sleep(self._random.uniform(0, 0.15) if early else self._random.uniform(0.15, 0.5))
        match kinds[0].event:
            case "postgres crashes":
                self._stage.stack.restart_postgres(immediate=True)
            case "postgres restarts":
                self._stage.stack.restart_postgres()
            case _:
                self._stage.stack.restart_data_api()
        list(threads.map(self._judge, runs))

    def _new_run(self, kind: Kind) -> Run:
        run = Run(self._stage, kind, next(self._seeds))
        self._runs[run.generation_id] = run.history
        return run

    def _judge(self, run: Run) -> None:
        history = run.finish()
        self.histories.append(history)
        self.violations += [f"seed {history.seed}, {history.kind.name}: {said}" for said in violations(history)]

    def _check_books(self) -> None:
        with closing(psycopg.connect(self._stage.stack.database_url)) as connection:
            for said, generation_id in books.violations(connection):
                history = self._runs.get(generation_id)
                whose = f"seed {history.seed}, {history.kind.name}" if history else f"generation {generation_id}"
                self.violations.append(f"{whose}: the books say {said}")


def _batches(kinds: Sequence[Kind]) -> Iterator[Sequence[Kind]]:
    for first in range(0, len(kinds), _AT_ONCE):
        yield kinds[first : first + _AT_ONCE]
