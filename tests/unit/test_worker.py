"""A worker in this process: what it reports, what it puts off, what it outlives; integration tests kill real ones."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ai_retry import looks
from ai_retry import worker as module
from ai_retry.domain.change import Amend, Begin, CloseOver, Postpone, Taken
from ai_retry.domain.context import stored_context
from ai_retry.domain.errors import ContextMissing, NotConfigured, StorageUnavailable
from ai_retry.domain.model import Answer, Context, FailureCode, Generation, QuotaRule
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.queue import enqueue_generation
from ai_retry.logs import logfmt
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.worker import Worker
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.queue_steps import accept, is_queued, last_attempt, new_accepted
from tests.helpers.scene import Hooked, raising
from tests.helpers.steps import begin, outcomes, status_of
from tools.waiting import eventually

POLICY = RetryPolicy(max_parallel=8)
PATIENCE = 10.0  # seconds; more than any of these waits takes
ROUTE = "provider.example/small"
UNREACHABLE = a_failure(certainly_not_generated=True, wire_requests=0)


class Watched(Hooked):
    """A storage whose messages can be made not to arrive, and that stops a worker when there are no more."""

    def watch(self) -> None:
        """Begin to note how many messages were asked for."""
        self.limits: list[int] = []
        self.taking: Callable[[], object] = lambda: None
        self.stop = threading.Event()
        self.stop_when_empty = True

    def take(self, limit: int, visibility: timedelta, rule: QuotaRule) -> Sequence[Taken]:
        """Take, and stop the worker after the last message."""
        self.taking()
        self.limits.append(limit)
        taken = super().take(limit, visibility, rule)
        if not taken and self.stop_when_empty:
            self.stop.set()
        return taken


class Case:
    """A queue, and a worker that ends when it is empty."""

    def __init__(self) -> None:
        self.world = MemoryWorld(Watched)
        assert isinstance(self.world.storage, Watched)
        self.storage: Watched = self.world.storage
        self.storage.watch()

    def accepted(self) -> tuple[UUID, UUID]:
        """Accept a new user's retry."""
        return new_accepted(self.world, policy=POLICY)

    def work(self, *script: AiStep, default: AiStep | None = None, **parts: Any) -> None:
        """Work until there are no more messages."""
        worker = Worker(
            storage=self.storage,
            ai=ScriptedAiProvider(*script, default=default),
            clock=self.world.clock,
            policy=POLICY,
            context_from=stored_context,
            route_of=lambda _: ROUTE,
        )
        replace(worker, **parts).run(self.storage.stop)

    def attempt(self, generation_id: UUID) -> Any:
        """Its last attempt."""
        return last_attempt(self.world, generation_id)


@pytest.fixture
def case() -> Case:
    """A new one for every test."""
    return Case()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Let no pause of a worker take longer than a moment, and listen to all of its log."""
    monkeypatch.setattr(module, "_REJECTED_WAIT", 0.01)
    monkeypatch.setattr(module, "_STORAGE_WAITS", (0.01, 0.02))
    monkeypatch.setattr(looks, "_IDLE_WAITS", (0.0,))
    caplog.set_level(logging.DEBUG, logger="ai_retry")


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The facts of an event's lines; each line says the same."""
    found = [(each.getMessage(), vars(each)["ai_retry"]) for each in caplog.records]
    assert all(line == logfmt(facts) for line, facts in found)
    return [facts for _, facts in found if facts["event"] == event]


def about(facts: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Some of the facts."""
    return tuple(facts.get(name) for name in names)


class TestMessages:
    """What becomes of each message."""

    def test_accepted_retries_get_their_sessions(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """One after the other with one place, and each has a line in the log."""
        ids = [case.accepted() for _ in range(3)]

        case.work(*[an_answer()] * 3, concurrency=1)

        assert [status_of(case.world, generation_id) for _, generation_id in ids] == ["success"] * 3
        assert set(case.storage.limits) == {1}
        assert [about(each, "user_id", "generation_id") for each in logged(caplog, "attempt_succeeded")] == [
            (str(user_id), str(generation_id)) for user_id, generation_id in ids
        ]

    def test_end_of_an_attempt_brings_the_next_one(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user's next message, which comes with the end of an attempt, waits for no look that is due later."""
        monkeypatch.setattr(looks, "_IDLE_WAITS", (3600.0,))
        policy = RetryPolicy(max_parallel=1)
        user_id, first = new_accepted(case.world, policy=policy)
        others = [case.world.new_generation(user_id) for _ in range(2)]
        for each in others:
            accept(case.world, user_id, each, policy=policy)
        case.storage.stop_when_empty = False
        ended: list[Answer] = []

        def answer(_: AiCall) -> Answer:
            ended.append(an_answer())
            return ended[-1]

        thread = threading.Thread(target=case.work, kwargs={"default": answer, "policy": policy})
        thread.start()
        try:
            eventually(lambda: [status_of(case.world, each) for each in (first, *others)] == ["success"] * 3)
        finally:
            case.storage.stop.set()
            thread.join(PATIENCE)
        assert len(ended) == 3

    def test_end_without_a_call_is_logged_with_its_reason(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """The operator learns why an accepted retry ended, and for which generation."""
        _, generation_id = case.accepted()
        case.world.set_generation(generation_id, prompt_data=None)

        case.work()

        (facts,) = logged(caplog, "attempt_failed")
        assert about(facts, "code", "generation_id", "goes_on") == ("CONTEXT_MISSING", str(generation_id), False)
        assert facts["reason"] == str(ContextMissing("prompt_data is null"))
        assert logged(caplog, "provider_called") == []

    @pytest.mark.parametrize("goes_on", [True, False])
    def test_failure_says_whether_it_goes_on(self, case: Case, caplog: pytest.LogCaptureFixture, goes_on: bool) -> None:
        """One line has the code, and whether and when the next attempt follows."""
        case.accepted()

        code = FailureCode.INVALID_OUTPUT if goes_on else FailureCode.REJECTED
        case.work(a_failure(code=code, transient=goes_on))

        (facts,) = logged(caplog, "attempt_failed")
        assert about(facts, "code", "goes_on") == (code, goes_on)
        assert "next_attempt_at" in facts

    def test_success_elsewhere_cancels_what_waits(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """What the app ended needs no warning."""
        _, generation_id = case.accepted()
        case.world.set_generation(generation_id, status="success")

        case.work()

        assert logged(caplog, "attempt_failed") == []
        (facts,) = logged(caplog, "attempt_cancelled")
        assert facts["generation_id"] == str(generation_id)

    def test_route_that_is_unavailable_is_named(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """A worker's line has the code, the route and until when, of the attempt that met the outage and of others."""
        for _ in range(2):
            case.accepted()

        case.work(default=UNREACHABLE, concurrency=1)

        (met,) = logged(caplog, "attempt_put_back")
        (waits, *_) = logged(caplog, "retry_postponed")
        (closed,) = logged(caplog, "route_closed")
        assert about(met, "code", "route") == ("AI_UNAVAILABLE", ROUTE)
        assert about(waits, "code", "route") == ("ROUTE_UNAVAILABLE", ROUTE)
        assert all(each["until"].endswith("Z") for each in (met, waits, closed))
        assert closed["route"] == ROUTE

    def test_defect_puts_the_message_aside(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """What is raised by no rule of ours costs a minute, and no worker; the log has its type, and not its text."""
        _, generation_id = case.accepted()

        case.work(RuntimeError("a secret prompt"))

        (facts,) = logged(caplog, "worker_failed")
        assert about(facts, "code", "reason", "generation_id") == ("INTERNAL", "RuntimeError", str(generation_id))
        assert "secret" not in caplog.text
        (message,) = case.world.messages()
        visible_at = case.storage.line.visible_at[message["id"]]
        assert visible_at == case.world.clock.now() + timedelta(minutes=1)
        assert case.attempt(generation_id)["outcome"] is None

    def test_message_that_can_not_be_put_aside_comes_again(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """A storage that fails just then ends no worker."""
        _, generation_id = case.accepted()
        case.storage.hooks = {"amend": raising(StorageUnavailable("57P01"))}

        case.work(RuntimeError("boom"))

        facts = logged(caplog, "worker_failed")[-1]
        assert about(facts, "code", "generation_id") == ("STORAGE_UNAVAILABLE", str(generation_id))

    def test_storage_that_fails_amid_an_attempt_is_logged(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """The message comes again when its visibility ends."""
        _, generation_id = case.accepted()
        case.storage.hooks = {"begin": raising(StorageUnavailable("57P01"), times=1)}

        case.work()

        (facts,) = logged(caplog, "worker_failed")
        assert about(facts, "code", "generation_id") == ("STORAGE_UNAVAILABLE", str(generation_id))

    def test_missing_set_up_is_logged_with_what_is_missing(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """An operator has to act; the attempt waits."""
        _, generation_id = case.accepted()
        case.world.app.can_create_session = False

        case.work()

        (facts,) = logged(caplog, "worker_failed")
        assert about(facts, "code", "generation_id") == ("NOT_CONFIGURED", str(generation_id))
        assert "ai_retry_create_session" in facts["reason"]
        assert facts["wait_seconds"] == 60
        assert is_queued(case.attempt(generation_id))

    def test_defect_of_the_reader_is_logged_with_its_place(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """File and line, so that it can be found; nothing of what it read."""
        broken = False

        def reader(generation: Generation) -> Context:
            if broken:
                raise KeyError("a secret prompt")
            return stored_context(generation)

        user_id = case.world.new_user()
        generation_id = case.world.new_generation(user_id)
        enqueue_generation(user_id, generation_id, storage=case.storage, policy=POLICY, context_from=reader)
        broken = True

        case.work(context_from=reader)

        (facts,) = logged(caplog, "worker_failed")
        assert about(facts, "code", "generation_id") == ("CONTEXT_MISSING", str(generation_id))
        assert facts["at"].startswith("test_worker.py:")
        assert "secret" not in caplog.text
        assert is_queued(case.attempt(generation_id))

    def test_leases_are_renewed(self, case: Case) -> None:
        """The worker's renewals hold each attempt that it runs."""
        _, generation_id = case.accepted()
        held: list[UUID] = []

        @contextmanager
        def renewing(generation_id: UUID, _: UUID) -> Iterator[None]:
            held.append(generation_id)
            yield

        case.work(an_answer(), renewing=renewing)

        assert held == [generation_id]


class TestRejectedSessions:
    """While the app's tables reject every session, a worker slows down (row 2.4)."""

    def test_worker_slows_down_until_one_is_accepted(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """After three users in a row it takes one message at a time, with a pause before it, and says why."""
        for _ in range(3):
            case.accepted()
        case.world.refuse_sessions("completed_at_is_set")
        case.storage.stop_when_empty = False
        more: list[UUID] = []

        def taking() -> None:
            if not more and logged(caplog, "worker_waits"):
                case.world.refuse_sessions(None)
                more.extend(case.accepted()[1] for _ in range(3))
            elif more and all(status_of(case.world, each) == "success" for each in more):
                case.storage.stop.set()

        case.storage.taking = taking

        case.work(default=an_answer(), concurrency=8)

        lines = logged(caplog, "worker_waits")
        assert {about(each, "code", "cause", "wait_seconds") for each in lines} == {
            ("SESSION_REJECTED", "completed_at_is_set", 0.01)
        }
        assert case.storage.limits[0] == 8
        assert case.storage.limits.count(1) >= len(lines)

    def test_two_users_slow_no_worker_down(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """Their sessions may be their own to cure."""
        for _ in range(2):
            case.accepted()
        case.world.refuse_sessions("completed_at_is_set")

        case.work(default=an_answer())

        assert logged(caplog, "worker_waits") == []


class TestStorage:
    """A storage that is unavailable for a while."""

    def test_worker_waits_for_its_storage(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """It looks again, later and later, and goes on when the storage is back."""
        _, generation_id = case.accepted()
        left = [3]

        def taking() -> None:
            if left[0]:
                left[0] -= 1
                raise StorageUnavailable("57P01")

        case.storage.taking = taking

        case.work(an_answer())

        assert status_of(case.world, generation_id) == "success"
        assert [about(each, "code", "wait_seconds") for each in logged(caplog, "worker_waits")] == [
            ("STORAGE_UNAVAILABLE", 0.01),
            *[("STORAGE_UNAVAILABLE", 0.02)] * 2,
        ]

    def test_worker_without_a_queue_ends(self, case: Case) -> None:
        """An operator has to act first."""
        case.storage.has_queue = False

        with pytest.raises(NotConfigured):
            case.work()


class TestTidying:
    """Every half minute."""

    def test_dead_attempts_are_closed_and_spool_is_settled(self, case: Case) -> None:
        """Of every user, whoever left them; what the app's tables need to know is written."""
        user_id = case.world.new_user()
        generation_id = case.world.new_generation(user_id)
        begin(case.world, user_id, generation_id)
        case.world.advance(timedelta(hours=1))
        tidied: list[str] = []

        case.work(tidy=lambda: tidied.append("tidied"))

        assert (outcomes(case.world, generation_id), tidied) == (["abandoned"], ["tidied"])

    def test_lost_message_is_sent_again(self, case: Case) -> None:
        """An accepted retry does not hang on its message."""
        _, generation_id = case.accepted()
        case.world.lose_messages()

        case.work(an_answer())

        assert status_of(case.world, generation_id) == "success"

    def test_one_users_failure_stops_no_other(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever keeps one user's attempts from being closed: the others' are, and it is logged."""
        ids = []
        for _ in range(2):
            user_id = case.world.new_user()
            ids.append((user_id, case.world.new_generation(user_id)))
            begin(case.world, *ids[-1])
        case.world.advance(timedelta(hours=1))

        def refuse_first(change: Begin | CloseOver) -> None:
            if change.user_id == ids[0][0]:
                raise StorageUnavailable("40P01")

        case.storage.hooks = {"begin": refuse_first}

        case.work()

        assert [outcomes(case.world, generation_id) for _, generation_id in ids] == [[None], ["abandoned"]]
        (facts,) = logged(caplog, "tidy_failed")
        assert about(facts, "code", "user_id") == ("STORAGE_UNAVAILABLE", str(ids[0][0]))

    def test_tidying_that_fails_stops_no_message(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """Messages don't wait for it; it is tried again in half a minute."""
        _, generation_id = case.accepted()

        def fail() -> None:
            raise StorageUnavailable("08006")

        case.work(an_answer(), tidy=fail)

        assert logged(caplog, "tidy_failed") == [{"event": "tidy_failed", "code": "STORAGE_UNAVAILABLE"}]
        assert status_of(case.world, generation_id) == "success"

    def test_outages_are_logged(self, case: Case, caplog: pytest.LogCaptureFixture) -> None:
        """With the route, and how many wait for it."""
        case.accepted()
        case.work(UNREACHABLE)
        again = Case()
        again.world, again.storage = case.world, case.storage
        again.storage.stop = threading.Event()

        again.work()

        (facts,) = logged(caplog, "route_waits")
        assert about(facts, "route", "failures", "slots", "parked") == (ROUTE, 1, 1, 1)
        assert facts["until"].endswith("Z")

    def test_it_waits_half_a_minute(self, case: Case) -> None:
        """Between two of them."""
        tidied: list[float] = []
        case.storage.stop_when_empty = False

        def taking() -> None:
            case.world.advance(timedelta(seconds=10))
            if len(tidied) == 3:
                case.storage.stop.set()

        case.storage.taking = taking

        case.work(tidy=lambda: tidied.append(case.world.clock.monotonic()))

        assert tidied == [0.0, 30.0, 60.0]


class TestStopping:
    """A worker that is to stop."""

    def test_messages_that_were_not_begun_are_put_back(self, case: Case) -> None:
        """They are another worker's at once."""
        ids = [case.accepted() for _ in range(2)]
        case.storage.taking = case.storage.stop.set
        put_back: list[Any] = []

        def note(change: Amend) -> None:
            assert isinstance(change, Postpone)
            put_back.append((change.message.generation_id, change.wait))

        case.storage.hooks = {"amend": note}

        case.work()

        assert put_back == [(generation_id, timedelta(0)) for _, generation_id in ids]
        assert [row["ready"] for row in case.world.messages()] == [True, True]

    def test_what_runs_is_settled(self, case: Case) -> None:
        """Its call ends within its deadline, and nothing new is begun."""
        _, first = case.accepted()
        _, second = case.accepted()

        def stop(_: AiCall) -> Answer:
            case.storage.stop.set()
            return an_answer()

        case.work(stop, concurrency=1)

        assert [status_of(case.world, each) for each in (first, second)] == ["success", "queued"]
