"""A first call from end to end, over the storage in memory and a scripted provider."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import pytest

import ai_retry
from ai_retry.client import Client
from ai_retry.domain import queue
from ai_retry.domain.change import Begin, CloseOver, Discard, Reply, Settle
from ai_retry.domain.decide import first
from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    BackoffNotElapsed,
    ContextMissing,
    GenerationFailed,
    GenerationNotFound,
    IdempotencyConflict,
    LeaseLost,
    NotConfigured,
    QuotaExhausted,
    RetryCancelled,
    RetryExpired,
    RetryInProgress,
    RetryPoisoned,
    RetryRefused,
    SessionConflict,
    SessionRejected,
    StorageOutcomeUnknown,
    TooManyParallel,
)
from ai_retry.domain.first_call import MAX_PROMPT_BYTES
from ai_retry.domain.model import Answer, FailureCode, Outcome, ProviderOutcome, QuotaRule, RetryResult, Waiver
from ai_retry.domain.policy import DEFAULT_POLICY, RetryPolicy
from ai_retry.domain.queue_model import Outage, QueuedRetry
from ai_retry.events import Event, ProviderCalled, RouteClosed
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.testing.memory import MemoryApp
from tests.helpers.builders import AS_OF, SECOND, a_failure, a_snapshot, an_answer, an_attempt
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.scene import Hooked, hooked, raising

PROMPT = "Plan an easy run."
MESSAGES = [{"role": "user", "content": PROMPT}]
LONG = timedelta(minutes=10)
Request: TypeAlias = Mapping[str, Any]


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Name a request that has no id of its own."""
    return {**({} if "generation_id" in options else {"idempotency_key": "key-1"}), **options}


class Case:
    """A user without anything, and a client."""

    def __init__(self, *script: AiStep, policy: RetryPolicy = DEFAULT_POLICY, **parts: Any) -> None:
        self.world, self.policy = MemoryWorld(Hooked), policy
        self.storage = hooked(self.world)
        self.ai = ScriptedAiProvider(*script)
        self.client = Client(
            storage=self.storage,
            queue_storage=self.storage,
            ai=self.ai,
            clock=self.world.clock,
            provider="one",
            policy=policy,
            **parts,
        )
        self.user_id = self.world.new_user()

    def generate(self, prompt: Any = PROMPT, **options: Any) -> RetryResult:
        """Make a first call, under a key, or the id that is given."""
        return self.client.generate(self.user_id, prompt, **named(options))

    def enqueue(self, prompt: Any = PROMPT, **options: Any) -> QueuedRetry:
        """Accept one for later, under a key, or the id that is given."""
        return self.client.enqueue_generation(self.user_id, prompt, **named(options))

    def failed(self, error: type[AiRetryError], **options: Any) -> AiRetryError:
        """Make a first call that fails like this."""
        with pytest.raises(error) as caught:
            self.generate(**options)
        return caught.value

    def retry(self, generation_id: UUID | None) -> RetryResult:
        """Retry it, the wait lifted."""
        assert generation_id is not None
        backoff = frozenset({Waiver.BACKOFF})
        return self.client.retry_generation(self.user_id, generation_id, waive=backoff, operator="ann")

    def bind(self, change: Callable[..., Any]) -> None:
        """Let the app create another generation: of what this returns for the user, the id and the request."""
        app = self.world.app

        def create(user_id: UUID, generation_id: UUID, request: Request, now: datetime) -> bool:
            user_id, generation_id, request = change(user_id, generation_id, request)
            return MemoryApp.create_generation(app, user_id, generation_id, request, now)

        vars(app)["create_generation"] = create

    def work(self) -> None:
        """Do what a worker does: take what is due, run it, and close what is over."""
        policy = self.policy
        for taken in self.storage.take(10, LONG, policy.quota):
            queue.run_taken(taken, storage=self.storage, ai=self.ai, clock=self.world.clock, policy=policy)
        self.storage.begin(CloseOver(user_id=self.user_id))

    @property
    def generation_ids(self) -> list[UUID]:
        """Of all that there is."""
        return list(self.world.app.generations)

    @property
    def attempts(self) -> list[Mapping[str, Any]]:
        """Rows of all attempts."""
        return [row for each in self.generation_ids for row in self.world.attempts(each)]

    def has_nothing(self) -> bool:
        """Whether nothing was written."""
        return not self.generation_ids and not self.storage.rows


class TestSuccess:
    """A first call that ends with a session."""

    def test_session_generation_and_unit(self) -> None:
        """One row, one call, one session, one unit."""
        case = Case(an_answer())

        result = case.generate(model="large")

        assert (result.attempt, result.replayed, result.quota.captured) == (1, False, 1)
        assert case.generation_ids == [result.generation.id]
        assert (result.generation.status, result.generation.model) == ("success", "large")
        assert result.session["content"] == an_answer().output
        (call,) = case.ai.calls
        assert (list(call.context.messages), call.context.model) == (MESSAGES, "large")
        assert [row["outcome"] for row in case.attempts] == [Outcome.SUCCEEDED]

    def test_two_commits_and_one_read(self) -> None:
        """A first call costs as much as a retry."""
        case = Case(an_answer())

        case.generate()

        assert case.storage.calls == ["load", "begin", "settle"]

    def test_prompt_is_stored_as_the_app_has_it(self) -> None:
        """JSON is passed on as it is, with whatever else the app's columns need."""
        seen: list[Request] = []

        def note(*given: Any) -> tuple[Any, ...]:
            seen.append(given[2])
            return given

        case = Case(an_answer())
        case.bind(note)
        prompt = {"messages": MESSAGES, "parameters": {"temperature": 0.5}, "mine": [1, None]}

        result = case.generate(prompt, columns={"kind": "run"})

        assert seen == [{"kind": "run", "prompt_data": prompt, "model": None}]
        assert case.world.app.generations[result.generation.id].prompt_data == prompt

    def test_without_a_key_every_call_is_another_one(self) -> None:
        """Ids are random then."""
        case = Case(an_answer(), an_answer())

        ids = {case.generate(idempotency_key=None).generation.id for _ in range(2)}

        assert len(ids) == 2

    def test_own_id_is_taken(self) -> None:
        """The caller may choose the id; a repeat is recognised by it."""
        case, generation_id = Case(an_answer()), uuid4()

        first, second = (case.generate(generation_id=str(generation_id), idempotency_key=None) for _ in range(2))

        assert (first.generation.id, second.generation.id, second.replayed) == (generation_id, generation_id, True)

    def test_a_key_is_one_users(self) -> None:
        """Two users with the same key have a generation each."""
        case = Case(an_answer(), an_answer())

        first = case.generate()
        case.user_id = case.world.new_user()

        assert case.generate().generation.id != first.generation.id

    def test_uncharged_call_is_recorded(self) -> None:
        """An operator gives a session; nothing is captured."""
        case = Case(an_answer())

        result = case.generate(charge=False, operator="ann")

        assert result.quota.captured == 0
        assert [(row["charge"], row["operator"]) for row in case.attempts] == [(False, "ann")]


class TestRefusal:
    """What refuses a first call leaves nothing, and makes no call."""

    @pytest.mark.parametrize(
        ("prompt", "options", "words"),
        [
            (None, {}, "prompt must not be None"),
            ({"messages": [float("nan")]}, {}, "prompt must be JSON"),
            ("a\0b", {}, "prompt must be JSON"),
            ("\ud800", {}, "prompt must be JSON"),
            ({1: 2, "a": 3}, {}, "prompt must be JSON"),
            ({"a": object()}, {}, "prompt must be JSON"),
            ("x" * MAX_PROMPT_BYTES, {}, "prompt must have at most 65536 bytes"),
            (PROMPT, {"columns": {"a": "x" * MAX_PROMPT_BYTES}}, "prompt must have at most 65536 bytes"),
            (PROMPT, {"max_prompt_bytes": 20}, "prompt must have at most 20 bytes"),
            (PROMPT, {"columns": {"a": {1}}}, "columns must be JSON"),
            (PROMPT, {"columns": ["a"]}, "columns must be a mapping"),
            (PROMPT, {"columns": {"model": "large"}}, "columns must not hold model"),
            (PROMPT, {"model": ""}, "model must have 1 to 255"),
            (PROMPT, {"model": "a\nb"}, "model must have 1 to 255"),
            (PROMPT, {"generation_id": "1"}, "generation_id must be a UUID"),
            (PROMPT, {"generation_id": UUID(int=1), "idempotency_key": "a"}, "idempotency_key must not be given with"),
            (PROMPT, {"request": {1}}, "request must be JSON"),
            (PROMPT, {"idempotency_key": "plan:1"}, "idempotency_key must not begin"),
            (PROMPT, {"idempotency_key": "\ud800"}, "idempotency_key must have 1 to 255"),
            (PROMPT, {"charge": False}, "operator must be given with charge=False"),
        ],
    )
    def test_unusable_argument_is_named(self, prompt: Any, options: dict[str, Any], words: str) -> None:
        """Before anything is read; its content is in no message."""
        case = Case()

        with pytest.raises(ValueError, match=f"^{words}"):
            case.generate(prompt, **options)

        assert (case.storage.calls, case.ai.calls) == ([], [])

    def test_depth_is_bounded(self) -> None:
        """A hundred levels can be stored; one more is refused, and a thousand do no harm."""

        def nested(levels: int) -> Any:
            value: Any = "end"
            for _ in range(levels):
                value = [value]
            return {"messages": MESSAGES, "mine": value}

        Case(an_answer()).generate(nested(99))
        for levels in (100, 100_000):
            with pytest.raises(ValueError, match=r"^prompt must not be nested deeper"):
                Case().generate(nested(levels))

    def test_quota(self) -> None:
        """No unit, no generation."""
        case = Case(policy=RetryPolicy(quota=QuotaRule(limit=0)))

        error = case.failed(QuotaExhausted)

        assert (error.generation_id, case.has_nothing()) == (None, True)

    def test_live_calls(self) -> None:
        """As many calls at once as retries may run."""
        errors: list[AiRetryError] = []

        def again(_: AiCall) -> Answer:
            errors.append(case.failed(TooManyParallel, idempotency_key="key-2"))
            return an_answer()

        case = Case(again, policy=RetryPolicy(max_parallel=1))
        case.generate()

        assert (len(case.generation_ids), errors[0].generation_id) == (1, None)

    def test_slots_of_the_process(self) -> None:
        """Where all calls of the process are taken nothing is created."""
        errors: list[AiRetryError] = []

        def again(_: AiCall) -> Answer:
            errors.append(case.failed(TooManyParallel, idempotency_key="key-2"))
            return an_answer()

        case = Case(again, max_calls=1)
        case.generate()

        assert (len(case.generation_ids), errors[0].generation_id) == (1, None)

    def test_unavailable_route(self) -> None:
        """A known outage of the model that the prompt names."""
        case = Case()
        case.storage.routes.note_outage("one/large", Outage(wait=LONG, failures=1), case.world.clock.now())

        error = case.failed(RetryRefused, model="large")

        assert (error.code, case.has_nothing()) == ("ROUTE_UNAVAILABLE", True)

    def test_foreseen_conflict(self) -> None:
        """What the app knows beforehand, it says beforehand."""
        case = Case()
        case.world.foresee_conflict(case.user_id, "You have one.")

        error = case.failed(SessionConflict)

        assert (error.generation_id, case.has_nothing()) == (None, True)

    def test_prompt_that_the_reader_can_not_read(self) -> None:
        """It is refused before a row is created that no retry could use."""
        case = Case()

        error = case.failed(ContextMissing, prompt={"text": PROMPT})

        assert (error.generation_id, case.has_nothing()) == (None, True)

    @pytest.mark.parametrize(("sqlstate", "error"), [("23514", NotConfigured), ("23505", TooManyParallel)])
    def test_app_refuses(self, sqlstate: str, error: type[AiRetryError]) -> None:
        """Nothing of what the app refuses remains."""
        case = Case()
        case.world.refuse_generations(sqlstate, "one_at_a_time")

        assert (case.failed(error).generation_id, case.has_nothing()) == (None, True)

    def test_no_session_function(self) -> None:
        """Nothing is created that could get no session."""
        case = Case()
        case.world.app.can_create_session = False

        error = case.failed(NotConfigured)

        assert "ai_retry_create_session" in str(error)
        assert (error.generation_id, case.has_nothing()) == (None, True)

    @pytest.mark.parametrize("fault", ["other_user", "hidden", "other_id"])
    def test_binding_that_creates_another_one(self, fault: str) -> None:
        """A row that is not as asked is rolled back; the error names the function."""

        def create(user_id: UUID, generation_id: UUID, request: Request) -> tuple[UUID, UUID, Request]:
            if fault == "hidden":
                case.world.app.hidden.add(generation_id)
            user_id = uuid4() if fault == "other_user" else user_id
            generation_id = uuid4() if fault == "other_id" else generation_id
            return user_id, generation_id, request

        case = Case()
        case.bind(create)

        error = case.failed(NotConfigured)

        assert "ai_retry.app_create_generation" in str(error)
        assert (error.generation_id, case.has_nothing()) == (None, True)

    def test_no_queue(self) -> None:
        """A first call can't be accepted where nothing takes it."""
        case = Case()
        case.storage.has_queue = False

        with pytest.raises(NotConfigured):
            case.enqueue()
        assert case.has_nothing()

    def test_another_users_id(self) -> None:
        """It looks as if there were none."""
        case = Case()
        other_id = case.world.new_generation(case.world.new_user())

        error = case.failed(GenerationNotFound, generation_id=other_id)

        assert error.generation_id is None

    def test_deleted_generation(self) -> None:
        """It is not created again as long as its attempts are kept."""
        case = Case(an_answer())
        case.world.delete_generation(case.generate().generation.id)

        error = case.failed(GenerationNotFound)

        assert (error.generation_id, len(case.ai.calls), case.generation_ids) == (None, 1, [])


class TestFailure:
    """A first call that fails leaves a generation that can be retried."""

    def test_error_names_the_generation(self) -> None:
        """With its id, its wait and the problem's detail."""
        case = Case(a_failure(), an_answer())

        error = case.failed(GenerationFailed)

        (generation_id,) = case.generation_ids
        assert error.generation_id == generation_id
        assert error.retry_after is not None
        assert SECOND <= error.retry_after <= 2 * SECOND
        assert ai_retry.problem(error).wire_details["generationId"] == str(generation_id)
        assert case.world.generation(generation_id)["status"] == "error"
        result = case.retry(generation_id)
        assert (result.attempt, result.quota.captured) == (2, 1)

    def test_attempts_count_as_after_the_apps_own_call(self) -> None:
        """The first call and three retries."""
        case = Case(*[a_failure()] * 4)
        generation_id = case.failed(GenerationFailed).generation_id
        for _ in range(3):
            with pytest.raises(GenerationFailed):
                case.retry(generation_id)

        with pytest.raises(RetryRefused) as caught:
            case.retry(generation_id)
        assert (caught.value.code, caught.value.details["attempts"]) == ("RETRY_LIMIT_REACHED", 4)

    def test_wait_follows(self) -> None:
        """A retry waits as after any attempt."""
        case = Case(a_failure())
        generation_id = case.failed(GenerationFailed).generation_id
        assert generation_id is not None

        with pytest.raises(BackoffNotElapsed):
            case.client.retry_generation(case.user_id, generation_id)

    def test_rejected_session_keeps_its_answer(self) -> None:
        """The retry makes the session of it, without a call."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short")
        error = case.failed(SessionRejected)
        case.world.refuse_sessions(None)

        result = case.retry(error.generation_id)

        assert (result.attempt, len(case.ai.calls)) == (2, 1)

    def test_lost_reply_of_a_begin_is_recognised(self) -> None:
        """By the token: what was created is used."""
        case = Case(an_answer())

        def lose(change: Any) -> Any:
            if isinstance(change, Begin) and not case.storage.rows:
                case.storage.begin(change)
                return case.storage.begin(change)
            return None

        case.storage.hooks = {"begin": lose}
        result = case.generate()

        assert (result.attempt, len(case.attempts)) == (1, 1)

    def test_unknown_outcome_names_the_generation(self) -> None:
        """It may exist: who knows its id can ask."""
        case = Case()
        case.storage.hooks = {"begin": raising(StorageOutcomeUnknown("08006"))}

        error = case.failed(StorageOutcomeUnknown, generation_id=UUID(int=1))

        assert error.generation_id == UUID(int=1)

    def test_route_that_is_asked_is_blamed(self) -> None:
        """The app may store another model than it was given: an outage is of the one that was asked."""
        settles: list[Settle] = []
        events: list[Event] = []
        case = Case(a_failure(code=FailureCode.UNAVAILABLE, retry_after=LONG), on_event=[events.append])
        case.bind(lambda *given: (*given[:2], {**given[2], "model": "small"}))
        case.storage.hooks = {"settle": settles.append}

        case.failed(GenerationFailed, model="large")

        assert [call.context.model for call in case.ai.calls] == ["small"]
        (settle,) = settles
        assert (settle.outage, [each.route for each in settle.elsewhere]) == (None, ["one/small"])
        assert [each.route for each in events if isinstance(each, ProviderCalled | RouteClosed)] == ["one/small"] * 2

    def test_unreadable_row_ends_without_a_call(self) -> None:
        """What the app has stored is what retries read: where that fails, nothing is sent, and no route is blamed."""
        settles: list[Settle] = []
        case = Case()
        case.bind(lambda *given: (*given[:2], {**given[2], "prompt_data": None}))
        case.storage.hooks = {"settle": settles.append}

        error = case.failed(ContextMissing)

        assert (error.generation_id, error.retry_after) == (case.generation_ids[0], None)
        (row,) = case.attempts
        assert (row["outcome"], row["code"], row["counted"]) == (Outcome.FAILED, "CONTEXT_MISSING", False)
        assert (row["provider_outcome"], row["operator_fault"], row["transient"]) == (
            ProviderOutcome.NOT_GENERATED,
            True,
            False,
        )
        assert case.world.generation(case.generation_ids[0])["status"] == "error"
        assert [(each.outage, each.answered) for each in settles] == [(None, False)]
        assert case.failed(ContextMissing).generation_id == case.generation_ids[0]


def _interrupted(case: Case) -> None:
    """Let a process die during its first call."""

    def die(_: AiCall) -> BaseException:
        return KeyboardInterrupt()

    case.ai._script.insert(0, die)
    with pytest.raises(KeyboardInterrupt):
        case.generate()


class TestAgain:
    """The same request again: what became of the first one, and no call."""

    def test_success_is_replayed(self) -> None:
        """Whatever the order of the prompt's members."""
        case = Case(an_answer())
        first = case.generate({"messages": MESSAGES, "mine": 1})

        again = case.generate({"mine": 1, "messages": MESSAGES})

        assert (again.replayed, again.session, again.attempt) == (True, first.session, 1)
        assert (len(case.ai.calls), len(case.generation_ids)) == (1, 1)

    def test_success_of_a_retry_is_replayed(self) -> None:
        """By whichever attempt."""
        case = Case(a_failure(), an_answer())
        session = case.retry(case.failed(GenerationFailed).generation_id).session

        again = case.generate()

        assert (again.replayed, again.session, again.attempt) == (True, session, 2)

    def test_running_call_is_in_progress(self) -> None:
        """With the id, and a wait."""
        errors: list[AiRetryError] = []

        def again(_: AiCall) -> Answer:
            errors.append(case.failed(RetryInProgress))
            return an_answer()

        case = Case(again)
        case.generate()

        assert (errors[0].generation_id, errors[0].retry_after) == (case.generation_ids[0], 5 * SECOND)

    @pytest.mark.parametrize(
        ("code", "columns", "helps"),
        [
            (FailureCode.UNAVAILABLE, {}, True),
            (FailureCode.TIMEOUT, {}, True),
            (FailureCode.REJECTED, {"transient": False}, False),
            (FailureCode.REJECTED, {"operator_fault": True, "certainly_not_generated": True}, False),
            (FailureCode.RATE_LIMITED, {"retry_after": 30 * SECOND, "certainly_not_generated": True}, True),
        ],
    )
    def test_failure_is_raised_again(self, code: FailureCode, columns: dict[str, Any], *, helps: bool) -> None:
        """With its code and what is left of its wait."""
        case = Case(a_failure(code, **columns))
        first = case.failed(GenerationFailed)
        case.world.advance(SECOND / 4)

        again = case.failed(GenerationFailed)

        assert (again.code, again.details, again.generation_id) == (first.code, first.details, first.generation_id)
        left = first.retry_after - SECOND / 4 if first.retry_after is not None else None
        assert (again.retry_after is not None, again.retry_after) == (helps, left)
        assert len(case.ai.calls) == 1

    def test_last_failure_counts(self) -> None:
        """After a retry that failed otherwise, that is what is recorded."""
        case = Case(a_failure(FailureCode.TIMEOUT), a_failure(FailureCode.INCOMPLETE))
        with pytest.raises(GenerationFailed):
            case.retry(case.failed(GenerationFailed).generation_id)

        assert case.failed(GenerationFailed).code == "AI_INCOMPLETE"

    @pytest.mark.parametrize(("conflict", "error"), [(False, SessionRejected), (True, SessionConflict)])
    def test_rejection_is_raised_again(self, error: type[AiRetryError], *, conflict: bool) -> None:
        """With what rejected the session."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short", conflict=conflict)
        first = case.failed(error)

        again = case.failed(error)

        assert (type(again), again.details, len(case.ai.calls)) == (type(first), first.details, 1)

    @pytest.mark.parametrize(("conflict", "error"), [(False, SessionRejected), (True, SessionConflict)])
    def test_discarded_answer_is_not_promised(self, error: type[AiRetryError], *, conflict: bool) -> None:
        """An operator may have discarded the answer since: the repeat does not say that it is stored."""
        case = Case(an_answer())
        case.world.refuse_sessions("title_is_short", conflict=conflict)
        generation_id = case.failed(error).generation_id
        assert generation_id is not None
        case.storage.amend(Discard(user_id=case.user_id, generation_id=generation_id, operator="ann"))

        again = case.failed(error)

        assert (str(again), again.details["answer_kept"]) == ("The result was rejected by title_is_short.", False)

    def test_dead_call_is_closed_and_reported(self) -> None:
        """A process that died has lost its lease: nothing was charged, and a retry may follow."""
        case = Case(an_answer())
        _interrupted(case)
        case.world.advance(LONG)

        error = case.failed(LeaseLost)

        assert (error.details, error.generation_id) == ({"answer_kept": False}, case.generation_ids[0])
        assert [row["outcome"] for row in case.attempts] == [Outcome.ABANDONED]
        assert case.retry(error.generation_id).attempt == 2

    def test_dead_call_is_believed_until_its_lease_is_over(self) -> None:
        """Then it may still run."""
        case = Case()
        _interrupted(case)

        assert case.failed(RetryInProgress).generation_id == case.generation_ids[0]

    def test_late_answer_is_kept(self) -> None:
        """The retry makes the session of it."""
        case = Case(lambda _: _late(case))
        case.failed(LeaseLost)

        error = case.failed(LeaseLost)

        assert error.details == {"answer_kept": True}
        assert case.retry(error.generation_id).attempt == 2
        assert len(case.ai.calls) == 1

    @pytest.mark.parametrize("options", [{"prompt": "Plan a hard run."}, {"model": "x"}, {"columns": {"a": 1}}])
    def test_another_request_is_a_conflict(self, options: dict[str, Any]) -> None:
        """The key belongs to the first one, whatever became of it."""
        case = Case(an_answer())
        case.generate()

        error = case.failed(IdempotencyConflict, **options)

        assert (error.generation_id, len(case.ai.calls)) == (case.generation_ids[0], 1)

    def test_request_says_what_is_the_same(self) -> None:
        """Where it is given, the prompt may be another one each time."""
        case = Case(an_answer())
        case.generate(request={"a": 1, "b": 2})

        assert case.generate("Another prompt.", request={"b": 2, "a": 1}).replayed
        case.failed(IdempotencyConflict, request={"a": 1})
        case.failed(IdempotencyConflict)

        assert len(case.ai.calls) == 1

    def test_attempt_of_an_earlier_owner_is_waited_for(self) -> None:
        """The app gave the generation to this user while an attempt of another one was open: a begin closes it."""
        over = an_attempt(number=1, outcome=None, closed_at=None, lease_expires_at=AS_OF - SECOND)

        with pytest.raises(RetryInProgress):
            first.replayed(a_snapshot(attempts=(over,), open_is_foreign=True), DEFAULT_POLICY)

    def test_apps_own_generation_is_a_conflict(self) -> None:
        """Its first call was not ours."""
        case = Case(a_failure())
        generation_id = case.world.new_generation(case.user_id)
        with pytest.raises(GenerationFailed):
            case.retry(generation_id)

        assert case.failed(IdempotencyConflict, generation_id=generation_id).generation_id == generation_id

    def test_success_of_the_apps_is_said(self) -> None:
        """A retry that the app has made by itself."""
        case = Case(a_failure())
        generation_id = case.failed(GenerationFailed).generation_id
        assert generation_id is not None
        case.world.set_generation(generation_id, status="success", session_id="s1")

        assert case.failed(AlreadySucceeded).details == {"session_id": "s1"}

    def test_begin_that_is_overtaken_says_so(self) -> None:
        """Another process with the same key was faster by a moment."""
        case = Case(an_answer())

        def overtake(_: Any) -> None:
            case.storage.hooks = {}
            case.generate()

        case.storage.hooks = {"begin": overtake}

        result = case.generate()

        assert (result.replayed, len(case.ai.calls)) == (True, 1)


def _late(case: Case) -> Answer:
    """Answer after another process has closed the attempt."""
    case.world.advance(LONG)
    case.failed(LeaseLost)
    return an_answer()


class TestLater:
    """A first call that is accepted, and made by a worker."""

    def test_worker_makes_it(self) -> None:
        """The unit is held from the acceptance on."""
        case = Case(an_answer())

        queued = case.enqueue()

        assert not queued.is_done
        assert (queued.attempt, queued.generation.status, queued.quota.held) == (1, "queued", 1)
        case.work()
        result = case.enqueue().result
        assert isinstance(result, RetryResult)
        assert (result.attempt, result.replayed, len(case.ai.calls)) == (1, True, 1)
        assert case.generate().replayed

    def test_queued_call_is_described_again(self) -> None:
        """To an acceptance; a call that would wait for it is refused."""
        case = Case()
        first = case.enqueue()

        assert case.enqueue() == first
        assert case.failed(RetryInProgress).generation_id == case.generation_ids[0]
        with pytest.raises(IdempotencyConflict):
            case.enqueue("Plan a hard run.")

    def test_failure_goes_on_with_number_two(self) -> None:
        """As an accepted retry does."""
        case = Case(a_failure(), an_answer())
        case.enqueue()

        case.work()
        case.world.advance(LONG)
        case.work()

        assert [(row["number"], row["outcome"]) for row in case.attempts] == [
            (1, Outcome.FAILED),
            (2, Outcome.SUCCEEDED),
        ]

    def test_cancelled_call_can_be_retried(self) -> None:
        """It leaves a failed generation; nothing is charged, no attempt is used up."""
        case = Case(an_answer())
        case.enqueue()
        (generation_id,) = case.generation_ids

        case.client.cancel(case.user_id, generation_id)

        assert case.world.generation(generation_id)["status"] == "error"
        assert case.failed(RetryCancelled).generation_id == generation_id
        with pytest.raises(RetryCancelled):
            case.enqueue()
        assert case.retry(generation_id).attempt == 2

    def test_expired_call_says_so(self) -> None:
        """Its time was up before a worker came."""
        case = Case(an_answer())
        case.enqueue()
        case.world.advance(timedelta(days=2))
        case.work()

        assert case.failed(RetryExpired).generation_id == case.generation_ids[0]
        assert case.world.generation(case.generation_ids[0])["status"] == "error"
        assert case.retry(case.generation_ids[0]).attempt == 2

    def test_poisoned_call_says_so(self) -> None:
        """Its workers kept dying."""
        case = Case(*[KeyboardInterrupt()] * 3, policy=RetryPolicy(max_attempts=9))
        case.enqueue()
        for _ in range(4):
            with suppress(KeyboardInterrupt):
                case.work()
            case.world.advance(LONG)

        assert case.failed(RetryPoisoned).generation_id == case.generation_ids[0]

    @pytest.mark.parametrize("act", [Case.generate, Case.enqueue])
    def test_process_that_died_is_closed_first(self, act: Callable[[Case], Any]) -> None:
        """An acceptance says what a call says."""
        case = Case()
        _interrupted(case)
        case.world.advance(LONG)

        with pytest.raises(LeaseLost):
            act(case)


@pytest.mark.parametrize("ask", [Case.generate, Case.enqueue], ids=["now", "later"])
def test_storage_that_never_creates_is_given_up(ask: Callable[[Case], object]) -> None:
    """A begin that is stale time after time ends without a call, as if an attempt were under way."""
    case = Case()
    case.storage.hooks = {
        "begin": lambda change: Reply(
            applied=False,
            snapshot=case.storage.load(change.user_id, change.generation_id, case.policy.quota, None, creating=True),
        )
    }

    with pytest.raises(RetryInProgress) as caught:
        ask(case)

    assert (caught.value.generation_id, case.ai.calls) == (None, [])
    assert case.storage.calls.count("begin") > 1
