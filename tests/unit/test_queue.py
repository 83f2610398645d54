"""Accepting a retry, taking it back, and what a worker does with a message, on the queue in memory."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.bootstrap import usable_context
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    AttemptsExhausted,
    ContextMissing,
    GenerationNotFound,
    NotConfigured,
    QuotaExhausted,
    RetryInProgress,
)
from ai_retry.domain.model import Admission, Context, FailureCode, Generation, RetryResult, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue import cancel_retry, enqueue_generation, run_queued
from ai_retry.domain.queue_model import QueuedRetry
from ai_retry.domain.decide.queue import OUTAGE_PACE
from ai_retry.domain.queue_model import QueueOutcome
from ai_retry.domain.reader import ContextFrom, ContextUnusable, OtherReader, ReaderFailed, reader_name
from ai_retry.storage.memory_queue import InMemoryQueueStorage
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.contract import POLICY as ROOMY
from ai_retry.testing.contract import claim_of, fail, new_generation, outcomes, quota_of, succeed
from ai_retry.testing.queue_contract import (
    MemoryQueueWorld,
    admission_to_enqueue,
    is_queued,
    last_attempt,
    new_queued,
    ready,
    receive,
    run,
    status_of,
    waiting,
)
from tests.support.builders import SECOND, a_failure, an_answer

POLICY = RetryPolicy(max_attempts=4, max_parallel=2)
ROUTE = "provider.example/small"
FAILED = a_failure(FailureCode.INVALID_OUTPUT)
REJECTED = a_failure(FailureCode.REJECTED, transient=False, certainly_not_generated=True)
ANSWER = an_answer()


@pytest.fixture
def world() -> MemoryQueueWorld:
    """Memory, and a clock of its own."""
    return MemoryQueueWorld()


def accept(
    world: MemoryQueueWorld, user_id: UUID | str, generation_id: UUID | str, **options: Any
) -> QueuedRetry | RetryResult:
    """Ask for later."""
    return enqueue_generation(user_id, generation_id, storage=world.storage, **{"policy": POLICY, **options})


def accepted(world: MemoryQueueWorld, **options: Any) -> tuple[UUID, UUID]:
    """Accept a new user's retry; give both ids."""
    user_id, generation_id = new_generation(world)
    accept(world, user_id, generation_id, **options)
    return user_id, generation_id


def do(
    world: MemoryQueueWorld,
    *script: AiStep,
    policy: RetryPolicy = POLICY,
    context_from: ContextFrom = stored_context,
    clock: ManualClock | None = None,
    jitter: float = 1.0,
    on_end: Callable[[AiRetryError], None] = lambda _: None,
) -> list[QueueOutcome]:
    """Do what every message hints at that can be seen; every step of the provider's script is asked for."""
    ai = ScriptedAiProvider(*script)
    outcomes = [
        run_queued(
            message,
            storage=world.storage,
            ai=ai,
            clock=clock or ManualClock(),
            policy=policy,
            context_from=context_from,
            route_of=lambda _: ROUTE,
            on_end=on_end,
            jitter=lambda: jitter,
        )
        for message in receive(world)
    ]
    ai.assert_finished()
    return outcomes


# Accepting


def test_accepted_retry_is_told(world: MemoryQueueWorld) -> None:
    """It waits, is due, and ends within the policy's time."""
    user_id, generation_id = new_generation(world)

    queued = accept(world, str(user_id), str(generation_id), idempotency_key="click-1", operator="ann", charge=False)

    assert isinstance(queued, QueuedRetry)
    assert queued.expires_at == world.clock.now() + POLICY.max_queued
    row = last_attempt(world, generation_id)
    assert (row["idempotency_key"], row["operator"], row["charge"]) == ("click-1", "ann", False)


def test_second_click_is_told_the_same(world: MemoryQueueWorld) -> None:
    """What is queued is told again, with the time that it waits by now, and nothing is opened."""
    user_id, generation_id = new_generation(world)
    first = accept(world, user_id, generation_id)
    world.advance(SECOND)

    second = accept(world, user_id, generation_id)

    assert isinstance(first, QueuedRetry)
    assert isinstance(second, QueuedRetry)
    assert replace(second, as_of=first.as_of, generation=first.generation, quota=first.quota) == first
    assert second.as_of == first.as_of + SECOND
    assert (second.generation.id, second.generation.status.value, second.quota.held) == (generation_id, "queued", 1)
    assert isinstance(last_attempt(world, generation_id)["token"], UUID)
    assert outcomes(world, generation_id) == [None]


@pytest.mark.parametrize("queued", [True, False], ids=["by a worker", "for somebody"])
def test_running_retry_is_told(world: MemoryQueueWorld, *, queued: bool) -> None:
    """What runs is told to be due no more: by a worker until when, or for somebody who waits."""
    user_id, generation_id = new_generation(world)
    if queued:
        accept(world, user_id, generation_id)
        run(world, user_id, generation_id)
    else:
        claim_of(world, user_id, generation_id)

    told = accept(world, user_id, generation_id)

    assert isinstance(told, QueuedRetry)
    assert (told.attempt, told.next_attempt_at) == (2, None)
    assert (told.accepted_at is not None) is (told.expires_at is not None) is queued


def test_dead_workers_accepted_retry_is_told(world: MemoryQueueWorld) -> None:
    """One whose worker died goes on: a click is told so, and opens no second one."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(ROOMY.lease)

    told = accept(world, user_id, generation_id)

    assert isinstance(told, QueuedRetry)
    assert told.accepted_at is not None
    assert len(outcomes(world, generation_id)) == 1


def test_dead_clicks_retry_is_accepted_anew(world: MemoryQueueWorld) -> None:
    """One that somebody waited for, whose process died, does not go on by itself: it is accepted as the next one."""
    user_id, generation_id = new_generation(world)
    claim_of(world, user_id, generation_id)
    world.advance(ROOMY.lease)

    told = accept(world, user_id, generation_id)

    assert isinstance(told, QueuedRetry)
    assert told.attempt == 3
    assert outcomes(world, generation_id) == ["abandoned", None]


def test_success_by_another_hand_is_told(world: MemoryQueueWorld) -> None:
    """An attempt that still waits promises nothing when the app succeeded meanwhile."""
    user_id, generation_id = accepted(world)
    world.set_generation(generation_id, status="success")

    with pytest.raises(AlreadySucceeded):
        accept(world, user_id, generation_id)


def test_key_replays_its_success(world: MemoryQueueWorld) -> None:
    """A key that led to a session gives it again; another one, or none, is told that it succeeded."""
    user_id, generation_id = accepted(world, idempotency_key="click-1")
    do(world, ANSWER)

    replayed = accept(world, user_id, generation_id, idempotency_key="click-1")

    assert isinstance(replayed, RetryResult)
    assert (replayed.replayed, replayed.attempt) == (True, 2)
    for key in ("click-2", None):
        with pytest.raises(AlreadySucceeded):
            accept(world, user_id, generation_id, idempotency_key=key)


def test_rules_refuse_before_anything_is_written(world: MemoryQueueWorld) -> None:
    """A used-up quota, an unknown generation and a missing queue are told at the door."""
    user_id, generation_id = new_generation(world)
    world.set_quota(user_id, 0, timedelta(hours=1))

    with pytest.raises(QuotaExhausted):
        accept(world, user_id, generation_id)
    with pytest.raises(GenerationNotFound):
        accept(world, user_id, uuid4())
    world.tables.has_queue = False
    with pytest.raises(NotConfigured):
        accept(world, user_id, generation_id, waive=frozenset({Waiver.QUOTA}), operator="ann")
    assert world.attempts(generation_id) == []


@pytest.mark.parametrize(
    ("name", "ids", "options"),
    [
        ("user_id", ("x", str(uuid4())), {}),
        ("generation_id", (str(uuid4()), "x"), {}),
        ("idempotency_key", (uuid4(), uuid4()), {"idempotency_key": "a\nb"}),
        ("operator", (uuid4(), uuid4()), {"operator": ""}),
    ],
)
def test_bad_arguments_are_refused(
    world: MemoryQueueWorld, name: str, ids: tuple[Any, Any], options: dict[str, Any]
) -> None:
    """What is no id and no name is told, by its name, before anything is read."""
    with pytest.raises(ValueError, match=f"^{name} must"):
        accept(world, *ids, **options)


def test_the_callers_policy_and_context_decide(world: MemoryQueueWorld) -> None:
    """Who accepts asks the numbers, and the app's own function, that the worker will ask."""
    user_id, generation_id = new_generation(world)

    def no_context(_: Generation) -> Context:
        raise ContextMissing("it was archived")

    with pytest.raises(ContextMissing):
        accept(world, user_id, generation_id, context_from=no_context)
    with pytest.raises(AttemptsExhausted):
        accept(world, user_id, generation_id, policy=replace(POLICY, max_attempts=1))


class Restless(InMemoryQueueStorage):
    """Finds everything changed whenever somebody accepts or begins, for a number of times."""

    changes = 0

    def enqueue(self, admission: Admission, **arguments: Any) -> QueuedRetry | None:
        """Be stale."""
        return None if self._changes() else super().enqueue(admission, **arguments)

    def claim_queued(self, admission: Admission, **arguments: Any) -> Any:
        """Be stale."""
        return None if self._changes() else super().claim_queued(admission, **arguments)

    def _changes(self) -> bool:
        self.changes -= 1
        return self.changes >= 0


@pytest.mark.parametrize(("changes", "is_accepted"), [(2, True), (3, False)])
def test_stale_admission_is_renewed_twice(changes: int, *, is_accepted: bool) -> None:
    """What changed meanwhile is looked at again, three times at most; then others are at work."""
    world = MemoryQueueWorld(Restless)
    user_id, generation_id = new_generation(world)
    world.tables.changes = changes  # type: ignore[attr-defined]

    if is_accepted:
        assert isinstance(accept(world, user_id, generation_id), QueuedRetry)
    else:
        with pytest.raises(RetryInProgress) as refused:
            accept(world, user_id, generation_id)
        assert refused.value.retry_after == SECOND


# Taking back


def test_taken_back(world: MemoryQueueWorld) -> None:
    """What waits is taken back by its ids, in either form; a repeat does nothing."""
    user_id, generation_id = accepted(world)

    cancel_retry(str(user_id), str(generation_id), storage=world.storage)
    cancel_retry(user_id, generation_id, storage=world.storage)

    assert outcomes(world, generation_id) == ["cancelled"]


@pytest.mark.parametrize(("passed", "wait"), [(timedelta(0), 5 * SECOND), (ROOMY.lease - 2 * SECOND, 2 * SECOND)])
def test_running_one_is_not_taken_back(world: MemoryQueueWorld, passed: timedelta, wait: timedelta) -> None:
    """What runs is in progress until the end of its lease, to be asked about in five seconds at most."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(passed)

    with pytest.raises(RetryInProgress) as refused:
        cancel_retry(user_id, generation_id, storage=world.storage)

    assert refused.value.retry_after == wait
    assert outcomes(world, generation_id) == [None]


@pytest.mark.parametrize(("name", "ids"), [("user_id", ("x", str(uuid4()))), ("generation_id", (str(uuid4()), "x"))])
def test_taking_back_needs_ids(world: MemoryQueueWorld, name: str, ids: tuple[str, str]) -> None:
    """What is no id is told, by its name."""
    with pytest.raises(ValueError, match=f"^{name} must be a UUID"):
        cancel_retry(*ids, storage=world.storage)


# What a worker does with a message


def test_message_leads_to_a_session(world: MemoryQueueWorld) -> None:
    """The queued attempt is run, with what the generation holds, and settled."""
    user_id, _ = accepted(world)

    assert do(world, ANSWER) == [QueueOutcome.SUCCEEDED]

    assert [session["content"] for session in world.sessions(user_id)] == [ANSWER.output]
    assert waiting(world) == []


def test_failure_leads_to_the_next_attempt(world: MemoryQueueWorld) -> None:
    """A failure that may pass is followed by an attempt after the backoff, until the attempts are used up."""
    _, generation_id = accepted(world)

    outcomes_ = []
    for wait in (2, 4, 8):
        outcomes_ += do(world, FAILED)
        assert do(world) == []
        world.advance(timedelta(seconds=wait))

    assert outcomes_ == [QueueOutcome.GOES_ON, QueueOutcome.GOES_ON, QueueOutcome.FAILED]
    assert outcomes(world, generation_id) == ["failed"] * 3
    assert (status_of(world, generation_id), waiting(world)) == ("error", [])


def test_failure_that_lasts_is_the_last(world: MemoryQueueWorld) -> None:
    """What the identical request can't mend is not tried again."""
    user_id, generation_id = accepted(world)

    assert do(world, REJECTED) == [QueueOutcome.FAILED]

    assert (outcomes(world, generation_id), waiting(world)) == (["failed"], [])
    assert quota_of(world, user_id).held == 0


def test_failure_whose_wait_is_too_long_is_the_last(world: MemoryQueueWorld) -> None:
    """When the next attempt would be due after the retry's time, this one was the last."""
    policy = replace(POLICY, max_queued=2 * SECOND)
    _, generation_id = accepted(world, policy=policy)

    assert do(world, FAILED, policy=policy) == [QueueOutcome.FAILED]
    assert outcomes(world, generation_id) == ["failed"]


def test_failure_whose_wait_is_short_enough_goes_on(world: MemoryQueueWorld) -> None:
    """When the next attempt is due in time, the retry goes on."""
    policy = replace(POLICY, max_queued=2 * SECOND + timedelta(microseconds=1))
    accepted(world, policy=policy)

    assert do(world, FAILED, policy=policy) == [QueueOutcome.GOES_ON]


def test_answer_that_nobody_can_store_goes_on(world: MemoryQueueWorld) -> None:
    """An output that is no JSON is a failure like another."""
    _, generation_id = accepted(world)

    assert do(world, an_answer(output=float("nan"))) == [QueueOutcome.GOES_ON]
    assert world.attempts(generation_id)[0]["code"] == "AI_INVALID_OUTPUT"


def test_refused_session_goes_on_without_a_call(world: MemoryQueueWorld) -> None:
    """A session that was refused is made of the stored answer by the next attempt, which asks nobody."""
    user_id, generation_id = accepted(world)
    world.refuse_sessions("title_is_short")
    assert do(world, ANSWER) == [QueueOutcome.GOES_ON]
    world.refuse_sessions(None)
    world.advance(2 * SECOND)

    assert do(world) == [QueueOutcome.SUCCEEDED]
    assert outcomes(world, generation_id) == ["failed", "succeeded"]
    assert len(world.sessions(user_id)) == 1


def test_lease_that_is_used_up_is_given_back(world: MemoryQueueWorld) -> None:
    """When the claim took so long that no time is left, nobody is called and no attempt is used up."""
    _, generation_id = accepted(world)
    clock = SlowClock(steps=timedelta(seconds=29.5))

    assert do(world, clock=clock) == [QueueOutcome.PARKED]

    (row,) = world.attempts(generation_id)
    assert (is_queued(row), row["wire_requests"]) == (True, 0)
    assert row["next_attempt_at"] == world.clock.now() + SECOND


class SlowClock(ManualClock):
    """Goes on by a step whenever somebody looks."""

    def __init__(self, steps: timedelta) -> None:
        super().__init__()
        self._steps = steps

    def monotonic(self) -> float:
        """Look, and let time pass."""
        self.advance(self._steps)
        return super().monotonic()


@pytest.mark.parametrize("gone", ["generation", "owner", "success"])
def test_message_of_what_is_over_ends_it(world: MemoryQueueWorld, gone: str) -> None:
    """A deleted generation, another owner and a success by another hand end the retry, its unit and its message."""
    user_id, generation_id = accepted(world)
    if gone == "generation":
        world.delete_generation(generation_id)
    elif gone == "owner":
        world.set_generation(generation_id, user_id=uuid4())
    else:
        world.set_generation(generation_id, status="success")

    assert do(world) == [QueueOutcome.ENDED]

    assert outcomes(world, generation_id) == ["cancelled"]
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)
    assert world.error_logs(generation_id) == []


@pytest.mark.parametrize("gone", ["generation", "success"])
def test_call_to_what_is_over_fails(world: MemoryQueueWorld, gone: str) -> None:
    """What vanishes, or succeeds elsewhere, during the call ends the retry."""
    _, generation_id = accepted(world)

    def meanwhile(_: object) -> Any:
        if gone == "generation":
            world.delete_generation(generation_id)
        else:
            world.set_generation(generation_id, status="success")
        return ANSWER

    assert do(world, meanwhile) == [QueueOutcome.FAILED]
    assert (outcomes(world, generation_id), waiting(world)) == (["failed"], [])


def test_late_answer_is_no_success(world: MemoryQueueWorld) -> None:
    """An answer after the attempt was given up is kept, and makes the next one's session."""
    _, generation_id = accepted(world)

    def late(_: object) -> Any:
        world.advance(POLICY.lease)
        world.storage.reap()
        return ANSWER

    assert do(world, late) == [QueueOutcome.FAILED]
    world.advance(timedelta(minutes=5))
    assert do(world) == [QueueOutcome.SUCCEEDED]
    assert outcomes(world, generation_id) == ["abandoned", "succeeded"]


@pytest.mark.parametrize("reason", ["expired", "poisoned", "exhausted", "no context"])
def test_message_of_what_can_t_go_on_ends_it_with_the_reason(world: MemoryQueueWorld, reason: str) -> None:
    """Time, workers or attempts that are used up, and a context that is gone, end the retry; the app's log says why."""
    user_id, generation_id = accepted(world)
    policy, code = (
        POLICY,
        {"expired": "RETRY_EXPIRED", "poisoned": "RETRY_POISONED", "exhausted": "RETRY_LIMIT_REACHED"},
    )
    if reason == "expired":
        world.advance(POLICY.max_queued)
    elif reason == "no context":
        world.set_generation(generation_id, prompt_data=None)
    else:
        policy = replace(POLICY, max_abandoned=1, max_attempts=4 if reason == "poisoned" else 2)
        run(world, user_id, generation_id)
        world.advance(POLICY.lease)
        world.storage.reap()
        world.advance(timedelta(minutes=5))
        if reason == "exhausted":
            policy = replace(policy, max_abandoned=2)

    assert do(world, policy=policy) == [QueueOutcome.ENDED]

    row = last_attempt(world, generation_id)
    assert (row["outcome"], row["code"]) == ("failed", code.get(reason, "CONTEXT_MISSING"))
    assert world.error_logs(generation_id)[-1]["error_type"] == row["code"]
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)


def test_message_that_hints_at_nothing_is_dropped(world: MemoryQueueWorld) -> None:
    """Where nothing was accepted, or it has ended, or somebody waits for it, a message is dropped unread."""
    (user_id, generation_id), (other_user, waited_for) = new_generation(world), new_generation(world)
    ended_user, ended = accepted(world)
    succeed(world, run(world, ended_user, ended))
    world.set_generation(ended, status="error")
    claim_of(world, other_user, waited_for)
    world.advance(POLICY.lease)
    for owner, one in ((user_id, generation_id), (other_user, waited_for), (ended_user, ended)):
        world.send_message({"user_id": str(owner), "generation_id": str(one)})

    assert do(world) == [QueueOutcome.NOTHING] * 3
    assert (waiting(world), world.attempts(generation_id)) == ([], [])


def test_message_of_a_running_attempt_waits_for_its_lease(world: MemoryQueueWorld) -> None:
    """A second worker that gets the message of what runs leaves it alone."""
    user_id, generation_id = accepted(world)
    claim = run(world, user_id, generation_id)

    assert do(world) == [QueueOutcome.NOTHING]

    assert last_attempt(world, generation_id)["token"] == claim.token
    assert (waiting(world), ready(world)) == ([generation_id], [])


def test_attempt_whose_lease_just_ended_waits_for_a_worker(world: MemoryQueueWorld) -> None:
    """At the very end of its lease an attempt is nobody's: its message waits for the backoff, and comes again."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(ROOMY.lease)

    assert do(world) == [QueueOutcome.POSTPONED]
    assert waiting(world) == [generation_id]


def test_early_message_waits_for_its_time(world: MemoryQueueWorld) -> None:
    """A message that comes before its attempt is due comes again when it is, to the second."""
    user_id, generation_id = new_generation(world)
    fail(world, claim_of(world, user_id, generation_id), delay=timedelta(minutes=1))
    accept(world, user_id, generation_id)
    (row,) = world.messages()
    world.tables.line.hide(row["id"], world.clock.now())

    assert do(world, jitter=0.0) == [QueueOutcome.POSTPONED]

    assert last_attempt(world, generation_id)["next_attempt_at"] == world.clock.now() + timedelta(minutes=1)
    world.advance(timedelta(minutes=1) - SECOND)
    assert ready(world) == []
    world.advance(SECOND)
    assert do(world, ANSWER) == [QueueOutcome.SUCCEEDED]


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 2.5), (1.0, 5.0)])
def test_crowded_message_waits_its_turn(world: MemoryQueueWorld, jitter: float, wait: float) -> None:
    """While as many of the user's run as may, a message is put off by up to five seconds, not all by the same."""
    user_id, generation_id = accepted(world)
    for _ in range(2):
        claim_of(world, user_id, world.new_generation(user_id))

    assert do(world, jitter=jitter) == [QueueOutcome.POSTPONED]

    row = last_attempt(world, generation_id)
    assert (row["outcome"], row["next_attempt_at"]) == (None, world.clock.now() + timedelta(seconds=wait))


def test_set_up_that_is_missing_is_waited_for(world: MemoryQueueWorld) -> None:
    """What an operator has to do is raised for the log, and looked at again in a minute; no attempt is used up."""
    _, generation_id = accepted(world)
    world.tables.can_create_session = False

    with pytest.raises(NotConfigured):
        do(world)

    row = last_attempt(world, generation_id)
    assert is_queued(row)
    assert row["next_attempt_at"] == world.clock.now() + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("changes", "outcome", "script"), [(2, QueueOutcome.SUCCEEDED, [ANSWER]), (3, QueueOutcome.POSTPONED, [])]
)
def test_stale_claim_is_renewed_twice(changes: int, outcome: QueueOutcome, script: list[AiStep]) -> None:
    """What changed before a worker claims is looked at again, three times at most; then the message waits a second."""
    world = MemoryQueueWorld(Restless)
    _, generation_id = accepted(world)
    world.tables.changes = changes  # type: ignore[attr-defined]

    assert do(world, *script) == [outcome]
    if outcome is QueueOutcome.POSTPONED:
        assert last_attempt(world, generation_id)["next_attempt_at"] == world.clock.now() + SECOND


def test_dead_workers_attempt_is_taken_over(world: MemoryQueueWorld) -> None:
    """A message that comes again after its worker died leads to the next attempt, and to the session."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(POLICY.lease + timedelta(minutes=5))

    assert do(world, ANSWER) == [QueueOutcome.SUCCEEDED]
    assert outcomes(world, generation_id) == ["abandoned", "succeeded"]


def test_context_is_the_apps_to_read(world: MemoryQueueWorld) -> None:
    """The app's own function says what to ask; when it finds nothing the retry ends."""
    archived = False

    def context_from(generation: Generation) -> Context:
        if archived:
            raise ContextMissing("it was archived")
        return replace(stored_context(generation), model="large")

    accepted(world, context_from=context_from)
    ai = ScriptedAiProvider(ANSWER)
    (message,) = receive(world)
    parts: dict[str, Any] = {"storage": world.storage, "clock": ManualClock(), "policy": POLICY}
    assert (
        run_queued(message, route_of=lambda _: ROUTE, ai=ai, context_from=context_from, **parts)
        is QueueOutcome.SUCCEEDED
    )
    assert [call.context.model for call in ai.calls] == ["large"]

    _, generation_id = accepted(world, context_from=context_from)
    archived = True
    assert do(world, context_from=context_from) == [QueueOutcome.ENDED]
    assert last_attempt(world, generation_id)["code"] == "CONTEXT_MISSING"


class Routed(InMemoryQueueStorage):
    """Remembers which routes were asked for."""

    asked: list[str | None]

    def claim_queued(self, admission: Admission, *, route: str | None, **arguments: Any) -> Any:
        """Note the route."""
        self.asked = [*getattr(self, "asked", []), route]
        return super().claim_queued(admission, route=route, **arguments)


def test_route_is_named_by_who_is_asked(world: MemoryQueueWorld) -> None:
    """A route is what the worker calls whom the context asks; where nobody is asked there is none."""
    world = MemoryQueueWorld(Routed)
    user_id, _ = accepted(world)
    message = receive(world)[0]
    ai = ScriptedAiProvider(FAILED)
    run_queued(
        message,
        storage=world.storage,
        ai=ai,
        clock=ManualClock(),
        route_of=lambda context: f"here/{context.model}",
        policy=POLICY,
    )
    world.advance(timedelta(minutes=1))
    world.refuse_sessions("title_is_short")
    do(world, ANSWER)
    world.refuse_sessions(None)
    world.advance(timedelta(minutes=1))
    do(world)

    assert world.tables.asked == ["here/small", ROUTE, None]  # type: ignore[attr-defined]
    assert len(world.sessions(user_id)) == 1


def test_closed_route_parks(world: MemoryQueueWorld) -> None:
    """While its provider is away a message leads to no call, and no attempt is used up."""
    away = a_failure(certainly_not_generated=True, wire_requests=0)
    _, first = accepted(world)
    assert do(world, away) == [QueueOutcome.PARKED]
    _, second = accepted(world)

    assert do(world) == [QueueOutcome.PARKED]

    assert [is_queued(last_attempt(world, each)) for each in (first, second)] == [True, True]
    world.advance(timedelta(minutes=1))
    assert do(world, ANSWER, ANSWER) == [QueueOutcome.SUCCEEDED] * 2


AWAY = a_failure(certainly_not_generated=True, wire_requests=0)


@pytest.mark.parametrize(
    ("failure", "numbers", "wait"),
    [
        (AWAY, {}, 1.5),
        (AWAY, {"outage_cap": SECOND}, 0.75),
        (replace(AWAY, retry_after=60 * SECOND), {}, 60),
        (replace(AWAY, retry_after=60 * SECOND), {"max_wait": 30 * SECOND}, 30),
    ],
)
def test_parked_attempt_waits_for_its_route(
    world: MemoryQueueWorld, failure: Any, numbers: dict[str, Any], wait: float
) -> None:
    """Turned away, it waits as long as its route is closed, or as it was asked to, and is spread over some seconds."""
    policy = replace(POLICY, **numbers)
    _, generation_id = accepted(world, policy=policy)

    assert do(world, failure, policy=policy, jitter=0.5) == [QueueOutcome.PARKED]

    now = world.clock.now()
    assert last_attempt(world, generation_id)["next_attempt_at"] == now + timedelta(seconds=wait + 2.5)
    (outage,) = world.storage.queue_state().outages
    assert (outage.not_before, outage.failures) == (now + timedelta(seconds=wait), 1)


def test_outage_that_goes_on_is_believed_at_once(world: MemoryQueueWorld) -> None:
    """Where nobody was answered yet, any failure is one more of the provider's; the next probe is rarer."""
    accepted(world)
    do(world, AWAY)
    world.advance(timedelta(minutes=1))

    assert do(world, a_failure()) == [QueueOutcome.PARKED]

    (outage,) = world.storage.queue_state().outages
    assert (outage.failures, outage.not_before) == (2, world.clock.now() + 4 * SECOND)


def test_parked_attempts_look_apart(world: MemoryQueueWorld) -> None:
    """Who waits for a closed route looks again when it opens, the more wait the later, each a little apart."""
    accepted(world)
    do(world, replace(AWAY, retry_after=60 * SECOND), jitter=0.0)
    accepted(world)
    (outage,) = world.storage.queue_state().outages

    assert do(world, jitter=0.5) == [QueueOutcome.PARKED]

    visible_at = max(row.visible_at for row in world.tables.line.rows.values())
    assert visible_at == outage.not_before + 2 * OUTAGE_PACE / 2


def test_wait_of_a_failure_is_the_providers(world: MemoryQueueWorld) -> None:
    """What a provider asked for is waited, up to the policy's longest wait."""
    policy = replace(POLICY, max_wait=30 * SECOND)
    _, generation_id = accepted(world, policy=policy)

    do(world, replace(FAILED, retry_after=60 * SECOND), policy=policy)

    assert last_attempt(world, generation_id)["next_attempt_at"] == world.clock.now() + 30 * SECOND


@pytest.mark.parametrize("failure", [FAILED, REJECTED])
def test_failed_call_tells_how_long_it_took(world: MemoryQueueWorld, failure: Any) -> None:
    """The app's row says how long the last call took, whether another follows or not."""
    _, generation_id = accepted(world)

    do(world, failure, clock=SlowClock(steps=SECOND))

    assert world.generation(generation_id)["duration_ms"] == 1000


def test_overload_is_no_last_attempt(world: MemoryQueueWorld) -> None:
    """A provider that takes nobody's requests ends no retry, although its attempts would be used up."""
    policy = replace(POLICY, max_attempts=2)
    accepted(world, policy=policy)

    assert do(world, a_failure(overloaded=True), policy=policy) == [QueueOutcome.GOES_ON]


def test_jitter_is_random_where_none_is_given(world: MemoryQueueWorld) -> None:
    """Waits of those that fail together differ."""
    _, generation_ids = zip(*(new_queued(world) for _ in range(5)), strict=True)
    ai = ScriptedAiProvider(default=FAILED)
    for message in receive(world):
        run_queued(message, storage=world.storage, ai=ai, clock=ManualClock(), route_of=lambda _: ROUTE, policy=POLICY)

    assert len({last_attempt(world, each)["next_attempt_at"] for each in generation_ids}) > 1


# Readers


def none_to_read(_: Generation) -> Context:
    """Find no context anywhere."""
    raise ContextMissing("prompt_data.question is missing")


def defective(generation: Generation) -> Context:
    """Read what is not there."""
    return Context(messages=generation.prompt_data["question"], model=None)


@pytest.mark.parametrize("other", [stored_context, none_to_read, defective])
def test_other_reader_leaves_it_queued(world: MemoryQueueWorld, other: ContextFrom) -> None:
    """Whatever another reader would say of the context: the retry waits a minute, and then for the right worker."""

    def the_apps(generation: Generation) -> Context:
        return stored_context(generation)

    _, generation_id = accepted(world, context_from=the_apps)

    with pytest.raises(OtherReader) as caught:
        do(world, context_from=other)

    assert f"accepted with the reader {reader_name(the_apps)}" in str(caught.value)
    assert f"this worker has {reader_name(other)}" in str(caught.value)
    assert f"AI_RETRY_CONTEXT_FROM={reader_name(the_apps)}" in str(caught.value)
    row = last_attempt(world, generation_id)
    assert (is_queued(row), row["next_attempt_at"]) == (True, world.clock.now() + timedelta(minutes=1))
    assert (status_of(world, generation_id), world.error_logs(generation_id)) == ("queued", [])
    assert do(world) == []
    world.advance(timedelta(minutes=1))
    assert do(world, ANSWER, context_from=the_apps) == [QueueOutcome.SUCCEEDED]


def test_reader_is_asked_in_every_later_attempt(world: MemoryQueueWorld) -> None:
    """An accepted retry that goes on still waits for the reader with which it was accepted."""
    accepted(world)
    assert do(world, a_failure(FailureCode.TIMEOUT)) == [QueueOutcome.GOES_ON]
    world.advance(POLICY.backoff_cap)

    with pytest.raises(OtherReader):
        do(world, context_from=none_to_read)


def test_retry_without_recorded_reader_is_anyones(world: MemoryQueueWorld) -> None:
    """What an older version accepted is run by any worker."""
    _, generation_id = accepted(world)
    row = next(each for each in world.tables.attempts.values() if each.generation_id == generation_id)
    world.tables.attempts[row.token] = replace(row, context_reader=None)

    def others(generation: Generation) -> Context:
        return stored_context(generation)

    assert do(world, ANSWER, context_from=others) == [QueueOutcome.SUCCEEDED]


def test_stored_answer_needs_no_reader(world: MemoryQueueWorld) -> None:
    """A paid answer becomes a session whoever works: its context is not read."""
    accepted(world)
    world.refuse_sessions("title_is_short")
    assert do(world, ANSWER) == [QueueOutcome.GOES_ON]
    world.refuse_sessions(None)
    world.advance(POLICY.backoff_cap)

    assert do(world, context_from=none_to_read) == [QueueOutcome.SUCCEEDED]


def test_expired_retry_ends_whoever_looks(world: MemoryQueueWorld) -> None:
    """No verdict of a reader, so that nothing waits beyond its time for a worker that never comes."""
    _, generation_id = accepted(world)
    world.advance(POLICY.max_queued)

    assert do(world, context_from=none_to_read) == [QueueOutcome.ENDED]
    assert last_attempt(world, generation_id)["code"] == "RETRY_EXPIRED"


def test_defect_of_the_reader_ends_nothing(world: MemoryQueueWorld) -> None:
    """A reader that raises is the operator's to correct: the accepted retry waits for the next release."""
    user_id, generation_id = new_generation(world)
    admission = admission_to_enqueue(world, user_id, generation_id)
    world.storage.enqueue(
        replace(admission, context_reader=reader_name(defective)), token=uuid4(), expires_after=POLICY.max_queued
    )

    with pytest.raises(ReaderFailed, match="defective raised KeyError"):
        do(world, context_from=defective)

    row = last_attempt(world, generation_id)
    assert (is_queued(row), row["next_attempt_at"]) == (True, world.clock.now() + timedelta(minutes=1))
    assert world.error_logs(generation_id) == []


def without_model(generation: Generation) -> Context:
    """Read a context for the default model."""
    return replace(stored_context(generation), model=None)


@pytest.mark.parametrize(
    ("reader", "models"), [(without_model, None), (stored_context, frozenset({"large"}))], ids=["no model", "models"]
)
def test_settings_of_a_worker_end_nothing(
    world: MemoryQueueWorld, reader: ContextFrom, models: frozenset[str] | None
) -> None:
    """A worker without the app's model, or with another list of models, leaves what the app accepted queued."""
    the_apps = usable_context(reader, models=None, default_model="small", check_schema=dict)
    the_workers = usable_context(reader, models=models, default_model=None, check_schema=dict)
    _, generation_id = accepted(world, context_from=the_apps)

    with pytest.raises(ContextUnusable, match="model"):
        do(world, context_from=the_workers)

    row = last_attempt(world, generation_id)
    assert (is_queued(row), row["next_attempt_at"]) == (True, world.clock.now() + timedelta(minutes=1))
    assert world.error_logs(generation_id) == []
    world.advance(timedelta(minutes=1))
    assert do(world, ANSWER, context_from=the_apps) == [QueueOutcome.SUCCEEDED]


def test_end_without_a_call_is_reported(world: MemoryQueueWorld) -> None:
    """Whoever runs the message learns why the accepted retry ended."""
    user_id, generation_id = new_generation(world)
    admission = admission_to_enqueue(world, user_id, generation_id)
    world.storage.enqueue(
        replace(admission, context_reader=reader_name(none_to_read)), token=uuid4(), expires_after=POLICY.max_queued
    )
    reasons: list[AiRetryError] = []

    assert do(world, context_from=none_to_read, on_end=reasons.append) == [QueueOutcome.ENDED]

    assert [str(each) for each in reasons] == [str(ContextMissing("prompt_data.question is missing"))]
    assert last_attempt(world, generation_id)["code"] == "CONTEXT_MISSING"
