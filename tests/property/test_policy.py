"""What holds of the rules whatever the snapshot and the policy."""

from datetime import datetime, timedelta

from hypothesis import assume, example, given
from hypothesis import strategies as st

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    ContextMissing,
    NotConfigured,
    RetryInProgress,
    RetryRefused,
    SessionConflict,
)
from ai_retry.domain.model import (
    Attempt,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    Quota,
    Snapshot,
    Waiver,
)
from ai_retry.domain.policy import (
    DEFAULT_POLICY,
    RetryPolicy,
    admit,
    attempts_left,
    call_timeout,
    ceiling,
    counted_attempts,
    wait_after,
)
from tests.helpers.builders import (
    AS_OF,
    a_failure,
    a_generation,
    a_quota,
    a_snapshot,
    a_stored_answer,
    an_attempt,
)

MICROSECOND = timedelta(microseconds=1)
instants = st.integers(-100_000, 100_000).map(lambda seconds: AS_OF + timedelta(seconds=seconds))
waits = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30))
fractions = st.floats(0, 1)
numbers = st.integers(2, 10**9)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    """Policies that are possible, from microseconds to years."""
    base = draw(st.timedeltas(min_value=MICROSECOND, max_value=timedelta(days=400)))
    cap = draw(st.timedeltas(min_value=base, max_value=timedelta(days=4000)))
    deadline = draw(st.timedeltas(min_value=MICROSECOND, max_value=timedelta(hours=1)))
    margin = draw(st.timedeltas(min_value=timedelta(0), max_value=timedelta(minutes=1)))
    slack = draw(st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=1)))
    lease = margin + max(slack, MICROSECOND)  # longer or shorter than the deadline
    return RetryPolicy(backoff_base=base, backoff_cap=cap, deadline=deadline, settle_margin=margin, lease=lease)


@st.composite
def attempts(draw: st.DrawFn, number: int) -> Attempt:
    """Attempts of any kind, open ones included."""
    started_at = draw(instants)
    outcome = draw(st.sampled_from([None, Outcome.FAILED, Outcome.ABANDONED]))
    return an_attempt(
        number,
        started_at=started_at,
        lease_expires_at=started_at + DEFAULT_POLICY.lease,
        outcome=outcome,
        closed_at=draw(instants) if outcome else None,
        counted=draw(st.booleans()),
        next_attempt_at=draw(st.none() | instants),
        transient=draw(st.sampled_from([None, True, False])) if outcome is Outcome.FAILED else None,
        operator_fault=draw(st.booleans()) if outcome is Outcome.FAILED else False,
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Snapshots of any kind of generation, consistent or not."""
    count = draw(st.integers(0, 25))
    limit = draw(st.integers(0, 6))
    quota = a_quota(
        limit=limit,
        captured=draw(st.integers(0, limit)),
        held=draw(st.integers(0, 6)),
        resets_at=draw(st.none() | instants.filter(lambda instant: instant > AS_OF)),
    )
    return a_snapshot(
        generation=a_generation(
            status=draw(st.sampled_from(GenerationStatus)),
            prompt_data=draw(st.sampled_from([None, a_generation().prompt_data])),
            updated_at=draw(st.none() | instants),
        ),
        attempts=tuple(draw(attempts(number)) for number in range(2, 2 + count)),
        live=draw(st.integers(0, 3)),
        live_until=draw(st.none() | instants.filter(lambda instant: instant > AS_OF)),
        quota=quota,
        stored_answer=draw(st.none() | st.just(a_stored_answer())),
        can_create_session=draw(st.booleans()),
        session_conflict=draw(st.sampled_from([None, "There is one already."])),
    )


def plain_ceiling(number: int, policy: RetryPolicy) -> timedelta:
    """The formula of the glossary in whole microseconds, which do not overflow."""
    base, cap = policy.backoff_base // MICROSECOND, policy.backoff_cap // MICROSECOND
    return MICROSECOND * min(cap, base << (number - 2))


@given(st.integers(2, 71), policies())
@example(21, RetryPolicy(backoff_base=2 * MICROSECOND, backoff_cap=5 * MICROSECOND * 2**18))
def test_ceiling_is_the_plain_formula(number: int, policy: RetryPolicy) -> None:
    """The ceiling is ``min(cap, base * 2**(n-1))`` to the microsecond."""
    assert ceiling(number, policy) == plain_ceiling(number, policy)


@given(numbers, policies())
def test_ceiling_never_overflows(number: int, policy: RetryPolicy) -> None:
    """Whatever the number, the ceiling is at least the base and at most the cap, and never falls."""
    longest = ceiling(number, policy)

    assert policy.backoff_base <= longest <= policy.backoff_cap
    assert longest <= ceiling(number + 1, policy)


@given(numbers, policies(), fractions, st.none() | waits)
@example(2, RetryPolicy(backoff_base=3 * MICROSECOND), 1.0, None)
def test_wait_lies_between_its_bounds(
    number: int, policy: RetryPolicy, fraction: float, asked: timedelta | None
) -> None:
    """A wait lies in the ceiling's upper half, or is what the provider asked for, up to ``max_wait``."""
    wait = wait_after(number, a_failure(retry_after=asked), policy, fraction=fraction)

    longest, floor = ceiling(number, policy), min(asked or timedelta(0), policy.max_wait)
    assert wait >= max(longest / 2, floor)
    assert wait <= max(longest, floor)


@given(policies(), waits)
def test_call_ends_before_its_lease(policy: RetryPolicy, elapsed: timedelta) -> None:
    """However long the begin took, the call and the settle's margin end with the last renewal, within the deadline.

    No call begins where the begin took longer than the first lease; without renewals it ends with that.
    """
    timeout = call_timeout(elapsed, policy)

    assert timeout <= policy.deadline
    assert elapsed + timeout + policy.settle_margin <= policy.longest
    assert timeout <= timedelta(0) or elapsed + policy.settle_margin < policy.lease
    assert elapsed + call_timeout(elapsed, policy.within_lease()) + policy.settle_margin <= policy.lease


@given(snapshots(), st.sets(st.sampled_from(Waiver)), st.booleans())
def test_admission_breaks_no_rule(snapshot: Snapshot, waived: set[Waiver], charge: bool) -> None:
    """What is admitted is not a success, not in progress, can have its session, and is below every limit not lifted."""
    try:
        admission = admit(snapshot, waive=frozenset(waived), charge=charge)
    except (AlreadySucceeded, RetryRefused, NotConfigured, SessionConflict, ContextMissing):
        return

    last = snapshot.attempts[-1] if snapshot.attempts else None
    assert snapshot.generation.status is not GenerationStatus.SUCCESS
    assert last is None or last.outcome is not None or (last.lease_expires_at or snapshot.as_of) <= snapshot.as_of
    assert snapshot.can_create_session
    assert snapshot.session_conflict is None
    assert (admission.context is None) == (snapshot.stored_answer is not None)
    assert snapshot.stored_answer or counted_attempts(snapshot) < DEFAULT_POLICY.max_attempts
    assert Waiver.BACKOFF in waived or _due(last) <= snapshot.as_of
    assert snapshot.live < DEFAULT_POLICY.max_parallel
    assert not charge or Waiver.QUOTA in waived or snapshot.quota.remaining > 0
    assert admission.number == (last.number if last else 1) + 1


@given(snapshots())
def test_refusal_says_when_to_come_back(snapshot: Snapshot) -> None:
    """A refusal that passes by itself says how long to wait, and never a negative time."""
    refusal = _refusal_of(snapshot)

    assume(isinstance(refusal, RetryRefused))
    assert refusal is not None
    assert refusal.retry_after is None or refusal.retry_after >= timedelta(0)


@given(snapshots())
def test_admit_is_a_function(snapshot: Snapshot) -> None:
    """The same snapshot gets the same answer: a dry run can't differ from the retry."""
    first, second = (_refusal_of(snapshot) for _ in range(2))

    assert (first and first.code) == (second and second.code)


@given(snapshots())
def test_no_client_is_sent_back_in_vain(snapshot: Snapshot) -> None:
    """A refusal has a wait only where it is being worked on, or the identical request may succeed after the wait."""
    refusal = _refusal_of(snapshot)
    last = snapshot.last_attempt

    if refusal is not None and refusal.retry_after is not None and last is not None and not snapshot.stored_answer:
        assert isinstance(refusal, RetryInProgress) or (last.transient is not False and not last.operator_fault)


@given(snapshots(), st.booleans(), st.booleans())
def test_attempts_left_agree_with_admit(snapshot: Snapshot, counted: bool, operator_fault: bool) -> None:
    """If attempts are left after a failure, the next ``admit`` does not call them exhausted, and the reverse."""
    failure = a_failure(certainly_not_generated=not counted, operator_fault=operator_fault)
    refusal = _refusal_of(_after(snapshot, failure))

    assert isinstance(refusal, AttemptsExhausted) is not attempts_left(snapshot, failure)


@given(st.sampled_from(FailureCode), st.booleans(), st.booleans())
def test_only_the_users_generated_attempts_count(code: FailureCode, generated: bool, operator: bool) -> None:
    """An attempt counts unless it certainly did not generate or failed for the operator's reasons."""
    failure = a_failure(code, certainly_not_generated=not generated, operator_fault=operator)

    assert failure.counted is (generated and not operator)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_quota_remaining_is_never_negative(limit: int, captured: int, held: int) -> None:
    """What remains is the limit less what is captured and held, or nothing."""
    quota: Quota = a_quota(limit=limit, captured=captured, held=held)

    assert quota.remaining == max(0, limit - captured - held)


def _due(attempt: Attempt | None) -> datetime:
    return attempt.next_attempt_at if attempt and attempt.next_attempt_at else AS_OF


def _refusal_of(snapshot: Snapshot) -> AiRetryError | None:
    try:
        admit(snapshot)
    except AiRetryError as refusal:
        return refusal
    return None


def _after(snapshot: Snapshot, failure: Failure) -> Snapshot:
    """The snapshot once the attempt that it admitted has failed just now."""
    number = snapshot.attempts[-1].number + 1 if snapshot.attempts else 2
    failed = an_attempt(
        number,
        started_at=AS_OF,
        closed_at=AS_OF,
        counted=failure.counted,
        transient=failure.transient,
        operator_fault=failure.operator_fault,
    )
    return a_snapshot(
        generation=a_generation(status=GenerationStatus.ERROR),
        attempts=(*snapshot.attempts, failed),
    )
