"""Workers under fire: killed, restarted, cut off from PostgreSQL, their messages lost and doubled, their provider gone.

One thread does it all in turn: what is due of the plan, then a look at the database. The workers are real processes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.faults import queue_checker as checker
from tests.faults.queue_crowd import Crowd
from tests.faults.queue_fleet import Fleet
from tests.faults.queue_plan import MAX_PARALLEL, SETTINGS, Plan
from tests.faults.queue_provider import MoodyProvider
from tests.support import books
from tests.support.stack import Stack

Event = tuple[float, Callable[[], None]]  # seconds after the beginning, and what happens

_LOSE = """
with lost as (
  delete from pgmq.q_ai_retry where msg_id in (select msg_id from pgmq.q_ai_retry order by random() limit %(count)s)
  returning msg_id
), aged as (
  update public.ai_retry_attempts a set next_attempt_at = a.next_attempt_at - interval '1 minute'
  from lost where %(aged)s and a.message_id = lost.msg_id and a.state = 'queued'
)
select count(*) as n from lost
"""
_DUPLICATE = """
with doubled as (
  insert into pgmq.q_ai_retry (vt, message)
  select clock_timestamp(), message from (select message from pgmq.q_ai_retry order by random() limit %(count)s) m
  returning msg_id
)
select count(*) as n from doubled
"""
_OPEN = """
select (select count(*) from public.ai_retry_attempts where outcome is null) as attempts,
  (select count(*) from pgmq.q_ai_retry) as messages
"""


class QueueCampaign:
    """One run: accept, work, break, wait until everything has ended, judge."""

    def __init__(self, stack: Stack, plan: Plan, directory: Path, *, seed: int) -> None:
        self.violations: list[str] = []
        self.lost = self.duplicated = self.restarts = self.samples = 0
        self.attempts: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._stack, self._plan, self._random = stack, plan, Random(seed)
        self.provider = MoodyProvider(seed, failing=0.4, thinking=(0.05, 0.4))
        sizes = [plan.greedy] + [(plan.generations - plan.greedy) // (plan.users - 1)] * (plan.users - 1)
        self.crowd = Crowd(stack.database_url, sizes)
        self.provider.hopeless = {generations[-1] for generations in list(self.crowd.users.values())[::10]}
        env = {"DATABASE_URL": stack.database_url, "AI_BASE_URL": self.provider.base_url, **SETTINGS}
        env["AI_RETRY_SPOOL_DIR"] = str(directory / "spool")
        self._env = env
        self.fleet = Fleet(env, directory, workers=plan.workers, concurrency=plan.concurrency)

    def run(self) -> None:
        """Do it."""
        events = sorted(self._events(), key=lambda event: event[0])
        with ExitStack() as opened:
            opened.enter_context(self.provider)
            asking = self.crowd.ask(self._env)
            opened.enter_context(self.fleet)
            began = time.monotonic()
            while (now := time.monotonic() - began) < self._plan.longest:
                while events and events[0][0] <= now:
                    events.pop(0)[1]()
                if self._sample() == (0, 0) and not asking.is_alive() and not events:
                    break
                time.sleep(0.2)
            else:
                self.violations.append(f"not all had ended after {self._plan.longest:g} s")
            self.seconds = time.monotonic() - began
        self._judge()

    def _events(self) -> Iterator[Event]:
        plan = self._plan
        yield from ((at, lambda: self.fleet.kill_one(self._random)) for at in plan.kills)
        for number, at in enumerate(plan.restarts):
            yield at, lambda crash=number % 2 == 0: self._restart(crash=crash)  # type: ignore[misc]
        yield from ((at, self._lose) for at in plan.losses)
        yield from ((at, self._duplicate) for at in plan.duplications)
        if plan.refused:
            yield plan.refused[0], self.provider.go
            yield plan.refused[1], self.provider.come
        if plan.unavailable:
            yield plan.unavailable[0], lambda: self.provider.be_unavailable(True)
            yield plan.unavailable[1], lambda: self.provider.be_unavailable(False)

    def _restart(self, *, crash: bool) -> None:
        self._stack.restart_postgres(immediate=crash)
        self.restarts += 1

    def _lose(self) -> None:
        self.lost += self._rows(_LOSE, count=self._plan.lost, aged=self._plan.aged)[0]["n"]

    def _duplicate(self) -> None:
        self.duplicated += self._rows(_DUPLICATE, count=self._plan.duplicated)[0]["n"]

    def _sample(self) -> tuple[int, int]:
        """Look for what must never be; tell how many attempts and messages are left."""
        self.samples += 1
        for statement in checker.ALWAYS:
            found = self._rows(statement, max_parallel=MAX_PARALLEL)
            self.violations += [f"during the run: {row['said']}" for row in found]
        left = self._rows(_OPEN)[0]
        return left["attempts"], left["messages"]

    def _rows(self, statement: str, **arguments: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self._stack.database_url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(statement.encode(), arguments or None).fetchall()

    def _judge(self) -> None:
        self.attempts = self._rows("select * from public.ai_retry_attempts")
        self.violations += self.crowd.problems
        self.violations += checker.violations(
            self.crowd.accepted,
            {row["id"]: row for row in self._rows("select * from public.generations")},
            self.attempts,
            self._rows("select * from public.sessions"),
            self._rows("select generation_id from public.generation_error_logs"),
            self.provider.calls,
            self.provider.left_at,
        )
        if any(self.fleet.exits):
            self.violations.append(f"workers that nobody killed exited with {sorted(set(self.fleet.exits))}")
        with psycopg.connect(self._stack.database_url) as connection:
            self.violations += [f"the books say {said}" for said, _ in books.violations(connection)]

    def lines(self) -> Iterator[str]:
        """What there is to say, the verdict last."""
        yield from self.violations
        outcomes = [row["outcome"] for row in self.attempts]
        places = checker.fairness(self.crowd.users, self.attempts)
        greedy, *others = [places[user_id] for user_id in self.crowd.users if user_id in places]
        firsts, medians = sorted(first for first, _ in others), sorted(middle for _, middle in others)
        yield (
            f"{len(self.crowd.accepted)} accepted of {len(self.crowd.users)} users,"
            f" {outcomes.count('succeeded')} successes, {outcomes.count('failed')} failed and"
            f" {outcomes.count('abandoned')} abandoned attempts,"
            f" {len(self.provider.calls)} calls, all ended after {checker.ran_for(self.attempts).total_seconds():.0f} s"
        )
        yield (
            f"{self.fleet.kills} workers killed, PostgreSQL restarted {self.restarts} times, {self.lost} messages lost,"
            f" {self.duplicated} doubled, {self.samples} samples"
        )
        yield (
            f"order: the first user queued {self._plan.greedy} and came first at place {greedy[0]}, in the middle at"
            f" {greedy[1]:g}; the others first at {firsts[0]} to {firsts[-1]}, in the middle at {medians[0]:g} to"
            f" {medians[-1]:g}"
        )
        yield f"queue: {self.seconds:.0f} s, {len(self.violations)} violations"
