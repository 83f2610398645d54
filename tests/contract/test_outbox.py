"""What ends an accepted retry, and what closes and opens a route, writes a message for the webhook with it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain.outbox import Announcement, Delivery, MessageType, OutboxStorage
from tests.helpers.queue_steps import (
    DELAY,
    accept,
    cancel,
    close_route,
    new_accepted,
    new_running,
    put_back,
    reopen_route,
    run,
    tidy,
)
from tests.helpers.steps import FAILURE, abandon, begin, fail, new_generation, succeed
from tests.helpers.worlds import World

LEASE = timedelta(seconds=30)
MANY = 1000


def outbox_of(world: World) -> OutboxStorage:
    """Give the storage's other side."""
    storage: Any = world.storage
    found: OutboxStorage = storage
    return found


def look(world: World, results: Sequence[Delivery] = (), *, lease: timedelta = LEASE) -> list[Announcement]:
    """Take what is due."""
    return list(outbox_of(world).drain(MANY, lease, results))


def of(taken: Sequence[Announcement], generation_id: UUID) -> list[Announcement]:
    """Choose the messages about a generation."""
    return [each for each in taken if each.data.get("generation_id") == str(generation_id)]


def done(message: Announcement) -> Delivery:
    """Say that it needs no further try."""
    return Delivery(id=message.id, tries=message.tries, wait=None)


def test_nothing_is_written_before_a_process_delivers(world: World) -> None:
    """Without a webhook the outbox stays empty, however retries end."""
    begun = new_running(world)
    succeed(world, begun)

    assert look(world) == []


def test_nothing_is_written_once_no_process_has_looked_for_a_week(world: World) -> None:
    """A webhook that is taken out of the settings leaves no table that grows."""
    look(world)
    world.advance(timedelta(days=8))
    begun = new_running(world)
    succeed(world, begun)

    assert of(look(world), begun.generation_id) == []


def test_success_is_announced(world: World) -> None:
    """The message has the ids, the number and the session, and says when the retry was accepted and ended."""
    look(world)
    begun = new_running(world)
    succeed(world, begun)

    (message,) = of(look(world), begun.generation_id)
    (session,) = world.sessions(begun.user_id)
    assert message.type == MessageType.SUCCEEDED
    assert message.tries == 1
    data = dict(message.data)
    assert data.pop("accepted_at") is not None
    assert data == {
        "user_id": str(begun.user_id),
        "generation_id": str(begun.generation_id),
        "attempt": 2,
        "session_id": str(session["id"]),
        "code": None,
        "request_id": None,
    }


def test_last_failure_is_announced_and_no_earlier_one(world: World) -> None:
    """An attempt that another one follows ends nothing; the last one says its code."""
    look(world)
    begun = new_running(world)
    abandon(world, begun)
    assert of(look(world), begun.generation_id) == []

    world.advance(DELAY)
    fail(world, run(world, begun.user_id, begun.generation_id))

    (message,) = of(look(world), begun.generation_id)
    assert (message.type, message.data["code"], message.data["attempt"]) == (MessageType.FAILED, FAILURE.code, 3)


def test_cancellation_and_expiry_are_announced(world: World) -> None:
    """A retry that its user took back is cancelled; one whose time was up has expired."""
    look(world)
    user_id, taken_back = new_accepted(world)
    cancel(world, user_id, taken_back)
    other_user, late = new_accepted(world)
    world.advance(timedelta(hours=25))
    tidy(world, limit=100)

    found = look(world)
    assert [each.type for each in of(found, taken_back)] == [MessageType.CANCELLED]
    assert [(each.type, each.data["code"]) for each in of(found, late)] == [(MessageType.EXPIRED, "RETRY_EXPIRED")]
    assert other_user != user_id


def test_retry_that_its_caller_waits_for_is_not_announced(world: World) -> None:
    """Whoever waits is answered."""
    look(world)
    user_id, generation_id = new_generation(world)
    succeed(world, begin(world, user_id, generation_id))

    assert of(look(world), generation_id) == []


def test_attempt_that_is_put_back_ends_nothing(world: World) -> None:
    """It is queued again, as if it had not begun."""
    look(world)
    begun = new_running(world)
    put_back(world, begun)

    assert of(look(world), begun.generation_id) == []


def test_message_is_hidden_while_it_is_delivered_and_comes_again(world: World) -> None:
    """A process that dies with it loses nothing: after its lease another one takes the same message."""
    look(world)
    begun = new_running(world)
    succeed(world, begun)

    (first,) = of(look(world), begun.generation_id)
    assert of(look(world), begun.generation_id) == []
    world.advance(LEASE + timedelta(seconds=1))
    (again,) = of(look(world), begun.generation_id)
    assert (again.id, again.tries, again.data) == (first.id, 2, first.data)
    assert again.happened_at <= first.happened_at  # a world moves what is stored
    look(world, [done(again)])
    world.advance(LEASE + timedelta(seconds=1))
    assert of(look(world), begun.generation_id) == []


def test_message_waits_as_long_as_it_is_put_back(world: World) -> None:
    """Its wait begins when it is put back; what a process says whose lease has ended moves nothing."""
    look(world)
    begun = new_running(world)
    succeed(world, begun)
    (first,) = of(look(world), begun.generation_id)

    look(world, [Delivery(id=first.id, tries=1, wait=timedelta(minutes=5))])
    world.advance(timedelta(minutes=4))
    assert of(look(world), begun.generation_id) == []
    world.advance(timedelta(minutes=2))
    (again,) = of(look(world), begun.generation_id)
    look(world, [Delivery(id=first.id, tries=1, wait=timedelta(0))])
    assert of(look(world), begun.generation_id) == []
    assert again.tries == 2


def test_messages_about_one_generation_come_in_order(world: World) -> None:
    """The second is only taken when the first needs no further try, however long that takes; others don't wait."""
    look(world)
    begun = new_running(world)
    fail(world, begun)
    accept(world, begun.user_id, begun.generation_id)
    succeed(world, run(world, begun.user_id, begun.generation_id))
    other = new_running(world)
    succeed(world, other)

    found = look(world)
    (first,) = of(found, begun.generation_id)
    assert first.type == MessageType.FAILED
    assert len(of(found, other.generation_id)) == 1
    world.advance(LEASE + timedelta(seconds=1))
    (first,) = of(look(world), begun.generation_id)
    assert first.type == MessageType.FAILED
    (second,) = of(look(world, [done(first)]), begun.generation_id)
    assert second.type == MessageType.SUCCEEDED


@pytest.mark.parametrize("again", [False, True])
def test_route_is_announced_as_it_closes_and_opens(world: World, *, again: bool) -> None:
    """One message for each, in their order; an outage that is prolonged says nothing new."""
    look(world)
    route = close_route(world)
    found = [each for each in look(world) if each.data.get("route") == route]
    assert [each.type for each in found] == [MessageType.ROUTE_CLOSED]
    assert found[0].data["not_before"] is not None
    look(world, [done(each) for each in found])
    if again:
        world.advance(timedelta(days=2))
        close_route(world)  # another one; by the way, what was unavailable for a day is forgotten
        (forgotten,) = [each for each in look(world) if each.data.get("route") == route]
        assert (forgotten.type, forgotten.data["answered"]) == (MessageType.ROUTE_OPENED, False)


def test_route_that_answers_is_announced(world: World) -> None:
    """Its first answer opens it."""
    look(world)
    route = reopen_route(world)
    succeed(world, new_running(world, route=route))

    (closed,) = [each for each in look(world) if each.data.get("route") == route]
    (opened,) = [each for each in look(world, [done(closed)]) if each.data.get("route") == route]
    assert (closed.type, opened.type) == (MessageType.ROUTE_CLOSED, MessageType.ROUTE_OPENED)
    assert opened.data["answered"] is True
