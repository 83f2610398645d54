"""``keep``, the last resort: a paid answer that could not be settled is stored, whatever the app has locked."""

from dataclasses import replace

import pytest

from ai_retry.domain.errors import SessionRejected
from tests.helpers.queue_steps import is_queued, new_running, run, tidy, waiting
from tests.helpers.steps import (
    ANSWER,
    POLICY,
    REJECTED_WAIT,
    abandon,
    begin,
    close_over,
    discard,
    event_types,
    forget,
    keep,
    load,
    new_generation,
    outcomes,
    quota_of,
    status_of,
    succeed,
)
from tests.helpers.worlds import World


def test_kept_answer_waits_with_its_attempt(world: World) -> None:
    """The answer is stored at once and the lease ends; the attempt is still open, and uses up none of the user's."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)

    keep(world, begun)

    snapshot = load(world, user_id, generation_id)
    (attempt,) = snapshot.attempts
    assert snapshot.stored_answer is not None
    assert (snapshot.stored_answer.number, snapshot.stored_answer.answer.output) == (2, ANSWER.output)
    assert snapshot.stored_answer.stored_at == attempt.started_at
    assert (attempt.outcome, attempt.counted, attempt.provider_outcome) == (None, False, "generated")
    assert (snapshot.live, snapshot.quota.held) == (0, 0)
    assert status_of(world, generation_id) == "processing"


def test_kept_attempt_is_closed_as_rejected(world: World) -> None:
    """Whoever closes it later records a rejected session, by its cause, and informs the app."""
    user_id, generation_id = new_generation(world)
    keep(world, begin(world, user_id, generation_id), cause="55P03")

    close_over(world, user_id)

    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["code"], row["cause"]) == ("failed", "SESSION_REJECTED", "55P03")
    assert (row["counted"], row["captured_at"], row["model"]) == (False, None, "small")
    assert row["next_attempt_at"] == row["lease_expires_at"] + REJECTED_WAIT
    assert [log["error_type"] for log in world.error_logs(generation_id)] == ["SESSION_REJECTED"]
    assert event_types(world, user_id) == ["ai_generation_failed"]
    assert status_of(world, generation_id) == "error"


def test_next_attempt_uses_the_kept_answer(world: World) -> None:
    """The next begin closes the kept attempt, and creates the session without a call."""
    user_id, generation_id = new_generation(world)
    keep(world, begin(world, user_id, generation_id))

    result = succeed(world, begin(world, user_id, generation_id))

    assert result.session["content"] == ANSWER.output
    assert outcomes(world, generation_id) == ["failed", "succeeded"]
    assert quota_of(world, user_id).captured == 1


def test_repeated_keep_changes_nothing(world: World) -> None:
    """The first answer and the first cause stay."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    keep(world, begun)
    before = world.attempts(generation_id)

    keep(world, begun, replace(ANSWER, output={"title": "Another"}), cause="XX000")

    assert world.attempts(generation_id) == before


def test_settle_after_the_keep_creates_the_session(world: World) -> None:
    """A settle that arrives while the attempt is open counts."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    keep(world, begun)

    succeed(world, begun)

    assert outcomes(world, generation_id) == ["succeeded"]
    assert load(world, user_id, generation_id).stored_answer is None
    assert quota_of(world, user_id).captured == 1


def test_settle_after_the_kept_attempt_was_closed_is_rejected(world: World) -> None:
    """A settle that arrives later finds the rejection, and stores no second answer."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    keep(world, begun)
    close_over(world, user_id)

    with pytest.raises(SessionRejected) as caught:
        succeed(world, begun)

    assert caught.value.details["constraint"] == "55P03"
    assert outcomes(world, generation_id) == ["failed"]


def test_answer_of_a_closed_attempt_is_kept_late(world: World) -> None:
    """An attempt that is closed already gets a late answer, and stays as it was closed."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    abandon(world, begun)

    keep(world, begun)

    stored = load(world, user_id, generation_id).stored_answer
    assert stored is not None
    assert (stored.number, outcomes(world, generation_id)) == (2, ["abandoned"])


def test_discarded_answer_is_not_kept_again(world: World) -> None:
    """What an operator has dropped does not come back by a repeat."""
    user_id, generation_id = new_generation(world)
    begun = begin(world, user_id, generation_id)
    abandon(world, begun)
    keep(world, begun)
    assert discard(world, user_id, generation_id)

    keep(world, begun)

    assert load(world, user_id, generation_id).stored_answer is None


def test_answer_of_a_forgotten_attempt_is_kept(world: World) -> None:
    """A fail-over may have lost the begin: an attempt is recorded for the answer, and charges nothing."""
    user_id, generation_id = new_generation(world)

    keep(world, forget(world, user_id, generation_id))

    assert load(world, user_id, generation_id).stored_answer is not None
    assert (outcomes(world, generation_id), quota_of(world, user_id).held) == (["abandoned"], 0)


def test_accepted_retry_goes_on_with_its_kept_answer(world: World) -> None:
    """The accepted retry's next attempt follows, and creates the session without a call."""
    begun = new_running(world)
    keep(world, begun)

    assert tidy(world) == 1
    first, second = world.attempts(begun.generation_id)
    world.advance(REJECTED_WAIT)
    succeed(world, run(world, begun.user_id, begun.generation_id))

    assert (first["code"], is_queued(second)) == ("SESSION_REJECTED", True)
    assert outcomes(world, begun.generation_id) == ["failed", "succeeded"]
    assert waiting(world) == []
    assert quota_of(world, begun.user_id, policy=POLICY).captured == 1
