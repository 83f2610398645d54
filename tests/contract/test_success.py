"""A settle with an answer creates the session and captures the unit, once; or says why it could not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.domain.errors import AlreadySucceeded, GenerationNotFound, LeaseLost
from ai_retry.domain.model import Answer, GenerationStatus, RetryResult
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    ANSWER,
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
    to_begin,
)
from tests.helpers.worlds import World


def test_success_creates_the_session(world: World) -> None:
    """Session, link, status, duration, captured unit and event are there together."""
    user_id, generation_id = new_generation(world)

    result = succeed(world, begin(world, user_id, generation_id))

    (session,) = world.sessions(user_id)
    generation, (row,) = world.generation(generation_id), world.attempts(generation_id)
    assert (result.session["content"], session["content"]) == (ANSWER.output, ANSWER.output)
    assert result.session["id"] == str(session["id"])
    assert (generation["status"], generation["session_id"]) == ("success", session["id"])
    assert generation["duration_ms"] == 1250
    assert (row["outcome"], row["code"], row["session_id"]) == ("succeeded", None, str(session["id"]))
    assert row["captured_at"] == row["closed_at"]
    assert event_types(world, user_id) == ["ai_generation_succeeded"]
    assert world.error_logs(generation_id) == []


def test_success_returns_what_is_there(world: World) -> None:
    """The generation and the quota are returned as they are after the success."""
    user_id, generation_id = new_generation(world)

    result = succeed(world, begin(world, user_id, generation_id))

    assert (result.generation.id, result.attempt) == (generation_id, 2)
    assert result.generation.status is GenerationStatus.SUCCESS
    assert result.generation.duration == timedelta(milliseconds=1250)
    assert (result.quota.captured, result.quota.held, result.quota.remaining) == (1, 0, 4)


def test_success_records_the_call(world: World) -> None:
    """Model, tokens and requests of the call are recorded with the attempt."""
    begun = begin(world, *new_generation(world))

    succeed(world, begun)

    (row,) = world.attempts(begun.generation_id)
    assert (row["provider_outcome"], row["model"], row["provider_id"]) == ("generated", "small", "gen-1")
    assert (row["wire_requests"], row["usage"]["total_tokens"]) == (1, 46)


def test_success_returns_an_overridden_quota(world: World) -> None:
    """The quota that is returned is the user's own where there is an override."""
    user_id = world.new_user()
    world.set_quota(user_id, 2, timedelta(hours=1))

    result = succeed(world, begin_new(world, user_id))

    assert (result.quota.limit, result.quota.window) == (2, timedelta(hours=1))


def test_repeated_success_returns_what_is_there(world: World) -> None:
    """A repeat returns the same session and changes nothing."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    first, rows = succeed(world, begun), world.attempts(generation_id)

    second = succeed(world, begun, Answer(output={"title": "Another"}))

    assert second.session == first.session
    assert replace(second.generation, prompt_data=None) == replace(first.generation, prompt_data=None)
    assert world.attempts(generation_id) == rows
    assert len(world.sessions(user_id)) == 1
    assert event_types(world, user_id) == ["ai_generation_succeeded"]


def test_success_counts_however_late(world: World) -> None:
    """An attempt that is still open is settled after its lease as well."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.advance(timedelta(hours=2))

    succeed(world, begun)

    assert outcomes(world, generation_id) == ["succeeded"]
    assert quota_of(world, user_id).captured == 1


def test_uncharged_success_captures_nothing(world: World) -> None:
    """An attempt that does not charge holds and captures nothing, and is no success of the app's own."""
    user_id, generation_id = new_generation(world)

    begun = begin(world, user_id, generation_id, charge=False)
    held = quota_of(world, user_id).held
    succeed(world, begun)

    (row,) = world.attempts(generation_id)
    assert (held, row["outcome"], row["captured_at"]) == (0, "succeeded", None)
    assert quota_of(world, user_id).captured == 0


@pytest.mark.rule("once")
def test_our_success_outlives_the_status(world: World) -> None:
    """Success is what either side says: a status that the app writes back opens nothing again."""
    user_id, generation_id = new_generation(world)
    older = begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    succeed(world, begin(world, user_id, generation_id))
    world.set_generation(generation_id, status="error")

    with pytest.raises(AlreadySucceeded):
        succeed(world, older)
    with pytest.raises(AlreadySucceeded):
        fail(world, older)
    with pytest.raises(AlreadySucceeded):
        to_begin(world, user_id, generation_id)

    assert load(world, user_id, generation_id).stored_answer is None
    assert len(world.sessions(user_id)) == 1


def test_answer_yields_to_another_hand(world: World) -> None:
    """A generation that became success by another hand stays as it is, and is charged nothing by us."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.set_generation(generation_id, status="success")

    for _ in ("once", "again"):
        with pytest.raises(AlreadySucceeded):
            succeed(world, begun)

    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["code"], row["counted"]) == ("failed", "ALREADY_SUCCEEDED", True)
    assert row["captured_at"] is None
    assert world.generation(generation_id)["session_id"] is None
    assert world.sessions(user_id) == []
    assert world.events(user_id) == []


def test_answer_to_a_deleted_generation_charges_nothing(world: World) -> None:
    """The attempt of a deleted generation is closed and charges nothing."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.delete_generation(generation_id)

    for _ in ("once", "again"):
        with pytest.raises(GenerationNotFound):
            succeed(world, begun)

    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["counted"], row["captured_at"]) == ("failed", True, None)
    assert world.sessions(user_id) == []
    assert (quota_of(world, user_id).captured, quota_of(world, user_id).held) == (0, 0)


def test_success_shows_its_session_whatever_the_row_says(world: World) -> None:
    """The session that a success created is read by the attempt: a user may be able to write the generation's row."""
    user_id, generation_id = new_generation(world)
    succeed(world, begin(world, user_id, generation_id))

    world.set_generation(generation_id, status="error", session_id=None)

    session = load(world, user_id, generation_id).session
    assert session is not None
    assert session["content"] == ANSWER.output


def test_answer_of_a_moved_generation_is_stored(world: World) -> None:
    """A generation that is another user's by now gets no session of ours; the paid answer stays its payer's."""
    user_id, other_id = world.new_user(), world.new_user()
    generation_id = world.new_generation(user_id)
    begun = begin(world, user_id, generation_id)
    world.set_generation(generation_id, user_id=other_id)

    with pytest.raises(GenerationNotFound):
        succeed(world, begun)

    assert load(world, other_id, generation_id).stored_answer is None
    assert (world.sessions(user_id), world.sessions(other_id)) == ([], [])
    assert outcomes(world, generation_id) == ["failed"]
    world.set_generation(generation_id, user_id=user_id)
    stored = load(world, user_id, generation_id).stored_answer
    assert stored is not None
    assert stored.answer.output == ANSWER.output


def test_answer_to_a_deleted_user_leaves_nothing(world: World) -> None:
    """With the user, attempts are gone too."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    world.delete_user(user_id)

    with pytest.raises(GenerationNotFound):
        succeed(world, begun)

    assert world.attempts(generation_id) == []
    assert world.sessions(user_id) == []


def test_repeat_after_the_deletion_finds_nothing(world: World) -> None:
    """A repeat finds nothing to return once the generation is deleted."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    succeed(world, begun)
    world.delete_generation(generation_id)

    with pytest.raises(GenerationNotFound):
        succeed(world, begun)

    assert outcomes(world, generation_id) == ["succeeded"]


@pytest.mark.rule("once")
def test_race_of_successes_creates_one_session(world: World) -> None:
    """Of eight settles with one token, one creates the session and all return it."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)

    results = at_once([lambda: succeed(world, begun)] * 8)

    (session,) = world.sessions(user_id)
    ids = [each.session["id"] for each in results if isinstance(each, RetryResult)]
    assert ids == [str(session["id"])] * 8
    assert event_types(world, user_id) == ["ai_generation_succeeded"]


def test_race_of_success_and_failure_has_one_end(world: World) -> None:
    """An attempt settled both ways at once ends one way, and is captured only if that was success."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    calls: list[Callable[[], object]] = [lambda: succeed(world, begun), lambda: fail(world, begun)]

    at_once(calls * 4)

    (row,) = world.attempts(generation_id)
    succeeded = row["outcome"] == "succeeded"
    assert row["outcome"] in ("succeeded", "failed")
    assert (row["captured_at"] is not None) is succeeded
    assert len(world.sessions(user_id)) == succeeded
    assert len(world.events(user_id)) == 1
    assert (load(world, user_id, generation_id).stored_answer is None) is succeeded


def test_race_of_answers_keeps_the_newer_attempt(world: World) -> None:
    """The answer of an abandoned attempt and its successor's at once: one session, of the successor's unit."""
    user_id, generation_id = new_generation(world)
    older = begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    newer = begin(world, user_id, generation_id)

    late, _ = at_once([lambda: succeed(world, older), lambda: succeed(world, newer)])

    assert isinstance(late, LeaseLost | AlreadySucceeded)
    assert outcomes(world, generation_id) == ["abandoned", "succeeded"]
    assert (len(world.sessions(user_id)), quota_of(world, user_id).captured) == (1, 1)
    assert status_of(world, generation_id) == "success"
