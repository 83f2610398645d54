"""An accepted retry that no worker has begun is taken back by its user, or ended for a reason by a worker."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ai_retry.domain.errors import RetryExpired, RetryInProgress
from ai_retry.domain.model import FailureCode
from tests.helpers.queue_steps import (
    DELAY,
    ONE_AT_ONCE,
    accept,
    cancel,
    end,
    is_queued,
    last_attempt,
    new_accepted,
    new_running,
    to_run,
    waiting,
)
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    FAILURE,
    POLICY,
    Begun,
    begin,
    close_over,
    event_types,
    fail,
    load,
    new_generation,
    outcomes,
    quota_of,
    status_of,
    succeed,
    try_begin,
)
from tests.helpers.worlds import World


@pytest.mark.parametrize("status", ["error", "timeout"])
def test_cancel_restores_everything(world: World, status: str) -> None:
    """The generation says what it said, the unit is free, the message gone; no attempt was used up."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id, status=status)
    accept(world, user_id, generation_id)

    cancel(world, user_id, generation_id)

    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["counted"], row["code"]) == ("cancelled", False, None)
    assert status_of(world, generation_id) == status
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)
    assert (world.events(user_id), world.error_logs(generation_id)) == ([], [])


def test_cancelled_can_be_retried(world: World) -> None:
    """Afterwards a retry is possible again, now or for later."""
    user_id, generation_id = new_accepted(world)
    cancel(world, user_id, generation_id)

    accept(world, user_id, generation_id)
    cancel(world, user_id, generation_id)
    succeed(world, begin(world, user_id, generation_id))

    assert outcomes(world, generation_id) == ["cancelled", "cancelled", "succeeded"]


def test_cancel_after_a_failure_says_how_it_failed(world: World) -> None:
    """Taken back between two attempts, the generation says how the last one ended."""
    begun = new_running(world)
    fail(world, begun, replace(FAILURE, code=FailureCode.TIMEOUT), goes_on=True)

    cancel(world, begun.user_id, begun.generation_id)

    assert status_of(world, begun.generation_id) == "timeout"
    assert outcomes(world, begun.generation_id) == ["failed", "cancelled"]


def test_cancel_keeps_the_wait(world: World) -> None:
    """Taking a retry back shortens no backoff."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id), wait=DELAY)
    due_at = accept(world, user_id, generation_id).next_attempt_at

    cancel(world, user_id, generation_id)

    assert load(world, user_id, generation_id).attempts[-1].next_attempt_at == due_at


def test_repeated_cancel_changes_nothing(world: World) -> None:
    """A second time, or where nothing is queued, nothing happens."""
    user_id, generation_id = new_accepted(world)
    cancel(world, user_id, generation_id)
    before = (world.attempts(generation_id), status_of(world, generation_id))
    other_id = world.new_generation(user_id)

    cancel(world, user_id, generation_id)
    cancel(world, user_id, other_id)

    assert (world.attempts(generation_id), status_of(world, generation_id)) == before
    assert (world.attempts(other_id), status_of(world, other_id)) == ([], "error")


def test_running_attempt_is_not_cancelled(world: World) -> None:
    """Once a worker has begun nothing is changed, and the user is asked to come back."""
    begun = new_running(world)

    with pytest.raises(RetryInProgress):
        cancel(world, begun.user_id, begun.generation_id)

    assert last_attempt(world, begun.generation_id)["token"] == begun.token
    assert status_of(world, begun.generation_id) == "processing"
    assert waiting(world) == [begun.generation_id]


def test_foreign_attempt_is_not_cancelled(world: World) -> None:
    """Someone else's looks like nothing, and stays."""
    _, generation_id = new_accepted(world)

    cancel(world, world.new_user(), generation_id)

    assert is_queued(last_attempt(world, generation_id))


def test_cancel_takes_back_what_a_dead_worker_left(world: World) -> None:
    """An accepted retry whose worker died does not go on after it was taken back."""
    begun = new_running(world)
    world.advance(POLICY.lease)

    cancel(world, begun.user_id, begun.generation_id)

    assert outcomes(world, begun.generation_id) == ["abandoned", "cancelled"]
    assert status_of(world, begun.generation_id) == "timeout"
    assert (waiting(world), quota_of(world, begun.user_id).held) == ([], 0)


def test_end_for_a_reason_informs_the_app(world: World) -> None:
    """An accepted retry that ends without a call fails for its reason, which the app's log has."""
    user_id, generation_id = new_accepted(world)

    assert end(world, user_id, generation_id, RetryExpired())

    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["code"], row["counted"]) == ("failed", "RETRY_EXPIRED", False)
    assert [log["error_type"] for log in world.error_logs(generation_id)] == ["RETRY_EXPIRED"]
    assert event_types(world, user_id) == ["ai_generation_failed"]
    assert status_of(world, generation_id) == "error"
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)


def test_end_leaves_anothers_success(world: World) -> None:
    """A success by another hand stays one; the queued attempt ends."""
    user_id, generation_id = new_accepted(world)
    world.set_generation(generation_id, status="success")

    assert end(world, user_id, generation_id, RetryExpired())

    assert status_of(world, generation_id) == "success"
    assert (waiting(world), world.error_logs(generation_id)) == ([], [])
    assert last_attempt(world, generation_id)["outcome"] is not None


@pytest.mark.parametrize("gone", ["deleted", "moved"])
def test_queued_attempt_without_its_generation_is_cancelled(world: World, gone: str) -> None:
    """The queued attempt of a generation that is gone, or another user's, ends when its user's are tidied."""
    user_id, generation_id = new_accepted(world)
    if gone == "deleted":
        world.delete_generation(generation_id)
    else:
        world.set_generation(generation_id, user_id=world.new_user())

    close_over(world, user_id)

    assert outcomes(world, generation_id) == ["cancelled"]
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)


def test_cancel_passes_the_message_on(world: World) -> None:
    """The user's next retry takes its place in the line."""
    user_id = world.new_user()
    first, second = (world.new_generation(user_id) for _ in range(2))
    for each in (first, second):
        accept(world, user_id, each, policy=ONE_AT_ONCE)

    cancel(world, user_id, first)

    assert waiting(world) == [second]


def test_cancel_of_one_without_a_message_keeps_the_line(world: World) -> None:
    """Taking back a retry that has no message yet sends none."""
    user_id = world.new_user()
    first, second, third = (world.new_generation(user_id) for _ in range(3))
    for each in (first, second, third):
        accept(world, user_id, each, policy=ONE_AT_ONCE)

    cancel(world, user_id, second)

    assert waiting(world) == [first]


def test_race_of_cancel_and_run_has_one_winner(world: World) -> None:
    """A click and a worker at once: either it was taken back, or it runs and the click is refused."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id)
    calls: list[Callable[[], object]] = [
        lambda: try_begin(world, decided),
        lambda: cancel(world, user_id, generation_id),
    ]

    begun, cancelled = at_once(calls)

    runs = isinstance(begun, Begun)
    assert outcomes(world, generation_id) == ([None] if runs else ["cancelled"])
    assert isinstance(cancelled, RetryInProgress) is runs
