"""A route that is unavailable is asked by no call until it opens, and its attempts wait."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ai_retry.domain.errors import RouteUnavailable
from ai_retry.domain.queue_model import Outage
from tests.helpers.queue_steps import (
    A_MINUTE,
    a_doubt,
    an_outage,
    close_route,
    is_queued,
    last_attempt,
    new_accepted,
    new_route,
    new_running,
    postpone,
    put_back,
    ready,
    slots,
    take,
    to_run,
    to_run_new,
)
from tests.helpers.steps import (
    FAILURE,
    SECOND,
    SHORT,
    begin,
    fail,
    load,
    new_generation,
    status_of,
    succeed,
    to_begin,
    try_begin,
)
from tests.helpers.worlds import World

WHOEVER: list[Callable[[World, str, Outage], object]] = [
    lambda world, route, outage: put_back(world, new_running(world, route=route), outage=outage),
    lambda world, route, outage: fail(world, begin(world, *new_generation(world), route=route), outage=outage),
]


def test_closed_route_refuses_begins(world: World) -> None:
    """While a route is closed no call goes there: of a worker or a click that was decided before it closed."""
    route = new_route()
    worker, click = to_run_new(world, route)[0], to_begin(world, *new_generation(world), route=route)

    put_back(world, new_running(world, route=route), outage=an_outage())

    assert try_begin(world, worker) is None
    assert is_queued(last_attempt(world, worker.change.generation_id))
    assert try_begin(world, click) is None
    assert status_of(world, click.change.generation_id) == "error"


def test_snapshot_says_that_a_route_is_closed(world: World) -> None:
    """A decision knows the route, until when it is closed, and refuses with the wait."""
    route = close_route(world)
    user_id, generation_id = new_accepted(world)

    snapshot = load(world, user_id, generation_id)

    (known,) = (each for each in snapshot.routes if each.route == route)
    assert (known.failures, known.slots, known.running, known.waiting) == (1, 1, 0, 1)
    assert SHORT - 10 * SECOND < known.not_before - snapshot.as_of <= SHORT
    with pytest.raises(RouteUnavailable):
        to_run(world, user_id, generation_id, route=route)


def test_attempt_waits_for_its_route(world: World) -> None:
    """The attempt is due when the route opens; its message comes later, so that many of them don't look at once."""
    route = close_route(world, wait=A_MINUTE)
    _, generation_id = new_accepted(world)
    (message,) = take(world)

    assert postpone(world, message, A_MINUTE, spread=6 * SECOND, route=route)

    (row,) = world.attempts(generation_id)
    assert (row["number"], is_queued(row), row["route"]) == (2, True, route)
    assert A_MINUTE <= row["next_attempt_at"] - row["accepted_at"] < A_MINUTE + 10 * SECOND
    assert status_of(world, generation_id) == "queued"
    world.advance(A_MINUTE)
    assert generation_id not in ready(world)
    world.advance(6 * SECOND)
    assert generation_id in ready(world)


def test_other_routes_stay_open(world: World) -> None:
    """An outage concerns its route; a retry that asks no route needs none."""
    close_route(world)

    new_running(world, route=new_route())
    new_running(world, route=None)


@pytest.mark.parametrize("whoever", WHOEVER, ids=["worker", "click"])
def test_next_decision_knows_the_failures(world: World, whoever: Callable[[World, str, Outage], object]) -> None:
    """The next to ask learns how often the route failed in a row, so that probes get rarer."""
    route = new_route()
    counted = []
    for failures in (1, 2):
        whoever(world, route, an_outage(failures=failures))
        (decided,) = to_run_new(world, "another")
        counted += [each.failures for each in decided.snapshot.routes if each.route == route]
        world.advance(SHORT)

    assert counted == [1, 2]


def test_doubts_close_a_route_when_there_are_many(world: World) -> None:
    """Failures that each may be the fault of one request close the route when so many came in a row; they count."""
    route = new_route()
    for _ in range(2):
        begun = new_running(world, route=route)
        fail(world, begun, goes_on=True, outage=a_doubt(3))
        assert world.attempts(begun.generation_id)[0]["counted"]
        assert slots(world, route) is None

    fail(world, new_running(world, route=route), goes_on=True, outage=a_doubt(3))

    assert slots(world, route) == 1
    with pytest.raises(RouteUnavailable):
        to_run_new(world, route)


def test_answer_ends_doubts(world: World) -> None:
    """An answer between them takes failures their weight."""
    route = new_route()
    fail(world, new_running(world, route=route), goes_on=True, outage=a_doubt(2))
    succeed(world, new_running(world, route=route))

    fail(world, new_running(world, route=route), goes_on=True, outage=a_doubt(2))

    new_running(world, route=route)


def test_overloaded_provider_uses_up_no_attempt(world: World) -> None:
    """That a provider takes no requests is not the generation's fault, whatever it may have cost."""
    begun = new_running(world, route=new_route())

    fail(world, begun, replace(FAILURE, overloaded=True), goes_on=True, outage=an_outage())

    assert not world.attempts(begun.generation_id)[0]["counted"]


def test_failures_side_by_side_count_as_one(world: World) -> None:
    """Calls that ran together and failed together are one failure, with the longest of their waits."""
    route = new_route()
    first, second = (new_running(world, route=route) for _ in range(2))
    put_back(world, first, outage=an_outage(wait=A_MINUTE))
    put_back(world, second, outage=an_outage(wait=SECOND))

    (known,) = (each for each in world.storage.state().outages if each.route == route)

    assert (known.failures, known.slots) == (1, 1)
    assert known.not_before - world.storage.state().as_of > A_MINUTE - 10 * SECOND
