"""Steps over a storage: each decides by the product's own decisions, and sends the change.

Waits are what a test says, not what the policy would draw; everything else is the decision's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import (
    Begin,
    CloseOver,
    Closing,
    Discard,
    Found,
    Keep,
    NewGeneration,
    Running,
    Settle,
    Success,
)
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked, retry_now
from ai_retry.domain.decide.first import proposed
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.decide.settle import Ending, found, is_recorded, verdict
from ai_retry.domain.errors import AlreadySucceeded, LeaseLost
from ai_retry.domain.loop import has_begun, has_ended
from ai_retry.domain.model import (
    Answer,
    Failure,
    FailureCode,
    Quota,
    QuotaRule,
    RetryResult,
    Snapshot,
    StoredAnswer,
    Usage,
    Waiver,
)
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue_model import Outage
from tests.helpers.worlds import PROMPT_DATA, World

SECOND: Final = timedelta(seconds=1)
SHORT: Final = timedelta(seconds=30)  # more than a test takes, less than a lease
AT_ONCE: Final = timedelta(0)
POLICY: Final = RetryPolicy(max_attempts=10, max_parallel=8, quota=QuotaRule(limit=5, window=timedelta(hours=24)))
ANSWER: Final = Answer(
    output={"title": "Easy run", "km": [5, 7.5], "note": None},
    model="small",
    usage=Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46),
    provider_id="gen-1",
)
FAILURE: Final = Failure(
    code=FailureCode.UNAVAILABLE, reason="503 from the upstream", transient=True, certainly_not_generated=False
)
NEW: Final = NewGeneration(prompt_data=PROMPT_DATA, model="small", columns={"color": "red"}, digest="d1")
REJECTED_WAIT: Final = timedelta(seconds=3)
REJECTED_AGAIN_WAIT: Final = timedelta(seconds=300)


@dataclass(frozen=True, slots=True)
class Decided:
    """A begin, and what it was decided on."""

    change: Begin
    snapshot: Snapshot = field(repr=False)
    policy: RetryPolicy = field(repr=False)

    def aged(self, age: timedelta) -> "Decided":
        """The same, decided so long ago."""
        expected = replace(self.change.expected, as_of=self.change.expected.as_of - age)
        return replace(self, change=replace(self.change, expected=expected))

    def begun(self, number: int, lease_expires_at: datetime) -> "Begun":
        """What its worker knows once it runs."""
        change, start = self.change, self.change.attempt.start
        assert isinstance(start, Running)
        return Begun(
            user_id=change.user_id,
            generation_id=change.generation_id,
            token=change.token,
            number=number,
            lease_expires_at=lease_expires_at,
            ending=Ending(self.snapshot, change, self.policy, 0.0),
            stored=self.snapshot.stored_answer if start.answer_from is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that runs, as its worker knows it."""

    user_id: UUID
    generation_id: UUID
    token: UUID
    number: int
    lease_expires_at: datetime
    ending: Ending = field(repr=False, compare=False)
    stored: StoredAnswer | None = field(repr=False, compare=False)  # the answer that it uses instead of a call

    @property
    def answer_from(self) -> int | None:
        """Number of the attempt whose answer it uses."""
        return self.stored.number if self.stored is not None else None


# Reading


def new_generation(world: World) -> tuple[UUID, UUID]:
    """Add a failed generation of a new user; return the user's id and its own."""
    user_id = world.new_user()
    return user_id, world.new_generation(user_id)


def load(
    world: World, user_id: UUID, generation_id: UUID, *, policy: RetryPolicy = POLICY, token: UUID | None = None
) -> Snapshot:
    """Load a generation that is there."""
    snapshot = world.storage.load(user_id, generation_id, policy.quota, token)
    assert snapshot is not None
    return snapshot


def quota_of(world: World, user_id: UUID, *, policy: RetryPolicy = POLICY) -> Quota:
    """Load the user's quota, by way of a new generation."""
    return load(world, user_id, world.new_generation(user_id), policy=policy).quota


def outcomes(world: World, generation_id: UUID) -> list[str | None]:
    """Outcomes of its attempts, by number; None: open."""
    return [row["outcome"] for row in world.attempts(generation_id)]


def event_types(world: World, user_id: UUID) -> list[str]:
    """What happened to the user's generations, oldest first."""
    return [row["event_type"] for row in world.events(user_id)]


def status_of(world: World, generation_id: UUID) -> str:
    """What the app's row says."""
    return str(world.generation(generation_id)["status"])


# Beginning


def to_begin(
    world: World,
    user_id: UUID,
    generation_id: UUID,
    *,
    policy: RetryPolicy = POLICY,
    waive: frozenset[Waiver] = frozenset({Waiver.BACKOFF}),
    route: str | None = None,
    **asked: Any,
) -> Decided:
    """Load, and decide to retry now; the backoff is waived, since it is none of the storage's business."""
    token: UUID = asked.pop("token", None) or uuid4()
    snapshot = load(world, user_id, generation_id, policy=policy, token=token)
    request = Asked(user_id=user_id, generation_id=generation_id, token=token, waive=waive, **asked)
    change, _ = retry_now(snapshot, request, reader_to(route), policy)
    return Decided(change, snapshot, policy)


def to_create(
    world: World,
    user_id: UUID,
    generation_id: UUID | None = None,
    *,
    policy: RetryPolicy = POLICY,
    route: str | None = None,
    **asked: Any,
) -> Decided:
    """Load what is not there, and decide to create it and make its first call now."""
    token: UUID = asked.pop("token", None) or uuid4()
    generation_id = generation_id or uuid4()
    found = world.storage.load(user_id, generation_id, policy.quota, token, creating=True)
    assert found is not None
    snapshot, create = proposed(found, NEW), asked.pop("create", NEW)
    request = Asked(user_id=user_id, generation_id=generation_id, token=token, create=create, **asked)
    change, _ = retry_now(snapshot, request, reader_to(route), policy)
    return Decided(change, snapshot, policy)


def create(world: World, user_id: UUID, generation_id: UUID | None = None, **options: Any) -> Begun:
    """Create a generation and begin its first call."""
    begun = try_begin(world, to_create(world, user_id, generation_id, **options))
    assert begun is not None
    return begun


def reader_to(route: str | None) -> Reader:
    """Read what is stored, and send every call to one route."""
    return Reader(context_from=stored_context, route_of=None if route is None else lambda _: route)


def try_begin(world: World, decided: Decided) -> Begun | None:
    """Send a begin; None: it is stale."""
    change = decided.change
    if not has_begun(world.storage.begin(change)):
        return None
    attempt = load(world, change.user_id, change.generation_id, token=change.token).my_attempt
    assert attempt is not None
    assert attempt.lease_expires_at is not None
    return decided.begun(attempt.number, attempt.lease_expires_at)


def begin(world: World, user_id: UUID, generation_id: UUID, **options: Any) -> Begun:
    """Load, decide and begin; the generation is free."""
    begun = try_begin(world, to_begin(world, user_id, generation_id, **options))
    assert begun is not None
    return begun


def begin_new(world: World, user_id: UUID, **options: Any) -> Begun:
    """Begin a new generation of the user."""
    return begin(world, user_id, world.new_generation(user_id), **options)


def forget(world: World, user_id: UUID, generation_id: UUID) -> Begun:
    """Give an attempt that runs, and that the storage does not know: a fail-over has lost its begin."""
    decided = to_begin(world, user_id, generation_id)
    return decided.begun(2, decided.snapshot.as_of + POLICY.lease)


# Settling


def settle(world: World, begun: Begun, decide: Callable[[Found], Settle]) -> Snapshot | None:
    """Send a settle, deciding again while the generation is not as expected."""
    now = Found.READY
    while True:
        reply = world.storage.settle(decide(now))
        finds = found(reply.snapshot, begun.user_id)
        if reply.applied or finds is now or (reply.snapshot is not None and has_ended(reply.snapshot)):
            return reply.snapshot
        now = finds


def succeed(world: World, begun: Begun, answer: Answer = ANSWER) -> RetryResult:
    """Settle with an answer: the attempt's own, or the stored one that it was begun with."""
    answer = begun.stored.answer if begun.stored is not None else answer
    duration = timedelta(milliseconds=1250) if begun.stored is None else None

    def decide(now: Found) -> Settle:
        change = begun.ending.answered(now, answer, begun.answer_from, duration)
        if not isinstance(change.end, Success):
            return change
        rejection = replace(change.end.if_rejected, wait=REJECTED_WAIT, again_wait=REJECTED_AGAIN_WAIT)
        return replace(change, end=replace(change.end, if_rejected=rejection))

    return verdict(settle(world, begun, decide), begun.user_id, begun.generation_id)


def fail(
    world: World,
    begun: Begun,
    failure: Failure = FAILURE,
    *,
    wait: timedelta = AT_ONCE,
    goes_on: bool = False,
    outage: Outage | None = None,
) -> None:
    """Settle without an answer; whether an accepted retry goes on, and its route is unavailable, is what the test says.

    Raises:
        AiRetryError: the attempt has ended otherwise, or the generation can't have a session.
    """
    duration = timedelta(milliseconds=800)

    def decide(now: Found) -> Settle:
        if now is not Found.READY:
            return begun.ending.failed_without(now, failure, duration)
        change = begun.ending.failed(failure, duration)
        assert isinstance(change, Settle)
        assert isinstance(change.end, Closing)
        counted = failure.counted and not (goes_on and failure.overloaded)
        end = replace(change.end, wait=wait, goes_on=goes_on, counted=counted)
        return replace(change, end=end, outage=outage, answered=change.answered and outage is None)

    snapshot = settle(world, begun, decide)
    if not is_recorded(snapshot, failure):
        verdict(snapshot, begun.user_id, begun.generation_id)
        raise AlreadySucceeded(begun.generation_id)


def keep(world: World, begun: Begun, answer: Answer = ANSWER, *, cause: str = "55P03") -> None:
    """Store an answer that could not be settled."""
    call = begun.ending.answered(Found.READY, answer, None, timedelta(milliseconds=1250)).call
    assert call is not None
    world.storage.keep(
        Keep(
            user_id=begun.user_id,
            generation_id=begun.generation_id,
            token=begun.token,
            answer=answer,
            cause=cause,
            wait=REJECTED_WAIT,
            call=call,
        )
    )


def close_over(world: World, user_id: UUID) -> None:
    """Close what is over for a user."""
    assert world.storage.begin(CloseOver(user_id=user_id)).applied


def abandon(world: World, begun: Begun) -> None:
    """Let the lease run out, and close the attempt."""
    world.advance(POLICY.lease)
    close_over(world, begun.user_id)


def answer_too_late(world: World, user_id: UUID, generation_id: UUID, answer: Answer = ANSWER) -> Begun:
    """Bring the answer of an abandoned attempt, so that it is stored."""
    begun = begin(world, user_id, generation_id)
    abandon(world, begun)
    with pytest.raises(LeaseLost):
        succeed(world, begun, answer)
    return begun


def discard(world: World, user_id: UUID, generation_id: UUID, *, operator: str = "ann") -> bool:
    """Drop the stored answer; whether there was one to drop."""
    return world.storage.amend(Discard(user_id=user_id, generation_id=generation_id, operator=operator)).applied
