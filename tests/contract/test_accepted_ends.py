"""What ends an accepted retry's attempt ends its message, or lets the retry go on, in the same transaction."""

from dataclasses import replace

import pytest

from ai_retry.domain.errors import AlreadySucceeded, GenerationNotFound, SessionRejected
from ai_retry.domain.model import Waiver
from tests.helpers.queue_steps import (
    DELAY,
    ONE_AT_ONCE,
    accept,
    is_queued,
    last_attempt,
    new_accepted,
    new_running,
    numbers,
    put_back,
    ready,
    run,
    tidy,
    waiting,
)
from tests.helpers.steps import (
    AT_ONCE,
    FAILURE,
    POLICY,
    REJECTED_AGAIN_WAIT,
    REJECTED_WAIT,
    Begun,
    begin,
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


def test_success_ends_the_message(world: World) -> None:
    """A success creates one session, captures the held unit, and deletes the message."""
    begun = new_running(world)

    succeed(world, begun)

    assert len(world.sessions(begun.user_id)) == 1
    quota = quota_of(world, begun.user_id)
    assert (quota.captured, quota.held) == (1, 0)
    assert waiting(world) == []
    assert event_types(world, begun.user_id) == ["ai_generation_succeeded"]
    assert status_of(world, begun.generation_id) == "success"


def test_failure_ends_the_message(world: World) -> None:
    """A failure that is the last one releases the unit, informs the app, and passes the message on."""
    begun = new_running(world)
    other = world.new_generation(begun.user_id)
    accept(world, begun.user_id, other, policy=ONE_AT_ONCE)
    assert waiting(world) == [begun.generation_id]

    fail(world, begun)

    assert outcomes(world, begun.generation_id) == ["failed"]
    assert status_of(world, begun.generation_id) == "error"
    assert waiting(world) == [other]
    assert quota_of(world, begun.user_id).held == 1


def test_rejected_session_goes_on(world: World) -> None:
    """A session that is rejected queues the next attempt, which has the answer and the unit."""
    begun = new_running(world)
    world.refuse_sessions("title_is_short")

    with pytest.raises(SessionRejected):
        succeed(world, begun)

    first, second = world.attempts(begun.generation_id)
    assert (first["outcome"], first["counted"], is_queued(second)) == ("failed", False, True)
    assert second["next_attempt_at"] == first["closed_at"] + REJECTED_WAIT
    assert second["accepted_at"] == first["accepted_at"]
    snapshot = load(world, begun.user_id, begun.generation_id)
    assert snapshot.stored_answer is not None
    assert (snapshot.generation.status.value, snapshot.quota.held) == ("queued", 1)
    assert (waiting(world), ready(world)) == ([begun.generation_id], [])


def test_rejected_session_is_created_by_the_next_attempt(world: World) -> None:
    """When it is accepted at last, the stored answer becomes the session without a call, for one unit."""
    begun = new_running(world)
    world.refuse_sessions("title_is_short")
    with pytest.raises(SessionRejected):
        succeed(world, begun)
    world.refuse_sessions(None)
    world.advance(REJECTED_WAIT)

    succeed(world, run(world, begun.user_id, begun.generation_id))

    assert outcomes(world, begun.generation_id) == ["failed", "succeeded"]
    assert quota_of(world, begun.user_id).captured == 1
    assert waiting(world) == []


def test_rejected_again_goes_on_later(world: World) -> None:
    """A second rejection by the same cause puts the next attempt off for longer."""
    begun = new_running(world)
    world.refuse_sessions("title_is_short")
    with pytest.raises(SessionRejected):
        succeed(world, begun)
    world.advance(REJECTED_WAIT)

    with pytest.raises(SessionRejected):
        succeed(world, run(world, begun.user_id, begun.generation_id))

    second, third = world.attempts(begun.generation_id)[1:]
    assert second["next_attempt_at"] == third["next_attempt_at"] == second["closed_at"] + REJECTED_AGAIN_WAIT


def test_failure_that_goes_on_queues_the_next_attempt(world: World) -> None:
    """The failure is recorded, and the next attempt of the same accepted retry is due after the wait."""
    begun = new_running(world)

    fail(world, begun, wait=DELAY, goes_on=True)

    first, second = world.attempts(begun.generation_id)
    assert (first["outcome"], first["code"], first["counted"]) == ("failed", "AI_UNAVAILABLE", True)
    assert (second["number"], is_queued(second)) == (3, True)
    assert second["next_attempt_at"] == first["closed_at"] + DELAY
    assert (second["accepted_at"], second["expires_at"]) == (first["accepted_at"], first["expires_at"])
    assert (waiting(world), ready(world)) == ([begun.generation_id], [])


def test_failure_that_goes_on_informs_the_app(world: World) -> None:
    """The app's log and events have the failure; the generation says queued, and its unit stays held."""
    begun = new_running(world)

    fail(world, begun, wait=DELAY, goes_on=True)

    (log,) = world.error_logs(begun.generation_id)
    assert log["error_type"] == "AI_UNAVAILABLE"
    assert event_types(world, begun.user_id) == ["ai_generation_failed"]
    assert status_of(world, begun.generation_id) == "queued"
    assert quota_of(world, begun.user_id).held == 1


def test_next_attempt_keeps_who_asked(world: World) -> None:
    """Key, lifted limits, operator and charge go with the accepted retry."""
    user_id, generation_id = new_generation(world)
    who = {"waive": frozenset(Waiver), "charge": False, "idempotency_key": "click-1", "operator": "ada@example.com"}
    accept(world, user_id, generation_id, **who)

    fail(world, run(world, user_id, generation_id), goes_on=True)

    first, second = world.attempts(generation_id)
    columns = ("idempotency_key", "operator", "charge", "waived")
    assert [second[each] for each in columns] == [first[each] for each in columns]


def test_next_attempt_has_no_verdict(world: World) -> None:
    """The attempt that failed says whether that may pass and who has to act; the next one has not failed."""
    begun = new_running(world)

    fail(world, begun, replace(FAILURE, transient=False, operator_fault=True), goes_on=True)

    first, second = load(world, begun.user_id, begun.generation_id).attempts
    assert (first.transient, first.operator_fault) == (False, True)
    assert (second.transient, second.operator_fault) == (None, False)


@pytest.mark.parametrize("end", ["accepted", "failed", "put back", "rejected", "abandoned"])
def test_reader_stays_with_the_accepted_retry(world: World, end: str) -> None:
    """What read the context at acceptance is recorded, and goes with each attempt of the accepted retry."""
    user_id, generation_id = new_accepted(world)
    if end != "accepted":
        end_by(world, run(world, user_id, generation_id), end)

    attempts = load(world, user_id, generation_id).attempts

    assert {each.context_reader for each in attempts} == {"ai_retry.domain.context:stored_context"}
    assert attempts[-1].is_queued


def end_by(world: World, begun: Begun, end: str) -> None:
    """End a run so that the accepted retry goes on."""
    if end == "failed":
        fail(world, begun, goes_on=True)
    elif end == "put back":
        put_back(world, begun)
    elif end == "rejected":
        world.refuse_sessions("a_constraint")
        with pytest.raises(SessionRejected):
            succeed(world, begun)
    else:
        world.advance(POLICY.lease)
        tidy(world)


def test_repeat_goes_on_once(world: World) -> None:
    """A repeat queues no second attempt and sends no second message."""
    begun = new_running(world)

    fail(world, begun, goes_on=True)
    fail(world, begun, goes_on=True)

    assert numbers(world, begun.generation_id) == [(2, "failed"), (3, None)]
    assert waiting(world) == [begun.generation_id]
    assert len(world.error_logs(begun.generation_id)) == 1


def test_repeat_leaves_the_next_attempt(world: World) -> None:
    """A repeat that arrives when the next attempt runs does not touch it."""
    begun = new_running(world)
    fail(world, begun, wait=AT_ONCE, goes_on=True)
    second = run(world, begun.user_id, begun.generation_id)

    fail(world, begun, wait=AT_ONCE, goes_on=True)

    assert last_attempt(world, begun.generation_id)["token"] == second.token
    assert numbers(world, begun.generation_id) == [(2, "failed"), (3, None)]


def test_click_never_goes_on(world: World) -> None:
    """Only an accepted retry goes on: a failure whose caller waits queues nothing."""
    user_id, generation_id = new_generation(world)

    fail(world, begin(world, user_id, generation_id), goes_on=True)

    assert outcomes(world, generation_id) == ["failed"]
    assert (status_of(world, generation_id), waiting(world)) == ("error", [])


def test_nothing_goes_on_without_the_generation(world: World) -> None:
    """With the generation deleted nothing goes on, and no message stays."""
    begun = new_running(world)
    world.delete_generation(begun.generation_id)

    with pytest.raises(GenerationNotFound):
        fail(world, begun, goes_on=True)

    assert outcomes(world, begun.generation_id) == ["failed"]
    assert (waiting(world), quota_of(world, begun.user_id).held) == ([], 0)


def test_nothing_goes_on_after_another_hands_success(world: World) -> None:
    """With a success by another hand nothing goes on, and the unit is free."""
    begun = new_running(world)
    world.set_generation(begun.generation_id, status="success")

    with pytest.raises(AlreadySucceeded):
        fail(world, begun, goes_on=True)

    assert outcomes(world, begun.generation_id) == ["failed"]
    assert status_of(world, begun.generation_id) == "success"
    assert (waiting(world), quota_of(world, begun.user_id).held) == ([], 0)


def test_answer_after_another_hands_success_ends_the_message(world: World) -> None:
    """A success by another hand meanwhile ends the message, and charges nothing."""
    begun = new_running(world)
    world.set_generation(begun.generation_id, status="success")

    with pytest.raises(AlreadySucceeded):
        succeed(world, begun)

    assert outcomes(world, begun.generation_id) == ["failed"]
    assert (waiting(world), quota_of(world, begun.user_id).held) == ([], 0)


def test_answer_to_a_deleted_generation_ends_the_message(world: World) -> None:
    """An answer to a deleted generation ends the message, and charges nothing."""
    begun = new_running(world)
    world.delete_generation(begun.generation_id)

    with pytest.raises(GenerationNotFound):
        succeed(world, begun)

    assert (waiting(world), quota_of(world, begun.user_id).held) == ([], 0)


def test_accepted_attempt_counts_however_late(world: World) -> None:
    """As long as the attempt is open its end counts, after the lease too."""
    begun = new_running(world)
    world.advance(POLICY.lease * 2)

    succeed(world, begun)

    assert outcomes(world, begun.generation_id) == ["succeeded"]
    assert waiting(world) == []
