"""One retry from end to end, over the storage in memory and a scripted provider."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.errors import (
    AlreadySucceeded,
    AttemptsExhausted,
    BackoffNotElapsed,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    RetryInProgress,
    SessionRejected,
    StorageUnavailable,
)
from ai_retry.domain.model import (
    Admission,
    Answer,
    Claim,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    QuotaRule,
    RetryResult,
    Settled,
    Snapshot,
    Waiver,
)
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.ports import Storage
from ai_retry.domain.retry import retry_generation, retry_status
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.testing.contract import MemoryWorld, claim_of, fail, load
from tests.support.builders import SECOND, a_context, a_failure, an_answer

Reply = TypeVar("Reply")

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


class WatchedStorage:
    """A storage that notes its calls, and lets a test come between a call and its reply."""

    def __init__(self, inner: Storage) -> None:
        self.calls: list[str] = []
        self.tokens: list[UUID] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}
        self._inner = inner

    def load(self, user_id: UUID, generation_id: UUID, quota_rule: QuotaRule) -> Snapshot | None:
        """Pass it on."""
        return self._pass("load", lambda: self._inner.load(user_id, generation_id, quota_rule))

    def claim(self, admission: Admission, *, token: UUID, lease: timedelta) -> Claim | None:
        """Pass it on, and note the token."""
        self.tokens.append(token)
        return self._pass("claim", lambda: self._inner.claim(admission, token=token, lease=lease))

    def succeed(self, claim: Claim, answer: Answer, **arguments: Any) -> Settled:
        """Pass it on."""
        return self._pass("succeed", lambda: self._inner.succeed(claim, answer, **arguments))

    def fail(self, claim: Claim, failure: Failure, *, duration: timedelta | None, delay: timedelta) -> None:
        """Pass it on."""
        self._pass("fail", lambda: self._inner.fail(claim, failure, duration=duration, delay=delay))

    def discard_answer(self, user_id: UUID, generation_id: UUID, *, operator: str) -> bool:
        """Pass it on."""
        return self._pass("discard", lambda: self._inner.discard_answer(user_id, generation_id, operator=operator))

    def _pass(self, name: str, call: Callable[[], Reply]) -> Reply:
        self.calls.append(name)
        self.before.get(name, lambda: None)()
        reply = call()
        self.after.get(name, lambda: None)()
        return reply


class Case:
    """A failed generation, and everything that a retry of it needs."""

    def __init__(self, *script: AiStep, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self.world = MemoryWorld()
        self.storage = WatchedStorage(self.world.storage)
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


class TestSuccess:
    """A retry that gets an answer ends with its session."""

    def test_retry_makes_the_session(self) -> None:
        """The answer becomes the session, the generation a success, and one unit is spent."""
        case = Case(an_answer())

        result = case.retry()

        assert result.session["content"] == an_answer().output
        assert result.generation.status is GenerationStatus.SUCCESS
        assert (result.attempt, result.replayed, result.quota.remaining) == (2, False, 4)
        assert case.storage.calls == ["load", "claim", "succeed"]

    def test_retry_asks_with_the_stored_context(self) -> None:
        """The provider gets the stored context, the deadline, and the question's name as idempotency key."""
        case = Case(an_answer())

        case.retry()

        (call,) = case.ai.calls
        assert call.context == a_context()
        assert call.timeout == timedelta(seconds=15)
        assert len(call.idempotency_key) == 64

    def test_retry_records_how_long_the_call_took(self) -> None:
        """The generation's duration is the call's."""
        case = Case()
        case.ai = ScriptedAiProvider(taking(3 * SECOND, case, an_answer()))

        assert case.retry().generation.duration == 3 * SECOND

    @pytest.mark.parametrize("spelling", [str, lambda value: str(value).upper()])
    def test_retry_takes_ids_as_text(self, spelling: Callable[[UUID], str]) -> None:
        """A UUID's canonical text, in either case, is as good as the UUID."""
        case = Case(an_answer())

        case.retry(user_id=spelling(case.user_id), generation_id=spelling(case.generation_id))

        assert case.ai.calls

    def test_retry_records_who_lifted_what(self) -> None:
        """Waivers, charge and operator stand on the attempt; an uncharged success spends nothing."""
        case = Case(an_answer())
        case.world.set_quota(case.user_id, 0, timedelta(hours=1))

        case.retry(waive=frozenset({Waiver.QUOTA}), charge=False, operator="ann")

        (row,) = case.attempts
        assert (row["waived"], row["charge"], row["operator"]) == ({"quota"}, False, "ann")
        assert row["captured_at"] is None


class TestInput:
    """What can't be an id is refused before anything is read."""

    @pytest.mark.parametrize("name", ["user_id", "generation_id"])
    @pytest.mark.parametrize("value", NOT_UUIDS)
    def test_retry_refuses_what_is_no_uuid(self, name: str, value: Any) -> None:
        """A text that is no canonical UUID never reaches the storage."""
        case = Case()

        with pytest.raises(ValueError, match=rf"^{name} must be a UUID"):
            case.retry(**{name: value})
        assert case.storage.calls == []

    @pytest.mark.parametrize("value", NOT_UUIDS)
    def test_status_refuses_what_is_no_uuid(self, value: Any) -> None:
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

    def test_failed_retry_says_its_recorded_wait(self) -> None:
        """The error's wait is the one that the storage recorded."""
        case = Case(a_failure())

        with pytest.raises(GenerationFailed) as caught:
            case.retry()

        (row,) = case.attempts
        assert caught.value.code == "AI_UNAVAILABLE"
        assert caught.value.retry_after == row["next_attempt_at"] - row["closed_at"] == 2 * SECOND
        assert isinstance(caught.value.__cause__, GenerationFailed)

    @pytest.mark.parametrize(("fraction", "wait"), [(0.0, SECOND), (1.0, 2 * SECOND)])
    def test_failed_retry_waits_by_jitter(self, fraction: float, wait: timedelta) -> None:
        """Jitter says where in its range the wait lies."""
        case = Case(a_failure())

        with pytest.raises(GenerationFailed) as caught:
            case.retry(jitter=lambda: fraction)

        assert caught.value.retry_after == wait

    def test_failed_retry_keeps_to_what_provider_asks(self) -> None:
        """The provider's own wait is a floor."""
        case = Case(a_failure(retry_after=90 * SECOND))

        with pytest.raises(GenerationFailed) as caught:
            case.retry()

        assert caught.value.retry_after == 90 * SECOND
        with pytest.raises(BackoffNotElapsed) as refused:
            case.retry()
        assert refused.value.retry_after == 90 * SECOND

    def test_last_failure_says_no_wait(self) -> None:
        """When the attempts are used up there is nothing to wait for."""
        case = Case(*[a_failure()] * 3)
        for _ in range(2):
            with pytest.raises(GenerationFailed):
                case.retry_when_due()

        with pytest.raises(GenerationFailed) as caught:
            case.retry_when_due()

        assert caught.value.retry_after is None
        with pytest.raises(AttemptsExhausted):
            case.retry_when_due()

    def test_failed_retry_gives_the_unit_back(self) -> None:
        """A failure holds and spends nothing."""
        case = Case(a_failure())

        with pytest.raises(GenerationFailed):
            case.retry()

        quota = load(case.world, case.user_id, case.generation_id).quota
        assert (quota.held, quota.captured) == (0, 0)

    def test_crash_leaves_attempt_to_its_lease(self) -> None:
        """An attempt whose worker dies is open until its lease ends; then it can be tried again."""
        case = Case(KeyboardInterrupt(), an_answer())
        with pytest.raises(KeyboardInterrupt):
            case.retry()
        with pytest.raises(RetryInProgress):
            case.retry()

        result = case.retry_when_due()

        assert result.attempt == 3
        assert [row["outcome"] for row in case.attempts] == ["abandoned", "succeeded"]

    def test_failure_of_the_storage_is_raised(self) -> None:
        """A settle that the storage could not write is the storage's failure, not the provider's."""
        case = Case(a_failure())

        def refuse() -> None:
            raise StorageUnavailable("55P03")

        case.storage.before["fail"] = refuse

        with pytest.raises(StorageUnavailable):
            case.retry()


class TestClaim:
    """Between reading and claiming, and between claiming and calling, anything may happen."""

    def test_stale_claim_is_admitted_again(self) -> None:
        """After a stale claim the retry reads and decides anew, with a new token."""
        case = Case(an_answer())
        stale = iter([True, True, False])

        def interfere() -> None:
            if next(stale):
                fail(case.world, claim_of(case.world, case.user_id, case.generation_id))

        case.storage.before["claim"] = interfere

        result = case.retry()

        assert result.attempt == 4
        assert case.storage.calls == ["load", "claim"] * 3 + ["succeed"]
        assert len(set(case.storage.tokens)) == 3

    def test_three_stale_claims_are_in_progress(self) -> None:
        """A snapshot that is stale three times in a row means that others are at work; nobody is called."""
        case = Case()
        other = {"status": "error"}

        def interfere() -> None:
            other["status"] = "timeout" if other["status"] == "error" else "error"
            case.world.set_generation(case.generation_id, **other)

        case.storage.before["claim"] = interfere

        with pytest.raises(RetryInProgress) as caught:
            case.retry()

        assert caught.value.retry_after == SECOND
        assert case.storage.calls == ["load", "claim"] * 3
        assert case.attempts == []

    @pytest.mark.parametrize(("delay", "timeout"), [(5, 15), (15, 15), (16, 14), (29, 1)])
    def test_slow_claim_shortens_the_call(self, delay: int, timeout: int) -> None:
        """However late the claim's reply, the call ends before the lease, with time left for settling."""
        case = Case(an_answer())
        case.storage.after["claim"] = lambda: case.world.advance(timedelta(seconds=delay))

        case.retry()

        (call,) = case.ai.calls
        assert call.timeout == timedelta(seconds=timeout)

    @pytest.mark.parametrize("delay", [29.5, 30, 34, 40])
    def test_too_slow_claim_is_given_back(self, delay: float) -> None:
        """With less than a second left nobody is called; the attempt ends uncounted and the unit is free."""
        case = Case()
        case.storage.after["claim"] = lambda: case.world.advance(timedelta(seconds=delay))

        with pytest.raises(LeaseLost) as caught:
            case.retry()

        (row,) = case.attempts
        assert (row["outcome"], row["code"], row["counted"]) == (Outcome.FAILED, FailureCode.LEASE_LOST, False)
        assert (row["provider_outcome"], row["wire_requests"]) == ("not_generated", 0)
        assert caught.value.retry_after == row["next_attempt_at"] - row["closed_at"]
        assert caught.value.details == {"answer_kept": False}

    def test_short_deadline_is_called(self) -> None:
        """A deadline below a second is the operator's choice, not a lack of time."""
        case = Case(an_answer(), policy=replace(DEFAULT_POLICY, deadline=SECOND / 2))

        case.retry()

        (call,) = case.ai.calls
        assert call.timeout == SECOND / 2

    def test_answer_after_the_lease_counts(self) -> None:
        """An answer that comes after the lease counts as long as nobody closed the attempt."""
        case = Case()
        case.ai = ScriptedAiProvider(taking(timedelta(hours=1), case, an_answer()))

        assert case.retry().generation.status is GenerationStatus.SUCCESS

    def test_superseded_answer_is_used_next(self) -> None:
        """An answer to an attempt that was given up is kept; the next retry uses it and calls nobody."""
        case = Case()

        def answer_too_late(_: AiCall) -> Answer:
            case.world.advance(timedelta(minutes=1))
            fail(case.world, claim_of(case.world, case.user_id, case.generation_id))
            return an_answer()

        case.ai = ScriptedAiProvider(answer_too_late)
        with pytest.raises(LeaseLost) as caught:
            case.retry()

        result = case.retry()

        assert caught.value.details == {"answer_kept": True}
        assert result.session["content"] == an_answer().output
        assert len(case.ai.calls) == 1


class TestStoredAnswer:
    """A paid answer is used, not asked for again."""

    def test_refused_session_is_made_by_next_retry(self) -> None:
        """After a refused session the next retry makes it of the kept answer, without a call."""
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

    def test_session_refused_again_waits_longest(self) -> None:
        """Refused twice by the same constraint, the next retry is due after the longest backoff."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            case.retry()

        with pytest.raises(SessionRejected) as caught:
            case.retry_when_due()

        assert caught.value.retry_after == DEFAULT_POLICY.backoff_cap

    def test_slow_claim_does_not_matter(self) -> None:
        """Without a call there is no deadline to keep."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            case.retry()
        case.world.refuse_sessions(None)
        case.storage.after["claim"] = lambda: case.world.advance(40 * SECOND)

        assert case.retry_when_due().attempt == 3


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
    def test_success_is_replayed_for_its_key_alone(self, key: str | None) -> None:
        """Another key, or none, is told that the generation has succeeded."""
        case = Case(an_answer())
        case.retry(idempotency_key="key-1")

        with pytest.raises(AlreadySucceeded):
            case.retry(idempotency_key=key)

    def test_failure_is_not_replayed(self) -> None:
        """After a failure the same key makes a new attempt, and then stands for its success."""
        case = Case(a_failure(), an_answer())
        with pytest.raises(GenerationFailed):
            case.retry(idempotency_key="key-1")

        second = case.retry_when_due(idempotency_key="key-1")
        third = case.retry(idempotency_key="key-1")

        assert (second.replayed, third.replayed) == (False, True)
        assert second.session == third.session

    def test_key_makes_no_call_happen(self) -> None:
        """A key does not get past a refusal."""
        case = Case(a_failure())
        with pytest.raises(GenerationFailed):
            case.retry(idempotency_key="key-1")

        with pytest.raises(BackoffNotElapsed):
            case.retry(idempotency_key="key-1")

    def test_removed_session_is_not_replayed(self) -> None:
        """Once the app removed the session there is nothing to give again, nor to retry."""
        case = Case(an_answer())
        case.retry(idempotency_key="key-1")
        case.world.tables.sessions.clear()

        with pytest.raises(AlreadySucceeded):
            case.retry(idempotency_key="key-1")


class TestStatus:
    """``retry_status`` tells what a retry would be answered, and writes nothing."""

    def test_status_tells_the_admission(self) -> None:
        """A generation that may be retried comes with what a retry would claim."""
        case = Case()

        status = retry_status(case.user_id, case.generation_id, storage=case.storage)

        assert status.admission is not None
        assert (status.admission.number, status.refusal) == (2, None)
        assert status.snapshot.generation.id == case.generation_id
        assert case.storage.calls == ["load"]

    def test_status_tells_the_refusal(self) -> None:
        """One that may not comes with what a retry would raise."""
        case = Case(a_failure())
        with pytest.raises(GenerationFailed) as failed:
            case.retry()

        status = retry_status(case.user_id, case.generation_id, storage=case.storage)

        assert status.admission is None
        assert isinstance(status.refusal, BackoffNotElapsed)
        assert status.refusal.retry_after == failed.value.retry_after

    def test_status_raises_for_unknown_generation(self) -> None:
        """There is no status of nothing."""
        case = Case()

        with pytest.raises(GenerationNotFound):
            retry_status(case.user_id, uuid4(), storage=case.storage)
