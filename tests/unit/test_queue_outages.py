"""What a failed call says of its provider, and what it costs the retry that made it: the rules, on the reference."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.change import Taken
from ai_retry.domain.model import Failure, FailureCode
from ai_retry.domain.policy import OUTAGE_DOUBTS, OUTAGE_REFUSALS, RetryPolicy
from ai_retry.domain.ports import AiProvider
from ai_retry.domain.queue import run_taken
from ai_retry.domain.queue_model import QueueOutcome
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import VISIBILITY, new_accepted

ROUTE = "provider.example/small"
POLICY = RetryPolicy(max_attempts=4, hard_cap=6, max_parallel=8)
BROKEN = a_failure()  # it is unknown whose fault it was
OVERLOADED = a_failure(overloaded=True)
ANSWER = an_answer()
UNREACHABLE = a_failure(certainly_not_generated=True, wire_requests=0)
LIMITED = a_failure(FailureCode.RATE_LIMITED, reason="429", certainly_not_generated=True)
FORBIDDEN = a_failure(
    FailureCode.REJECTED, reason="403", transient=False, certainly_not_generated=True, operator_fault=True
)


@pytest.fixture
def world() -> MemoryWorld:
    """Memory, and a clock of its own."""
    return MemoryWorld()


def do(world: MemoryWorld, taken: Taken, ai: AiProvider) -> QueueOutcome:
    """Do what a message hints at, as it is now."""
    message = taken.message
    snapshot = world.storage.load(message.user_id, message.generation_id, POLICY.quota, None)
    return run_taken(
        replace(taken, snapshot=snapshot),
        storage=world.storage,
        ai=ai,
        clock=SystemClock(),
        policy=POLICY,
        route_of=lambda _: ROUTE,
        jitter=lambda: 1.0,
    )


def work(world: MemoryWorld, *script: AiStep) -> list[QueueOutcome]:
    """Do what every message hints at that can be seen now."""
    ai = ScriptedAiProvider(*script)
    outcomes = [do(world, taken, ai) for taken in world.storage.take(100, VISIBILITY, POLICY.quota)]
    ai.assert_finished()
    return outcomes


def go_on(world: MemoryWorld) -> None:
    """Let every wait end."""
    world.advance(POLICY.backoff_cap)


def tries(world: MemoryWorld, generation_id: UUID) -> list[tuple[int, bool]]:
    """Numbers of its closed attempts, and whether they count."""
    return [(row["number"], row["counted"]) for row in world.attempts(generation_id) if row["outcome"] is not None]


def test_unreachable_provider_costs_no_attempt(world: MemoryWorld) -> None:
    """A provider that can't be reached is unavailable at once; the attempt waits under its own number."""
    _, generation_id = new_accepted(world)

    assert work(world, UNREACHABLE) == [QueueOutcome.PARKED]

    assert (tries(world, generation_id), len(world.storage.state().outages)) == ([], 1)


def test_overloaded_provider_costs_no_attempt(world: MemoryWorld) -> None:
    """It takes no requests: that may have cost something, but does not count."""
    _, generation_id = new_accepted(world)

    assert work(world, OVERLOADED) == [QueueOutcome.GOES_ON]

    assert tries(world, generation_id) == [(2, False)]


@pytest.mark.parametrize("failure", [OVERLOADED, LIMITED, FORBIDDEN], ids=lambda failure: failure.reason)
def test_few_that_are_turned_away_are_an_outage(world: MemoryWorld, failure: Failure) -> None:
    """One that is turned away among many holds up no other; a few in a row, and no answer between them, do."""
    for _ in range(OUTAGE_REFUSALS - 1):
        new_accepted(world)
        work(world, failure)
    new_accepted(world)
    assert (work(world, ANSWER), list(world.storage.state().outages)) == ([QueueOutcome.SUCCEEDED], [])

    for _ in range(OUTAGE_REFUSALS):
        new_accepted(world)
        work(world, failure)

    new_accepted(world)
    assert work(world) == [QueueOutcome.PARKED]


def test_provider_that_asks_to_wait_is_obeyed(world: MemoryWorld) -> None:
    """A wait that it asks of one request is every request's."""
    new_accepted(world)
    work(world, replace(LIMITED, retry_after=POLICY.backoff_cap))

    new_accepted(world)
    assert work(world) == [QueueOutcome.PARKED]


def test_held_route_is_looked_at_again(world: MemoryWorld) -> None:
    """What waits for a route that an operator holds looks each minute whether it was opened; no probe is sent."""
    _, generation_id = new_accepted(world)
    world.storage.routes.hold(ROUTE, timedelta(hours=4), world.clock.now())

    for _ in range(3):
        assert work(world) == [QueueOutcome.PARKED]
        world.advance(timedelta(minutes=1, seconds=1))
    world.storage.routes.open(ROUTE)

    assert work(world, ANSWER) == [QueueOutcome.SUCCEEDED]
    assert tries(world, generation_id) == [(2, True)]


@pytest.mark.parametrize("failure", [BROKEN, OVERLOADED, FORBIDDEN], ids=lambda failure: failure.reason)
def test_probes_cost_no_attempt(world: MemoryWorld, failure: Failure) -> None:
    """Where no request is answered a failure is not its own: what probes waits on, for as long as it takes."""
    _, generation_id = new_accepted(world)
    work(world, UNREACHABLE)

    for _ in range(2 * POLICY.hard_cap):
        go_on(world)
        assert work(world, failure) == [QueueOutcome.PARKED]

    go_on(world)
    assert work(world, ANSWER) == [QueueOutcome.SUCCEEDED]
    assert tries(world, generation_id) == [(2, True)]


def test_broken_requests_close_no_route(world: MemoryWorld) -> None:
    """One generation's failures use up its attempts, and hold up no other."""
    _, generation_id = new_accepted(world)

    for outcome in (QueueOutcome.GOES_ON, QueueOutcome.GOES_ON, QueueOutcome.FAILED):
        assert work(world, BROKEN) == [outcome]
        assert list(world.storage.state().outages) == []
        go_on(world)

    assert tries(world, generation_id) == [(2, True), (3, True), (4, True)]
    new_accepted(world)
    assert work(world, ANSWER) == [QueueOutcome.SUCCEEDED]


def test_many_broken_requests_are_an_outage(world: MemoryWorld) -> None:
    """So many in a row, and no answer between them, are the provider's: the others wait and lose no attempt."""
    generations = [new_accepted(world)[1] for _ in range(OUTAGE_DOUBTS + 2)]

    outcomes = work(world, *[BROKEN] * OUTAGE_DOUBTS)

    assert outcomes == [QueueOutcome.GOES_ON] * OUTAGE_DOUBTS + [QueueOutcome.PARKED] * 2
    assert len(world.storage.state().outages) == 1
    assert [tries(world, each) for each in generations] == [[(2, True)]] * OUTAGE_DOUBTS + [[]] * 2


@pytest.mark.parametrize("failure", [OVERLOADED, FORBIDDEN], ids=lambda failure: failure.reason)
def test_only_one_that_is_turned_away_has_an_end(world: MemoryWorld, failure: Failure) -> None:
    """What closes the route again and again while others are answered does not do so for ever: the hard cap ends it."""
    _, generation_id = new_accepted(world)
    others = []
    while world.generation(generation_id)["status"] != "error":
        others.append(new_accepted(world)[1])
        for taken in world.storage.take(100, VISIBILITY, POLICY.quota):
            answers = failure if taken.message.generation_id == generation_id else ANSWER
            do(world, taken, ScriptedAiProvider(default=answers))
        go_on(world)
        assert len(others) < 10 * POLICY.hard_cap

    assert len(tries(world, generation_id)) == POLICY.hard_cap
    assert sum(world.generation(each)["status"] == "success" for each in others) > len(others) / 2
