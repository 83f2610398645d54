"""One failed generation over a storage in memory, and what a process does with it, by the loops of the core."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from ai_retry.domain.change import Amend, Begin, CloseOver, Reply, Settle
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.loop import Loop, Setting, retrying
from ai_retry.domain.model import Answer, Context, Failure, GenerationStatus, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_loop import accepting, working
from ai_retry.domain.queue_model import QueueOutcome
from ai_retry.testing.memory import MemoryStorage, Row
from tests.support.builders import an_answer
from tests.support.memory_world import MemoryWorld

POLICY = RetryPolicy()


class Provider:
    """Answers what the test gives it, and may do something first."""

    def __init__(self, result: Answer | Failure, before: Callable[[], object] = lambda: None) -> None:
        self.result, self.before, self.calls = result, before, 0

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Answer or fail."""
        self.calls += 1
        self.before()
        if isinstance(self.result, Failure):
            raise GenerationFailed(self.result)
        return self.result


class Scene:
    """One failed generation of one user, and what a process does with it."""

    def __init__(self) -> None:
        self.world = MemoryWorld()
        self.storage: MemoryStorage = self.world.storage
        self.user_id = self.world.new_user()
        self.generation_id = self.world.new_generation(self.user_id)
        self.setting = Setting(
            policy=POLICY,
            reader=Reader(context_from=stored_context, route_of=lambda context: f"one/{context.model}"),
            monotonic=self.world.clock.monotonic,
            fraction=lambda: 0.0,
        )

    def asked(self, **columns: Any) -> Asked:
        """Ask for a retry, the wait lifted."""
        facts = {"user_id": self.user_id, "generation_id": self.generation_id, "token": uuid4()}
        return Asked(**facts | {"waive": frozenset({Waiver.BACKOFF})} | columns)

    def drive(self, loop: Loop[Any], result: Answer | Failure | Provider | None = None) -> Any:
        """Run a loop to its end."""
        ai = result if isinstance(result, Provider) else Provider(result or an_answer())
        return drive(loop, storage=self.storage, ai=ai, rule=POLICY.quota)

    def retry(self, result: Answer | Failure | Provider | None = None, **columns: Any) -> Any:
        """Retry now."""
        return self.drive(retrying(self.asked(**columns), self.setting), result)

    def accept(self, **columns: Any) -> Any:
        """Accept for later."""
        return self.drive(accepting(self.asked(**columns), self.setting))

    def work(self, result: Answer | Failure | Provider | None = None) -> QueueOutcome:
        """Let a worker take the message and do what it hints at."""
        (taken,) = self.storage.take(1, timedelta(seconds=40), POLICY.quota)
        outcome: QueueOutcome = self.drive(working(taken, uuid4(), self.setting), result)
        return outcome

    @property
    def rows(self) -> list[Row]:
        """The generation's attempts."""
        return sorted(self.storage.rows.values(), key=lambda row: row.number)

    @property
    def status(self) -> GenerationStatus:
        """What the app's row says."""
        return self.world.app.generations[self.generation_id].status


class Hooked(MemoryStorage):
    """A storage whose methods can be made to do something else, once or always."""

    hooks: dict[str, Callable[[Any], Any]]

    def begin(self, change: Begin | CloseOver) -> Reply:
        """Begin, unless hooked."""
        return self._hooked("begin", change, super().begin)

    def settle(self, change: Settle) -> Reply:
        """Settle, unless hooked."""
        return self._hooked("settle", change, super().settle)

    def amend(self, change: Amend) -> Reply:
        """Amend, unless hooked."""
        return self._hooked("amend", change, super().amend)

    def _hooked(self, name: str, change: Any, then: Callable[[Any], Reply]) -> Reply:
        hook = self.hooks.get(name)
        reply = hook(change) if hook is not None else None
        return then(change) if reply is None else reply


def hook(scene: Scene, **hooks: Callable[[Any], Any]) -> None:
    """Make methods of the scene's storage call these first; what they return, but None, is the reply."""
    scene.storage.__class__ = Hooked
    assert isinstance(scene.storage, Hooked)
    scene.storage.hooks = hooks


def raising(error: Exception, times: int = 1_000) -> Callable[[Any], Any]:
    """Raise the error so many times, then nothing."""
    left = [times]

    def act(_: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return act
