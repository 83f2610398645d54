"""Where waiting helps: who is asked to come back, and what an operator has to cure is not held against a generation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain.change import Begin, Reply
from ai_retry.domain.errors import (
    AiRetryError,
    AttemptsExhausted,
    BackoffNotElapsed,
    GenerationFailed,
    LeaseLost,
    QuotaExhausted,
    SessionRejected,
    TooManyParallel,
)
from ai_retry.domain.model import Attempt, Failure, FailureCode, Outcome, Snapshot
from ai_retry.domain.policy import RetryPolicy, admit, attempts_left, waiting_helps
from ai_retry.domain.recovery import Decision, judge
from ai_retry.domain.retry import retry_generation, retry_status
from ai_retry.flask.schemas import status_response
from ai_retry.problems import problem_of
from ai_retry.testing.ai import ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import (
    AS_OF,
    SECOND,
    a_failure,
    a_quota,
    a_snapshot,
    a_stored_answer,
    an_answer,
    an_attempt,
    an_open_attempt,
)
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.scene import Hooked, hooked
from tests.helpers.steps import load, new_generation

CUT = a_failure(FailureCode.INCOMPLETE, transient=False)
REVOKED = a_failure(FailureCode.REJECTED, transient=False, certainly_not_generated=True, operator_fault=True)
PASSES_AND_OPERATOR = a_failure(transient=True, operator_fault=True)
BUSY = a_failure()
POLICY = RetryPolicy()


@pytest.fixture
def world() -> MemoryWorld:
    """Memory, and a clock of its own."""
    return MemoryWorld()


def refused(world: MemoryWorld, ids: tuple[UUID, UUID], *script: Any) -> AiRetryError:
    """Retry; return the error."""
    with pytest.raises(AiRetryError) as caught:
        retry_generation(*ids, storage=world.storage, ai=ScriptedAiProvider(*script), clock=ManualClock())
    return caught.value


def failed(**columns: Any) -> Attempt:
    """An attempt that failed a second ago, and whose wait lasts a minute more."""
    return an_attempt(next_attempt_at=AS_OF + timedelta(minutes=1), **columns)


@pytest.mark.parametrize(
    ("failure", "helps"), [(BUSY, True), (CUT, False), (REVOKED, False), (PASSES_AND_OPERATOR, False)]
)
class TestAfterAFailure:
    """Endpoint, click, status and search agree whether to come back."""

    def test_failure_says_when_only_if_it_helps(self, world: MemoryWorld, failure: Failure, *, helps: bool) -> None:
        """The failed retry has a wait only where the identical request may succeed later."""
        error = refused(world, new_generation(world), failure)

        assert isinstance(error, GenerationFailed)
        assert (error.retry_after is not None) is helps
        assert ("retryAfterSeconds" in problem_of(error).wire_details) is helps

    def test_early_click_says_when_if_it_helps(self, world: MemoryWorld, failure: Failure, *, helps: bool) -> None:
        """A click that comes too soon learns when an attempt is possible, and comes back only if that helps."""
        ids = new_generation(world)
        refused(world, ids, failure)

        error = refused(world, ids)

        problem = problem_of(error)
        assert (error.code, problem.http_status) == ("RETRY_TOO_SOON", 429)
        assert (problem.retry_after_seconds is not None) is helps
        assert "nextAttemptAt" in problem.wire_details
        assert str(error).startswith("Too soon: the next attempt is possible in ")
        assert str(error).endswith(" s.") is helps
        assert str(error).endswith("but waiting does not cure what failed.") is not helps

    def test_status_foresees_only_what_helps(self, world: MemoryWorld, failure: Failure, *, helps: bool) -> None:
        """``possibleAt`` is null where waiting cures nothing."""
        ids = new_generation(world)
        refused(world, ids, failure)

        retry = status_response(retry_status(*ids, storage=world.storage), "r")["data"]["retry"]

        assert retry["possible"] is False
        assert (retry["possibleAt"] is not None) is helps
        assert ("retryAfterSeconds" in retry["refusal"]["details"]) is helps

    def test_search_calls_it_later(self, world: MemoryWorld, failure: Failure, *, helps: bool) -> None:
        """The wait ends either way: only ``retry_at`` depends on whether coming back helps."""
        user_id, generation_id = new_generation(world)
        refused(world, (user_id, generation_id), failure)
        snapshot = load(world, user_id, generation_id, policy=POLICY)

        verdict = judge(snapshot, POLICY)

        assert verdict.decision is Decision.LATER
        assert verdict.refusal is not None
        assert (verdict.refusal.retry_after is not None) is helps


@pytest.mark.parametrize("failure", [BUSY, CUT, REVOKED])
def test_whoever_comes_after_the_wait_is_admitted(world: MemoryWorld, failure: Failure) -> None:
    """That waiting does not help forbids nothing: what was wrong may have been put right."""
    ids = new_generation(world)
    refused(world, ids, failure)
    world.advance(POLICY.backoff_cap)

    result = retry_generation(*ids, storage=world.storage, ai=ScriptedAiProvider(an_answer()), clock=ManualClock())

    assert result.attempt == 3


@pytest.mark.parametrize(
    "attempt",
    [
        an_attempt(transient=True),
        an_attempt(transient=None),
        an_attempt(outcome=Outcome.ABANDONED, code="LEASE_LOST"),
        an_attempt(code="SESSION_REJECTED", refused_constraint="title_is_short"),
        an_open_attempt(),
    ],
    ids=["transient", "not recorded", "abandoned", "session rejected", "open"],
)
def test_waiting_helps_unless_known_otherwise(attempt: Attempt) -> None:
    """Only a failure that is known not to pass makes coming back useless."""
    assert waiting_helps(a_snapshot(attempts=(an_attempt(transient=False), replace(attempt, number=3))))


def test_stored_answer_needs_no_request() -> None:
    """Whatever failed after it was paid for: coming back brings the session."""
    assert waiting_helps(a_snapshot(attempts=(an_attempt(transient=False),), stored_answer=a_stored_answer()))


@pytest.mark.parametrize(
    ("crowd", "expected"),
    [
        ({"live": 2, "live_until": AS_OF + SECOND}, TooManyParallel),
        ({"quota": a_quota(captured=5, resets_at=AS_OF + SECOND)}, QuotaExhausted),
        ({}, BackoffNotElapsed),
    ],
)
@pytest.mark.parametrize("helps", [True, False])
def test_no_refusal_sends_back_in_vain(crowd: dict[str, Any], expected: type[AiRetryError], *, helps: bool) -> None:
    """Whichever limit refuses: a client that would come back only to fail again is not asked to."""
    attempt = failed(transient=helps) if expected is BackoffNotElapsed else an_attempt(transient=helps)

    with pytest.raises(expected) as caught:
        admit(a_snapshot(attempts=(attempt,), **crowd))

    assert (caught.value.retry_after is not None) is helps
    assert judge(a_snapshot(attempts=(attempt,), **crowd), POLICY).decision is Decision.LATER


def test_rejected_session_keeps_its_wait(world: MemoryWorld) -> None:
    """The stored answer makes coming back useful, also after failures that would not pass."""
    ids = new_generation(world)
    refused(world, ids, CUT)
    world.advance(POLICY.backoff_cap)
    world.refuse_sessions("title_is_short")

    first = refused(world, ids, an_answer())
    second = refused(world, ids)

    assert isinstance(first, SessionRejected)
    assert (first.retry_after is not None, second.retry_after is not None) == (True, True)


def test_attempt_without_time_to_call_keeps_its_wait() -> None:
    """Nothing was sent, so the identical request may well succeed."""
    world = MemoryWorld(Hooked)
    user_id, generation_id = new_generation(world)

    def slow(change: Begin) -> Reply:
        reply = MemoryStorage.begin(world.storage, change)
        world.advance(timedelta(seconds=30))
        return reply

    hooked(world).hooks = {"begin": slow}

    with pytest.raises(LeaseLost) as caught:
        retry_generation(user_id, generation_id, storage=world.storage, ai=ScriptedAiProvider(), clock=world.clock)

    assert caught.value.retry_after is not None


class TestHardCap:
    """What failed for an operator's reason does not count towards it."""

    def test_revoked_key_locks_nothing(self, world: MemoryWorld) -> None:
        """However often users clicked while the key was revoked, their next click with a new one is answered."""
        ids = new_generation(world)
        for _ in range(POLICY.hard_cap + 5):
            assert refused(world, ids, REVOKED).code == "AI_REJECTED"
            world.advance(POLICY.backoff_cap)

        result = retry_generation(*ids, storage=world.storage, ai=ScriptedAiProvider(an_answer()), clock=ManualClock())

        assert result.attempt == POLICY.hard_cap + 7

    def test_each_attempt_is_followed_by_its_wait(self, world: MemoryWorld) -> None:
        """So that a loop of clicks is bounded all the same."""
        ids = new_generation(world)
        for _ in range(5):
            refused(world, ids, REVOKED)
            assert refused(world, ids).code == "RETRY_TOO_SOON"
            world.advance(POLICY.backoff_cap)

    @pytest.mark.parametrize("operators", [0, 1])
    def test_others_count(self, operators: int) -> None:
        """Twenty others in a day are all; one that an operator has to answer for does not count."""
        snapshot = _snapshot(20, operators)

        if operators:
            assert admit(snapshot).number == 22
        else:
            with pytest.raises(AttemptsExhausted):
                admit(snapshot)

    @pytest.mark.parametrize(
        ("others", "failure", "left"), [(18, BUSY, True), (19, BUSY, False), (19, REVOKED, True), (20, REVOKED, False)]
    )
    def test_attempts_left_agree(self, others: int, failure: Failure, *, left: bool) -> None:
        """Whether another attempt follows is counted in the same way."""
        failure = replace(failure, certainly_not_generated=True)

        assert attempts_left(_snapshot(others + 3, 3), failure) is left


def _snapshot(attempts: int, operators: int) -> Snapshot:
    """A snapshot with so many attempts, none counted, the first of them failed for an operator's reason."""
    rows = tuple(an_attempt(2 + place, counted=False, operator_fault=place < operators) for place in range(attempts))
    return a_snapshot(attempts=rows)
