"""Units are held while an attempt is open, captured by its success, and come back when they leave the window."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from ai_retry.domain.errors import AlreadySucceeded
from tests.helpers.steps import POLICY, SECOND, SHORT, begin, begin_new, new_generation, quota_of, succeed
from tests.helpers.worlds import Row, World

DAY = timedelta(hours=24)


def test_quota_is_unused_at_first(world: World) -> None:
    """Nothing is used, and nothing comes back."""
    quota = quota_of(world, world.new_user())

    assert (quota.limit, quota.window) == (POLICY.quota.limit, POLICY.quota.window)
    assert (quota.captured, quota.held, quota.remaining) == (0, 0, 5)
    assert quota.resets_at is None


@pytest.mark.rule("held")
def test_open_attempt_holds_a_unit(world: World) -> None:
    """A unit is held from the begin to the end of the lease at the latest."""
    user_id = world.new_user()
    begin_new(world, user_id)

    held = quota_of(world, user_id).held
    world.advance(POLICY.lease)
    afterwards = quota_of(world, user_id).held

    assert (held, afterwards) == (1, 0)


@pytest.mark.rule("used")
@pytest.mark.parametrize(("age", "captured"), [(DAY - SHORT, 1), (DAY, 0)])
def test_captured_unit_leaves_the_window(world: World, age: timedelta, captured: int) -> None:
    """A captured unit counts until it is exactly one window old."""
    user_id = world.new_user()
    succeed(world, begin_new(world, user_id))
    world.advance(age)

    assert quota_of(world, user_id).captured == captured


@pytest.mark.rule("used")
@pytest.mark.parametrize(("age", "captured"), [(DAY - SHORT, 1), (DAY, 0)])
def test_own_success_leaves_the_window(world: World, age: timedelta, captured: int) -> None:
    """The app's own success counts at the time when its generation was created."""
    user_id = world.new_user()
    world.new_generation(user_id, status="success", age=age)

    assert quota_of(world, user_id).captured == captured


@pytest.mark.rule("used")
def test_our_success_counts_once(world: World) -> None:
    """A success of ours is not the app's own as well, whenever its generation was created."""
    user_id = world.new_user()
    succeed(world, begin_new(world, user_id))
    world.new_generation(user_id, status="success")

    assert quota_of(world, user_id).captured == 2


@pytest.mark.rule("used")
def test_own_successes_can_be_left_out(world: World) -> None:
    """Where the rule says so, only what we captured counts."""
    user_id = world.new_user()
    succeed(world, begin_new(world, user_id))
    world.new_generation(user_id, status="success")
    policy = replace(POLICY, quota=replace(POLICY.quota, count_own_successes=False))

    assert quota_of(world, user_id, policy=policy).captured == 1


def test_another_hands_success_counts_as_own(world: World) -> None:
    """A success by another hand during our attempt is the app's own, and counts once."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.set_generation(generation_id, status="success")
    with pytest.raises(AlreadySucceeded):
        succeed(world, begun)

    assert quota_of(world, user_id).captured == 1


def test_captured_unit_outlives_its_generation(world: World) -> None:
    """Deleting the generation brings no unit back."""
    user_id = world.new_user()
    begun = begin_new(world, user_id)
    succeed(world, begun)
    world.delete_generation(begun.generation_id)

    assert quota_of(world, user_id).captured == 1


@pytest.mark.rule("override")
@pytest.mark.parametrize("limit", [0, 1, 3, 50])
def test_override_replaces_limit_and_window(world: World, limit: int) -> None:
    """A user's override counts instead of the rule, be it lower, higher or nothing at all."""
    user_id = world.new_user()
    begin_new(world, user_id)
    world.set_quota(user_id, limit, timedelta(hours=1))

    quota = quota_of(world, user_id)

    assert (quota.limit, quota.window) == (limit, timedelta(hours=1))
    assert (quota.held, quota.remaining) == (1, max(0, limit - 1))


def test_override_is_each_users(world: World) -> None:
    """One user's override is not another's."""
    world.set_quota(world.new_user(), 1, timedelta(hours=1))

    assert quota_of(world, world.new_user()).limit == POLICY.quota.limit


def test_captured_is_counted_up_to_the_limit(world: World) -> None:
    """More captured units than a lowered limit are counted as the limit."""
    user_id = world.new_user()
    captured_rows(world, user_id, 3)
    world.set_quota(user_id, 2, DAY)

    assert (quota_of(world, user_id).captured, quota_of(world, user_id).remaining) == (2, 0)


def test_nothing_resets_without_a_limit(world: World) -> None:
    """With a limit of 0 no unit ever comes back."""
    user_id = world.new_user()
    succeed(world, begin_new(world, user_id))
    world.set_quota(user_id, 0, DAY)

    assert quota_of(world, user_id).resets_at is None


def test_resets_when_the_oldest_leaves(world: World) -> None:
    """With units to spare, the next to come back is the oldest captured one."""
    user_id = world.new_user()
    rows = captured_rows(world, user_id, 3)

    assert quota_of(world, user_id).resets_at == rows[0]["captured_at"] + POLICY.quota.window


def test_resets_when_enough_have_left(world: World) -> None:
    """Over a lowered limit, as many must leave as make room for one more."""
    user_id = world.new_user()
    rows = captured_rows(world, user_id, 3)
    world.set_quota(user_id, 2, DAY)

    assert quota_of(world, user_id).resets_at == rows[1]["captured_at"] + DAY


def test_resets_around_held_units(world: World) -> None:
    """With a unit held, one captured unit fewer fits below the limit."""
    user_id = world.new_user()
    rows = captured_rows(world, user_id, 2)
    begin_new(world, user_id)
    world.set_quota(user_id, 2, DAY)

    assert quota_of(world, user_id).resets_at == rows[1]["captured_at"] + DAY


def test_resets_when_the_first_lease_ends(world: World) -> None:
    """With the whole limit held, the first lease to end brings a unit back."""
    user_id = world.new_user()
    begun = [begin_new(world, user_id) for _ in range(2)]
    world.set_quota(user_id, 2, DAY)

    assert quota_of(world, user_id).resets_at == begun[0].lease_expires_at


def captured_rows(world: World, user_id: UUID, count: int) -> Sequence[Row]:
    """Capture units a second apart; return the rows when time no longer passes, oldest first."""
    begun = []
    for _ in range(count):
        world.advance(SECOND)
        begun.append(begin_new(world, user_id))
        succeed(world, begun[-1])
    return [world.attempts(each.generation_id)[0] for each in begun]
