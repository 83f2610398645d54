"""The contract of retries that are accepted for later: what every adapter of ``QueueStorage`` must do on top.

Like ``contract``, which an adapter passes as well: a test module gives a fixture ``world``, here a ``QueueWorld``, and
inherits ``QueueStorageContract``. Nobody else may use the queue during a test. Its ``conftest.py`` calls
``pytest.register_assert_rewrite("ai_retry.testing.queue_contract")``.
"""
# ruff: noqa: S101, PLR2004 (this module is tests, and the numbers in them are counts)

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    GenerationNotFound,
    LeaseLost,
    RetryExpired,
    SessionRejected,
)
from ai_retry.domain.model import Admission, Claim, Failure, FailureCode, Outcome, Purpose, Waiver
from ai_retry.domain.policy import RetryPolicy, admit
from ai_retry.domain.ports import QueueStorage
from ai_retry.domain.queue_model import Message, Outage, Parked, QueuedRetry
from ai_retry.storage.memory_queue import InMemoryQueueStorage
from ai_retry.testing.contract import (
    FAILURE,
    POLICY,
    REJECTED_AGAIN_WAIT,
    REJECTED_WAIT,
    SECOND,
    SHORT,
    MemoryWorld,
    Row,
    World,
    admission_to,
    at_once,
    claim_of,
    event_types,
    fail,
    load,
    new_generation,
    outcomes,
    quota_of,
    succeed,
    try_claim,
)

ONE_AT_ONCE = replace(POLICY, max_parallel=1)
EXPIRES_AFTER = timedelta(hours=24)
DELAY = timedelta(minutes=5)
VISIBILITY = POLICY.lease + timedelta(seconds=5)
AT_ONCE = timedelta(0)
A_MINUTE = timedelta(minutes=1)
TURNED_AWAY = Failure(
    code=FailureCode.UNAVAILABLE, reason="503 from the upstream", transient=True, certainly_not_generated=True
)
GARBAGE: Sequence[Any] = (
    {},
    [],
    "text",
    None,
    {"user_id": "nobody", "generation_id": "nothing"},
    {"user_id": None, "generation_id": str(UUID(int=1))},
    {"user_id": str(UUID(int=1))},
    {"user_id": {"id": 1}, "generation_id": [1]},
)


class QueueWorld(World, Protocol):
    """A storage with a queue, and what its owner can do with it. The queue is empty when a test begins."""

    @property
    def storage(self) -> QueueStorage:
        """The adapter; up to eight threads use it at once."""
        ...

    def messages(self) -> Sequence[Row]:
        """Rows of the queue in their order: ``id``, ``generation_id`` (None in what is none of ours), ``ready``."""
        ...

    def send_message(self, payload: Any) -> None:
        """Put any JSON into the queue, ready at once."""
        ...

    def lose_messages(self) -> None:
        """Delete all messages, behind our back."""
        ...


class MemoryQueueWorld(MemoryWorld):
    """The world around ``InMemoryQueueStorage``: for its contract, and for tests that need a queue in memory."""

    tables: InMemoryQueueStorage

    def __init__(self, storage_type: type[InMemoryQueueStorage] = InMemoryQueueStorage) -> None:
        super().__init__(storage_type)

    @property
    def storage(self) -> QueueStorage:
        """The storage."""
        return self.tables

    def messages(self) -> Sequence[Row]:
        """Rows of the line."""
        now = self.clock.now()
        return [
            {"id": row.id, "generation_id": _generation_of(row.payload), "ready": row.visible_at <= now}
            for row in self.tables.line.rows.values()
        ]

    def send_message(self, payload: Any) -> None:
        """Put it at the end."""
        self.tables.line.send(payload, self.clock.now())

    def lose_messages(self) -> None:
        """Forget them."""
        self.tables.line.rows.clear()


def _generation_of(payload: Any) -> UUID | None:
    try:
        return UUID(payload["generation_id"])
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


# Steps, with defaults that suit most promises


def try_enqueue(
    world: QueueWorld, admission: Admission, token: UUID | None = None, *, expires_after: timedelta = EXPIRES_AFTER
) -> QueuedRetry | None:
    """Enqueue what was admitted."""
    return world.storage.enqueue(admission, token=token or uuid4(), expires_after=expires_after)


def admission_to_enqueue(
    world: QueueWorld,
    user_id: UUID,
    generation_id: UUID,
    *,
    policy: RetryPolicy = POLICY,
    waive: frozenset[Waiver] = frozenset(),
    charge: bool = True,
) -> Admission:
    """Load and admit for later."""
    snapshot = load(world, user_id, generation_id, policy=policy)
    return admit(snapshot, policy, purpose=Purpose.ENQUEUE, waive=waive, charge=charge)


def enqueue(
    world: QueueWorld, user_id: UUID, generation_id: UUID, *, expires_after: timedelta = EXPIRES_AFTER, **options: Any
) -> QueuedRetry:
    """Load, admit and enqueue a generation that is free."""
    queued = try_enqueue(
        world, admission_to_enqueue(world, user_id, generation_id, **options), expires_after=expires_after
    )
    assert queued is not None
    return queued


def new_queued(world: QueueWorld, **options: Any) -> tuple[UUID, UUID]:
    """Add a failed generation of a new user and enqueue it; give the user's id and its own."""
    user_id, generation_id = new_generation(world)
    enqueue(world, user_id, generation_id, **options)
    return user_id, generation_id


def admission_to_run(
    world: QueueWorld, user_id: UUID, generation_id: UUID, *, policy: RetryPolicy = POLICY
) -> Admission:
    """Load and admit as a worker does, but for the wait, which is none of the storage's business."""
    snapshot = load(world, user_id, generation_id, policy=policy)
    return admit(snapshot, policy, purpose=Purpose.RUN_QUEUED, waive=frozenset({Waiver.BACKOFF}))


def try_run(
    world: QueueWorld,
    admission: Admission,
    token: UUID | None = None,
    *,
    route: str | None = None,
    spread: timedelta = AT_ONCE,
) -> Claim | Parked | None:
    """Claim a queued attempt under the policy's lease."""
    return world.storage.claim_queued(admission, token=token or uuid4(), lease=POLICY.lease, route=route, spread=spread)


def run(
    world: QueueWorld, user_id: UUID, generation_id: UUID, *, policy: RetryPolicy = POLICY, route: str | None = None
) -> Claim:
    """Load, admit and claim a queued attempt that is free."""
    claim = try_run(world, admission_to_run(world, user_id, generation_id, policy=policy), route=route)
    assert isinstance(claim, Claim)
    return claim


def new_running(world: QueueWorld, **options: Any) -> Claim:
    """Let a worker claim a new user's queued attempt."""
    return run(world, *new_queued(world), **options)


def retry_later(
    world: QueueWorld,
    claim: Claim,
    failure: Failure = FAILURE,
    *,
    delay: timedelta = DELAY,
    outage: Outage | None = None,
) -> None:
    """Settle without an answer; the accepted retry goes on."""
    world.storage.retry_later(claim, failure, duration=timedelta(milliseconds=800), delay=delay, outage=outage)


def give_back(
    world: QueueWorld,
    claim: Claim,
    *,
    delay: timedelta = DELAY,
    wire_requests: int = 0,
    outage: Outage | None = None,
) -> None:
    """Give an attempt back that did not generate."""
    world.storage.give_back(claim, delay=delay, reason="turned away", wire_requests=wire_requests, outage=outage)


def cancel(world: QueueWorld, user_id: UUID, generation_id: UUID, reason: AiRetryError | None = None) -> Any:
    """Take a queued retry back, or end it for a reason."""
    return world.storage.cancel(user_id, generation_id, reason=reason)


def receive(world: QueueWorld, *, limit: int = 10) -> Sequence[Message]:
    """Read what is ready, without waiting; the oldest first, which within one answer is no promise."""
    return tuple(
        sorted(world.storage.receive(limit=limit, visibility=VISIBILITY, poll=AT_ONCE), key=lambda each: each.id)
    )


def waiting(world: QueueWorld) -> list[UUID | None]:
    """Generations whose messages stand in the queue, ready or not, in their order."""
    return [row["generation_id"] for row in world.messages()]


def ready(world: QueueWorld) -> list[UUID | None]:
    """Generations whose messages a worker would get, in their order."""
    return [row["generation_id"] for row in world.messages() if row["ready"]]


def last_attempt(world: QueueWorld, generation_id: UUID) -> Row:
    """Row of the newest attempt."""
    return world.attempts(generation_id)[-1]


def is_queued(row: Row) -> bool:
    """Whether an attempt waits for a worker."""
    return row["outcome"] is None and row["lease_expires_at"] is None


def numbers(world: QueueWorld, generation_id: UUID) -> list[tuple[int, str | None]]:
    """Attempts by number, with their outcomes."""
    return [(row["number"], row["outcome"]) for row in world.attempts(generation_id)]


def status_of(world: QueueWorld, generation_id: UUID) -> str:
    """What the app's row says."""
    return str(world.generation(generation_id)["status"])


def an_outage(wait: timedelta = SHORT, failures: int = 1) -> Outage:
    """Give what a failed call says of its route."""
    return Outage(wait=wait, failures=failures)


def a_doubt(doubts: int) -> Outage:
    """Give what a failed call says of its route that may be the fault of its request."""
    return Outage(wait=SHORT, failures=1, doubts=doubts)


def new_route() -> str:
    """Name a provider and model that no other test asks."""
    return f"provider.example/{uuid4()}"


class EnqueueContract:
    """``enqueue`` accepts a retry, which holds its unit until it ends."""

    def test_enqueue_opens_a_queued_attempt(self, world: QueueWorld) -> None:
        """The next attempt waits for a worker, under no lease, and the generation says queued."""
        user_id, generation_id = new_generation(world)

        queued = enqueue(world, user_id, generation_id)

        (row,) = world.attempts(generation_id)
        assert is_queued(row)
        assert (row["number"], queued.attempt) == (2, 2)
        assert (queued.generation.id, queued.generation.status.value) == (generation_id, "queued")
        assert status_of(world, generation_id) == "queued"
        assert queued.accepted_at == row["accepted_at"] == queued.as_of
        assert queued.next_attempt_at == row["next_attempt_at"] == queued.as_of
        assert queued.expires_at == row["expires_at"] == queued.as_of + EXPIRES_AFTER

    def test_load_tells_the_queued_attempt(self, world: QueueWorld) -> None:
        """A snapshot tells that it waits, since when, until when, and when it is due."""
        user_id, generation_id = new_generation(world)
        queued = enqueue(world, user_id, generation_id)

        (attempt,) = load(world, user_id, generation_id).attempts

        assert attempt.is_queued
        assert (attempt.accepted_at, attempt.expires_at) == (queued.accepted_at, queued.expires_at)
        assert (attempt.next_attempt_at, attempt.lease_expires_at) == (queued.next_attempt_at, None)

    def test_enqueue_sends_one_message(self, world: QueueWorld) -> None:
        """A hint to its generation is ready at once."""
        user_id, generation_id = new_queued(world)

        (message,) = receive(world)

        assert (message.user_id, message.generation_id) == (user_id, generation_id)

    def test_enqueue_holds_a_unit(self, world: QueueWorld) -> None:
        """The user's unit is held, told back, and however long it waits; nothing is live."""
        user_id, generation_id = new_generation(world)

        told = enqueue(world, user_id, generation_id).quota.held
        world.advance(POLICY.lease * 2)
        snapshot = load(world, user_id, generation_id)

        assert (told, snapshot.quota.held, snapshot.live) == (1, 1, 0)

    def test_uncharged_enqueue_holds_nothing(self, world: QueueWorld) -> None:
        """Where the user shall not pay, no unit is set aside."""
        user_id, _ = new_queued(world, charge=False)

        assert quota_of(world, user_id).held == 0

    def test_enqueue_waits_out_the_backoff(self, world: QueueWorld) -> None:
        """During a wait it is accepted, and due when the wait is over; so is its message."""
        user_id, generation_id = new_generation(world)
        fail(world, claim_of(world, user_id, generation_id), delay=DELAY)

        queued = enqueue(world, user_id, generation_id)

        assert queued.next_attempt_at == world.attempts(generation_id)[0]["next_attempt_at"]
        assert (waiting(world), ready(world)) == ([generation_id], [])
        world.advance(DELAY)
        assert ready(world) == [generation_id]

    def test_enqueue_records_who_asked(self, world: QueueWorld) -> None:
        """Key, lifted limits and operator stand with the attempt."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id, waive=frozenset(Waiver), charge=False)

        try_enqueue(world, replace(admission, idempotency_key="click-1", operator="ada@example.com"))

        (row,) = world.attempts(generation_id)
        assert (row["idempotency_key"], row["operator"], row["charge"]) == ("click-1", "ada@example.com", False)
        assert set(row["waived"]) == {"backoff", "quota"}

    def test_enqueue_repeat_tells_the_same(self, world: QueueWorld) -> None:
        """A repeat with the same token accepts nothing more and sends nothing more."""
        user_id, generation_id = new_generation(world)
        admission, token = admission_to_enqueue(world, user_id, generation_id), uuid4()
        first = try_enqueue(world, admission, token)

        second = try_enqueue(world, admission, token)

        assert first is not None
        assert second is not None
        assert second == replace(first, as_of=second.as_of, generation=second.generation)
        assert numbers(world, generation_id) == [(2, None)]
        assert waiting(world) == [generation_id]

    def test_enqueue_repeat_ends_with_the_claim(self, world: QueueWorld) -> None:
        """After a worker began the attempt, a repeat accepts no second one."""
        user_id, generation_id = new_generation(world)
        admission, token = admission_to_enqueue(world, user_id, generation_id), uuid4()
        try_enqueue(world, admission, token)
        run(world, user_id, generation_id)

        assert try_enqueue(world, admission, token) is None
        assert numbers(world, generation_id) == [(2, None)]

    def test_enqueue_raises_when_generation_is_gone(self, world: QueueWorld) -> None:
        """A generation that was deleted since is not found, and nothing is held."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id)
        world.delete_generation(generation_id)

        with pytest.raises(GenerationNotFound):
            try_enqueue(world, admission)
        assert (world.attempts(generation_id), waiting(world)) == ([], [])

    def test_enqueue_raises_for_foreign_generation(self, world: QueueWorld) -> None:
        """Someone else's looks exactly like none."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id)

        with pytest.raises(GenerationNotFound):
            try_enqueue(world, replace(admission, user_id=world.new_user()))
        assert world.attempts(generation_id) == []

    @pytest.mark.parametrize("status", ["timeout", "success", "processing"])
    def test_enqueue_is_stale_after_status_change(self, world: QueueWorld, status: str) -> None:
        """What was decided on another status is not accepted; nothing is written."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id)
        world.set_generation(generation_id, status=status)

        assert try_enqueue(world, admission) is None
        assert (world.attempts(generation_id), waiting(world)) == ([], [])
        assert status_of(world, generation_id) == status

    def test_enqueue_is_stale_after_another_attempt(self, world: QueueWorld) -> None:
        """An attempt since, open or closed, makes the admission stale."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id)
        claim = claim_of(world, user_id, generation_id)

        while_open = try_enqueue(world, admission)
        fail(world, claim)

        assert (while_open, try_enqueue(world, admission)) == (None, None)
        assert outcomes(world, generation_id) == ["failed"]

    def test_enqueue_refuses_old_admission(self, world: QueueWorld) -> None:
        """An admission of more than ten seconds ago is stale."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id)

        assert try_enqueue(world, replace(admission, as_of=admission.as_of - 11 * SECOND)) is None

    def test_enqueue_keeps_below_the_limit(self, world: QueueWorld) -> None:
        """Queued units count: with one left, one of two is accepted."""
        user_id = world.new_user()
        world.set_quota(user_id, 1, timedelta(hours=24))
        admissions = [admission_to_enqueue(world, user_id, world.new_generation(user_id)) for _ in range(2)]

        accepted = [try_enqueue(world, each) for each in admissions]

        assert [each is not None for each in accepted] == [True, False]
        assert quota_of(world, user_id).remaining == 0

    def test_claim_keeps_below_the_limit(self, world: QueueWorld) -> None:
        """A queued unit counts against a retry that somebody waits for, too."""
        user_id = world.new_user()
        world.set_quota(user_id, 1, timedelta(hours=24))
        admission = admission_to(world, user_id, world.new_generation(user_id))
        enqueue(world, user_id, world.new_generation(user_id))

        assert try_claim(world, admission) is None

    def test_unit_of_a_dead_worker_stays_held(self, world: QueueWorld) -> None:
        """An accepted retry whose worker died goes on, so that its unit is nobody else's meanwhile."""
        claim = new_running(world)
        world.set_quota(claim.user_id, 1, timedelta(hours=24))
        world.advance(POLICY.lease)
        admission = admission_to_enqueue(
            world, claim.user_id, world.new_generation(claim.user_id), waive=frozenset({Waiver.QUOTA})
        )

        assert try_enqueue(world, replace(admission, max_used=1, waived=frozenset())) is None

    def test_enqueue_ignores_max_live(self, world: QueueWorld) -> None:
        """Who has as many running as may be is accepted: it waits."""
        user_id = world.new_user()
        claim_of(world, user_id, world.new_generation(user_id), policy=ONE_AT_ONCE)

        queued = enqueue(world, user_id, world.new_generation(user_id), policy=ONE_AT_ONCE)

        assert queued.attempt == 2

    def test_enqueue_sends_no_more_than_may_run(self, world: QueueWorld) -> None:
        """Of five accepted retries of a user who may run two, two have a message that is ready."""
        user_id = world.new_user()
        policy = replace(POLICY, max_parallel=2)
        generation_ids = [world.new_generation(user_id) for _ in range(5)]

        for each in generation_ids:
            enqueue(world, user_id, each, policy=policy)

        assert ready(world) == waiting(world) == generation_ids[:2]

    def test_hundred_retries_let_one_pass(self, world: QueueWorld) -> None:
        """Somebody's one retry stands behind as many of another's as may run, not behind all of them."""
        hoarder = world.new_user()
        policy = replace(POLICY, max_parallel=2)
        world.set_quota(hoarder, 100, timedelta(hours=24))
        for _ in range(20):
            enqueue(world, hoarder, world.new_generation(hoarder), policy=policy)

        _, generation_id = new_queued(world)

        assert ready(world).index(generation_id) == 2

    def test_race_to_enqueue_one_generation_has_one_winner(self, world: QueueWorld) -> None:
        """Of eight clicks at once one is accepted, with one message."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id)

        accepted = at_once([lambda: try_enqueue(world, admission)] * 8)

        assert sum(isinstance(each, QueuedRetry) for each in accepted) == 1
        assert numbers(world, generation_id) == [(2, None)]
        assert waiting(world) == [generation_id]

    def test_race_to_enqueue_keeps_the_limit(self, world: QueueWorld) -> None:
        """Of eight generations enqueued at once with three units left, three are accepted."""
        user_id = world.new_user()
        world.set_quota(user_id, 3, timedelta(hours=24))
        admissions = [admission_to_enqueue(world, user_id, world.new_generation(user_id)) for _ in range(8)]

        def enqueueing(admission: Admission) -> Callable[[], QueuedRetry | None]:
            return lambda: try_enqueue(world, admission)

        accepted = at_once([enqueueing(each) for each in admissions])

        assert sum(isinstance(each, QueuedRetry) for each in accepted) == 3
        assert quota_of(world, user_id).held == 3


class RunContract:
    """``claim_queued`` makes one worker the only one, atomically, and fences all others off."""

    def test_run_turns_queued_to_running(self, world: QueueWorld) -> None:
        """The same attempt runs, under a lease; its unit stays held, and the generation says processing."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id)
        token = uuid4()

        claim = try_run(world, admission, token)

        assert isinstance(claim, Claim)
        assert (claim.number, claim.token, claim.outage_failures) == (2, token, 0)
        assert POLICY.lease <= claim.lease_expires_at - admission.as_of < POLICY.lease + SHORT
        (row,) = world.attempts(generation_id)
        assert (row["token"], row["lease_expires_at"]) == (token, claim.lease_expires_at)
        snapshot = load(world, user_id, generation_id)
        assert (snapshot.live, snapshot.quota.held) == (1, 1)
        assert snapshot.attempts[-1].accepted_at is not None
        assert status_of(world, generation_id) == "processing"

    def test_run_repeat_returns_same_claim(self, world: QueueWorld) -> None:
        """A repeat with the same token is the same claim, whatever became of the attempt."""
        user_id, generation_id = new_queued(world)
        admission, token = admission_to_run(world, user_id, generation_id), uuid4()
        first = try_run(world, admission, token)
        assert isinstance(first, Claim)

        second = try_run(world, admission, token)
        fail(world, first)
        third = try_run(world, admission, token)

        assert first == second == third
        assert outcomes(world, generation_id) == ["failed"]

    def test_race_to_run_has_one_winner(self, world: QueueWorld) -> None:
        """Of eight workers with the same hint, one begins."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id)

        claims = at_once([lambda: try_run(world, admission)] * 8)

        assert sum(isinstance(claim, Claim) for claim in claims) == 1
        assert sum(claim is None for claim in claims) == 7
        assert numbers(world, generation_id) == [(2, None)]

    def test_race_of_workers_keeps_max_parallel(self, world: QueueWorld) -> None:
        """Of eight of a user's queued attempts claimed at once, as many begin as may run."""
        user_id = world.new_user()
        policy = replace(POLICY, max_parallel=2)
        world.set_quota(user_id, 8, timedelta(hours=24))
        generation_ids = [world.new_generation(user_id) for _ in range(8)]
        for each in generation_ids:
            enqueue(world, user_id, each, policy=policy)
        admissions = [admission_to_run(world, user_id, each, policy=policy) for each in generation_ids]

        def running(admission: Admission) -> Callable[[], Claim | Parked | None]:
            return lambda: try_run(world, admission)

        claims = at_once([running(each) for each in admissions])

        assert sum(isinstance(claim, Claim) for claim in claims) == 2
        assert sum(claim is None for claim in claims) == 6

    def test_run_keeps_below_max_live(self, world: QueueWorld) -> None:
        """A retry that somebody waits for takes a place, too; when it has ended there is one."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id, policy=ONE_AT_ONCE)
        claim = claim_of(world, user_id, world.new_generation(user_id))

        crowded = try_run(world, admission)
        fail(world, claim)

        assert crowded is None
        assert isinstance(try_run(world, admission), Claim)

    @pytest.mark.parametrize("status", ["success", "error"])
    def test_run_is_stale_after_status_change(self, world: QueueWorld, status: str) -> None:
        """What was decided on another status is not begun."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id)
        world.set_generation(generation_id, status=status)

        assert try_run(world, admission) is None
        assert is_queued(last_attempt(world, generation_id))

    def test_run_is_stale_after_the_end(self, world: QueueWorld) -> None:
        """A retry that was taken back, or settled, is not begun again."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id)
        cancel(world, user_id, generation_id)

        assert try_run(world, admission) is None
        assert outcomes(world, generation_id) == ["cancelled"]

    def test_run_needs_a_queued_attempt(self, world: QueueWorld) -> None:
        """Where nobody accepted a retry, a worker begins none."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_run(world, user_id, generation_id)

        assert try_run(world, admission) is None
        assert world.attempts(generation_id) == []

    def test_run_leaves_others_running_attempt(self, world: QueueWorld) -> None:
        """An attempt that somebody waits for is never taken over by a worker."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_run(world, user_id, generation_id)
        claim = claim_of(world, user_id, generation_id)

        assert try_run(world, admission) is None
        assert last_attempt(world, generation_id)["token"] == claim.token

    def test_run_refuses_old_admission(self, world: QueueWorld) -> None:
        """An admission of more than ten seconds ago is stale."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id)

        assert try_run(world, replace(admission, as_of=admission.as_of - 11 * SECOND)) is None

    def test_run_raises_when_generation_is_gone(self, world: QueueWorld) -> None:
        """A generation that was deleted since is not found."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id)
        world.delete_generation(generation_id)

        with pytest.raises(GenerationNotFound):
            try_run(world, admission)

    def test_nobody_else_claims_a_queued_attempt(self, world: QueueWorld) -> None:
        """A retry that was admitted before one was accepted does not begin beside it."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)
        enqueue(world, user_id, generation_id)

        assert try_claim(world, admission) is None
        assert is_queued(last_attempt(world, generation_id))

    def test_run_keeps_the_message(self, world: QueueWorld) -> None:
        """The message stands until the attempt is settled: who dies has lost nothing."""
        claim = new_running(world)

        assert waiting(world) == [claim.generation_id]


class SettleContract:
    """Whatever closes a queued attempt ends its message, or lets the retry go on, in the same transaction."""

    def test_succeed_ends_the_message(self, world: QueueWorld) -> None:
        """A success makes one session, captures the held unit, and deletes the message."""
        claim = new_running(world)

        succeed(world, claim)

        assert len(world.sessions(claim.user_id)) == 1
        quota = quota_of(world, claim.user_id)
        assert (quota.captured, quota.held) == (1, 0)
        assert waiting(world) == []
        assert event_types(world, claim.user_id) == ["ai_generation_succeeded"]
        assert status_of(world, claim.generation_id) == "success"

    def test_succeed_repeat_passes_no_second_message(self, world: QueueWorld) -> None:
        """Of a user's three retries, each settle lets one more into the line, a repeat none."""
        user_id = world.new_user()
        first, second, third = (world.new_generation(user_id) for _ in range(3))
        for each in (first, second, third):
            enqueue(world, user_id, each, policy=ONE_AT_ONCE)
        claim = run(world, user_id, first)

        succeed(world, claim)
        after_one = waiting(world)
        succeed(world, claim)

        assert after_one == waiting(world) == [second]
        assert is_queued(last_attempt(world, third))

    def test_fail_ends_the_message(self, world: QueueWorld) -> None:
        """A failure that is the last one releases the unit, tells the app, and passes the message on."""
        claim = new_running(world)
        other = world.new_generation(claim.user_id)
        enqueue(world, claim.user_id, other, policy=ONE_AT_ONCE)
        assert waiting(world) == [claim.generation_id]

        fail(world, claim)

        assert outcomes(world, claim.generation_id) == ["failed"]
        assert status_of(world, claim.generation_id) == "error"
        assert waiting(world) == [other]
        assert quota_of(world, claim.user_id).held == 1

    def test_next_message_goes_to_the_end_of_the_line(self, world: QueueWorld) -> None:
        """A user's next retry stands behind whoever came meanwhile."""
        user_id = world.new_user()
        first, second = (world.new_generation(user_id) for _ in range(2))
        for each in (first, second):
            enqueue(world, user_id, each, policy=ONE_AT_ONCE)
        _, others = new_queued(world)

        succeed(world, run(world, user_id, first))

        assert waiting(world) == [others, second]

    def test_next_message_is_for_who_is_due_first(self, world: QueueWorld) -> None:
        """Of a user's waiting retries the one that is due first comes first."""
        user_id = world.new_user()
        late, soon, first = (world.new_generation(user_id) for _ in range(3))
        fail(world, claim_of(world, user_id, late), delay=DELAY)
        enqueue(world, user_id, first, policy=ONE_AT_ONCE)
        for each in (late, soon):
            enqueue(world, user_id, each, policy=ONE_AT_ONCE)

        succeed(world, run(world, user_id, first))

        assert waiting(world) == [soon]

    def test_refused_session_goes_on(self, world: QueueWorld) -> None:
        """A session that the database refuses opens the next attempt, which has the answer and the unit."""
        claim = new_running(world)
        world.refuse_sessions("title_is_short")

        with pytest.raises(SessionRejected):
            succeed(world, claim)

        first, second = world.attempts(claim.generation_id)
        assert (first["outcome"], first["counted"], is_queued(second)) == ("failed", False, True)
        assert second["next_attempt_at"] == first["closed_at"] + REJECTED_WAIT
        assert second["accepted_at"] == first["accepted_at"]
        snapshot = load(world, claim.user_id, claim.generation_id)
        assert snapshot.stored_answer is not None
        assert (snapshot.generation.status.value, snapshot.quota.held) == ("queued", 1)
        assert (waiting(world), ready(world)) == ([claim.generation_id], [])

    def test_refused_session_is_made_by_the_next_attempt(self, world: QueueWorld) -> None:
        """When it is accepted at last, the stored answer becomes the session without a call, for one unit."""
        claim = new_running(world)
        world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            succeed(world, claim)
        world.refuse_sessions(None)
        world.advance(REJECTED_WAIT)

        succeed(world, run(world, claim.user_id, claim.generation_id), answer_from=claim.number)

        assert outcomes(world, claim.generation_id) == ["failed", "succeeded"]
        assert quota_of(world, claim.user_id).captured == 1
        assert waiting(world) == []

    def test_refused_again_goes_on_later(self, world: QueueWorld) -> None:
        """A second refusal by the same constraint puts the next attempt off for longer."""
        claim = new_running(world)
        world.refuse_sessions("title_is_short")
        for answer_from in (None, claim.number):
            with pytest.raises(SessionRejected):
                succeed(world, claim, answer_from=answer_from)
            world.advance(REJECTED_WAIT)
            claim = run(world, claim.user_id, claim.generation_id)

        second = world.attempts(claim.generation_id)[1]

        assert second["next_attempt_at"] == second["closed_at"] + REJECTED_AGAIN_WAIT

    def test_retry_later_opens_the_next_attempt(self, world: QueueWorld) -> None:
        """The failure is recorded, and the next attempt of the same accepted retry is due after the delay."""
        claim = new_running(world)

        retry_later(world, claim)

        first, second = world.attempts(claim.generation_id)
        assert (first["outcome"], first["code"], first["counted"]) == ("failed", "AI_UNAVAILABLE", True)
        assert (second["number"], is_queued(second)) == (3, True)
        assert second["next_attempt_at"] == first["closed_at"] + DELAY
        assert (second["accepted_at"], second["expires_at"]) == (first["accepted_at"], first["expires_at"])
        assert (waiting(world), ready(world)) == ([claim.generation_id], [])

    def test_retry_later_tells_the_app(self, world: QueueWorld) -> None:
        """The app's log and events tell of the failure; the generation says queued, and its unit stays held."""
        claim = new_running(world)

        retry_later(world, claim)

        (log,) = world.error_logs(claim.generation_id)
        assert log["error_type"] == "AI_UNAVAILABLE"
        assert event_types(world, claim.user_id) == ["ai_generation_failed"]
        assert status_of(world, claim.generation_id) == "queued"
        assert quota_of(world, claim.user_id).held == 1

    def test_retry_later_keeps_who_asked(self, world: QueueWorld) -> None:
        """Key, lifted limits, operator and charge go with the accepted retry."""
        user_id, generation_id = new_generation(world)
        admission = admission_to_enqueue(world, user_id, generation_id, waive=frozenset(Waiver), charge=False)
        try_enqueue(world, replace(admission, idempotency_key="click-1", operator="ada@example.com"))

        retry_later(world, run(world, user_id, generation_id))

        first, second = world.attempts(generation_id)
        columns = ("idempotency_key", "operator", "charge", "waived")
        assert [second[each] for each in columns] == [first[each] for each in columns]

    def test_retry_later_records_the_verdict(self, world: QueueWorld) -> None:
        """The attempt that failed says whether that may pass and who has to act; the next one has not failed."""
        claim = new_running(world)

        retry_later(world, claim, replace(FAILURE, transient=False, operator_fault=True))

        first, second = load(world, claim.user_id, claim.generation_id).attempts
        assert (first.transient, first.operator_fault) == (False, True)
        assert (second.transient, second.operator_fault) == (None, False)

    @pytest.mark.parametrize("end", ["accepted", "retry_later", "give_back", "rejected", "abandoned"])
    def test_reader_stays_with_the_accepted_retry(self, world: QueueWorld, end: str) -> None:
        """What read the context at acceptance is recorded, and goes with each attempt of the accepted retry."""
        user_id, generation_id = new_generation(world)
        try_enqueue(world, admission_to_enqueue(world, user_id, generation_id))
        if end != "accepted":
            self._end(world, run(world, user_id, generation_id), end)

        attempts = load(world, user_id, generation_id).attempts

        assert {each.context_reader for each in attempts} == {"ai_retry.domain.context:stored_context"}
        assert attempts[-1].is_queued

    @staticmethod
    def _end(world: QueueWorld, claim: Claim, end: str) -> None:
        """End a run so that the accepted retry goes on."""
        if end == "retry_later":
            retry_later(world, claim)
        elif end == "give_back":
            give_back(world, claim)
        elif end == "rejected":
            world.refuse_sessions("a_constraint")
            with pytest.raises(SessionRejected):
                succeed(world, claim)
        else:
            world.advance(POLICY.lease)
            world.storage.reap()

    def test_retry_later_repeat_opens_nothing_more(self, world: QueueWorld) -> None:
        """A repeat opens no second attempt and sends no second message."""
        claim = new_running(world)

        retry_later(world, claim)
        retry_later(world, claim)

        assert numbers(world, claim.generation_id) == [(2, "failed"), (3, None)]
        assert waiting(world) == [claim.generation_id]
        assert len(world.error_logs(claim.generation_id)) == 1

    def test_retry_later_repeat_leaves_the_next_attempt(self, world: QueueWorld) -> None:
        """A repeat that comes when the next attempt runs does not touch it."""
        claim = new_running(world)
        retry_later(world, claim, delay=AT_ONCE)
        second = run(world, claim.user_id, claim.generation_id)

        retry_later(world, claim, delay=AT_ONCE)

        assert last_attempt(world, claim.generation_id)["token"] == second.token
        assert numbers(world, claim.generation_id) == [(2, "failed"), (3, None)]

    def test_retry_later_raises_when_generation_is_gone(self, world: QueueWorld) -> None:
        """With the generation deleted nothing goes on, and no message stays."""
        claim = new_running(world)
        world.delete_generation(claim.generation_id)

        with pytest.raises(GenerationNotFound):
            retry_later(world, claim)

        assert outcomes(world, claim.generation_id) == ["failed"]
        assert (waiting(world), quota_of(world, claim.user_id).held) == ([], 0)

    def test_retry_later_yields_to_another_hand(self, world: QueueWorld) -> None:
        """With a success by another hand nothing goes on, and the unit is free."""
        claim = new_running(world)
        world.set_generation(claim.generation_id, status="success")

        with pytest.raises(AlreadySucceeded):
            retry_later(world, claim)

        assert outcomes(world, claim.generation_id) == ["failed"]
        assert status_of(world, claim.generation_id) == "success"
        assert (waiting(world), quota_of(world, claim.user_id).held) == ([], 0)

    def test_answer_after_another_hands_ends_the_message(self, world: QueueWorld) -> None:
        """A success by another hand meanwhile ends the message, and charges nothing."""
        claim = new_running(world)
        world.set_generation(claim.generation_id, status="success")

        with pytest.raises(AlreadySucceeded):
            succeed(world, claim)

        assert outcomes(world, claim.generation_id) == ["failed"]
        assert (waiting(world), quota_of(world, claim.user_id).held) == ([], 0)

    def test_answer_to_a_deleted_generation_ends_the_message(self, world: QueueWorld) -> None:
        """An answer to a deleted generation ends the message, and charges nothing."""
        claim = new_running(world)
        world.delete_generation(claim.generation_id)

        with pytest.raises(GenerationNotFound):
            succeed(world, claim)

        assert (waiting(world), quota_of(world, claim.user_id).held) == ([], 0)

    def test_settles_however_late(self, world: QueueWorld) -> None:
        """As long as the attempt is open its end counts, after the lease too."""
        claim = new_running(world)
        world.advance(POLICY.lease * 2)

        succeed(world, claim)

        assert outcomes(world, claim.generation_id) == ["succeeded"]
        assert waiting(world) == []


class GiveBackContract:
    """``give_back`` undoes a claim: no attempt is used, and the worker's token is worth nothing any more."""

    def test_give_back_uses_no_attempt(self, world: QueueWorld) -> None:
        """The same attempt waits again, due after the delay; the app is told of no failure."""
        claim = new_running(world)

        give_back(world, claim)

        (row,) = world.attempts(claim.generation_id)
        assert (row["number"], is_queued(row)) == (2, True)
        assert status_of(world, claim.generation_id) == "queued"
        assert (world.events(claim.user_id), world.error_logs(claim.generation_id)) == ([], [])
        assert quota_of(world, claim.user_id).held == 1
        assert (waiting(world), ready(world)) == ([claim.generation_id], [])
        world.advance(DELAY)
        assert ready(world) == [claim.generation_id]

    def test_given_back_is_run_again(self, world: QueueWorld) -> None:
        """The next worker claims the same attempt under a token of its own."""
        claim = new_running(world)
        give_back(world, claim, delay=AT_ONCE)

        again = run(world, claim.user_id, claim.generation_id)

        assert (again.number, again.token != claim.token) == (2, True)
        succeed(world, again)
        assert outcomes(world, claim.generation_id) == ["succeeded"]

    @pytest.mark.parametrize("settle", [succeed, fail, retry_later], ids=lambda settle: settle.__name__)
    def test_given_back_token_settles_nothing(
        self, world: QueueWorld, settle: Callable[[QueueWorld, Claim], object]
    ) -> None:
        """Whatever the former worker still brings changes nothing, waiting or running."""
        claim = new_running(world)
        give_back(world, claim, delay=AT_ONCE)
        for _ in ("queued", "running"):
            before = world.attempts(claim.generation_id)

            with pytest.raises(AiRetryError):
                settle(world, claim)

            assert world.attempts(claim.generation_id) == before
            try_run(world, admission_to_run(world, claim.user_id, claim.generation_id))
        assert world.sessions(claim.user_id) == []

    def test_given_back_token_claims_nothing(self, world: QueueWorld) -> None:
        """A repeat of the claim that was given back begins nothing: it is stale."""
        user_id, generation_id = new_queued(world)
        admission, token = admission_to_run(world, user_id, generation_id), uuid4()
        claim = try_run(world, admission, token)
        assert isinstance(claim, Claim)
        give_back(world, claim)

        assert try_run(world, admission, token) is None

    def test_give_back_repeat_leaves_the_next_worker(self, world: QueueWorld) -> None:
        """A repeat that comes when another worker runs it changes nothing."""
        claim = new_running(world)
        give_back(world, claim, delay=AT_ONCE)
        again = run(world, claim.user_id, claim.generation_id)

        give_back(world, claim, delay=AT_ONCE)

        row = last_attempt(world, claim.generation_id)
        assert (row["token"], row["lease_expires_at"]) == (again.token, again.lease_expires_at)

    def test_give_back_after_the_end_changes_nothing(self, world: QueueWorld) -> None:
        """What was settled is not queued again."""
        claim = new_running(world)
        succeed(world, claim)

        give_back(world, claim)

        assert outcomes(world, claim.generation_id) == ["succeeded"]
        assert waiting(world) == []

    def test_give_back_counts_requests(self, world: QueueWorld) -> None:
        """Requests that were turned away add up with those of the call that succeeds."""
        claim = new_running(world)
        give_back(world, claim, delay=AT_ONCE, wire_requests=2)
        again = run(world, claim.user_id, claim.generation_id)
        give_back(world, again, delay=AT_ONCE, wire_requests=1)

        succeed(world, run(world, claim.user_id, claim.generation_id))

        assert last_attempt(world, claim.generation_id)["wire_requests"] == 4

    def test_give_back_leaves_anothers_success(self, world: QueueWorld) -> None:
        """A status that the app wrote meanwhile stands."""
        claim = new_running(world)
        world.set_generation(claim.generation_id, status="success")

        give_back(world, claim)

        assert status_of(world, claim.generation_id) == "success"


class CancelContract:
    """``cancel`` takes back what no worker has begun."""

    @pytest.mark.parametrize("status", ["error", "timeout"])
    def test_cancel_puts_everything_back(self, world: QueueWorld, status: str) -> None:
        """The generation says what it said, the unit is free, the message gone; no attempt was used up."""
        user_id = world.new_user()
        generation_id = world.new_generation(user_id, status=status)
        enqueue(world, user_id, generation_id)

        assert cancel(world, user_id, generation_id) is None

        (row,) = world.attempts(generation_id)
        assert (row["outcome"], row["counted"], row["code"]) == ("cancelled", False, None)
        assert status_of(world, generation_id) == status
        assert (waiting(world), quota_of(world, user_id).held) == ([], 0)
        assert (world.events(user_id), world.error_logs(generation_id)) == ([], [])

    def test_cancelled_can_be_retried(self, world: QueueWorld) -> None:
        """Afterwards a retry is possible again, now or for later."""
        user_id, generation_id = new_queued(world)
        cancel(world, user_id, generation_id)

        enqueue(world, user_id, generation_id)
        cancel(world, user_id, generation_id)
        succeed(world, claim_of(world, user_id, generation_id))

        assert outcomes(world, generation_id) == ["cancelled", "cancelled", "succeeded"]

    def test_cancel_after_a_failure_says_how_it_failed(self, world: QueueWorld) -> None:
        """Taken back between two attempts, the generation says how the last one ended."""
        claim = new_running(world)
        retry_later(world, claim, replace(FAILURE, code=FailureCode.TIMEOUT))

        cancel(world, claim.user_id, claim.generation_id)

        assert status_of(world, claim.generation_id) == "timeout"
        assert outcomes(world, claim.generation_id) == ["failed", "cancelled"]

    def test_cancel_keeps_the_wait(self, world: QueueWorld) -> None:
        """Taking a retry back shortens no backoff."""
        user_id, generation_id = new_generation(world)
        fail(world, claim_of(world, user_id, generation_id), delay=DELAY)
        due_at = enqueue(world, user_id, generation_id).next_attempt_at

        cancel(world, user_id, generation_id)

        assert load(world, user_id, generation_id).attempts[-1].next_attempt_at == due_at

    def test_cancel_repeat_changes_nothing(self, world: QueueWorld) -> None:
        """A second time, or where nothing is queued, nothing happens."""
        user_id, generation_id = new_queued(world)
        cancel(world, user_id, generation_id)
        before = (world.attempts(generation_id), status_of(world, generation_id))

        assert cancel(world, user_id, generation_id) is None
        assert cancel(world, user_id, world.new_generation(user_id)) is None
        assert cancel(world, user_id, uuid4()) is None
        assert (world.attempts(generation_id), status_of(world, generation_id)) == before

    def test_cancel_leaves_a_running_attempt(self, world: QueueWorld) -> None:
        """Once a worker has begun nothing is changed, and the rest of its lease is told."""
        claim = new_running(world)

        left = cancel(world, claim.user_id, claim.generation_id)

        assert POLICY.lease - SHORT < left <= POLICY.lease
        assert last_attempt(world, claim.generation_id)["token"] == claim.token
        assert status_of(world, claim.generation_id) == "processing"
        assert waiting(world) == [claim.generation_id]

    def test_cancel_leaves_foreign_attempts(self, world: QueueWorld) -> None:
        """Someone else's looks like nothing, and stays."""
        _, generation_id = new_queued(world)

        assert cancel(world, world.new_user(), generation_id) is None
        assert is_queued(last_attempt(world, generation_id))

    def test_cancel_takes_back_what_a_dead_worker_left(self, world: QueueWorld) -> None:
        """An accepted retry whose worker died does not go on after it was taken back."""
        claim = new_running(world)
        world.advance(POLICY.lease)

        assert cancel(world, claim.user_id, claim.generation_id) is None

        assert outcomes(world, claim.generation_id) == ["abandoned", "cancelled"]
        assert status_of(world, claim.generation_id) == "timeout"
        assert (waiting(world), quota_of(world, claim.user_id).held) == ([], 0)

    def test_cancel_with_a_reason_tells_the_app(self, world: QueueWorld) -> None:
        """An accepted retry that ends without a call fails for its reason, which the app's log tells."""
        user_id, generation_id = new_queued(world)

        cancel(world, user_id, generation_id, RetryExpired())

        (row,) = world.attempts(generation_id)
        assert (row["outcome"], row["code"], row["counted"]) == ("failed", "RETRY_EXPIRED", False)
        assert [log["error_type"] for log in world.error_logs(generation_id)] == ["RETRY_EXPIRED"]
        assert event_types(world, user_id) == ["ai_generation_failed"]
        assert status_of(world, generation_id) == "error"
        assert (waiting(world), quota_of(world, user_id).held) == ([], 0)

    def test_cancel_leaves_anothers_success(self, world: QueueWorld) -> None:
        """A success by another hand stays one; the queued attempt ends."""
        user_id, generation_id = new_queued(world)
        world.set_generation(generation_id, status="success")

        cancel(world, user_id, generation_id, RetryExpired())

        assert status_of(world, generation_id) == "success"
        assert (waiting(world), world.error_logs(generation_id)) == ([], [])
        assert last_attempt(world, generation_id)["outcome"] is not None

    def test_cancel_without_its_generation_releases(self, world: QueueWorld) -> None:
        """The queued attempt of a deleted generation ends, too."""
        user_id, generation_id = new_queued(world)
        world.delete_generation(generation_id)

        cancel(world, user_id, generation_id)

        assert outcomes(world, generation_id) == ["cancelled"]
        assert (waiting(world), quota_of(world, user_id).held) == ([], 0)

    def test_cancel_passes_the_message_on(self, world: QueueWorld) -> None:
        """The user's next retry takes its place in the line."""
        user_id = world.new_user()
        first, second = (world.new_generation(user_id) for _ in range(2))
        for each in (first, second):
            enqueue(world, user_id, each, policy=ONE_AT_ONCE)

        cancel(world, user_id, first)

        assert waiting(world) == [second]

    def test_cancel_of_one_in_waiting_keeps_the_line(self, world: QueueWorld) -> None:
        """Taking back a retry that has no message yet sends none."""
        user_id = world.new_user()
        first, second, third = (world.new_generation(user_id) for _ in range(3))
        for each in (first, second, third):
            enqueue(world, user_id, each, policy=ONE_AT_ONCE)

        cancel(world, user_id, second)

        assert waiting(world) == [first]

    def test_race_of_cancel_and_run_has_one_winner(self, world: QueueWorld) -> None:
        """A click and a worker at once: either it was taken back, or it runs and the click is told so."""
        user_id, generation_id = new_queued(world)
        admission = admission_to_run(world, user_id, generation_id)
        calls: list[Callable[[], object]] = [
            lambda: try_run(world, admission),
            lambda: cancel(world, user_id, generation_id),
        ]

        claim, left = at_once(calls)

        began = isinstance(claim, Claim)
        assert outcomes(world, generation_id) == ([None] if began else ["cancelled"])
        assert isinstance(left, timedelta) is began


class AbandonmentContract:
    """An accepted retry goes on when its worker died, by whoever notices first."""

    def test_abandoned_by_a_claim_goes_on(self, world: QueueWorld) -> None:
        """The same user's next claim closes it and opens its next attempt; the unit stays held."""
        claim = new_running(world)
        world.advance(POLICY.lease)

        claim_of(world, claim.user_id, world.new_generation(claim.user_id))

        self._goes_on(world, claim)

    def test_abandoned_by_a_worker_goes_on(self, world: QueueWorld) -> None:
        """A worker that comes for it finds, in the end, the next attempt queued."""
        claim = new_running(world)
        world.advance(POLICY.lease)

        at_first = try_run(world, admission_to_run(world, claim.user_id, claim.generation_id))
        self._goes_on(world, claim)
        again = try_run(world, admission_to_run(world, claim.user_id, claim.generation_id))

        assert at_first is None
        assert isinstance(again, Claim)
        assert again.number == 3

    def test_abandoned_by_the_reaper_goes_on(self, world: QueueWorld) -> None:
        """A scheduled job does the same, and tells the app."""
        claim = new_running(world)
        world.advance(POLICY.lease)

        assert (world.storage.reap(), world.storage.reap()) == (True, False)

        self._goes_on(world, claim)
        assert status_of(world, claim.generation_id) == "queued"
        assert [log["error_type"] for log in world.error_logs(claim.generation_id)] == ["LEASE_LOST"]

    def test_reaper_leaves_who_somebody_waited_for(self, world: QueueWorld) -> None:
        """An abandoned retry that nobody accepted for later does not go on."""
        user_id, generation_id = new_generation(world)
        claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)

        assert (world.storage.reap(), world.storage.reap()) == (True, False)

        assert outcomes(world, generation_id) == ["abandoned"]
        assert status_of(world, generation_id) == "timeout"
        assert waiting(world) == []

    def test_abandoned_and_lost_is_resent(self, world: QueueWorld) -> None:
        """With its message lost as well, any worker's tidying opens the next attempt and sends a message."""
        claim = new_running(world)
        world.lose_messages()
        world.advance(POLICY.lease + A_MINUTE)

        assert world.storage.resend(max_live=2, limit=10) == 1

        self._goes_on(world, claim)

    def test_late_failure_of_abandoned_opens_nothing(self, world: QueueWorld) -> None:
        """What the dead worker brings late opens no second attempt and gives none back."""
        claim = new_running(world)
        world.advance(POLICY.lease)
        world.storage.reap()

        with pytest.raises(LeaseLost):
            retry_later(world, claim)
        give_back(world, claim)

        self._goes_on(world, claim)

    def test_late_answer_of_abandoned_is_used(self, world: QueueWorld) -> None:
        """An answer that came too late is kept, and the next attempt makes the session of it, for one unit."""
        claim = new_running(world)
        world.advance(POLICY.lease)
        world.storage.reap()

        with pytest.raises(LeaseLost):
            succeed(world, claim)
        admission = admission_to_run(world, claim.user_id, claim.generation_id)
        again = try_run(world, admission)
        assert isinstance(again, Claim)
        succeed(world, again, answer_from=claim.number)

        assert admission.context is None
        assert outcomes(world, claim.generation_id) == ["abandoned", "succeeded"]
        assert quota_of(world, claim.user_id).captured == 1
        assert waiting(world) == []

    def test_race_of_late_answer_and_reaper_fences(self, world: QueueWorld) -> None:
        """A late answer against the reaper: a session, or a kept answer and the next attempt, never both."""
        claim = new_running(world)
        world.advance(POLICY.lease)
        calls: list[Callable[[], object]] = [lambda: succeed(world, claim), world.storage.reap]

        at_once(calls)

        sessions = len(world.sessions(claim.user_id))
        assert outcomes(world, claim.generation_id) == (["succeeded"] if sessions else ["abandoned", None])
        assert len(waiting(world)) == 1 - sessions

    @staticmethod
    def _goes_on(world: QueueWorld, claim: Claim) -> None:
        first, second = world.attempts(claim.generation_id)
        assert (first["outcome"], first["code"]) == (Outcome.ABANDONED, "LEASE_LOST")
        assert (second["number"], is_queued(second)) == (3, True)
        assert second["next_attempt_at"] == first["next_attempt_at"]
        assert second["accepted_at"] == first["accepted_at"]
        assert second["expires_at"] == first["expires_at"]
        assert waiting(world) == [claim.generation_id]
        assert quota_of(world, claim.user_id).held >= 1


class MessagesContract:
    """A message is a hint: it may come twice, late or not at all, and nothing happens twice or never."""

    def test_receive_gives_nothing_when_nothing_is_queued(self, world: QueueWorld) -> None:
        """An empty queue is no error."""
        assert list(receive(world)) == []

    def test_received_message_is_hidden_for_a_while(self, world: QueueWorld) -> None:
        """Others don't see it before its visibility ends; then it comes again."""
        _, generation_id = new_queued(world)

        first, second = receive(world), receive(world)
        world.advance(VISIBILITY)
        third = receive(world)

        assert [[each.generation_id for each in one] for one in (first, second, third)] == [
            [generation_id],
            [],
            [generation_id],
        ]

    def test_receive_gives_the_oldest_up_to_its_limit(self, world: QueueWorld) -> None:
        """Who came first is served first."""
        generation_ids = [new_queued(world)[1] for _ in range(4)]

        first, second = receive(world, limit=3), receive(world, limit=3)

        assert {each.generation_id for each in first} == set(generation_ids[:3])
        assert [each.generation_id for each in second] == generation_ids[3:]

    def test_race_to_receive_gives_each_message_once(self, world: QueueWorld) -> None:
        """Of eight workers that read at once no two get the same message."""
        generation_ids = [new_queued(world)[1] for _ in range(8)]

        received = at_once([lambda: receive(world, limit=2)] * 8)

        got = [each.generation_id for one in received if not isinstance(one, AiRetryError) for each in one]
        assert sorted(got) == sorted(generation_ids)

    @pytest.mark.parametrize("payload", GARBAGE, ids=repr)
    def test_garbage_is_deleted(self, world: QueueWorld, payload: Any) -> None:
        """A message that is none of ours is dropped, and stops nobody."""
        world.send_message(payload)
        _, generation_id = new_queued(world)

        assert [each.generation_id for each in receive(world)] == [generation_id]
        assert waiting(world) == [generation_id]

    def test_duplicate_is_deleted(self, world: QueueWorld) -> None:
        """A message that is not its attempt's own is dropped when it is put back; the attempt keeps its own."""
        user_id, generation_id = new_queued(world)
        world.send_message({"user_id": str(user_id), "generation_id": str(generation_id)})
        own, duplicate = receive(world)

        world.storage.postpone(duplicate, delay=AT_ONCE)

        assert [row["id"] for row in world.messages()] == [own.id]
        assert is_queued(last_attempt(world, generation_id))

    def test_attempt_begun_by_a_duplicate_ends_its_own_message(self, world: QueueWorld) -> None:
        """Whichever message leads to the attempt, what is left afterwards starts nothing and is dropped."""
        user_id, generation_id = new_queued(world)
        world.send_message({"user_id": str(user_id), "generation_id": str(generation_id)})
        _, duplicate = receive(world)

        succeed(world, run(world, user_id, generation_id))
        world.storage.postpone(duplicate, delay=AT_ONCE)

        assert waiting(world) == []
        assert outcomes(world, generation_id) == ["succeeded"]

    def test_postpone_puts_the_attempt_off(self, world: QueueWorld) -> None:
        """Message and attempt come back together, after the delay."""
        user_id, generation_id = new_queued(world)
        (message,) = receive(world)

        world.storage.postpone(message, delay=DELAY)

        row = last_attempt(world, generation_id)
        assert row["next_attempt_at"] - row["accepted_at"] >= DELAY
        assert (waiting(world), ready(world)) == ([generation_id], [])
        world.advance(DELAY)
        assert [each.user_id for each in receive(world)] == [user_id]

    def test_postpone_by_nothing_gives_it_to_another_worker(self, world: QueueWorld) -> None:
        """Who stops puts back what it did not begin, and others have it at once."""
        _, generation_id = new_queued(world)
        (message,) = receive(world)

        world.storage.postpone(message, delay=AT_ONCE)
        world.storage.postpone(message, delay=AT_ONCE)

        assert ready(world) == [generation_id]

    def test_postpone_lets_a_running_attempt_be(self, world: QueueWorld) -> None:
        """While a worker has the attempt its message waits for the end of the lease, not for less."""
        user_id, generation_id = new_queued(world)
        (message,) = receive(world)
        claim = run(world, user_id, generation_id)

        world.storage.postpone(message, delay=AT_ONCE)

        row = last_attempt(world, generation_id)
        assert (row["token"], row["lease_expires_at"]) == (claim.token, claim.lease_expires_at)
        assert ready(world) == []
        world.advance(POLICY.lease + SECOND)
        assert ready(world) == [generation_id]

    def test_postpone_deletes_what_belongs_to_no_attempt(self, world: QueueWorld) -> None:
        """A message whose attempt has ended, or whose generation or user is gone, is dropped."""
        user_id, _ = new_queued(world)
        (message,) = receive(world)
        world.delete_user(user_id)

        world.storage.postpone(message, delay=AT_ONCE)

        assert waiting(world) == []

    def test_postpone_deletes_foreign_hints(self, world: QueueWorld) -> None:
        """A message that names another user's generation moves nothing of theirs."""
        _, generation_id = new_queued(world)
        (message,) = receive(world)
        before = last_attempt(world, generation_id)

        world.storage.postpone(replace(message, user_id=world.new_user()), delay=DELAY)

        assert last_attempt(world, generation_id) == before

    def test_lost_message_comes_back_after_a_minute(self, world: QueueWorld) -> None:
        """A queued attempt that was due for a minute without a message is sent one; not before, and once."""
        _, generation_id = new_queued(world)
        world.lose_messages()

        early = world.storage.resend(max_live=2, limit=10)
        world.advance(A_MINUTE)
        late, again = (world.storage.resend(max_live=2, limit=10) for _ in range(2))

        assert (early, late, again) == (0, 1, 0)
        assert ready(world) == [generation_id]

    def test_resend_leaves_who_waits_in_line(self, world: QueueWorld) -> None:
        """However long the line, who has a message in it, received or not, gets no second one."""
        new_queued(world)
        user_id, generation_id = new_queued(world)
        receive(world, limit=1)
        for each in (world.new_generation(user_id) for _ in range(2)):
            enqueue(world, user_id, each, policy=ONE_AT_ONCE)
        before = waiting(world)
        world.advance(A_MINUTE * 10)

        assert world.storage.resend(max_live=1, limit=10) == 0
        assert waiting(world) == before
        assert generation_id in before

    def test_resend_leaves_who_is_not_due(self, world: QueueWorld) -> None:
        """A lost message is missed a minute after its attempt is due, however long that is."""
        claim = new_running(world)
        retry_later(world, claim, delay=A_MINUTE * 3)
        world.lose_messages()
        world.advance(A_MINUTE * 2)
        early = world.storage.resend(max_live=2, limit=10)
        world.advance(A_MINUTE * 2)

        assert (early, world.storage.resend(max_live=2, limit=10)) == (0, 1)

    def test_resend_stops_at_its_limit(self, world: QueueWorld) -> None:
        """As many users are served as were asked for, the longest due first; the others next time."""
        generation_ids = [new_queued(world)[1] for _ in range(3)]
        world.lose_messages()
        world.advance(A_MINUTE * 2)

        sent = [world.storage.resend(max_live=2, limit=2) for _ in range(3)]

        assert sent == [2, 1, 0]
        assert waiting(world) == generation_ids

    def test_race_to_resend_sends_once(self, world: QueueWorld) -> None:
        """Workers that tidy at once send one message."""
        _, generation_id = new_queued(world)
        world.lose_messages()
        world.advance(A_MINUTE * 2)

        at_once([lambda: world.storage.resend(max_live=2, limit=10)] * 8)

        assert waiting(world) == [generation_id]

    def test_every_message_lost_every_retry_comes_back(self, world: QueueWorld) -> None:
        """After the queue was emptied all of a user's retries are served, one after the other."""
        user_id = world.new_user()
        generation_ids = [world.new_generation(user_id) for _ in range(3)]
        for each in generation_ids:
            enqueue(world, user_id, each, policy=ONE_AT_ONCE)
        world.lose_messages()
        world.advance(A_MINUTE)
        world.storage.resend(max_live=1, limit=10)
        served = []
        while messages := receive(world):
            for message in messages:
                served.append(message.generation_id)
                succeed(world, run(world, user_id, message.generation_id))

        assert sorted(served) == sorted(generation_ids)


class ExpiryContract:
    """An accepted retry ends: at its time at the latest."""

    def test_reaper_ends_who_is_out_of_time(self, world: QueueWorld) -> None:
        """A queued attempt whose time is up fails with the reason, tells the app, and releases its unit."""
        user_id, generation_id = new_queued(world, expires_after=DELAY)
        world.advance(DELAY)

        assert (world.storage.reap(), world.storage.reap()) == (True, False)

        (row,) = world.attempts(generation_id)
        assert (row["outcome"], row["code"]) == ("failed", "RETRY_EXPIRED")
        assert [log["error_type"] for log in world.error_logs(generation_id)] == ["RETRY_EXPIRED"]
        assert status_of(world, generation_id) == "error"
        assert (waiting(world), quota_of(world, user_id).held) == ([], 0)

    def test_reaper_leaves_who_has_time(self, world: QueueWorld) -> None:
        """Before its time nothing is ended, however long it has been due."""
        _, generation_id = new_queued(world)
        world.advance(EXPIRES_AFTER - SHORT)

        assert not world.storage.reap()
        assert is_queued(last_attempt(world, generation_id))

    def test_reaper_leaves_a_running_attempt_its_lease(self, world: QueueWorld) -> None:
        """What runs when its time is up may end, until the end of its lease."""
        user_id, generation_id = new_queued(world, expires_after=SHORT)
        claim = run(world, user_id, generation_id)
        world.advance(SHORT)

        assert not world.storage.reap()
        succeed(world, claim)
        assert outcomes(world, generation_id) == ["succeeded"]


class OutageContract:
    """Work for a provider that is away waits, and uses up no attempt; it comes back step by step."""

    def test_closed_route_parks(self, world: QueueWorld) -> None:
        """While a route is closed nobody is sent there: a worker's claim puts the attempt off until it opens.

        Its message comes later: by the spread for each that waits, so that many of them don't look at once.
        """
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage(timedelta(seconds=60)))
        user_id, generation_id = new_queued(world)
        receive(world)

        parked = try_run(world, admission_to_run(world, user_id, generation_id), route=route, spread=3 * SECOND)

        assert isinstance(parked, Parked)
        assert timedelta(seconds=66) - SHORT < parked.retry_after <= timedelta(seconds=66)
        (row,) = world.attempts(generation_id)
        assert (row["number"], is_queued(row)) == (2, True)
        assert row["next_attempt_at"] - row["accepted_at"] >= parked.retry_after - 6 * SECOND
        assert status_of(world, generation_id) == "queued"
        assert generation_id not in ready(world)
        world.advance(parked.retry_after + SECOND)
        assert generation_id in ready(world)

    def test_other_routes_stay_open(self, world: QueueWorld) -> None:
        """An outage is its route's alone; who asks nobody needs none."""
        give_back(world, new_running(world, route=new_route()), outage=an_outage())

        assert isinstance(new_running(world, route=new_route()), Claim)
        assert isinstance(new_running(world, route=None), Claim)

    @pytest.mark.parametrize("end", [give_back, retry_later], ids=lambda end: end.__name__)
    def test_outage_is_told_to_the_next_claim(self, world: QueueWorld, end: Callable[..., None]) -> None:
        """Whoever asks next learns how often the route failed in a row, so that probes get rarer."""
        route = new_route()
        end(world, new_running(world, route=route), outage=an_outage(failures=1))
        world.advance(SHORT)
        second = new_running(world, route=route)
        end(world, second, outage=an_outage(failures=2))
        world.advance(SHORT)

        assert (second.outage_failures, new_running(world, route=route).outage_failures) == (1, 2)

    def test_one_probe_when_it_opens(self, world: QueueWorld) -> None:
        """When the wait is over one call probes the route; the others are put off, by the spread for each of them."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)
        new_running(world, route=route)

        parked = self._try_new(world, route, spread=2 * SECOND)

        assert parked == Parked(retry_after=4 * SECOND)

    def test_race_of_probes_has_one_winner(self, world: QueueWorld) -> None:
        """Of eight workers that come when the route opens, one probes it at most."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)
        admissions = [admission_to_run(world, *new_queued(world)) for _ in range(8)]

        def probing(admission: Admission) -> Callable[[], Claim | Parked | None]:
            return lambda: try_run(world, admission, route=route)

        results = at_once([probing(each) for each in admissions])

        assert sum(isinstance(each, Claim) for each in results) == 1
        assert sum(isinstance(each, Parked) for each in results) == 7

    def test_answers_double_the_slots(self, world: QueueWorld) -> None:
        """Each answer lets twice as many run; after the seventh doubling as many as like."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)
        slots = []
        for _ in range(7):
            slots.append(self._slots(world, route))
            succeed(world, new_running(world, route=route))

        assert slots == [1, 2, 4, 8, 16, 32, 64]
        assert self._slots(world, route) is None
        assert new_running(world, route=route).outage_failures == 0

    def test_slots_are_kept(self, world: QueueWorld) -> None:
        """With two slots two run, and a third waits for one of them."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)
        succeed(world, new_running(world, route=route))
        first, _ = (new_running(world, route=route) for _ in range(2))

        crowded = self._try_new(world, route)
        fail(world, first, TURNED_AWAY)

        assert isinstance(crowded, Parked)
        assert isinstance(self._try_new(world, route), Claim)

    def test_slot_of_a_dead_worker_is_free(self, world: QueueWorld) -> None:
        """A probe whose lease ran out keeps nobody from probing."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)
        new_running(world, route=route)
        world.advance(POLICY.lease)

        assert isinstance(self._try_new(world, route), Claim)

    @pytest.mark.parametrize(
        "failure",
        [
            replace(FAILURE, code=FailureCode.INVALID_OUTPUT),
            replace(FAILURE, code=FailureCode.REJECTED, certainly_not_generated=True),
        ],
        ids=lambda failure: failure.code,
    )
    def test_a_useless_answer_is_one(self, world: QueueWorld, failure: Failure) -> None:
        """A provider that answers what can't be used, or refuses the request, is there."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)

        fail(world, new_running(world, route=route), failure)

        assert self._slots(world, route) == 2

    def test_silence_proves_nothing(self, world: QueueWorld) -> None:
        """A probe that got no answer in time opens nothing, and closes nothing."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)

        retry_later(world, new_running(world, route=route), replace(FAILURE, code=FailureCode.TIMEOUT))

        assert self._slots(world, route) == 1

    def test_answers_of_before_the_outage_prove_nothing(self, world: QueueWorld) -> None:
        """An answer to a call that began before the latest failure opens nothing."""
        route = new_route()
        early, failing = (new_running(world, route=route) for _ in range(2))
        world.advance(SECOND)
        give_back(world, failing, outage=an_outage())
        world.advance(SHORT)

        succeed(world, early)

        assert self._slots(world, route) == 1

    def test_failing_probe_closes_again(self, world: QueueWorld) -> None:
        """A failure closes the route anew, however many slots it had."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        world.advance(SHORT)
        for _ in range(3):
            succeed(world, new_running(world, route=route))

        give_back(world, new_running(world, route=route), outage=an_outage(failures=2))

        assert isinstance(self._try_new(world, route), Parked)
        world.advance(SHORT)
        assert self._slots(world, route) == 1

    def test_answer_wakes_who_waits(self, world: QueueWorld) -> None:
        """Who waits for a route need not look whether it is open: an answer wakes as many as may run."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        others = [new_queued(world) for _ in range(3)]
        for other in others:
            try_run(world, admission_to_run(world, *other), route=route, spread=A_MINUTE)
        world.advance(SHORT)
        probe = new_running(world, route=route)

        succeed(world, probe)

        assert set(ready(world)) & {generation_id for _, generation_id in others} == {others[0][1], others[1][1]}

    def test_answer_wakes_every_users_first(self, world: QueueWorld) -> None:
        """Of those who wait, a user's second is woken after everybody's first."""
        route = new_route()
        give_back(world, new_running(world, route=route), outage=an_outage())
        user_id, first = new_queued(world)
        second = world.new_generation(user_id)
        enqueue(world, user_id, second)
        other_user_id, other = new_queued(world)
        for each in ((user_id, first), (user_id, second), (other_user_id, other)):
            try_run(world, admission_to_run(world, *each), route=route, spread=A_MINUTE)
        world.advance(SHORT)

        succeed(world, new_running(world, route=route))

        assert set(ready(world)) & {first, second, other} == {first, other}

    def test_doubts_close_a_route_when_there_are_many(self, world: QueueWorld) -> None:
        """Failures that each may be the fault of one request close the route when so many came in a row; they count."""
        route = new_route()
        for _ in range(2):
            retry_later(world, claim := new_running(world, route=route), outage=a_doubt(3))
            assert world.attempts(claim.generation_id)[0]["counted"]
            assert self._slots(world, route) is None
        assert new_running(world, route=route).outage_failures == 0

        retry_later(world, new_running(world, route=route), outage=a_doubt(3))

        assert self._slots(world, route) == 1
        assert isinstance(self._try_new(world, route), Parked)

    def test_answer_ends_doubts(self, world: QueueWorld) -> None:
        """An answer between them takes failures their weight."""
        route = new_route()
        retry_later(world, new_running(world, route=route), outage=a_doubt(2))
        succeed(world, new_running(world, route=route))

        retry_later(world, new_running(world, route=route), outage=a_doubt(2))

        assert isinstance(self._try_new(world, route), Claim)

    def test_overloaded_provider_uses_up_no_attempt(self, world: QueueWorld) -> None:
        """That a provider takes nobody's requests is no fault of the generation's, whatever it may have cost."""
        claim = new_running(world, route=new_route())

        retry_later(world, claim, replace(FAILURE, overloaded=True), outage=an_outage())

        assert not world.attempts(claim.generation_id)[0]["counted"]

    def test_failures_side_by_side_count_as_one(self, world: QueueWorld) -> None:
        """Calls that ran together and failed together are one failure, with the longest of their waits."""
        route = new_route()
        first, second = (new_running(world, route=route) for _ in range(2))
        give_back(world, first, outage=an_outage(wait=timedelta(seconds=60)))
        give_back(world, second, outage=an_outage(wait=SECOND))

        (state,) = (each for each in world.storage.queue_state().outages if each.route == route)

        assert (state.failures, state.slots) == (1, 1)
        assert state.not_before - world.storage.queue_state().as_of > SHORT - 10 * SECOND
        assert isinstance(self._try_new(world, route), Parked)

    @staticmethod
    def _try_new(world: QueueWorld, route: str, *, spread: timedelta = AT_ONCE) -> Claim | Parked | None:
        return try_run(world, admission_to_run(world, *new_queued(world)), route=route, spread=spread)

    @staticmethod
    def _slots(world: QueueWorld, route: str) -> int | None:
        return next((each.slots for each in world.storage.queue_state().outages if each.route == route), None)


class QueueStateContract:
    """``queue_state`` counts, and writes nothing."""

    def test_state_of_an_empty_queue(self, world: QueueWorld) -> None:
        """With nothing accepted everything is zero."""
        state = world.storage.queue_state()

        assert state.configured
        assert (state.queued, state.due, state.parked, state.running) == (0, 0, 0, 0)
        assert state.oldest_accepted_at is None

    def test_state_counts_what_waits_and_runs(self, world: QueueWorld) -> None:
        """Due, waiting and running ones are told apart; what nobody accepted for later is none of them."""
        user_id, generation_id = new_generation(world)
        claim_of(world, user_id, generation_id)
        oldest = enqueue(world, *new_generation(world))
        retry_later(world, new_running(world))
        new_running(world)

        state = world.storage.queue_state()

        assert (state.queued, state.due, state.parked, state.running) == (2, 1, 0, 1)
        assert state.oldest_accepted_at == oldest.accepted_at

    def test_state_counts_who_waits_for_a_provider(self, world: QueueWorld) -> None:
        """Parked are those that a closed route holds up, whoever found it closed; its state is told."""
        route = new_route()
        give_back(world, new_running(world, route=route), delay=SHORT, outage=an_outage(failures=3))
        try_run(world, admission_to_run(world, *new_queued(world)), route=route)

        state = world.storage.queue_state()

        assert (state.queued, state.due, state.parked) == (2, 0, 2)
        (outage,) = (each for each in state.outages if each.route == route)
        assert (outage.failures, outage.slots) == (3, 1)
        assert state.as_of < outage.not_before <= state.as_of + SHORT


class QueueStorageContract(
    EnqueueContract,
    RunContract,
    SettleContract,
    GiveBackContract,
    CancelContract,
    AbandonmentContract,
    MessagesContract,
    ExpiryContract,
    OutageContract,
    QueueStateContract,
):
    """Every promise of the ``QueueStorage`` port that ``Storage`` does not make; a subclass gives ``world``."""
