"""Steps with retries that are accepted for later: see ``steps``."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from ai_retry.domain.change import Postpone
from ai_retry.domain.decide import begin as decide
from ai_retry.domain.decide import queue
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.drive import drive
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Failure, FailureCode, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_loop import cancelling
from ai_retry.domain.queue_model import Message, Outage, QueuedRetry
from tests.helpers.steps import (
    AT_ONCE,
    POLICY,
    SHORT,
    Begun,
    Decided,
    close_over,
    load,
    new_generation,
    reader_to,
    try_begin,
)
from tests.helpers.worlds import Row, World

ONE_AT_ONCE: Final = replace(POLICY, max_parallel=1)
EXPIRES_AFTER: Final = timedelta(hours=24)
DELAY: Final = timedelta(minutes=5)
A_MINUTE: Final = timedelta(minutes=1)
VISIBILITY: Final = POLICY.lease + timedelta(seconds=5)
TURNED_AWAY: Final = Failure(
    code=FailureCode.UNAVAILABLE, reason="503 from the upstream", transient=True, certainly_not_generated=True
)


# Accepting


def to_accept(
    world: World,
    user_id: UUID,
    generation_id: UUID,
    *,
    policy: RetryPolicy = POLICY,
    expires_after: timedelta = EXPIRES_AFTER,
    waive: frozenset[Waiver] = frozenset(),
    **asked: Any,
) -> Decided:
    """Load, and decide to accept a retry for later."""
    token: UUID = asked.pop("token", None) or uuid4()
    policy = replace(policy, max_queued=expires_after)
    snapshot = load(world, user_id, generation_id, policy=policy, token=token)
    request = Asked(user_id=user_id, generation_id=generation_id, token=token, waive=waive, **asked)
    return Decided(decide.accept(snapshot, request, reader_to(None), policy), snapshot, policy)


def try_accept(world: World, decided: Decided) -> QueuedRetry | None:
    """Send an acceptance; None: it is stale."""
    reply = world.storage.begin(decided.change)
    return queue.accepted(reply.snapshot) if reply.applied and reply.snapshot is not None else None


def accept(world: World, user_id: UUID, generation_id: UUID, **options: Any) -> QueuedRetry:
    """Load, decide and accept; the generation is free."""
    accepted = try_accept(world, to_accept(world, user_id, generation_id, **options))
    assert accepted is not None
    return accepted


def new_accepted(world: World, **options: Any) -> tuple[UUID, UUID]:
    """Accept a retry of a new user's failed generation; return the user's id and its own."""
    user_id, generation_id = new_generation(world)
    accept(world, user_id, generation_id, **options)
    return user_id, generation_id


# Running


def to_run(
    world: World,
    user_id: UUID,
    generation_id: UUID,
    *,
    policy: RetryPolicy = POLICY,
    route: str | None = None,
    token: UUID | None = None,
) -> Decided:
    """Load, and decide as a worker does to run the queued attempt."""
    token = token or uuid4()
    snapshot = load(world, user_id, generation_id, policy=policy, token=token)
    change, _ = decide.run(snapshot, token, reader_to(route), policy)
    return Decided(change, snapshot, policy)


def run(world: World, user_id: UUID, generation_id: UUID, **options: Any) -> Begun:
    """Load, decide and run a queued attempt that is due."""
    begun = try_begin(world, to_run(world, user_id, generation_id, **options))
    assert begun is not None
    return begun


def new_running(world: World, **options: Any) -> Begun:
    """Let a worker run a new user's accepted retry."""
    return run(world, *new_accepted(world), **options)


def put_back(
    world: World,
    begun: Begun,
    *,
    wait: timedelta = DELAY,
    wire_requests: int = 0,
    outage: Outage | None = None,
) -> bool:
    """Put an attempt back that did not generate; whether it was."""
    change = begun.ending.put_back(TURNED_AWAY, outage)
    return world.storage.amend(replace(change, wait=wait, wire_requests=wire_requests)).applied


# Ending without a call


def cancel(world: World, user_id: UUID, generation_id: UUID) -> None:
    """Take an accepted retry back, as its user does; raises ``RetryInProgress`` when it runs."""
    drive(cancelling(user_id, generation_id, POLICY), storage=world.storage, ai=None, rule=POLICY.quota)


def end(world: World, user_id: UUID, generation_id: UUID, reason: AiRetryError | None) -> bool:
    """End an accepted retry without a call, as a worker does; whether it was queued."""
    snapshot = load(world, user_id, generation_id)
    return world.storage.settle(queue.end(snapshot, user_id, reason, POLICY)).applied


def tidy(world: World, limit: int = 10) -> int:
    """Close and send what is overdue, as a worker does in passing; return of how many users."""
    users = world.storage.overdue(limit)
    for user_id in users:
        close_over(world, user_id)
    return len(users)


# Messages


def take(world: World, *, limit: int = 10) -> Sequence[Message]:
    """Take what is ready; the oldest first, which within one reply is no promise."""
    taken = world.storage.take(limit, VISIBILITY, POLICY.quota)
    return sorted((each.message for each in taken), key=lambda message: message.id)


def postpone(
    world: World, message: Message, wait: timedelta, *, spread: timedelta = AT_ONCE, route: str | None = None
) -> bool:
    """Put a message back; whether it belongs to an open attempt."""
    return world.storage.amend(Postpone(message=message, wait=wait, spread=spread, route=route)).applied


def waiting(world: World) -> list[UUID | None]:
    """Generations whose messages are in the queue, ready or not, in their order."""
    return [row["generation_id"] for row in world.messages()]


def ready(world: World) -> list[UUID | None]:
    """Generations whose messages a worker would get, in their order."""
    return [row["generation_id"] for row in world.messages() if row["ready"]]


# Attempts and routes


def last_attempt(world: World, generation_id: UUID) -> Row:
    """Row of the newest attempt."""
    return world.attempts(generation_id)[-1]


def is_queued(row: Row) -> bool:
    """Whether an attempt waits for a worker."""
    return row["outcome"] is None and row["lease_expires_at"] is None


def numbers(world: World, generation_id: UUID) -> list[tuple[int, str | None]]:
    """Attempts by number, with their outcomes."""
    return [(row["number"], row["outcome"]) for row in world.attempts(generation_id)]


def an_outage(wait: timedelta = SHORT, failures: int = 1) -> Outage:
    """What a failed call says of its route."""
    return Outage(wait=wait, failures=failures)


def a_doubt(doubts: int) -> Outage:
    """What a failed call says of its route that may be the fault of its request."""
    return Outage(wait=SHORT, failures=1, doubts=doubts)


def new_route() -> str:
    """Name a provider and model that no other test asks."""
    return f"provider.example/{uuid4()}"


def close_route(world: World, *, wait: timedelta = SHORT) -> str:
    """Let a call find a new route unavailable; return the route."""
    route = new_route()
    put_back(world, new_running(world, route=route), outage=an_outage(wait))
    return route


def reopen_route(world: World) -> str:
    """Close a new route, and wait until it opens; return the route."""
    route = close_route(world)
    world.advance(SHORT)
    return route


def slots(world: World, route: str) -> int | None:
    """How many calls may ask a route at once; None: as many as like, since nothing is known of it."""
    return next((each.slots for each in world.storage.state().outages if each.route == route), None)


def to_run_new(world: World, route: str, count: int = 1) -> list[Decided]:
    """Decide to run so many new users' accepted retries by way of a route."""
    return [to_run(world, *new_accepted(world), route=route) for _ in range(count)]
