"""``state`` counts what waits and runs of accepted retries, and writes nothing."""

from tests.helpers.queue_steps import (
    DELAY,
    accept,
    an_outage,
    new_accepted,
    new_route,
    new_running,
    postpone,
    put_back,
    take,
)
from tests.helpers.steps import SHORT, begin, fail, new_generation
from tests.helpers.worlds import World


def test_state_of_an_empty_queue(world: World) -> None:
    """With nothing accepted everything is zero."""
    state = world.storage.state()

    assert state.configured
    assert (state.queued, state.due, state.parked, state.running) == (0, 0, 0, 0)
    assert state.oldest_accepted_at is None


def test_state_counts_what_waits_and_runs(world: World) -> None:
    """Due, waiting and running ones are counted apart; what was not accepted for later is none of them."""
    begin(world, *new_generation(world))
    oldest = accept(world, *new_generation(world))
    fail(world, new_running(world), wait=DELAY, goes_on=True)
    new_running(world)

    state = world.storage.state()

    assert (state.queued, state.due, state.parked, state.running) == (2, 1, 0, 1)
    assert state.oldest_accepted_at == oldest.accepted_at
    assert state.held == 4  # also of the one that was not accepted for later


def test_state_counts_what_waits_for_a_provider(world: World) -> None:
    """Parked are those that a closed route holds up, whoever found it closed; its state is returned."""
    route = new_route()
    put_back(world, new_running(world, route=route), wait=SHORT, outage=an_outage(failures=3))
    new_accepted(world)
    (message,) = take(world)
    postpone(world, message, SHORT, route=route)

    state = world.storage.state()

    assert (state.queued, state.due, state.parked) == (2, 0, 2)
    (outage,) = (each for each in state.outages if each.route == route)
    assert (outage.failures, outage.slots) == (3, 1)
    assert state.as_of < outage.not_before <= state.as_of + SHORT
