"""A message is a hint: it may come twice, late or not at all, and nothing happens twice or never."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain.errors import AiRetryError
from tests.helpers.queue_steps import (
    DELAY,
    VISIBILITY,
    is_queued,
    last_attempt,
    new_accepted,
    postpone,
    ready,
    run,
    take,
    waiting,
)
from tests.helpers.racing import at_once
from tests.helpers.steps import AT_ONCE, POLICY, SECOND, outcomes, succeed
from tests.helpers.world import SqlWorld
from tests.helpers.worlds import World

GARBAGE: Sequence[Any] = (
    {},
    [],
    "text",
    None,
    {"user_id": "no user", "generation_id": "nothing"},
    {"user_id": None, "generation_id": str(UUID(int=1))},
    {"user_id": str(UUID(int=1))},
    {"user_id": {"id": 1}, "generation_id": [1]},
)


def test_take_returns_nothing_when_nothing_is_queued(world: World) -> None:
    """An empty queue is no error."""
    assert take(world) == []


def test_message_comes_with_its_snapshot(world: World) -> None:
    """A message is returned with what it is about: a worker needs no second read."""
    user_id, generation_id = new_accepted(world)

    (taken,) = world.storage.take(10, VISIBILITY, POLICY.quota)

    assert (taken.message.user_id, taken.message.generation_id) == (user_id, generation_id)
    assert taken.snapshot is not None
    assert (taken.snapshot.generation.id, taken.snapshot.attempts[-1].is_queued) == (generation_id, True)
    assert taken.snapshot.quota.held == 1


def test_message_of_a_deleted_generation_has_no_snapshot(world: World) -> None:
    """A message may outlive what it is about."""
    _, generation_id = new_accepted(world)
    world.delete_generation(generation_id)

    (taken,) = world.storage.take(10, VISIBILITY, POLICY.quota)

    assert taken.snapshot is None


def test_taken_message_is_hidden_for_a_while(world: World) -> None:
    """Others don't see it before its visibility ends; then it comes again."""
    _, generation_id = new_accepted(world)

    first, second = take(world), take(world)
    world.advance(VISIBILITY)
    third = take(world)

    taken = [[each.generation_id for each in messages] for messages in (first, second, third)]
    assert taken == [[generation_id], [], [generation_id]]


def test_take_returns_the_oldest_up_to_its_limit(world: World) -> None:
    """The first to come is the first to be served."""
    generation_ids = [new_accepted(world)[1] for _ in range(4)]

    first, second = take(world, limit=3), take(world, limit=3)

    assert {each.generation_id for each in first} == set(generation_ids[:3])
    assert [each.generation_id for each in second] == generation_ids[3:]


def test_race_to_take_gives_each_message_once(world: World) -> None:
    """Of eight workers that read at once no two get the same message."""
    generation_ids = [new_accepted(world)[1] for _ in range(8)]

    taken = at_once([lambda: take(world, limit=2)] * 8)

    got = [each.generation_id for messages in taken if not isinstance(messages, AiRetryError) for each in messages]
    assert sorted(got) == sorted(generation_ids)


@pytest.mark.parametrize("payload", GARBAGE, ids=repr)
def test_garbage_is_deleted(sql_world: SqlWorld, payload: Any) -> None:
    """A message that is not ours is dropped, and stops no other."""
    sql_world.send_message(payload)
    _, generation_id = new_accepted(sql_world)

    assert [each.generation_id for each in take(sql_world)] == [generation_id]
    assert waiting(sql_world) == [generation_id]


def test_duplicate_is_deleted(world: World) -> None:
    """A message that is not its attempt's own is dropped when it is put back; the attempt keeps its own."""
    user_id, generation_id = new_accepted(world)
    world.send_message({"user_id": str(user_id), "generation_id": str(generation_id)})
    own, duplicate = take(world)

    assert not postpone(world, duplicate, AT_ONCE)

    assert [row["id"] for row in world.messages()] == [own.id]
    assert is_queued(last_attempt(world, generation_id))


def test_attempt_begun_by_a_duplicate_ends_its_own_message(world: World) -> None:
    """Whichever message leads to the attempt, what is left afterwards starts nothing and is dropped."""
    user_id, generation_id = new_accepted(world)
    world.send_message({"user_id": str(user_id), "generation_id": str(generation_id)})
    _, duplicate = take(world)

    succeed(world, run(world, user_id, generation_id))
    postpone(world, duplicate, AT_ONCE)

    assert waiting(world) == []
    assert outcomes(world, generation_id) == ["succeeded"]


def test_postponed_attempt_and_message_come_back_together(world: World) -> None:
    """Message and attempt come back together, after the wait."""
    user_id, generation_id = new_accepted(world)
    (message,) = take(world)

    assert postpone(world, message, DELAY)

    row = last_attempt(world, generation_id)
    assert row["next_attempt_at"] - row["accepted_at"] >= DELAY
    assert (waiting(world), ready(world)) == ([generation_id], [])
    world.advance(DELAY)
    assert [each.user_id for each in take(world)] == [user_id]


def test_message_postponed_by_nothing_is_ready(world: World) -> None:
    """A worker that stops puts back what it did not begin, and others have it at once."""
    _, generation_id = new_accepted(world)
    (message,) = take(world)

    postpone(world, message, AT_ONCE)
    postpone(world, message, AT_ONCE)

    assert ready(world) == [generation_id]


def test_postpone_leaves_a_running_attempt(world: World) -> None:
    """While a worker has the attempt its message waits for the end of the lease, not for less."""
    user_id, generation_id = new_accepted(world)
    (message,) = take(world)
    begun = run(world, user_id, generation_id)

    postpone(world, message, AT_ONCE)

    row = last_attempt(world, generation_id)
    assert (row["token"], row["lease_expires_at"]) == (begun.token, begun.lease_expires_at)
    assert ready(world) == []
    world.advance(POLICY.lease + SECOND)
    assert ready(world) == [generation_id]


def test_message_of_no_attempt_is_deleted(world: World) -> None:
    """A message whose attempt has ended, or whose generation or user is gone, is dropped when it is put back."""
    user_id, _ = new_accepted(world)
    (message,) = take(world)
    world.delete_user(user_id)

    postpone(world, message, AT_ONCE)

    assert waiting(world) == []


def test_foreign_hint_moves_nothing(world: World) -> None:
    """A message that names another user's generation moves nothing of theirs."""
    _, generation_id = new_accepted(world)
    (message,) = take(world)
    before = last_attempt(world, generation_id)

    postpone(world, replace(message, user_id=world.new_user()), DELAY)

    assert last_attempt(world, generation_id) == before
