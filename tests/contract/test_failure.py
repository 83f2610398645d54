"""A settle without an answer closes the attempt and releases its unit, once."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.domain.errors import AlreadySucceeded, GenerationFailed, GenerationNotFound, LeaseLost
from ai_retry.domain.model import Failure, FailureCode
from tests.helpers.steps import (
    FAILURE,
    POLICY,
    begin,
    begin_new,
    event_types,
    fail,
    load,
    new_generation,
    outcomes,
    quota_of,
    status_of,
    succeed,
)
from tests.helpers.worlds import World


def test_failure_closes_the_attempt(world: World) -> None:
    """Outcome, wait, status, error log and event are there together, and the unit is released."""
    user_id, generation_id = new_generation(world)

    fail(world, begin(world, user_id, generation_id), wait=timedelta(seconds=90))

    (row,), (log,) = world.attempts(generation_id), world.error_logs(generation_id)
    assert (row["outcome"], row["code"], row["counted"]) == ("failed", "AI_UNAVAILABLE", True)
    assert row["next_attempt_at"] - row["closed_at"] == timedelta(seconds=90)
    assert row["reason"] == "503 from the upstream"
    assert status_of(world, generation_id) == "error"
    assert (log["error_type"], log["error_message"]) == ("AI_UNAVAILABLE", str(GenerationFailed(FAILURE)))
    assert event_types(world, user_id) == ["ai_generation_failed"]
    assert (quota_of(world, user_id).captured, quota_of(world, user_id).held) == (0, 0)


def test_timeout_is_a_status_of_its_own(world: World) -> None:
    """The generation says that there was no answer in time."""
    user_id, generation_id = new_generation(world)

    fail(world, begin(world, user_id, generation_id), replace(FAILURE, code=FailureCode.TIMEOUT))

    assert status_of(world, generation_id) == "timeout"


@pytest.mark.parametrize(
    "failure", [replace(FAILURE, certainly_not_generated=True), replace(FAILURE, operator_fault=True)]
)
def test_only_what_may_have_generated_counts(world: World, failure: Failure) -> None:
    """What certainly did not generate, or was the operator's fault, uses up no attempt."""
    user_id, generation_id = new_generation(world)

    fail(world, begin(world, user_id, generation_id), failure)

    assert load(world, user_id, generation_id).attempts[-1].counted is False


@pytest.mark.parametrize(
    ("failure", "known"),
    [
        (FAILURE, "unknown"),
        (replace(FAILURE, certainly_not_generated=True), "not_generated"),
        (replace(FAILURE, code=FailureCode.INVALID_OUTPUT), "generated"),
    ],
)
def test_failure_records_possible_cost(world: World, failure: Failure, known: str) -> None:
    """The attempt says what is known of the provider's side."""
    user_id, generation_id = new_generation(world)

    fail(world, begin(world, user_id, generation_id), failure)

    assert world.attempts(generation_id)[0]["provider_outcome"] == known


@pytest.mark.parametrize("transient", [True, False])
@pytest.mark.parametrize("operator_fault", [True, False])
def test_failure_records_the_verdict_once(world: World, *, transient: bool, operator_fault: bool) -> None:
    """Whether the failure may pass, and whether an operator must act, is recorded; a repeat changes neither."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    fail(world, begun, replace(FAILURE, transient=transient, operator_fault=operator_fault))

    fail(world, begun, replace(FAILURE, transient=not transient, operator_fault=not operator_fault))

    attempt = load(world, user_id, generation_id).attempts[-1]
    assert (attempt.transient, attempt.operator_fault) == (transient, operator_fault)


def test_attempt_without_failure_has_no_verdict(world: World) -> None:
    """Of an attempt that runs, or was abandoned, nothing is known."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    running = load(world, user_id, generation_id).attempts[-1]
    world.advance(POLICY.lease)
    begin(world, user_id, generation_id)

    abandoned = load(world, user_id, generation_id).attempts[0]

    assert [(each.transient, each.operator_fault) for each in (running, abandoned)] == [(None, False)] * 2


def test_repeated_failure_changes_nothing(world: World) -> None:
    """A repeat writes neither a second log nor another wait."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    fail(world, begun)
    before = world.attempts(generation_id)

    fail(world, begun, wait=timedelta(hours=1))

    assert world.attempts(generation_id) == before
    assert len(world.error_logs(generation_id)) == 1
    assert event_types(world, user_id) == ["ai_generation_failed"]


def test_repeated_failure_leaves_the_newer_attempt(world: World) -> None:
    """A repeat that arrives during the next attempt leaves it open."""
    user_id, generation_id = new_generation(world)
    older = begin(world, user_id, generation_id)
    fail(world, older)
    begin(world, user_id, generation_id)

    fail(world, older)

    assert outcomes(world, generation_id) == ["failed", None]
    assert status_of(world, generation_id) == "processing"


def test_failure_counts_however_late(world: World) -> None:
    """An attempt that is still open is settled after its lease as well."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.advance(timedelta(hours=2))

    fail(world, begun)

    assert outcomes(world, generation_id) == ["failed"]


def test_failure_of_an_abandoned_attempt_changes_nothing(world: World) -> None:
    """An abandoned attempt stays abandoned, and the newer one open; the app was informed once."""
    user_id, generation_id = new_generation(world)
    older = begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    begin(world, user_id, generation_id)

    with pytest.raises(LeaseLost) as caught:
        fail(world, older)

    assert caught.value.details["answer_kept"] is False
    assert outcomes(world, generation_id) == ["abandoned", None]
    assert status_of(world, generation_id) == "processing"
    assert [log["error_type"] for log in world.error_logs(generation_id)] == ["LEASE_LOST"]


def test_failure_after_success_changes_nothing(world: World) -> None:
    """A success stays a success."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    succeed(world, begun)
    before = world.attempts(generation_id)

    with pytest.raises(AlreadySucceeded):
        fail(world, begun)

    assert world.attempts(generation_id) == before
    assert status_of(world, generation_id) == "success"


def test_failure_yields_to_another_hand(world: World) -> None:
    """A generation that became success by another hand stays success."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.set_generation(generation_id, status="success")

    for _ in ("once", "again"):
        with pytest.raises(AlreadySucceeded):
            fail(world, begun)

    assert outcomes(world, generation_id) == ["failed"]
    assert status_of(world, generation_id) == "success"
    assert world.error_logs(generation_id) == []
    assert world.events(user_id) == []


def test_failure_for_a_deleted_generation_releases_the_unit(world: World) -> None:
    """The attempt of a deleted generation is closed and releases its unit."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.delete_generation(generation_id)

    for _ in ("once", "again"):
        with pytest.raises(GenerationNotFound):
            fail(world, begun)

    assert outcomes(world, generation_id) == ["failed"]
    assert quota_of(world, user_id).held == 0


def test_failure_for_a_moved_generation_says_so_to_its_owner(world: World) -> None:
    """A generation that is another user's by now says that no attempt works on it; its owner gets no error log."""
    user_id, other_id = world.new_user(), world.new_user()
    begun = begin_new(world, user_id)
    world.set_generation(begun.generation_id, user_id=other_id)

    with pytest.raises(GenerationNotFound):
        fail(world, begun)

    assert (outcomes(world, begun.generation_id), status_of(world, begun.generation_id)) == (["failed"], "error")
    assert (world.error_logs(begun.generation_id), world.events(other_id)) == ([], [])
    assert quota_of(world, user_id).held == 0


def test_failure_for_a_deleted_user_leaves_nothing(world: World) -> None:
    """With the user, attempts are gone too."""
    user_id = world.new_user()
    begun = begin_new(world, user_id)
    world.delete_user(user_id)

    with pytest.raises(GenerationNotFound):
        fail(world, begun)
    assert world.attempts(begun.generation_id) == []
