"""Workers under fire: killed, cut off from PostgreSQL, their messages lost and doubled, their provider gone.

Tables are locked, the queue is dropped, or a gateway in front of the Data API answers nonsense.

One thread does it all in turn: what is due of the plan, then a look at the database. The workers are real processes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from tests.faults import queue_checker as checker
from tests.faults import queue_fairness as fairness
from tests.faults.begins import BEGINS, NOTE_BEGINS
from tests.faults.gateway import Gateway, at_random
from tests.faults.queue_crowd import Crowd
from tests.faults.queue_fleet import Fleet
from tests.faults.queue_plan import LEASE, MAX_PARALLEL, SETTINGS, Plan
from tests.faults.queue_provider import MoodyProvider
from tests.helpers import books
from tests.helpers.attempts import ATTEMPTS
from tools.stack import Stack

Event = tuple[float, Callable[[], None]]  # seconds after the beginning, and what happens

_LOSE = """
with lost as (
  delete from pgmq.q_ai_retry where msg_id in (select msg_id from pgmq.q_ai_retry order by random() limit %(count)s)
  returning msg_id
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
select (select count(*) from public.ai_retry_open) as attempts, (select count(*) from pgmq.q_ai_retry) as messages
"""
_LOCKS = (
    "lock table public.generations in access exclusive mode",
    "lock table pgmq.q_ai_retry in access exclusive mode",
)
_LOCKED_FOR = LEASE.total_seconds() + 1
_DROP = "select pgmq.drop_queue('ai_retry'); select public.ai_retry_create_queue()"


class QueueCampaign:
    """One run: accept, work, break, wait until everything has ended, judge."""

    def __init__(self, stack: Stack, plan: Plan, directory: Path, *, seed: int) -> None:
        self.violations: list[str] = []
        self.lost = self.duplicated = self.restarts = self.locks = self.drops = self.samples = 0
        self.attempts: list[dict[str, Any]] = []
        self.turns: list[fairness.Turn] = []
        self.seconds = 0.0
        self._stack, self._plan, self._random = stack, plan, Random(seed)
        self.provider = MoodyProvider(seed, failing=0.4, thinking=(0.05, 0.4))
        sizes = [plan.greedy] + [(plan.generations - plan.greedy) // (plan.users - 1)] * (plan.users - 1)
        self.crowd = Crowd(stack.database_url, sizes)
        self.provider.hopeless = {generations[-1] for generations in list(self.crowd.users.values())[::10]}
        self._gateway: Gateway | None = None
        self._env = {"AI_BASE_URL": self.provider.base_url, "AI_RETRY_SPOOL_DIR": str(directory / "spool"), **SETTINGS}
        if plan.odd is None:
            self._env["DATABASE_URL"] = stack.database_url
        else:
            self._gateway = Gateway(int(urlsplit(stack.url).port or 0), at_random(seed, plan.odd))
            self._env["SUPABASE_URL"] = f"http://127.0.0.1:{self._gateway.port}"
            self._env["SUPABASE_SECRET_KEY"] = stack.secret_key
        self.fleet = Fleet(self._env, directory, workers=plan.workers, concurrency=plan.concurrency)
        self._rows(NOTE_BEGINS)
        self._fsync = self._rows("show fsync")[0]["fsync"]

    def run(self) -> None:
        """Do it."""
        events = sorted(self._events(), key=lambda event: event[0])
        with ExitStack() as opened:
            opened.enter_context(self.provider)
            if self._gateway is not None:
                opened.enter_context(self._gateway)
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
        for number, at in enumerate(plan.locks):
            yield at, lambda statement=_LOCKS[number % 2]: self._lock(statement)  # type: ignore[misc]
        yield from ((at, self._drop) for at in plan.drops)
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
        self.lost += self._rows(_LOSE, count=self._plan.lost)[0]["n"]

    def _duplicate(self) -> None:
        self.duplicated += self._rows(_DUPLICATE, count=self._plan.duplicated)[0]["n"]

    def _lock(self, statement: str) -> None:
        with psycopg.connect(self._stack.database_url) as holder:
            holder.execute(statement.encode())
            time.sleep(_LOCKED_FOR)
        self.locks += 1

    def _drop(self) -> None:
        self.lost += self._rows(_OPEN)[0]["messages"]
        with psycopg.connect(self._stack.database_url) as owner:
            owner.execute(_DROP)
        self.drops += 1

    def _sample(self) -> tuple[int, int]:
        """Look for what must never be; return how many attempts and messages are left."""
        self.samples += 1
        for statement in checker.ALWAYS:
            found = self._rows(statement, max_parallel=MAX_PARALLEL)
            self.violations += [f"during the run: {row['said']}" for row in found]
        left = self._rows(_OPEN)[0]
        return left["attempts"], left["messages"]

    def _rows(self, statement: str, **arguments: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self._stack.database_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def _judge(self) -> None:
        self.attempts = self._rows(f"select * from {ATTEMPTS} a")
        self.turns = fairness.turns(self._ended(), self._rows(BEGINS))
        self.violations += fairness.unfair(self.turns, MAX_PARALLEL)
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
            self.violations.append(f"workers that were not killed exited with {sorted(set(self.fleet.exits))}")
        with psycopg.connect(self._stack.database_url) as connection:
            self.violations += [f"the books say {said}" for said, _ in books.violations(connection)]

    def _ended(self) -> list[dict[str, Any]]:
        return [row for row in self.attempts if row["closed_at"] is not None]

    @property
    def nonsense(self) -> int:
        """Requests that the gateway answered in its way."""
        return self._gateway.fired if self._gateway is not None else 0

    def lines(self) -> Iterator[str]:
        """What there is to say, the verdict last."""
        yield from self.violations
        outcomes = [row["outcome"] for row in self.attempts]
        yield (
            f"{len(self.crowd.accepted)} accepted of {len(self.crowd.users)} users,"
            f" {outcomes.count('succeeded')} successes, {outcomes.count('failed')} failed and"
            f" {outcomes.count('abandoned')} abandoned attempts,"
            f" {len(self.provider.calls)} calls, all ended after {checker.ran_for(self._ended()).total_seconds():.0f} s"
        )
        yield (
            f"{self.fleet.kills} workers killed, PostgreSQL restarted {self.restarts} times, {self.lost} messages lost,"
            f" {self.duplicated} doubled, {self.locks} tables locked, {self.drops} queues dropped,"
            f" {self.samples} samples"
        )
        if self._gateway is not None:
            yield f"{self._gateway.requests} requests to the Data API, {self.nonsense} answered with nonsense"
        yield from fairness.lines(self.turns, MAX_PARALLEL)
        yield f"PostgreSQL: fsync {self._fsync}"
        yield f"queue: {self.seconds:.0f} s, {len(self.violations)} violations"
