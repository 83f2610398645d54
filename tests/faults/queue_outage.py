"""An outage under queued retries: does it use up attempts, who asks meanwhile, and how soon is it over?

Two halves: at first connections to the provider are refused, then it answers 503 to everything. When it is back, every
retry has to succeed.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.faults.begins import NOTE_BEGINS
from tests.faults.queue_checker import ALWAYS
from tests.faults.queue_crowd import Crowd
from tests.faults.queue_fleet import Fleet
from tests.faults.queue_plan import MAX_PARALLEL
from tests.faults.queue_provider import MoodyProvider
from tools.stack import Stack
from tools.waiting import eventually

_FINISH_WITHIN = 240.0  # seconds after the outage
_COUNT_CALLS = """
do $$ begin execute format('alter database %I set track_functions = %L', current_database(), 'all'); end $$
"""
_CALLS = "select funcname as name, calls from pg_stat_user_functions where schemaname = 'public'"
_USED_UP = """
select format('%s: attempt %s was closed as %s: %s', a.generation_id, a.number, a.code, a.reason) as said
from public.ai_retry_attempts a
"""
_SUCCESSES = """
select extract(epoch from captured_at)::float as at from public.ai_retry_attempts
where captured_at is not null order by captured_at
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutagePlan:
    """How long, how many, and the numbers of the policy that it takes place with."""

    seconds: float = 60.0
    users: int = 50
    generations: int = 200
    workers: int = 4
    concurrency: int = 8
    thinking: tuple[float, float] = (0.5, 1.5)  # seconds of a call
    base: float = 2.0  # seconds of the policy's backoff and outages
    cap: float = 10.0

    @property
    def most_probes(self) -> int:
        """Calls that may be made while the provider is unavailable: those under way, then one after each wait."""
        growing = ceil(log2(max(1.0, self.cap / self.base))) + 1
        return self.workers * self.concurrency + growing + ceil(self.seconds / (self.cap / 2))


SMALL_OUTAGE = OutagePlan(
    seconds=5.0, users=10, generations=20, workers=2, concurrency=4, thinking=(0.05, 0.2), base=0.5, cap=2.0
)


class Outage:
    """One outage: accept, be unavailable, come back, wait for the last success."""

    def __init__(self, stack: Stack, plan: OutagePlan, directory: Path, *, seed: int) -> None:
        self.violations: list[str] = []
        self.calls: dict[str, Counter[str]] = {}
        self.successes: list[float] = []  # seconds after the provider was back
        self._url, self._plan = stack.database_url, plan
        self._rows(_COUNT_CALLS)
        self._rows(NOTE_BEGINS)
        self._provider = MoodyProvider(seed, failing=0.0, thinking=plan.thinking)
        self._crowd = Crowd(stack.database_url, [plan.generations // plan.users] * plan.users)
        env = {
            "DATABASE_URL": stack.database_url,
            "AI_BASE_URL": self._provider.base_url,
            "AI_MODEL": "any",
            "AI_RETRY_MAX_PARALLEL": f"{MAX_PARALLEL}",
            "AI_RETRY_BACKOFF_BASE_SECONDS": f"{plan.base:g}",
            "AI_RETRY_OUTAGE_CAP_SECONDS": f"{plan.cap:g}",
        }
        self._env = env
        self._fleet = Fleet(env, directory, workers=plan.workers, concurrency=plan.concurrency)

    def run(self) -> None:
        """Do it."""
        self._crowd.ask(self._env).join()
        with ExitStack() as opened:
            opened.callback(self._provider.go)
            opened.enter_context(self._fleet)
            self._wait_until_known()
            self._phase("refused", self._plan.seconds / 2)
            self._provider.be_unavailable(True)
            self._provider.come()
            self._phase("unavailable", self._plan.seconds / 2)
            self.violations += [row["said"] for row in self._rows(_USED_UP)]
            self._provider.be_unavailable(False)
            back = time.time()
            self._phase("recovery", _FINISH_WITHIN)
        self.successes = [row["at"] - back for row in self._rows(_SUCCESSES)]
        self._judge()

    def _wait_until_known(self) -> None:
        """Wait until no call is under way that began before the outage was known."""
        eventually(lambda: self._rows("select route from public.ai_retry_outages where since > '-infinity'"), within=60)
        known = self._rows("select clock_timestamp() as at")[0]["at"]
        began_before = "select number from public.ai_retry_open where lease_expires_at > %(at)s and started_at < %(at)s"
        eventually(lambda: not self._rows(began_before, at=known), within=60)

    def _phase(self, name: str, seconds: float) -> None:
        """Look on, until it is over or nothing is left to do."""
        before, ends = self._counted(), time.monotonic() + seconds
        while time.monotonic() < ends and (open_attempts := self._look()):
            time.sleep(min(0.2, max(0.0, ends - time.monotonic())))
        self.calls[name] = self._counted() - before
        if name == "recovery" and open_attempts:
            self.violations.append(f"{open_attempts} had not ended {seconds:g} s after the outage")

    def _look(self) -> int:
        for statement in ALWAYS:
            found = self._rows(statement, max_parallel=MAX_PARALLEL)
            self.violations += [f"during the outage: {row['said']}" for row in found]
        left: int = self._rows("select count(*) as n from public.ai_retry_open")[0]["n"]
        return left

    def _counted(self) -> Counter[str]:
        counted = Counter({row["name"]: row["calls"] for row in self._rows(_CALLS)})
        return counted + Counter(begins=self._rows("select count(*) as n from witness.begins")[0]["n"])

    def _rows(self, statement: str, **arguments: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self._url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def _judge(self) -> None:
        if len(self.successes) != len(self._crowd.accepted):
            self.violations.append(f"{len(self.successes)} of {len(self._crowd.accepted)} succeeded")
        if self.requests > self._plan.most_probes:
            self.violations.append(
                f"{self.requests} requests while it was unavailable, at most {self._plan.most_probes}"
            )
        if any(self._fleet.exits):
            self.violations.append(f"workers exited with {sorted(set(self._fleet.exits))}")

    @property
    def requests(self) -> int:
        """Requests that reached a provider who answered 503."""
        return sum(call.behaviour == "unavailable" for call in self._provider.calls)

    def lines(self) -> Iterator[str]:
        """What there is to say, the verdict last."""
        yield from self.violations
        plan, half = self._plan, self._plan.seconds / 2
        refused, unavailable = self.calls["refused"], self.calls["unavailable"]
        yield (
            f"{len(self._crowd.accepted)} queued, {plan.workers} workers of {plan.concurrency};"
            f" {half:g} s refused: {refused['begins']} calls tried;"
            f" {half:g} s of 503: {self.requests} requests"
        )
        yield "messages put back, and leases renewed, per second: " + ", ".join(
            f"{name} {calls['ai_retry_amend'] / seconds:.1f}"
            for name, calls, seconds in (
                ("refused", refused, half),
                ("503", unavailable, half),
                ("recovery", self.calls["recovery"], self.successes[-1] if self.successes else 1.0),
            )
        )
        if self.successes:
            ordered = self.successes
            yield (
                f"successes after the provider was back: first {ordered[0]:.1f} s,"
                f" half {ordered[len(ordered) // 2]:.1f} s, last {ordered[-1]:.1f} s"
            )
        yield f"outage: {plan.seconds:g} s, {len(self.violations)} violations"
