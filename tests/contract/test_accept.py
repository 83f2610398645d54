"""A retry is accepted for later: its attempt is queued, and holds its unit until it ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ai_retry.domain.errors import NotConfigured, RetryInProgress
from ai_retry.domain.model import Waiver
from ai_retry.domain.queue import cancel_retry, enqueue_generation
from ai_retry.domain.queue_model import QueuedRetry
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import (
    DELAY,
    EXPIRES_AFTER,
    ONE_AT_ONCE,
    accept,
    is_queued,
    new_accepted,
    new_running,
    numbers,
    ready,
    run,
    take,
    to_accept,
    try_accept,
    waiting,
)
from tests.helpers.racing import at_once
from tests.helpers.steps import (
    POLICY,
    SECOND,
    Decided,
    begin,
    begin_new,
    close_over,
    fail,
    load,
    new_generation,
    outcomes,
    quota_of,
    status_of,
    to_begin,
    try_begin,
)
from tests.helpers.worlds import World


def test_accept_queues_an_attempt(world: World) -> None:
    """The next attempt waits for a worker, under no lease, and the generation says queued."""
    user_id, generation_id = new_generation(world)

    accepted = accept(world, user_id, generation_id)

    (row,) = world.attempts(generation_id)
    assert is_queued(row)
    assert (row["number"], accepted.attempt) == (2, 2)
    assert (accepted.generation.id, accepted.generation.status.value) == (generation_id, "queued")
    assert status_of(world, generation_id) == "queued"
    assert accepted.accepted_at == row["accepted_at"] == accepted.as_of
    assert accepted.next_attempt_at == row["next_attempt_at"] == accepted.as_of
    assert accepted.expires_at == row["expires_at"] == accepted.as_of + EXPIRES_AFTER


def test_load_returns_the_queued_attempt(world: World) -> None:
    """A snapshot says that it waits, since when, until when, and when it is due."""
    user_id, generation_id = new_generation(world)
    accepted = accept(world, user_id, generation_id)

    (attempt,) = load(world, user_id, generation_id).attempts

    assert attempt.is_queued
    assert (attempt.accepted_at, attempt.expires_at) == (accepted.accepted_at, accepted.expires_at)
    assert (attempt.next_attempt_at, attempt.lease_expires_at) == (accepted.next_attempt_at, None)


def test_accept_sends_one_message(world: World) -> None:
    """A hint to its generation is ready at once."""
    user_id, generation_id = new_accepted(world)

    (message,) = take(world)

    assert (message.user_id, message.generation_id) == (user_id, generation_id)


def test_accept_holds_a_unit(world: World) -> None:
    """The user's unit is held, the reply says so, however long it waits; nothing is live."""
    user_id, generation_id = new_generation(world)

    replied = accept(world, user_id, generation_id).quota.held
    world.advance(POLICY.lease * 2)
    snapshot = load(world, user_id, generation_id)

    assert (replied, snapshot.quota.held, snapshot.live) == (1, 1, 0)


def test_uncharged_acceptance_holds_nothing(world: World) -> None:
    """Where the user shall not pay, no unit is set aside."""
    user_id, _ = new_accepted(world, charge=False)

    assert quota_of(world, user_id).held == 0


def test_accept_waits_out_the_backoff(world: World) -> None:
    """During a wait it is accepted, and due when the wait is over; so is its message."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id), wait=DELAY)

    accepted = accept(world, user_id, generation_id)

    assert accepted.next_attempt_at == world.attempts(generation_id)[0]["next_attempt_at"]
    assert (waiting(world), ready(world)) == ([generation_id], [])
    world.advance(DELAY)
    assert ready(world) == [generation_id]


def test_accept_records_who_asked(world: World) -> None:
    """Key, lifted limits and operator are recorded with the attempt."""
    user_id, generation_id = new_generation(world)

    accept(
        world,
        user_id,
        generation_id,
        waive=frozenset(Waiver),
        charge=False,
        idempotency_key="click-1",
        operator="ada@example.com",
    )

    (row,) = world.attempts(generation_id)
    assert (row["idempotency_key"], row["operator"], row["charge"]) == ("click-1", "ada@example.com", False)
    assert set(row["waived"]) == {"backoff", "quota"}


def test_repeated_acceptance_accepts_nothing_more(world: World) -> None:
    """A repeat with the same token is stale; its snapshot points out the attempt, and no second message is sent."""
    user_id, generation_id = new_generation(world)
    decided = to_accept(world, user_id, generation_id)
    assert try_accept(world, decided) is not None

    reply = world.storage.begin(decided.change)

    assert reply.snapshot is not None
    assert (reply.applied, reply.snapshot.mine) == (False, 2)
    assert numbers(world, generation_id) == [(2, None)]
    assert waiting(world) == [generation_id]


def test_repeat_after_the_run_accepts_nothing(world: World) -> None:
    """After a worker began the attempt, a repeat accepts no second one."""
    user_id, generation_id = new_generation(world)
    decided = to_accept(world, user_id, generation_id)
    try_accept(world, decided)
    run(world, user_id, generation_id)

    assert try_accept(world, decided) is None
    assert numbers(world, generation_id) == [(2, None)]


def test_deleted_generation_is_not_accepted(world: World) -> None:
    """A generation that was deleted since has no snapshot any more, and nothing is held."""
    user_id, generation_id = new_generation(world)
    decided = to_accept(world, user_id, generation_id)
    world.delete_generation(generation_id)

    reply = world.storage.begin(decided.change)

    assert (reply.applied, reply.snapshot) == (False, None)
    assert (world.attempts(generation_id), waiting(world)) == ([], [])


def test_foreign_generation_is_not_accepted(world: World) -> None:
    """A user has no generation of another user tried."""
    change = to_accept(world, *new_generation(world)).change

    assert not world.storage.begin(replace(change, user_id=world.new_user())).applied
    assert world.attempts(change.generation_id) == []


@pytest.mark.parametrize("status", ["timeout", "success", "processing"])
def test_acceptance_is_stale_after_status_change(world: World, status: str) -> None:
    """What was decided on another status is not accepted; nothing is written."""
    user_id, generation_id = new_generation(world)
    decided = to_accept(world, user_id, generation_id)
    world.set_generation(generation_id, status=status)

    assert try_accept(world, decided) is None
    assert (world.attempts(generation_id), waiting(world)) == ([], [])
    assert status_of(world, generation_id) == status


def test_acceptance_is_stale_after_another_attempt(world: World) -> None:
    """An attempt since, open or closed, makes the decision stale."""
    user_id, generation_id = new_generation(world)
    decided = to_accept(world, user_id, generation_id)
    begun = begin(world, user_id, generation_id)

    while_open = try_accept(world, decided)
    fail(world, begun)

    assert (while_open, try_accept(world, decided)) == (None, None)
    assert outcomes(world, generation_id) == ["failed"]


def test_old_acceptance_is_refused(world: World) -> None:
    """A decision of more than ten seconds ago is stale."""
    assert try_accept(world, to_accept(world, *new_generation(world)).aged(11 * SECOND)) is None


@pytest.mark.rule("held")
def test_accept_keeps_below_the_limit(world: World) -> None:
    """Queued units count: with one left, one of two is accepted."""
    user_id = world.new_user()
    world.set_quota(user_id, 1, timedelta(hours=24))
    decided = [to_accept(world, user_id, world.new_generation(user_id)) for _ in range(2)]

    accepted = [try_accept(world, each) for each in decided]

    assert [each is not None for each in accepted] == [True, False]
    assert quota_of(world, user_id).remaining == 0


def test_queued_unit_counts_for_a_click(world: World) -> None:
    """A queued unit counts against a retry whose caller waits, too."""
    user_id = world.new_user()
    world.set_quota(user_id, 1, timedelta(hours=24))
    decided = to_begin(world, user_id, world.new_generation(user_id))
    accept(world, user_id, world.new_generation(user_id))

    assert try_begin(world, decided) is None


@pytest.mark.rule("held")
def test_unit_of_a_dead_worker_stays_held(world: World) -> None:
    """An accepted retry whose worker died goes on, so that its unit is free for no other meanwhile."""
    begun = new_running(world)
    world.set_quota(begun.user_id, 1, timedelta(hours=24))
    world.advance(POLICY.lease)
    decided = to_accept(world, begun.user_id, world.new_generation(begun.user_id), waive=frozenset({Waiver.QUOTA}))
    limited = replace(decided.change, expected=replace(decided.change.expected, max_used=1))

    assert try_accept(world, replace(decided, change=limited)) is None


def test_accept_ignores_max_live(world: World) -> None:
    """A user with as many running attempts as may be is accepted: it waits."""
    user_id = world.new_user()
    begin_new(world, user_id, policy=ONE_AT_ONCE)

    assert accept(world, user_id, world.new_generation(user_id), policy=ONE_AT_ONCE).attempt == 2


def test_race_to_accept_one_generation_has_one_winner(world: World) -> None:
    """Of eight clicks at once one is accepted, with one message."""
    user_id, generation_id = new_generation(world)
    decided = [to_accept(world, user_id, generation_id) for _ in range(8)]

    accepted = at_once([accepting(world, each) for each in decided])

    assert sum(isinstance(each, QueuedRetry) for each in accepted) == 1
    assert numbers(world, generation_id) == [(2, None)]
    assert waiting(world) == [generation_id]


def test_race_to_accept_keeps_the_limit(world: World) -> None:
    """Of eight generations accepted at once with three units left, three are."""
    user_id = world.new_user()
    world.set_quota(user_id, 3, timedelta(hours=24))
    decided = [to_accept(world, user_id, world.new_generation(user_id)) for _ in range(8)]

    accepted = at_once([accepting(world, each) for each in decided])

    assert sum(isinstance(each, QueuedRetry) for each in accepted) == 3
    assert quota_of(world, user_id).held == 3


def test_without_a_queue_nothing_is_accepted(memory_world: MemoryWorld) -> None:
    """Where there is no queue, accepting and taking say so, and nothing is written."""
    user_id, generation_id = new_generation(memory_world)
    decided = to_accept(memory_world, user_id, generation_id)
    memory_world.storage.has_queue = False

    with pytest.raises(NotConfigured):
        try_accept(memory_world, decided)
    with pytest.raises(NotConfigured):
        take(memory_world)
    assert memory_world.attempts(generation_id) == []


def accepting(world: World, decided: Decided) -> Callable[[], QueuedRetry | None]:
    """Accept when it is called."""
    return lambda: try_accept(world, decided)


@pytest.mark.parametrize("state", ["queued", "running"])
def test_new_owner_is_promised_nothing_by_the_old_owners_attempt(world: World, state: str) -> None:
    """Who was given a generation is refused while its first owner's attempt is open: that ends, and was not theirs."""
    user_id, generation_id = new_accepted(world)
    if state == "running":
        run(world, user_id, generation_id)
    owner = world.new_user()
    world.set_generation(generation_id, user_id=owner)

    with pytest.raises(RetryInProgress):
        enqueue_generation(owner, generation_id, storage=world.storage)
    cancel_retry(owner, generation_id, storage=world.storage)
    assert outcomes(world, generation_id) == [None]

    world.advance(POLICY.lease)
    for _ in range(2):  # one that follows a dead worker's is cancelled, too
        close_over(world, user_id)
    assert quota_of(world, user_id).held == 0
    world.advance(DELAY)
    promised = enqueue_generation(owner, generation_id, storage=world.storage)
    assert isinstance(promised, QueuedRetry)
    assert (promised.quota.held, world.attempts(generation_id)[-1]["user_id"]) == (1, owner)
