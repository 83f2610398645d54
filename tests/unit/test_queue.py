"""Accepting a retry, taking it back, and what a worker does with a message, on the queue in memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.bootstrap import usable_context
from ai_retry.domain.change import Begin, CloseOver, Closing, Running, Settle
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.queue import OUTAGE_PACE
from ai_retry.domain.drive import Watch
from ai_retry.domain.errors import (
    AlreadySucceeded,
    AttemptsExhausted,
    ContextMissing,
    GenerationNotFound,
    NotConfigured,
    QuotaExhausted,
    RetryInProgress,
)
from ai_retry.domain.loop import Step
from ai_retry.domain.model import Answer, Context, FailureCode, Generation, RetryResult, Waiver
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue import cancel_retry, enqueue_generation, run_taken
from ai_retry.domain.queue_model import QueuedRetry, QueueOutcome
from ai_retry.domain.reader import ContextFrom, ContextUnusable, OtherReader, ReaderFailed, reader_name
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from tests.helpers.builders import SECOND, a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import VISIBILITY, is_queued, last_attempt, ready, run, waiting
from tests.helpers.scene import Hooked, hooked
from tests.helpers.steps import POLICY as ROOMY
from tests.helpers.steps import begin, close_over, fail, new_generation, outcomes, quota_of, status_of, succeed
from tests.helpers.worlds import PROMPT_DATA

POLICY = RetryPolicy(max_attempts=4, max_parallel=2)
ROUTE = "provider.example/small"
FAILED = a_failure(FailureCode.INVALID_OUTPUT)
REJECTED = a_failure(FailureCode.REJECTED, transient=False, certainly_not_generated=True)
UNREACHABLE = a_failure(certainly_not_generated=True, wire_requests=0)
ANSWER = an_answer()


@pytest.fixture
def world() -> MemoryWorld:
    """Memory, and a clock of its own."""
    return MemoryWorld(Hooked)


def accept(world: MemoryWorld, user_id: UUID | str, generation_id: UUID | str, **options: Any) -> Any:
    """Ask for later."""
    return enqueue_generation(user_id, generation_id, storage=world.storage, **{"policy": POLICY, **options})


def accepted(world: MemoryWorld, **options: Any) -> tuple[UUID, UUID]:
    """Accept a new user's retry; return both ids."""
    user_id, generation_id = new_generation(world)
    accept(world, user_id, generation_id, **options)
    return user_id, generation_id


def do(
    world: MemoryWorld,
    *script: AiStep,
    policy: RetryPolicy = POLICY,
    context_from: ContextFrom = stored_context,
    route_of: Callable[[Context], str] = lambda _: ROUTE,
    clock: ManualClock | None = None,
    jitter: Callable[[], float] | None = lambda: 1.0,
    watches: Sequence[Watch] = (),
) -> list[QueueOutcome]:
    """Do what every message hints at that can be seen; every step of the provider's script is asked for."""
    ai = ScriptedAiProvider(*script)
    outcomes = [
        run_taken(
            taken,
            storage=world.storage,
            ai=ai,
            clock=clock or ManualClock(),
            policy=policy,
            context_from=context_from,
            route_of=route_of,
            jitter=jitter,
            watches=watches,
        )
        for taken in world.storage.take(10, VISIBILITY, policy.quota)
    ]
    ai.assert_finished()
    return outcomes


# Accepting


def test_accepted_retry_is_described(world: MemoryWorld) -> None:
    """It waits, is due, and ends within the policy's time."""
    user_id, generation_id = new_generation(world)

    queued = accept(world, str(user_id), str(generation_id), idempotency_key="click-1", operator="ann", charge=False)

    assert isinstance(queued, QueuedRetry)
    assert queued.expires_at == world.clock.now() + POLICY.max_queued
    row = last_attempt(world, generation_id)
    assert (row["idempotency_key"], row["operator"], row["charge"]) == ("click-1", "ann", False)


def test_second_click_gets_the_same(world: MemoryWorld) -> None:
    """What is queued is described again, as of now, and nothing is opened."""
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


@pytest.mark.parametrize("queued", [True, False], ids=["by a worker", "for a click"])
def test_running_retry_is_described(world: MemoryWorld, *, queued: bool) -> None:
    """What runs is due no more: a worker's has its end, a click's has none."""
    user_id, generation_id = new_generation(world)
    if queued:
        accept(world, user_id, generation_id)
        run(world, user_id, generation_id)
    else:
        begin(world, user_id, generation_id)

    described = accept(world, user_id, generation_id)

    assert isinstance(described, QueuedRetry)
    assert (described.attempt, described.next_attempt_at) == (2, None)
    assert (described.accepted_at is not None) is (described.expires_at is not None) is queued


def test_dead_workers_accepted_retry_is_described(world: MemoryWorld) -> None:
    """One whose worker died goes on: a click learns that, and opens no second one."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(ROOMY.lease)

    described = accept(world, user_id, generation_id)

    assert isinstance(described, QueuedRetry)
    assert described.accepted_at is not None
    assert len(outcomes(world, generation_id)) == 1


def test_dead_clicks_retry_is_accepted_anew(world: MemoryWorld) -> None:
    """A click whose process died does not go on by itself: the retry is accepted as the next one."""
    user_id, generation_id = new_generation(world)
    begin(world, user_id, generation_id)
    world.advance(ROOMY.lease)

    described = accept(world, user_id, generation_id)

    assert isinstance(described, QueuedRetry)
    assert described.attempt == 3
    assert outcomes(world, generation_id) == ["abandoned", None]


def test_success_by_another_hand_is_refused(world: MemoryWorld) -> None:
    """An attempt that still waits promises nothing when the app succeeded meanwhile."""
    user_id, generation_id = accepted(world)
    world.set_generation(generation_id, status="success")

    with pytest.raises(AlreadySucceeded):
        accept(world, user_id, generation_id)


def test_key_replays_its_success(world: MemoryWorld) -> None:
    """A key that led to a session gives it again; with another one, or none, it has succeeded already."""
    user_id, generation_id = accepted(world, idempotency_key="click-1")
    do(world, ANSWER)

    replayed = accept(world, user_id, generation_id, idempotency_key="click-1")

    assert (replayed.is_done, replayed.attempt) == (True, 2)
    assert isinstance(replayed.result, RetryResult)
    assert (replayed.result.replayed, replayed.result.attempt) == (True, 2)
    for key in ("click-2", None):
        with pytest.raises(AlreadySucceeded):
            accept(world, user_id, generation_id, idempotency_key=key)


def test_rules_refuse_before_anything_is_written(world: MemoryWorld) -> None:
    """A used-up quota, an unknown generation and a missing queue are refused at the door."""
    user_id, generation_id = new_generation(world)
    world.set_quota(user_id, 0, timedelta(hours=1))

    with pytest.raises(QuotaExhausted):
        accept(world, user_id, generation_id)
    with pytest.raises(GenerationNotFound):
        accept(world, user_id, uuid4())
    world.storage.has_queue = False
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
    world: MemoryWorld, name: str, ids: tuple[Any, Any], options: dict[str, Any]
) -> None:
    """What can't be an id or a name is refused, by its argument, before anything is read."""
    with pytest.raises(ValueError, match=f"^{name} must"):
        accept(world, *ids, **options)


def test_the_callers_policy_and_context_decide(world: MemoryWorld) -> None:
    """The numbers, and the app's own function, are those that the worker will ask."""
    user_id, generation_id = new_generation(world)

    def no_context(_: Generation) -> Context:
        raise ContextMissing("it was archived")

    with pytest.raises(ContextMissing):
        accept(world, user_id, generation_id, context_from=no_context)
    with pytest.raises(AttemptsExhausted):
        accept(world, user_id, generation_id, policy=replace(POLICY, max_attempts=1))


def restless(world: MemoryWorld, changes: int) -> None:
    """Let the app change what is about to be begun, for a number of times."""
    left = [changes]

    def change(begin: Begin | CloseOver) -> None:
        if isinstance(begin, Begin) and left[0]:
            left[0] -= 1
            other = "timeout" if status_of(world, begin.generation_id) != "timeout" else "error"
            world.set_generation(begin.generation_id, status=other)

    hooked(world).hooks = {"begin": change}


@pytest.mark.parametrize(("changes", "is_accepted"), [(2, True), (3, False)])
def test_stale_acceptance_is_decided_again_twice(world: MemoryWorld, changes: int, *, is_accepted: bool) -> None:
    """What changed meanwhile is looked at again, three times at most; then others are at work."""
    user_id, generation_id = new_generation(world)
    restless(world, changes)

    if is_accepted:
        assert isinstance(accept(world, user_id, generation_id), QueuedRetry)
    else:
        with pytest.raises(RetryInProgress) as refused:
            accept(world, user_id, generation_id)
        assert refused.value.retry_after == SECOND
    assert hooked(world).calls == ["load", "begin", "begin", "begin"]


# Taking back


def test_taken_back(world: MemoryWorld) -> None:
    """What waits is taken back by its ids, in either form; the unit is free; a repeat does nothing."""
    user_id, generation_id = accepted(world)

    cancel_retry(str(user_id), str(generation_id), storage=world.storage)
    cancel_retry(user_id, generation_id, storage=world.storage)

    assert (outcomes(world, generation_id), status_of(world, generation_id)) == (["cancelled"], "error")
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)


@pytest.mark.parametrize(("passed", "wait"), [(timedelta(0), 5 * SECOND), (ROOMY.lease - 2 * SECOND, 2 * SECOND)])
def test_running_one_is_not_taken_back(world: MemoryWorld, passed: timedelta, wait: timedelta) -> None:
    """What runs is in progress until the end of its lease, to be asked about in five seconds at most."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(passed)

    with pytest.raises(RetryInProgress) as refused:
        cancel_retry(user_id, generation_id, storage=world.storage)

    assert refused.value.retry_after == wait
    assert outcomes(world, generation_id) == [None]


@pytest.mark.parametrize(("name", "ids"), [("user_id", ("x", str(uuid4()))), ("generation_id", (str(uuid4()), "x"))])
def test_taking_back_needs_ids(world: MemoryWorld, name: str, ids: tuple[str, str]) -> None:
    """What can't be an id is refused, by its argument."""
    with pytest.raises(ValueError, match=f"^{name} must be a UUID"):
        cancel_retry(*ids, storage=world.storage)


# What a worker does with a message


def test_message_leads_to_a_session(world: MemoryWorld) -> None:
    """The queued attempt is run, with what the generation holds, and settled."""
    user_id, _ = accepted(world)

    assert do(world, ANSWER) == [QueueOutcome.SUCCEEDED]

    assert [session["content"] for session in world.sessions(user_id)] == [ANSWER.output]
    assert waiting(world) == []


def test_failure_leads_to_the_next_attempt(world: MemoryWorld) -> None:
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


def test_failure_that_lasts_is_the_last(world: MemoryWorld) -> None:
    """What the identical request can't cure is not tried again."""
    user_id, generation_id = accepted(world)

    assert do(world, REJECTED) == [QueueOutcome.FAILED]

    assert (outcomes(world, generation_id), waiting(world)) == (["failed"], [])
    assert status_of(world, generation_id) == "error"
    assert quota_of(world, user_id).held == 0


def test_answer_that_can_not_be_stored_goes_on(world: MemoryWorld) -> None:
    """An output that is not JSON is a failure like another."""
    _, generation_id = accepted(world)

    assert do(world, an_answer(output=float("nan"))) == [QueueOutcome.GOES_ON]
    assert world.attempts(generation_id)[0]["code"] == "AI_INVALID_OUTPUT"


def test_rejected_session_goes_on_without_a_call(world: MemoryWorld) -> None:
    """A session that was rejected is created from the stored answer by the next attempt, which calls no provider."""
    user_id, generation_id = accepted(world)
    world.refuse_sessions("title_is_short")
    assert do(world, ANSWER) == [QueueOutcome.GOES_ON]
    world.refuse_sessions(None)
    world.advance(2 * SECOND)

    assert do(world) == [QueueOutcome.SUCCEEDED]
    assert outcomes(world, generation_id) == ["failed", "succeeded"]
    assert len(world.sessions(user_id)) == 1


def test_lease_that_is_used_up_is_given_back(world: MemoryWorld) -> None:
    """When the begin took so long that no time is left, no provider is called and no attempt is used up."""
    _, generation_id = accepted(world)
    clock = SlowClock(steps=timedelta(seconds=29.5))

    assert do(world, clock=clock) == [QueueOutcome.PARKED]

    (row,) = world.attempts(generation_id)
    assert (is_queued(row), row["wire_requests"]) == (True, 0)
    assert row["next_attempt_at"] == world.clock.now() + SECOND


class SlowClock(ManualClock):
    """Goes on by a step at every look."""

    def __init__(self, steps: timedelta) -> None:
        super().__init__()
        self._steps = steps

    def monotonic(self) -> float:
        """Look, and let time pass."""
        self.advance(self._steps)
        return super().monotonic()


@pytest.mark.parametrize(
    ("gone", "outcome"),
    [("generation", QueueOutcome.NOTHING), ("owner", QueueOutcome.NOTHING), ("success", QueueOutcome.ENDED)],
)
def test_message_of_what_is_over_ends_it(world: MemoryWorld, gone: str, outcome: QueueOutcome) -> None:
    """A deleted generation, another owner and a success by another hand end the retry, its unit and its message."""
    user_id, generation_id = accepted(world)
    if gone == "generation":
        world.delete_generation(generation_id)
    elif gone == "owner":
        world.set_generation(generation_id, user_id=uuid4())
    else:
        world.set_generation(generation_id, status="success")

    assert do(world) == [outcome]

    assert outcomes(world, generation_id) == ["cancelled"]
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)
    assert world.error_logs(generation_id) == []


@pytest.mark.parametrize("gone", ["generation", "success"])
def test_call_to_what_is_over_fails(world: MemoryWorld, gone: str) -> None:
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


def test_late_answer_is_no_success(world: MemoryWorld) -> None:
    """An answer after the attempt was given up is stored, and becomes the next one's session."""
    user_id, generation_id = accepted(world)

    def late(_: object) -> Any:
        world.advance(POLICY.lease)
        close_over(world, user_id)
        return ANSWER

    assert do(world, late) == [QueueOutcome.FAILED]
    world.advance(timedelta(minutes=5))
    assert do(world) == [QueueOutcome.SUCCEEDED]
    assert outcomes(world, generation_id) == ["abandoned", "succeeded"]


@pytest.mark.parametrize("reason", ["expired", "poisoned", "exhausted", "no context"])
def test_message_of_what_can_t_go_on_ends_it_with_the_reason(world: MemoryWorld, reason: str) -> None:
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
        close_over(world, user_id)
        world.advance(timedelta(minutes=5))
        if reason == "exhausted":
            policy = replace(policy, max_abandoned=2)

    assert do(world, policy=policy) == [QueueOutcome.ENDED]

    row = last_attempt(world, generation_id)
    assert (row["outcome"], row["code"]) == ("failed", code.get(reason, "CONTEXT_MISSING"))
    assert world.error_logs(generation_id)[-1]["error_type"] == row["code"]
    assert (waiting(world), quota_of(world, user_id).held) == ([], 0)


def test_message_that_hints_at_nothing_is_dropped(world: MemoryWorld) -> None:
    """Where nothing was accepted, or it has ended, or a click runs it, a message is dropped unread."""
    (user_id, generation_id), (other_user, waited_for) = new_generation(world), new_generation(world)
    ended_user, ended = accepted(world)
    succeed(world, run(world, ended_user, ended))
    world.set_generation(ended, status="error")
    begin(world, other_user, waited_for)
    world.advance(POLICY.lease)
    for owner, one in ((user_id, generation_id), (other_user, waited_for), (ended_user, ended)):
        world.send_message({"user_id": str(owner), "generation_id": str(one)})

    assert do(world) == [QueueOutcome.NOTHING] * 3
    assert (waiting(world), world.attempts(generation_id)) == ([], [])


def test_message_of_a_running_attempt_waits_for_its_lease(world: MemoryWorld) -> None:
    """A second worker that gets the message of what runs leaves it as it is."""
    user_id, generation_id = accepted(world)
    begun = run(world, user_id, generation_id)

    assert do(world) == [QueueOutcome.NOTHING]

    assert last_attempt(world, generation_id)["token"] == begun.token
    assert (waiting(world), ready(world)) == ([generation_id], [])


def test_attempt_whose_lease_just_ended_waits_for_a_worker(world: MemoryWorld) -> None:
    """At the very end of its lease an attempt is over: its message waits for the backoff, and comes again."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(ROOMY.lease)

    assert do(world) == [QueueOutcome.POSTPONED]
    assert waiting(world) == [generation_id]


def test_early_message_waits_for_its_time(world: MemoryWorld) -> None:
    """A message that comes before its attempt is due comes again when it is, to the second."""
    user_id, generation_id = new_generation(world)
    fail(world, begin(world, user_id, generation_id), wait=timedelta(minutes=1))
    accept(world, user_id, generation_id)
    (row,) = world.messages()
    world.storage.line.hide(row["id"], world.clock.now())

    assert do(world, jitter=lambda: 0.0) == [QueueOutcome.POSTPONED]

    assert last_attempt(world, generation_id)["next_attempt_at"] == world.clock.now() + timedelta(minutes=1)
    world.advance(timedelta(minutes=1) - SECOND)
    assert ready(world) == []
    world.advance(SECOND)
    assert do(world, ANSWER) == [QueueOutcome.SUCCEEDED]


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 2.5), (1.0, 5.0)])
def test_crowded_message_waits_its_turn(world: MemoryWorld, jitter: float, wait: float) -> None:
    """While as many of the user's run as may, a message is put off by up to five seconds, not all by the same."""
    user_id, generation_id = accepted(world)
    for _ in range(2):
        begin(world, user_id, world.new_generation(user_id))

    assert do(world, jitter=lambda: jitter) == [QueueOutcome.POSTPONED]

    row = last_attempt(world, generation_id)
    assert (row["outcome"], row["next_attempt_at"]) == (None, world.clock.now() + timedelta(seconds=wait))


def test_session_that_is_impossible_is_waited_for(world: MemoryWorld) -> None:
    """A session for which there is no room now is looked at again in a minute; when there is room it is created."""
    user_id, generation_id = accepted(world)
    world.foresee_conflict(user_id, "There is one already.")

    assert do(world) == [QueueOutcome.POSTPONED]
    row = last_attempt(world, generation_id)
    assert is_queued(row)
    assert row["next_attempt_at"] == world.clock.now() + timedelta(minutes=1)

    world.foresee_conflict(user_id, None)
    world.advance(timedelta(minutes=1))
    assert do(world, ANSWER) == [QueueOutcome.SUCCEEDED]


def test_set_up_that_is_missing_is_waited_for(world: MemoryWorld) -> None:
    """What an operator has to do is raised for the log, and looked at again in a minute; no attempt is used up."""
    _, generation_id = accepted(world)
    world.app.can_create_session = False

    with pytest.raises(NotConfigured):
        do(world)

    row = last_attempt(world, generation_id)
    assert is_queued(row)
    assert row["next_attempt_at"] == world.clock.now() + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("changes", "outcome", "script"), [(2, QueueOutcome.SUCCEEDED, [ANSWER]), (3, QueueOutcome.POSTPONED, [])]
)
def test_stale_run_is_decided_again_twice(
    world: MemoryWorld, changes: int, outcome: QueueOutcome, script: list[AiStep]
) -> None:
    """What changed before a worker begins is looked at again, three times at most; then the message waits a second."""
    _, generation_id = accepted(world)
    restless(world, changes)

    assert do(world, *script) == [outcome]
    if outcome is QueueOutcome.POSTPONED:
        assert last_attempt(world, generation_id)["next_attempt_at"] == world.clock.now() + SECOND


def test_dead_workers_attempt_is_taken_over(world: MemoryWorld) -> None:
    """A message that comes again after its worker died leads to the next attempt, and to the session."""
    user_id, generation_id = accepted(world)
    run(world, user_id, generation_id)
    world.advance(POLICY.lease + timedelta(minutes=5))

    assert do(world, ANSWER) == [QueueOutcome.SUCCEEDED]
    assert outcomes(world, generation_id) == ["abandoned", "succeeded"]


def test_context_is_the_apps_to_read(world: MemoryWorld) -> None:
    """The app's own function says what to ask."""

    def context_from(generation: Generation) -> Context:
        return replace(stored_context(generation), model="large")

    accepted(world, context_from=context_from)
    models: list[str | None] = []

    def answer(call: AiCall) -> Answer:
        models.append(call.context.model)
        return ANSWER

    assert do(world, answer, context_from=context_from) == [QueueOutcome.SUCCEEDED]
    assert models == ["large"]


def test_route_is_the_contexts(world: MemoryWorld) -> None:
    """A route is what the worker calls the provider that the context asks; a stored answer has none."""
    accepted(world)
    do(world, FAILED, route_of=lambda context: f"here/{context.model}")
    world.advance(timedelta(minutes=1))
    world.refuse_sessions("title_is_short")
    do(world, ANSWER)
    world.refuse_sessions(None)
    world.advance(timedelta(minutes=1))
    do(world)

    starts = [each.attempt.start for each in hooked(world).begins]
    assert [each.route for each in starts if isinstance(each, Running)] == ["here/small", ROUTE, None]


def test_closed_route_parks(world: MemoryWorld) -> None:
    """While its provider is unavailable a message leads to no call, and no attempt is used up."""
    _, first = accepted(world)
    assert do(world, UNREACHABLE) == [QueueOutcome.PARKED]
    _, second = accepted(world)

    assert do(world) == [QueueOutcome.PARKED]

    rows = [last_attempt(world, each) for each in (first, second)]
    assert [(is_queued(row), row["number"], row["route"]) for row in rows] == [(True, 2, ROUTE)] * 2
    world.advance(timedelta(minutes=1))
    assert do(world, ANSWER, ANSWER) == [QueueOutcome.SUCCEEDED] * 2


def test_parked_attempt_waits_for_its_route(world: MemoryWorld) -> None:
    """Turned away, it waits as long as its route is closed, and is spread over some seconds."""
    _, generation_id = accepted(world)

    assert do(world, UNREACHABLE, jitter=lambda: 0.5) == [QueueOutcome.PARKED]

    now = world.clock.now()
    assert last_attempt(world, generation_id)["next_attempt_at"] == now + timedelta(seconds=1.5 + 2.5)
    (outage,) = world.storage.state().outages
    assert (outage.not_before, outage.failures) == (now + timedelta(seconds=1.5), 1)


def test_outage_that_goes_on_is_believed_at_once(world: MemoryWorld) -> None:
    """Where no call was answered yet, any failure is one more of the provider's; the next probe is later."""
    accepted(world)
    do(world, UNREACHABLE)
    world.advance(timedelta(minutes=1))

    assert do(world, a_failure()) == [QueueOutcome.PARKED]

    (outage,) = world.storage.state().outages
    assert (outage.failures, outage.not_before) == (2, world.clock.now() + 4 * SECOND)


def test_parked_attempts_look_apart(world: MemoryWorld) -> None:
    """Those that wait for a closed route look again when it opens, the more wait the later, each a little apart."""
    accepted(world)
    do(world, replace(UNREACHABLE, retry_after=60 * SECOND), jitter=lambda: 0.0)
    accepted(world)
    (outage,) = world.storage.state().outages

    assert do(world, jitter=lambda: 0.5) == [QueueOutcome.PARKED]

    visible_at = max(world.storage.line.visible_at.values())
    assert visible_at == outage.not_before + 2 * OUTAGE_PACE / 2


@pytest.mark.parametrize("failure", [FAILED, REJECTED])
def test_failed_call_says_how_long_it_took(world: MemoryWorld, failure: Any) -> None:
    """The app's row has the duration of the last call, whether another follows or not."""
    _, generation_id = accepted(world)

    do(world, failure, clock=SlowClock(steps=SECOND))

    assert world.generation(generation_id)["duration_ms"] == 1000


def test_jitter_is_random_where_none_is_given(world: MemoryWorld) -> None:
    """Waits of those that fail together differ."""
    generation_ids = [accepted(world)[1] for _ in range(5)]

    do(world, *[FAILED] * 5, jitter=None)

    assert len({last_attempt(world, each)["next_attempt_at"] for each in generation_ids}) > 1


# Readers


def none_to_read(_: Generation) -> Context:
    """Find no context anywhere."""
    raise ContextMissing("prompt_data.question is missing")


def defective(generation: Generation) -> Context:
    """Read what is not there."""
    return Context(messages=generation.prompt_data["question"], model=None)


@pytest.mark.parametrize("other", [stored_context, none_to_read, defective])
def test_other_reader_leaves_it_queued(world: MemoryWorld, other: ContextFrom) -> None:
    """Whatever another reader would say of the context, the retry waits a minute, and then for the right worker."""

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


def test_reader_is_asked_in_every_later_attempt(world: MemoryWorld) -> None:
    """An accepted retry that goes on still waits for the reader with which it was accepted."""
    accepted(world)
    assert do(world, a_failure(FailureCode.TIMEOUT)) == [QueueOutcome.GOES_ON]
    world.advance(POLICY.backoff_cap)

    with pytest.raises(OtherReader):
        do(world, context_from=none_to_read)


def test_retry_without_recorded_reader_is_run_by_any(world: MemoryWorld) -> None:
    """Where no reader's name is recorded, any worker may judge the context."""
    _, generation_id = accepted(world)
    rows = world.storage.rows
    rows[generation_id, 2] = replace(rows[generation_id, 2], context_reader=None)

    def others(generation: Generation) -> Context:
        return stored_context(generation)

    assert do(world, ANSWER, context_from=others) == [QueueOutcome.SUCCEEDED]


def test_stored_answer_needs_no_reader(world: MemoryWorld) -> None:
    """A paid answer becomes a session whoever works: its context is not read."""
    accepted(world)
    world.refuse_sessions("title_is_short")
    assert do(world, ANSWER) == [QueueOutcome.GOES_ON]
    world.refuse_sessions(None)
    world.advance(POLICY.backoff_cap)

    assert do(world, context_from=none_to_read) == [QueueOutcome.SUCCEEDED]


def test_expired_retry_ends_whoever_looks(world: MemoryWorld) -> None:
    """That is not a reader's verdict, so that nothing waits beyond its time for a worker that never comes."""
    _, generation_id = accepted(world)
    world.advance(POLICY.max_queued)

    assert do(world, context_from=none_to_read) == [QueueOutcome.ENDED]
    assert last_attempt(world, generation_id)["code"] == "RETRY_EXPIRED"


def test_defect_of_the_reader_ends_nothing(world: MemoryWorld) -> None:
    """A reader that raises is the operator's to correct: the accepted retry waits for the next release."""
    user_id, generation_id = new_generation(world)
    world.set_generation(generation_id, prompt_data={"question": PROMPT_DATA["messages"]})
    accept(world, user_id, generation_id, context_from=defective)
    world.set_generation(generation_id, prompt_data=PROMPT_DATA)

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
    world: MemoryWorld, reader: ContextFrom, models: frozenset[str] | None
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


def test_worker_watches_each_step(world: MemoryWorld) -> None:
    """A watch sees what is done about a message."""
    _, generation_id = accepted(world)
    world.set_generation(generation_id, prompt_data=None)
    seen: list[object] = []

    class Watching:
        def before(self, step: Step) -> None:
            seen.append(step)

        def after(self, step: Step, result: Any) -> None:
            seen.append((step, result.applied))

    assert do(world, watches=[Watching()]) == [QueueOutcome.ENDED]

    settle = seen[0]
    assert isinstance(settle, Settle)
    assert isinstance(settle.end, Closing)
    assert (settle.end.code, settle.call, seen[1:]) == ("CONTEXT_MISSING", None, [(settle, True)])


def test_lease_is_renewed_while_a_worker_has_it(world: MemoryWorld) -> None:
    """The worker's renewals hold the attempt, by its token, from its begin to its end."""
    _, generation_id = accepted(world)
    (taken,) = world.storage.take(1, VISIBILITY, POLICY.quota)
    held: list[tuple[UUID, UUID]] = []

    @contextmanager
    def renewing(generation_id: UUID, token: UUID) -> Iterator[None]:
        held.append((generation_id, token))
        yield
        held.append((generation_id, token))

    run_taken(
        taken,
        storage=world.storage,
        ai=ScriptedAiProvider(ANSWER),
        clock=ManualClock(),
        policy=POLICY,
        renewing=renewing,
    )

    assert held == [(generation_id, last_attempt(world, generation_id)["token"])] * 2
