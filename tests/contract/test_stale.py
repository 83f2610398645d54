"""What makes a begin stale: it was decided too long ago, or what it was decided on is no longer true."""

from datetime import timedelta

import pytest

from ai_retry.domain.errors import LeaseLost
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import accept, is_queued, last_attempt
from tests.helpers.steps import (
    POLICY,
    SECOND,
    abandon,
    answer_too_late,
    begin,
    discard,
    fail,
    new_generation,
    outcomes,
    status_of,
    succeed,
    to_begin,
    try_begin,
)
from tests.helpers.worlds import World


@pytest.mark.rule("age")
def test_old_decision_is_refused(world: World) -> None:
    """A decision of more than ten seconds ago is stale; nothing is written."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)

    begun = try_begin(world, decided.aged(11 * SECOND))

    assert begun is None
    assert world.attempts(generation_id) == []
    assert status_of(world, generation_id) == "error"


@pytest.mark.rule("age")
def test_recent_decision_is_applied(world: World) -> None:
    """A decision of a second ago is not stale."""
    assert try_begin(world, to_begin(world, *new_generation(world)).aged(SECOND)) is not None


@pytest.mark.rule("age")
@pytest.mark.parametrize(("age", "applied"), [(timedelta(0), True), (timedelta(microseconds=1), False)])
def test_decision_is_valid_for_ten_seconds_exactly(memory_world: MemoryWorld, age: timedelta, *, applied: bool) -> None:
    """A decision of ten seconds ago is in time, a microsecond more is too late."""
    decided = to_begin(memory_world, *new_generation(memory_world))
    memory_world.advance(10 * SECOND + age)

    assert (try_begin(memory_world, decided) is not None) is applied


def test_stale_reply_carries_the_fresh_snapshot(world: World) -> None:
    """The reply to a stale begin is what there is to decide on now."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    world.set_generation(generation_id, status="timeout")

    reply = world.storage.begin(decided.change)

    assert not reply.applied
    assert reply.snapshot is not None
    assert reply.snapshot.version != decided.snapshot.version
    assert (reply.snapshot.generation.status, reply.snapshot.mine) == ("timeout", None)


@pytest.mark.rule("version")
def test_begin_is_stale_after_another_attempt(world: World) -> None:
    """A decision does not outlive another attempt at the generation."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    fail(world, begin(world, user_id, generation_id))

    assert try_begin(world, decided) is None
    assert len(world.attempts(generation_id)) == 1


@pytest.mark.rule("version")
def test_begin_is_stale_after_an_acceptance(world: World) -> None:
    """A retry that was decided before one was accepted does not begin beside it."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    accept(world, user_id, generation_id)

    assert try_begin(world, decided) is None
    assert is_queued(last_attempt(world, generation_id))


@pytest.mark.rule("version")
@pytest.mark.parametrize("status", ["processing", "queued", "success", "timeout"])
def test_begin_is_stale_after_status_change(world: World, status: str) -> None:
    """A decision does not outlive the status that it rested on."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    world.set_generation(generation_id, status=status)

    assert try_begin(world, decided) is None
    assert status_of(world, generation_id) == status


@pytest.mark.rule("version")
def test_begin_is_stale_after_new_wait(world: World) -> None:
    """A decision does not outlive the wait that it rested on, even if nothing else differs."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    decided = to_begin(world, user_id, generation_id)
    fail(world, begun, wait=timedelta(hours=1))
    world.set_generation(generation_id, status="processing")

    assert try_begin(world, decided) is None


@pytest.mark.rule("version")
def test_begin_is_stale_after_late_answer(world: World) -> None:
    """A decision to call does not outlive the arrival of a stored answer."""
    user_id, generation_id = new_generation(world)
    late = begin(world, user_id, generation_id)
    abandon(world, late)
    decided = to_begin(world, user_id, generation_id)
    with pytest.raises(LeaseLost):
        succeed(world, late)

    assert try_begin(world, decided) is None


@pytest.mark.rule("version")
def test_begin_is_stale_after_discard(world: World) -> None:
    """A decision to use a stored answer does not outlive the answer."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    decided = to_begin(world, user_id, generation_id)
    discard(world, user_id, generation_id)

    assert try_begin(world, decided) is None
    assert outcomes(world, generation_id) == ["abandoned"]


@pytest.mark.rule("version")
def test_begin_is_stale_after_an_override(world: World) -> None:
    """A decision does not outlive the quota that it rested on."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    world.set_quota(user_id, 3, timedelta(hours=1))

    assert try_begin(world, decided) is None
    assert world.attempts(generation_id) == []
