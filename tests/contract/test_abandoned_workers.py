"""An accepted retry goes on when its worker died, whoever notices first."""

from collections.abc import Callable
from uuid import UUID

import pytest

from ai_retry.domain.errors import LeaseLost
from ai_retry.domain.model import Outcome
from tests.helpers.queue_steps import (
    A_MINUTE,
    accept,
    is_queued,
    new_running,
    put_back,
    run,
    tidy,
    waiting,
)
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    POLICY,
    Begun,
    begin,
    begin_new,
    fail,
    new_generation,
    outcomes,
    quota_of,
    status_of,
    succeed,
)
from tests.helpers.worlds import World

WHOEVER: list[Callable[[World, UUID], object]] = [
    begin_new,
    lambda world, user_id: accept(world, user_id, world.new_generation(user_id)),
    lambda world, _: tidy(world),
]


@pytest.mark.parametrize("whoever", WHOEVER, ids=["click", "acceptance", "worker"])
def test_abandoned_attempt_goes_on(world: World, whoever: Callable[[World, UUID], object]) -> None:
    """Whoever begins or tidies closes it, queues its next attempt and informs the app; the unit stays held."""
    begun = new_running(world)
    world.advance(POLICY.lease)

    whoever(world, begun.user_id)

    assert_goes_on(world, begun)
    assert status_of(world, begun.generation_id) == "queued"
    assert [log["error_type"] for log in world.error_logs(begun.generation_id)] == ["LEASE_LOST"]


def test_next_worker_runs_the_next_attempt(world: World) -> None:
    """A worker runs the attempt that follows, under its own number."""
    begun = new_running(world)
    world.advance(POLICY.lease)
    assert (tidy(world), tidy(world)) == (1, 0)
    world.advance(A_MINUTE)

    assert run(world, begun.user_id, begun.generation_id).number == 3


def test_abandoned_click_does_not_go_on(world: World) -> None:
    """An abandoned retry that was not accepted for later ends."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    world.advance(POLICY.lease)

    assert (tidy(world), tidy(world)) == (1, 0)

    assert outcomes(world, generation_id) == ["abandoned"]
    assert status_of(world, generation_id) == "timeout"
    assert waiting(world) == []


def test_abandoned_and_lost_is_sent_again(world: World) -> None:
    """With its message lost as well, any worker's tidying queues the next attempt and sends a message."""
    begun = new_running(world)
    world.lose_messages()
    world.advance(POLICY.lease + A_MINUTE)

    assert tidy(world) == 1

    assert_goes_on(world, begun)


def test_late_failure_queues_nothing(world: World) -> None:
    """What the dead worker brings late queues no second attempt and puts none back."""
    begun = new_running(world)
    world.advance(POLICY.lease)
    tidy(world)

    with pytest.raises(LeaseLost):
        fail(world, begun, goes_on=True)
    assert not put_back(world, begun)

    assert_goes_on(world, begun)


def test_late_answer_is_used(world: World) -> None:
    """An answer that came too late is stored, and the next attempt creates the session from it, for one unit."""
    begun = new_running(world)
    world.advance(POLICY.lease)
    tidy(world)

    with pytest.raises(LeaseLost):
        succeed(world, begun)
    world.advance(A_MINUTE)
    again = run(world, begun.user_id, begun.generation_id)
    succeed(world, again)

    assert again.stored is not None
    assert outcomes(world, begun.generation_id) == ["abandoned", "succeeded"]
    assert quota_of(world, begun.user_id).captured == 1
    assert waiting(world) == []


def test_race_of_late_answer_and_worker_fences(world: World) -> None:
    """A late answer against the tidying: a session, or a stored answer and the next attempt, never both."""
    begun = new_running(world)
    world.advance(POLICY.lease)
    calls: list[Callable[[], object]] = [lambda: succeed(world, begun), lambda: tidy(world)]

    at_once(calls)

    sessions = len(world.sessions(begun.user_id))
    assert outcomes(world, begun.generation_id) == (["succeeded"] if sessions else ["abandoned", None])
    assert len(waiting(world)) == 1 - sessions


def assert_goes_on(world: World, begun: Begun) -> None:
    """The attempt was abandoned, and its accepted retry's next one waits, with a message."""
    first, second = world.attempts(begun.generation_id)
    assert (first["outcome"], first["code"]) == (Outcome.ABANDONED, "LEASE_LOST")
    assert (second["number"], is_queued(second)) == (3, True)
    assert second["next_attempt_at"] == first["next_attempt_at"]
    assert second["accepted_at"] == first["accepted_at"]
    assert second["expires_at"] == first["expires_at"]
    assert waiting(world).count(begun.generation_id) == 1
    assert quota_of(world, begun.user_id).held >= 1
