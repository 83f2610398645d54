"""Decisions, whole: from this snapshot follows this change, in every field."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import (
    Acceptance,
    Begin,
    CallRecord,
    CloseOver,
    Closing,
    Expected,
    Found,
    Open,
    Postpone,
    PutBack,
    Rejection,
    Run,
    Running,
    Settle,
    Success,
)
from ai_retry.domain.decide import begin, queue
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.decide.settle import Ending, found, verdict
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    BackoffNotElapsed,
    ContextMissing,
    GenerationNotFound,
    QuotaExhausted,
    RetryExpired,
    RetryInProgress,
    RouteUnavailable,
    SessionConflict,
    SessionRejected,
    TooManyParallel,
)
from ai_retry.domain.model import (
    Attempt,
    Context,
    Failure,
    FailureCode,
    Generation,
    GenerationStatus,
    Outcome,
    ProviderOutcome,
    QuotaRule,
    RetryResult,
    Route,
    Snapshot,
    Usage,
    Waiver,
)
from ai_retry.domain.policy import RetryPolicy, ceiling
from ai_retry.domain.queue_model import Message, Outage, QueuedRetry
from tests.helpers.builders import (
    AS_OF,
    GENERATION_ID,
    USER_ID,
    a_context,
    a_failure,
    a_generation,
    a_quota,
    a_snapshot,
    a_stored_answer,
    an_answer,
    an_attempt,
    an_open_attempt,
)

TOKEN, OPEN_TOKEN = UUID(int=1), UUID(int=2)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
ROUTE = "one/small"
POLICY = RetryPolicy(  # no number is its default
    max_attempts=6,
    hard_cap=9,
    backoff_base=timedelta(seconds=8),
    backoff_cap=timedelta(minutes=7),
    max_wait=timedelta(minutes=11),
    max_parallel=3,
    quota=QuotaRule(limit=7, window=timedelta(hours=3), count_own_successes=False),
    deadline=timedelta(seconds=21),
    lease=timedelta(seconds=42),
    settle_margin=timedelta(seconds=6),
    max_queued=timedelta(hours=5),
    outage_cap=timedelta(seconds=29),
)
HALF = 0.5  # where in its range a wait is


def read(generation: Generation) -> Context:
    """Read the context as the app does."""
    if generation.prompt_data is None:
        raise ContextMissing("prompt_data")
    return CONTEXT


CONTEXT = a_context(parameters={"seed": 7})  # not what the default reader reads
READER = Reader(context_from=read, route_of=lambda context: f"one/{context.model}")
READER_NAME = "tests.unit.test_decide:read"


def asked(**columns: Any) -> Asked:
    """Ask for a retry."""
    row: dict[str, Any] = {"user_id": USER_ID, "generation_id": GENERATION_ID, "token": TOKEN}
    return Asked(**row | columns)


def queued(number: int = 2, **columns: Any) -> Attempt:
    """An accepted retry's attempt that is due."""
    row: dict[str, Any] = {
        "started_at": AS_OF - MINUTE,
        "lease_expires_at": None,
        "outcome": None,
        "closed_at": None,
        "code": None,
        "next_attempt_at": AS_OF,
        "accepted_at": AS_OF - MINUTE,
        "expires_at": AS_OF + timedelta(hours=5),
        "provider_outcome": ProviderOutcome.NOT_GENERATED,
    }
    return an_attempt(number, **row | columns)


def running_queued(lease: timedelta) -> Attempt:
    """An accepted retry's attempt that runs, its lease ending then."""
    return an_open_attempt(lease_expires_at=AS_OF + lease, accepted_at=AS_OF - MINUTE, expires_at=AS_OF + 9 * MINUTE)


def route(**columns: Any) -> Route:
    """A route that is known to be unavailable, and that opens now."""
    row: dict[str, Any] = {"route": ROUTE, "not_before": AS_OF, "failures": 2, "slots": 1}
    return Route(**row | columns)


def expected(snapshot: Snapshot, **columns: Any) -> Expected:
    """What a begin must find."""
    row: dict[str, Any] = {
        "as_of": snapshot.as_of,
        "version": snapshot.version,
        "quota_rule": POLICY.quota,
        "max_live": 3,
        "max_used": snapshot.quota.limit,
    }
    return Expected(**row | columns)


def begun(snapshot: Snapshot, start: Running | Acceptance, **columns: Any) -> Begin:
    """The begin of a new attempt."""
    expects = columns.pop("expected", expected(snapshot))
    return Begin(
        user_id=USER_ID,
        generation_id=GENERATION_ID,
        token=TOKEN,
        attempt=Open(start=start, **columns),
        expected=expects,
    )


def runs(**columns: Any) -> Running:
    """How attempt 2 runs."""
    row: dict[str, Any] = {
        "lease": POLICY.lease,
        "longest": POLICY.lease,
        "abandoned_wait": POLICY.backoff_base,
        "answer_from": None,
        "route": ROUTE,
    }
    return Running(**row | columns)


class TestRetryNow:
    """A click."""

    def test_attempt_is_opened_and_runs(self) -> None:
        """The change names what it expects, and how the attempt runs; the context is what will be asked."""
        snapshot = a_snapshot(quota=a_quota(limit=4, window=timedelta(hours=1)))

        assert begin.retry_now(snapshot, asked(), READER, POLICY) == (begun(snapshot, runs()), CONTEXT)

    def test_operators_wish_is_recorded(self) -> None:
        """Lifted limits, their operator, the key and that it is free of charge are parts of the change."""
        snapshot = a_snapshot(attempts=[an_attempt(next_attempt_at=AS_OF + MINUTE)], quota=a_quota(captured=5))
        wish = {"waived": frozenset(Waiver), "operator": "ann", "idempotency_key": "key-1", "charge": False}
        facts = {("waive" if name == "waived" else name): value for name, value in wish.items()}

        change, _ = begin.retry_now(snapshot, asked(**facts), READER, POLICY)

        start = runs(abandoned_wait=2 * POLICY.backoff_base)
        assert change == begun(snapshot, start, expected=expected(snapshot, max_used=None), **wish)

    @pytest.mark.parametrize("lifted", [{"charge": False}, {"waive": frozenset({Waiver.QUOTA})}])
    def test_quota_is_not_asked_where_it_is_lifted(self, lifted: Mapping[str, Any]) -> None:
        """Either way there is no ceiling."""
        change, _ = begin.retry_now(a_snapshot(quota=a_quota(captured=5)), asked(**lifted), READER, POLICY)

        assert change.expected.max_used is None

    @pytest.mark.parametrize("accepts", [False, True])
    def test_quota_is_asked_of_who_pays(self, accepts: bool) -> None:
        """A user whose units are used is refused, now and for later."""
        snapshot = a_snapshot(quota=a_quota(captured=5))

        decide: Any = begin.accept if accepts else begin.retry_now

        with pytest.raises(QuotaExhausted):
            decide(snapshot, asked(), READER, POLICY)

    def test_stored_answer_asks_no_route(self) -> None:
        """Its attempt names the number of the one that paid, and no context."""
        snapshot = a_snapshot(
            attempts=[an_attempt()], stored_answer=a_stored_answer(), routes=[route(not_before=AS_OF + MINUTE)]
        )

        change, context = begin.retry_now(snapshot, asked(), READER, POLICY)

        assert context is None
        start = runs(answer_from=2, route=None, abandoned_wait=2 * POLICY.backoff_base)
        assert change == begun(snapshot, start)

    def test_renewals_last_for_deadline_and_margin(self) -> None:
        """A lease that is shorter than the call is renewed up to there."""
        policy = replace(POLICY)
        object.__setattr__(policy, "lease", timedelta(seconds=10))

        change, _ = begin.retry_now(a_snapshot(), asked(), READER, policy)

        assert isinstance(change.attempt.start, Running)
        assert (change.attempt.start.lease, change.attempt.start.longest) == (10 * SECOND, 27 * SECOND)

    @pytest.mark.parametrize(
        ("known", "wait"),
        [
            (route(not_before=AS_OF + 9 * SECOND), 9 * SECOND),
            (route(running=1), 5 * SECOND),
            (route(running=3, slots=2), 5 * SECOND),
        ],
        ids=["closed", "probed", "more than its slots"],
    )
    def test_route_that_is_unavailable_refuses(self, known: Route, wait: timedelta) -> None:
        """With the time until it opens, or some seconds while it is probed."""
        other = route(route="one/large", not_before=AS_OF + MINUTE)

        with pytest.raises(RouteUnavailable, match=r"^The AI provider is unavailable at the moment\.$") as caught:
            begin.retry_now(a_snapshot(routes=[other, known]), asked(), READER, POLICY)

        assert caught.value.retry_after == wait

    @pytest.mark.parametrize("known", [route(), route(running=1, slots=2), route(route="two/small", running=9)])
    def test_route_that_has_a_slot_is_asked(self, known: Route) -> None:
        """One that opens just now, one that is not full, and another one refuse nothing."""
        assert begin.retry_now(a_snapshot(routes=[known]), asked(), READER, POLICY)[1] == CONTEXT

    def test_reader_without_routes_knows_no_outage(self) -> None:
        """An app without names for its routes is never refused for one."""
        reader = Reader(context_from=read)

        change, _ = begin.retry_now(a_snapshot(routes=[route(running=1)]), asked(), reader, POLICY)

        assert change == begun(a_snapshot(), runs(route=None))

    def test_own_reader_and_numbers_are_used(self) -> None:
        """The reader is the process's own, and so are the limits."""
        odd = a_snapshot(generation=a_generation(prompt_data=None))
        with pytest.raises(ContextMissing):
            begin.retry_now(odd, asked(), READER, POLICY)
        with pytest.raises(TooManyParallel):
            begin.retry_now(a_snapshot(live=3), asked(), READER, POLICY)
        assert begin.retry_now(a_snapshot(live=2), asked(), READER, POLICY)


class TestAccept:
    """A retry for later."""

    def acceptance(self, **columns: Any) -> Acceptance:
        """What the storage is asked to accept."""
        row: dict[str, Any] = {
            "wait": timedelta(0),
            "expires_after": POLICY.max_queued,
            "status_before": GenerationStatus.ERROR,
            "in_line": 3,
            "context_reader": READER_NAME,
        }
        return Acceptance(**row | columns)

    def test_retry_is_accepted_at_once(self) -> None:
        """It waits for nothing, and remembers what the row said and which reader may judge it."""
        snapshot = a_snapshot(live=99, routes=[route(not_before=AS_OF + MINUTE)])
        expects = expected(snapshot, max_live=None)

        change = begin.accept(snapshot, asked(), READER, POLICY)

        assert change == begun(snapshot, self.acceptance(), expected=expects)

    def test_wait_goes_on_after_acceptance(self) -> None:
        """A backoff that is not over is waited for in the queue; all that was asked for is recorded."""
        snapshot = a_snapshot(
            attempts=[an_attempt(next_attempt_at=AS_OF + MINUTE)],
            generation=a_generation(status=GenerationStatus.TIMEOUT),
        )
        wish = {"operator": "ann", "idempotency_key": "key-1", "charge": False}

        change = begin.accept(snapshot, asked(**wish), READER, POLICY)

        start = self.acceptance(wait=MINUTE, status_before=GenerationStatus.TIMEOUT)
        assert change == begun(snapshot, start, expected=expected(snapshot, max_live=None, max_used=None), **wish)

    def test_wait_that_is_over_is_none(self) -> None:
        """A negative wait would put it before others."""
        change = begin.accept(a_snapshot(attempts=[an_attempt()]), asked(), READER, POLICY)

        assert change.attempt.start == self.acceptance()

    def test_lifted_wait_is_not_waited_for(self) -> None:
        """Who lifts the backoff is due at once."""
        snapshot = a_snapshot(attempts=[an_attempt(next_attempt_at=AS_OF + MINUTE)])
        waive = frozenset({Waiver.BACKOFF})

        change = begin.accept(snapshot, asked(waive=waive), READER, POLICY)

        assert change == begun(snapshot, self.acceptance(), waived=waive, expected=expected(snapshot, max_live=None))

    def test_status_of_a_dead_attempt_becomes_timeout(self) -> None:
        """What a dead process left as "processing" is not what a cancellation brings back."""
        snapshot = a_snapshot(
            generation=a_generation(status=GenerationStatus.PROCESSING),
            attempts=[an_open_attempt(lease_expires_at=AS_OF)],
        )

        change = begin.accept(snapshot, asked(waive=frozenset({Waiver.BACKOFF})), READER, POLICY)

        assert isinstance(change.attempt.start, Acceptance)
        assert change.attempt.start.status_before is GenerationStatus.TIMEOUT

    def test_own_reader_and_numbers_are_used(self) -> None:
        """A wait that outlasts the queue is refused at once, and so is what can't be read."""
        late = an_attempt(next_attempt_at=AS_OF + POLICY.max_queued)
        with pytest.raises(BackoffNotElapsed):
            begin.accept(a_snapshot(attempts=[late]), asked(), READER, POLICY)
        with pytest.raises(ContextMissing):
            begin.accept(a_snapshot(generation=a_generation(prompt_data=None)), asked(), READER, POLICY)


class TestRun:
    """A worker begins the queued attempt."""

    def test_queued_attempt_runs(self) -> None:
        """By its number, under the worker's token; its unit is held already."""
        snapshot = a_snapshot(attempts=[an_attempt(), queued(3)], quota=a_quota(captured=5))

        change, context = begin.run(snapshot, TOKEN, READER, POLICY)

        assert context == CONTEXT
        assert change == Begin(
            user_id=USER_ID,
            generation_id=GENERATION_ID,
            token=TOKEN,
            attempt=Run(number=3, start=runs(abandoned_wait=2 * POLICY.backoff_base)),
            expected=expected(snapshot, max_used=None),
        )

    def test_own_reader_and_numbers_are_used(self) -> None:
        """The reader's, the route's and the policy's refusals are the worker's."""
        odd = a_snapshot(attempts=[queued()], generation=a_generation(prompt_data=None))
        with pytest.raises(ContextMissing):
            begin.run(odd, TOKEN, READER, POLICY)
        with pytest.raises(TooManyParallel):
            begin.run(a_snapshot(attempts=[queued()], live=3), TOKEN, READER, POLICY)
        with pytest.raises(RouteUnavailable):
            begin.run(a_snapshot(attempts=[queued()], routes=[route(running=1)]), TOKEN, READER, POLICY)
        assert begin.run(a_snapshot(attempts=[queued()], live=2), TOKEN, READER, POLICY)


class TestReplay:
    """The same key again."""

    def test_success_with_the_key_is_the_result(self) -> None:
        """The generation, the session, the quota and the number are those of now."""
        snapshot = a_snapshot(
            attempts=[an_attempt(idempotency_key="key-1", outcome=Outcome.SUCCEEDED)], session={"id": "s"}
        )

        assert begin.replay(snapshot, "key-1") == RetryResult(
            generation=snapshot.generation, session={"id": "s"}, quota=snapshot.quota, attempt=2, replayed=True
        )

    @pytest.mark.parametrize(
        ("snapshot", "key"),
        [
            (a_snapshot(attempts=[an_attempt(outcome=Outcome.SUCCEEDED)], session={"id": "s"}), None),
            (a_snapshot(attempts=[an_attempt(idempotency_key="key-1")], session={"id": "s"}), "key-1"),
            (a_snapshot(attempts=[an_attempt(idempotency_key="key-1", outcome=Outcome.SUCCEEDED)]), "key-1"),
            (
                a_snapshot(
                    attempts=[an_attempt(idempotency_key="key-2", outcome=Outcome.SUCCEEDED)], session={"id": "s"}
                ),
                "key-1",
            ),
        ],
        ids=["no key", "failed", "session is gone", "another key"],
    )
    def test_anything_else_is_no_replay(self, snapshot: Snapshot, key: str | None) -> None:
        """Without a key, without a success, or without a session, the request is a new one."""
        assert begin.replay(snapshot, key) is None


@pytest.mark.parametrize(
    "snapshot",
    [None, a_snapshot(hidden=True), a_snapshot(generation=a_generation(user_id=uuid4()))],
    ids=["absent", "hidden", "foreign"],
)
def test_invisible_generation_is_not_found(snapshot: Snapshot | None) -> None:
    """The error names the id that was asked for."""
    with pytest.raises(GenerationNotFound, match=str(GENERATION_ID)):
        begin.owned(snapshot, USER_ID, GENERATION_ID)


def ending(
    snapshot: Snapshot | None = None, *, fraction: float = HALF, policy: RetryPolicy = POLICY, **start: Any
) -> Ending:
    """The ending of an attempt that was begun on a snapshot."""
    snapshot = snapshot or a_snapshot()
    return Ending(snapshot, begun(snapshot, runs(**start)), policy, fraction)


ACCEPTED = a_snapshot(attempts=[an_attempt(), queued(3)])


def settled(end: Success | Closing, now: Found = Found.READY, **columns: Any) -> Settle:
    """A settle with this end."""
    return Settle(
        user_id=USER_ID,
        generation_id=GENERATION_ID,
        token=TOKEN,
        found=now,
        end=end,
        quota_rule=POLICY.quota,
        **columns,
    )


ANSWER_CALL = CallRecord(
    provider_outcome=ProviderOutcome.GENERATED,
    duration=4 * SECOND,
    model="small",
    usage=an_answer().usage,
    provider_id="gen-1",
    wire_requests=1,
)


class TestAnswered:
    """An answer."""

    def test_click_gets_its_session_or_a_short_wait(self) -> None:
        """A rejected session is waited for 15 s at most, however long the backoff would be."""
        early = ending().answered(Found.READY, an_answer(), None, 4 * SECOND)
        late = ending(a_snapshot(attempts=[an_attempt(5)])).answered(Found.READY, an_answer(), None, 4 * SECOND)

        rejection = Rejection(message=SessionRejected.summary, wait=6 * SECOND, again_wait=15 * SECOND)
        end = Success(answer=an_answer(), answer_from=None, if_rejected=rejection)
        assert early == settled(end, call=ANSWER_CALL, answered=True)
        assert isinstance(late.end, Success)
        assert late.end.if_rejected == replace(rejection, wait=15 * SECOND)

    def test_accepted_retry_waits_for_its_backoff(self) -> None:
        """No request waits for it: the same cause again leads to the longest backoff."""
        change = ending(a_snapshot(attempts=[an_attempt(4), queued(5)])).answered(
            Found.READY, an_answer(), None, SECOND
        )

        assert isinstance(change.end, Success)
        assert change.end.if_rejected == Rejection(
            message=SessionRejected.summary, wait=0.75 * ceiling(5, POLICY), again_wait=POLICY.backoff_cap
        )

    def test_stored_answer_is_no_call(self) -> None:
        """Nothing is recorded of a provider, and no route answered."""
        change = ending().answered(Found.READY, an_answer(), 2, None)

        assert isinstance(change.end, Success)
        assert (change.end.answer_from, change.call, change.answered) == (2, None, False)

    @pytest.mark.parametrize(
        ("now", "code"), [(Found.SUCCEEDED, "ALREADY_SUCCEEDED"), (Found.FOREIGN, "GENERATION_NOT_FOUND")]
    )
    def test_answer_without_a_session_is_stored(self, now: Found, code: str) -> None:
        """It was paid for, and counts; one that is stored already stays where it is."""
        end = Closing(
            outcome=Outcome.FAILED,
            code=code,
            counted=True,
            wait=None,
            status=GenerationStatus.ERROR,
            answer=an_answer(),
        )

        assert ending().answered(now, an_answer(), None, 4 * SECOND) == settled(end, now, call=ANSWER_CALL)
        again = replace(end, counted=False, answer=None)
        assert ending().answered(now, an_answer(), 2, None) == settled(again, now)

    def test_answer_of_a_deleted_generation_goes_with_it(self) -> None:
        """There is no place where it could be of use."""
        change = ending().answered(Found.GONE, an_answer(), None, 4 * SECOND)

        assert isinstance(change.end, Closing)
        assert (change.end.answer, change.end.code) == (None, "GENERATION_NOT_FOUND")


def failed(failure: Failure, **columns: Any) -> Closing:
    """The closing that a failure of attempt 2 leads to."""
    row: dict[str, Any] = {
        "outcome": Outcome.FAILED,
        "code": failure.code.value,
        "counted": failure.counted,
        "wait": 6 * SECOND,
        "status": GenerationStatus.ERROR,
        "message": "The AI provider is unavailable.",
        "reason": failure.reason,
        "transient": failure.transient,
        "operator_fault": failure.operator_fault,
    }
    return Closing(**row | columns)


class TestFailed:
    """A failure."""

    def test_failure_closes_with_all_that_is_known(self) -> None:
        """Code, reason, wait, status, message and the call's record; the route's trouble is noted beside it."""
        failure = a_failure(
            wire_requests=2, model="small", usage=Usage(total_tokens=3), provider_id="gen-2", retry_after=MINUTE
        )

        change = ending().failed(failure, 4 * SECOND)

        call = CallRecord(
            provider_outcome=ProviderOutcome.GENERATED,
            duration=4 * SECOND,
            model="small",
            usage=Usage(total_tokens=3),
            provider_id="gen-2",
            wire_requests=2,
        )
        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        end = failed(failure, wait=MINUTE, message=change.end.message)
        assert change == settled(end, call=call, outage=Outage(wait=MINUTE, failures=1))
        assert change.end.message is not None
        assert failure.reason not in change.end.message
        assert change.end.message.startswith("The AI")

    def test_operators_fault_is_recorded_as_such(self) -> None:
        """It uses up no attempt, and its route is noted."""
        failure = a_failure(FailureCode.REJECTED, operator_fault=True, transient=False, certainly_not_generated=True)

        change = ending().failed(failure, None)

        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        end = change.end
        assert (end.operator_fault, end.transient, end.counted) == (True, False, False)
        assert change.outage == Outage(wait=6 * SECOND, failures=1, doubts=3)

    @pytest.mark.parametrize(
        ("code", "status"),
        [(FailureCode.TIMEOUT, GenerationStatus.TIMEOUT), (FailureCode.INVALID_OUTPUT, GenerationStatus.ERROR)],
    )
    def test_status_says_timeout_only_for_a_timeout(self, code: FailureCode, status: GenerationStatus) -> None:
        """Everything else is an error."""
        change = ending().failed(a_failure(code), None)

        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        assert (change.end.status, change.outage) == (status, None)

    @pytest.mark.parametrize(
        ("failure", "answered"),
        [
            (a_failure(FailureCode.INVALID_OUTPUT), True),
            (a_failure(FailureCode.REJECTED, certainly_not_generated=True, transient=False), True),
            (a_failure(FailureCode.TIMEOUT), False),
            (a_failure(certainly_not_generated=True), False),
        ],
        ids=["invalid", "rejected", "timeout", "unavailable"],
    )
    def test_route_has_answered_where_that_is_certain(self, failure: Failure, answered: bool) -> None:
        """A reply that is no outage shows that the provider is there."""
        change = ending().failed(failure, None)

        assert isinstance(change, Settle)
        assert change.answered is answered

    def test_attempt_that_was_turned_away_is_put_back(self) -> None:
        """An accepted retry whose request was not taken is queued again, a little after its route opens."""
        failure = a_failure(certainly_not_generated=True, wire_requests=3, overloaded=True)

        change = ending(ACCEPTED).failed(failure, 4 * SECOND)

        assert change == PutBack(
            user_id=USER_ID,
            generation_id=GENERATION_ID,
            token=TOKEN,
            wait=0.75 * 8 * SECOND + 2.5 * SECOND,
            reason=failure.reason,
            wire_requests=3,
            outage=Outage(wait=6 * SECOND, failures=1, doubts=3),
        )

    def test_put_back_waits_as_long_as_was_asked(self) -> None:
        """The provider's wait is a floor; it is the whole of a queue's, at most ``max_wait``."""
        failure = a_failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=timedelta(hours=3))

        change = ending(ACCEPTED).failed(failure, None)

        assert isinstance(change, PutBack)
        assert change.wait == POLICY.max_wait + 2.5 * SECOND

    def test_next_failures_of_a_known_outage_wait_longer(self) -> None:
        """The count goes on, is believed at once, and the request is innocent whatever became of it."""
        snapshot = replace(ACCEPTED, routes=[route(route="one/large", failures=7), route(failures=1)])

        change = ending(snapshot).failed(a_failure(), None)

        assert isinstance(change, PutBack)
        assert change.outage == Outage(wait=0.75 * 16 * SECOND, failures=2, doubts=1)

    def test_outage_wait_is_at_most_its_cap(self) -> None:
        """Probes go on."""
        change = ending(a_snapshot(routes=[route(failures=9)])).failed(a_failure(), None)

        assert isinstance(change, Settle)
        assert change.outage == Outage(wait=0.75 * POLICY.outage_cap, failures=10)

    @pytest.mark.parametrize(
        "failure",
        [a_failure(operator_fault=True, certainly_not_generated=True), a_failure(FailureCode.TIMEOUT), a_failure()],
        ids=["operator's", "no outage", "may have generated"],
    )
    def test_attempt_that_may_have_cost_is_closed(self, failure: Failure) -> None:
        """Only what the request can't have caused leaves the attempt as if it had not begun."""
        change = ending(ACCEPTED).failed(failure, None)

        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        assert change.end.goes_on

    def test_click_is_closed_whatever_turned_it_away(self) -> None:
        """Someone waits for it: it is answered."""
        change = ending().failed(a_failure(certainly_not_generated=True), None)

        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        assert not change.end.goes_on

    @pytest.mark.parametrize(("overloaded", "counted"), [(True, False), (False, True)])
    @pytest.mark.parametrize("snapshot", [a_snapshot(), ACCEPTED], ids=["click", "accepted"])
    def test_overload_uses_up_nothing(self, snapshot: Snapshot, overloaded: bool, counted: bool) -> None:
        """A provider that takes no requests, whatever is asked, is not the generation's doing."""
        change = ending(snapshot).failed(a_failure(overloaded=overloaded), None)

        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        assert change.end.counted is counted

    @pytest.mark.parametrize("now", [Found.SUCCEEDED, Found.FOREIGN, Found.GONE])
    def test_failure_without_a_generation_is_recorded(self, now: Found) -> None:
        """The call is, and whether it counts; the app is not informed."""
        failure = a_failure(wire_requests=2)

        change = ending().failed_without(now, failure, 4 * SECOND)

        assert change.call == CallRecord(provider_outcome=ProviderOutcome.UNKNOWN, duration=4 * SECOND, wire_requests=2)
        code = "ALREADY_SUCCEEDED" if now is Found.SUCCEEDED else "GENERATION_NOT_FOUND"
        assert change.end == Closing(
            outcome=Outcome.FAILED, code=code, counted=True, wait=None, status=GenerationStatus.ERROR
        )
        assert (change.found, change.outage, change.answered) == (now, None, False)


class TestGoesOn:
    """Whether an accepted retry has a next attempt."""

    def goes_on(self, snapshot: Snapshot, failure: Failure, **columns: Any) -> bool:
        """Ask."""
        change = ending(snapshot, **columns).failed(failure, None)
        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        return change.end.goes_on

    @pytest.mark.parametrize(("left", "expects"), [(13, True), (12, False), (11, False)])
    def test_next_attempt_is_in_time(self, left: int, expects: bool) -> None:
        """What would be due at the retry's end, or later, is not tried."""
        snapshot = a_snapshot(attempts=[an_attempt(), queued(3, expires_at=AS_OF + left * SECOND)])

        assert self.goes_on(snapshot, a_failure(FailureCode.TIMEOUT)) is expects

    def test_wait_that_is_asked_for_is_in_time(self) -> None:
        """The provider's wait counts, too."""
        snapshot = a_snapshot(attempts=[an_attempt(), queued(3, expires_at=AS_OF + 2 * MINUTE)])

        assert self.goes_on(snapshot, a_failure(FailureCode.TIMEOUT, retry_after=MINUTE))
        assert not self.goes_on(snapshot, a_failure(FailureCode.TIMEOUT, retry_after=2 * MINUTE))

    def test_retry_without_an_end_goes_on(self) -> None:
        """Without an end there is nothing to miss."""
        snapshot = a_snapshot(attempts=[queued(expires_at=None)])

        assert self.goes_on(snapshot, a_failure(FailureCode.TIMEOUT))

    @pytest.mark.parametrize(
        ("failure", "expects"),
        [
            (a_failure(FailureCode.INVALID_OUTPUT), True),
            (a_failure(FailureCode.INVALID_OUTPUT, transient=False), False),
            (a_failure(FailureCode.REJECTED, transient=False, operator_fault=True), True),
        ],
        ids=["passes", "does not pass", "operator may act"],
    )
    def test_only_what_may_pass_goes_on(self, failure: Failure, expects: bool) -> None:
        """Waiting cures it, or an operator may within the time."""
        assert self.goes_on(ACCEPTED, failure) is expects

    @pytest.mark.parametrize(("made", "expects"), [(8, True), (9, False)])
    def test_own_attempts_are_at_most_the_hard_cap(self, made: int, expects: bool) -> None:
        """Those that an operator has to answer for count here; those of an earlier acceptance don't."""
        ours = [
            an_attempt(number, accepted_at=AS_OF - MINUTE, counted=False, operator_fault=True)
            for number in range(12, 11 + made)
        ]
        others = [an_attempt(number, counted=False, operator_fault=True) for number in range(2, 12)]
        snapshot = a_snapshot(attempts=[*others, *ours, queued(11 + made)])

        assert self.goes_on(snapshot, a_failure(operator_fault=True)) is expects

    @pytest.mark.parametrize(
        ("before", "overloaded", "expects"), [(3, False, True), (4, False, False), (4, True, True)]
    )
    def test_attempts_are_left(self, before: int, overloaded: bool, expects: bool) -> None:
        """By the policy's own number; an overload is spared."""
        attempts = [*(an_attempt(number) for number in range(2, 2 + before)), queued(2 + before)]

        assert self.goes_on(a_snapshot(attempts=attempts), a_failure(overloaded=overloaded)) is expects


class TestRetryAfter:
    """Whether coming back helps."""

    @pytest.mark.parametrize(("before", "wait"), [(0, 6 * SECOND), (3, 48 * SECOND), (4, None)])
    def test_wait_is_named_while_attempts_are_left(self, before: int, wait: timedelta | None) -> None:
        """By the policy's own numbers."""
        snapshot = a_snapshot(attempts=[an_attempt(number) for number in range(2, 2 + before)])

        assert ending(snapshot).retry_after(a_failure()) == wait

    def test_asked_wait_is_named(self) -> None:
        """The provider's floor, at most the policy's."""
        assert ending().retry_after(a_failure(retry_after=MINUTE)) == MINUTE
        assert ending().retry_after(a_failure(retry_after=60 * MINUTE)) == POLICY.max_wait

    @pytest.mark.parametrize("failure", [a_failure(transient=False), a_failure(operator_fault=True)])
    def test_no_wait_is_named_when_useless(self, failure: Failure) -> None:
        """Neither what does not pass nor what an operator has to cure has one."""
        assert ending().retry_after(failure) is None


class TestVerdict:
    """What a caller with an answer gets."""

    def mine(self, attempt: Attempt, **columns: Any) -> Snapshot:
        """A snapshot in which this attempt is the caller's."""
        return a_snapshot(attempts=[attempt], mine=attempt.number, **columns)

    def test_own_success_is_the_result(self) -> None:
        """With the session as it is now; empty when the app has removed it."""
        snapshot = self.mine(an_attempt(outcome=Outcome.SUCCEEDED), session={"id": "s"})

        result = RetryResult(generation=snapshot.generation, session={"id": "s"}, quota=snapshot.quota, attempt=2)
        assert verdict(snapshot, USER_ID, GENERATION_ID) == result
        assert verdict(replace(snapshot, session=None), USER_ID, GENERATION_ID) == replace(result, session={})

    @pytest.mark.parametrize("by_us", [True, False])
    def test_another_success_comes_before_a_rejection(self, by_us: bool) -> None:
        """Also when this attempt's own session was rejected: the error names the session that there is."""
        session_id, status = str(uuid4()), GenerationStatus.ERROR if by_us else GenerationStatus.SUCCESS
        snapshot = a_snapshot(
            attempts=[an_attempt(code="SESSION_REJECTED"), an_attempt(3, outcome=Outcome.SUCCEEDED)][: 1 + by_us],
            mine=2,
            generation=a_generation(status=status, session_id=session_id),
        )

        with pytest.raises(AlreadySucceeded, match=str(GENERATION_ID)) as caught:
            verdict(snapshot, USER_ID, GENERATION_ID)

        assert caught.value.details == {"session_id": session_id}

    @pytest.mark.parametrize(
        ("code", "kind"), [("SESSION_REJECTED", SessionRejected), ("SESSION_CONFLICT", SessionConflict)]
    )
    def test_rejection_names_cause_and_wait(self, code: str, kind: type[SessionRejected]) -> None:
        """The wait is the one that followed the attempt, not what is left of it; a conflict is its user's to cure."""
        snapshot = self.mine(
            an_attempt(
                code=code,
                refused_constraint="km_is_positive",
                closed_at=AS_OF - MINUTE,
                next_attempt_at=AS_OF - 50 * SECOND,
            )
        )

        with pytest.raises(SessionRejected, match="km_is_positive") as caught:
            verdict(snapshot, USER_ID, GENERATION_ID)

        assert (type(caught.value), caught.value.retry_after) == (kind, 10 * SECOND)

    def test_hidden_generation_is_not_found(self) -> None:
        """The error names the id that was asked for."""
        with pytest.raises(GenerationNotFound, match=str(GENERATION_ID)):
            verdict(self.mine(an_attempt(), hidden=True), USER_ID, GENERATION_ID)


def test_success_is_found_on_either_side() -> None:
    """By our attempt, whatever the app has written since; or by the app's status."""
    ours = a_snapshot(attempts=[an_attempt(outcome=Outcome.SUCCEEDED)])
    theirs = a_snapshot(generation=a_generation(status=GenerationStatus.SUCCESS))

    assert [found(each, USER_ID) for each in (ours, theirs)] == [Found.SUCCEEDED] * 2


class TestQueue:
    """Messages, cancellations and what is described as accepted."""

    def test_queued_attempt_is_described(self) -> None:
        """With its number, times, and the generation and quota as they are."""
        attempt = queued(3, next_attempt_at=AS_OF + MINUTE)
        snapshot = a_snapshot(attempts=[an_attempt(), attempt])

        assert queue.accepted(snapshot) == QueuedRetry(
            generation=snapshot.generation,
            quota=snapshot.quota,
            attempt=3,
            accepted_at=attempt.accepted_at,
            next_attempt_at=AS_OF + MINUTE,
            expires_at=attempt.expires_at,
            as_of=AS_OF,
        )

    def test_running_attempt_is_due_no_more(self) -> None:
        """Once it runs it has no time of its own, also when its worker seems to be dead."""
        for lease in (MINUTE, timedelta(0)):
            described = queue.accepted(a_snapshot(attempts=[running_queued(lease)]))
            assert described is not None
            assert described.next_attempt_at is None

    @pytest.mark.parametrize(("lease", "wait"), [(2 * SECOND, 2 * SECOND), (MINUTE, 5 * SECOND)])
    def test_cancellation_of_what_runs_waits(self, lease: timedelta, wait: timedelta) -> None:
        """For the lease's end, or some seconds."""
        with pytest.raises(RetryInProgress) as caught:
            queue.cancel(a_snapshot(attempts=[running_queued(lease)]), POLICY)

        assert caught.value.retry_after == wait

    def test_cancellation_of_what_is_over_closes_it(self) -> None:
        """The attempt that follows can be cancelled then."""
        snapshot = a_snapshot(attempts=[running_queued(timedelta(0))])

        assert queue.cancel(snapshot, POLICY) == CloseOver(user_id=USER_ID)

    @pytest.mark.parametrize("attempts", [[], [an_attempt()], [an_open_attempt(lease_expires_at=AS_OF)]])
    def test_cancellation_of_nothing_is_nothing(self, attempts: list[Attempt]) -> None:
        """What is closed, or a click's that is over, was not accepted."""
        assert queue.cancel(a_snapshot(attempts=attempts), POLICY) is None

    def ended(self, now: Found = Found.READY, **columns: Any) -> Settle:
        """The end of a queued attempt."""
        end: dict[str, Any] = {"outcome": Outcome.CANCELLED, "code": None, "counted": False, "wait": None}
        return replace(settled(Closing(**end | columns), now), token=OPEN_TOKEN)

    def test_cancellation_closes_the_queued_attempt(self) -> None:
        """By the token that no worker knows; it uses up nothing, and the app's log stays empty."""
        snapshot = a_snapshot(attempts=[queued()], open_token=OPEN_TOKEN)

        assert queue.cancel(snapshot, POLICY) == self.ended()

    def test_end_with_a_reason_is_a_failure(self) -> None:
        """The app learns the reason, where the generation is still its user's."""
        snapshot = a_snapshot(attempts=[queued()], open_token=OPEN_TOKEN)
        reason: AiRetryError = RetryExpired()

        assert queue.end(snapshot, USER_ID, reason, POLICY) == self.ended(
            outcome=Outcome.FAILED, code=RetryExpired.code, message=str(reason)
        )
        hidden = replace(snapshot, hidden=True)
        assert queue.end(hidden, USER_ID, reason, POLICY) == self.ended(
            Found.FOREIGN, outcome=Outcome.FAILED, code=RetryExpired.code
        )
        assert queue.end(hidden, USER_ID, None, POLICY) == self.ended(Found.FOREIGN)

    @pytest.mark.parametrize(
        ("attempts", "expects"),
        [
            ([], False),
            ([an_attempt()], False),
            ([queued()], True),
            ([running_queued(MINUTE)], False),
            ([running_queued(timedelta(0))], True),
            ([an_open_attempt(lease_expires_at=AS_OF)], False),
        ],
        ids=["none", "closed", "queued", "running", "over", "a click's"],
    )
    def test_worker_is_waited_for(self, attempts: list[Attempt], expects: bool) -> None:
        """By what is queued, and by what a dead worker left; never in another user's name."""
        message, snapshot = Message(id=1, user_id=USER_ID, generation_id=GENERATION_ID), a_snapshot(attempts=attempts)

        assert queue.concerns(message, snapshot) is expects
        assert not queue.concerns(replace(message, user_id=uuid4()), snapshot)


class TestPostpone:
    """A message whose attempt is refused."""

    MESSAGE = Message(id=5, user_id=USER_ID, generation_id=GENERATION_ID)

    def postponed(self, refusal: Any, fraction: float = 0.4, **columns: Any) -> Postpone:
        """Put it back."""
        return queue.postpone(self.MESSAGE, refusal, a_snapshot(**columns), fraction)

    def test_backoff_is_waited_for_exactly(self) -> None:
        """It has been spread already."""
        refusal = BackoffNotElapsed(AS_OF + MINUTE, wait=MINUTE)

        assert self.postponed(refusal) == Postpone(message=self.MESSAGE, wait=MINUTE, code=refusal.code)

    def test_other_refusals_are_spread(self) -> None:
        """In the upper half of what the refusal says; at least something when it says nothing."""
        too_many = TooManyParallel(2, wait=10 * SECOND)
        assert self.postponed(too_many) == Postpone(message=self.MESSAGE, wait=7 * SECOND, code=too_many.code)
        nothing = QuotaExhausted(limit=0, resets_at=None, wait=None)
        assert self.postponed(nothing).wait == 0.7 * SECOND

    def test_messages_of_a_route_come_one_by_one(self) -> None:
        """The later, the more wait for the same one."""
        known = [route(waiting=9), route(route="one/large", waiting=90)]

        change = self.postponed(RouteUnavailable(wait=10 * SECOND, route=ROUTE), routes=known)

        assert (change.wait, change.spread, change.route) == (10 * SECOND, 0.8 * SECOND, ROUTE)
        assert change.code == RouteUnavailable.code
