"""An attempt that did not generate is put back: none is used up, and the worker's token runs nothing any more."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.domain.errors import LeaseLost
from ai_retry.domain.model import FailureCode, ProviderOutcome
from tests.helpers.builders import a_failure
from tests.helpers.queue_steps import (
    DELAY,
    TURNED_AWAY,
    cancel,
    is_queued,
    last_attempt,
    new_accepted,
    new_running,
    put_back,
    ready,
    run,
    to_run,
    waiting,
)
from tests.helpers.steps import (
    ANSWER,
    AT_ONCE,
    Begun,
    abandon,
    begin,
    close_over,
    fail,
    keep,
    load,
    new_generation,
    outcomes,
    quota_of,
    status_of,
    succeed,
    try_begin,
)
from tests.helpers.worlds import World

DOUBTFUL = replace(TURNED_AWAY, certainly_not_generated=False)


def test_put_back_uses_no_attempt(world: World) -> None:
    """The same attempt waits again, due after the wait; the app learns of no failure."""
    begun = new_running(world)

    assert put_back(world, begun, wait=DELAY)

    (row,) = world.attempts(begun.generation_id)
    assert (row["number"], is_queued(row)) == (2, True)
    assert status_of(world, begun.generation_id) == "queued"
    assert (world.events(begun.user_id), world.error_logs(begun.generation_id)) == ([], [])
    assert quota_of(world, begun.user_id).held == 1
    assert (waiting(world), ready(world)) == ([begun.generation_id], [])
    world.advance(DELAY)
    assert ready(world) == [begun.generation_id]


def test_attempt_that_was_put_back_is_run_again(world: World) -> None:
    """The next worker runs the same attempt under a token of its own."""
    begun = new_running(world)
    put_back(world, begun, wait=AT_ONCE)

    again = run(world, begun.user_id, begun.generation_id)

    assert (again.number, again.token != begun.token) == (2, True)
    succeed(world, again)
    assert outcomes(world, begun.generation_id) == ["succeeded"]


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("runs", [False, True])
def test_failure_after_the_put_back_changes_nothing(world: World, *, runs: bool, goes_on: bool) -> None:
    """Whatever failure the former worker still brings changes nothing, while the attempt waits or runs."""
    begun = new_running(world)
    put_back(world, begun, wait=AT_ONCE)
    if runs:
        run(world, begun.user_id, begun.generation_id)
    before = world.attempts(begun.generation_id)

    with pytest.raises(LeaseLost):
        fail(world, begun, goes_on=goes_on)

    assert world.attempts(begun.generation_id) == before


def test_answer_after_the_put_back_is_used(world: World) -> None:
    """A paid answer that the former worker still brings has a place, and becomes the session without a call."""
    begun = new_running(world)
    put_back(world, begun, wait=AT_ONCE)

    with pytest.raises(LeaseLost) as caught:
        succeed(world, begun)
    again = run(world, begun.user_id, begun.generation_id)

    assert caught.value.details["answer_kept"] is True
    assert again.stored is not None
    assert (again.number, again.stored.answer.output) == (2, ANSWER.output)
    succeed(world, again)
    assert outcomes(world, begun.generation_id) == ["succeeded"]
    assert (len(world.sessions(begun.user_id)), quota_of(world, begun.user_id).captured) == (1, 1)


def test_answer_during_the_next_run_closes_nothing(world: World) -> None:
    """A paid answer that arrives when the next worker runs leaves that worker's attempt open."""
    begun = new_running(world)
    put_back(world, begun, wait=AT_ONCE)
    again = run(world, begun.user_id, begun.generation_id)

    with pytest.raises(LeaseLost):
        succeed(world, begun)

    assert (outcomes(world, begun.generation_id), world.sessions(begun.user_id)) == ([None], [])
    assert load(world, begun.user_id, begun.generation_id).stored_answer is not None
    succeed(world, again)
    assert len(world.sessions(begun.user_id)) == 1


def test_token_that_was_put_back_begins_nothing(world: World) -> None:
    """A repeat of the begin that was put back is stale."""
    user_id, generation_id = new_accepted(world)
    decided = to_run(world, user_id, generation_id)
    begun = try_begin(world, decided)
    assert begun is not None
    put_back(world, begun)

    assert try_begin(world, decided) is None


def test_repeat_leaves_the_next_worker(world: World) -> None:
    """A repeat that arrives when another worker runs it changes nothing."""
    begun = new_running(world)
    put_back(world, begun, wait=AT_ONCE)
    again = run(world, begun.user_id, begun.generation_id)

    assert not put_back(world, begun, wait=AT_ONCE)

    row = last_attempt(world, begun.generation_id)
    assert (row["token"], row["lease_expires_at"]) == (again.token, again.lease_expires_at)


@pytest.mark.parametrize("end", [succeed, fail], ids=["succeed", "fail"])
def test_closed_attempt_is_not_put_back(world: World, end: Callable[[World, Begun], object]) -> None:
    """What was settled is not queued again."""
    begun = new_running(world)
    end(world, begun)
    before = world.attempts(begun.generation_id)

    assert not put_back(world, begun)

    assert world.attempts(begun.generation_id) == before
    assert waiting(world) == []


def test_click_is_not_put_back(world: World) -> None:
    """Only an accepted retry's attempt can wait: one whose caller waits stays as it is."""
    begun = begin(world, *new_generation(world))

    assert not put_back(world, begun)
    assert (outcomes(world, begun.generation_id), status_of(world, begun.generation_id)) == ([None], "processing")


def test_requests_add_up(world: World) -> None:
    """Requests that were turned away add up with those of the call that succeeds."""
    begun = new_running(world)
    put_back(world, begun, wait=AT_ONCE, wire_requests=2)
    again = run(world, begun.user_id, begun.generation_id)
    put_back(world, again, wait=AT_ONCE, wire_requests=1)

    succeed(world, run(world, begun.user_id, begun.generation_id))

    assert last_attempt(world, begun.generation_id)["wire_requests"] == 4


def test_queued_attempt_has_cost_nothing(world: World) -> None:
    """Taken back before any call, it says so; its follower, too."""
    user_id, generation_id = new_accepted(world)
    cancel(world, user_id, generation_id)
    failed = new_running(world)
    fail(world, failed, goes_on=True)
    cancel(world, failed.user_id, failed.generation_id)

    for each in (generation_id, failed.generation_id):
        row = last_attempt(world, each)
        assert (row["outcome"], row["provider_outcome"]) == ("cancelled", "not_generated")


@pytest.mark.parametrize("outcome", [ProviderOutcome.NOT_GENERATED, ProviderOutcome.UNKNOWN])
@pytest.mark.parametrize("ends", ["cancelled", "expired"])
def test_call_before_the_put_back_may_have_cost(world: World, outcome: ProviderOutcome, ends: str) -> None:
    """A failure that may have generated, on a route that is down, stays on the record when no call follows it."""
    begun = new_running(world)
    change = begun.ending.put_back(DOUBTFUL if outcome is ProviderOutcome.UNKNOWN else TURNED_AWAY, None)
    assert world.storage.amend(change).applied

    if ends == "cancelled":
        cancel(world, begun.user_id, begun.generation_id)
    else:
        world.advance(timedelta(days=30))
        close_over(world, begun.user_id)

    row = last_attempt(world, begun.generation_id)
    assert (row["provider_outcome"], row["wire_requests"]) == (outcome.value, 1)


@pytest.mark.parametrize("ends", ["answered", "failed", "put back", "kept", "answer from the store", "late"])
def test_doubt_stays_whatever_comes_of_the_next_run(world: World, ends: str) -> None:
    """A call that may have generated before the attempt was put back is not written off by the one that follows."""
    begun = new_running(world)
    assert world.storage.amend(replace(begun.ending.put_back(DOUBTFUL, None), wait=AT_ONCE)).applied
    if ends == "answer from the store":
        too_late(world, begun)
    again = run(world, begun.user_id, begun.generation_id)

    if ends == "put back":
        put_back(world, again, wait=AT_ONCE)
        cancel(world, begun.user_id, begun.generation_id)
    elif ends == "failed":
        fail(world, again, a_failure(FailureCode.INVALID_OUTPUT))
    elif ends == "kept":
        keep(world, again)
        close_over(world, begun.user_id)
    elif ends == "late":
        abandon(world, again)
        too_late(world, again)
    else:
        succeed(world, again)

    assert world.attempts(begun.generation_id)[0]["provider_outcome"] == "unknown"


def too_late(world: World, begun: Begun) -> None:
    """Bring an answer to an attempt that its worker has lost."""
    with pytest.raises(LeaseLost):
        succeed(world, begun)


def test_put_back_leaves_anothers_success(world: World) -> None:
    """A status that the app wrote meanwhile stays."""
    begun = new_running(world)
    world.set_generation(begun.generation_id, status="success")

    put_back(world, begun)

    assert status_of(world, begun.generation_id) == "success"
