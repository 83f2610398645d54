"""Decisions about attempts that may go to several routes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.domain.calls import joined, noted
from ai_retry.domain.change import Begin, Expected, Found, Open, PutBack, Running, Settle
from ai_retry.domain.decide.begin import may_run
from ai_retry.domain.decide.route import Reader, open_route
from ai_retry.domain.decide.settle import Ending
from ai_retry.domain.errors import RouteUnavailable
from ai_retry.domain.model import Answer, Failure, FailureCode, ProviderOutcome, QuotaRule, Route, Snapshot, Usage
from ai_retry.domain.policy import BUSY_WAIT, RetryPolicy
from ai_retry.domain.queue_model import RouteNote
from tests.helpers.builders import (
    AS_OF,
    GENERATION_ID,
    SECOND,
    USER_ID,
    a_context,
    a_failure,
    a_snapshot,
    an_answer,
    an_attempt,
)

FIRST, SECOND_ROUTE, THIRD = "one/small", "one/large", "two/own"
ROUTES = (FIRST, SECOND_ROUTE, THIRD)
READER = Reader(context_from=lambda _: a_context(), route_of=lambda _: ROUTES)
DOWN = a_failure(certainly_not_generated=True, wire_requests=0)
TOO_LONG = a_failure(FailureCode.REJECTED, transient=False, certainly_not_generated=True)
INVALID = a_failure(FailureCode.INVALID_OUTPUT, usage=Usage(total_tokens=1))
LATE = a_failure(FailureCode.TIMEOUT)
UNSURE = a_failure(FailureCode.UNAVAILABLE)
ACCEPTED = a_snapshot(
    attempts=[
        an_attempt(
            outcome=None,
            closed_at=None,
            lease_expires_at=None,
            accepted_at=AS_OF,
            expires_at=AS_OF + timedelta(hours=1),
            provider_outcome=ProviderOutcome.NOT_GENERATED,
        )
    ]
)


def closed(route: str, seconds: float = 60, **columns: Any) -> Route:
    """A route that is closed for so long."""
    return Route(route=route, not_before=AS_OF + seconds * SECOND, **{"failures": 1, "slots": 1, **columns})


def ended(*results: tuple[str, Answer | Failure]) -> Answer | Failure:
    """Give what calls to these routes come to."""
    failures = [noted(each, duration=SECOND, route=route) for route, each in results]
    return joined([each for each in failures[:-1] if isinstance(each, Failure)], failures[-1])


def ending(snapshot: Snapshot | None = None) -> Ending:
    """The ending of an attempt that was begun for the first route."""
    snapshot = snapshot or a_snapshot()
    start = Running(lease=SECOND, longest=SECOND, abandoned_wait=SECOND, answer_from=None, route=FIRST)
    change = Begin(
        user_id=USER_ID,
        generation_id=GENERATION_ID,
        token=USER_ID,
        attempt=Open(start=start),
        expected=Expected(as_of=AS_OF, version="1", quota_rule=QuotaRule()),
    )
    return Ending(snapshot, change, RetryPolicy(), 0.5)


def failing(*results: tuple[str, Failure], snapshot: Snapshot | None = None) -> Settle | PutBack:
    """Decide what failures lead to."""
    failure = ended(*results)
    assert isinstance(failure, Failure)
    return ending(snapshot).failed(failure, SECOND)


class TestOpenRoute:
    """Which route an attempt is begun for."""

    def test_first_that_is_open_is_asked(self) -> None:
        """The context names those that are not, so that a call skips them."""
        busy = closed(SECOND_ROUTE, -1, running=1)

        admission, route = may_run(a_snapshot(routes=[closed(FIRST), busy]), READER, RetryPolicy())

        assert route == THIRD
        assert admission.context is not None
        assert admission.context.unavailable == {FIRST, SECOND_ROUTE}

    def test_route_that_recovers_is_fallen_back_on_with_care(self) -> None:
        """The context says how many calls have room there; the begun route is counted by the database."""
        half_open = closed(SECOND_ROUTE, -1, slots=4, running=1)

        admission, route = may_run(a_snapshot(routes=[half_open]), READER, RetryPolicy())
        other, begun = may_run(a_snapshot(routes=[closed(FIRST), half_open]), READER, RetryPolicy())

        assert (route, begun) == (FIRST, SECOND_ROUTE)
        assert admission.context is not None
        assert other.context is not None
        assert (admission.context.recovering, admission.context.unavailable) == ({SECOND_ROUTE: 3}, frozenset())
        assert (other.context.recovering, other.context.unavailable) == ({}, frozenset({FIRST}))

    def test_context_stays_as_it_is_where_all_are_open(self) -> None:
        """Nothing is skipped."""
        admission, route = may_run(a_snapshot(), READER, RetryPolicy())

        assert (route, admission.context) == (FIRST, a_context())

    def test_with_all_closed_the_soonest_is_waited_for(self) -> None:
        """The refusal says which one opens first, and when."""
        routes = [closed(FIRST, 60), closed(SECOND_ROUTE, -1, running=1), closed(THIRD, 30)]

        with pytest.raises(RouteUnavailable) as caught:
            open_route(a_snapshot(routes=routes), ROUTES)

        assert (caught.value.wait, caught.value.route) == (BUSY_WAIT, SECOND_ROUTE)


class TestEnding:
    """What calls to several routes lead to."""

    def test_answer_notes_the_outage_before_it(self) -> None:
        """The begun route is down, and the other one is there."""
        answer = ended((FIRST, DOWN), (THIRD, an_answer()))
        assert isinstance(answer, Answer)

        change = ending().answered(Found.READY, answer, None, SECOND)

        assert change.outage is not None
        assert (change.answered, change.elsewhere) == (False, (RouteNote(route=THIRD),))

    def test_skipped_route_is_not_spoken_of(self) -> None:
        """An attempt that was begun for another route says nothing of it."""
        answer = noted(an_answer(), duration=SECOND, route=THIRD)

        change = ending().answered(Found.READY, answer, None, SECOND)

        assert (change.outage, change.answered, change.elsewhere) == (None, False, (RouteNote(route=THIRD),))

    @pytest.mark.parametrize(("sent", "answered"), [(1, True), (0, False)], ids=["sent", "never sent"])
    def test_call_that_was_never_sent_says_nothing_of_a_route(self, sent: int, answered: bool) -> None:
        """A route that is down is not opened by a request that could not be written, or that had no time left."""
        unsent = replace(TOO_LONG, wire_requests=sent)

        change = failing((FIRST, unsent), (THIRD, unsent))

        assert isinstance(change, Settle)
        assert change.answered is answered
        assert change.elsewhere == ((RouteNote(route=THIRD),) if answered else ())

    def test_accepted_retry_is_put_back_when_every_route_is_down(self) -> None:
        """It comes back when the first of them may open."""
        quick, slow = replace(DOWN, retry_after=20 * SECOND), replace(DOWN, retry_after=200 * SECOND)

        change = failing((FIRST, slow), (THIRD, quick), snapshot=ACCEPTED)

        assert isinstance(change, PutBack)
        assert change.wait == 22.5 * SECOND
        assert change.outage is not None
        assert change.outage.wait == 200 * SECOND
        assert [each.outage and each.outage.wait for each in change.elsewhere] == [20 * SECOND]

    @pytest.mark.parametrize("other", [INVALID, TOO_LONG, LATE], ids=["generated", "refuses", "late"])
    def test_otherwise_the_attempt_is_closed(self, other: Failure) -> None:
        """What was paid for is on the record, and what is no outage does not pass by waiting for one."""
        change = failing((FIRST, DOWN), (THIRD, other), snapshot=ACCEPTED)

        assert isinstance(change, Settle)
        assert change.outage is not None
        assert change.call is not None
        assert len(change.call.calls) == 2

    def test_call_that_was_generated_before_an_outage_is_closed(self) -> None:
        """Whatever its last call says."""
        change = failing((FIRST, INVALID), (FIRST, DOWN), snapshot=ACCEPTED)

        assert isinstance(change, Settle)
        assert change.call is not None
        assert change.call.usage == Usage(total_tokens=1)

    def test_call_that_was_generated_before_a_doubtful_outage_is_closed(self) -> None:
        """Its tokens and cost are on the record, though it is not known what became of the last call."""
        snapshot = replace(ACCEPTED, routes=[closed(FIRST, -1)])

        change = failing((FIRST, INVALID), (FIRST, UNSURE), snapshot=snapshot)

        assert isinstance(change, Settle)
        assert change.call is not None
        assert change.call.usage == Usage(total_tokens=1)

    @pytest.mark.parametrize(("down", "kind"), [((FIRST,), Settle), ((FIRST, THIRD), PutBack)], ids=["one", "both"])
    def test_doubtful_failure_is_put_back_only_where_its_own_route_failed_before(
        self, down: tuple[str, ...], kind: type[Settle | PutBack]
    ) -> None:
        """That another route is down does not say that the request broke nothing here: such an attempt counts."""
        snapshot = replace(ACCEPTED, routes=[closed(each, -1) for each in down])

        change = failing((FIRST, DOWN), (THIRD, UNSURE), snapshot=snapshot)

        assert isinstance(change, kind)
