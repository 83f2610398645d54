"""An accepted retry ends: at its time at the latest."""

from tests.helpers.queue_steps import (
    DELAY,
    EXPIRES_AFTER,
    accept,
    is_queued,
    last_attempt,
    new_accepted,
    run,
    tidy,
    waiting,
)
from tests.helpers.steps import SHORT, begin_new, event_types, outcomes, quota_of, status_of, succeed
from tests.helpers.worlds import World


def test_retry_that_is_out_of_time_ends(world: World) -> None:
    """A queued attempt whose time is up fails with the reason, informs the app, and releases its unit."""
    user_id, generation_id = new_accepted(world, expires_after=DELAY)
    world.advance(DELAY)

    assert (tidy(world), tidy(world)) == (1, 0)

    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["code"], row["counted"]) == ("failed", "RETRY_EXPIRED", False)
    assert [log["error_type"] for log in world.error_logs(generation_id)] == ["RETRY_EXPIRED"]
    assert event_types(world, user_id) == ["ai_generation_failed"]
    assert status_of(world, generation_id) == "error"
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)


def test_begin_ends_what_is_out_of_time(world: World) -> None:
    """Whoever begins anything for the user ends it first: its unit is free."""
    user_id, generation_id = new_accepted(world, expires_after=DELAY)
    world.advance(DELAY)

    begin_new(world, user_id)

    assert outcomes(world, generation_id) == ["failed"]
    assert quota_of(world, user_id).held == 1


def test_retry_that_has_time_stays(world: World) -> None:
    """Before its time nothing is ended, however long it has been due."""
    _, generation_id = new_accepted(world)
    world.advance(EXPIRES_AFTER - SHORT)

    assert tidy(world) == 0
    assert is_queued(last_attempt(world, generation_id))


def test_running_attempt_keeps_its_lease(world: World) -> None:
    """What runs when its time is up may end, until the end of its lease."""
    user_id, generation_id = new_accepted(world, expires_after=SHORT)
    begun = run(world, user_id, generation_id)
    world.advance(SHORT)

    assert tidy(world) == 0
    succeed(world, begun)
    assert outcomes(world, generation_id) == ["succeeded"]


def test_status_of_before_comes_back(world: World) -> None:
    """The generation says again what it said before the retry was accepted."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id, status="timeout")
    accept(world, user_id, generation_id, expires_after=DELAY)
    world.advance(DELAY)

    tidy(world)

    assert status_of(world, generation_id) == "timeout"
