"""The rules of a retry, one by one and in their order."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    BackoffNotElapsed,
    ContextMissing,
    NotConfigured,
    QuotaExhausted,
    RetryInProgress,
    SessionConflict,
    TooManyParallel,
)
from ai_retry.domain.model import Attempt, Generation, GenerationStatus, Outcome, QuotaRule, Snapshot, Waiver
from ai_retry.domain.policy import (
    DEFAULT_POLICY,
    RetryPolicy,
    admit,
    attempts_left,
    call_timeout,
    ceiling,
    counted_attempts,
    next_attempt_at,
    next_number,
    wait_after,
)
from tests.helpers.builders import (
    AS_OF,
    LEASE,
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

LEFT_BEHIND = timedelta(minutes=15)  # for which the app's own call is believed

# What each rule refuses, in the order of the rules; every reason can be combined with all that come after it.
REASONS: list[tuple[type[AiRetryError], dict[str, Any]]] = [
    (AlreadySucceeded, {"status": GenerationStatus.SUCCESS}),
    (RetryInProgress, {"status": GenerationStatus.PROCESSING, "updated_at": AS_OF}),
    (NotConfigured, {"can_create_session": False}),
    (SessionConflict, {"session_conflict": "There is one already."}),
    (ContextMissing, {"prompt_data": None}),
    (AttemptsExhausted, {"attempts": 20}),
    (BackoffNotElapsed, {"next_attempt_at": AS_OF + SECOND}),
    (TooManyParallel, {"live": 2, "live_until": AS_OF + LEASE}),
    (QuotaExhausted, {"quota": a_quota(captured=5, resets_at=AS_OF + SECOND)}),
]


def refused_for(*reasons: dict[str, Any]) -> AiRetryError:
    """What ``admit`` raises when all these reasons apply."""
    merged: dict[str, Any] = {}
    for reason in reversed(reasons):
        merged |= reason
    last = an_attempt(merged.get("attempts", 1) + 1, next_attempt_at=merged.pop("next_attempt_at", AS_OF))
    earlier = [an_attempt(number) for number in range(2, last.number)]
    columns = {name: merged.pop(name) for name in ("status", "updated_at", "prompt_data") if name in merged}
    merged["attempts"] = (*earlier, last)
    with pytest.raises(AiRetryError) as caught:
        admit(a_snapshot(generation=a_generation(**columns), **merged))
    return caught.value


def attempts_made(count: int, **columns: Any) -> tuple[Attempt, ...]:
    """As many attempts of ours, from number 2 on."""
    return tuple(an_attempt(number, **columns) for number in range(2, 2 + count))


class TestAdmit:
    """``admit`` says yes with conditions, or why not."""

    def test_admit_opens_attempt_two(self) -> None:
        """A failed generation without an attempt of ours is admitted as attempt 2, under the snapshot's conditions."""
        admission = admit(a_snapshot())

        assert (admission.number, admission.max_live, admission.max_used) == (2, 2, 5)
        assert admission.abandoned_wait == timedelta(seconds=2)
        assert admission.context == a_context()
        assert (admission.stored_answer, admission.due_at) == (None, None)

    def test_admit_carries_the_users_quota(self) -> None:
        """An override that the snapshot has is the limit that the begin must count by."""
        assert admit(a_snapshot(quota=a_quota(limit=9, window=timedelta(hours=1)))).max_used == 9

    @pytest.mark.parametrize(("error", "reason"), REASONS)
    def test_admit_refuses(self, error: type[AiRetryError], reason: dict[str, Any]) -> None:
        """Each rule refuses by itself."""
        assert type(refused_for(reason)) is error

    @pytest.mark.parametrize(("first", "second"), list(pairwise(REASONS)))
    def test_admit_refuses_in_order(
        self, first: tuple[type[AiRetryError], dict[str, Any]], second: tuple[type[AiRetryError], dict[str, Any]]
    ) -> None:
        """Where two neighbouring rules would refuse, the first one does."""
        assert type(refused_for(first[1], second[1])) is first[0]

    def test_admit_refuses_for_first_of_all(self) -> None:
        """Where every rule would refuse, they do so one after the other."""
        refusals = [type(refused_for(*(reason for _, reason in REASONS[index:]))) for index in range(len(REASONS))]

        assert refusals == [error for error, _ in REASONS]

    def test_admit_refuses_success_of_either_side(self) -> None:
        """A succeeded attempt of ours is success, even if the app set the status back."""
        attempts = (an_attempt(outcome=Outcome.SUCCEEDED, next_attempt_at=None),)

        with pytest.raises(AlreadySucceeded):
            admit(a_snapshot(attempts=attempts))

    def test_already_succeeded_names_the_session(self) -> None:
        """The refusal of a success says which session there is."""
        session_id = "4711"
        generation = a_generation(status=GenerationStatus.SUCCESS, session_id=session_id)

        with pytest.raises(AlreadySucceeded) as caught:
            admit(a_snapshot(generation=generation))

        assert caught.value.details == {"session_id": session_id}


class TestInProgress:
    """A generation is being worked on while a lease is valid, ours or the app's own."""

    @pytest.mark.parametrize(("left", "wait"), [(SECOND, SECOND), (LEASE, 5 * SECOND)])
    def test_open_attempt_is_in_progress(self, left: timedelta, wait: timedelta) -> None:
        """While our lease is valid the retry is refused, to come back at its end and in five seconds at most."""
        attempts = (an_open_attempt(lease_expires_at=AS_OF + left),)

        with pytest.raises(RetryInProgress) as caught:
            admit(a_snapshot(attempts=attempts))

        assert caught.value.retry_after == wait

    def test_open_attempt_is_free_when_lease_ends(self) -> None:
        """A lease that ends now has ended; then the wait after abandonment counts."""
        attempts = (an_open_attempt(lease_expires_at=AS_OF),)

        with pytest.raises(BackoffNotElapsed) as caught:
            admit(a_snapshot(attempts=attempts))

        assert caught.value.retry_after == 2 * SECOND

    @pytest.mark.parametrize("status", [GenerationStatus.PROCESSING, GenerationStatus.QUEUED])
    def test_own_call_is_in_progress(self, status: GenerationStatus) -> None:
        """Without an attempt of ours, processing and queued are the app's own call."""
        generation = a_generation(status=status, created_at=AS_OF - LEFT_BEHIND + SECOND)

        with pytest.raises(RetryInProgress) as caught:
            admit(a_snapshot(generation=generation))

        assert caught.value.retry_after == SECOND

    def test_own_call_is_left_behind_after_a_while(self) -> None:
        """An own call that was not heard of for a quarter of an hour, or whatever the policy says, is over."""
        generation = a_generation(status=GenerationStatus.PROCESSING, created_at=AS_OF - LEFT_BEHIND)
        younger = replace(generation, created_at=AS_OF - 2 * SECOND)

        assert admit(a_snapshot(generation=generation)).number == 2
        assert admit(a_snapshot(generation=younger), RetryPolicy(left_behind=2 * SECOND)).number == 2

    @pytest.mark.parametrize("policy", [RetryPolicy(lease=30 * LEFT_BEHIND), RetryPolicy(lease=6 * SECOND)])
    def test_own_call_knows_no_lease(self, policy: RetryPolicy) -> None:
        """How long a lease is makes no difference to the app's own call."""
        touched_at = AS_OF - LEFT_BEHIND + SECOND
        own = a_generation(status=GenerationStatus.PROCESSING, updated_at=touched_at)
        over = replace(own, updated_at=touched_at - SECOND)

        with pytest.raises(RetryInProgress):
            admit(a_snapshot(generation=own), policy)
        assert admit(a_snapshot(generation=over), policy).number == 2

    def test_own_call_after_our_attempt_is_believed_as_long(self) -> None:
        """What the app touched after an attempt of ours is its own call, for a quarter of an hour from then."""
        attempts = (an_attempt(closed_at=AS_OF - LEFT_BEHIND - SECOND),)
        own = a_generation(status=GenerationStatus.PROCESSING, updated_at=AS_OF - LEFT_BEHIND + SECOND)
        over = replace(own, updated_at=AS_OF - LEFT_BEHIND)

        with pytest.raises(RetryInProgress):
            admit(a_snapshot(generation=own, attempts=attempts))
        assert admit(a_snapshot(generation=over, attempts=attempts)).number == 3

    def test_own_call_counts_from_last_touch(self) -> None:
        """The app's last touch begins its own call, not the generation's age."""
        generation = a_generation(status=GenerationStatus.PROCESSING, updated_at=AS_OF - SECOND)

        with pytest.raises(RetryInProgress):
            admit(a_snapshot(generation=generation))

    def test_abandoned_attempt_is_not_in_progress(self) -> None:
        """The processing that an abandoned attempt of ours left behind refuses nothing."""
        started_at = AS_OF - LEASE - 2 * SECOND
        generation = a_generation(status=GenerationStatus.PROCESSING, updated_at=started_at)
        attempts = (an_open_attempt(lease_expires_at=started_at + LEASE),)

        assert admit(a_snapshot(generation=generation, attempts=attempts)).number == 3

    @pytest.mark.parametrize("closed_at", [None, AS_OF])
    def test_own_call_after_our_lease_is_in_progress(self, closed_at: object) -> None:
        """A touch after our lease is the app's own call, even if our attempt was closed as abandoned later still."""
        generation = a_generation(status=GenerationStatus.PROCESSING, updated_at=AS_OF - SECOND)
        attempts = (
            an_open_attempt(
                lease_expires_at=AS_OF - 5 * SECOND,
                outcome=Outcome.ABANDONED if closed_at else None,
                closed_at=closed_at,
            ),
        )

        with pytest.raises(RetryInProgress):
            admit(a_snapshot(generation=generation, attempts=attempts))

    def test_own_call_after_our_failure_is_in_progress(self) -> None:
        """A touch after our attempt failed is the app's own call."""
        generation = a_generation(status=GenerationStatus.PROCESSING, updated_at=AS_OF - SECOND)
        attempts = (an_attempt(closed_at=AS_OF - 2 * SECOND, lease_expires_at=AS_OF + LEASE),)

        with pytest.raises(RetryInProgress):
            admit(a_snapshot(generation=generation, attempts=attempts))


class TestExhaustion:
    """Attempts that count are limited, and all of them by the hard cap."""

    def test_third_retry_is_admitted(self) -> None:
        """After the original and two retries there is a third."""
        assert admit(a_snapshot(attempts=attempts_made(2))).number == 4

    def test_max_attempts_include_the_original(self) -> None:
        """With the app's original call, four attempts are all."""
        with pytest.raises(AttemptsExhausted) as caught:
            admit(a_snapshot(attempts=attempts_made(3)))

        assert caught.value.details == {"attempts": 4, "max_attempts": 4}
        assert caught.value.retry_after is None

    def test_uncounted_attempts_do_not_exhaust(self) -> None:
        """What certainly did not generate uses up nothing."""
        snapshot = a_snapshot(attempts=attempts_made(10, counted=False))

        assert counted_attempts(snapshot) == 1
        assert admit(snapshot).number == 12

    def test_twentieth_attempt_is_admitted(self) -> None:
        """Nineteen uncounted attempts in a day leave one more."""
        assert admit(a_snapshot(attempts=attempts_made(19, counted=False))).number == 21

    def test_hard_cap_counts_every_attempt(self) -> None:
        """Uncounted attempts are limited all the same, until the oldest is exactly a day old."""
        almost = an_attempt(2, counted=False, started_at=AS_OF - timedelta(hours=24) + SECOND)
        others = attempts_made(20, counted=False)[1:]

        with pytest.raises(AttemptsExhausted) as caught:
            admit(a_snapshot(attempts=(almost, *others)))

        assert caught.value.details == {"attempts": 20, "max_attempts": 20}
        assert caught.value.retry_after == SECOND

    def test_hard_cap_says_when_enough_attempts_are_forgotten(self) -> None:
        """With more attempts than the cap, the wait lasts until fewer than the cap are left in the window."""
        attempts = tuple(
            an_attempt(number, counted=False, started_at=AS_OF - timedelta(hours=24) + (50 - number) * SECOND)
            for number in reversed(range(2, 24))
        )

        with pytest.raises(AttemptsExhausted) as caught:
            admit(a_snapshot(attempts=attempts))

        assert caught.value.retry_after == 29 * SECOND

    def test_hard_cap_gives_no_wait_where_waiting_does_not_help(self) -> None:
        """Retry-After appears only where the identical request may succeed later."""
        attempts = attempts_made(20, counted=False)
        last = replace(attempts[-1], transient=False)

        with pytest.raises(AttemptsExhausted) as caught:
            admit(a_snapshot(attempts=(*attempts[:-1], last)))

        assert caught.value.wait is not None
        assert caught.value.retry_after is None

    def test_hard_cap_forgets_a_day_ago(self) -> None:
        """An attempt that began exactly a day ago is out of the hard cap's window."""
        old = an_attempt(2, counted=False, started_at=AS_OF - timedelta(hours=24))
        others = attempts_made(20, counted=False)[1:]

        assert admit(a_snapshot(attempts=(old, *others))).number == 22

    def test_stored_answer_needs_no_attempts_left(self) -> None:
        """A stored answer makes no call, so used-up attempts and a missing context don't matter."""
        snapshot = a_snapshot(
            generation=a_generation(prompt_data=None),
            attempts=attempts_made(4),
            stored_answer=a_stored_answer(5),
        )

        admission = admit(snapshot)

        assert admission.stored_answer == a_stored_answer(5)
        assert admission.context is None

    def test_calls_count_towards_hard_cap_beside_a_stored_answer(self) -> None:
        """What was called in the last day was called, whatever the next attempt uses."""
        attempts = attempts_made(20, counted=False)

        with pytest.raises(AttemptsExhausted) as caught:
            admit(a_snapshot(attempts=attempts, stored_answer=a_stored_answer(5)))

        assert caught.value.details["max_attempts"] == 20

    def test_attempts_from_a_stored_answer_are_spared(self) -> None:
        """They make no call, and don't count towards the hard cap (row 2.8)."""
        assert admit(a_snapshot(attempts=attempts_made(20, counted=False, answer_from=2))).number == 22

    @pytest.mark.parametrize(("made", "counted", "left"), [(1, True, True), (2, True, False), (2, False, True)])
    def test_attempts_left_counts_this_one(self, made: int, *, counted: bool, left: bool) -> None:
        """The attempt that just failed counts, if its failure does."""
        snapshot = a_snapshot(attempts=attempts_made(made))

        assert attempts_left(snapshot, a_failure(certainly_not_generated=not counted)) is left

    def test_attempts_left_keeps_the_hard_cap(self) -> None:
        """After the twentieth attempt of a day there is none left, counted or not."""
        snapshot = a_snapshot(attempts=attempts_made(19, counted=False))

        assert attempts_left(snapshot, a_failure(certainly_not_generated=True)) is False


class TestCeilings:
    """Backoff, live attempts and quota, and who may lift them."""

    def test_backoff_says_when(self) -> None:
        """Before its time a retry is refused, and learns how long to wait."""
        due_at = AS_OF + 90 * SECOND

        with pytest.raises(BackoffNotElapsed) as caught:
            admit(a_snapshot(attempts=(an_attempt(next_attempt_at=due_at),)))

        assert caught.value.retry_after == 90 * SECOND
        assert caught.value.details == {"next_attempt_at": due_at}

    def test_backoff_ends_on_time(self) -> None:
        """An attempt that is due now is not too soon, and one without a wait never is."""
        for due_at in (AS_OF, None):
            assert admit(a_snapshot(attempts=(an_attempt(next_attempt_at=due_at),))).number == 3

    def test_backoff_can_be_waived(self) -> None:
        """An operator may lift the wait: then nothing is waited for."""
        snapshot = a_snapshot(attempts=(an_attempt(next_attempt_at=AS_OF + LEASE),))

        assert admit(snapshot, waive=frozenset({Waiver.BACKOFF})).due_at is None

    @pytest.mark.parametrize(
        ("until", "wait"),
        [(AS_OF + SECOND, SECOND), (AS_OF + LEASE, 5 * SECOND), (None, timedelta(0))],
    )
    def test_parallel_retries_say_when(self, until: object, wait: timedelta) -> None:
        """With as many live attempts as allowed, the first lease to end says when to come back."""
        with pytest.raises(TooManyParallel) as caught:
            admit(a_snapshot(live=2, live_until=until))

        assert caught.value.retry_after == wait
        assert caught.value.details == {"max_parallel": 2}

    def test_one_parallel_retry_fewer_is_admitted(self) -> None:
        """One below the ceiling there is room."""
        assert admit(a_snapshot(live=1, live_until=AS_OF + LEASE)).max_live == 2

    @pytest.mark.parametrize(("captured", "held"), [(5, 0), (4, 1), (0, 5), (5, 2)])
    def test_full_quota_says_when(self, captured: int, held: int) -> None:
        """Captured and held units fill the quota together."""
        resets_at = AS_OF + timedelta(hours=1)

        with pytest.raises(QuotaExhausted) as caught:
            admit(a_snapshot(quota=a_quota(captured=captured, held=held, resets_at=resets_at)))

        assert caught.value.retry_after == timedelta(hours=1)
        assert caught.value.details == {"limit": 5, "resets_at": resets_at}

    def test_empty_quota_says_never(self) -> None:
        """With a limit of 0 there is no time to come back at."""
        with pytest.raises(QuotaExhausted) as caught:
            admit(a_snapshot(quota=a_quota(limit=0)))

        assert caught.value.retry_after is None

    @pytest.mark.parametrize("options", [{"charge": False}, {"waive": frozenset({Waiver.QUOTA})}])
    def test_quota_is_not_asked_when_lifted(self, options: dict[str, Any]) -> None:
        """Without a charge, or with the limit lifted, neither ``admit`` nor the begin asks the quota."""
        assert admit(a_snapshot(quota=a_quota(captured=5)), **options).max_used is None

    def test_waivers_lift_nothing_else(self) -> None:
        """No waiver lifts the ceiling of live attempts."""
        with pytest.raises(TooManyParallel):
            admit(a_snapshot(live=2, live_until=AS_OF + LEASE), waive=frozenset(Waiver), charge=False)

    def test_context_comes_from_the_seam(self) -> None:
        """The app's own reading of the context is used, and its refusal is the answer."""

        def context_from(generation: Generation) -> Any:
            raise ContextMissing(f"no template for {generation.model}")

        with pytest.raises(ContextMissing) as caught:
            admit(a_snapshot(), context_from=context_from)

        assert caught.value.details == {"problem": "no template for small"}


class TestArithmetic:
    """Numbers, waits and deadlines."""

    def test_numbers_follow_the_last_attempt(self) -> None:
        """The original call is 1, the first attempt of ours 2, each further one more."""
        assert next_number(a_snapshot()) == 2
        assert next_number(a_snapshot(attempts=(an_attempt(2), an_attempt(3)))) == 4

    def test_first_call_of_ours_is_number_one(self) -> None:
        """What does not exist begins with 1, a queued first call still is it, and what follows it is 2."""
        queued = an_attempt(1, outcome=None, closed_at=None, lease_expires_at=None, accepted_at=AS_OF)

        assert next_number(a_snapshot(exists=False)) == 1
        assert next_number(a_snapshot(attempts=(queued,))) == 1
        assert next_number(a_snapshot(attempts=(an_attempt(1),))) == 2

    def test_first_call_of_ours_counts_once(self) -> None:
        """As the app's own does; one that used up nothing does not count at all."""
        assert counted_attempts(a_snapshot(exists=False)) == 0
        assert counted_attempts(a_snapshot()) == 1
        assert counted_attempts(a_snapshot(attempts=(an_attempt(1),))) == 1
        assert counted_attempts(a_snapshot(attempts=(an_attempt(1, counted=False),))) == 0
        assert counted_attempts(a_snapshot(attempts=(an_attempt(1), an_attempt(2)))) == 2

    def test_wait_after_a_first_call_is_that_after_the_first_retry(self) -> None:
        """Nothing is waited for less."""
        assert ceiling(1) == ceiling(2) == timedelta(seconds=2)

    def test_next_attempt_is_the_last_ones(self) -> None:
        """Only the last attempt's wait counts."""
        attempts = (an_attempt(2, next_attempt_at=AS_OF + LEASE), an_attempt(3, next_attempt_at=AS_OF))

        assert next_attempt_at(a_snapshot(attempts=attempts)) == AS_OF
        assert next_attempt_at(a_snapshot()) is None

    def test_ceiling_doubles_up_to_the_cap(self) -> None:
        """Two seconds after the first retry, then twice as long each time, five minutes at most."""
        ceilings = [ceiling(number).total_seconds() for number in range(2, 12)]

        assert ceilings == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    @pytest.mark.parametrize(("fraction", "seconds"), [(0.0, 4), (0.5, 6), (1.0, 8)])
    def test_wait_lies_in_its_upper_half(self, fraction: float, seconds: int) -> None:
        """The wait is drawn between half the ceiling and the ceiling."""
        assert wait_after(4, None, fraction=fraction) == timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        ("asked", "waited"),
        [(None, 8), (timedelta(seconds=3), 8), (timedelta(seconds=90), 90), (timedelta(days=9), 86400)],
    )
    def test_wait_has_what_provider_asks_as_floor(self, asked: timedelta | None, waited: int) -> None:
        """What the provider asked for is kept to, within reason."""
        assert wait_after(4, a_failure(retry_after=asked), fraction=1.0) == timedelta(seconds=waited)

    @pytest.mark.parametrize(("elapsed", "timeout"), [(0, 15), (15, 15), (16, 14), (30, 0), (40, -10)])
    def test_call_timeout_fits_the_lease(self, elapsed: int, timeout: int) -> None:
        """The call ends before the lease does, with time left for settling."""
        assert call_timeout(timedelta(seconds=elapsed)) == timedelta(seconds=timeout)

    @pytest.mark.parametrize(("elapsed", "timeout"), [(0, 3600), (29, 3571), (30, 0), (40, -10)])
    def test_long_call_begins_within_the_first_lease(self, elapsed: int, timeout: int) -> None:
        """A lease that is over before it can be renewed is not used, however long the call might take."""
        policy = RetryPolicy(deadline=timedelta(hours=1))

        assert call_timeout(timedelta(seconds=elapsed), policy) == timedelta(seconds=timeout)


class TestRetryPolicy:
    """Numbers that can't work are refused by name."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_attempts", 0),
            ("hard_cap", 0),
            ("max_parallel", 0),
            ("max_abandoned", 0),
            ("hard_cap_window", timedelta(0)),
            ("backoff_base", timedelta(0)),
            ("backoff_cap", timedelta(0)),
            ("max_wait", timedelta(0)),
            ("deadline", timedelta(0)),
            ("lease", timedelta(0)),
            ("left_behind", timedelta(0)),
            ("max_queued", timedelta(0)),
            ("outage_cap", timedelta(0)),
            ("answer_max_age", timedelta(0)),
            ("settle_margin", -SECOND),
            ("quota.limit", QuotaRule(limit=-1)),
            ("quota.window", QuotaRule(window=timedelta(0))),
        ],
    )
    def test_policy_refuses_bad_number(self, name: str, value: Any) -> None:
        """The message names the number that is wrong."""
        with pytest.raises(ValueError, match=rf"^{name}"):
            RetryPolicy(**{name.partition(".")[0]: value})

    def test_policy_refuses_base_above_cap(self) -> None:
        """The first backoff must not exceed the longest."""
        with pytest.raises(ValueError, match="backoff_base must not exceed backoff_cap"):
            RetryPolicy(backoff_base=2 * SECOND, backoff_cap=SECOND)

    def test_policy_refuses_lease_without_room(self) -> None:
        """A lease must be longer than the time left for settling."""
        with pytest.raises(ValueError, match="lease must be longer"):
            RetryPolicy(settle_margin=5 * SECOND, lease=5 * SECOND)

    def test_deadline_may_be_an_hour(self) -> None:
        """With a lease that stays short: it is renewed while the call runs. More is refused."""
        policy = RetryPolicy(deadline=timedelta(hours=1))

        assert (policy.lease, policy.longest) == (LEASE, timedelta(hours=1, seconds=5))
        with pytest.raises(ValueError, match="deadline must be at most an hour"):
            RetryPolicy(deadline=timedelta(hours=1, seconds=1))

    def test_call_without_renewals_ends_within_its_lease(self) -> None:
        """A process that renews nothing has the lease, less the margin, whatever the deadline."""
        policy = RetryPolicy(deadline=timedelta(hours=1))

        assert policy.within_lease().deadline == 30 * SECOND
        assert RetryPolicy().within_lease() == RetryPolicy()

    def test_policy_takes_limit_zero(self) -> None:
        """A quota of nothing is a quota."""
        assert RetryPolicy(quota=QuotaRule(limit=0)).quota.limit == 0


class TestAnswerMaxAge:
    """A stored answer may be too old to become a session (row 1.18)."""

    AN_HOUR = RetryPolicy(answer_max_age=timedelta(hours=1))

    def stored(self, age: timedelta | None) -> Snapshot:
        """A snapshot with an answer of that age."""
        stored_at = None if age is None else AS_OF - age
        return a_snapshot(attempts=(an_attempt(),), stored_answer=replace(a_stored_answer(), stored_at=stored_at))

    @pytest.mark.parametrize("age", [None, timedelta(0), timedelta(hours=1)], ids=["unknown", "new", "just that"])
    def test_younger_answer_is_used(self, age: timedelta | None) -> None:
        """Up to its greatest age, and where its age is unknown, the attempt makes no call."""
        assert admit(self.stored(age), self.AN_HOUR).context is None

    def test_older_answer_is_left_out(self) -> None:
        """The attempt calls, and all rules of a call hold for it."""
        old = self.stored(timedelta(hours=1, microseconds=1))

        admission = admit(old, self.AN_HOUR)

        assert (admission.context, admission.stored_answer) == (a_context(), None)
        with pytest.raises(ContextMissing):
            admit(replace(old, generation=a_generation(prompt_data=None)), self.AN_HOUR)
        with pytest.raises(AttemptsExhausted):
            admit(replace(old, attempts=attempts_made(3)), self.AN_HOUR)

    def test_any_age_is_young_enough_by_default(self) -> None:
        """The limit is off unless it is set."""
        assert DEFAULT_POLICY.answer_max_age is None
        assert admit(self.stored(timedelta(days=900))).context is None
