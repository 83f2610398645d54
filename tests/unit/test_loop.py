"""The loops, driven over a storage in memory: what they yield, and how they end when things go wrong."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import (
    Begin,
    CloseOver,
    Found,
    Keep,
    Postpone,
    PutBack,
    Renew,
    Reply,
    Settle,
)
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    NotConfigured,
    RetryInProgress,
    RouteUnavailable,
    SessionRejected,
    StorageFailure,
    StorageOutcomeUnknown,
    StorageUnavailable,
    TooManyParallel,
)
from ai_retry.domain.loop import Call, retrying
from ai_retry.domain.model import Answer, Failure, FailureCode, GenerationStatus, Outcome
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_loop import accepting, cancelling, working
from ai_retry.domain.queue_model import QueuedRetry, QueueOutcome
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.scene import POLICY, Provider, Scene, hook, raising

SLOW = timedelta(seconds=34)


@pytest.fixture
def scene() -> Scene:
    """A new one for every test."""
    return Scene()


class TestRetrying:
    """A click."""

    def test_failure_is_recorded(self, scene: Scene) -> None:
        """The error carries the wait, and the app's log has one line."""
        with pytest.raises(GenerationFailed) as caught:
            scene.retry(a_failure())

        assert caught.value.retry_after == timedelta(seconds=1)
        assert [row.code for row in scene.rows] == ["AI_UNAVAILABLE"]
        assert len(scene.world.app.error_logs) == 1

    def test_last_failure_has_no_wait(self, scene: Scene) -> None:
        """When the attempts are used up there is nothing to come back for."""
        for _ in range(POLICY.max_attempts - 1):
            with pytest.raises(GenerationFailed) as caught:
                scene.retry(a_failure())

        assert caught.value.retry_after is None

    def test_lost_begin_is_found_by_its_token(self, scene: Scene) -> None:
        """A begin that was applied, and whose reply was lost, is gone on with when it is sent again."""

        def twice(change: Begin) -> Reply:
            MemoryStorage.begin(scene.storage, change)
            return MemoryStorage.begin(scene.storage, change)

        hook(scene, begin=twice)

        assert scene.retry().attempt == 2

    def test_repeat_of_a_begin_after_the_end_is_in_progress(self, scene: Scene) -> None:
        """A begin whose attempt has been closed meanwhile calls no provider."""

        def lost(change: Begin) -> Reply:
            MemoryStorage.begin(scene.storage, change)
            scene.world.advance(POLICY.lease)
            MemoryStorage.begin(scene.storage, CloseOver(user_id=scene.user_id))
            return MemoryStorage.begin(scene.storage, change)

        hook(scene, begin=lost)
        provider = Provider(an_answer())

        with pytest.raises(AiRetryError):
            scene.retry(provider)

        assert provider.calls == 0

    def test_generation_that_vanishes_before_the_begin_is_not_found(self, scene: Scene) -> None:
        """A deletion between reading and beginning is a 404."""
        hook(scene, begin=lambda _: Reply(applied=False, snapshot=None))

        with pytest.raises(GenerationNotFound):
            scene.retry()

    def test_context_that_is_missing_is_reported(self, scene: Scene) -> None:
        """Without a context there is no route to ask about, and the refusal is the context's."""
        generation = scene.world.app.generations[scene.generation_id]
        scene.world.app.generations[scene.generation_id] = replace(generation, prompt_data=None)

        with pytest.raises(AiRetryError) as caught:
            scene.retry()

        assert caught.value.code == "CONTEXT_MISSING"

    def test_output_that_no_database_holds_is_a_failure(self, scene: Scene) -> None:
        """A provider of one's own may answer what is not JSON."""
        with pytest.raises(GenerationFailed) as caught:
            scene.retry(an_answer(output={"n": float("nan")}))

        assert caught.value.failure.code is FailureCode.INVALID_OUTPUT
        assert caught.value.failure.certainly_not_generated is False

    def test_stored_answer_without_a_storage_stays_stored(self, scene: Scene) -> None:
        """An answer that has its place already needs no last resort."""
        scene.world.refuse_sessions("km_is_positive")
        with pytest.raises(SessionRejected):
            scene.retry()
        hook(scene, settle=raising(StorageUnavailable("08006")))

        with pytest.raises(StorageUnavailable):
            scene.retry()

        assert len(scene.storage.answers) == 1


class TestWhatInterferes:
    """The app, another hand, or a storage that fails, while the provider is asked."""

    def test_answer_that_can_not_be_settled_is_kept(self, scene: Scene) -> None:
        """Whatever the app has locked, the answer has a place, and the next retry uses it without a call."""
        hook(scene, settle=raising(StorageUnavailable("55P03")))

        with pytest.raises(SessionRejected) as caught:
            scene.retry()

        assert caught.value.retry_after == timedelta(seconds=15)
        hook(scene)
        provider = Provider(an_answer(output="another"))
        assert (scene.retry(provider).session["content"], provider.calls) == (an_answer().output, 0)
        assert [row.code for row in scene.rows] == ["SESSION_REJECTED", None]
        assert [row.refused_constraint for row in scene.rows] == ["55P03", None]

    def test_lost_reply_of_a_settle_is_no_second_session(self, scene: Scene) -> None:
        """The repeat finds that its own attempt has succeeded."""

        def twice(change: Settle) -> Reply:
            MemoryStorage.settle(scene.storage, change)
            return MemoryStorage.settle(scene.storage, change)

        hook(scene, settle=twice)

        assert scene.retry().attempt == 2
        assert len(scene.world.app.sessions) == 1

    def test_failure_that_was_settled_before_is_the_same_failure(self, scene: Scene) -> None:
        """The repeat of a failure raises what the first one would have."""

        def twice(change: Settle) -> Reply:
            MemoryStorage.settle(scene.storage, change)
            return MemoryStorage.settle(scene.storage, change)

        hook(scene, settle=twice)

        with pytest.raises(GenerationFailed) as caught:
            scene.retry(a_failure())

        assert (caught.value.retry_after, len(scene.world.app.error_logs)) == (timedelta(seconds=1), 1)

    @pytest.mark.parametrize("result", [an_answer(), a_failure()], ids=["answer", "failure"])
    def test_another_hands_success_is_not_charged(self, scene: Scene, result: Answer | Failure) -> None:
        """The app's success during the call stays, and a paid answer is stored."""
        write = lambda: scene.world.set_generation(scene.generation_id, status="success")  # noqa: E731

        with pytest.raises(AlreadySucceeded):
            scene.retry(Provider(result, write))

        assert (scene.rows[0].code, scene.rows[0].captured_at) == ("ALREADY_SUCCEEDED", None)
        assert len(scene.storage.answers) == isinstance(result, Answer)

    @pytest.mark.parametrize("result", [an_answer(), a_failure()], ids=["answer", "failure"])
    def test_deleted_generation_is_not_found(self, scene: Scene, result: Answer | Failure) -> None:
        """The attempt is closed, and the answer goes with its generation."""
        delete = lambda: scene.world.delete_generation(scene.generation_id)  # noqa: E731

        with pytest.raises(GenerationNotFound):
            scene.retry(Provider(result, delete))

        assert (scene.rows[0].code, scene.storage.answers) == ("GENERATION_NOT_FOUND", {})

    def test_answer_of_a_moved_generation_is_stored(self, scene: Scene) -> None:
        """The generation is another user's now: its old user is answered 404, and the answer stays."""
        move = lambda: scene.world.set_generation(scene.generation_id, user_id=uuid4())  # noqa: E731

        with pytest.raises(GenerationNotFound):
            scene.retry(Provider(an_answer(), move))

        assert (scene.rows[0].code, len(scene.storage.answers)) == ("GENERATION_NOT_FOUND", 1)

    @pytest.mark.parametrize("result", [an_answer(), a_failure()], ids=["answer", "failure"])
    def test_abandoned_attempt_has_lost_its_lease(self, scene: Scene, result: Answer | Failure) -> None:
        """What comes after the attempt was closed changes nothing, but that an answer is stored."""

        def close() -> None:
            scene.world.advance(POLICY.lease)
            scene.storage.begin(CloseOver(user_id=scene.user_id))

        with pytest.raises(LeaseLost) as caught:
            scene.retry(Provider(result, close))

        assert caught.value.details["answer_kept"] is isinstance(result, Answer)

    def test_failure_after_the_generation_succeeded_by_its_token(self, scene: Scene) -> None:
        """A failure can't undo the success of its own attempt, whoever recorded it."""

        def succeed() -> None:
            (row,) = scene.rows
            scene.storage._add(replace(row, outcome=Outcome.SUCCEEDED, closed_at=scene.world.clock.now()))

        with pytest.raises(AlreadySucceeded):
            scene.retry(Provider(a_failure(), succeed))

    def test_generation_that_never_rests_is_kept(self, scene: Scene) -> None:
        """When the app changes it all the time, the answer is stored by the last resort."""
        finds = iter(Found)

        def restless(change: Settle) -> Reply:
            status = GenerationStatus.SUCCESS if next(finds, None) in (Found.READY, Found.FOREIGN) else None
            scene.world.set_generation(scene.generation_id, status=status or GenerationStatus.ERROR)
            return Reply(applied=False, snapshot=_snapshot_unlike(scene, change))

        hook(scene, settle=restless)

        with pytest.raises(SessionRejected):
            scene.retry()

        assert len(scene.storage.answers) == 1


def _snapshot_unlike(scene: Scene, change: Settle) -> Any:
    """A snapshot that finds something else than the change expects."""
    other = GenerationStatus.SUCCESS if change.found is Found.READY else GenerationStatus.ERROR
    scene.world.set_generation(scene.generation_id, status=other)
    return scene.storage.load(scene.user_id, scene.generation_id, POLICY.quota, change.token)


class TestAccepting:
    """A retry that is accepted for later."""


class TestCancelling:
    """A user takes an accepted retry back."""

    def cancel(self, scene: Scene) -> None:
        """Cancel."""
        scene.drive(cancelling(scene.user_id, scene.generation_id, scene.setting.policy))

    def test_nothing_queued_is_no_error(self, scene: Scene) -> None:
        """A repeat, or a generation that is gone, changes nothing."""
        self.cancel(scene)
        scene.world.delete_generation(scene.generation_id)
        self.cancel(scene)

        assert scene.rows == []

    def test_dead_workers_attempt_is_cancelled(self, scene: Scene) -> None:
        """What a dead worker left is closed, and what follows is cancelled."""
        scene.accept()
        (taken,) = scene.storage.take(1, timedelta(seconds=40), POLICY.quota)
        loop = working(taken, uuid4(), scene.setting)
        reply = scene.storage.begin(next(loop))  # type: ignore[arg-type]
        assert isinstance(loop.send(reply), Call)
        loop.close()
        with pytest.raises(RetryInProgress):
            self.cancel(scene)
        scene.world.advance(POLICY.lease)

        self.cancel(scene)

        assert [row.outcome for row in scene.rows] == [Outcome.ABANDONED, Outcome.CANCELLED]

    def test_changing_all_the_time_is_in_progress(self, scene: Scene) -> None:
        """A cancellation that is always stale comes back in a second."""
        scene.accept()
        hook(scene, settle=lambda _: Reply(applied=False, snapshot=None))

        with pytest.raises(RetryInProgress):
            self.cancel(scene)


class TestWorking:
    """What a worker does with a message."""

    def test_unsettled_answer_goes_on(self, scene: Scene) -> None:
        """An answer that is kept by the last resort is used by the attempt that follows."""
        scene.accept()
        hook(scene, settle=raising(StorageOutcomeUnknown("08006")))

        assert scene.work() is QueueOutcome.GOES_ON
        hook(scene)
        scene.world.advance(POLICY.lease)
        scene.storage.begin(CloseOver(user_id=scene.user_id))
        assert [(row.code, row.is_queued) for row in scene.rows] == [("SESSION_REJECTED", False), (None, True)]

    def test_hidden_generation_ends(self, scene: Scene) -> None:
        """What its user can't see is not called for, and does not wait for a day."""
        scene.accept()
        scene.world.app.hidden.add(scene.generation_id)

        assert scene.work() is QueueOutcome.ENDED
        assert scene.rows[0].outcome is Outcome.CANCELLED

    def test_message_waits_while_the_app_lets_its_user_do_no_more(self, scene: Scene) -> None:
        """What a unique index of the app refuses waits, and stops no worker."""
        scene.accept()
        hook(scene, begin=raising(TooManyParallel(1, wait=timedelta(seconds=5))))

        assert scene.work() is QueueOutcome.POSTPONED
        assert [row.is_queued for row in scene.rows] == [True]

    def test_message_of_nothing_is_dropped(self, scene: Scene) -> None:
        """A hint that is none costs nothing."""
        message_id = scene.storage.line.send(scene.user_id, uuid4(), scene.world.clock.now())

        assert scene.work() is QueueOutcome.NOTHING
        assert message_id not in scene.storage.line.messages


class TestDriver:
    """What the synchronous driver does with each step."""

    def test_storage_failure_reaches_the_loop(self, scene: Scene) -> None:
        """A loop that does not expect a failure of the storage ends with it."""
        hook(scene, begin=raising(StorageFailure("57P01")))

        with pytest.raises(StorageFailure):
            scene.retry()

    def test_renewal_prolongs_the_lease(self, scene: Scene) -> None:
        """A lease is renewed as far as its deadline allows, and not beyond."""
        policy = RetryPolicy(deadline=timedelta(minutes=2), lease=timedelta(minutes=3))
        setting = replace(scene.setting, policy=policy)
        loop = retrying(scene.asked(), setting)
        next(loop)
        step = loop.send(scene.storage.load(scene.user_id, scene.generation_id, POLICY.quota, None))
        assert isinstance(step, Begin)
        scene.storage.begin(step)
        scene.world.advance(timedelta(minutes=2, seconds=50))

        renew = Renew(generation_id=scene.generation_id, token=step.token, lease=timedelta(seconds=35))
        assert scene.storage.amend(renew).applied

        (row,) = scene.rows
        assert row.lease_expires_at == row.started_at + timedelta(minutes=3)
        assert not scene.storage.amend(replace(renew, token=uuid4())).applied

    def test_late_keep_is_stored(self, scene: Scene) -> None:
        """The last resort of an attempt that is closed already stores a late answer."""
        kept: list[Keep] = []

        def fail(change: Settle) -> None:
            if not kept:
                scene.world.advance(POLICY.lease)
                scene.storage.begin(CloseOver(user_id=scene.user_id))
            raise StorageUnavailable("08006")

        hook(scene, settle=fail)
        with pytest.raises(SessionRejected):
            scene.retry()

        assert [(row.outcome, row.code) for row in scene.rows] == [(Outcome.ABANDONED, "LEASE_LOST")]
        assert len(scene.storage.answers) == 1

    def test_postpone_of_a_running_attempt_waits_for_its_lease(self, scene: Scene) -> None:
        """A second hint at an attempt that runs comes back when its worker may be dead."""
        scene.accept()
        (taken,) = scene.storage.take(1, timedelta(seconds=1), POLICY.quota)
        loop = working(taken, uuid4(), scene.setting)
        loop.send(scene.storage.begin(next(loop)))  # type: ignore[arg-type]

        assert scene.storage.amend(Postpone(message=taken.message, wait=timedelta(0))).applied
        scene.world.advance(POLICY.lease - timedelta(seconds=1))
        assert scene.storage.take(1, timedelta(seconds=1), POLICY.quota) == []

    def test_put_back_of_what_is_closed_changes_nothing(self, scene: Scene) -> None:
        """A token whose attempt has ended is worth nothing."""
        scene.accept()
        scene.work()
        change = PutBack(
            user_id=scene.user_id,
            generation_id=scene.generation_id,
            token=scene.rows[0].token,
            wait=timedelta(0),
            reason="late",
            wire_requests=0,
            outage=None,
        )

        assert not scene.storage.amend(change).applied

    def test_accepting_without_a_queue_is_not_configured(self, scene: Scene) -> None:
        """Nothing is written where no worker could ever run it."""
        scene.storage.has_queue = False

        with pytest.raises(NotConfigured):
            scene.accept()
        with pytest.raises(NotConfigured):
            scene.storage.take(1, timedelta(seconds=1), POLICY.quota)
        assert scene.rows == []

    def test_message_of_a_foreign_user_is_dropped(self, scene: Scene) -> None:
        """A hint that names another user's generation runs nothing and ends nothing: only the hint goes."""
        scene.accept()
        scene.storage.line.send(UUID(int=1), scene.generation_id, scene.world.clock.now())
        own, stray = scene.storage.take(2, timedelta(seconds=1), POLICY.quota)

        assert scene.drive(working(stray, uuid4(), scene.setting)) is QueueOutcome.NOTHING

        assert scene.rows[-1].is_queued
        assert list(scene.storage.line.messages) == [own.message.id]


class TestRoutes:
    """A provider and model that are known to be unavailable."""

    def closed(self, scene: Scene) -> None:
        """Let a worker find the provider unavailable, for ten minutes."""
        other = scene.world.new_generation(scene.user_id)
        scene.drive(accepting(scene.asked(generation_id=other), scene.setting.reader, scene.setting.policy))
        scene.work(a_failure(certainly_not_generated=True, wire_requests=0, retry_after=timedelta(minutes=4)))

    def test_click_is_refused_while_the_route_is_closed(self, scene: Scene) -> None:
        """The refusal says when the route opens; nothing is called, and no attempt is begun."""
        self.closed(scene)
        provider = Provider(an_answer())

        with pytest.raises(RouteUnavailable) as caught:
            scene.retry(provider)

        assert (caught.value.retry_after, provider.calls) == (timedelta(minutes=4), 0)

    def test_retry_is_accepted_while_the_route_is_closed(self, scene: Scene) -> None:
        """An accepted retry waits for the route itself."""
        self.closed(scene)

        assert isinstance(scene.accept(), QueuedRetry)

    def test_one_call_probes_a_route_that_opens(self, scene: Scene) -> None:
        """While the first call runs, the next one is refused; after its answer two may run."""
        self.closed(scene)
        scene.world.advance(timedelta(minutes=4))
        loop = retrying(scene.asked(), scene.setting)
        next(loop)
        step = loop.send(scene.storage.load(scene.user_id, scene.generation_id, POLICY.quota, None))
        call = loop.send(scene.storage.begin(step))  # type: ignore[arg-type]
        assert isinstance(call, Call)
        other = scene.world.new_generation(scene.world.new_user())
        user_id = scene.world.app.generations[other].user_id

        with pytest.raises(RouteUnavailable):
            scene.retry(user_id=user_id, generation_id=other)
        with suppress(StopIteration):
            loop.send(scene.storage.settle(loop.send(an_answer())))  # type: ignore[arg-type]

        assert scene.retry(user_id=user_id, generation_id=other).attempt == 2

    def test_stored_answer_needs_no_route(self, scene: Scene) -> None:
        """An attempt that makes no call is not refused for a provider."""
        scene.world.refuse_sessions("km_is_positive")
        with pytest.raises(SessionRejected):
            scene.retry()
        scene.world.refuse_sessions(None)
        self.closed(scene)

        assert scene.retry().attempt == 3


class TestWhatIsOpen:
    """What a second request finds."""

    def running(self, scene: Scene) -> None:
        """Begin a click that does not end."""
        loop = retrying(scene.asked(), scene.setting)
        next(loop)
        step = loop.send(scene.storage.load(scene.user_id, scene.generation_id, POLICY.quota, None))
        scene.storage.begin(step)  # type: ignore[arg-type]

    def test_cancellation_of_a_dead_click_changes_nothing(self, scene: Scene) -> None:
        """There is nothing that was accepted."""
        self.running(scene)
        scene.world.advance(POLICY.lease)

        scene.drive(cancelling(scene.user_id, scene.generation_id, scene.setting.policy))

        assert scene.rows[0].outcome is None

    def test_message_without_an_accepted_attempt_is_nothing(self, scene: Scene) -> None:
        """A hint at a generation that a click runs is dropped."""
        self.running(scene)
        scene.storage.line.send(scene.user_id, scene.generation_id, scene.world.clock.now())

        assert scene.work() is QueueOutcome.NOTHING
