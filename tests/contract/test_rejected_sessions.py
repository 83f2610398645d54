"""A session that the app's tables reject costs the user nothing, and its answer is stored."""

from datetime import timedelta

import pytest

from ai_retry.domain.errors import SessionConflict, SessionRejected
from tests.helpers.steps import (
    ANSWER,
    REJECTED_AGAIN_WAIT,
    REJECTED_WAIT,
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


@pytest.mark.rule("conflicting")
@pytest.mark.parametrize(
    ("conflict", "error"), [(False, SessionRejected), (True, SessionConflict)], ids=["rejected", "conflict"]
)
def test_rejected_session_keeps_the_answer(world: World, error: type[SessionRejected], *, conflict: bool) -> None:
    """The attempt fails without counting or charging, its answer is stored, and the app is informed."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.refuse_sessions("title_is_short", conflict=conflict)

    with pytest.raises(SessionRejected) as caught:
        succeed(world, begun)

    (row,) = world.attempts(generation_id)
    stored = load(world, user_id, generation_id).stored_answer
    assert type(caught.value) is error
    assert caught.value.details["constraint"] == "title_is_short"
    assert caught.value.retry_after == REJECTED_WAIT
    assert (row["outcome"], row["code"], row["counted"]) == ("failed", error.code, False)
    assert (row["cause"], row["captured_at"]) == ("title_is_short", None)
    assert row["next_attempt_at"] - row["closed_at"] == REJECTED_WAIT
    assert stored is not None
    assert (stored.number, stored.answer.output) == (begun.number, ANSWER.output)
    assert status_of(world, generation_id) == "error"
    assert [log["error_type"] for log in world.error_logs(generation_id)] == [error.code]
    assert event_types(world, user_id) == ["ai_generation_failed"]
    assert world.sessions(user_id) == []
    assert (quota_of(world, user_id).captured, quota_of(world, user_id).held) == (0, 0)


CONFLICT = "You have a planned session already."


def test_conflict_that_is_foreseen_is_refused_before_any_call(world: World) -> None:
    """What the app knows beforehand refuses a retry in the app's words, writes nothing, and passes with its cause."""
    user_id, generation_id = new_generation(world)
    world.foresee_conflict(user_id, CONFLICT)

    with pytest.raises(SessionConflict) as caught:
        begin(world, user_id, generation_id)
    refused = world.attempts(generation_id)
    world.foresee_conflict(user_id, None)

    assert str(caught.value) == f"No session can be created now: {CONFLICT}"
    assert caught.value.details == {"reason": CONFLICT, "answer_kept": False}
    assert (caught.value.retry_after, list(refused)) == (None, [])
    assert load(world, user_id, generation_id).session_conflict is None
    assert begin(world, user_id, generation_id).number == 2


def test_conflict_that_is_foreseen_spares_the_stored_answer(world: World) -> None:
    """A stored answer is not tried in vain: it is kept, and becomes the session when there is room."""
    user_id, generation_id = new_generation(world)
    world.refuse_sessions("one_planned_session", conflict=True)
    with pytest.raises(SessionConflict):
        succeed(world, begin(world, user_id, generation_id))
    world.refuse_sessions(None)
    world.foresee_conflict(user_id, CONFLICT)

    with pytest.raises(SessionConflict) as caught:
        begin(world, user_id, generation_id)
    attempts = world.attempts(generation_id)
    world.foresee_conflict(user_id, None)
    world.advance(REJECTED_WAIT)

    assert caught.value.details == {"reason": CONFLICT, "answer_kept": True}
    assert len(attempts) == 1
    assert succeed(world, begin(world, user_id, generation_id)).session["content"] == ANSWER.output


@pytest.mark.rule("again")
@pytest.mark.parametrize(
    ("constraint", "wait", "reports"),
    [("title_is_short", REJECTED_AGAIN_WAIT, 1), ("km_is_positive", REJECTED_WAIT, 2)],
)
def test_rejected_again_waits_longer(world: World, constraint: str, wait: timedelta, reports: int) -> None:
    """Rejected twice in a row by the same cause, it waits longer and the app is informed once; by another, neither."""
    user_id, generation_id = new_generation(world)
    world.refuse_sessions("title_is_short")
    with pytest.raises(SessionRejected):
        succeed(world, begin(world, user_id, generation_id))
    world.refuse_sessions(constraint)

    with pytest.raises(SessionRejected) as caught:
        succeed(world, begin(world, user_id, generation_id))

    row = world.attempts(generation_id)[-1]
    assert caught.value.retry_after == wait
    assert row["next_attempt_at"] - row["closed_at"] == wait
    assert load(world, user_id, generation_id).stored_answer is not None
    assert (len(world.error_logs(generation_id)), len(world.events(user_id))) == (reports, reports)


def test_repeat_is_rejected_again(world: World) -> None:
    """A repeat of a rejected settle is answered the same and writes nothing, even if a session were possible now."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.refuse_sessions("title_is_short")
    with pytest.raises(SessionRejected) as first:
        succeed(world, begun)
    before = world.attempts(generation_id)
    world.refuse_sessions(None)

    with pytest.raises(SessionRejected) as again:
        succeed(world, begun)

    assert again.value.details["constraint"] == "title_is_short"
    assert again.value.retry_after == first.value.retry_after
    assert world.attempts(generation_id) == before
    assert len(world.error_logs(generation_id)) == 1
    assert world.sessions(user_id) == []


def test_rejected_session_is_created_later(world: World) -> None:
    """Once the tables accept it, the stored answer becomes the session and is charged once."""
    user_id, generation_id = new_generation(world)
    world.refuse_sessions("title_is_short")
    with pytest.raises(SessionRejected):
        succeed(world, begin(world, user_id, generation_id))
    world.refuse_sessions(None)

    result = succeed(world, begin(world, user_id, generation_id))

    assert result.session["content"] == ANSWER.output
    assert outcomes(world, generation_id) == ["failed", "succeeded"]
    assert result.quota.captured == 1


def test_failure_after_a_rejected_session_changes_nothing(world: World) -> None:
    """An attempt whose session was rejected is closed; its failure afterwards leaves the answer."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.refuse_sessions("title_is_short")
    with pytest.raises(SessionRejected):
        succeed(world, begun)
    before = world.attempts(generation_id)

    with pytest.raises(SessionRejected):
        fail(world, begun)

    assert world.attempts(generation_id) == before
    assert load(world, user_id, generation_id).stored_answer is not None
