"""A renewal prolongs the lease of a running attempt, even of one that is over, up to a limit that its begin stated."""

from datetime import timedelta

import pytest

from ai_retry.domain.change import Renew
from tests.helpers.queue_steps import new_running, put_back
from tests.helpers.steps import (
    AT_ONCE,
    POLICY,
    SECOND,
    SHORT,
    Begun,
    begin,
    begin_new,
    close_over,
    fail,
    keep,
    new_generation,
    outcomes,
    succeed,
)
from tests.helpers.worlds import World


def renew(world: World, begun: Begun, lease: timedelta = POLICY.lease) -> bool:
    """Renew; whether it was applied."""
    return world.storage.amend(Renew(generation_id=begun.generation_id, token=begun.token, lease=lease)).applied


@pytest.mark.rule("renewal")
def test_renewal_prolongs_from_now(world: World) -> None:
    """A lease of so long from now on, when the begin allows as much."""
    begun = begin(world, *new_generation(world))

    assert renew(world, begun, 10 * SECOND)
    unchanged = world.attempts(begun.generation_id)[0]["lease_expires_at"]
    world.advance(10 * SECOND)
    before = world.attempts(begun.generation_id)[0]["lease_expires_at"]
    assert renew(world, begun)

    assert unchanged == begun.lease_expires_at  # a renewal never shortens
    assert world.attempts(begun.generation_id)[0]["lease_expires_at"] >= before


@pytest.mark.rule("renewal")
def test_renewal_ends_where_the_begin_says(world: World) -> None:
    """No renewal exceeds the longest time: a call that never returns can't hold a unit for ever."""
    begun = begin(world, *new_generation(world))
    (row,) = world.attempts(begun.generation_id)

    renew(world, begun, timedelta(hours=1))

    longest = max(POLICY.lease, POLICY.deadline + POLICY.settle_margin)
    (renewed,) = world.attempts(begun.generation_id)
    assert renewed["lease_expires_at"] - row["started_at"] == longest


@pytest.mark.rule("over")
def test_renewal_brings_an_expired_attempt_back(world: World) -> None:
    """An attempt that is over, and still open, is live again, and closed by no one else."""
    user_id = world.new_user()
    begun = begin_new(world, user_id)
    world.advance(POLICY.lease - SECOND)
    assert renew(world, begun)

    close_over(world, user_id)

    assert outcomes(world, begun.generation_id) == [None]


@pytest.mark.parametrize("end", [succeed, fail, keep], ids=["succeed", "fail", "keep"])
def test_ended_attempt_is_not_renewed(world: World, end: object) -> None:
    """An attempt that is closed, or whose answer is kept, is never prolonged."""
    begun = begin(world, *new_generation(world))
    end(world, begun)  # type: ignore[operator]
    before = world.attempts(begun.generation_id)

    assert not renew(world, begun)
    assert world.attempts(begun.generation_id) == before


def test_token_that_was_put_back_renews_nothing(world: World) -> None:
    """A worker that has put its attempt back holds no lease any more."""
    begun = new_running(world)
    put_back(world, begun, wait=AT_ONCE)

    assert not renew(world, begun, SHORT)
    assert world.attempts(begun.generation_id)[0]["lease_expires_at"] is None
