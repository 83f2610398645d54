"""Each request of an attempt is on the record, and what it showed of its route is noted."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pytest

from ai_retry.domain.calls import joined, noted
from ai_retry.domain.change import Found, Settle
from ai_retry.domain.errors import LeaseLost
from ai_retry.domain.model import Answer, Failure, FailureCode, ProviderCall, ProviderOutcome, Usage
from ai_retry.domain.queue_model import RouteNote
from tests.helpers.builders import a_failure
from tests.helpers.queue_steps import (
    an_outage,
    close_route,
    new_accepted,
    new_route,
    new_running,
    reopen_route,
    slots,
    to_run,
)
from tests.helpers.steps import (
    ANSWER,
    FAILURE,
    SECOND,
    SHORT,
    Begun,
    abandon,
    answer_too_late,
    begin,
    close_over,
    fail,
    keep,
    load,
    new_generation,
    quota_of,
    succeed,
)
from tests.helpers.worlds import World

USAGE: Final = Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46, cost=Decimal("0.25"))
BUSY: Final = ProviderCall(
    provider="one",
    model="small",
    code=FailureCode.UNAVAILABLE,
    http_status=503,
    duration=SECOND,
    route="one/small",
    failure=FAILURE,
    outcome=ProviderOutcome.UNKNOWN,
)
OK: Final = ProviderCall(
    provider="two",
    model="large",
    http_status=200,
    usage=USAGE,
    duration=2 * SECOND,
    route="two/any",
    outcome=ProviderOutcome.GENERATED,
)
FELL_BACK: Final = replace(ANSWER, model="large", usage=USAGE, wire_requests=2, calls=(BUSY, OK))
ROWS: Final[list[dict[str, Any]]] = [
    {
        "provider": "one",
        "model": "small",
        "code": "AI_UNAVAILABLE",
        "http_status": 503,
        "usage": None,
        "duration_ms": 1000,
        "route": "one/small",
        "outcome": "unknown",
    },
    {
        "provider": "two",
        "model": "large",
        "code": None,
        "http_status": 200,
        "usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46, "cost": 0.25},
        "duration_ms": 2000,
        "route": "two/any",
        "outcome": "generated",
    },
]


def last(world: World, begun: Begun) -> tuple[Any, ...]:
    """What the record says of the attempt's requests."""
    row = world.attempts(begun.generation_id)[begun.number - 2]
    calls = row["calls"] and [dict(each) for each in row["calls"]]
    return calls, row["provider_outcome"], row["wire_requests"], row["model"]


def test_each_request_is_recorded(world: World) -> None:
    """With its model, provider, end, tokens, cost and time; one unit, whoever answered."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)

    succeed(world, begun, FELL_BACK)

    assert last(world, begun) == (ROWS, "unknown", 2, "large")
    assert quota_of(world, user_id).captured == 1


def test_next_attempt_knows_which_requests_are_in_doubt(world: World) -> None:
    """By their routes: what came of the others needs no second look, so each question has its own key."""
    begun = begin(world, *new_generation(world))
    unsure = noted(a_failure(FailureCode.TIMEOUT), duration=SECOND, route="one/small")
    invalid = noted(a_failure(FailureCode.INVALID_OUTPUT), duration=SECOND, route="two/any")
    failure = joined([unsure], invalid)
    assert isinstance(failure, Failure)

    fail(world, begun, failure)
    lost = begin(world, begun.user_id, begun.generation_id)
    abandon(world, lost)

    failed, abandoned = load(world, begun.user_id, begun.generation_id).attempts
    assert (failed.provider_outcome, failed.in_doubt) == (ProviderOutcome.UNKNOWN, ["one/small"])
    assert (abandoned.provider_outcome, abandoned.in_doubt) == (ProviderOutcome.UNKNOWN, None)


def test_requests_of_a_failure_are_recorded(world: World) -> None:
    """Two models that failed are two requests."""
    begun = begin(world, *new_generation(world))
    failure = joined([noted(FAILURE, duration=SECOND, model="small")], noted(FAILURE, duration=SECOND, model="large"))
    assert isinstance(failure, Failure)

    fail(world, begun, failure)

    calls, outcome, requests, _ = last(world, begun)
    assert [(each["model"], each["code"]) for each in calls] == [
        ("small", "AI_UNAVAILABLE"),
        ("large", "AI_UNAVAILABLE"),
    ]
    assert (outcome, requests) == ("unknown", 2)


def test_requests_of_a_kept_answer_are_recorded(world: World) -> None:
    """Whoever closes the attempt writes them; a repeat adds nothing, though its outcome is unknown."""
    begun = begin(world, *new_generation(world))

    keep(world, begun, FELL_BACK)
    close_over(world, begun.user_id)
    keep(world, begun, FELL_BACK)

    assert last(world, begun) == (ROWS, "unknown", 2, "large")


def test_requests_of_a_late_answer_are_recorded_once(world: World) -> None:
    """What it cost is on the record, whatever becomes of it, and however often it comes."""
    user_id, generation_id = new_generation(world)

    begun = answer_too_late(world, user_id, generation_id, FELL_BACK)
    keep(world, begun, FELL_BACK)

    assert last(world, begun) == (ROWS, "unknown", 2, "large")


def test_requests_of_a_late_failure_are_recorded_once(world: World) -> None:
    """Its worker was taken for dead: what its call cost is on the record of the abandoned attempt, and nothing else."""
    begun = begin(world, *new_generation(world))
    invalid = replace(FAILURE, code=FailureCode.INVALID_OUTPUT, usage=USAGE, calls=(BUSY, OK), wire_requests=2)
    abandon(world, begun)

    for _ in range(2):
        with pytest.raises(LeaseLost):
            fail(world, begun, invalid)

    assert last(world, begun) == (ROWS, "unknown", 2, invalid.model)
    row = world.attempts(begun.generation_id)[-1]
    assert (row["outcome"], row["counted"]) == ("abandoned", True)
    assert load(world, begun.user_id, begun.generation_id).stored_answer is None


def test_repeated_settle_adds_no_request(world: World) -> None:
    """The reply of a settle was lost: its repeat finds the attempt closed, and its requests recorded."""
    begun = begin(world, *new_generation(world))
    change = begun.ending.answered(Found.READY, FELL_BACK, None, SECOND)
    assert world.storage.settle(change).applied

    assert not world.storage.settle(change).applied

    assert last(world, begun) == (ROWS, "unknown", 2, "large")


def test_abandoned_attempt_knows_of_no_request(world: World) -> None:
    """What its process has sent is not known."""
    begun = begin(world, *new_generation(world))

    abandon(world, begun)

    assert last(world, begun) == (None, "unknown", 0, None)


def answer_after(route: str, other: str) -> Answer:
    """Give an answer of another route, after an outage of the first."""
    return replace(FELL_BACK, calls=(replace(BUSY, route=route), replace(OK, route=other)))


def test_route_that_failed_is_noted_though_another_answered(world: World) -> None:
    """The next attempt skips it at once; the one that answered is asked by more."""
    route, other = new_route(), reopen_route(world)
    begun = begin(world, *new_generation(world), route=route)
    down = replace(FAILURE, certainly_not_generated=True, wire_requests=0)
    answer = answer_after(route, other)

    succeed(world, begun, replace(answer, calls=(replace(answer.calls[0], failure=down), answer.calls[1])))

    assert (slots(world, route), slots(world, other)) == (1, 2)
    snapshot = load(world, *new_generation(world))
    assert route in [each.route for each in snapshot.routes if each.not_before > snapshot.as_of]


def test_every_route_that_failed_is_noted(world: World) -> None:
    """Also where the accepted retry is put back, and waits for the first that opens."""
    route, other = new_route(), new_route()
    down = replace(FAILURE, certainly_not_generated=True, wire_requests=0)
    begun = new_running(world, route=route)
    failure = joined(
        [noted(down, duration=SECOND, route=route)],
        noted(replace(down, retry_after=timedelta(minutes=4)), duration=SECOND, route=other),
    )
    assert isinstance(failure, Failure)

    change = begun.ending.failed(failure, SECOND)
    assert not isinstance(change, Settle)
    assert world.storage.amend(change).applied

    assert (slots(world, route), slots(world, other)) == (1, 1)
    assert change.wait < SHORT
    assert world.attempts(begun.generation_id)[-1]["route"] == route


def test_note_of_another_route_closes_that_one_only(world: World) -> None:
    """A worker that begins by way of another route is not held up."""
    closed = close_route(world)
    route = new_route()
    begun = begin(world, *new_generation(world), route=route)
    change = begun.ending.failed(noted(FAILURE, duration=SECOND, route=route), SECOND)
    assert isinstance(change, Settle)

    world.storage.settle(
        replace(change, outage=None, elsewhere=(RouteNote(route=closed, outage=an_outage(failures=5)),))
    )

    assert slots(world, route) is None
    to_run(world, *new_accepted(world), route=route)
    assert [each.failures for each in world.storage.state().outages if each.route == closed] == [5]
    assert change.call is not None
    assert change.call.provider_outcome is ProviderOutcome.UNKNOWN
