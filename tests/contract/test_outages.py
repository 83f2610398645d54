"""A route that is unavailable is asked by no call until it opens; then it comes back step by step."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.domain.errors import RouteUnavailable
from ai_retry.domain.model import Failure, FailureCode
from ai_retry.domain.queue_model import Outage, RouteState
from tests.support.queue_steps import (
    A_MINUTE,
    a_doubt,
    accept,
    an_outage,
    is_queued,
    last_attempt,
    new_accepted,
    new_route,
    new_running,
    postpone,
    put_back,
    ready,
    take,
    to_run,
)
from tests.support.steps import (
    FAILURE,
    POLICY,
    SECOND,
    SHORT,
    Begun,
    Decided,
    at_once,
    begin,
    fail,
    load,
    new_generation,
    status_of,
    succeed,
    to_begin,
    try_begin,
)
from tests.support.worlds import World

SILENCE = replace(FAILURE, code=FailureCode.TIMEOUT)
WHOEVER: list[Callable[[World, str, Outage], object]] = [
    lambda world, route, outage: put_back(world, new_running(world, route=route), outage=outage),
    lambda world, route, outage: fail(world, begin(world, *new_generation(world), route=route), outage=outage),
]


def close(world: World, *, wait: timedelta = SHORT) -> str:
    """Let a call find a new route unavailable; return the route."""
    route = new_route()
    put_back(world, new_running(world, route=route), outage=an_outage(wait))
    return route


def reopen(world: World) -> str:
    """Close a new route, and wait until it opens."""
    route = close(world)
    world.advance(SHORT)
    return route


def state_of(world: World, route: str) -> RouteState | None:
    """What is known of a route; None: nothing, so that all may ask it."""
    return next((each for each in world.storage.state().outages if each.route == route), None)


def slots(world: World, route: str) -> int | None:
    """How many calls may ask a route at once; None: as many as like."""
    known = state_of(world, route)
    return known.slots if known is not None else None


def decide_on_new(world: World, route: str, count: int = 1) -> list[Decided]:
    """Decide to run so many new users' accepted retries by way of a route."""
    return [to_run(world, *new_accepted(world), route=route) for _ in range(count)]


def test_closed_route_refuses_begins(world: World) -> None:
    """While a route is closed no call goes there: of a worker or a click that was decided before it closed."""
    route = new_route()
    worker, click = decide_on_new(world, route)[0], to_begin(world, *new_generation(world), route=route)

    put_back(world, new_running(world, route=route), outage=an_outage())

    assert try_begin(world, worker) is None
    assert is_queued(last_attempt(world, worker.change.generation_id))
    assert try_begin(world, click) is None
    assert status_of(world, click.change.generation_id) == "error"


def test_snapshot_says_that_a_route_is_closed(world: World) -> None:
    """A decision knows the route, until when it is closed, and refuses with the wait."""
    route = close(world)
    user_id, generation_id = new_accepted(world)

    snapshot = load(world, user_id, generation_id)

    (known,) = (each for each in snapshot.routes if each.route == route)
    assert (known.failures, known.slots, known.running, known.waiting) == (1, 1, 0, 1)
    assert SHORT - 10 * SECOND < known.not_before - snapshot.as_of <= SHORT
    with pytest.raises(RouteUnavailable):
        to_run(world, user_id, generation_id, route=route)


def test_attempt_waits_for_its_route(world: World) -> None:
    """The attempt is due when the route opens; its message comes later, so that many of them don't look at once."""
    route = close(world, wait=A_MINUTE)
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
    close(world)

    new_running(world, route=new_route())
    new_running(world, route=None)


@pytest.mark.parametrize("whoever", WHOEVER, ids=["worker", "click"])
def test_next_decision_knows_the_failures(world: World, whoever: Callable[[World, str, Outage], object]) -> None:
    """The next to ask learns how often the route failed in a row, so that probes get rarer."""
    route = new_route()
    counted = []
    for failures in (1, 2):
        whoever(world, route, an_outage(failures=failures))
        (decided,) = decide_on_new(world, "another")
        counted += [each.failures for each in decided.snapshot.routes if each.route == route]
        world.advance(SHORT)

    assert counted == [1, 2]


@pytest.mark.rule("outage")
def test_one_probe_when_it_opens(world: World) -> None:
    """When the wait is over one call probes the route; others are refused."""
    route = reopen(world)
    decided = decide_on_new(world, route)[0]
    new_running(world, route=route)

    assert try_begin(world, decided) is None
    with pytest.raises(RouteUnavailable):
        decide_on_new(world, route)


def test_race_of_probes_has_one_winner(world: World) -> None:
    """Of eight workers that come when the route opens, one probes it."""
    decided = decide_on_new(world, reopen(world), 8)

    def probing(each: Decided) -> Callable[[], Begun | None]:
        return lambda: try_begin(world, each)

    begun = at_once([probing(each) for each in decided])

    assert sum(isinstance(each, Begun) for each in begun) == 1
    assert sum(each is None for each in begun) == 7


@pytest.mark.rule("outage")
def test_answers_double_the_slots(world: World) -> None:
    """Each answer lets twice as many run; after the seventh doubling as many as like."""
    route = reopen(world)
    grown = []
    for _ in range(7):
        grown.append(slots(world, route))
        succeed(world, new_running(world, route=route))

    assert grown == [1, 2, 4, 8, 16, 32, 64]
    assert state_of(world, route) is None


@pytest.mark.rule("outage")
def test_slots_are_kept(world: World) -> None:
    """With two slots two run, and a third waits for one of them."""
    route = reopen(world)
    succeed(world, new_running(world, route=route))
    decided = decide_on_new(world, route, 3)

    first, second, third = (try_begin(world, each) for each in decided)
    assert first is not None
    fail(world, first, SILENCE)

    assert (second is not None, third) == (True, None)
    assert try_begin(world, decided[2]) is not None


def test_slot_of_a_dead_worker_is_free(world: World) -> None:
    """A probe whose lease ran out keeps no other from probing."""
    route = reopen(world)
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
    route = reopen(world)

    fail(world, new_running(world, route=route), failure)

    assert slots(world, route) == 2


def test_silence_proves_nothing(world: World) -> None:
    """A probe that got no answer in time opens nothing, and closes nothing."""
    route = reopen(world)

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


@pytest.mark.rule("outage")
def test_failing_probe_closes_again(world: World) -> None:
    """A failure closes the route anew, however many slots it had."""
    route = reopen(world)
    for _ in range(3):
        succeed(world, new_running(world, route=route))

    put_back(world, new_running(world, route=route), outage=an_outage(failures=2))

    with pytest.raises(RouteUnavailable):
        decide_on_new(world, route)
    world.advance(SHORT)
    assert slots(world, route) == 1


def test_click_tells_the_same_of_a_route(world: World) -> None:
    """A click's failure closes a route, and its answer opens it, as a worker's do."""
    route = new_route()
    fail(world, begin(world, *new_generation(world), route=route), outage=an_outage())
    closed = slots(world, route)
    world.advance(SHORT)

    succeed(world, begin(world, *new_generation(world), route=route))

    assert (closed, slots(world, route)) == (1, 2)


def test_answer_wakes_those_that_wait(world: World) -> None:
    """A retry that waits for a route need not look whether it is open: an answer wakes as many as may run."""
    route = close(world)
    others = [new_accepted(world)[1] for _ in range(3)]
    for message in take(world):
        postpone(world, message, SHORT, spread=A_MINUTE, route=route)
    world.advance(SHORT)
    probe = new_running(world, route=route)

    succeed(world, probe)

    assert set(ready(world)) & set(others) == set(others[:2])


def test_answer_wakes_every_users_first(world: World) -> None:
    """Of those that wait, a user's second is woken after everybody's first."""
    route = close(world)
    user_id, first = new_accepted(world)
    second = world.new_generation(user_id)
    accept(world, user_id, second)
    _, other = new_accepted(world)
    for message in take(world):
        postpone(world, message, SHORT, spread=A_MINUTE, route=route)
    world.advance(SHORT)

    succeed(world, new_running(world, route=route))

    assert set(ready(world)) & {first, second, other} == {first, other}


@pytest.mark.rule("outage")
def test_doubts_close_a_route_when_there_are_many(world: World) -> None:
    """Failures that each may be the fault of one request close the route when so many came in a row; they count."""
    route = new_route()
    for _ in range(2):
        begun = new_running(world, route=route)
        fail(world, begun, goes_on=True, outage=a_doubt(3))
        assert world.attempts(begun.generation_id)[0]["counted"]
        assert state_of(world, route) is None

    fail(world, new_running(world, route=route), goes_on=True, outage=a_doubt(3))

    assert slots(world, route) == 1
    with pytest.raises(RouteUnavailable):
        decide_on_new(world, route)


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

    known = state_of(world, route)

    assert known is not None
    assert (known.failures, known.slots) == (1, 1)
    assert known.not_before - world.storage.state().as_of > A_MINUTE - 10 * SECOND
