"""The storage contract: what every adapter of the ``Storage`` port must do, one test per promise.

An adapter's test module gives a fixture ``world`` and inherits the rest::

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def world(self) -> World:
            return MyWorld()

Its ``conftest.py`` calls ``pytest.register_assert_rewrite("ai_retry.testing.contract")``, so that a failing promise
shows its values. Time may go on by itself during a test, but by less than ten seconds; no test waits.
"""
# ruff: noqa: S101, PLR2004 (this module is tests, and the numbers in them are counts)

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    GenerationFailed,
    GenerationNotFound,
    LeaseLost,
    SessionRejected,
)
from ai_retry.domain.model import (
    Admission,
    Answer,
    Claim,
    Failure,
    FailureCode,
    Generation,
    GenerationStatus,
    Outcome,
    Quota,
    QuotaRule,
    Settled,
    Snapshot,
    Usage,
    Waiver,
)
from ai_retry.domain.policy import RetryPolicy, admit
from ai_retry.domain.ports import Storage
from ai_retry.storage.memory import InMemoryStorage, Session, SessionRefused, new_session
from ai_retry.testing.clock import ManualClock

Result = TypeVar("Result")
Row = Mapping[str, Any]  # a table's row: instants aware, ids as UUID, names from the glossary

SECOND = timedelta(seconds=1)
SHORT = timedelta(seconds=30)  # more than a test takes, less than a lease
PROMPT_DATA = {"messages": [{"role": "user", "content": "Plan an easy run."}]}
POLICY = RetryPolicy(max_attempts=10, max_parallel=8, quota=QuotaRule(limit=5, window=timedelta(hours=24)))
ANSWER = Answer(
    output={"title": "Easy run", "km": [5, 7.5], "note": None},
    model="small",
    usage=Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46),
    provider_id="gen-1",
)
FAILURE = Failure(
    code=FailureCode.UNAVAILABLE,
    reason="503 from the upstream",
    transient=True,
    certainly_not_generated=False,
)
REJECTED_WAIT = timedelta(seconds=3)
REJECTED_AGAIN_WAIT = timedelta(seconds=300)


class World(Protocol):
    """A storage under test, and the app and the time around it. Each test has a world of its own."""

    @property
    def storage(self) -> Storage:
        """The adapter; up to eight threads use it at once."""
        ...

    def new_user(self) -> UUID:
        """Add a user without anything."""
        ...

    def new_generation(self, user_id: UUID, *, status: str = "error", age: timedelta = timedelta(0)) -> UUID:
        """Add a generation that the app made ``age`` ago, its ``prompt_data`` being ``PROMPT_DATA``."""
        ...

    def generation(self, generation_id: UUID) -> Row:
        """Read the app's row: ``status``, ``session_id``, ``duration_ms`` and ``created_at`` at least."""
        ...

    def set_generation(self, generation_id: UUID, **columns: Any) -> None:
        """Write columns of the app's row as the app would, behind our back: ``status`` or ``user_id``."""
        ...

    def delete_generation(self, generation_id: UUID) -> None:
        """Delete the app's row, and what the app deletes with it."""
        ...

    def delete_user(self, user_id: UUID) -> None:
        """Delete the user and all that is theirs."""
        ...

    def set_quota(self, user_id: UUID, limit: int, window: timedelta) -> None:
        """Override the user's quota."""
        ...

    def refuse_sessions(self, constraint: str | None) -> None:
        """Make the seam refuse sessions by this constraint from now on; None: accept them again."""
        ...

    def advance(self, duration: timedelta) -> None:
        """Let time pass.

        Where the storage's time can't be set, move every stored instant of this world's generations and attempts back
        by as much. Tests hold no snapshot, admission or instant across it.
        """
        ...

    def attempts(self, generation_id: UUID) -> Sequence[Row]:
        """Rows of our attempts at it, by number."""
        ...

    def sessions(self, user_id: UUID) -> Sequence[Row]:
        """Rows of the user's sessions, linked or not: ``id`` and ``content`` at least."""
        ...

    def events(self, user_id: UUID) -> Sequence[Row]:
        """Rows of the user's events, oldest first: ``event_type`` at least."""
        ...

    def error_logs(self, generation_id: UUID) -> Sequence[Row]:
        """Rows of its error log, oldest first: ``error_type`` and ``error_message`` at least."""
        ...


class MemoryWorld:
    """The world around ``InMemoryStorage``: for its contract, and for tests that need generations in memory.

    Attributes:
        clock: the storage's time.
        tables: the storage itself, whose public attributes are its tables.
    """

    def __init__(self, storage_type: type[InMemoryStorage] = InMemoryStorage) -> None:
        self.clock = ManualClock()
        self._constraint: str | None = None
        self.tables = storage_type(self.clock, create_session=self._create_session)

    @property
    def storage(self) -> Storage:
        """The storage."""
        return self.tables

    def new_user(self) -> UUID:
        """Make up an id; in memory a user is no more than that."""
        return uuid4()

    def new_generation(self, user_id: UUID, *, status: str = "error", age: timedelta = timedelta(0)) -> UUID:
        """Add a generation."""
        generation = Generation(
            id=uuid4(),
            user_id=user_id,
            status=GenerationStatus(status),
            model="small",
            prompt_data=PROMPT_DATA,
            session_id=None,
            duration=None,
            created_at=self.clock.now() - age,
            updated_at=None,
        )
        self.tables.generations[generation.id] = generation
        return generation.id

    def generation(self, generation_id: UUID) -> Row:
        """Read it as a row."""
        row = asdict(self.tables.generations[generation_id])
        duration = row.pop("duration")
        return {**row, "duration_ms": duration / timedelta(milliseconds=1) if duration is not None else None}

    def set_generation(self, generation_id: UUID, **columns: Any) -> None:
        """Replace columns, and touch ``updated_at``."""
        if "status" in columns:
            columns["status"] = GenerationStatus(columns["status"])
        columns = {"updated_at": self.clock.now(), **columns}
        self.tables.generations[generation_id] = replace(self.tables.generations[generation_id], **columns)

    def delete_generation(self, generation_id: UUID) -> None:
        """Forget it; attempts have no foreign key to it."""
        del self.tables.generations[generation_id]

    def delete_user(self, user_id: UUID) -> None:
        """Forget the user's generations and attempts."""
        tables = self.tables
        tables.generations = {key: row for key, row in tables.generations.items() if row.user_id != user_id}
        tables.attempts = {key: row for key, row in tables.attempts.items() if row.user_id != user_id}
        tables.quotas.pop(user_id, None)

    def set_quota(self, user_id: UUID, limit: int, window: timedelta) -> None:
        """Override limit and window."""
        self.tables.quotas[user_id] = QuotaRule(limit=limit, window=window)

    def refuse_sessions(self, constraint: str | None) -> None:
        """Tell the seam."""
        self._constraint = constraint

    def advance(self, duration: timedelta) -> None:
        """Move the clock."""
        self.clock.advance(duration)

    def attempts(self, generation_id: UUID) -> Sequence[Row]:
        """Rows as dictionaries."""
        rows = [row for row in self.tables.attempts.values() if row.generation_id == generation_id]
        return [asdict(row) for row in sorted(rows, key=lambda row: row.number)]

    def sessions(self, user_id: UUID) -> Sequence[Row]:
        """Sessions of the user, their ids as UUID."""
        rows = [row for row in self.tables.sessions.values() if row["user_id"] == str(user_id)]
        return [{**row, "id": UUID(row["id"])} for row in rows]

    def events(self, user_id: UUID) -> Sequence[Row]:
        """Events of the user."""
        return [row for row in self.tables.events if row["user_id"] == user_id]

    def error_logs(self, generation_id: UUID) -> Sequence[Row]:
        """Error log of the generation."""
        return [row for row in self.tables.error_logs if row["generation_id"] == generation_id]

    def _create_session(self, generation: Generation, output: Any) -> Session:
        if self._constraint is not None:
            raise SessionRefused(self._constraint)
        return new_session(generation, output)


# Steps, with defaults that suit most promises


def new_generation(world: World) -> tuple[UUID, UUID]:
    """Add a failed generation of a new user; give the user's id and its own."""
    user_id = world.new_user()
    return user_id, world.new_generation(user_id)


def load(world: World, user_id: UUID, generation_id: UUID, *, policy: RetryPolicy = POLICY) -> Snapshot:
    """Load a generation that is there."""
    snapshot = world.storage.load(user_id, generation_id, policy.quota)
    assert snapshot is not None
    return snapshot


def quota_of(world: World, user_id: UUID, *, policy: RetryPolicy = POLICY) -> Quota:
    """Load the user's quota, by way of a generation made for it."""
    return load(world, user_id, world.new_generation(user_id), policy=policy).quota


def admission_to(
    world: World,
    user_id: UUID,
    generation_id: UUID,
    *,
    policy: RetryPolicy = POLICY,
    waive: frozenset[Waiver] = frozenset({Waiver.BACKOFF}),
    charge: bool = True,
) -> Admission:
    """Load and admit; the backoff is waived, being none of the storage's business."""
    return admit(load(world, user_id, generation_id, policy=policy), policy, waive=waive, charge=charge)


def try_claim(world: World, admission: Admission, token: UUID | None = None) -> Claim | None:
    """Claim under the policy's lease."""
    return world.storage.claim(admission, token=token or uuid4(), lease=POLICY.lease)


def claim_of(world: World, user_id: UUID, generation_id: UUID, **options: Any) -> Claim:
    """Load, admit and claim a generation that is free."""
    claim = try_claim(world, admission_to(world, user_id, generation_id, **options))
    assert claim is not None
    return claim


def succeed(world: World, claim: Claim, answer: Answer = ANSWER, *, answer_from: int | None = None) -> Settled:
    """Settle with an answer, of this attempt's own call if not from a stored one."""
    return world.storage.succeed(
        claim,
        answer,
        answer_from=answer_from,
        duration=timedelta(milliseconds=1250) if answer_from is None else None,
        quota_rule=POLICY.quota,
        rejected_wait=REJECTED_WAIT,
        rejected_again_wait=REJECTED_AGAIN_WAIT,
    )


def fail(world: World, claim: Claim, failure: Failure = FAILURE, *, delay: timedelta = timedelta(0)) -> None:
    """Settle without one."""
    world.storage.fail(claim, failure, duration=timedelta(milliseconds=800), delay=delay)


def abandon(world: World, claim: Claim) -> None:
    """Let the lease run out, and another generation's claim notice it."""
    world.advance(POLICY.lease)
    other = claim_of(world, claim.user_id, world.new_generation(claim.user_id), charge=False)
    fail(world, other)


def keep_answer(world: World, user_id: UUID, generation_id: UUID, answer: Answer = ANSWER) -> Claim:
    """Bring an answer too late, so that it is stored."""
    claim = claim_of(world, user_id, generation_id)
    abandon(world, claim)
    with pytest.raises(LeaseLost):
        succeed(world, claim, answer)
    return claim


def at_once(calls: Sequence[Callable[[], Result]]) -> list[Result | AiRetryError]:
    """Make all calls at the same moment, a thread each; an expected refusal is a result."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Result]) -> Result | AiRetryError:
        barrier.wait()
        try:
            return call()
        except AiRetryError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def outcomes(world: World, generation_id: UUID) -> list[str | None]:
    """Outcomes of its attempts, by number."""
    return [row["outcome"] for row in world.attempts(generation_id)]


def event_types(world: World, user_id: UUID) -> list[str]:
    """What happened to the user's generations, oldest first."""
    return [row["event_type"] for row in world.events(user_id)]


class LoadContract:
    """``load`` reads one consistent picture and writes nothing."""

    def test_load_tells_the_generation(self, world: World) -> None:
        """The generation is told as the app wrote it."""
        user_id = world.new_user()
        generation_id = world.new_generation(user_id, status="timeout")

        snapshot = load(world, user_id, generation_id)

        assert (snapshot.generation.id, snapshot.generation.user_id) == (generation_id, user_id)
        assert snapshot.generation.status is GenerationStatus.TIMEOUT
        assert snapshot.generation.prompt_data == PROMPT_DATA
        assert (snapshot.attempts, snapshot.stored_answer, snapshot.session) == ((), None, None)
        assert snapshot.can_create_session

    def test_load_gives_none_for_unknown(self, world: World) -> None:
        """A generation that does not exist is None."""
        user_id = world.new_user()

        assert world.storage.load(user_id, uuid4(), POLICY.quota) is None

    def test_load_gives_none_for_foreign(self, world: World) -> None:
        """Someone else's generation looks exactly like none."""
        generation_id = world.new_generation(world.new_user())

        assert world.storage.load(world.new_user(), generation_id, POLICY.quota) is None

    def test_load_tells_attempts_ascending(self, world: World) -> None:
        """Attempts are told by number, each with how it was closed."""
        user_id, generation_id = new_generation(world)
        fail(world, claim_of(world, user_id, generation_id))
        claim_of(world, user_id, generation_id)

        first, second = load(world, user_id, generation_id).attempts

        assert (first.number, first.outcome, first.code, first.counted) == (2, Outcome.FAILED, "AI_UNAVAILABLE", True)
        assert first.closed_at is not None
        assert (second.number, second.outcome, second.closed_at) == (3, None, None)

    def test_load_tells_wait_of_open_attempt(self, world: World) -> None:
        """From its claim on, an open attempt says when the next one is due should it be abandoned."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)
        claim = try_claim(world, admission)
        assert claim is not None

        attempt = load(world, user_id, generation_id).attempts[-1]

        assert attempt.lease_expires_at == claim.lease_expires_at
        assert attempt.next_attempt_at == claim.lease_expires_at + admission.abandoned_wait

    def test_load_leaves_expired_attempt_open(self, world: World) -> None:
        """An attempt whose lease has run out is told as it stands, since reading writes nothing."""
        user_id, generation_id = new_generation(world)
        claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)

        snapshot = load(world, user_id, generation_id)

        assert snapshot.attempts[-1].outcome is None
        assert (snapshot.attempts[-1].lease_expires_at or snapshot.as_of) <= snapshot.as_of
        assert outcomes(world, generation_id) == [None]

    def test_load_counts_live_attempts(self, world: World) -> None:
        """Live are the user's open attempts with a valid lease, whatever the generation."""
        user_id = world.new_user()
        claim_of(world, user_id, world.new_generation(user_id))
        world.advance(SHORT)
        claims = [claim_of(world, user_id, world.new_generation(user_id)) for _ in range(2)]
        fail(world, claim_of(world, user_id, world.new_generation(user_id)))
        world.advance(POLICY.lease - SHORT)

        snapshot = load(world, user_id, world.new_generation(user_id))

        assert snapshot.live == 2
        leases = [row["lease_expires_at"] for claim in claims for row in world.attempts(claim.generation_id)]
        assert snapshot.live_until == min(leases)

    def test_load_counts_no_foreign_attempts(self, world: World) -> None:
        """Another user's attempts and units are not mine."""
        other_id = world.new_user()
        claim_of(world, other_id, world.new_generation(other_id))
        succeed(world, claim_of(world, other_id, world.new_generation(other_id)))
        user_id = world.new_user()

        snapshot = load(world, user_id, world.new_generation(user_id))

        assert (snapshot.live, snapshot.live_until) == (0, None)
        assert (snapshot.quota.captured, snapshot.quota.held) == (0, 0)

    def test_load_tells_the_session(self, world: World) -> None:
        """After success the session is told as it is now."""
        user_id, generation_id = new_generation(world)
        settled = succeed(world, claim_of(world, user_id, generation_id))

        snapshot = load(world, user_id, generation_id)

        assert snapshot.session == settled.session
        assert replace(snapshot.generation, prompt_data=None) == replace(settled.generation, prompt_data=None)

    def test_load_version_stands_without_writes(self, world: World) -> None:
        """Two reads without a write between them have the same version."""
        user_id, generation_id = new_generation(world)
        fail(world, claim_of(world, user_id, generation_id))

        versions = {load(world, user_id, generation_id).version for _ in range(2)}

        assert len(versions) == 1


class ClaimContract:
    """``claim`` opens an attempt only if all that admitted it is still true."""

    def test_claim_opens_the_attempt(self, world: World) -> None:
        """A claim opens attempt 2 under a lease, and the generation says processing."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)

        claim = try_claim(world, admission)

        assert claim is not None
        assert (claim.user_id, claim.generation_id, claim.number) == (user_id, generation_id, 2)
        assert POLICY.lease <= claim.lease_expires_at - admission.as_of < POLICY.lease + SHORT
        assert world.generation(generation_id)["status"] == "processing"
        (row,) = world.attempts(generation_id)
        assert (row["outcome"], row["closed_at"], row["captured_at"]) == (None, None, None)

    def test_claim_records_who_asked(self, world: World) -> None:
        """The key, the waived limits and the operator stand on the attempt."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id, waive=frozenset(Waiver), charge=False)

        try_claim(world, replace(admission, idempotency_key="key-1", operator="ann"))

        (row,) = world.attempts(generation_id)
        assert (row["idempotency_key"], row["operator"], row["charge"]) == ("key-1", "ann", False)
        assert {str(waiver) for waiver in row["waived"]} == {"backoff", "quota"}
        assert load(world, user_id, generation_id).attempts[-1].idempotency_key == "key-1"

    def test_claim_counts_numbers_up(self, world: World) -> None:
        """Every attempt has the next number, however the last one ended."""
        user_id, generation_id = new_generation(world)
        fail(world, claim_of(world, user_id, generation_id))
        abandon(world, claim_of(world, user_id, generation_id))

        claim = claim_of(world, user_id, generation_id)

        assert claim.number == 4
        assert [row["number"] for row in world.attempts(generation_id)] == [2, 3, 4]

    def test_claim_repeat_returns_same_claim(self, world: World) -> None:
        """A repeat with the same token gives the same claim and opens nothing."""
        user_id, generation_id = new_generation(world)
        admission, token = admission_to(world, user_id, generation_id), uuid4()
        first = try_claim(world, admission, token)

        second = try_claim(world, admission, token)

        assert first is not None
        assert second == first
        assert second.token == token
        assert len(world.attempts(generation_id)) == 1

    @pytest.mark.parametrize("end", [succeed, fail, abandon])
    def test_claim_repeat_ignores_the_end(self, world: World, end: Callable[[World, Claim], object]) -> None:
        """A repeat with the same token gives the same claim, whatever became of the attempt since."""
        user_id, generation_id = new_generation(world)
        admission, token = admission_to(world, user_id, generation_id), uuid4()
        first = try_claim(world, admission, token)
        assert first is not None
        end(world, first)
        before = world.attempts(generation_id)

        second = try_claim(world, admission, token)

        assert second is not None
        assert (second.number, second.token) == (first.number, token)
        assert world.attempts(generation_id) == before

    def test_claim_repeat_ignores_age(self, world: World) -> None:
        """A repeat is answered however old its admission is."""
        user_id, generation_id = new_generation(world)
        admission, token = admission_to(world, user_id, generation_id), uuid4()
        first = try_claim(world, admission, token)

        second = try_claim(world, replace(admission, as_of=admission.as_of - timedelta(hours=1)), token)

        assert first is not None
        assert second == first

    def test_claim_refuses_old_admission(self, world: World) -> None:
        """An admission of more than ten seconds ago is stale."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)

        claim = try_claim(world, replace(admission, as_of=admission.as_of - timedelta(seconds=11)))

        assert claim is None
        assert world.attempts(generation_id) == []
        assert world.generation(generation_id)["status"] == "error"

    def test_claim_takes_recent_admission(self, world: World) -> None:
        """An admission of a second ago is not stale."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)

        assert try_claim(world, replace(admission, as_of=admission.as_of - SECOND)) is not None

    def test_claim_is_stale_after_another_attempt(self, world: World) -> None:
        """An admission does not outlive another attempt at the generation."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)
        fail(world, claim_of(world, user_id, generation_id))

        assert try_claim(world, admission) is None
        assert len(world.attempts(generation_id)) == 1

    @pytest.mark.parametrize("status", ["processing", "queued", "success", "timeout"])
    def test_claim_is_stale_after_status_change(self, world: World, status: str) -> None:
        """An admission does not outlive the status that it rested on."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)
        world.set_generation(generation_id, status=status)

        assert try_claim(world, admission) is None
        assert world.generation(generation_id)["status"] == status

    def test_claim_is_stale_after_new_wait(self, world: World) -> None:
        """An admission does not outlive the wait that it rested on, even if nothing else differs."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)
        admission = admission_to(world, user_id, generation_id)
        fail(world, claim, delay=timedelta(hours=1))
        world.set_generation(generation_id, status="processing")

        assert try_claim(world, admission) is None

    def test_claim_is_stale_after_late_answer(self, world: World) -> None:
        """An admission to call does not outlive the arrival of a stored answer."""
        user_id, generation_id = new_generation(world)
        late = claim_of(world, user_id, generation_id)
        abandon(world, late)
        admission = admission_to(world, user_id, generation_id)
        with pytest.raises(LeaseLost):
            succeed(world, late)

        assert try_claim(world, admission) is None

    def test_claim_refuses_second_open_attempt(self, world: World) -> None:
        """One valid lease per generation, even if the version is right."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)
        try_claim(world, admission)
        version = load(world, user_id, generation_id).version

        assert try_claim(world, replace(admission, version=version, number=3)) is None
        assert outcomes(world, generation_id) == [None]

    def test_claim_closes_expired_attempts(self, world: World) -> None:
        """A claim closes every expired attempt of the user as abandoned: counted, its wait as it was, uncharged."""
        user_id = world.new_user()
        expired = [claim_of(world, user_id, world.new_generation(user_id)) for _ in range(2)]
        world.advance(POLICY.lease)
        waits = [world.attempts(claim.generation_id)[0]["next_attempt_at"] for claim in expired]

        claim_of(world, user_id, expired[0].generation_id)

        rows = [world.attempts(claim.generation_id)[0] for claim in expired]
        assert [(row["outcome"], row["code"], row["counted"]) for row in rows] == [
            ("abandoned", "LEASE_LOST", True)
        ] * 2
        assert [row["next_attempt_at"] for row in rows] == waits
        assert all(row["closed_at"] >= row["lease_expires_at"] for row in rows)
        assert [row["captured_at"] for row in rows] == [None, None]
        assert [row["provider_outcome"] for row in rows] == ["unknown", "unknown"]

    def test_claim_tells_the_app_of_expired_attempts(self, world: World) -> None:
        """No generation says processing when nobody works on it: each is told once, its own before it begins anew."""
        user_id = world.new_user()
        first, second = (claim_of(world, user_id, world.new_generation(user_id)).generation_id for _ in range(2))
        world.advance(POLICY.lease)

        claim_of(world, user_id, first)

        assert [world.generation(each)["status"] for each in (first, second)] == ["processing", "timeout"]
        assert [[log["error_type"] for log in world.error_logs(each)] for each in (first, second)] == [
            ["LEASE_LOST"]
        ] * 2
        assert [event["event_type"] for event in world.events(user_id)] == ["ai_generation_failed"] * 2

    def test_claim_tells_nothing_of_what_the_app_decided(self, world: World) -> None:
        """A generation that the app has given another status meanwhile keeps it."""
        user_id = world.new_user()
        expired = claim_of(world, user_id, world.new_generation(user_id))
        world.set_generation(expired.generation_id, status="error")
        world.advance(POLICY.lease)

        claim_of(world, user_id, world.new_generation(user_id))

        assert world.generation(expired.generation_id)["status"] == "error"
        assert world.error_logs(expired.generation_id) == []

    def test_claim_leaves_valid_leases(self, world: World) -> None:
        """A claim closes no attempt whose lease is valid."""
        user_id = world.new_user()
        running = claim_of(world, user_id, world.new_generation(user_id))

        claim_of(world, user_id, world.new_generation(user_id))

        assert outcomes(world, running.generation_id) == [None]

    def test_claim_leaves_foreign_attempts(self, world: World) -> None:
        """A claim closes no other user's attempt."""
        other_id, user_id = world.new_user(), world.new_user()
        foreign = claim_of(world, other_id, world.new_generation(other_id))
        world.advance(POLICY.lease)

        claim_of(world, user_id, world.new_generation(user_id))

        assert outcomes(world, foreign.generation_id) == [None]

    def test_claim_raises_when_generation_is_gone(self, world: World) -> None:
        """A generation that was deleted since is not found."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)
        world.delete_generation(generation_id)

        with pytest.raises(GenerationNotFound):
            try_claim(world, admission)

    def test_claim_raises_when_user_is_gone(self, world: World) -> None:
        """A user who was deleted since has no generation."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)
        world.delete_user(user_id)

        with pytest.raises(GenerationNotFound):
            try_claim(world, admission)

    def test_claim_raises_for_foreign_generation(self, world: World) -> None:
        """Nobody claims someone else's generation."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)

        with pytest.raises(GenerationNotFound):
            try_claim(world, replace(admission, user_id=world.new_user()))
        assert world.attempts(generation_id) == []

    def test_claim_keeps_below_max_live(self, world: World) -> None:
        """With one live attempt fewer than the ceiling there is room, at the ceiling there is none."""
        user_id = world.new_user()
        policy = replace(POLICY, max_parallel=2)
        admissions = [admission_to(world, user_id, world.new_generation(user_id), policy=policy) for _ in range(3)]

        claims = [try_claim(world, admission) for admission in admissions]

        assert [claim is not None for claim in claims] == [True, True, False]

    def test_claim_counts_no_expired_as_live(self, world: World) -> None:
        """An expired attempt takes nobody's place."""
        user_id = world.new_user()
        policy = replace(POLICY, max_parallel=1)
        claim_of(world, user_id, world.new_generation(user_id))
        world.advance(POLICY.lease)

        claim_of(world, user_id, world.new_generation(user_id), policy=policy)

    def test_claim_keeps_below_max_used(self, world: World) -> None:
        """A held unit counts as used; given back, it is there again."""
        user_id = world.new_user()
        policy = replace(POLICY, quota=replace(POLICY.quota, limit=2))
        admissions = [admission_to(world, user_id, world.new_generation(user_id), policy=policy) for _ in range(3)]
        held = [try_claim(world, admission) for admission in admissions[:2]]

        refused = try_claim(world, admissions[2])

        assert None not in held
        assert refused is None
        assert held[0] is not None
        fail(world, held[0])
        assert try_claim(world, admissions[2]) is not None

    def test_claim_counts_captured_units(self, world: World) -> None:
        """A captured unit counts as used."""
        user_id = world.new_user()
        policy = replace(POLICY, quota=replace(POLICY.quota, limit=1))
        first, second = (admission_to(world, user_id, world.new_generation(user_id), policy=policy) for _ in range(2))
        claim = try_claim(world, first)
        assert claim is not None
        succeed(world, claim)

        assert try_claim(world, second) is None

    @pytest.mark.parametrize(("count_own_successes", "claimed"), [(True, False), (False, True)])
    def test_claim_counts_own_successes(self, world: World, *, count_own_successes: bool, claimed: bool) -> None:
        """The app's own successes count as used when the admission's rule says so."""
        user_id = world.new_user()
        rule = QuotaRule(limit=1, count_own_successes=count_own_successes)
        policy = replace(POLICY, quota=rule)
        admission = admission_to(world, user_id, world.new_generation(user_id), policy=policy)
        world.new_generation(user_id, status="success")

        assert (try_claim(world, admission) is not None) is claimed

    def test_claim_counts_in_the_admissions_window(self, world: World) -> None:
        """A unit that has left the admission's window is free."""
        user_id = world.new_user()
        policy = replace(POLICY, quota=QuotaRule(limit=1, window=timedelta(hours=1)))
        succeed(world, claim_of(world, user_id, world.new_generation(user_id), policy=policy))
        world.advance(timedelta(hours=1))

        claim_of(world, user_id, world.new_generation(user_id), policy=policy)

    def test_claim_ignores_quota_when_waived(self, world: World) -> None:
        """Without ``max_used`` a full quota does not matter, and the unit is held all the same."""
        user_id = world.new_user()
        world.set_quota(user_id, 0, timedelta(hours=24))

        claim_of(world, user_id, world.new_generation(user_id), waive=frozenset(Waiver))

        assert quota_of(world, user_id).held == 1

    def test_claim_ceilings_are_each_users(self, world: World) -> None:
        """One user's live attempts and units leave another's ceilings alone."""
        policy = replace(POLICY, max_parallel=1, quota=replace(POLICY.quota, limit=1))
        users = [world.new_user() for _ in range(2)]

        claims = [claim_of(world, user_id, world.new_generation(user_id), policy=policy) for user_id in users]

        assert [claim.number for claim in claims] == [2, 2]


class SucceedContract:
    """``succeed`` closes an attempt with its session, once, or keeps the answer."""

    def test_succeed_makes_the_session(self, world: World) -> None:
        """Session, link, status, duration, captured unit and event stand together."""
        user_id, generation_id = new_generation(world)

        settled = succeed(world, claim_of(world, user_id, generation_id))

        (session,) = world.sessions(user_id)
        generation, (row,) = world.generation(generation_id), world.attempts(generation_id)
        assert (settled.session["content"], session["content"]) == (ANSWER.output, ANSWER.output)
        assert settled.session["id"] == str(session["id"])
        assert (generation["status"], generation["session_id"]) == ("success", session["id"])
        assert generation["duration_ms"] == 1250
        assert (row["outcome"], row["code"]) == ("succeeded", None)
        assert row["captured_at"] == row["closed_at"]
        assert event_types(world, user_id) == ["ai_generation_succeeded"]
        assert world.error_logs(generation_id) == []

    def test_succeed_tells_what_stands(self, world: World) -> None:
        """The generation and the quota are told as they are after the success."""
        user_id, generation_id = new_generation(world)

        settled = succeed(world, claim_of(world, user_id, generation_id))

        assert settled.generation.id == generation_id
        assert settled.generation.status is GenerationStatus.SUCCESS
        assert settled.generation.duration == timedelta(milliseconds=1250)
        assert (settled.quota.captured, settled.quota.held, settled.quota.remaining) == (1, 0, 4)

    def test_succeed_tells_overridden_quota(self, world: World) -> None:
        """The quota told back is the user's own where there is an override."""
        user_id = world.new_user()
        world.set_quota(user_id, 2, timedelta(hours=1))

        settled = succeed(world, claim_of(world, user_id, world.new_generation(user_id)))

        assert (settled.quota.limit, settled.quota.window) == (2, timedelta(hours=1))

    def test_succeed_repeat_returns_what_stands(self, world: World) -> None:
        """A repeat returns the same session and changes nothing."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        first, rows = succeed(world, claim), world.attempts(generation_id)

        second = succeed(world, claim, Answer(output={"title": "Another"}))

        assert second.session == first.session
        assert second.generation == first.generation
        assert world.attempts(generation_id) == rows
        assert len(world.sessions(user_id)) == 1
        assert event_types(world, user_id) == ["ai_generation_succeeded"]

    def test_succeed_counts_however_late(self, world: World) -> None:
        """An attempt that nobody closed is settled after its lease as well."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.advance(timedelta(hours=2))

        succeed(world, claim)

        assert outcomes(world, generation_id) == ["succeeded"]
        assert quota_of(world, user_id).captured == 1

    def test_succeed_keeps_late_answer(self, world: World) -> None:
        """An answer to an abandoned attempt is kept with what it cost, charges nothing and closes nothing again."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        abandon(world, claim)

        with pytest.raises(LeaseLost) as caught:
            succeed(world, claim)

        stored = load(world, user_id, generation_id).stored_answer
        (row,) = world.attempts(generation_id)
        assert caught.value.details["answer_kept"] is True
        assert stored is not None
        assert stored.number == claim.number
        assert (stored.answer.output, stored.answer.model) == (ANSWER.output, ANSWER.model)
        assert (row["outcome"], row["counted"], row["captured_at"]) == ("abandoned", True, None)
        assert row["provider_outcome"] == "generated"
        assert world.sessions(user_id) == []

    def test_succeed_keeps_late_answer_once(self, world: World) -> None:
        """Bringing the same late answer again changes nothing."""
        user_id, generation_id = new_generation(world)
        claim = keep_answer(world, user_id, generation_id)
        before = load(world, user_id, generation_id).version

        with pytest.raises(LeaseLost) as caught:
            succeed(world, claim)

        assert caught.value.details["answer_kept"] is True
        assert load(world, user_id, generation_id).version == before

    def test_succeed_uses_stored_answer(self, world: World) -> None:
        """The next attempt makes its session of the stored answer, which is then used up."""
        user_id, generation_id = new_generation(world)
        keep_answer(world, user_id, generation_id)
        admission = admission_to(world, user_id, generation_id)
        claim = try_claim(world, admission)
        assert admission.stored_answer is not None
        assert claim is not None

        stored = admission.stored_answer
        settled = succeed(world, claim, stored.answer, answer_from=stored.number)

        assert settled.session["content"] == ANSWER.output
        assert load(world, user_id, generation_id).stored_answer is None
        assert quota_of(world, user_id).captured == 1

    def test_stored_answer_outlives_failed_attempts(self, world: World) -> None:
        """A stored answer stands until a session is made, also while the attempt that uses it is abandoned."""
        user_id, generation_id = new_generation(world)
        kept = keep_answer(world, user_id, generation_id)
        user_of_it = claim_of(world, user_id, generation_id)
        abandon(world, user_of_it)
        with pytest.raises(LeaseLost):
            succeed(world, user_of_it, answer_from=kept.number)

        stored = load(world, user_id, generation_id).stored_answer

        assert stored is not None
        assert (stored.number, stored.answer.output) == (kept.number, ANSWER.output)

    def test_abandoned_use_of_stored_answer_is_free(self, world: World) -> None:
        """Whoever uses a stored answer calls nobody: abandoned, it counts nothing and may have cost nothing."""
        user_id, generation_id = new_generation(world)
        keep_answer(world, user_id, generation_id)
        abandon(world, claim_of(world, user_id, generation_id))

        row = world.attempts(generation_id)[-1]

        assert (row["outcome"], row["counted"], row["provider_outcome"]) == ("abandoned", False, "not_generated")

    def test_newest_stored_answer_is_served(self, world: World) -> None:
        """Of two stored answers the newer attempt's is served."""
        user_id, generation_id = new_generation(world)
        claims = []
        for _ in range(2):
            claims.append(claim_of(world, user_id, generation_id))
            abandon(world, claims[-1])
        for claim in reversed(claims):
            with pytest.raises(LeaseLost):
                succeed(world, claim, replace(ANSWER, output={"number": claim.number}))

        stored = load(world, user_id, generation_id).stored_answer

        assert stored is not None
        assert (stored.number, stored.answer.output) == (3, {"number": 3})

    def test_succeed_leaves_the_newer_attempt(self, world: World) -> None:
        """A late answer touches no other attempt: the newer one is settled by its own token."""
        user_id, generation_id = new_generation(world)
        older = claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)
        newer = claim_of(world, user_id, generation_id)

        with pytest.raises(LeaseLost):
            succeed(world, older, replace(ANSWER, output={"from": "older"}))

        assert outcomes(world, generation_id) == ["abandoned", None]
        assert succeed(world, newer, replace(ANSWER, output={"from": "newer"})).session["content"] == {"from": "newer"}
        assert load(world, user_id, generation_id).stored_answer is None

    def test_succeed_after_fail_keeps_answer(self, world: World) -> None:
        """A failed attempt stays failed; an answer that it brings afterwards is kept."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        fail(world, claim)

        with pytest.raises(LeaseLost) as caught:
            succeed(world, claim)

        assert caught.value.details["answer_kept"] is True
        assert outcomes(world, generation_id) == ["failed"]
        assert load(world, user_id, generation_id).stored_answer is not None

    def test_late_answer_after_success_is_dropped(self, world: World) -> None:
        """A late answer to a generation that has its session is of no use, and not kept."""
        user_id, generation_id = new_generation(world)
        older = claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)
        succeed(world, claim_of(world, user_id, generation_id))

        with pytest.raises(AlreadySucceeded):
            succeed(world, older)

        assert outcomes(world, generation_id) == ["abandoned", "succeeded"]
        assert load(world, user_id, generation_id).stored_answer is None
        assert len(world.sessions(user_id)) == 1

    def test_our_success_outlives_the_status(self, world: World) -> None:
        """Success is what either side says: a status that the app writes back opens nothing again."""
        user_id, generation_id = new_generation(world)
        older = claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)
        succeed(world, claim_of(world, user_id, generation_id))
        world.set_generation(generation_id, status="error")

        with pytest.raises(AlreadySucceeded):
            succeed(world, older)
        with pytest.raises(AlreadySucceeded):
            fail(world, older)
        with pytest.raises(AlreadySucceeded):
            admission_to(world, user_id, generation_id)

        assert load(world, user_id, generation_id).stored_answer is None
        assert len(world.sessions(user_id)) == 1

    @pytest.mark.parametrize("repeats", [1, 2])
    def test_succeed_yields_to_another_hand(self, world: World, repeats: int) -> None:
        """A generation that became success by another hand is left alone, and charged nothing by us."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.set_generation(generation_id, status="success")

        for _ in range(repeats):
            with pytest.raises(AlreadySucceeded):
                succeed(world, claim)

        (row,) = world.attempts(generation_id)
        assert (row["outcome"], row["code"], row["counted"]) == ("failed", "ALREADY_SUCCEEDED", True)
        assert row["captured_at"] is None
        assert world.generation(generation_id)["session_id"] is None
        assert world.sessions(user_id) == []
        assert world.events(user_id) == []

    @pytest.mark.parametrize("repeats", [1, 2])
    def test_succeed_raises_when_generation_is_gone(self, world: World, repeats: int) -> None:
        """The attempt of a deleted generation is closed and charges nothing."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.delete_generation(generation_id)

        for _ in range(repeats):
            with pytest.raises(GenerationNotFound):
                succeed(world, claim)

        (row,) = world.attempts(generation_id)
        assert (row["outcome"], row["counted"], row["captured_at"]) == ("failed", True, None)
        assert world.sessions(user_id) == []
        assert (quota_of(world, user_id).captured, quota_of(world, user_id).held) == (0, 0)

    def test_succeed_raises_when_owner_changed(self, world: World) -> None:
        """A generation that is someone else's by now gets no session of ours."""
        user_id, other_id = world.new_user(), world.new_user()
        generation_id = world.new_generation(user_id)
        claim = claim_of(world, user_id, generation_id)
        world.set_generation(generation_id, user_id=other_id)

        with pytest.raises(GenerationNotFound):
            succeed(world, claim)

        assert (world.sessions(user_id), world.sessions(other_id)) == ([], [])

    def test_succeed_raises_when_user_is_gone(self, world: World) -> None:
        """With the user, attempts are gone too."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.delete_user(user_id)

        with pytest.raises(GenerationNotFound):
            succeed(world, claim)

        assert world.attempts(generation_id) == []
        assert world.sessions(user_id) == []

    def test_succeed_repeat_raises_when_generation_went(self, world: World) -> None:
        """A repeat finds nothing to return once the generation is deleted."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        succeed(world, claim)
        world.delete_generation(generation_id)

        with pytest.raises(GenerationNotFound):
            succeed(world, claim)

        assert outcomes(world, generation_id) == ["succeeded"]

    def test_unknown_token_settles_nothing(self, world: World) -> None:
        """Neither the generation nor the number settles an attempt, only its token does."""
        user_id, generation_id = new_generation(world)
        forged = replace(claim_of(world, user_id, generation_id), token=uuid4())

        with pytest.raises(GenerationNotFound):
            succeed(world, forged)
        with pytest.raises(GenerationNotFound):
            fail(world, forged)

        assert outcomes(world, generation_id) == [None]
        assert world.generation(generation_id)["status"] == "processing"

    def test_uncharged_success_captures_nothing(self, world: World) -> None:
        """An attempt that does not charge holds and captures nothing, and is no success of the app's own."""
        user_id, generation_id = new_generation(world)

        claim = claim_of(world, user_id, generation_id, charge=False)
        held = quota_of(world, user_id).held
        succeed(world, claim)

        (row,) = world.attempts(generation_id)
        assert (held, row["outcome"], row["captured_at"]) == (0, "succeeded", None)
        assert quota_of(world, user_id).captured == 0


class RefusedSessionContract:
    """A session that the database refuses costs the user nothing, and the answer is not lost."""

    def test_refused_session_keeps_the_answer(self, world: World) -> None:
        """The attempt fails without counting or charging, the answer is kept, and the app is told."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.refuse_sessions("title_is_short")

        with pytest.raises(SessionRejected) as caught:
            succeed(world, claim)

        (row,) = world.attempts(generation_id)
        stored = load(world, user_id, generation_id).stored_answer
        assert caught.value.details["constraint"] == "title_is_short"
        assert caught.value.retry_after == REJECTED_WAIT
        assert (row["outcome"], row["code"], row["counted"]) == ("failed", "SESSION_REJECTED", False)
        assert (row["refused_constraint"], row["captured_at"]) == ("title_is_short", None)
        assert row["next_attempt_at"] - row["closed_at"] == REJECTED_WAIT
        assert stored is not None
        assert (stored.number, stored.answer.output) == (claim.number, ANSWER.output)
        assert world.generation(generation_id)["status"] == "error"
        assert [log["error_type"] for log in world.error_logs(generation_id)] == ["SESSION_REJECTED"]
        assert event_types(world, user_id) == ["ai_generation_failed"]
        assert world.sessions(user_id) == []
        assert (quota_of(world, user_id).captured, quota_of(world, user_id).held) == (0, 0)

    @pytest.mark.parametrize(
        ("constraint", "wait"), [("title_is_short", REJECTED_AGAIN_WAIT), ("km_is_positive", REJECTED_WAIT)]
    )
    def test_refused_again_waits_longer(self, world: World, constraint: str, wait: timedelta) -> None:
        """Refused twice in a row by the same constraint, the wait is the longer one; by another, the first."""
        user_id, generation_id = new_generation(world)
        world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            succeed(world, claim_of(world, user_id, generation_id))
        claim = claim_of(world, user_id, generation_id)
        world.refuse_sessions(constraint)

        with pytest.raises(SessionRejected) as caught:
            succeed(world, claim, answer_from=2)

        row = world.attempts(generation_id)[-1]
        assert caught.value.retry_after == wait
        assert row["next_attempt_at"] - row["closed_at"] == wait
        assert load(world, user_id, generation_id).stored_answer is not None

    def test_refused_settle_repeat_is_refused(self, world: World) -> None:
        """A repeat of a refused settle is told the same and writes nothing, even if a session were possible now."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            succeed(world, claim)
        before = world.attempts(generation_id)
        world.refuse_sessions(None)

        with pytest.raises(SessionRejected) as caught:
            succeed(world, claim)

        assert caught.value.details["constraint"] == "title_is_short"
        assert world.attempts(generation_id) == before
        assert len(world.error_logs(generation_id)) == 1
        assert world.sessions(user_id) == []

    def test_refused_session_is_made_later(self, world: World) -> None:
        """Once the database accepts it, the kept answer becomes the session and is charged once."""
        user_id, generation_id = new_generation(world)
        world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            succeed(world, claim_of(world, user_id, generation_id))
        world.refuse_sessions(None)
        admission = admission_to(world, user_id, generation_id)
        claim = try_claim(world, admission)
        assert claim is not None
        assert admission.stored_answer is not None

        stored = admission.stored_answer
        settled = succeed(world, claim, stored.answer, answer_from=stored.number)

        assert settled.session["content"] == ANSWER.output
        assert outcomes(world, generation_id) == ["failed", "succeeded"]
        assert settled.quota.captured == 1

    def test_fail_after_refused_session_changes_nothing(self, world: World) -> None:
        """An attempt whose session was refused is closed; failing it keeps its answer."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.refuse_sessions("title_is_short")
        with pytest.raises(SessionRejected):
            succeed(world, claim)
        before = world.attempts(generation_id)

        fail(world, claim)

        assert world.attempts(generation_id) == before
        assert load(world, user_id, generation_id).stored_answer is not None


class DiscardContract:
    """``discard_answer`` drops an answer that can never become a session."""

    def test_discarded_answer_is_asked_for_again(self, world: World) -> None:
        """Without its answer the generation is admitted to a call again; there was one, then there is none."""
        user_id, generation_id = new_generation(world)
        keep_answer(world, user_id, generation_id)

        found = [world.storage.discard_answer(user_id, generation_id, operator="ann") for _ in range(2)]

        assert found == [True, False]
        assert load(world, user_id, generation_id).stored_answer is None
        assert admission_to(world, user_id, generation_id).context is not None

    def test_discard_finds_no_foreign_answer(self, world: World) -> None:
        """Someone else's answer is not dropped."""
        user_id, generation_id = new_generation(world)
        keep_answer(world, user_id, generation_id)

        assert not world.storage.discard_answer(world.new_user(), generation_id, operator="ann")
        assert load(world, user_id, generation_id).stored_answer is not None

    def test_claim_is_stale_after_discard(self, world: World) -> None:
        """An admission to use a stored answer does not outlive the answer."""
        user_id, generation_id = new_generation(world)
        keep_answer(world, user_id, generation_id)
        admission = admission_to(world, user_id, generation_id)
        world.storage.discard_answer(user_id, generation_id, operator="ann")

        assert try_claim(world, admission) is None

    def test_discarded_answer_does_not_come_back(self, world: World) -> None:
        """A repeat of the settle that brought it stores it no second time."""
        user_id, generation_id = new_generation(world)
        claim = keep_answer(world, user_id, generation_id)
        world.storage.discard_answer(user_id, generation_id, operator="ann")

        with pytest.raises(LeaseLost):
            succeed(world, claim)

        assert load(world, user_id, generation_id).stored_answer is None


class FailContract:
    """``fail`` closes an attempt without a session, once."""

    def test_fail_closes_the_attempt(self, world: World) -> None:
        """Outcome, wait, status, error log and event stand together, and the unit is given back."""
        user_id, generation_id = new_generation(world)

        fail(world, claim_of(world, user_id, generation_id), delay=timedelta(seconds=90))

        (row,), (log,) = world.attempts(generation_id), world.error_logs(generation_id)
        assert (row["outcome"], row["code"], row["counted"]) == ("failed", "AI_UNAVAILABLE", True)
        assert row["next_attempt_at"] - row["closed_at"] == timedelta(seconds=90)
        assert world.generation(generation_id)["status"] == "error"
        assert (log["error_type"], log["error_message"]) == ("AI_UNAVAILABLE", str(GenerationFailed(FAILURE)))
        assert event_types(world, user_id) == ["ai_generation_failed"]
        assert (quota_of(world, user_id).captured, quota_of(world, user_id).held) == (0, 0)

    def test_fail_tells_timeouts_apart(self, world: World) -> None:
        """A timeout is a status of its own."""
        user_id, generation_id = new_generation(world)

        fail(world, claim_of(world, user_id, generation_id), replace(FAILURE, code=FailureCode.TIMEOUT))

        assert world.generation(generation_id)["status"] == "timeout"

    @pytest.mark.parametrize(
        "failure", [replace(FAILURE, certainly_not_generated=True), replace(FAILURE, operator_fault=True)]
    )
    def test_fail_counts_only_what_was_generated(self, world: World, failure: Failure) -> None:
        """What certainly did not generate, or was the operator's fault, uses up no attempt."""
        user_id, generation_id = new_generation(world)

        fail(world, claim_of(world, user_id, generation_id), failure)

        assert load(world, user_id, generation_id).attempts[-1].counted is False

    @pytest.mark.parametrize(
        ("failure", "known"),
        [
            (FAILURE, "unknown"),
            (replace(FAILURE, certainly_not_generated=True), "not_generated"),
            (replace(FAILURE, code=FailureCode.INVALID_OUTPUT), "generated"),
        ],
    )
    def test_fail_records_possible_cost(self, world: World, failure: Failure, known: str) -> None:
        """The attempt says what is known of the provider's side."""
        user_id, generation_id = new_generation(world)

        fail(world, claim_of(world, user_id, generation_id), failure)

        assert world.attempts(generation_id)[0]["provider_outcome"] == known

    @pytest.mark.parametrize("transient", [True, False])
    @pytest.mark.parametrize("operator_fault", [True, False])
    def test_fail_records_the_verdict_once(self, world: World, *, transient: bool, operator_fault: bool) -> None:
        """Whether the failure may pass, and whether an operator must act, is recorded; a repeat changes neither."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        fail(world, claim, replace(FAILURE, transient=transient, operator_fault=operator_fault))

        fail(world, claim, replace(FAILURE, transient=not transient, operator_fault=not operator_fault))

        attempt = load(world, user_id, generation_id).attempts[-1]
        assert (attempt.transient, attempt.operator_fault) == (transient, operator_fault)

    def test_attempt_without_failure_has_no_verdict(self, world: World) -> None:
        """Of an attempt that runs, or was abandoned, nothing is known."""
        user_id, generation_id = new_generation(world)
        claim_of(world, user_id, generation_id)
        running = load(world, user_id, generation_id).attempts[-1]
        world.advance(POLICY.lease)
        claim_of(world, user_id, generation_id)

        abandoned = load(world, user_id, generation_id).attempts[0]

        assert [(each.transient, each.operator_fault) for each in (running, abandoned)] == [(None, False)] * 2

    def test_fail_repeat_changes_nothing(self, world: World) -> None:
        """A repeat writes neither a second log nor another wait."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        fail(world, claim)
        before = world.attempts(generation_id)

        fail(world, claim, delay=timedelta(hours=1))

        assert world.attempts(generation_id) == before
        assert len(world.error_logs(generation_id)) == 1
        assert event_types(world, user_id) == ["ai_generation_failed"]

    def test_fail_repeat_leaves_newer_attempt(self, world: World) -> None:
        """A repeat that arrives during the next attempt leaves it open."""
        user_id, generation_id = new_generation(world)
        older = claim_of(world, user_id, generation_id)
        fail(world, older)
        claim_of(world, user_id, generation_id)

        fail(world, older)

        assert outcomes(world, generation_id) == ["failed", None]
        assert world.generation(generation_id)["status"] == "processing"

    def test_fail_counts_however_late(self, world: World) -> None:
        """An attempt that nobody closed is settled after its lease as well."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.advance(timedelta(hours=2))

        fail(world, claim)

        assert outcomes(world, generation_id) == ["failed"]

    def test_fail_raises_when_abandoned(self, world: World) -> None:
        """An abandoned attempt stays abandoned, and the newer one open; the app was told once."""
        user_id, generation_id = new_generation(world)
        older = claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)
        claim_of(world, user_id, generation_id)

        with pytest.raises(LeaseLost) as caught:
            fail(world, older)

        assert caught.value.details["answer_kept"] is False
        assert outcomes(world, generation_id) == ["abandoned", None]
        assert world.generation(generation_id)["status"] == "processing"
        assert [log["error_type"] for log in world.error_logs(generation_id)] == ["LEASE_LOST"]

    def test_fail_after_success_raises(self, world: World) -> None:
        """A success stays a success."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        succeed(world, claim)
        before = world.attempts(generation_id)

        with pytest.raises(AlreadySucceeded):
            fail(world, claim)

        assert world.attempts(generation_id) == before
        assert world.generation(generation_id)["status"] == "success"

    @pytest.mark.parametrize("repeats", [1, 2])
    def test_fail_yields_to_another_hand(self, world: World, repeats: int) -> None:
        """A generation that became success by another hand stays success."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.set_generation(generation_id, status="success")

        for _ in range(repeats):
            with pytest.raises(AlreadySucceeded):
                fail(world, claim)

        assert outcomes(world, generation_id) == ["failed"]
        assert world.generation(generation_id)["status"] == "success"
        assert world.error_logs(generation_id) == []
        assert world.events(user_id) == []

    @pytest.mark.parametrize("repeats", [1, 2])
    def test_fail_raises_when_generation_is_gone(self, world: World, repeats: int) -> None:
        """The attempt of a deleted generation is closed and gives its unit back."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.delete_generation(generation_id)

        for _ in range(repeats):
            with pytest.raises(GenerationNotFound):
                fail(world, claim)

        assert outcomes(world, generation_id) == ["failed"]
        assert quota_of(world, user_id).held == 0

    def test_fail_raises_when_user_is_gone(self, world: World) -> None:
        """With the user, attempts are gone too."""
        user_id = world.new_user()
        claim = claim_of(world, user_id, world.new_generation(user_id))
        world.delete_user(user_id)

        with pytest.raises(GenerationNotFound):
            fail(world, claim)


class QuotaContract:
    """Units are held while an attempt is open, captured by its success, and come back when they leave the window."""

    def test_quota_is_unused_at_first(self, world: World) -> None:
        """Nothing used, nothing to come back."""
        quota = quota_of(world, world.new_user())

        assert (quota.limit, quota.window) == (POLICY.quota.limit, POLICY.quota.window)
        assert (quota.captured, quota.held, quota.remaining) == (0, 0, 5)
        assert quota.resets_at is None

    def test_quota_holds_open_attempts(self, world: World) -> None:
        """A unit is held from the claim to the end of the lease at the latest."""
        user_id = world.new_user()
        claim_of(world, user_id, world.new_generation(user_id))

        held = quota_of(world, user_id).held
        world.advance(POLICY.lease)
        afterwards = quota_of(world, user_id).held

        assert (held, afterwards) == (1, 0)

    @pytest.mark.parametrize(("age", "captured"), [(timedelta(hours=24) - SHORT, 1), (timedelta(hours=24), 0)])
    def test_captured_unit_leaves_the_window(self, world: World, age: timedelta, captured: int) -> None:
        """A captured unit counts until it is exactly one window old."""
        user_id = world.new_user()
        succeed(world, claim_of(world, user_id, world.new_generation(user_id)))
        world.advance(age)

        assert quota_of(world, user_id).captured == captured

    @pytest.mark.parametrize(("age", "captured"), [(timedelta(hours=24) - SHORT, 1), (timedelta(hours=24), 0)])
    def test_own_success_leaves_the_window(self, world: World, age: timedelta, captured: int) -> None:
        """The app's own success counts at the time when its generation was made."""
        user_id = world.new_user()
        world.new_generation(user_id, status="success", age=age)

        assert quota_of(world, user_id).captured == captured

    def test_our_success_counts_once(self, world: World) -> None:
        """A success of ours is not the app's own as well, whenever its generation was made."""
        user_id = world.new_user()
        succeed(world, claim_of(world, user_id, world.new_generation(user_id)))
        world.new_generation(user_id, status="success")

        assert quota_of(world, user_id).captured == 2

    def test_own_successes_can_be_left_out(self, world: World) -> None:
        """Where the rule says so, only what we captured counts."""
        user_id = world.new_user()
        succeed(world, claim_of(world, user_id, world.new_generation(user_id)))
        world.new_generation(user_id, status="success")
        policy = replace(POLICY, quota=replace(POLICY.quota, count_own_successes=False))

        assert quota_of(world, user_id, policy=policy).captured == 1

    def test_another_hands_success_counts_as_own(self, world: World) -> None:
        """A success by another hand during our attempt is the app's own, and counts once."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        world.set_generation(generation_id, status="success")
        with pytest.raises(AlreadySucceeded):
            succeed(world, claim)

        assert quota_of(world, user_id).captured == 1

    def test_captured_unit_outlives_its_generation(self, world: World) -> None:
        """Deleting the generation brings no unit back."""
        user_id, generation_id = new_generation(world)
        succeed(world, claim_of(world, user_id, generation_id))
        world.delete_generation(generation_id)

        assert quota_of(world, user_id).captured == 1

    @pytest.mark.parametrize("limit", [0, 1, 3, 50])
    def test_override_replaces_limit_and_window(self, world: World, limit: int) -> None:
        """A user's override counts instead of the rule, be it lower, higher or nothing at all."""
        user_id = world.new_user()
        claim_of(world, user_id, world.new_generation(user_id))
        world.set_quota(user_id, limit, timedelta(hours=1))

        quota = quota_of(world, user_id)

        assert (quota.limit, quota.window) == (limit, timedelta(hours=1))
        assert (quota.held, quota.remaining) == (1, max(0, limit - 1))

    def test_override_is_each_users(self, world: World) -> None:
        """One user's override is nobody else's."""
        world.set_quota(world.new_user(), 1, timedelta(hours=1))

        assert quota_of(world, world.new_user()).limit == POLICY.quota.limit

    def test_captured_is_counted_up_to_the_limit(self, world: World) -> None:
        """More captured units than a lowered limit are told as the limit."""
        user_id = world.new_user()
        for _ in range(3):
            succeed(world, claim_of(world, user_id, world.new_generation(user_id)))
        world.set_quota(user_id, 2, timedelta(hours=24))

        assert (quota_of(world, user_id).captured, quota_of(world, user_id).remaining) == (2, 0)

    def test_nothing_resets_without_a_limit(self, world: World) -> None:
        """With a limit of 0 no unit ever comes back."""
        user_id = world.new_user()
        succeed(world, claim_of(world, user_id, world.new_generation(user_id)))
        world.set_quota(user_id, 0, timedelta(hours=24))

        assert quota_of(world, user_id).resets_at is None

    def test_resets_when_oldest_leaves(self, world: World) -> None:
        """With units to spare, the next to come back is the oldest captured one."""
        user_id = world.new_user()
        rows = self._captured_rows(world, user_id, 3)

        assert quota_of(world, user_id).resets_at == rows[0]["captured_at"] + POLICY.quota.window

    def test_resets_when_enough_have_left(self, world: World) -> None:
        """Over a lowered limit, as many must leave as make room for one more."""
        user_id = world.new_user()
        rows = self._captured_rows(world, user_id, 3)
        world.set_quota(user_id, 2, timedelta(hours=24))

        assert quota_of(world, user_id).resets_at == rows[1]["captured_at"] + timedelta(hours=24)

    def test_resets_around_held_units(self, world: World) -> None:
        """With a unit held, one captured unit fewer fits below the limit."""
        user_id = world.new_user()
        rows = self._captured_rows(world, user_id, 2)
        claim_of(world, user_id, world.new_generation(user_id))
        world.set_quota(user_id, 2, timedelta(hours=24))

        assert quota_of(world, user_id).resets_at == rows[1]["captured_at"] + timedelta(hours=24)

    def test_resets_when_first_lease_ends(self, world: World) -> None:
        """With the whole limit held, the first lease to end brings a unit back."""
        user_id = world.new_user()
        claims = [claim_of(world, user_id, world.new_generation(user_id)) for _ in range(2)]
        world.set_quota(user_id, 2, timedelta(hours=24))

        assert quota_of(world, user_id).resets_at == claims[0].lease_expires_at

    def _captured_rows(self, world: World, user_id: UUID, count: int) -> Sequence[Row]:
        """Capture units a second apart; read the rows when time no longer passes, oldest first."""
        generation_ids = []
        for _ in range(count):
            world.advance(SECOND)
            generation_ids.append(world.new_generation(user_id))
            succeed(world, claim_of(world, user_id, generation_ids[-1]))
        return [world.attempts(generation_id)[0] for generation_id in generation_ids]


class RaceContract:
    """Whatever happens at once happens as if one after the other."""

    def test_race_for_one_generation_has_one_winner(self, world: World) -> None:
        """Of eight claims of one generation, one gets it."""
        user_id, generation_id = new_generation(world)
        admission = admission_to(world, user_id, generation_id)

        claims = at_once([lambda: try_claim(world, admission)] * 8)

        assert sum(isinstance(claim, Claim) for claim in claims) == 1
        assert sum(claim is None for claim in claims) == 7
        assert outcomes(world, generation_id) == [None]

    def test_race_with_one_token_has_one_claim(self, world: World) -> None:
        """Of eight claims with the same token, all get the same attempt."""
        user_id, generation_id = new_generation(world)
        admission, token = admission_to(world, user_id, generation_id), uuid4()

        claims = at_once([lambda: try_claim(world, admission, token)] * 8)

        assert isinstance(claims[0], Claim)
        assert claims == [claims[0]] * 8
        assert outcomes(world, generation_id) == [None]

    def test_race_of_one_user_keeps_max_live(self, world: World) -> None:
        """Of eight claims by one user, as many get through as may be live."""
        user_id = world.new_user()
        policy = replace(POLICY, max_parallel=2)

        claims = self._claim_eight(world, user_id, policy)

        assert sum(isinstance(claim, Claim) for claim in claims) == 2
        assert sum(claim is None for claim in claims) == 6

    def test_race_of_one_user_keeps_the_limit(self, world: World) -> None:
        """Of eight claims by one user with one unit left, one gets it."""
        user_id = world.new_user()
        policy = replace(POLICY, quota=replace(POLICY.quota, limit=1))

        claims = self._claim_eight(world, user_id, policy)

        assert sum(isinstance(claim, Claim) for claim in claims) == 1
        assert sum(claim is None for claim in claims) == 7

    def test_race_of_successes_makes_one_session(self, world: World) -> None:
        """Of eight settles with one token, one makes the session and all return it."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)

        settled = at_once([lambda: succeed(world, claim)] * 8)

        (session,) = world.sessions(user_id)
        ids = [one.session["id"] for one in settled if isinstance(one, Settled)]
        assert ids == [str(session["id"])] * 8
        assert event_types(world, user_id) == ["ai_generation_succeeded"]

    def test_race_of_success_and_failure_has_one_end(self, world: World) -> None:
        """An attempt settled both ways at once ends one way, and is captured only if that was success."""
        user_id, generation_id = new_generation(world)
        claim = claim_of(world, user_id, generation_id)
        calls: list[Callable[[], object]] = [lambda: succeed(world, claim), lambda: fail(world, claim)]

        at_once(calls * 4)

        (row,) = world.attempts(generation_id)
        succeeded = row["outcome"] == "succeeded"
        assert row["outcome"] in ("succeeded", "failed")
        assert (row["captured_at"] is not None) is succeeded
        assert len(world.sessions(user_id)) == succeeded
        assert len(world.events(user_id)) == 1
        assert (load(world, user_id, generation_id).stored_answer is None) is succeeded

    def test_race_of_settle_and_claim_fences(self, world: World) -> None:
        """A late settle against the claim that abandons its attempt: one session at most, no second open attempt."""
        user_id, generation_id = new_generation(world)
        late = claim_of(world, user_id, generation_id)
        world.advance(POLICY.lease)
        admission = admission_to(world, user_id, generation_id)
        calls: list[Callable[[], object]] = [lambda: succeed(world, late), lambda: try_claim(world, admission)]

        results = at_once(calls)

        settled = isinstance(results[0], Settled)
        assert outcomes(world, generation_id) == (["succeeded"] if settled else ["abandoned", None])
        assert (results[1] is None) is settled
        assert len(world.sessions(user_id)) == settled

    def _claim_eight(self, world: World, user_id: UUID, policy: RetryPolicy) -> list[Claim | AiRetryError | None]:
        admissions = [admission_to(world, user_id, world.new_generation(user_id), policy=policy) for _ in range(8)]

        def claiming(admission: Admission) -> Callable[[], Claim | None]:
            return lambda: try_claim(world, admission)

        return at_once([claiming(admission) for admission in admissions])


class StorageContract(
    LoadContract,
    ClaimContract,
    SucceedContract,
    RefusedSessionContract,
    DiscardContract,
    FailContract,
    QuotaContract,
    RaceContract,
):
    """Every promise of the ``Storage`` port; a subclass gives the fixture ``world``."""
