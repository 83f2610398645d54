"""The loops, step by step: what exactly they yield, and what exactly they raise."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import CallRecord, CloseOver, Closing, Found, Keep, Postpone, Reply, Settle, Success
from ai_retry.domain.decide import begin
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import (
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    RetryInProgress,
    SessionRejected,
    StorageFailure,
    StorageUnavailable,
)
from ai_retry.domain.loop import SETTLE_TRIES, Call, Load, Loop, Setting, retrying
from ai_retry.domain.model import (
    Answer,
    Context,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    ProviderCall,
    ProviderOutcome,
    QuotaRule,
    RetryResult,
    Usage,
)
from ai_retry.domain.policy import RetryPolicy, provider_key
from ai_retry.domain.queue_loop import accepting, cancelling, working
from ai_retry.domain.queue_model import QueueOutcome
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.scene import POLICY, Provider, Scene, hook

SECOND = timedelta(seconds=1)


@pytest.fixture
def scene() -> Scene:
    """A new one for every test."""
    return Scene()


def snapshot_of(scene: Scene, token: UUID | None = None) -> Any:
    """The snapshot as it is now."""
    return scene.storage.load(scene.user_id, scene.generation_id, POLICY.quota, token)


def accepting_with(asked: Asked, setting: Setting) -> Loop[Any]:
    """An acceptance, asked for as a retry is."""
    return accepting(asked, setting.reader, setting.policy)


def called(
    scene: Scene, setting: Setting | None = None, begin_takes: timedelta = timedelta(0)
) -> tuple[Loop[Any], Any]:
    """A click whose begin took so long, and the step that follows."""
    scene.world.advance(SECOND)  # so that no clock reads zero
    loop: Any = retrying(scene.asked(), setting or scene.setting)
    next(loop)
    reply = scene.storage.begin(loop.send(snapshot_of(scene)))
    scene.world.advance(begin_takes)
    return loop, loop.send(reply)


class TestRetrying:
    """A click."""

    @pytest.mark.parametrize("loop", [retrying, accepting_with])
    def test_first_step_reads_the_generation(self, scene: Scene, loop: Callable[..., Loop[Any]]) -> None:
        """For its user, and with the token that this request's attempt would have."""
        asked = scene.asked()

        assert next(loop(asked, scene.setting)) == Load(
            user_id=asked.user_id, generation_id=asked.generation_id, token=asked.token
        )

    @pytest.mark.parametrize("loop", [retrying, accepting_with])
    def test_absent_generation_is_named(self, scene: Scene, loop: Callable[..., Loop[Any]]) -> None:
        """The error names the id that was asked for."""
        missing = uuid4()

        with pytest.raises(GenerationNotFound, match=str(missing)):
            scene.drive(loop(scene.asked(generation_id=missing), scene.setting))

    def test_call_asks_the_context_in_its_time(self, scene: Scene) -> None:
        """With the policy's deadline, the question's key, and the route that it began with."""
        setting = replace(scene.setting, policy=replace(POLICY, deadline=timedelta(seconds=9)))
        before = snapshot_of(scene)

        _, step = called(scene, setting)

        context = setting.reader.context_from(before.generation)
        assert step == Call(
            context=context,
            timeout=timedelta(seconds=9),
            idempotency_key=provider_key(before, context),
            route="one/small",
        )

    def test_slow_begin_shortens_the_call(self, scene: Scene) -> None:
        """The lease began no later than the begin was sent; a second of it is enough for a call."""
        _, step = called(scene, begin_takes=timedelta(seconds=29))

        assert isinstance(step, Call)
        assert step.timeout == SECOND

    @pytest.mark.parametrize(("begin_takes", "calls"), [(29.5, True), (29.6, False)])
    def test_half_of_a_short_deadline_is_enough(self, scene: Scene, begin_takes: float, calls: bool) -> None:
        """A deadline below two seconds leaves less to ask for."""
        setting = replace(scene.setting, policy=replace(POLICY, deadline=SECOND))

        _, step = called(scene, setting, timedelta(seconds=begin_takes))

        assert isinstance(step, Call) is calls

    def test_attempt_without_time_says_when_to_come(self, scene: Scene) -> None:
        """No answer is kept, since nothing was asked."""
        loop, step = called(scene, begin_takes=timedelta(seconds=34))

        with pytest.raises(LeaseLost) as caught:
            loop.send(scene.storage.settle(step))

        assert (caught.value.details, caught.value.retry_after) == ({"answer_kept": False}, SECOND)

    def test_call_that_answered_is_recorded(self, scene: Scene) -> None:
        """With the time it took."""
        loop, _ = called(scene)
        scene.world.advance(3 * SECOND)
        settle = loop.send(an_answer(wire_requests=2))

        assert isinstance(settle, Settle)
        assert isinstance(settle.end, Success)
        assert settle.end.answer == an_answer(wire_requests=2)
        assert settle.call == CallRecord(
            provider_outcome=ProviderOutcome.GENERATED,
            duration=3 * SECOND,
            model="small",
            usage=an_answer().usage,
            provider_id="gen-1",
            wire_requests=2,
            calls=(ProviderCall(model="small", usage=an_answer().usage, duration=3 * SECOND),),
        )

    @pytest.mark.parametrize("now", [Found.READY, Found.SUCCEEDED])
    def test_call_that_failed_is_recorded(self, scene: Scene, now: Found) -> None:
        """With the time it took, whatever became of the generation."""
        loop, _ = called(scene)
        scene.world.advance(3 * SECOND)
        settle = loop.send(a_failure())
        if now is Found.SUCCEEDED:
            scene.world.set_generation(scene.generation_id, status="success")
            settle = loop.send(scene.storage.settle(settle))  # type: ignore[arg-type]

        assert isinstance(settle, Settle)
        made = ProviderCall(model="small", code=FailureCode.UNAVAILABLE, duration=3 * SECOND)
        assert settle.call == CallRecord(
            provider_outcome=ProviderOutcome.UNKNOWN, duration=3 * SECOND, wire_requests=1, calls=(made,)
        )

    def test_stored_answer_is_settled_as_such(self, scene: Scene) -> None:
        """The settle names the attempt that paid, and no call."""
        scene.world.refuse_sessions("km_is_positive")
        with pytest.raises(SessionRejected):
            scene.retry()

        _, settle = called(scene)

        assert isinstance(settle, Settle)
        assert isinstance(settle.end, Success)
        assert (settle.end.answer_from, settle.call) == (2, None)

    def test_unstorable_output_is_a_whole_failure(self, scene: Scene) -> None:
        """It cost what it cost: it counts, it may pass, and its call is recorded."""
        loop, _ = called(scene)

        settle = loop.send(an_answer(output={"n": float("nan")}, wire_requests=3))

        assert isinstance(settle, Settle)
        assert isinstance(settle.end, Closing)
        end = settle.end
        assert (end.code, end.counted, end.transient) == (FailureCode.INVALID_OUTPUT.value, True, True)
        assert end.reason == "the output is not JSON that a database can hold"
        assert settle.call == CallRecord(
            provider_outcome=ProviderOutcome.GENERATED,
            duration=timedelta(0),
            model="small",
            usage=Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46),
            provider_id="gen-1",
            wire_requests=3,
            calls=(
                ProviderCall(
                    model="small",
                    code=FailureCode.INVALID_OUTPUT,
                    usage=Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46),
                    duration=timedelta(0),
                ),
            ),
        )

    def test_keep_carries_all_that_was_paid_for(self, scene: Scene) -> None:
        """Its wait is the one that the caller is answered."""
        loop, _ = called(scene)
        settle = loop.send(an_answer())
        assert isinstance(settle, Settle)

        keep = loop.throw(StorageUnavailable("55P03"))

        assert keep == Keep(
            user_id=scene.user_id,
            generation_id=scene.generation_id,
            token=settle.token,
            answer=an_answer(),
            cause="55P03",
            wait=timedelta(seconds=15),
            call=settle.call,  # type: ignore[arg-type]
        )
        with pytest.raises(SessionRejected) as caught:
            loop.send(None)
        assert (caught.value.details["constraint"], caught.value.retry_after) == ("55P03", timedelta(seconds=15))

    def test_same_token_again_begins_nothing(self, scene: Scene) -> None:
        """A request that is repeated whole gets what its attempt became; its own call used nothing."""
        asked = scene.asked()
        first = scene.drive(retrying(asked, scene.setting))
        provider = Provider(an_answer(output="another"))

        again = scene.drive(retrying(asked, scene.setting), provider)

        assert (again, provider.calls) == (replace(first, usage=None), 0)

    @pytest.mark.parametrize("loop", [retrying, accepting_with])
    def test_same_token_after_another_success_is_refused(self, scene: Scene, loop: Callable[..., Loop[Any]]) -> None:
        """The error names the generation."""
        asked = scene.asked()
        with pytest.raises(GenerationFailed):
            scene.drive(retrying(asked, scene.setting), a_failure())
        scene.retry()

        with pytest.raises(AlreadySucceeded, match=str(scene.generation_id)):
            scene.drive(loop(asked, scene.setting))

    def test_applied_settle_is_sent_no_third_time(self, scene: Scene) -> None:
        """Its attempt is closed: nothing is left to decide again."""
        loop, _ = called(scene)
        settle = loop.send(an_answer())
        scene.storage.settle(settle)  # type: ignore[arg-type]

        with pytest.raises(StopIteration) as done:
            loop.send(scene.storage.settle(settle))  # type: ignore[arg-type]

        assert isinstance(done.value.value, RetryResult)

    @pytest.mark.parametrize("result", [an_answer(), a_failure()], ids=["answer", "failure"])
    def test_deletion_and_success_are_named(self, scene: Scene, result: Answer | Failure) -> None:
        """By the generation's id."""
        succeed = lambda: scene.world.set_generation(scene.generation_id, status="success")  # noqa: E731
        with pytest.raises(AlreadySucceeded, match=str(scene.generation_id)):
            scene.retry(Provider(result, succeed))
        scene.world.set_generation(scene.generation_id, status="error")
        if isinstance(result, Failure):
            delete = lambda: scene.world.delete_generation(scene.generation_id)  # noqa: E731
            with pytest.raises(GenerationNotFound, match=str(scene.generation_id)):
                scene.retry(Provider(result, delete))

    def test_deletion_during_the_call_is_named(self, scene: Scene) -> None:
        """An answer whose generation is gone is a 404 that names it."""
        delete = lambda: scene.world.delete_generation(scene.generation_id)  # noqa: E731

        with pytest.raises(GenerationNotFound, match=str(scene.generation_id)):
            scene.retry(Provider(an_answer(), delete))

    def test_failure_after_an_unseen_success_names_the_generation(self, scene: Scene) -> None:
        """A failure never replaces the success of its own attempt."""

        def succeed() -> None:
            (row,) = scene.rows
            scene.storage._add(replace(row, outcome=Outcome.SUCCEEDED, closed_at=scene.world.clock.now()))

        with pytest.raises(AlreadySucceeded, match=str(scene.generation_id)):
            scene.retry(Provider(a_failure(), succeed))

    def test_applied_settle_is_not_decided_again(self, scene: Scene) -> None:
        """Whatever became of the generation since: the app may delete it just then."""
        loop, _ = called(scene)
        loop.send(an_answer())

        with pytest.raises(GenerationNotFound):
            loop.send(Reply(applied=True, snapshot=None))

    def test_generation_that_changes_without_end_is_reported(self, scene: Scene) -> None:
        """A failure that can't be settled is the storage's."""
        loop, _ = called(scene)
        step: Any = loop.send(a_failure())

        def change(step: Any) -> Any:
            other = GenerationStatus.SUCCESS if step.found is Found.READY else GenerationStatus.ERROR
            scene.world.set_generation(scene.generation_id, status=other)
            return loop.send(Reply(applied=False, snapshot=snapshot_of(scene, step.token)))

        for _ in range(SETTLE_TRIES - 1):
            step = change(step)

        with pytest.raises(StorageFailure) as caught:
            change(step)
        assert caught.value.reason == "generation_changes"


class TestQueue:
    """Retries that are accepted for later."""

    def test_lost_acceptance_is_described(self, scene: Scene) -> None:
        """The repeat of a begin finds what the first one accepted."""

        def twice(change: Any) -> Reply:
            MemoryStorage.begin(scene.storage, change)
            return MemoryStorage.begin(scene.storage, change)

        hook(scene, begin=twice)

        assert scene.accept().attempt == 2

    def test_acceptance_is_two_steps(self, scene: Scene) -> None:
        """What was applied is described from the reply."""
        loop: Any = accepting(scene.asked(), scene.setting.reader, scene.setting.policy)
        next(loop)

        with pytest.raises(StopIteration) as done:
            loop.send(scene.storage.begin(loop.send(snapshot_of(scene))))

        assert done.value.value.attempt == 2

    def test_cancellation_reads_for_its_user(self, scene: Scene) -> None:
        """And waits a second when others are at work."""
        loop: Any = cancelling(scene.user_id, scene.generation_id, scene.setting.policy)
        assert next(loop) == Load(user_id=scene.user_id, generation_id=scene.generation_id)
        scene.accept()
        hook(scene, settle=lambda _: Reply(applied=False, snapshot=None))

        with pytest.raises(RetryInProgress) as caught:
            scene.drive(cancelling(scene.user_id, scene.generation_id, scene.setting.policy))

        assert caught.value.retry_after == SECOND

    def test_message_of_nothing_closes_what_is_over(self, scene: Scene) -> None:
        """And is put back at once, so that one that belongs to nothing is deleted."""
        scene.accept()
        (taken,) = scene.storage.take(1, SECOND, POLICY.quota)
        loop: Any = working(replace(taken, snapshot=None), uuid4(), scene.setting)

        assert next(loop) == CloseOver(user_id=scene.user_id)
        assert loop.send(Reply(applied=True)) == Postpone(message=taken.message, wait=timedelta(0))
        with pytest.raises(StopIteration) as done:
            loop.send(Reply(applied=False))
        assert done.value.value is QueueOutcome.NOTHING

    def test_dead_workers_attempt_is_read_again(self, scene: Scene) -> None:
        """With the worker's own token, after what is over is closed; then the attempt that follows has its turn."""
        scene.accept()
        (taken,) = scene.storage.take(1, SECOND, POLICY.quota)
        dead: Any = working(taken, uuid4(), scene.setting)
        dead.send(scene.storage.begin(next(dead)))
        scene.world.advance(POLICY.lease + 9 * SECOND)
        token = uuid4()
        loop: Any = working(replace(taken, snapshot=snapshot_of(scene)), token, scene.setting)

        assert next(loop) == CloseOver(user_id=scene.user_id)
        scene.storage.begin(CloseOver(user_id=scene.user_id))
        assert loop.send(Reply(applied=True)) == Load(
            user_id=scene.user_id, generation_id=scene.generation_id, token=token
        )
        change = loop.send(snapshot_of(scene, token))
        assert (change.attempt.number, change.token) == (3, token)

    def test_ended_token_begins_no_next_attempt(self, scene: Scene) -> None:
        """A worker whose begin was applied, lost, and abandoned, leaves the attempt that follows to another token."""
        scene.accept()
        (taken,) = scene.storage.take(1, SECOND, POLICY.quota)
        loop: Any = working(taken, uuid4(), scene.setting)
        change = next(loop)
        scene.storage.begin(change)
        scene.world.advance(POLICY.lease)
        scene.storage.begin(CloseOver(user_id=scene.user_id))

        assert loop.send(scene.storage.begin(change)) == CloseOver(user_id=scene.user_id)


class TestDriver:
    """The synchronous driver."""

    def test_steps_reach_storage_and_provider_whole(self, scene: Scene) -> None:
        """Every argument is the step's."""
        calls: list[tuple[Any, ...]] = []

        class Recording:
            def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
                calls.append((context, timeout, idempotency_key))
                return an_answer()

        rule, asked, before = QuotaRule(limit=9), scene.asked(), snapshot_of(scene)

        drive(retrying(asked, scene.setting), storage=scene.storage, ai=Recording(), rule=rule)

        context = scene.setting.reader.context_from(before.generation)
        assert scene.storage.loads[1:] == [(asked.user_id, asked.generation_id, rule, asked.token)]
        assert calls == [(context, POLICY.deadline, provider_key(before, context))]

    def test_keep_is_done_once(self, scene: Scene) -> None:
        """And answers nothing."""

        def once() -> Loop[Any]:
            result = yield Keep(
                user_id=scene.user_id,
                generation_id=scene.generation_id,
                token=uuid4(),
                answer=an_answer(),
                cause="55P03",
                wait=SECOND,
                call=CallRecord(provider_outcome=ProviderOutcome.GENERATED),
            )
            return result

        assert scene.drive(once()) is None
        assert len(scene.storage.answers) == 1


def test_visible_is_what_its_user_owns_and_sees(scene: Scene) -> None:
    """Nothing else is."""
    snapshot = snapshot_of(scene)

    assert begin.visible(snapshot, scene.user_id) is snapshot
    assert begin.visible(snapshot, uuid4()) is None
    assert RetryPolicy() == POLICY
