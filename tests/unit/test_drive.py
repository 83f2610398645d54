"""The synchronous driver: watches, renewals, and who gets which exception."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain.change import Acceptance, Begin, CloseOver, Settle
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import AiRetryError, SessionRejected, StorageUnavailable, TooManyParallel
from ai_retry.domain.loop import Call, Load, Step, retrying
from ai_retry.domain.model import Outcome
from ai_retry.domain.queue_loop import accepting, cancelling
from tests.helpers.builders import SECOND, a_failure, an_answer
from tests.helpers.scene import POLICY, Provider, Scene, hook, raising


class Watching:
    """Notes each step, and raises what it is given: at a kind of step, before or after it is done."""

    def __init__(
        self, name: str, log: list[Any], *, at: type[object] | None = None, when: str = "", error: Any = None
    ) -> None:
        self.name, self.log, self.at, self.when, self.error = name, log, at, when, error

    def before(self, step: Step) -> None:
        """Note it."""
        self._look("before", step)

    def after(self, step: Step, result: Any) -> None:
        """Note it, and its result."""
        self._look("after", step, type(result).__name__)

    def _look(self, when: str, step: Step, *rest: str) -> None:
        self.log.append((self.name, when, type(step).__name__, *rest))
        if self.at is not None and isinstance(step, self.at) and when == self.when:
            raise self.error


@pytest.fixture
def scene() -> Scene:
    """A new one for every test."""
    return Scene()


def retry(scene: Scene, *watches: Any, ai: Any = None, **parts: Any) -> Any:
    """Retry, looked at."""
    loop = retrying(scene.asked(), scene.setting)
    ai = ai or Provider(an_answer())
    return drive(loop, storage=scene.storage, ai=ai, rule=POLICY.quota, watches=watches, **parts)


class TestWatches:
    """They look at each step, and may stop the loop."""

    def test_each_looks_before_and_after_each_step(self, scene: Scene) -> None:
        """In the order in which they are given; a result is what the loop is sent."""
        log: list[Any] = []

        retry(scene, Watching("a", log), Watching("b", log))

        steps = [("Load", "Snapshot"), ("Begin", "Reply"), ("Call", "Answer"), ("Settle", "Reply")]
        assert log == [
            (name, *look)
            for step, result in steps
            for look in (("before", step), ("after", step, result))
            for name in ("a", "b")
        ]

    def test_failed_call_is_a_result(self, scene: Scene) -> None:
        """A watch sees the failure that the loop is sent."""
        log: list[Any] = []

        with pytest.raises(AiRetryError):
            retry(scene, Watching("a", log), ai=Provider(a_failure()))

        assert ("a", "after", "Call", "Failure") in log

    def test_step_that_failed_has_no_result(self, scene: Scene) -> None:
        """What the storage raised is the loop's to answer: here it keeps the answer."""
        log: list[Any] = []
        hook(scene, settle=raising(StorageUnavailable("55P03")))

        with pytest.raises(SessionRejected):
            retry(scene, Watching("a", log))

        assert log[-3:] == [("a", "before", "Settle"), ("a", "before", "Keep"), ("a", "after", "Keep", "NoneType")]

    @pytest.mark.parametrize(
        ("at", "calls"),
        [(Load, []), (Begin, ["load"]), (Call, ["load", "begin"]), (Settle, ["load", "begin"])],
    )
    @pytest.mark.parametrize("error", [TooManyParallel(1, wait=SECOND), StorageUnavailable("08006"), KeyError("x")])
    def test_step_that_is_stopped_is_not_done(
        self, scene: Scene, at: type[object], calls: list[str], error: Exception
    ) -> None:
        """What a watch raises before a step leaves the driver, whatever it is: no loop answers it."""
        log: list[Any] = []
        provider = Provider(an_answer())

        with pytest.raises(type(error)) as caught:
            retry(scene, Watching("a", log, at=at, when="before", error=error), Watching("b", log), ai=provider)

        assert caught.value is error
        assert (scene.storage.calls, provider.calls) == (calls, int(at is Settle))
        assert log[-1][:2] == ("a", "before")

    @pytest.mark.parametrize(("at", "calls"), [(Load, 1), (Begin, 2), (Settle, 3)])
    def test_step_that_was_done_stays_done(self, scene: Scene, at: type[object], calls: int) -> None:
        """What a watch raises after a step leaves the driver; the storage knows what was done."""
        error = StorageUnavailable("08006")

        with pytest.raises(StorageUnavailable) as caught:
            retry(scene, Watching("a", [], at=at, when="after", error=error))

        assert caught.value is error
        assert len(scene.storage.calls) == calls


class TestRenewing:
    """A lease is renewed from its begin to the end of the loop."""

    @contextmanager
    def renewing(self, generation_id: UUID, token: UUID) -> Iterator[None]:
        """Note whose lease is held, and when it is not any more."""
        self.log.append((generation_id, token))
        try:
            yield
        finally:
            self.log.append("end")

    @pytest.fixture(autouse=True)
    def empty(self) -> None:
        """Note nothing yet."""
        self.log: list[Any] = []

    @pytest.mark.parametrize("at", [Begin, Call, Settle])
    def test_lease_ends_with_the_loop(self, scene: Scene, at: type[object]) -> None:
        """Also when a watch stops it; a begin that was stopped has none."""
        error = KeyError("x")

        with pytest.raises(KeyError):
            retry(scene, Watching("a", [], at=at, when="before", error=error), renewing=self.renewing)

        assert len(scene.storage.begins) == (at is not Begin)
        assert self.log == [
            held for each in scene.storage.begins for held in ((scene.generation_id, each.token), "end")
        ]

    def test_acceptance_has_no_lease(self, scene: Scene) -> None:
        """What waits for a worker is not held."""
        loop = accepting(scene.asked(), scene.setting.reader, scene.setting.policy)

        drive(loop, storage=scene.storage, ai=None, rule=POLICY.quota, renewing=self.renewing)

        assert isinstance(scene.storage.begins[0].attempt.start, Acceptance)
        assert self.log == []

    def test_closing_what_is_over_has_no_lease(self, scene: Scene) -> None:
        """It begins nothing."""

        def once() -> Any:
            return (yield CloseOver(user_id=scene.user_id))

        reply = drive(once(), storage=scene.storage, ai=None, rule=POLICY.quota, renewing=self.renewing)

        assert (reply.applied, self.log) == (True, [])


def test_loop_that_does_nothing_asks_for_nothing(scene: Scene) -> None:
    """A loop may end at once; it needs no provider."""

    def nothing(steps: Sequence[Step] = ()) -> Any:
        yield from steps
        return 7

    assert drive(nothing(), storage=scene.storage, ai=None, rule=POLICY.quota) == 7
    assert scene.storage.calls == []


def test_cancellation_is_driven_without_a_provider(scene: Scene) -> None:
    """What makes no call asks for none."""
    scene.accept()

    drive(cancelling(scene.user_id, scene.generation_id, POLICY), storage=scene.storage, ai=None, rule=POLICY.quota)

    assert scene.rows[0].outcome is Outcome.CANCELLED
