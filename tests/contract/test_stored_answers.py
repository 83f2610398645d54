"""A paid answer that has no session yet is stored, and the next attempt uses it instead of calling."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.domain.errors import AlreadySucceeded, LeaseLost
from ai_retry.domain.model import Answer
from tests.helpers.steps import (
    ANSWER,
    POLICY,
    SECOND,
    abandon,
    answer_too_late,
    begin,
    discard,
    fail,
    forget,
    load,
    new_generation,
    outcomes,
    quota_of,
    status_of,
    succeed,
)
from tests.helpers.worlds import World


@pytest.mark.rule("late")
def test_late_answer_is_stored(world: World) -> None:
    """An answer to an abandoned attempt is stored with what it cost, charges nothing and closes nothing again."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    abandon(world, begun)

    with pytest.raises(LeaseLost) as caught:
        succeed(world, begun)

    stored = load(world, user_id, generation_id).stored_answer
    (row,) = world.attempts(generation_id)
    assert caught.value.details["answer_kept"] is True
    assert stored is not None
    assert stored.number == begun.number
    assert (stored.answer.output, stored.answer.model) == (ANSWER.output, ANSWER.model)
    assert (row["outcome"], row["counted"], row["captured_at"]) == ("abandoned", True, None)
    assert row["provider_outcome"] == "generated"
    assert world.sessions(user_id) == []


@pytest.mark.rule("late")
def test_late_answer_is_stored_once(world: World) -> None:
    """Bringing the same late answer again changes nothing."""
    user_id, generation_id = new_generation(world)
    begun = answer_too_late(world, user_id, generation_id)
    before = load(world, user_id, generation_id)

    with pytest.raises(LeaseLost) as caught:
        succeed(world, begun, replace(ANSWER, output={"title": "Another"}))

    after = load(world, user_id, generation_id)
    assert caught.value.details["answer_kept"] is True
    assert (after.version, after.stored_answer) == (before.version, before.stored_answer)


def test_stored_answer_says_since_when(world: World) -> None:
    """The age of a stored answer is known, so that one that is too old can be passed over."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    world.advance(timedelta(hours=1))

    snapshot = load(world, user_id, generation_id)

    assert snapshot.stored_answer is not None
    assert snapshot.stored_answer.stored_at is not None
    age = snapshot.as_of - snapshot.stored_answer.stored_at
    assert timedelta(hours=1) <= age < timedelta(hours=1) + 10 * SECOND


def test_stored_answer_becomes_the_session(world: World) -> None:
    """The next attempt creates its session from the stored answer, which is then used up."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    begun = begin(world, user_id, generation_id)
    assert begun.stored is not None

    result = succeed(world, begun)

    assert result.session["content"] == ANSWER.output
    assert load(world, user_id, generation_id).stored_answer is None
    assert quota_of(world, user_id).captured == 1


def test_stored_answer_outlives_failed_attempts(world: World) -> None:
    """A stored answer stays until a session is created, also while the attempt that uses it is abandoned."""
    user_id, generation_id = new_generation(world)
    late = answer_too_late(world, user_id, generation_id)
    using = begin(world, user_id, generation_id)
    abandon(world, using)
    with pytest.raises(LeaseLost):
        succeed(world, using)

    stored = load(world, user_id, generation_id).stored_answer

    assert stored is not None
    assert (stored.number, stored.answer.output) == (late.number, ANSWER.output)


def test_abandoned_use_of_a_stored_answer_is_free(world: World) -> None:
    """An attempt that uses a stored answer calls no provider: abandoned, it counts nothing and has cost nothing."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    abandon(world, begin(world, user_id, generation_id))

    row = world.attempts(generation_id)[-1]

    assert (row["outcome"], row["counted"], row["provider_outcome"]) == ("abandoned", False, "not_generated")


def test_newest_stored_answer_is_used(world: World) -> None:
    """Of two stored answers the newer attempt's is returned."""
    user_id, generation_id = new_generation(world)
    begun = []
    for _ in range(2):
        begun.append(begin(world, user_id, generation_id))
        abandon(world, begun[-1])
    for each in reversed(begun):
        with pytest.raises(LeaseLost):
            succeed(world, each, replace(ANSWER, output={"number": each.number}))

    stored = load(world, user_id, generation_id).stored_answer

    assert stored is not None
    assert (stored.number, stored.answer.output) == (3, {"number": 3})


def test_late_answer_leaves_the_newer_attempt(world: World) -> None:
    """A late answer touches no other attempt: the newer one is settled by its own token."""
    user_id, generation_id = new_generation(world)
    older = begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    newer = begin(world, user_id, generation_id)

    with pytest.raises(LeaseLost):
        succeed(world, older, replace(ANSWER, output={"from": "older"}))

    assert outcomes(world, generation_id) == ["abandoned", None]
    assert succeed(world, newer, replace(ANSWER, output={"from": "newer"})).session["content"] == {"from": "newer"}
    assert load(world, user_id, generation_id).stored_answer is None


def test_answer_after_the_failure_is_stored(world: World) -> None:
    """A failed attempt stays failed; an answer that it brings afterwards is stored."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    fail(world, begun)

    with pytest.raises(LeaseLost) as caught:
        succeed(world, begun)

    assert caught.value.details["answer_kept"] is True
    assert outcomes(world, generation_id) == ["failed"]
    assert load(world, user_id, generation_id).stored_answer is not None


def test_late_answer_after_success_is_dropped(world: World) -> None:
    """A late answer to a generation that has its session is of no use, and not stored."""
    user_id, generation_id = new_generation(world)
    older = begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    succeed(world, begin(world, user_id, generation_id))

    with pytest.raises(AlreadySucceeded):
        succeed(world, older)

    assert outcomes(world, generation_id) == ["abandoned", "succeeded"]
    assert load(world, user_id, generation_id).stored_answer is None
    assert len(world.sessions(user_id)) == 1


# A fail-over may have lost a begin that was applied: its token is unknown, and its paid answer still has a place.


def test_answer_of_a_forgotten_attempt_waits_with_the_open_one(world: World) -> None:
    """Neither the generation nor the number settles an attempt, only its token does; the answer is stored."""
    user_id, generation_id = new_generation(world)
    forgotten = forget(world, user_id, generation_id)
    begin(world, user_id, generation_id)

    with pytest.raises(LeaseLost) as caught:
        succeed(world, forgotten)

    assert caught.value.details["answer_kept"] is True
    assert outcomes(world, generation_id) == [None]
    assert (world.sessions(user_id), status_of(world, generation_id)) == ([], "processing")


@pytest.mark.rule("late")
def test_answer_of_a_forgotten_attempt_is_recorded(world: World) -> None:
    """Where no attempt is open one is recorded for the answer: it counts nothing, and charges nothing."""
    user_id, generation_id = new_generation(world)
    forgotten = forget(world, user_id, generation_id)

    for _ in ("once", "again"):
        with pytest.raises(LeaseLost) as caught:
            succeed(world, forgotten)

    (row,) = world.attempts(generation_id)
    stored = load(world, user_id, generation_id).stored_answer
    assert caught.value.details["answer_kept"] is True
    assert (row["number"], row["outcome"], row["counted"], row["charge"]) == (2, "abandoned", False, False)
    assert stored is not None
    assert (stored.number, stored.answer.output) == (2, ANSWER.output)


def test_failure_of_a_forgotten_attempt_changes_nothing(world: World) -> None:
    """A failure has nothing that needs a place: the attempt that is open stays as it is."""
    user_id, generation_id = new_generation(world)
    forgotten = forget(world, user_id, generation_id)
    begin(world, user_id, generation_id)
    before = world.attempts(generation_id)

    with pytest.raises(LeaseLost) as caught:
        fail(world, forgotten)

    assert caught.value.details["answer_kept"] is False
    assert world.attempts(generation_id) == before


# An operator may drop an answer that can never become a session.


def test_discarded_answer_is_asked_for_again(world: World) -> None:
    """Without its answer the generation is begun with a call again; there was one to drop, then there is none."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)

    found = [discard(world, user_id, generation_id, operator="ann") for _ in range(2)]

    assert found == [True, False]
    assert load(world, user_id, generation_id).stored_answer is None
    assert world.attempts(generation_id)[0]["discarded_by"] == "ann"
    assert begin(world, user_id, generation_id).stored is None


def test_foreign_answer_is_not_used(world: World) -> None:
    """A user who has an id that was another user's gets nothing of the answer that the other one paid for."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    other_id = world.new_user()
    world.set_generation(generation_id, user_id=other_id, status="error")

    succeed(world, begin(world, other_id, generation_id), Answer(output={"mine": True}))

    assert [each["content"] for each in world.sessions(other_id)] == [{"mine": True}]


def test_foreign_answer_is_not_discarded(world: World) -> None:
    """Another user's answer is not dropped."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)

    assert not discard(world, world.new_user(), generation_id)
    assert load(world, user_id, generation_id).stored_answer is not None


def test_used_answer_is_not_discarded(world: World) -> None:
    """While an attempt uses the answer it can't be dropped: what becomes a session was not discarded."""
    user_id, generation_id = new_generation(world)
    answer_too_late(world, user_id, generation_id)
    begun = begin(world, user_id, generation_id)

    assert not discard(world, user_id, generation_id)
    assert succeed(world, begun).session["content"] == ANSWER.output


def test_discarded_answer_does_not_come_back(world: World) -> None:
    """A repeat of the settle that brought it stores it no second time."""
    user_id, generation_id = new_generation(world)
    begun = answer_too_late(world, user_id, generation_id)
    discard(world, user_id, generation_id)

    with pytest.raises(LeaseLost) as caught:
        succeed(world, begun)

    assert caught.value.details["answer_kept"] is False
    assert load(world, user_id, generation_id).stored_answer is None
