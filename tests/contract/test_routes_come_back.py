"""A route that was unavailable comes back step by step: one probe, then twice as many calls after each answer."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.domain.errors import RouteUnavailable
from ai_retry.domain.model import Failure, FailureCode
from ai_retry.testing.memory.line import ALL_SLOTS
from tests.helpers.queue_steps import (
    A_MINUTE,
    accept,
    an_outage,
    close_route,
    new_accepted,
    new_route,
    new_running,
    postpone,
    put_back,
    ready,
    reopen_route,
    slots,
    take,
    to_run_new,
)
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    FAILURE,
    POLICY,
    SECOND,
    SHORT,
    Begun,
    Decided,
    begin,
    fail,
    load,
    new_generation,
    succeed,
    try_begin,
)
from tests.helpers.worlds import World

A_DAY = timedelta(days=1)
SILENCE = replace(FAILURE, code=FailureCode.TIMEOUT)


@pytest.mark.rule("outage")
def test_one_probe_when_it_opens(world: World) -> None:
    """When the wait is over one call probes the route; others are refused."""
    route = reopen_route(world)
    decided = to_run_new(world, route)[0]
    new_running(world, route=route)

    assert try_begin(world, decided) is None
    with pytest.raises(RouteUnavailable):
        to_run_new(world, route)


def test_race_of_probes_has_one_winner(world: World) -> None:
    """Of eight workers that come when the route opens, one probes it."""
    decided = to_run_new(world, reopen_route(world), 8)

    def probing(each: Decided) -> Callable[[], Begun | None]:
        return lambda: try_begin(world, each)

    begun = at_once([probing(each) for each in decided])

    assert sum(isinstance(each, Begun) for each in begun) == 1
    assert sum(each is None for each in begun) == 7


@pytest.mark.rule("outage")
def test_answers_double_the_slots(world: World) -> None:
    """Each answer lets twice as many run; after the seventh doubling as many as like."""
    route = reopen_route(world)
    grown = []
    for _ in range(7):
        grown.append(slots(world, route))
        succeed(world, new_running(world, route=route))

    assert grown == [1, 2, 4, 8, 16, 32, 64]
    assert slots(world, route) is None


@pytest.mark.rule("outage")
def test_slots_are_kept(world: World) -> None:
    """With two slots two run, and a third waits for one of them."""
    route = reopen_route(world)
    succeed(world, new_running(world, route=route))
    decided = to_run_new(world, route, 3)

    first, second, third = (try_begin(world, each) for each in decided)
    assert first is not None
    fail(world, first, SILENCE)

    assert (second is not None, third) == (True, None)
    assert try_begin(world, decided[2]) is not None


def test_slot_of_a_dead_worker_is_free(world: World) -> None:
    """A probe whose lease ran out keeps no other from probing."""
    route = reopen_route(world)
    new_running(world, route=route)
    world.advance(POLICY.lease)

    new_running(world, route=route)


@pytest.mark.parametrize(
    "failure",
    [
        replace(FAILURE, code=FailureCode.INVALID_OUTPUT),
        replace(FAILURE, code=FailureCode.REJECTED, certainly_not_generated=True),
    ],
    ids=lambda failure: failure.code,
)
def test_useless_answer_is_one(world: World, failure: Failure) -> None:
    """A provider that answers what can't be used, or refuses the request, is there."""
    route = reopen_route(world)

    fail(world, new_running(world, route=route), failure)

    assert slots(world, route) == 2


def test_silence_proves_nothing(world: World) -> None:
    """A probe that got no answer in time opens nothing, and closes nothing."""
    route = reopen_route(world)

    fail(world, new_running(world, route=route), SILENCE, goes_on=True)

    assert slots(world, route) == 1


def test_answers_of_before_the_outage_prove_nothing(world: World) -> None:
    """An answer to a call that began before the latest failure opens nothing."""
    route = new_route()
    early, failing = (new_running(world, route=route) for _ in range(2))
    world.advance(SECOND)
    put_back(world, failing, outage=an_outage())
    world.advance(SHORT)

    succeed(world, early)

    assert slots(world, route) == 1


def test_failing_probe_closes_again(world: World) -> None:
    """A failure closes the route anew, however many slots it had."""
    route = reopen_route(world)
    for _ in range(3):
        succeed(world, new_running(world, route=route))

    put_back(world, new_running(world, route=route), outage=an_outage(failures=2))

    with pytest.raises(RouteUnavailable):
        to_run_new(world, route)
    world.advance(SHORT)
    assert slots(world, route) == 1


def test_click_learns_the_same_of_a_route(world: World) -> None:
    """A click's failure closes a route, and its answer opens it, as a worker's do."""
    route = new_route()
    fail(world, begin(world, *new_generation(world), route=route), outage=an_outage())
    closed = slots(world, route)
    world.advance(SHORT)

    succeed(world, begin(world, *new_generation(world), route=route))

    assert (closed, slots(world, route)) == (1, 2)


def test_answer_wakes_those_that_wait(world: World) -> None:
    """A retry that waits for a route need not look whether it is open: an answer wakes as many as may run."""
    route = close_route(world)
    others = [new_accepted(world)[1] for _ in range(3)]
    for message in take(world):
        postpone(world, message, SHORT, spread=A_MINUTE, route=route)
    world.advance(SHORT)
    probe = new_running(world, route=route)

    succeed(world, probe)

    assert set(ready(world)) & set(others) == set(others[:2])


def test_answer_wakes_every_users_first(world: World) -> None:
    """Of those that wait, a user's second is woken after every user's first."""
    route = close_route(world)
    user_id, first = new_accepted(world)
    second = world.new_generation(user_id)
    accept(world, user_id, second)
    _, other = new_accepted(world)
    for message in take(world):
        postpone(world, message, SHORT, spread=A_MINUTE, route=route)
    world.advance(SHORT)

    succeed(world, new_running(world, route=route))

    assert set(ready(world)) & {first, second, other} == {first, other}


def test_open_route_wakes_all_that_wait(world: World) -> None:
    """When any number may ask a route again, no retry goes on waiting for it."""
    route = reopen_route(world)
    for _ in range(6):
        succeed(world, new_running(world, route=route))
    others = [new_accepted(world)[1] for _ in range(ALL_SLOTS + 2)]
    for message in take(world, limit=len(others)):
        postpone(world, message, SHORT, spread=A_MINUTE, route=route)

    succeed(world, new_running(world, route=route))

    assert set(others) & set(ready(world)) == set()  # they are not due yet
    world.advance(2 * SHORT)
    assert set(others) <= set(ready(world))


def test_route_is_forgotten_a_day_after_it_opened(world: World) -> None:
    """What was learnt of a route lasts a day: users may invent models."""
    route = close_route(world)

    world.advance(A_DAY)
    assert slots(world, route) == 1
    world.advance(2 * SHORT)

    assert slots(world, route) is None
    assert route not in {each.route for each in load(world, *new_generation(world)).routes}
    assert all(try_begin(world, each) for each in to_run_new(world, route, 3))
