"""Who is next: as many messages of a user are in the line as may run, and every lost one comes back."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.helpers.queue_steps import (
    A_MINUTE,
    DELAY,
    ONE_AT_ONCE,
    accept,
    is_queued,
    last_attempt,
    new_accepted,
    new_running,
    ready,
    run,
    take,
    tidy,
    waiting,
)
from tests.helpers.racing import at_once
from tests.helpers.steps import POLICY, begin, fail, succeed
from tests.helpers.worlds import World


@pytest.mark.rule("line")
def test_no_more_messages_than_may_run(world: World) -> None:
    """Of five accepted retries of a user who may run two, two have a message that is ready."""
    user_id = world.new_user()
    generation_ids = [world.new_generation(user_id) for _ in range(5)]

    for each in generation_ids:
        accept(world, user_id, each, policy=replace(POLICY, max_parallel=2))

    assert ready(world) == waiting(world) == generation_ids[:2]


def test_many_retries_let_one_pass(world: World) -> None:
    """A user's one retry waits behind as many of another's as may run, not behind all of them."""
    hoarder = world.new_user()
    world.set_quota(hoarder, 100, timedelta(hours=24))
    for _ in range(20):
        accept(world, hoarder, world.new_generation(hoarder), policy=replace(POLICY, max_parallel=2))

    _, generation_id = new_accepted(world)

    assert ready(world).index(generation_id) == 2


def test_repeat_passes_no_second_message_on(world: World) -> None:
    """Of a user's three retries, each settle lets one more into the line, a repeat none."""
    user_id = world.new_user()
    first, second, third = (world.new_generation(user_id) for _ in range(3))
    for each in (first, second, third):
        accept(world, user_id, each, policy=ONE_AT_ONCE)
    begun = run(world, user_id, first)

    succeed(world, begun)
    after_one = waiting(world)
    succeed(world, begun)

    assert after_one == waiting(world) == [second]
    assert is_queued(last_attempt(world, third))


def test_next_message_goes_to_the_end_of_the_line(world: World) -> None:
    """A user's next retry waits behind those of users who came meanwhile."""
    user_id = world.new_user()
    first, second = (world.new_generation(user_id) for _ in range(2))
    for each in (first, second):
        accept(world, user_id, each, policy=ONE_AT_ONCE)
    _, others = new_accepted(world)

    succeed(world, run(world, user_id, first))

    assert waiting(world) == [others, second]


@pytest.mark.rule("line")
def test_next_message_is_for_the_first_that_is_due(world: World) -> None:
    """Of a user's waiting retries the one that is due first comes first."""
    user_id = world.new_user()
    late, soon, first = (world.new_generation(user_id) for _ in range(3))
    fail(world, begin(world, user_id, late), wait=DELAY)
    accept(world, user_id, first, policy=ONE_AT_ONCE)
    for each in (late, soon):
        accept(world, user_id, each, policy=ONE_AT_ONCE)

    succeed(world, run(world, user_id, first))

    assert waiting(world) == [soon]


def test_lost_message_comes_back(world: World) -> None:
    """A queued attempt that is due without a message is sent one by the next worker that tidies, and once."""
    _, generation_id = new_accepted(world)
    world.lose_messages()

    sent = [tidy(world) for _ in range(2)]

    assert sent == [1, 0]
    assert ready(world) == [generation_id]


def test_message_in_line_is_not_lost(world: World) -> None:
    """However long the line, an attempt that has a message in it, taken or not, gets no second one."""
    new_accepted(world)
    user_id, generation_id = new_accepted(world)
    take(world, limit=1)
    for each in (world.new_generation(user_id) for _ in range(2)):
        accept(world, user_id, each, policy=ONE_AT_ONCE)
    before = waiting(world)
    world.advance(A_MINUTE * 10)

    assert tidy(world) == 0
    assert waiting(world) == before
    assert generation_id in before


def test_message_of_an_attempt_that_is_not_due_is_not_missed(world: World) -> None:
    """A lost message is missed when its attempt is due, however long that is."""
    begun = new_running(world)
    fail(world, begun, wait=A_MINUTE * 3, goes_on=True)
    world.lose_messages()
    world.advance(A_MINUTE * 2)
    early = tidy(world)
    world.advance(A_MINUTE * 2)

    assert (early, tidy(world)) == (0, 1)


def test_overdue_stops_at_its_limit(world: World) -> None:
    """As many users are served as were asked for, the longest due first; the others next time."""
    generation_ids = [new_accepted(world)[1] for _ in range(3)]
    world.lose_messages()
    world.advance(A_MINUTE * 2)

    sent = [tidy(world, limit=2) for _ in range(3)]

    assert sent == [2, 1, 0]
    assert waiting(world) == generation_ids


def test_race_to_tidy_sends_once(world: World) -> None:
    """Workers that tidy at once send one message."""
    _, generation_id = new_accepted(world)
    world.lose_messages()

    at_once([lambda: tidy(world)] * 8)

    assert waiting(world) == [generation_id]


def test_every_message_lost_every_retry_comes_back(world: World) -> None:
    """After the queue was emptied all of a user's retries are served, one after the other."""
    user_id = world.new_user()
    generation_ids = [world.new_generation(user_id) for _ in range(3)]
    for each in generation_ids:
        accept(world, user_id, each, policy=ONE_AT_ONCE)
    world.lose_messages()
    tidy(world)
    served = []
    while messages := take(world):
        for message in messages:
            served.append(message.generation_id)
            succeed(world, run(world, user_id, message.generation_id))

    assert sorted(served) == sorted(generation_ids)
