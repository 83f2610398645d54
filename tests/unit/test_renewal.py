"""Leases are renewed while their holders work, by one thread, and no longer."""

import threading
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import Amend, Begin, CloseOver, Renew, Reply
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import LeaseLost, StorageUnavailable
from ai_retry.domain.loop import Setting, retrying
from ai_retry.domain.model import Answer, Context, RetryResult
from ai_retry.domain.policy import RetryPolicy
from ai_retry.renewal import LeaseRenewer
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import an_answer
from tests.helpers.memory_world import MemoryWorld

POLICY = RetryPolicy(deadline=timedelta(seconds=20), lease=timedelta(seconds=30))
LEASE = timedelta(milliseconds=90)  # of the renewer: a renewal each 30 ms
PATIENCE = 10.0  # seconds; more than any of these waits takes


class Watched(MemoryStorage):
    """A storage that counts renewals, and may refuse some."""

    def watch(self) -> None:
        """Begin to count."""
        self.renewals: list[UUID] = []
        self.refusals = 0
        self.refusal: Exception = StorageUnavailable("55P03")
        self.renewed = threading.Condition()

    def amend(self, change: Amend) -> Reply:
        """Amend, and count."""
        if not isinstance(change, Renew):
            return super().amend(change)
        with self.renewed:
            self.renewals.append(change.generation_id)
            self.renewed.notify_all()
            if self.refusals:
                self.refusals -= 1
                raise self.refusal
        return super().amend(change)

    def wait_for(self, renewals: int) -> None:
        """Wait until so many renewals were asked for."""
        with self.renewed:
            assert self.renewed.wait_for(lambda: len(self.renewals) >= renewals, PATIENCE)


class Scene:
    """A generation, and a call that lasts until so many renewals."""

    def __init__(self) -> None:
        self.world = MemoryWorld()
        self.world.storage.__class__ = Watched
        assert isinstance(self.world.storage, Watched)
        self.storage: Watched = self.world.storage
        self.storage.watch()
        self.user_id = self.world.new_user()
        self.generation_id = self.world.new_generation(self.user_id)
        self.renewer = LeaseRenewer(self.storage, LEASE)
        self.renewals_per_call = 3

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Answer after some renewals."""
        self.storage.wait_for(self.renewals_per_call)
        return an_answer()

    def retry(self) -> RetryResult:
        """Retry, with renewals."""
        setting = Setting(
            policy=POLICY, reader=Reader(context_from=stored_context), monotonic=lambda: 0.0, fraction=lambda: 0.0
        )
        asked = Asked(user_id=self.user_id, generation_id=self.generation_id, token=uuid4())
        return drive(
            retrying(asked, setting), storage=self.storage, ai=self, rule=POLICY.quota, renewing=self.renewer.renewing
        )

    def thread_has_ended(self) -> bool:
        """Whether the renewer's thread ends when nothing is held."""
        for thread in threading.enumerate():
            if thread.name == "ai-retry-leases":
                thread.join(PATIENCE)
                return not thread.is_alive()
        return True


@pytest.fixture
def scene() -> Scene:
    """A new one for every test."""
    return Scene()


def test_lease_is_renewed_while_the_call_lasts(scene: Scene) -> None:
    """A call that is longer than a lease ends with its session, and nothing is renewed afterwards."""
    assert scene.retry().attempt == 2

    assert scene.thread_has_ended()
    assert set(scene.storage.renewals) == {scene.generation_id}


def test_renewal_that_fails_is_tried_again(scene: Scene) -> None:
    """A storage that is unavailable for a turn ends no lease."""
    scene.storage.refusals = 2

    assert scene.retry().attempt == 2


def test_defect_ends_no_other_lease(scene: Scene) -> None:
    """An error that no storage should raise does not end the thread: leases are renewed in the turns that follow."""
    scene.storage.refusals, scene.storage.refusal = 2, ValueError("a defect")

    assert scene.retry().attempt == 2
    assert scene.thread_has_ended()


def test_closed_attempt_is_renewed_once_at_most(scene: Scene) -> None:
    """A renewal that finds its attempt closed ends the lease; the answer is stored as a late one."""

    def close(change: Begin | CloseOver) -> Reply:
        reply = MemoryStorage.begin(scene.storage, change)
        if isinstance(change, Begin):
            scene.world.advance(POLICY.lease)
            MemoryStorage.begin(scene.storage, CloseOver(user_id=scene.user_id))
        return reply

    scene.storage.begin = close  # type: ignore[method-assign]
    scene.renewals_per_call = 1

    with pytest.raises(LeaseLost) as caught:
        scene.retry()

    assert caught.value.details["answer_kept"]
    assert scene.thread_has_ended()
    assert len(scene.storage.renewals) == 1


def test_one_thread_renews_all_leases(scene: Scene) -> None:
    """However many leases a process holds, one thread renews them."""
    others = set(threading.enumerate())

    with scene.renewer.renewing(uuid4(), uuid4()), scene.renewer.renewing(uuid4(), uuid4()):
        assert [thread.name for thread in set(threading.enumerate()) - others] == ["ai-retry-leases"]
    assert scene.thread_has_ended()


def test_attempt_that_gets_no_thread_is_never_renewed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left the attempt is given up: no later one's thread renews its lease."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError), scene.renewer.renewing(uuid4(), uuid4()):
            pass
    with scene.renewer.renewing(scene.generation_id, uuid4()):
        scene.storage.wait_for(1)

    assert scene.thread_has_ended()
    assert set(scene.storage.renewals) == {scene.generation_id}
