"""Several calls of one attempt: what they come to, together."""

from datetime import timedelta
from decimal import Decimal

import pytest

from ai_retry.domain.calls import ends_by_route, joined, noted, route_name
from ai_retry.domain.model import Answer, Failure, FailureCode, ProviderCall, ProviderOutcome, Usage
from tests.helpers.builders import SECOND, a_failure, an_answer

FREE = a_failure(certainly_not_generated=True)
OPERATORS = a_failure(FailureCode.REJECTED, operator_fault=True, transient=False, certainly_not_generated=True)
OVERLOADED = a_failure(overloaded=True)
TIMED_OUT = a_failure(FailureCode.TIMEOUT)
INVALID = a_failure(FailureCode.INVALID_OUTPUT, usage=Usage(total_tokens=5, cost=Decimal("0.1")))
TOO_LONG = a_failure(FailureCode.REJECTED, transient=False, certainly_not_generated=True)


def made(failure: Failure, route: str = "one/small") -> Failure:
    """Give a failure that lists its call."""
    return noted(failure, duration=SECOND, provider="one", model="small", route=route)


def whole(*failures: Failure) -> Failure:
    """Join failures that list their calls."""
    *earlier, last = map(made, failures)
    result = joined(earlier, last)
    assert isinstance(result, Failure)
    return result


class TestNoted:
    """Every result lists its calls."""

    def test_result_without_calls_has_made_one(self) -> None:
        """What the result says, and what its caller knows, is what is known of it."""
        answer = noted(an_answer(), duration=SECOND, provider="one", model="other", route="one/other")

        assert answer.calls == (ProviderCall(provider="one", model="small", usage=an_answer().usage, duration=SECOND),)
        assert answer.calls[0].route == "one/other"
        assert noted(a_failure(), duration=SECOND, model="small").calls == (
            ProviderCall(model="small", code=FailureCode.UNAVAILABLE, duration=SECOND),
        )

    def test_what_a_provider_says_stays(self) -> None:
        """Only gaps are filled."""
        own = ProviderCall(provider="own", model="m", duration=3 * SECOND, http_status=200)

        assert noted(an_answer(calls=(own,)), duration=SECOND, provider="one", model="x").calls == (own,)

    def test_failure_whose_calls_name_only_codes_counts(self) -> None:
        """A provider that lists its calls by their codes gives no attempt for nothing, and has not answered."""
        coded = tuple(ProviderCall(code=FailureCode.UNAVAILABLE) for _ in range(2))

        failure = noted(a_failure(calls=coded), duration=SECOND, route="one/small")

        assert failure.counted
        assert a_failure(calls=coded).counted
        (end,) = ends_by_route(failure, None).values()
        assert end == a_failure()

    def test_failed_call_before_an_answer_is_no_answer_of_its_route(self) -> None:
        """Where only its code is known, nothing is known of its route."""
        calls = (ProviderCall(code=FailureCode.UNAVAILABLE, route="one/small"), ProviderCall(route="two/own"))

        assert ends_by_route(an_answer(calls=calls), None) == {"two/own": None}


class TestOutcome:
    """Unknown if any call's outcome is, else generated if any call has."""

    @pytest.mark.parametrize(
        ("failures", "outcome"),
        [
            ((FREE, OPERATORS), ProviderOutcome.NOT_GENERATED),
            ((INVALID, FREE), ProviderOutcome.GENERATED),
            ((TIMED_OUT, INVALID, FREE), ProviderOutcome.UNKNOWN),
            ((OVERLOADED, FREE), ProviderOutcome.UNKNOWN),
        ],
    )
    def test_of_failures(self, failures: tuple[Failure, ...], outcome: ProviderOutcome) -> None:
        """Whatever the order."""
        assert whole(*failures).provider_outcome is outcome
        assert whole(*reversed(failures)).provider_outcome is outcome

    @pytest.mark.parametrize(
        ("failure", "outcome"), [(FREE, ProviderOutcome.GENERATED), (TIMED_OUT, ProviderOutcome.UNKNOWN)]
    )
    def test_of_an_answer(self, failure: Failure, outcome: ProviderOutcome) -> None:
        """An answer that followed a call of which nothing is known may have cost twice."""
        answer = joined([made(failure)], noted(an_answer(), duration=SECOND))

        assert answer.provider_outcome is outcome


class TestJoined:
    """Costs add up, and a failure says what helps."""

    def test_answer_costs_what_all_calls_cost(self) -> None:
        """Tokens, money and requests; every call stays listed, in order."""
        first = made(INVALID)
        last = noted(an_answer(usage=Usage(total_tokens=46, cost=Decimal("0.2")), wire_requests=2), duration=SECOND)

        answer = joined([first], last)

        assert isinstance(answer, Answer)
        assert answer.usage == Usage(total_tokens=51, cost=Decimal("0.3"))
        assert answer.wire_requests == 3
        assert [each.code for each in answer.calls] == [FailureCode.INVALID_OUTPUT, None]

    @pytest.mark.parametrize(
        ("failures", "code", "counted", "passes"),
        [
            ((OVERLOADED, OPERATORS), FailureCode.UNAVAILABLE, False, True),
            ((OPERATORS, OPERATORS), FailureCode.REJECTED, False, False),
            ((TOO_LONG, FREE), FailureCode.UNAVAILABLE, False, True),
            ((INVALID, FREE), FailureCode.INVALID_OUTPUT, True, True),
            ((FREE, TIMED_OUT), FailureCode.TIMEOUT, True, True),
        ],
    )
    def test_failure_says_what_helps(
        self, failures: tuple[Failure, ...], code: FailureCode, counted: bool, passes: bool
    ) -> None:
        """It counts if any call counts; waiting helps if it helps with any model."""
        failure = whole(*failures)

        assert (failure.code, failure.counted, failure.passes) == (code, counted, passes)

    def test_wait_is_the_shortest_that_helps(self) -> None:
        """One model that answers is enough; where one asked for no wait, none is known."""
        slow, quick = (a_failure(FailureCode.RATE_LIMITED, retry_after=each * SECOND) for each in (60, 5))

        assert whole(slow, quick).retry_after == 5 * SECOND
        assert whole(slow, OPERATORS).retry_after == timedelta(seconds=60)
        assert whole(slow, TIMED_OUT).retry_after is None


def test_last_call_to_a_route_says_its_state() -> None:
    """A failure before an answer is forgotten; a result without calls is the begun route's."""
    answer = joined([made(FREE, "one/a"), made(INVALID, "two/b")], noted(an_answer(), duration=SECOND, route="two/b"))

    assert {route: end and end.code for route, end in ends_by_route(answer, "one/a").items()} == {
        "one/a": FailureCode.UNAVAILABLE,
        "two/b": None,
    }
    assert ends_by_route(FREE, "one/a") == {"one/a": FREE}


def test_route_has_a_bounded_name() -> None:
    """Users may name the model; without one it is the provider's own."""
    assert route_name("one", None) == "one/default"
    assert len(route_name("one", "m" * 1000)) == 255
