"""Whoever begins anything for a user closes first what is over: attempts whose lease has run out."""

from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from ai_retry.domain.change import CloseOver
from ai_retry.domain.model import Attempt, Origin, Outcome
from tests.helpers.queue_steps import accept
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    POLICY,
    begin,
    begin_new,
    close_over,
    event_types,
    load,
    new_generation,
    outcomes,
    status_of,
    succeed,
    to_begin,
    try_begin,
)
from tests.helpers.worlds import World

WHOEVER: list[Callable[[World, UUID], object]] = [
    begin_new,
    lambda world, user_id: accept(world, user_id, world.new_generation(user_id)),
    close_over,
]


@pytest.mark.rule("over")
@pytest.mark.parametrize("whoever", WHOEVER, ids=["begin", "accept", "close_over"])
def test_expired_attempts_are_closed(world: World, whoever: Callable[[World, UUID], object]) -> None:
    """Every expired attempt of the user is closed as abandoned: counted, its wait as it was, uncharged."""
    user_id = world.new_user()
    expired = [begin_new(world, user_id).generation_id for _ in range(2)]
    world.advance(POLICY.lease)
    waits = [world.attempts(each)[0]["next_attempt_at"] for each in expired]

    whoever(world, user_id)

    rows = [world.attempts(each)[0] for each in expired]
    assert [(row["outcome"], row["code"], row["counted"]) for row in rows] == [("abandoned", "LEASE_LOST", True)] * 2
    assert [row["next_attempt_at"] for row in rows] == waits
    assert all(row["closed_at"] >= row["lease_expires_at"] for row in rows)
    assert [row["captured_at"] for row in rows] == [None, None]
    assert [row["provider_outcome"] for row in rows] == ["unknown", "unknown"]


def test_app_is_informed_of_expired_attempts(world: World) -> None:
    """No generation says processing when no process works on it: each is informed once, its own before the begin."""
    user_id = world.new_user()
    first, second = (begin_new(world, user_id).generation_id for _ in range(2))
    world.advance(POLICY.lease)

    begin(world, user_id, first)

    assert [status_of(world, each) for each in (first, second)] == ["processing", "timeout"]
    assert [[log["error_type"] for log in world.error_logs(each)] for each in (first, second)] == [["LEASE_LOST"]] * 2
    assert event_types(world, user_id) == ["ai_generation_failed"] * 2


def test_status_that_the_app_wrote_stays(world: World) -> None:
    """A generation that the app has given another status meanwhile keeps it, and gets no error log."""
    user_id = world.new_user()
    expired = begin_new(world, user_id)
    world.set_generation(expired.generation_id, status="error")
    world.advance(POLICY.lease)

    begin_new(world, user_id)

    assert outcomes(world, expired.generation_id) == ["abandoned"]
    assert status_of(world, expired.generation_id) == "error"
    assert world.error_logs(expired.generation_id) == []


@pytest.mark.rule("over")
def test_valid_leases_stay(world: World) -> None:
    """No attempt is closed whose lease is valid."""
    user_id = world.new_user()
    running = begin_new(world, user_id)

    begin_new(world, user_id)

    assert outcomes(world, running.generation_id) == [None]


def test_foreign_attempts_stay(world: World) -> None:
    """No other user's attempt is closed."""
    foreign = begin_new(world, world.new_user())
    world.advance(POLICY.lease)

    begin_new(world, world.new_user())

    assert outcomes(world, foreign.generation_id) == [None]


def test_stale_begin_closes_nothing(world: World) -> None:
    """A begin whose version is not right any more writes nothing."""
    user_id, generation_id = new_generation(world)
    expired = begin_new(world, user_id)
    world.advance(POLICY.lease)
    decided = to_begin(world, user_id, generation_id)
    world.set_generation(generation_id, status="timeout")

    assert try_begin(world, decided) is None
    assert outcomes(world, expired.generation_id) == [None]


def test_version_is_what_closing_leaves(world: World) -> None:
    """Closing the generation's own expired attempt does not make the decision stale that foresaw it."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    decided = to_begin(world, user_id, generation_id)

    assert try_begin(world, decided) is not None
    assert outcomes(world, generation_id) == ["abandoned", None]


def test_race_of_settle_and_begin_fences(world: World) -> None:
    """A late settle against the begin that abandons its attempt: one session at most, no second open attempt."""
    user_id, generation_id = new_generation(world)
    late = begin(world, user_id, generation_id)
    world.advance(POLICY.lease)
    decided = to_begin(world, user_id, generation_id)
    calls: list[Callable[[], object]] = [lambda: succeed(world, late), lambda: try_begin(world, decided)]

    _, begun = at_once(calls)

    sessions = len(world.sessions(user_id))
    assert outcomes(world, generation_id) == (["succeeded"] if sessions else ["abandoned", None])
    assert (begun is None) is (sessions == 1)
    if not sessions:
        assert load(world, user_id, generation_id).stored_answer is not None


@pytest.mark.parametrize("whoever", ["begin", "close_over"])
def test_what_was_closed_in_passing_is_returned(world: World, whoever: str) -> None:
    """Each attempt with its number, outcome, and the request that had asked for it; a second time nothing is left."""
    user_id = world.new_user()
    origin = Origin(request_id="req-7", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    generation_id = world.new_generation(user_id)
    begin(world, user_id, generation_id, origin=origin)
    assert [each.origin for each in loaded_attempts(world, user_id, generation_id)] == [origin]
    world.advance(POLICY.lease)
    other = to_begin(world, user_id, world.new_generation(user_id)).change

    closed = world.storage.begin(other if whoever == "begin" else CloseOver(user_id=user_id)).closed
    again = world.storage.begin(CloseOver(user_id=user_id)).closed

    assert [(each.user_id, each.generation_id, each.number, each.outcome) for each in closed] == [
        (user_id, generation_id, 2, Outcome.ABANDONED)
    ]
    assert [(each.code, each.is_accepted, each.origin) for each in closed] == [("LEASE_LOST", False, origin)]
    assert list(again) == []


def loaded_attempts(world: World, user_id: UUID, generation_id: UUID) -> Sequence[Attempt]:
    """The attempts that decisions see."""
    snapshot = load(world, user_id, generation_id)
    assert snapshot is not None
    return snapshot.attempts
