"""One failed generation over a storage in memory, and what a process does with it, by the loops of the core."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.change import Amend, Begin, CloseOver, Keep, Reply, Settle
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.loop import Loop, Setting, retrying
from ai_retry.domain.model import Answer, Context, Failure, GenerationStatus, QuotaRule, Snapshot, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import Clock
from ai_retry.domain.queue_loop import accepting, working
from ai_retry.domain.queue_model import QueueOutcome
from ai_retry.testing.memory import MemoryApp, MemoryStorage, Row
from tests.helpers.builders import an_answer
from tests.helpers.memory_world import MemoryWorld

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
        self.world = MemoryWorld(Hooked)
        self.storage = hooked(self.world)
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
        return self.drive(accepting(self.asked(**columns), self.setting.reader, self.setting.policy))

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
    """A storage that notes its calls, and whose methods can be made to do something first, or instead.

    Attributes:
        calls: names of the methods that were called.
        begins: the begins among them.
        loads: the arguments of the loads among them.
        hooks: functions by the name of the method before which they are called, with the change; what they return, but
            None, is the reply. What they call themselves is neither noted nor hooked.
    """

    def __init__(self, clock: Clock, app: MemoryApp) -> None:
        super().__init__(clock, app)
        self.calls: list[str] = []
        self.begins: list[Begin] = []
        self.loads: list[tuple[Any, ...]] = []
        self.hooks: Mapping[str, Callable[[Any], Any]] = {}
        self._in_hook = False

    def load(
        self, user_id: UUID, generation_id: UUID, rule: QuotaRule, token: UUID | None, *, creating: bool = False
    ) -> Snapshot | None:
        """Load, and note it."""
        self._note("load")
        self.loads.append((user_id, generation_id, rule, token))
        return super().load(user_id, generation_id, rule, token, creating=creating)

    def begin(self, change: Begin | CloseOver) -> Reply:
        """Begin, unless hooked."""
        if isinstance(change, Begin) and not self._in_hook:
            self.begins.append(change)
        return self._hooked("begin", change, super().begin)

    def settle(self, change: Settle) -> Reply:
        """Settle, unless hooked."""
        return self._hooked("settle", change, super().settle)

    def amend(self, change: Amend) -> Reply:
        """Amend, unless hooked."""
        return self._hooked("amend", change, super().amend)

    def keep(self, change: Keep) -> None:
        """Keep, and note it."""
        self._note("keep")
        super().keep(change)

    def _note(self, name: str) -> None:
        if not self._in_hook:
            self.calls.append(name)

    def _hooked(self, name: str, change: Any, then: Callable[[Any], Reply]) -> Reply:
        self._note(name)
        hook, reply = self.hooks.get(name), None
        if hook is not None and not self._in_hook:
            self._in_hook = True
            try:
                reply = hook(change)
            finally:
                self._in_hook = False
        return then(change) if reply is None else reply


def hooked(world: MemoryWorld) -> Hooked:
    """Return the storage of a world of that type."""
    assert isinstance(world.storage, Hooked)
    return world.storage


def hook(scene: Scene, **hooks: Callable[[Any], Any]) -> None:
    """Make methods of the scene's storage call these first; what they return, but None, is the reply."""
    scene.storage.hooks = hooks


def raising(error: Exception, times: int = 1_000) -> Callable[[Any], Any]:
    """Raise the error so many times, then nothing."""
    left = [times]

    def act(_: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return act
