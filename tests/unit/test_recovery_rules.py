"""What a plan may do about a generation, and when it has done enough."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.domain.errors import ContextMissing, GenerationNotFound, TooManyParallel
from ai_retry.domain.model import Context, Generation, GenerationStatus, Outcome, Waiver
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.recovery import Decision, PlanAttempt, judge, settled_attempt
from ai_retry.recovery.line import Task
from ai_retry.recovery.retrier import Ended, _end_of, _Look
from tests.helpers.builders import (
    AS_OF,
    GENERATION_ID,
    SECOND,
    USER_ID,
    a_generation,
    a_quota,
    a_snapshot,
    an_attempt,
    an_open_attempt,
)

KEY = "plan:0123"
LATER = AS_OF + timedelta(minutes=3)


@pytest.mark.parametrize(
    ("snapshot", "decision", "code"),
    [
        (a_snapshot(), Decision.NOW, None),
        (a_snapshot(attempts=[an_attempt(next_attempt_at=LATER)]), Decision.LATER, "RETRY_TOO_SOON"),
        (a_snapshot(attempts=[an_open_attempt()]), Decision.LATER, "RETRY_IN_PROGRESS"),
        (a_snapshot(live=2, live_until=LATER), Decision.LATER, "TOO_MANY_PARALLEL_RETRIES"),
        (a_snapshot(quota=a_quota(captured=5, resets_at=LATER)), Decision.LATER, "QUOTA_EXHAUSTED"),
        (a_snapshot(quota=a_quota(limit=0)), Decision.NEVER, "QUOTA_EXHAUSTED"),
        (a_snapshot(generation=a_generation(prompt_data=None)), Decision.NEVER, "CONTEXT_MISSING"),
        (a_snapshot(generation=a_generation(status=GenerationStatus.SUCCESS)), Decision.NEVER, "ALREADY_SUCCEEDED"),
        (a_snapshot(attempts=[an_attempt(n) for n in (2, 3, 4)]), Decision.NEVER, "RETRY_LIMIT_REACHED"),
        (a_snapshot(can_create_session=False), Decision.NEVER, "NOT_CONFIGURED"),
        (replace(a_snapshot(), hidden=True), Decision.NEVER, "GENERATION_NOT_FOUND"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_are_for_now_or_for_ever(snapshot: object, decision: Decision, code: str | None) -> None:
    """A refusal of ``admit`` that passes by itself is "later"; one that has to be lifted is "never"."""
    verdict = judge(snapshot, DEFAULT_POLICY)  # type: ignore[arg-type]

    assert (verdict.decision, verdict.code) == (decision, code)


def test_hidden_generation_is_never_found() -> None:
    """What the app hides from its user can't be retried, and is named as a click would name it."""
    verdict = judge(a_snapshot(hidden=True), DEFAULT_POLICY)

    assert verdict.decision is Decision.NEVER
    assert str(verdict.refusal) == str(GenerationNotFound(GENERATION_ID))


def test_search_reads_as_the_app_does() -> None:
    """The app's own function says whether there is a context."""

    def archived(_: Generation) -> Context:
        raise ContextMissing("it was archived")

    assert judge(a_snapshot(), DEFAULT_POLICY, context_from=archived).code == "CONTEXT_MISSING"


def test_last_unit_is_now_and_a_limit_of_one_is_later() -> None:
    """A user whose only unit is used gets another one in time; nothing is set aside unless a plan does."""
    assert judge(a_snapshot(quota=a_quota(captured=4)), DEFAULT_POLICY).decision is Decision.NOW
    used = a_quota(limit=1, captured=1, resets_at=LATER)
    assert judge(a_snapshot(quota=used), DEFAULT_POLICY).decision is Decision.LATER


def test_units_set_aside_count() -> None:
    """What a plan means to hold for a user's other generations is not free: beyond the quota it is "later"."""
    snapshot = a_snapshot(quota=a_quota(captured=2, resets_at=LATER))

    assert judge(snapshot, DEFAULT_POLICY, set_aside=2).decision is Decision.NOW
    assert judge(snapshot, DEFAULT_POLICY, set_aside=3).decision is Decision.LATER
    assert judge(a_snapshot(), DEFAULT_POLICY, set_aside=5).decision is Decision.LATER
    assert judge(snapshot, DEFAULT_POLICY, set_aside=99, charge=False).decision is Decision.NOW


def test_operator_lifts_limits_and_no_more() -> None:
    """Wait, quota and attempts can be lifted; that it has its session can't."""
    waiting = a_snapshot(attempts=[an_attempt(next_attempt_at=LATER)], quota=a_quota(captured=5, resets_at=LATER))
    everything = frozenset(Waiver)

    assert judge(waiting, DEFAULT_POLICY, waive=everything).decision is Decision.NOW
    exhausted = a_snapshot(attempts=[an_attempt(n) for n in (2, 3, 4)])
    assert judge(exhausted, RetryPolicy(max_attempts=5)).decision is Decision.NOW
    done = a_snapshot(generation=a_generation(status=GenerationStatus.SUCCESS))
    assert judge(done, RetryPolicy(max_attempts=99), waive=everything, charge=False).decision is Decision.NEVER


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED])
def test_settled_attempt_is_enough(outcome: Outcome) -> None:
    """Once an attempt of the plan has succeeded or failed, the plan is done with the generation."""
    attempt = an_attempt(3, outcome=outcome, idempotency_key=KEY)

    assert settled_attempt(a_snapshot(attempts=[an_attempt(), attempt]), KEY) == attempt
    assert settled_attempt(a_snapshot(attempts=[attempt, an_attempt(4)]), KEY) == attempt


@pytest.mark.parametrize(
    "attempts",
    [
        [],
        [an_attempt()],
        [an_attempt(idempotency_key="plan:another")],
        [an_open_attempt(idempotency_key=KEY)],
        [an_open_attempt(idempotency_key=KEY, lease_expires_at=AS_OF - SECOND)],
        [an_attempt(idempotency_key=KEY, outcome=Outcome.ABANDONED)],
        [an_attempt(idempotency_key=KEY, transient=True, counted=False)],
    ],
    ids=["none", "without a key", "of another plan", "living lease", "dead lease", "abandoned", "turned away"],
)
def test_unsettled_attempt_is_not(attempts: list[object]) -> None:
    """Before, after a kill, and during an outage the plan has its work still to do: ``admit`` says when."""
    assert settled_attempt(a_snapshot(attempts=attempts), KEY) is None


def test_plan_attempt_says_whether_it_is_settled() -> None:
    """The row of a plan's attempt decides as its snapshot does."""

    def is_settled(**columns: Any) -> bool:
        return PlanAttempt(generation_id=GENERATION_ID, attempt=an_attempt(**columns), usage=None).settled

    assert is_settled(outcome=Outcome.FAILED)
    assert is_settled(outcome=Outcome.SUCCEEDED)
    assert not is_settled(outcome=Outcome.ABANDONED)
    assert not is_settled(outcome=None)
    assert not is_settled(transient=True, counted=False)
    assert is_settled(transient=True, counted=False, operator_fault=True)


def test_operators_run_waits_whether_or_not_it_helps() -> None:
    """A plan is meant to be retried: a refusal that passes is waited for, though no user is asked to come back."""
    refusal = TooManyParallel(2, wait=SECOND, helps=False)
    task = Task(USER_ID, GENERATION_ID)

    ended = _end_of(refusal, _Look("plan:x"), Ended(task=task, started_in=0, outcome="left"))

    assert ended.again_after == 1.0
    assert ended.left is not None
    assert ended.left.retry_at is None
