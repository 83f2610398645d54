"""``begin`` opens an attempt, once for each token; of the generation's user, and while it is there."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from ai_retry.domain.decide.begin import visible
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Outcome, Waiver
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    POLICY,
    SHORT,
    Begun,
    abandon,
    begin,
    fail,
    load,
    new_generation,
    outcomes,
    status_of,
    succeed,
    to_begin,
    try_begin,
)
from tests.helpers.worlds import World


@pytest.mark.rule("number")
def test_begin_opens_the_attempt(world: World) -> None:
    """A begin opens attempt 2 under a lease, and the generation says processing."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)

    begun = try_begin(world, decided)

    assert begun is not None
    assert begun.number == 2
    assert POLICY.lease <= begun.lease_expires_at - decided.snapshot.as_of < POLICY.lease + SHORT
    assert status_of(world, generation_id) == "processing"
    (row,) = world.attempts(generation_id)
    assert (row["user_id"], row["token"]) == (user_id, begun.token)
    assert (row["outcome"], row["closed_at"], row["captured_at"]) == (None, None, None)


def test_begin_records_who_asked(world: World) -> None:
    """The key, the waived limits and the operator are recorded with the attempt."""
    user_id, generation_id = new_generation(world)

    begin(
        world,
        user_id,
        generation_id,
        waive=frozenset(Waiver),
        charge=False,
        idempotency_key="key-1",
        operator="ann",
    )

    (row,) = world.attempts(generation_id)
    assert (row["idempotency_key"], row["operator"], row["charge"]) == ("key-1", "ann", False)
    assert {str(waiver) for waiver in row["waived"]} == {"backoff", "quota"}
    assert load(world, user_id, generation_id).attempts[-1].idempotency_key == "key-1"


@pytest.mark.rule("number")
def test_begin_counts_numbers_up(world: World) -> None:
    """Every attempt has the next number, however the last one ended."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id))
    abandon(world, begin(world, user_id, generation_id))

    begun = begin(world, user_id, generation_id)

    assert begun.number == 4
    assert [row["number"] for row in world.attempts(generation_id)] == [2, 3, 4]


def test_repeat_points_out_the_same_attempt(world: World) -> None:
    """A repeat with the same token opens nothing; its snapshot points out the attempt."""
    decided = to_begin(world, *new_generation(world))
    first = try_begin(world, decided)

    reply = world.storage.begin(decided.change)

    assert first is not None
    assert reply.snapshot is not None
    assert (reply.applied, reply.snapshot.mine) == (False, first.number)
    assert try_begin(world, decided) == first
    assert len(world.attempts(first.generation_id)) == 1


@pytest.mark.parametrize(
    ("end", "outcome"),
    [(succeed, Outcome.SUCCEEDED), (fail, Outcome.FAILED), (abandon, Outcome.ABANDONED)],
    ids=["succeed", "fail", "abandon"],
)
def test_repeat_says_how_the_attempt_ended(
    world: World, end: Callable[[World, Begun], object], outcome: Outcome
) -> None:
    """A repeat after the end opens nothing; its snapshot says what became of the attempt."""
    decided = to_begin(world, *new_generation(world))
    first = try_begin(world, decided)
    assert first is not None
    end(world, first)
    before = world.attempts(first.generation_id)

    reply = world.storage.begin(decided.change)

    assert not reply.applied
    assert reply.snapshot is not None
    assert reply.snapshot.my_attempt is not None
    assert (reply.snapshot.my_attempt.number, reply.snapshot.my_attempt.outcome) == (first.number, outcome)
    assert world.attempts(first.generation_id) == before


def test_repeat_may_be_old(world: World) -> None:
    """A repeat is answered however old its decision is."""
    decided = to_begin(world, *new_generation(world))
    first = try_begin(world, decided)

    assert first is not None
    assert try_begin(world, decided.aged(timedelta(hours=1))) == first


@pytest.mark.rule("copied")
@pytest.mark.parametrize("end", [succeed, fail, abandon], ids=["succeed", "fail", "abandon"])
@pytest.mark.parametrize("charge", [True, False], ids=["charged", "free"])
def test_closed_attempt_is_what_was_begun(world: World, end: Callable[[World, Begun], object], *, charge: bool) -> None:
    """Whoever owns the generation when its attempt is closed, the attempt is that of its begin."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id))
    who = {"charge": charge, "idempotency_key": "click-1", "operator": "ann"}
    begun = begin(world, user_id, generation_id, waive=frozenset(Waiver), **who)
    world.set_generation(generation_id, user_id=world.new_user())

    with suppress(AiRetryError):
        end(world, begun)

    closed = world.attempts(generation_id)[-1]
    columns = ("user_id", "number", *who)
    assert closed["outcome"] is not None
    assert [closed[each] for each in columns] == [user_id, 3, *who.values()]


def test_deleted_generation_is_not_begun(world: World) -> None:
    """A generation that was deleted since has no snapshot any more."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    world.delete_generation(generation_id)

    reply = world.storage.begin(decided.change)

    assert (reply.applied, reply.snapshot) == (False, None)
    assert world.attempts(generation_id) == []


def test_deleted_user_begins_nothing(world: World) -> None:
    """A user who was deleted since has no generation."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    world.delete_user(user_id)

    reply = world.storage.begin(decided.change)

    assert (reply.applied, reply.snapshot) == (False, None)


def test_foreign_generation_is_not_begun(world: World) -> None:
    """A user begins no generation of another user; the snapshot names its owner, and decisions hide it."""
    user_id, generation_id = new_generation(world)
    stranger_id, change = world.new_user(), to_begin(world, user_id, generation_id).change

    reply = world.storage.begin(replace(change, user_id=stranger_id))

    assert not reply.applied
    assert visible(reply.snapshot, stranger_id) is None
    assert world.attempts(generation_id) == []
    assert status_of(world, generation_id) == "error"


@pytest.mark.rule("once")
def test_second_open_attempt_is_refused(world: World) -> None:
    """One valid lease per generation, even if the version is right."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)
    try_begin(world, decided)
    snapshot = load(world, user_id, generation_id)
    expected = replace(decided.change.expected, as_of=snapshot.as_of, version=snapshot.version)

    reply = world.storage.begin(replace(decided.change, token=uuid4(), expected=expected))

    assert not reply.applied
    assert outcomes(world, generation_id) == [None]


@pytest.mark.rule("once")
def test_race_for_one_generation_has_one_winner(world: World) -> None:
    """Of eight begins of one generation, one is applied."""
    user_id, generation_id = new_generation(world)
    decided = [to_begin(world, user_id, generation_id) for _ in range(8)]

    begun = at_once([lambda each=each: try_begin(world, each) for each in decided])  # type: ignore[misc]

    assert sum(isinstance(each, Begun) for each in begun) == 1
    assert sum(each is None for each in begun) == 7
    assert outcomes(world, generation_id) == [None]


def test_race_with_one_token_opens_one_attempt(world: World) -> None:
    """Of eight begins with the same token, all lead to the same attempt."""
    user_id, generation_id = new_generation(world)
    decided = to_begin(world, user_id, generation_id)

    begun = at_once([lambda: try_begin(world, decided)] * 8)

    assert isinstance(begun[0], Begun)
    assert begun == [begun[0]] * 8
    assert outcomes(world, generation_id) == [None]
