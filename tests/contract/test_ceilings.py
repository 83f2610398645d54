"""A begin counts under the user's lock: fewer running attempts, and fewer used units, than its ceilings."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import QuotaRule, Waiver
from ai_retry.domain.policy import RetryPolicy
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    POLICY,
    Begun,
    Decided,
    begin_new,
    fail,
    quota_of,
    succeed,
    to_begin,
    try_begin,
)
from tests.helpers.worlds import World


def with_limit(limit: int) -> RetryPolicy:
    """A policy with so many units."""
    return replace(POLICY, quota=replace(POLICY.quota, limit=limit))


def decide_on_new(world: World, user_id: UUID, count: int, policy: RetryPolicy) -> list[Decided]:
    """Decide to begin so many new generations of the user, before any is begun."""
    return [to_begin(world, user_id, world.new_generation(user_id), policy=policy) for _ in range(count)]


@pytest.mark.rule("live")
def test_begin_keeps_below_max_live(world: World) -> None:
    """With one live attempt fewer than the ceiling there is room, at the ceiling there is none."""
    decided = decide_on_new(world, world.new_user(), 3, replace(POLICY, max_parallel=2))

    begun = [try_begin(world, each) for each in decided]

    assert [each is not None for each in begun] == [True, True, False]


@pytest.mark.rule("live")
def test_expired_attempt_is_not_live(world: World) -> None:
    """An expired attempt takes no place."""
    user_id = world.new_user()
    begin_new(world, user_id)
    world.advance(POLICY.lease)

    begin_new(world, user_id, policy=replace(POLICY, max_parallel=1))


@pytest.mark.rule("held")
def test_begin_keeps_below_max_used(world: World) -> None:
    """A held unit counts as used; released, it is there again."""
    decided = decide_on_new(world, world.new_user(), 3, with_limit(2))
    held = [try_begin(world, each) for each in decided[:2]]

    refused = try_begin(world, decided[2])

    assert None not in held
    assert refused is None
    assert held[0] is not None
    fail(world, held[0])
    assert try_begin(world, decided[2]) is not None


@pytest.mark.rule("used")
def test_begin_counts_captured_units(world: World) -> None:
    """A captured unit counts as used."""
    first, second = decide_on_new(world, world.new_user(), 2, with_limit(1))
    begun = try_begin(world, first)
    assert begun is not None
    succeed(world, begun)

    assert try_begin(world, second) is None


@pytest.mark.rule("used")
@pytest.mark.parametrize(("count_own_successes", "applied"), [(True, False), (False, True)])
def test_begin_counts_own_successes(world: World, *, count_own_successes: bool, applied: bool) -> None:
    """The app's own successes count as used when the rule says so."""
    user_id = world.new_user()
    policy = replace(POLICY, quota=QuotaRule(limit=1, count_own_successes=count_own_successes))
    decided = to_begin(world, user_id, world.new_generation(user_id), policy=policy)
    world.new_generation(user_id, status="success")

    assert (try_begin(world, decided) is not None) is applied


def test_begin_counts_in_its_window(world: World) -> None:
    """A unit that has left the window is free."""
    user_id = world.new_user()
    policy = replace(POLICY, quota=QuotaRule(limit=1, window=timedelta(hours=1)))
    succeed(world, begin_new(world, user_id, policy=policy))
    world.advance(timedelta(hours=1))

    begin_new(world, user_id, policy=policy)


def test_waived_quota_is_not_asked(world: World) -> None:
    """Without ``max_used`` a full quota does not matter, and the unit is held all the same."""
    user_id = world.new_user()
    world.set_quota(user_id, 0, timedelta(hours=24))

    begin_new(world, user_id, waive=frozenset(Waiver))

    assert quota_of(world, user_id).held == 1


def test_ceilings_are_each_users(world: World) -> None:
    """One user's live attempts and units do not count for another's."""
    policy = replace(with_limit(1), max_parallel=1)

    begun = [begin_new(world, world.new_user(), policy=policy) for _ in range(2)]

    assert [each.number for each in begun] == [2, 2]


@pytest.mark.rule("live")
def test_race_of_one_user_keeps_max_live(world: World) -> None:
    """Of eight begins by one user, as many are applied as may be live."""
    begun = begin_eight(world, replace(POLICY, max_parallel=2))

    assert sum(isinstance(each, Begun) for each in begun) == 2
    assert sum(each is None for each in begun) == 6


@pytest.mark.rule("held")
def test_race_of_one_user_keeps_the_limit(world: World) -> None:
    """Of eight begins by one user with one unit left, one is applied."""
    begun = begin_eight(world, with_limit(1))

    assert sum(isinstance(each, Begun) for each in begun) == 1
    assert sum(each is None for each in begun) == 7


def begin_eight(world: World, policy: RetryPolicy) -> list[Begun | AiRetryError | None]:
    """Begin eight generations of one user at once."""

    def beginning(decided: Decided) -> Callable[[], Begun | None]:
        return lambda: try_begin(world, decided)

    return at_once([beginning(each) for each in decide_on_new(world, world.new_user(), 8, policy)])
