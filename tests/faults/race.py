"""Many processes click at the same generations: ``python -m tests.faults.race --seconds 30``.

Rounds of a few seconds, each with generations that no click has touched: 20 of 5 users, four each, while a user's quota
is three. So the last unit and the last free place are fought for in every round.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import psycopg

from ai_retry.domain.model import QuotaRule
from ai_retry.domain.policy import RetryPolicy
from tests.faults.clicker import Clicker, click
from tests.faults.stage import Stage, a_stage
from tests.helpers import books
from tests.helpers.attempts import ATTEMPTS
from tools.stack import running_stack

_USERS, _EACH = 5, 4
_ROUND_SECONDS = 3.0
_POLICY = RetryPolicy(
    max_attempts=15,
    backoff_base=timedelta(milliseconds=50),
    backoff_cap=timedelta(milliseconds=300),
    max_parallel=2,
    quota=QuotaRule(limit=3),
)
_FAILING = 0.3

Target = tuple[UUID, UUID]


class Race:
    """One race: prepare, click, read, judge."""

    def __init__(self, stage: Stage, *, seed: int, processes: int, seconds: float) -> None:
        self.violations: list[str] = []
        self.codes = Counter[str]()
        self.calls = self.successes = 0
        self._stage, self._seed, self._processes = stage, seed, processes
        self._random = Random(seed)
        self._rounds = tuple(self._new_round() for _ in range(max(1, round(seconds / _ROUND_SECONDS))))

    def _new_round(self) -> tuple[Target, ...]:
        random, targets = self._random, []
        for _ in range(_USERS):
            user_id, generation_id = self._stage.new_generation()
            targets.append((user_id, generation_id))
            targets += [self._stage.new_generation(user_id) for _ in range(_EACH - 1)]
        for _, generation_id in targets:
            behaviours = tuple("error" if random.random() < _FAILING else "answer" for _ in range(_POLICY.max_attempts))
            self._stage.provider.expect(generation_id, behaviours)
        return tuple(targets)

    def run(self) -> None:
        """Let them click, and judge what is left."""
        jobs = [self._job(number, time.time() + 2 + self._processes * 0.1) for number in range(self._processes)]
        workers = [self._stage.processes.Process(target=click, args=(job,), daemon=True) for job in jobs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(_ROUND_SECONDS * len(self._rounds) + 90)
        for job in jobs:
            if job.report.exists():
                self.codes.update(json.loads(job.report.read_text()))
            else:
                self.violations.append(f"process {job.seed} ended without a word")
        self._judge()

    def _job(self, number: int, begins: float) -> Clicker:
        return Clicker(
            seed=self._seed * 1000 + number,
            database_url=self._stage.stack.database_url,
            ai_url=self._stage.provider.server.base_url,
            policy=_POLICY,
            rounds=self._rounds,
            begins=begins,
            round_seconds=_ROUND_SECONDS,
            pause=self._processes * 0.005,
            report=self._stage.directory / f"clicks-{number}",
        )

    def _judge(self) -> None:
        targets = [target for each in self._rounds for target in each]
        by_user: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
        by_generation: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
        for row in self._stage.rows(f"select * from {ATTEMPTS} a"):
            by_user[row["user_id"]].append(row)
            by_generation[row["generation_id"]].append(row)
        for user_id in {user_id for user_id, _ in targets}:
            self.violations += exceeded(by_user[user_id], _POLICY)
        for _, generation_id in targets:
            self._judge_generation(generation_id, by_generation[generation_id])
        self.violations += [f"a caller saw {code}" for code in sorted(self.codes) if code.startswith("500")]
        deadlocks = self._stage.rows("select deadlocks as n from pg_stat_database where datname = current_database()")[
            0
        ]["n"]
        if deadlocks:
            self.violations.append(f"{deadlocks} deadlocks")
        with psycopg.connect(self._stage.stack.database_url) as connection:
            self.violations += [f"the books say {said}" for said, _ in books.violations(connection)]

    def _judge_generation(self, generation_id: UUID, rows: Sequence[dict[str, Any]]) -> None:
        calls = len(self._stage.provider.calls(generation_id))
        known = sum(row["wire_requests"] for row in rows)
        unknown = sum(row["outcome"] == "abandoned" and not row["wire_requests"] for row in rows)
        sessions = {row["session_id"] for row in rows if row["session_id"]}
        self.calls += calls
        self.successes += len(sessions)
        if not known <= calls <= known + unknown:
            self.violations.append(f"{generation_id}: {calls} calls, but {known} recorded and {unknown} abandoned")
        if len(sessions) > 1 or any(row["outcome"] is None for row in rows):
            self.violations.append(f"{generation_id}: {len(sessions)} sessions, or an open attempt")

    def lines(self) -> Iterator[str]:
        """What there is to say, the verdict last."""
        yield from self.violations
        for code, count in sorted(self.codes.items()):
            yield f"{count:7} {code}"
        yield f"{self._processes} processes, {len(self._rounds)} rounds, {self.calls} calls at the provider"
        yield f"race: {self.codes.total()} clicks, {self.successes} successes, {len(self.violations)} violations"


def exceeded(rows: Sequence[dict[str, Any]], policy: RetryPolicy) -> list[str]:
    """Go through one user's attempts in time; name each instant at which more ran, or was used, than is allowed."""
    changes: list[tuple[datetime, int, int]] = []  # at an instant: of running attempts, of units held or captured
    for row in rows:
        captured = row["captured_at"] is not None
        end = min(row["closed_at"] or row["lease_expires_at"], row["lease_expires_at"])
        changes += [(row["started_at"], 1, 1), (end, -1, 0 if captured else -1)]
    running = used = 0
    found = []
    for at, run, use in sorted(changes, key=lambda change: (change[0], change[1])):
        running, used = running + run, used + use
        if running > policy.max_parallel:
            found.append(f"{running} ran at once at {at}")
        if used > policy.quota.limit:
            found.append(f"{used} units used at {at}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Race, print, and return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.race")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=50)
    chosen = parser.parse_args(arguments)
    with running_stack() as stack, a_stage(stack, chosen.seed) as stage:
        race = Race(stage, seed=chosen.seed, processes=chosen.processes, seconds=chosen.seconds)
        race.run()
    for line in race.lines():
        print(line)
    return 1 if race.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
