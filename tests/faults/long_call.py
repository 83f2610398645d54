"""A call that takes much longer than its lease: its worker lives, is killed in the middle, or is stopped in the middle.

Three databases, one for each, side by side. The first call takes its time; those that follow are answered at once.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.queue import enqueue_generation
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.provider import Request, Script, ScriptedServer, chat
from tests.helpers.world import SqlWorld, owner_of
from tools.stack import Stack
from tools.waiting import eventually
from tools.worker_process import WorkerProcess, running_worker

_TIDY = timedelta(seconds=35)  # a worker looks for what is over every half minute
_SLACK = timedelta(seconds=15)  # of a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPlan:
    """How long, in seconds."""

    call: float = 90.0
    lease: float = 35.0
    until: float = 45.0  # into the call, when the worker is killed or stopped: its first lease would be over
    grace: float = 5.0


SHORT_CALL = LongPlan(call=8.0, lease=3.0, until=4.0, grace=1.0)


class LongCall:
    """The three, side by side."""

    def __init__(self, stack: Stack, plan: LongPlan, directory: Path) -> None:
        self.violations: list[str] = []
        self._stack, self._plan, self._directory = stack, plan, directory
        self._answered: list[str] = []

    def run(self) -> None:
        """Do it."""
        parts: Sequence[tuple[str, Callable[[_Scene], None]]] = (
            ("its worker lives", self._lives),
            ("killed in the middle", self._killed),
            ("SIGTERM in the middle", self._stopped),
        )
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(lambda part: self._play(*part), parts))

    def lines(self) -> Iterator[str]:
        """Say what happened, and what was wrong."""
        yield f"a call of {self._plan.call:g} s under a lease of {self._plan.lease:g} s:"
        yield from sorted(self._answered)
        yield from (f"VIOLATION {each}" for each in self.violations)
        yield f"{len(self.violations)} violations"

    def _play(self, name: str, part: "Callable[[_Scene], None]") -> None:
        database = f"long_{uuid4().hex}"
        url = self._stack.create_database(database, migrated=True)
        try:
            with ExitStack() as opened:
                storage = opened.enter_context(closing(PostgresStorage(url, max_connections=2)))
                world = SqlWorld(storage, opened.enter_context(owner_of(url)))
                scene = _Scene(name, url, world, self._plan, self._directory / f"{database}.log")
                scene.provider = opened.enter_context(scene.serving())
                part(scene)
                self._check(scene)
                self._answered += scene.answered
                self.violations += scene.violations
        finally:
            self._stack.drop_database(database)

    def _lives(self, scene: "_Scene") -> None:
        with scene.worker() as worker, scene.worker() as other:
            scene.succeeds()
            for each in (worker, other):
                each.signal(signal.SIGTERM)
                scene.expect(each.exit_code() == 0, "a worker did not stop in order")
        (row,) = scene.rows()
        took = row["closed_at"] - row["started_at"]
        scene.expect(took >= timedelta(seconds=self._plan.call), "the call was cut short")
        scene.answer(
            f"one attempt of {took.total_seconds():.1f} s, lease renewed to {scene.renewed:.1f} s after its begin"
        )
        scene.expect(scene.asked == 1, "a second worker called, too")

    def _killed(self, scene: "_Scene") -> None:
        with scene.worker() as worker:
            scene.middle()
            worker.signal(signal.SIGKILL)
            worker.exit_code()
            ended_at = datetime.now(UTC)  # one machine, one clock
        self._another_goes_on(scene, ended_at)

    def _stopped(self, scene: "_Scene") -> None:
        with scene.worker("--grace", f"{self._plan.grace:g}") as worker:
            scene.middle()
            began = time.monotonic()
            worker.signal(signal.SIGTERM)
            scene.expect(worker.exit_code() == 0, "the worker did not stop in order")
            scene.answer(f"exited {time.monotonic() - began:.1f} s after SIGTERM with --grace {self._plan.grace:g}")
            ended_at = datetime.now(UTC)  # one machine, one clock
        self._another_goes_on(scene, ended_at)

    def _another_goes_on(self, scene: "_Scene", ended_at: datetime) -> None:
        lease = timedelta(seconds=self._plan.lease)
        with scene.worker():
            scene.succeeds()
        first, second = scene.rows()
        free, closed = first["lease_expires_at"] - ended_at, first["closed_at"] - ended_at
        scene.answer(f"lease over {free.total_seconds():.1f} s later, noticed {closed.total_seconds():.1f} s later")
        scene.expect(free <= lease, "its lease outlived it by more than a lease")
        scene.expect(closed <= lease + _TIDY + _SLACK, "it was noticed late")
        known = (first["outcome"], first["provider_outcome"], second["outcome"])
        scene.expect(known == ("abandoned", "unknown", "succeeded"), f"it ended as {known}")
        scene.expect(scene.asked == 2, f"{scene.asked} calls were made")

    def _check(self, scene: "_Scene") -> None:
        """One session, one unit, whatever happened."""
        rows = scene.rows()
        scene.expect(sum(row["captured_at"] is not None for row in rows) == 1, "not one unit was captured")
        scene.expect(len(scene.world.sessions(scene.user_id)) == 1, "there is not one session")


@dataclass
class _Scene:
    """One accepted retry, its provider and its workers."""

    name: str
    url: str = field(repr=False)
    world: SqlWorld
    plan: LongPlan
    log: Path
    answered: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    asked: int = 0
    renewed: float = 0.0
    provider: ScriptedServer = field(init=False, repr=False)
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.user_id: UUID = self.world.new_user()
        self.generation_id: UUID = self.world.new_generation(self.user_id)
        enqueue_generation(self.user_id, self.generation_id, storage=self.world.storage)

    def serving(self) -> ScriptedServer:
        """Give the provider."""
        return ScriptedServer(default=self._answer)

    def _answer(self, _: Request) -> Script:
        self.asked += 1
        if self.asked == 1:
            self._over.wait(self.plan.call)
        return chat({"title": "long"})

    def worker(self, *options: str) -> "AbstractContextManager[WorkerProcess]":
        """Run one more worker."""
        env = {
            "DATABASE_URL": self.url,
            "AI_BASE_URL": self.provider.base_url,
            "AI_MODEL": "small",
            "AI_RETRY_DEADLINE_SECONDS": "3600",
            "AI_RETRY_LEASE_SECONDS": f"{self.plan.lease:g}",
            "AI_RETRY_SETTLE_MARGIN_SECONDS": "1",
        }
        return running_worker(env, self.log, concurrency=1, options=options)

    def middle(self) -> None:
        """Wait until the call has run for so long."""
        eventually(lambda: self.asked == 1, within=60)
        time.sleep(self.plan.until)

    def succeeds(self) -> None:
        """Wait for the session; see how far the lease reaches meanwhile."""

        def has_succeeded() -> bool:
            for row in self.rows():
                if row["lease_expires_at"] is not None and row["outcome"] is None:
                    self.renewed = (row["lease_expires_at"] - row["started_at"]).total_seconds()
            return str(self.world.generation(self.generation_id)["status"]) == "success"

        eventually(has_succeeded, within=self.plan.call + self.plan.lease + 120)

    def answer(self, what: str) -> None:
        """Report what happened."""
        self.answered.append(f"  {self.name}: {what}")

    def expect(self, holds: bool, violation: str) -> None:
        """Note a promise that was broken."""
        if not holds:
            self.violations.append(f"{self.name}: {violation}")

    def rows(self) -> list[dict[str, Any]]:
        """Its attempts."""
        return [dict(row) for row in self.world.attempts(self.generation_id)]
