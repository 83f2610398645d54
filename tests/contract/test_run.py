"""A begin that runs a queued attempt makes one worker the only one, and fences all others off."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.helpers.queue_steps import (
    ONE_AT_ONCE,
    accept,
    cancel,
    is_queued,
    last_attempt,
    new_accepted,
    new_running,
    numbers,
    to_run,
    waiting,
)
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    POLICY,
    SECOND,
    SHORT,
    Begun,
    Decided,
    begin,
    begin_new,
    fail,
    load,
    new_generation,
    outcomes,
    status_of,
    try_begin,
)
from tests.helpers.worlds import World


def test_run_turns_queued_to_running(world: World) -> None:
    """The same attempt runs, under a lease; its unit stays held, and the generation says processing."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id)

    begun = try_begin(world, decided)

    assert begun is not None
    assert begun.number == 2
    assert POLICY.lease <= begun.lease_expires_at - decided.snapshot.as_of < POLICY.lease + SHORT
    (row,) = world.attempts(generation_id)
    assert (row["token"], row["lease_expires_at"]) == (begun.token, begun.lease_expires_at)
    snapshot = load(world, user_id, generation_id)
    assert (snapshot.live, snapshot.quota.held) == (1, 1)
    assert snapshot.attempts[-1].accepted_at is not None
    assert status_of(world, generation_id) == "processing"


def test_repeated_run_points_out_the_attempt(world: World) -> None:
    """A repeat with the same token runs nothing more; its snapshot says what became of the attempt."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id)
    first = try_begin(world, decided)
    assert first is not None

    second = try_begin(world, decided)
    fail(world, first)
    reply = world.storage.begin(decided.change)

    assert first == second
    assert reply.snapshot is not None
    assert (reply.applied, reply.snapshot.mine) == (False, 2)
    assert outcomes(world, generation_id) == ["failed"]


def test_race_to_run_has_one_winner(world: World) -> None:
    """Of eight workers with the same hint, one begins."""
    user_id, generation_id = new_accepted(world)
    decided = [to_run(world, user_id, generation_id) for _ in range(8)]

    begun = at_once([running(world, each) for each in decided])

    assert sum(isinstance(each, Begun) for each in begun) == 1
    assert sum(each is None for each in begun) == 7
    assert numbers(world, generation_id) == [(2, None)]


def test_race_of_workers_keeps_max_live(world: World) -> None:
    """Of eight of a user's queued attempts that are run at once, as many begin as may run."""
    user_id = world.new_user()
    policy = replace(POLICY, max_parallel=2)
    world.set_quota(user_id, 8, timedelta(hours=24))
    generation_ids = [world.new_generation(user_id) for _ in range(8)]
    for each in generation_ids:
        accept(world, user_id, each, policy=policy)
    decided = [to_run(world, user_id, each, policy=policy) for each in generation_ids]

    begun = at_once([running(world, each) for each in decided])

    assert sum(isinstance(each, Begun) for each in begun) == 2
    assert sum(each is None for each in begun) == 6


def test_run_keeps_below_max_live(world: World) -> None:
    """A retry whose caller waits takes a place, too; when it has ended there is one."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id, policy=ONE_AT_ONCE)
    click = begin_new(world, user_id)

    crowded = try_begin(world, decided)
    fail(world, click)

    assert crowded is None
    assert try_begin(world, decided) is not None


@pytest.mark.parametrize("status", ["success", "error"])
def test_run_is_stale_after_status_change(world: World, status: str) -> None:
    """What was decided on another status is not begun."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id)
    world.set_generation(generation_id, status=status)

    assert try_begin(world, decided) is None
    assert is_queued(last_attempt(world, generation_id))


def test_run_is_stale_after_the_end(world: World) -> None:
    """A retry that was taken back is not begun again."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id)
    cancel(world, user_id, generation_id)

    assert try_begin(world, decided) is None
    assert outcomes(world, generation_id) == ["cancelled"]


def test_run_leaves_a_clicks_attempt(world: World) -> None:
    """An attempt whose caller waits is never taken over by a worker."""
    user_id, generation_id = new_generation(world)
    decided = to_run(world, user_id, generation_id)
    click = begin(world, user_id, generation_id)

    assert try_begin(world, decided) is None
    assert last_attempt(world, generation_id)["token"] == click.token


def test_run_needs_a_queued_attempt(world: World) -> None:
    """Where no retry was accepted, a worker begins none."""
    user_id, generation_id = new_generation(world)

    assert try_begin(world, to_run(world, user_id, generation_id)) is None
    assert world.attempts(generation_id) == []


def test_old_run_is_refused(world: World) -> None:
    """A decision of more than ten seconds ago is stale."""
    assert try_begin(world, to_run(world, *new_accepted(world)).aged(11 * SECOND)) is None


def test_deleted_generation_is_not_run(world: World) -> None:
    """A generation that was deleted since has no snapshot any more."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id)
    world.delete_generation(generation_id)

    reply = world.storage.begin(decided.change)

    assert (reply.applied, reply.snapshot) == (False, None)


def test_run_keeps_the_message(world: World) -> None:
    """The message stays until the attempt is settled: a worker that dies has lost nothing."""
    begun = new_running(world)

    assert waiting(world) == [begun.generation_id]


def running(world: World, decided: Decided) -> Callable[[], Begun | None]:
    """Begin when it is called."""
    return lambda: try_begin(world, decided)
