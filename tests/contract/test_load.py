"""``load`` reads one consistent picture and writes nothing."""

from dataclasses import replace
from uuid import uuid4

import pytest

from ai_retry.domain.change import Running
from ai_retry.domain.decide.begin import visible
from ai_retry.domain.model import GenerationStatus, Outcome
from tests.helpers.steps import (
    POLICY,
    SHORT,
    begin,
    begin_new,
    fail,
    load,
    new_generation,
    outcomes,
    succeed,
    to_begin,
    try_begin,
)
from tests.helpers.worlds import PROMPT_DATA, World


def test_load_returns_the_generation(world: World) -> None:
    """The generation is returned as the app wrote it."""
    user_id = world.new_user()
    generation_id = world.new_generation(user_id, status="timeout")

    snapshot = load(world, user_id, generation_id)

    assert (snapshot.generation.id, snapshot.generation.user_id) == (generation_id, user_id)
    assert snapshot.generation.status is GenerationStatus.TIMEOUT
    assert snapshot.generation.prompt_data == PROMPT_DATA
    assert (snapshot.attempts, snapshot.stored_answer, snapshot.session) == ((), None, None)
    assert (snapshot.mine, snapshot.open_token, snapshot.hidden) == (None, None, False)
    assert snapshot.can_create_session


def test_load_returns_none_for_unknown(world: World) -> None:
    """A generation that does not exist is None."""
    assert world.storage.load(world.new_user(), uuid4(), POLICY.quota, None) is None


def test_load_names_the_owner(world: World) -> None:
    """Someone else's generation is returned with its owner and the owner's quota, so that decisions hide it."""
    owner_id, stranger_id = world.new_user(), world.new_user()
    generation_id = world.new_generation(owner_id)
    begin_new(world, owner_id)

    snapshot = load(world, stranger_id, generation_id)

    assert (snapshot.generation.user_id, snapshot.quota.held, snapshot.live) == (owner_id, 1, 1)
    assert visible(snapshot, stranger_id) is None


def test_load_returns_attempts_ascending(world: World) -> None:
    """Attempts are returned by number, each with how it was closed."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id))
    begin(world, user_id, generation_id)

    first, second = load(world, user_id, generation_id).attempts

    assert (first.number, first.outcome, first.code, first.counted) == (2, Outcome.FAILED, "AI_UNAVAILABLE", True)
    assert first.closed_at is not None
    assert (second.number, second.outcome, second.closed_at) == (3, None, None)


def test_load_points_out_an_attempt(world: World) -> None:
    """The attempt that has the token is pointed out, open or closed; and the token of the open one is returned."""
    user_id, generation_id = new_generation(world)
    first = begin(world, user_id, generation_id)
    fail(world, first)
    second = begin(world, user_id, generation_id)

    found = [load(world, user_id, generation_id, token=token) for token in (first.token, second.token, uuid4(), None)]

    assert [each.mine for each in found] == [2, 3, None, None]
    assert {each.open_token for each in found} == {second.token}


def test_load_returns_the_wait_of_an_open_attempt(world: World) -> None:
    """From its begin on, an open attempt says when the next one is due should it be abandoned."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    begun = try_begin(world, decided)
    assert begun is not None
    assert isinstance(decided.change.attempt.start, Running)

    attempt = load(world, user_id, generation_id).attempts[-1]

    assert attempt.lease_expires_at == begun.lease_expires_at
    assert attempt.next_attempt_at == begun.lease_expires_at + decided.change.attempt.start.abandoned_wait


def test_load_leaves_an_expired_attempt_open(world: World) -> None:
    """An attempt whose lease has run out is returned as it is, since reading writes nothing."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    world.advance(POLICY.lease)

    snapshot = load(world, user_id, generation_id)

    assert snapshot.attempts[-1].outcome is None
    assert (snapshot.attempts[-1].lease_expires_at or snapshot.as_of) <= snapshot.as_of
    assert outcomes(world, generation_id) == [None]


@pytest.mark.rule("live")
def test_load_counts_live_attempts(world: World) -> None:
    """Live are the user's open attempts with a valid lease, whatever the generation."""
    user_id = world.new_user()
    begin_new(world, user_id)
    world.advance(SHORT)
    live = [begin_new(world, user_id) for _ in range(2)]
    fail(world, begin_new(world, user_id))
    world.advance(POLICY.lease - SHORT)

    snapshot = load(world, user_id, world.new_generation(user_id))

    assert snapshot.live == 2
    leases = [row["lease_expires_at"] for begun in live for row in world.attempts(begun.generation_id)]
    assert snapshot.live_until == min(leases)


def test_load_counts_no_foreign_attempts(world: World) -> None:
    """Another user's attempts and units are not mine."""
    other_id = world.new_user()
    begin_new(world, other_id)
    succeed(world, begin_new(world, other_id))
    user_id = world.new_user()

    snapshot = load(world, user_id, world.new_generation(user_id))

    assert (snapshot.live, snapshot.live_until) == (0, None)
    assert (snapshot.quota.captured, snapshot.quota.held) == (0, 0)


def test_load_returns_the_session(world: World) -> None:
    """After success the session is returned as it is now."""
    user_id, generation_id = new_generation(world)
    result = succeed(world, begin(world, user_id, generation_id))

    snapshot = load(world, user_id, generation_id)

    assert snapshot.session == result.session
    assert replace(snapshot.generation, prompt_data=None) == replace(result.generation, prompt_data=None)


def test_load_returns_no_other_users_session(world: World) -> None:
    """A session that the generation points to, but that is another user's, is not returned."""
    stranger, theirs = new_generation(world)
    session_id = succeed(world, begin(world, stranger, theirs)).session_id
    user_id, mine = new_generation(world)

    world.set_generation(mine, session_id=session_id)

    assert load(world, user_id, mine).session is None


def test_version_stays_without_writes(world: World) -> None:
    """Two reads without a write between them have the same version."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id))

    versions = {load(world, user_id, generation_id).version for _ in range(2)}

    assert len(versions) == 1
