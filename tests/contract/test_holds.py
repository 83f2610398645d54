"""A route that an operator holds is called by no attempt until its time is over, or it is opened by hand."""

from datetime import timedelta

import pytest

from ai_retry.domain.errors import RouteUnavailable
from ai_retry.testing.memory.line import ALL_SLOTS
from tests.helpers.operating import desk, hold, open_by_hand
from tests.helpers.queue_steps import (
    A_MINUTE,
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
from tests.helpers.steps import SECOND, SHORT, begin, fail, load, new_generation, succeed, to_begin, try_begin
from tests.helpers.worlds import World

HALF_AN_HOUR = timedelta(minutes=30)


@pytest.mark.rule("hold")
def test_held_route_refuses_begins(world: World) -> None:
    """While it is held no click and no worker begins there, also one that decided before."""
    route = new_route()
    worker, click = to_run_new(world, route)[0], to_begin(world, *new_generation(world), route=route)

    hold(world, route)

    assert (try_begin(world, worker), try_begin(world, click)) == (None, None)
    with pytest.raises(RouteUnavailable) as refused:
        to_begin(world, *new_generation(world), route=route)
    assert HALF_AN_HOUR - A_MINUTE < (refused.value.wait or SHORT) <= HALF_AN_HOUR


@pytest.mark.rule("hold")
def test_hold_ends_by_itself(world: World) -> None:
    """When its time is over the route is as it was: any number of calls may start."""
    route = new_route()
    hold(world, route)

    world.advance(HALF_AN_HOUR)

    assert slots(world, route) is None
    assert all(try_begin(world, each) for each in to_run_new(world, route, 3))


@pytest.mark.rule("hold")
def test_answers_end_no_hold(world: World) -> None:
    """Calls that run when a route is held go on, and what they show opens nothing."""
    route = new_route()
    clicks = [begin(world, *new_generation(world), route=route) for _ in range(2)]
    hold(world, route)

    for each in clicks:
        succeed(world, each)

    with pytest.raises(RouteUnavailable):
        to_run_new(world, route)


@pytest.mark.rule("hold")
def test_failures_end_no_hold_and_count(world: World) -> None:
    """A failure within a hold is noted: when the hold is over, one call probes the route."""
    route = new_route()
    failing = new_running(world, route=route)
    hold(world, route)

    put_back(world, failing, outage=an_outage(wait=SHORT))

    world.advance(SHORT)
    with pytest.raises(RouteUnavailable):
        to_run_new(world, route)
    world.advance(HALF_AN_HOUR)
    assert slots(world, route) == 1


def test_outage_outlasts_a_shorter_hold(world: World) -> None:
    """A hold that ends within an outage opens nothing: the outage goes on, and is probed at its own time."""
    route = close_route(world, wait=HALF_AN_HOUR)

    hold(world, route, A_MINUTE)

    world.advance(A_MINUTE)
    with pytest.raises(RouteUnavailable):
        to_run_new(world, route)
    world.advance(HALF_AN_HOUR)
    assert slots(world, route) == 1


def test_route_that_comes_back_is_held_where_it_was(world: World) -> None:
    """A hold keeps what is known: after it as many calls may run as before."""
    route = reopen_route(world)
    succeed(world, new_running(world, route=route))

    hold(world, route)
    world.advance(HALF_AN_HOUR)

    assert slots(world, route) == 2


def test_repeat_replaces_how_long(world: World) -> None:
    """A second hold counts from now, be it longer or shorter."""
    route = new_route()
    hold(world, route, timedelta(hours=20))
    hold(world, route, A_MINUTE)

    world.advance(A_MINUTE)

    assert try_begin(world, to_run_new(world, route)[0])


def test_snapshot_says_that_it_is_held(world: World) -> None:
    """Decisions know a hold, with its end; other routes know nothing of it."""
    route = new_route()
    hold(world, route)

    snapshot = load(world, *new_generation(world))

    (known,) = (each for each in snapshot.routes if each.route == route)
    assert known.held_until == known.not_before
    assert (known.failures, known.slots) == (0, ALL_SLOTS)
    new_running(world, route=new_route())


def test_outage_is_no_hold(world: World) -> None:
    """A route that is only unavailable is not said to be held."""
    route = close_route(world)

    (known,) = (each for each in load(world, *new_generation(world)).routes if each.route == route)

    assert known.held_until is None


@pytest.mark.parametrize("is_held", [True, False])
def test_opened_by_hand(world: World, is_held: bool) -> None:
    """Opening forgets hold and outage: any number may call at once; a repeat finds nothing to do."""
    route = new_route()
    if is_held:
        hold(world, route)
    else:
        put_back(world, new_running(world, route=route), outage=an_outage())

    assert open_by_hand(world, route)

    assert all(try_begin(world, each) for each in to_run_new(world, route, 3))
    assert not open_by_hand(world, route)


def test_opening_wakes_those_that_wait(world: World) -> None:
    """Accepted retries that wait for a held route look at once when it is opened by hand."""
    route = new_route()
    hold(world, route)
    others = [new_accepted(world)[1] for _ in range(3)]
    for message in take(world):
        postpone(world, message, A_MINUTE, spread=A_MINUTE, route=route)
    assert set(ready(world)) & set(others) == set()

    open_by_hand(world, route)

    world.advance(SECOND)
    assert set(others) <= set(ready(world))
    assert {each.route for each in load(world, *new_generation(world)).routes} & {route} == set()


def test_overview_names_routes(world: World) -> None:
    """Held and unavailable routes are listed with since when, until when, by whom, by what, and who waits."""
    held, closed = new_route(), new_route()
    begun = new_running(world, route=closed)
    fail(world, begun, goes_on=True, outage=an_outage())
    hold(world, held, operator="eve")
    hold(world, held, operator="bob")
    new_accepted(world)
    (message,) = take(world)[-1:]
    postpone(world, message, A_MINUTE, route=held)

    overview = desk(world).overview()

    reports = {each.route: each for each in overview.routes}
    assert (reports[held].held_by, reports[held].code, reports[held].began_at) == ("bob", None, None)
    assert (reports[held].waiting, reports[held].running) == (1, 0)
    assert reports[held].held_until == reports[held].not_before
    assert (reports[closed].held_by, reports[closed].held_until) == (None, None)
    assert (reports[closed].code, reports[closed].failures) == ("AI_UNAVAILABLE", 1)
    began_at = reports[closed].began_at
    assert began_at is not None
    assert timedelta(0) <= overview.as_of - began_at < A_MINUTE


def test_outage_says_since_when(world: World) -> None:
    """An outage begins with its first failure, however often it is probed; one that comes after an answer is new."""
    route = close_route(world)
    began = {each.route: each for each in desk(world).overview().routes}[route]
    world.advance(SHORT)
    put_back(world, new_running(world, route=route), outage=an_outage(failures=2))
    again = {each.route: each for each in desk(world).overview().routes}[route]
    world.advance(SHORT)
    succeed(world, new_running(world, route=route))
    put_back(world, new_running(world, route=route), outage=an_outage())

    anew = {each.route: each for each in desk(world).overview().routes}[route]

    assert began.began_at is not None
    assert again.began_at is not None
    assert anew.began_at is not None
    assert again.not_before - again.began_at >= 2 * SHORT
    assert anew.not_before - anew.began_at <= SHORT
