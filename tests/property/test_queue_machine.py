"""Any history of retries accepted for later, beside those that somebody waits for, keeps the books balanced, and ends.

The machine of ``test_storage_machine`` with workers, messages that are lost and doubled, outages, and taking back. At
the end of every history time goes on, and each accepted retry must end by itself.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from ai_retry.storage.memory_queue import InMemoryQueueStorage
from ai_retry.testing.contract import Row
from ai_retry.testing.queue_contract import MemoryQueueWorld, QueueWorld, is_queued, receive
from hypothesis import strategies as st
from hypothesis.stateful import invariant, multiple, rule, run_state_machine_as_test

from ai_retry.domain.errors import AiRetryError, RetryExpired
from ai_retry.domain.model import Admission, Answer, Claim, Failure, FailureCode, Outcome, Purpose, Waiver
from ai_retry.domain.policy import admit
from ai_retry.domain.queue import run_queued
from ai_retry.domain.queue_model import Outage, Parked, QueuedRetry
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.testing.clock import ManualClock
from tests.property.test_storage_machine import (
    HUNTING,
    POLICY,
    SETTINGS,
    Killed,
    StorageMachine,
    WatchfulProvider,
    answers,
    charges,
    failures,
    keys,
    waivers,
)
from tests.support.books import violations
from tests.support.builders import a_failure, an_answer
from tests.support.queue_world import SqlQueueWorld

HISTORIES = int(os.environ.get("FUZZ", "10"))
WHILE = timedelta(minutes=6)  # longer than any backoff, lease, outage or visibility of the machine
ROUNDS = 40  # of such whiles, within which every accepted retry ends: it is as many attempts, and some waits
BACKOFF = frozenset({Waiver.BACKOFF})

routes = st.sampled_from(["one/small", "two/large", None])
outages = st.sampled_from(
    [None, Outage(wait=timedelta(seconds=2), failures=1), Outage(wait=timedelta(minutes=1), failures=3)]
)
fates = st.one_of(
    failures,
    answers,
    st.builds(Killed),
    st.just(a_failure(FailureCode.RATE_LIMITED, certainly_not_generated=True, retry_after=timedelta(minutes=2))),
    st.just(a_failure(FailureCode.INVALID_OUTPUT)),
)


class QueueMachine(StorageMachine):
    """The same users, with workers."""

    world: QueueWorld

    def __init__(self, world: QueueWorld) -> None:
        super().__init__(world)

    # Accepting and taking back

    @rule(generation_id=StorageMachine.generations, waive=waivers, charge=charges, key=keys)
    def accept(self, generation_id: UUID, waive: frozenset[Waiver], charge: bool, key: str | None) -> None:
        """Somebody asks for later."""
        with suppress(AiRetryError):
            snapshot = self._load(generation_id)
            admission = replace(
                admit(snapshot, POLICY, purpose=Purpose.ENQUEUE, waive=waive, charge=charge), idempotency_key=key
            )
            token = uuid4()
            first = self._enqueue(admission, token)
            if first is not None:
                self._check_ceiling(admission)
            self.calls.append(lambda: self._enqueue_again(admission, token, first))

    def _enqueue(self, admission: Admission, token: UUID) -> QueuedRetry | None:
        before = self._fates()
        queued = self.world.storage.enqueue(admission, token=token, expires_after=POLICY.max_queued)
        self._check_only_abandoned(before)
        return queued

    def _enqueue_again(self, admission: Admission, token: UUID, first: QueuedRetry | None) -> None:
        before, messages = self._fates(), len(self.world.messages())
        again = None
        with suppress(AiRetryError):
            again = self.world.storage.enqueue(admission, token=token, expires_after=POLICY.max_queued)
        if first is not None:
            assert again is None or again.attempt == first.attempt
            assert set(self._fates()) - set(before) <= self._successors(before)
            assert len(self.world.messages()) == messages

    @rule(generation_id=StorageMachine.generations)
    def take_back(self, generation_id: UUID) -> None:
        """The user takes it back; once a worker has begun it goes on."""
        before = self.world.attempts(generation_id)
        left = self.world.storage.cancel(self.owners[generation_id], generation_id, reason=None)
        after = self.world.attempts(generation_id)
        open_before = [row for row in before if row["outcome"] is None]
        if left is not None:
            assert after == before
            assert open_before
        elif open_before and open_before[0]["accepted_at"] is not None:
            assert all(row["outcome"] is not None for row in after)

    # Workers, step by step, and the queue

    @rule(target=StorageMachine.claims, generation_id=StorageMachine.generations, route=routes)
    def begin_queued(self, generation_id: UUID, route: str | None) -> Any:
        """A worker claims what is queued, by a hint from anywhere."""
        admission = self._admit_to_run(generation_id)
        if admission is None:
            return multiple()
        before, token = self._fates(), uuid4()

        def claiming() -> Claim | Parked | None:
            with suppress(AiRetryError):
                return self.world.storage.claim_queued(
                    admission, token=token, lease=POLICY.lease, route=route, spread=timedelta(seconds=1)
                )
            return None

        claim = claiming()
        if not isinstance(claim, Claim):
            self._check_only_abandoned(before)
            return multiple()
        del before[generation_id, claim.number]  # with a stored answer it costs nothing any more
        self._check_only_abandoned(before)
        self._check_live(admission)

        def again() -> None:
            fates = self._fates()
            ours = any(row["token"] == token for row in self.world.attempts(generation_id))
            repeated = claiming()
            if ours:
                assert isinstance(repeated, Claim)
                assert (repeated.number, repeated.token) == (claim.number, claim.token)
                assert self._fates() == fates
            else:  # it was given back
                assert repeated is None
                self._check_only_abandoned(fates)

        self.calls.append(again)
        return claim

    def _admit_to_run(self, generation_id: UUID) -> Admission | None:
        with suppress(AiRetryError):
            return admit(self._load(generation_id), POLICY, purpose=Purpose.RUN_QUEUED, waive=BACKOFF)
        return None

    @rule(claim=StorageMachine.claims, failure=failures, delay=st.sampled_from([0, 60]), outage=outages)
    def fail_for_now(self, claim: Claim, failure: Failure, delay: int, outage: Outage | None) -> None:
        """A worker brings a failure that is not the last word."""
        if self._is_accepted(claim):
            self._settle(
                claim,
                lambda: self.world.storage.retry_later(
                    claim, failure, duration=None, delay=timedelta(seconds=delay), outage=outage
                ),
            )

    @rule(claim=StorageMachine.claims, delay=st.sampled_from([1, 60]), outage=outages)
    def give_back(self, claim: Claim, delay: int, outage: Outage | None) -> None:
        """A worker was turned away, or stops."""

        def giving() -> None:
            before = self._fates()
            self.world.storage.give_back(
                claim, delay=timedelta(seconds=delay), reason="stopped", wire_requests=0, outage=outage
            )
            assert self._fates() == before

        if self._is_accepted(claim):
            self.calls.append(giving)
            giving()

    @rule(fate=fates, limit=st.integers(1, 3))
    def work(self, fate: Answer | Failure | Killed, limit: int) -> None:
        """A worker does what some messages hint at."""
        self._work(fate, limit)

    def _work(self, fate: Answer | Failure | Killed, limit: int) -> int:
        messages = receive(self.world, limit=limit)
        for message in messages:
            provider = WatchfulProvider(fate, lambda: self._check_call(message.generation_id))  # noqa: B023 (called now)
            with suppress(Killed):
                run_queued(
                    message,
                    storage=self.world.storage,
                    ai=provider,
                    clock=ManualClock(),
                    policy=POLICY,
                    route_of=lambda _: "one/small",
                    jitter=lambda: 0.5,
                )
        return len(messages)

    @rule()
    def tidy(self) -> None:
        """A worker tidies: each step changes one attempt at most, and ends none that is in time."""
        before = self._fates()
        reaped = self.world.storage.reap()
        after = self._fates()
        changed = {attempt: after[attempt] for attempt in before if after[attempt] != before[attempt]}
        assert len(changed) <= reaped
        assert {fate[1] for fate in changed.values()} <= {"LEASE_LOST", RetryExpired.code}
        self.world.storage.resend(max_live=POLICY.max_parallel, limit=5)

    @rule()
    def lose_messages(self) -> None:
        """The queue is emptied behind our back."""
        self.world.lose_messages()

    @rule(generation_id=StorageMachine.generations, foreign=st.booleans())
    def send_a_duplicate(self, generation_id: UUID, foreign: bool) -> None:
        """A message comes that nobody of ours sent, perhaps in another user's name."""
        owner = self.owners[generation_id]
        user_id = next(each for each in self.users if (each != owner) == foreign)
        self.world.send_message({"user_id": str(user_id), "generation_id": str(generation_id)})

    # What is always true

    @invariant()
    def accepted_retries_keep_their_word(self) -> None:
        """From attempt to attempt an accepted retry keeps its time, its key and its charge, and dies with no worker."""
        for generation_id in self.owners:
            rows = self.world.attempts(generation_id)
            for one, next_one in pairwise(rows):
                same_retry = one["accepted_at"] is not None and one["accepted_at"] == next_one["accepted_at"]
                if same_retry and one["outcome"] != "cancelled":  # by its user, who accepted again at that instant
                    same = ("expires_at", "idempotency_key", "charge", "operator")
                    assert [one[each] for each in same] == [next_one[each] for each in same]
                    assert one["outcome"] in ("failed", "abandoned")
            assert not rows or rows[-1]["outcome"] != "abandoned" or rows[-1]["accepted_at"] is None
            for row in rows:
                assert not is_queued(row) or None not in (row["accepted_at"], row["expires_at"], row["next_attempt_at"])

    @invariant()
    def messages_are_nobodys_twice(self) -> None:
        """No message stands for two open attempts."""
        rows = [row for one in self.owners for row in self.world.attempts(one) if row["outcome"] is None]
        held = [row["message_id"] for row in rows if row["message_id"] is not None]
        assert len(held) == len(set(held))

    def teardown(self) -> None:
        """Time goes on, workers work, and every accepted retry ends; nobody has to click."""
        self.world.refuse_sessions(None)
        for _ in range(ROUNDS):
            if not self._open_accepted():
                break
            self.world.advance(WHILE)
            while self.world.storage.reap():
                pass
            self.world.storage.resend(max_live=POLICY.max_parallel, limit=10)
            while self._work(an_answer(), 5):
                pass
        assert self._open_accepted() == []
        self.attempts_are_in_order()
        self.closed_attempts_stay_closed()
        self.success_is_captured_once()

    # How it is judged

    def _open_accepted(self) -> list[Row]:
        rows = [row for one in self.owners for row in self.world.attempts(one)]
        return [row for row in rows if row["outcome"] is None and row["accepted_at"] is not None]

    def _is_accepted(self, claim: Claim) -> bool:
        return self.world.attempts(claim.generation_id)[claim.number - 2]["accepted_at"] is not None

    def _successors(self, before: dict[tuple[UUID, int], Any]) -> set[tuple[UUID, int]]:
        """Attempts that may follow those that a call found to be abandoned."""
        return {(generation_id, number + 1) for generation_id, number in before}

    def _check_ceiling(self, admission: Admission) -> None:
        snapshot = self._load(admission.generation_id)
        captured, held, _ = self._used(admission.user_id, snapshot, window=admission.quota_rule.window)
        assert admission.max_used is None or captured + held <= admission.max_used

    def _check_live(self, admission: Admission) -> None:
        snapshot = self._load(admission.generation_id)
        assert self._used(admission.user_id, snapshot)[2] <= admission.max_live


def queue_machine_on(new_world: Callable[[], QueueWorld]) -> type[QueueMachine]:
    """Give the machine that begins every history in a new world."""

    class Machine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(new_world())

    return Machine


@pytest.mark.timeout(600)
def test_accepted_retries_balance_and_end_in_memory() -> None:
    """The queue in memory keeps every invariant through any history, and every accepted retry ends."""
    run_state_machine_as_test(queue_machine_on(MemoryQueueWorld), settings=SETTINGS)


@pytest.mark.timeout(3600)
def test_accepted_retries_balance_and_end_on_postgres(migrated_database: str, connection: psycopg.Connection) -> None:
    """PostgreSQL keeps every invariant through any history, every 202 ends, and the documented books agree."""
    storage = PostgresStorage(migrated_database, max_connections=2)

    run_state_machine_as_test(
        queue_machine_on(lambda: SqlQueueWorld(storage, connection)),
        settings=type(SETTINGS)(SETTINGS, max_examples=HISTORIES),
    )
    storage.close()

    assert {name for name, _ in violations(connection)} <= {"a success whose generation says otherwise"}


class ForgetsQueuedHolds(InMemoryQueueStorage):
    """Counts running attempts alone when it accepts."""

    def _holds(self, *arguments: Any) -> Any:
        return [row for row in super()._holds(*arguments) if not row.is_queued]


class ForgetsTheDead(InMemoryQueueStorage):
    """Lets an accepted retry end with its worker."""

    def _requeue(self, *arguments: Any) -> None:
        if arguments[0].outcome is not Outcome.ABANDONED:
            super()._requeue(*arguments)


class LosesMessages(InMemoryQueueStorage):
    """Never sends a lost message again."""

    def resend(self, *, max_live: int, limit: int) -> int:  # noqa: ARG002
        """Do nothing."""
        return 0


@pytest.mark.parametrize("storage_type", [ForgetsQueuedHolds, ForgetsTheDead, LosesMessages])
def test_machine_catches_broken_queue(storage_type: type[InMemoryQueueStorage]) -> None:
    """The machine fails on a queue that breaks one promise; otherwise it would prove nothing."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(queue_machine_on(lambda: MemoryQueueWorld(storage_type)), settings=HUNTING)
