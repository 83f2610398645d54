"""The rules of retries that are accepted for later: pure, one promise per test."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_retry.domain.errors import (
    AlreadySucceeded,
    AttemptsExhausted,
    BackoffNotElapsed,
    ContextMissing,
    NotConfigured,
    QuotaExhausted,
    RetryExpired,
    RetryInProgress,
    RetryPoisoned,
    SessionConflict,
    TooManyParallel,
)
from ai_retry.domain.model import (
    Attempt,
    Failure,
    FailureCode,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    Purpose,
    Snapshot,
    Waiver,
)
from ai_retry.domain.policy import (
    DEFAULT_POLICY,
    OUTAGE_DOUBTS,
    OUTAGE_REFUSALS,
    RetryPolicy,
    admit,
    attempts_left,
    ceiling,
    counted_attempts,
    is_outage,
    next_attempt_at,
    next_number,
    outage_doubts,
    outage_wait,
    provider_key,
    queued_attempt,
)
from tests.helpers.builders import (
    AS_OF,
    SECOND,
    a_context,
    a_failure,
    a_generation,
    a_quota,
    a_snapshot,
    a_stored_answer,
    an_attempt,
    an_open_attempt,
)

HOUR = timedelta(hours=1)
POLICY = RetryPolicy(max_attempts=4, max_abandoned=3)
USED_UP = a_quota(captured=5, resets_at=AS_OF + HOUR)


def a_queued_attempt(number: int = 2, **columns: Any) -> Attempt:
    """An attempt that was accepted a minute ago, and is due."""
    row: dict[str, Any] = {
        "started_at": AS_OF - 60 * SECOND,
        "lease_expires_at": None,
        "outcome": None,
        "closed_at": None,
        "code": None,
        "next_attempt_at": AS_OF - 60 * SECOND,
        "accepted_at": AS_OF - 60 * SECOND,
        "expires_at": AS_OF + 23 * HOUR,
    }
    return an_attempt(number, **row | columns)


def a_queued_snapshot(*attempts: Attempt, queued: dict[str, Any] | None = None, **columns: Any) -> Snapshot:
    """The snapshot of a generation that waits for a worker, after these attempts."""
    last = a_queued_attempt(len(attempts) + 2, **(queued or {}))
    generation = a_generation(status=GenerationStatus.QUEUED)
    return a_snapshot(**{"generation": generation, "attempts": (*attempts, last)} | columns)


def abandoned(number: int, **columns: Any) -> Attempt:
    """An attempt of the accepted retry whose worker died."""
    row = {"outcome": Outcome.ABANDONED, "code": "LEASE_LOST", "accepted_at": AS_OF - 60 * SECOND}
    return an_attempt(number, **row | columns)


def to_run(snapshot: Snapshot, policy: RetryPolicy = POLICY, **options: Any) -> Any:
    """Ask as a worker does."""
    return admit(snapshot, policy, purpose=Purpose.RUN_QUEUED, **options)


def to_enqueue(snapshot: Snapshot, policy: RetryPolicy = POLICY, **options: Any) -> Any:
    """Ask for later."""
    return admit(snapshot, policy, purpose=Purpose.ENQUEUE, **options)


# To have it tried later


def test_enqueue_is_admitted_during_a_wait() -> None:
    """A wait that is not over is the time until the attempt is due, and refuses nothing."""
    due_at = AS_OF + HOUR

    admission = to_enqueue(a_snapshot(attempts=(an_attempt(next_attempt_at=due_at),)))

    assert (admission.due_at, admission.number) == (due_at, 3)


def test_enqueue_of_a_first_retry_is_due_at_once() -> None:
    """Where nothing was tried yet there is no wait."""
    assert to_enqueue(a_snapshot()).due_at is None


def test_enqueue_with_a_waived_backoff_is_due_at_once() -> None:
    """An operator who lifts the wait lifts it for the queued attempt."""
    snapshot = a_snapshot(attempts=(an_attempt(next_attempt_at=AS_OF + HOUR),))

    assert to_enqueue(snapshot, waive=frozenset({Waiver.BACKOFF})).due_at is None


def test_enqueue_beyond_its_time_is_refused() -> None:
    """A wait that is longer than an accepted retry is tried for would end in nothing: it is refused."""
    policy = RetryPolicy(max_queued=HOUR)
    late, in_time = (a_snapshot(attempts=(an_attempt(next_attempt_at=AS_OF + wait),)) for wait in (HOUR, HOUR - SECOND))

    with pytest.raises(BackoffNotElapsed):
        to_enqueue(late, policy)
    assert to_enqueue(in_time, policy).due_at == AS_OF + HOUR - SECOND


def test_enqueue_waits_for_the_users_others() -> None:
    """Attempts that run at once refuse nothing: the queued one waits for them."""
    snapshot = a_snapshot(live=2, live_until=AS_OF + SECOND)

    assert to_enqueue(snapshot).max_live == 2
    with pytest.raises(TooManyParallel):
        admit(snapshot, POLICY)


@pytest.mark.parametrize(
    ("columns", "refusal"),
    [
        ({"generation": a_generation(status=GenerationStatus.SUCCESS)}, AlreadySucceeded),
        ({"attempts": (an_open_attempt(),)}, RetryInProgress),
        ({"attempts": (a_queued_attempt(),)}, RetryInProgress),
        ({"can_create_session": False}, NotConfigured),
        ({"session_conflict": "There is one already."}, SessionConflict),
        ({"generation": a_generation(prompt_data=None)}, ContextMissing),
        ({"attempts": tuple(an_attempt(number) for number in (2, 3, 4))}, AttemptsExhausted),
        ({"quota": USED_UP}, QuotaExhausted),
    ],
)
def test_enqueue_keeps_every_other_rule(columns: dict[str, Any], refusal: type[Exception]) -> None:
    """What would refuse a retry for another reason than time or company refuses one for later."""
    with pytest.raises(refusal):
        to_enqueue(a_snapshot(**columns))


@pytest.mark.parametrize("options", [{"charge": False}, {"waive": frozenset({Waiver.QUOTA})}])
def test_enqueue_without_charge_asks_no_quota(options: dict[str, Any]) -> None:
    """Where no one is charged, or an operator lifts the limit, a used-up quota refuses nothing."""
    assert to_enqueue(a_snapshot(quota=USED_UP), **options).max_used is None


# To begin what was accepted


def test_run_is_admitted_to_the_queued_attempt() -> None:
    """A worker gets the number of the attempt that waits, and its question."""
    admission = to_run(a_queued_snapshot(an_attempt(2)))

    assert (admission.number, admission.max_live, admission.max_used) == (3, POLICY.max_parallel, None)
    assert admission.context is not None
    assert admission.abandoned_wait == ceiling(3, POLICY)


def test_run_asks_no_quota() -> None:
    """Its unit is held since it was accepted."""
    assert to_run(a_queued_snapshot(quota=USED_UP)).max_used is None


def test_run_waits_until_it_is_due() -> None:
    """Before its time an attempt is not begun; at its time it is."""
    early = a_queued_snapshot(queued={"next_attempt_at": AS_OF + SECOND})

    with pytest.raises(BackoffNotElapsed) as refused:
        to_run(early)
    assert refused.value.retry_after == SECOND
    assert to_run(a_queued_snapshot(queued={"next_attempt_at": AS_OF})).number == 2


def test_run_waits_for_the_users_others() -> None:
    """With as many running as may, a queued one is not begun."""
    with pytest.raises(TooManyParallel):
        to_run(a_queued_snapshot(live=2, live_until=AS_OF + SECOND))


def test_run_uses_the_stored_answer() -> None:
    """An answer that came late is used without a call, although the attempts are used up."""
    attempts = tuple(an_attempt(number) for number in (2, 3, 4))

    admission = to_run(a_queued_snapshot(*attempts, stored_answer=a_stored_answer(4)))

    assert (admission.context, admission.number) == (None, 5)


@pytest.mark.parametrize(
    ("snapshot", "refusal"),
    [
        (a_queued_snapshot(generation=a_generation(status=GenerationStatus.SUCCESS)), AlreadySucceeded),
        (a_queued_snapshot(can_create_session=False), NotConfigured),
        (a_queued_snapshot(session_conflict="There is one already."), SessionConflict),
        (a_queued_snapshot(generation=a_generation(prompt_data=None)), ContextMissing),
        (a_queued_snapshot(*(an_attempt(number) for number in (2, 3, 4))), AttemptsExhausted),
    ],
)
def test_run_keeps_every_other_rule(snapshot: Snapshot, refusal: type[Exception]) -> None:
    """What makes every further attempt pointless ends an accepted retry."""
    with pytest.raises(refusal):
        to_run(snapshot)


@pytest.mark.parametrize(("left", "ended"), [(timedelta(0), True), (-SECOND, True), (SECOND, False)])
def test_run_ends_with_its_time(left: timedelta, *, ended: bool) -> None:
    """An accepted retry whose time is up is not tried again; at the instant itself it is up."""
    snapshot = a_queued_snapshot(queued={"expires_at": AS_OF + left})

    if ended:
        with pytest.raises(RetryExpired):
            to_run(snapshot)
    else:
        assert to_run(snapshot).number == 2


def test_run_ends_before_it_asks_the_apps_function() -> None:
    """A context that can't even be read keeps no retry beyond its time."""

    def context_from(_: object) -> Any:
        raise AssertionError("not to be asked")

    with pytest.raises(RetryExpired):
        to_run(a_queued_snapshot(queued={"expires_at": AS_OF}), context_from=context_from)


def test_poison_is_given_up() -> None:
    """After as many workers died in a row as the policy allows, no other one is sent after them."""
    roomy = RetryPolicy(max_attempts=10, max_abandoned=3)
    two, three = (tuple(abandoned(number) for number in range(2, 2 + many)) for many in (2, 3))

    assert to_run(a_queued_snapshot(*two), roomy).number == 4
    with pytest.raises(RetryPoisoned) as given_up:
        to_run(a_queued_snapshot(*three), roomy)
    assert given_up.value.details == {"abandoned": 3}


def test_deaths_before_the_acceptance_are_no_poison() -> None:
    """Clicks whose process died, and an accepted retry that was given up, say nothing of a retry accepted since."""
    roomy = RetryPolicy(max_attempts=10, max_abandoned=3)

    for accepted_at in (None, AS_OF - 2 * HOUR):
        before = tuple(abandoned(number, accepted_at=accepted_at) for number in range(2, 5))
        assert to_run(a_queued_snapshot(*before), roomy).number == 5


def test_an_end_between_deaths_is_no_poison() -> None:
    """Workers that died before or after one that did not are not in a row."""
    roomy = RetryPolicy(max_attempts=10, max_abandoned=3)

    assert to_run(a_queued_snapshot(abandoned(2), an_attempt(3), abandoned(4), abandoned(5)), roomy).number == 6


def test_poison_is_of_accepted_retries() -> None:
    """Deaths of workers poison no click: whoever waits for it may try."""
    roomy = RetryPolicy(max_attempts=10, max_abandoned=3)
    attempts = tuple(abandoned(number) for number in (2, 3, 4))

    assert admit(a_snapshot(attempts=attempts), roomy).number == 5
    assert to_enqueue(a_snapshot(attempts=attempts), roomy).number == 5


# What a queued attempt is, and is not


def test_only_the_last_open_attempt_is_queued() -> None:
    """What runs, or ended, waits for no worker."""
    assert queued_attempt(a_snapshot()) is None
    assert queued_attempt(a_snapshot(attempts=(an_attempt(),))) is None
    assert queued_attempt(a_snapshot(attempts=(an_open_attempt(),))) is None
    assert queued_attempt(a_snapshot(attempts=(an_attempt(2, lease_expires_at=None),))) is None
    assert queued_attempt(a_queued_snapshot()) == a_queued_attempt()


@given(many=st.integers(0, 6), queued=st.booleans())
def test_waiting_uses_up_nothing(many: int, queued: bool) -> None:
    """A queued attempt counts nowhere before it begins: not as a number, not as an attempt, not as a recent one."""
    attempts = tuple(an_attempt(number) for number in range(2, 2 + many))
    snapshot = a_queued_snapshot(*attempts) if queued else a_snapshot(attempts=attempts)

    assert next_number(snapshot) == many + 2
    assert counted_attempts(snapshot) == many + 1
    policy = RetryPolicy(max_attempts=many + 3, hard_cap=many + 2)
    assert attempts_left(snapshot, a_failure(), policy)
    assert not attempts_left(snapshot, a_failure(), RetryPolicy(max_attempts=many + 2, hard_cap=many + 2))
    assert not attempts_left(snapshot, a_failure(), RetryPolicy(max_attempts=many + 3, hard_cap=many + 1))


def test_a_failure_that_is_not_counted_leaves_attempts() -> None:
    """The last attempt is not used up by what cost nothing, or what the request can't have caused."""
    snapshot = a_queued_snapshot(an_attempt(2), an_attempt(3))

    assert not attempts_left(snapshot, a_failure(), POLICY)
    assert attempts_left(snapshot, a_failure(certainly_not_generated=True), POLICY)
    assert attempts_left(snapshot, a_failure(overloaded=True), POLICY)


def test_wait_of_a_queued_attempt_is_its_own() -> None:
    """When a queued attempt is due says the attempt itself."""
    due_at = AS_OF + HOUR

    assert next_attempt_at(a_queued_snapshot(an_attempt(), queued={"next_attempt_at": due_at})) == due_at


def test_question_keeps_its_name_while_it_waits() -> None:
    """The provider's key is the same whether an attempt is queued or not, and as long as no outcome is known."""
    context = a_context()
    lost = an_attempt(2, provider_outcome=ProviderOutcome.UNKNOWN)
    known = an_attempt(2, provider_outcome=ProviderOutcome.GENERATED)

    first = provider_key(a_snapshot(), context)
    assert provider_key(a_queued_snapshot(), context) == first
    assert provider_key(a_queued_snapshot(lost), context) == first
    assert provider_key(a_queued_snapshot(known), context) == provider_key(a_snapshot(attempts=(known,)), context)
    assert provider_key(a_queued_snapshot(known), context) != first


# Outages


@given(
    failures=st.integers(1, 200),
    fraction=st.floats(0, 1),
    asked=st.none() | st.timedeltas(timedelta(0), timedelta(days=30)),
)
def test_outage_wait_is_bounded(failures: int, fraction: float, asked: timedelta | None) -> None:
    """A probe comes no later than the cap, or what the provider asked for up to the longest backoff; and no earlier."""
    policy = DEFAULT_POLICY
    longest = min(policy.outage_cap, ceiling(failures + 1, policy))

    wait = outage_wait(failures, a_failure(retry_after=asked), policy, fraction=fraction)

    assert wait >= longest / 2
    assert wait <= max(longest, min(asked or timedelta(0), policy.backoff_cap))
    assert asked is None or wait >= min(asked, policy.backoff_cap)


@given(failures=st.integers(1, 100), fraction=st.floats(0, 1))
def test_outage_waits_never_get_shorter(failures: int, fraction: float) -> None:
    """The longer an outage, the rarer its probes."""
    one, next_one = (outage_wait(each, a_failure(), fraction=fraction) for each in (failures, failures + 1))

    assert one <= next_one


def test_outage_waits_double_to_their_cap() -> None:
    """From the backoff's base on each failure in a row doubles the wait, up to the cap."""
    policy = RetryPolicy(backoff_base=2 * SECOND, outage_cap=30 * SECOND)
    waits = [outage_wait(failures, a_failure(), policy, fraction=1.0) for failures in range(1, 7)]

    assert [wait / SECOND for wait in waits] == [2, 4, 8, 16, 30, 30]
    assert outage_wait(1, a_failure(), policy, fraction=0.0) == SECOND


@pytest.mark.parametrize("code", list(FailureCode))
def test_outage_is_what_speaks_of_the_provider(code: FailureCode) -> None:
    """Unavailable and rate limited are outages, and whatever is the operator's fault; other failures are none."""
    assert is_outage(a_failure(code)) is (code in (FailureCode.UNAVAILABLE, FailureCode.RATE_LIMITED))
    assert is_outage(a_failure(code, operator_fault=True))


@pytest.mark.parametrize(
    ("failure", "doubts"),
    [
        (a_failure(retry_after=SECOND), 1),
        (a_failure(wire_requests=0), 1),
        (a_failure(wire_requests=0, transient=False), OUTAGE_DOUBTS),
        (a_failure(FailureCode.TIMEOUT, wire_requests=0), OUTAGE_DOUBTS),
        (a_failure(certainly_not_generated=True), OUTAGE_REFUSALS),
        (a_failure(operator_fault=True), OUTAGE_REFUSALS),
        (a_failure(overloaded=True), OUTAGE_REFUSALS),
        (a_failure(FailureCode.RATE_LIMITED), OUTAGE_REFUSALS),
        (a_failure(), OUTAGE_DOUBTS),
    ],
)
def test_outage_is_doubted_the_more_the_request_may_be_its_cause(failure: Failure, doubts: int) -> None:
    """Where no connection was possible, or a wait is asked for, one failure is enough; a broken answer is no proof."""
    assert outage_doubts(failure) == doubts


def test_outage_waits_as_long_as_was_asked_within_the_policys_limit() -> None:
    """What the provider asks of one request is bounded before all others wait as long."""
    policy = RetryPolicy(max_wait=30 * SECOND)

    assert outage_wait(1, a_failure(retry_after=HOUR), policy, fraction=0.0) == 30 * SECOND


def test_reader_of_an_earlier_acceptance_binds_no_click() -> None:
    """Only a worker needs the reader with which a retry was accepted: a click reads with its own."""
    snapshot = a_snapshot(attempts=(an_attempt(context_reader="shop.prompts:read"),))

    assert admit(snapshot, POLICY).context == a_context()
