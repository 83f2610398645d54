"""One retry from end to end, over the storage in memory and a scripted provider."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import Begin, Reply
from ai_retry.domain.errors import (
    AlreadySucceeded,
    BackoffNotElapsed,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    RetryInProgress,
    SessionRejected,
    StorageUnavailable,
)
from ai_retry.domain.model import Answer, Failure, FailureCode, GenerationStatus, Outcome, RetryResult, Waiver
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.retry import retry_generation, retry_status
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import SECOND, a_context, a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.scene import Hooked, hooked, raising
from tests.helpers.steps import begin, close_over, fail, load

NOT_UUIDS: list[Any] = [
    "",
    "1",
    "not-a-uuid",
    "6f1c2f0e8a574c3e9f0a2b8a4f1d7c11",
    "{6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11}",
    "urn:uuid:6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11",
    "6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11 ",
    "6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c1g",
    b"6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11",
    17,
    None,
]


class Case:
    """A failed generation, and everything that a retry of it needs."""

    def __init__(self, *script: AiStep, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.world = MemoryWorld(Hooked)
        self.storage = hooked(self.world)
        self.ai = ScriptedAiProvider(*script)
        self.policy = policy
        self.user_id = self.world.new_user()
        self.generation_id = self.world.new_generation(self.user_id)

    def retry(self, **options: Any) -> RetryResult:
        """Retry it; waits are the longest possible."""
        arguments: dict[str, Any] = {
            "user_id": self.user_id,
            "generation_id": self.generation_id,
            "storage": self.storage,
            "ai": self.ai,
            "clock": self.world.clock,
            "policy": self.policy,
            "jitter": lambda: 1.0,
        }
        return retry_generation(**arguments | options)

    def retry_when_due(self, **options: Any) -> RetryResult:
        """Retry it once every backoff is over."""
        self.world.advance(self.policy.backoff_cap)
        return self.retry(**options)

    @property
    def attempts(self) -> Any:
        """Rows of its attempts."""
        return self.world.attempts(self.generation_id)


def taking(duration: timedelta, case: Case, step: Answer | Failure) -> AiStep:
    """Give a step that takes its time."""

    def answer_later(_: AiCall) -> Answer | Failure:
        case.world.advance(duration)
        return step

    return answer_later


def slow(case: Case, delay: timedelta) -> Callable[[Begin], Reply]:
    """Let the reply to a begin take so long."""

    def reply_later(change: Begin) -> Reply:
        reply = MemoryStorage.begin(case.storage, change)
        case.world.advance(delay)
        return reply

    return reply_later


class TestSuccess:
    """A retry that gets an answer ends with its session."""

    def test_retry_creates_the_session(self) -> None:
        """The answer becomes the session, the generation a success, and one unit is spent: one read, two changes."""
        case = Case(an_answer())

        result = case.retry()

        assert result.session["content"] == an_answer().output
        assert result.generation.status is GenerationStatus.SUCCESS
        assert (result.attempt, result.replayed, result.quota.remaining) == (2, False, 4)
        assert case.storage.calls == ["load", "begin", "settle"]

    def test_retry_asks_with_the_stored_context(self) -> None:
        """The provider gets what is stored with the generation, unless the app reads it otherwise."""
        case = Case(an_answer())

        case.retry()

        assert [call.context for call in case.ai.calls] == [a_context()]

    def test_retry_records_how_long_the_call_took(self) -> None:
        """The generation's duration is the call's."""
        case = Case()
        case.ai = ScriptedAiProvider(taking(3 * SECOND, case, an_answer()))

        assert case.retry().generation.duration == 3 * SECOND

    @pytest.mark.parametrize("spelling", [str, lambda value: str(value).upper()])
    def test_retry_takes_ids_as_strings(self, spelling: Callable[[UUID], str]) -> None:
        """A UUID's canonical string, in either case, is as good as the UUID."""
        case = Case(an_answer())

        case.retry(user_id=spelling(case.user_id), generation_id=spelling(case.generation_id))

        assert case.ai.calls

    def test_retry_records_who_lifted_what(self) -> None:
        """Waivers, charge and operator are recorded with the attempt; an uncharged success spends nothing."""
        case = Case(an_answer())
        case.world.set_quota(case.user_id, 0, timedelta(hours=1))

        case.retry(waive=frozenset({Waiver.QUOTA}), charge=False, operator="ann")

        (row,) = case.attempts
        assert (row["waived"], row["charge"], row["operator"]) == ({"quota"}, False, "ann")
        assert row["captured_at"] is None


class TestResult:
    """What a caller learns of the session and of the call."""

    def test_session_id_is_a_string(self) -> None:
        """It is the generation's, whatever the app's sessions have as ids."""
        case = Case(an_answer())
        case.world.app.create_session = lambda *_: {"id": "4711", "user_id": str(case.user_id), "content": {}}

        result = case.retry()

        assert result.session_id == result.generation.session_id == "4711"

    def test_id_of_a_removed_session_is_the_generations(self) -> None:
        """A success whose session the app removed at once still has its id."""
        case = Case(an_answer())

        def settled(change: Any) -> Reply:
            MemoryStorage.settle(case.storage, change)
            case.world.app.sessions.clear()
            return MemoryStorage.settle(case.storage, change)

        case.storage.hooks = {"settle": settled}

        result = case.retry()

        assert (result.session, result.session_id) == ({}, result.generation.session_id)

    def test_usage_is_the_calls(self) -> None:
        """What the provider says its answer used."""
        assert Case(an_answer()).retry().usage == an_answer().usage

    def test_usage_is_unknown_where_the_provider_is_silent(self) -> None:
        """Nothing is made up."""
        assert Case(an_answer(usage=None)).retry().usage is None

    def test_stored_answer_used_nothing(self) -> None:
        """Its call belonged to another retry, which is where its usage is recorded."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            case.retry()
        case.world.refuse_sessions(None)

        assert case.retry_when_due().usage is None
        assert [row["usage"] is not None for row in case.attempts] == [True, False]

    def test_replay_used_nothing(self) -> None:
        """A request that is answered from an earlier one has its session, and no usage."""
        case = Case(an_answer())
        first = case.retry(idempotency_key="key-1")

        second = case.retry(idempotency_key="key-1")

        assert (second.session_id, second.usage) == (first.session_id, None)


class TestInput:
    """What can't be an id is refused before anything is read."""

    @pytest.mark.parametrize("name", ["user_id", "generation_id"])
    @pytest.mark.parametrize("value", NOT_UUIDS)
    def test_retry_refuses_what_is_not_a_uuid(self, name: str, value: Any) -> None:
        """A string that is not a canonical UUID never reaches the storage."""
        case = Case()

        with pytest.raises(ValueError, match=rf"^{name} must be a UUID"):
            case.retry(**{name: value})
        assert case.storage.calls == []

    @pytest.mark.parametrize("value", NOT_UUIDS)
    def test_status_refuses_what_is_not_a_uuid(self, value: Any) -> None:
        """Nor does it by way of the status."""
        case = Case()

        with pytest.raises(ValueError, match=r"^generation_id must be a UUID"):
            retry_status(case.user_id, value, storage=case.storage)
        assert case.storage.calls == []

    def test_retry_raises_for_unknown_generation(self) -> None:
        """A generation that the user does not have is not found; nothing is written."""
        case = Case()

        with pytest.raises(GenerationNotFound):
            case.retry(generation_id=uuid4())
        assert case.storage.calls == ["load"]

    def test_retry_raises_what_admit_refuses(self) -> None:
        """A refusal is raised before anything is written."""
        case = Case()
        case.world.set_generation(case.generation_id, status="success")

        with pytest.raises(AlreadySucceeded):
            case.retry()
        assert case.storage.calls == ["load"]


class TestFailure:
    """A retry that gets no answer is recorded, and says when the next one is due."""

    @pytest.mark.parametrize(("fraction", "wait"), [(0.0, SECOND), (1.0, 2 * SECOND)])
    def test_failed_retry_says_its_recorded_wait(self, fraction: float, wait: timedelta) -> None:
        """The error's wait is the one that the storage recorded; jitter says where in its range it is."""
        case = Case(a_failure())

        with pytest.raises(GenerationFailed) as caught:
            case.retry(jitter=lambda: fraction)

        (row,) = case.attempts
        assert (caught.value.code, caught.value.failure) == ("AI_UNAVAILABLE", a_failure())
        assert caught.value.retry_after == row["next_attempt_at"] - row["closed_at"] == wait

    def test_failed_retry_keeps_to_what_provider_asks(self) -> None:
        """The provider's own wait is a floor."""
        case = Case(a_failure(retry_after=90 * SECOND))

        with pytest.raises(GenerationFailed) as caught:
            case.retry()

        assert caught.value.retry_after == 90 * SECOND
        with pytest.raises(BackoffNotElapsed) as refused:
            case.retry()
        assert refused.value.retry_after == 90 * SECOND

    def test_failed_retry_gives_the_unit_back(self) -> None:
        """A failure holds and spends nothing."""
        case = Case(a_failure())

        with pytest.raises(GenerationFailed):
            case.retry()

        quota = load(case.world, case.user_id, case.generation_id).quota
        assert (quota.held, quota.captured) == (0, 0)

    def test_crash_leaves_attempt_to_its_lease(self) -> None:
        """An attempt whose process dies is open until its lease ends; then it can be tried again."""
        case = Case(KeyboardInterrupt(), an_answer())
        with pytest.raises(KeyboardInterrupt):
            case.retry()
        with pytest.raises(RetryInProgress):
            case.retry()

        result = case.retry_when_due()

        assert result.attempt == 3
        assert [row["outcome"] for row in case.attempts] == ["abandoned", "succeeded"]

    def test_failure_of_the_storage_is_raised(self) -> None:
        """A failed call that the storage could not record is the storage's failure, not the provider's."""
        case = Case(a_failure())
        case.storage.hooks = {"settle": raising(StorageUnavailable("55P03"))}

        with pytest.raises(StorageUnavailable):
            case.retry()


class TestBegin:
    """Between reading and beginning, and between beginning and calling, anything may happen."""

    def test_stale_begin_is_decided_again(self) -> None:
        """After a stale begin the retry decides anew, on what the reply carries, under the same token."""
        case = Case(an_answer())
        stale = iter([True, True, False])

        def interfere(_: Begin) -> None:
            if next(stale):
                fail(case.world, begin(case.world, case.user_id, case.generation_id))

        case.storage.hooks = {"begin": interfere}

        result = case.retry()

        assert result.attempt == 4
        assert case.storage.calls == ["load", "begin", "begin", "begin", "settle"]
        assert len({each.token for each in case.storage.begins}) == 1
        assert len({each.expected.version for each in case.storage.begins}) == 3

    def test_three_stale_begins_are_in_progress(self) -> None:
        """A snapshot that is stale three times in a row means that others are at work; no provider is called."""
        case = Case()
        other = {"status": "error"}

        def interfere(_: Begin) -> None:
            other["status"] = "timeout" if other["status"] == "error" else "error"
            case.world.set_generation(case.generation_id, **other)

        case.storage.hooks = {"begin": interfere}

        with pytest.raises(RetryInProgress) as caught:
            case.retry()

        assert caught.value.retry_after == SECOND
        assert case.storage.calls == ["load", "begin", "begin", "begin"]
        assert case.attempts == []

    @pytest.mark.parametrize("delay", [29.5, 30, 34, 40])
    def test_too_slow_begin_is_given_back(self, delay: float) -> None:
        """With less than a second left no provider is called; the attempt ends uncounted and the unit is free."""
        case = Case()
        case.storage.hooks = {"begin": slow(case, timedelta(seconds=delay))}

        with pytest.raises(LeaseLost) as caught:
            case.retry()

        (row,) = case.attempts
        assert (row["outcome"], row["code"], row["counted"]) == (Outcome.FAILED, FailureCode.LEASE_LOST, False)
        assert (row["provider_outcome"], row["wire_requests"]) == ("not_generated", 0)
        assert caught.value.retry_after == row["next_attempt_at"] - row["closed_at"]
        assert caught.value.details == {"answer_kept": False}
        assert load(case.world, case.user_id, case.generation_id).quota.held == 0

    def test_answer_after_the_lease_counts(self) -> None:
        """An answer that comes after the lease counts as long as the attempt was not closed."""
        case = Case()
        case.ai = ScriptedAiProvider(taking(timedelta(hours=1), case, an_answer()))

        assert case.retry().generation.status is GenerationStatus.SUCCESS

    def test_superseded_answer_is_used_next(self) -> None:
        """An answer to an attempt that was given up is stored; a retry after the wait uses it and calls no provider."""
        case = Case()

        def answer_too_late(_: AiCall) -> Answer:
            case.world.advance(timedelta(minutes=1))
            close_over(case.world, case.user_id)
            return an_answer()

        case.ai = ScriptedAiProvider(answer_too_late)
        with pytest.raises(LeaseLost) as caught:
            case.retry()

        assert caught.value.retry_after is not None
        case.world.advance(caught.value.retry_after)
        result = case.retry()

        assert caught.value.details == {"answer_kept": True}
        assert result.session["content"] == an_answer().output
        assert len(case.ai.calls) == 1


class TestStoredAnswer:
    """A paid answer is used, not asked for again."""

    def test_rejected_session_is_created_by_next_retry(self) -> None:
        """After a rejected session the next retry creates it from the stored answer, without a call."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected) as caught:
            case.retry()
        case.world.refuse_sessions(None)

        result = case.retry_when_due()

        assert caught.value.retry_after == 2 * SECOND
        assert result.session["content"] == an_answer().output
        assert (len(case.ai.calls), result.quota.captured) == (1, 1)
        assert case.attempts[-1]["provider_outcome"] == "not_generated"

    def test_slow_begin_does_not_matter(self) -> None:
        """Without a call there is no deadline to keep."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            case.retry()
        case.world.refuse_sessions(None)
        case.storage.hooks = {"begin": slow(case, 40 * SECOND)}

        assert case.retry_when_due().attempt == 3

    def test_old_answer_is_not_used(self) -> None:
        """An answer that is older than the policy allows becomes no session: the provider is called (row 1.18)."""
        case = Case(an_answer(), an_answer(output="today's"), policy=RetryPolicy(answer_max_age=timedelta(hours=1)))
        case.world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            case.retry()
        case.world.refuse_sessions(None)
        case.world.advance(timedelta(hours=1, seconds=1))

        result = case.retry()

        assert (result.session["content"], len(case.ai.calls)) == ("today's", 2)
        assert result.quota.captured == 1

    def test_answer_of_that_age_is_used(self) -> None:
        """Up to its greatest age, and however old it is without one, a stored answer is used."""
        for policy in (RetryPolicy(answer_max_age=timedelta(hours=1)), DEFAULT_POLICY):
            case = Case(an_answer(), policy=policy)
            case.world.refuse_sessions("title_is_short")
            with pytest.raises(SessionRejected):
                case.retry()
            case.world.refuse_sessions(None)
            case.world.advance(policy.answer_max_age or timedelta(days=21))

            assert case.retry().session["content"] == an_answer().output


class TestIdempotencyKey:
    """A key belongs to the latest attempt made with it; only a success is replayed."""

    def test_success_is_replayed(self) -> None:
        """The same key again gives the same session, without a call or an attempt."""
        case = Case(an_answer())
        first = case.retry(idempotency_key="key-1")

        second = case.retry(idempotency_key="key-1")

        assert second.replayed
        assert (second.session, second.attempt) == (first.session, first.attempt)
        assert len(case.attempts) == len(case.ai.calls) == 1

    @pytest.mark.parametrize("key", [None, "key-2"])
    def test_success_is_replayed_only_for_its_key(self, key: str | None) -> None:
        """Another key, or none, is answered that the generation has succeeded."""
        case = Case(an_answer())
        case.retry(idempotency_key="key-1")

        with pytest.raises(AlreadySucceeded):
            case.retry(idempotency_key=key)

    def test_failure_is_not_replayed(self) -> None:
        """After a failure the same key makes a new attempt, whose success it replays then."""
        case = Case(a_failure(), an_answer())
        with pytest.raises(GenerationFailed):
            case.retry(idempotency_key="key-1")

        second = case.retry_when_due(idempotency_key="key-1")
        third = case.retry(idempotency_key="key-1")

        assert (second.replayed, third.replayed) == (False, True)
        assert second.session == third.session

    def test_key_gets_past_no_refusal(self) -> None:
        """A failure's wait is waited for, whatever the key."""
        case = Case(a_failure())
        with pytest.raises(GenerationFailed):
            case.retry(idempotency_key="key-1")

        with pytest.raises(BackoffNotElapsed):
            case.retry(idempotency_key="key-1")

    def test_removed_session_is_not_replayed(self) -> None:
        """Once the app removed the session there is nothing to give again, nor to retry."""
        case = Case(an_answer())
        case.retry(idempotency_key="key-1")
        case.world.app.sessions.clear()

        with pytest.raises(AlreadySucceeded):
            case.retry(idempotency_key="key-1")


class TestStatus:
    """``retry_status`` says what a retry would be answered, and writes nothing."""

    def test_status_of_what_may_be_retried_has_no_refusal(self) -> None:
        """A retry would begin now."""
        case = Case()

        status = retry_status(case.user_id, case.generation_id, storage=case.storage)

        assert (status.can_retry, status.refusal) == (True, None)
        assert status.snapshot.generation.id == case.generation_id
        assert case.storage.calls == ["load"]
        assert case.storage.loads == [(case.user_id, case.generation_id, DEFAULT_POLICY.quota, None)]

    def test_status_has_the_refusal(self) -> None:
        """One that may not comes with what a retry would raise."""
        case = Case(a_failure())
        with pytest.raises(GenerationFailed) as failed:
            case.retry()

        status = retry_status(case.user_id, case.generation_id, storage=case.storage)

        assert isinstance(status.refusal, BackoffNotElapsed)
        assert status.refusal.retry_after == failed.value.retry_after

    def test_status_raises_for_unknown_generation(self) -> None:
        """There is no status of nothing."""
        case, unknown = Case(), uuid4()

        with pytest.raises(GenerationNotFound, match=str(unknown)):
            retry_status(case.user_id, unknown, storage=case.storage)
