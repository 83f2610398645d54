"""What a hook is given: which events, in which order, with which facts, and what a hook can't break."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ai_retry import events, hooks
from ai_retry.client import Client
from ai_retry.domain.change import CloseOver
from ai_retry.domain.errors import AiRetryError, StorageUnavailable
from ai_retry.domain.model import FailureCode, Outcome, ProviderCall, Usage
from ai_retry.domain.policy import RetryPolicy
from ai_retry.events import Event
from ai_retry.logs import logfmt, plain
from ai_retry.testing.ai import AiStep, ScriptedAiProvider
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.scene import Hooked, raising
from tests.helpers.steps import begin

POLICY = RetryPolicy()
REQUEST = "req-1"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNREACHABLE = a_failure(certainly_not_generated=True, wire_requests=0)


class Case:
    """A client with a hook, over a world in memory."""

    def __init__(self, *script: AiStep, default: AiStep | None = None, **parts: Any) -> None:
        self.seen: list[Event] = []
        self.world = MemoryWorld(Hooked)
        assert isinstance(self.world.storage, Hooked)
        self.storage: Hooked = self.world.storage
        self.client = Client(
            storage=self.storage,
            queue_storage=self.storage,
            ai=ScriptedAiProvider(*script, default=default),
            clock=self.world.clock,
            policy=POLICY,
            provider="provider.example",
            **{"on_event": self.seen.append, **parts},
        )
        self.user_id = self.world.new_user()
        self.generation_id = self.world.new_generation(self.user_id)

    def click(self, action: str = "retry_generation", **columns: Any) -> None:
        """Ask, in a request, and leave the error to the events."""
        ask: Callable[..., Any] = getattr(self.client, action)
        with hooks.request(request_id=REQUEST, traceparent=TRACE), suppress(AiRetryError):
            ask(self.user_id, self.generation_id, **columns)

    def work(self) -> None:
        """Let a worker do what waits."""
        stop = threading.Event()
        take = self.storage.take

        def taking(*arguments: Any) -> Any:
            taken = take(*arguments)
            if not taken:
                stop.set()
            return taken

        self.storage.take = taking  # type: ignore[method-assign, assignment]
        self.client.worker(concurrency=1).run(stop)

    def names(self) -> list[str]:
        """Name what was seen, without what a worker says of itself."""
        return [each.name for each in self.seen if not each.name.startswith("worker_p")]

    def only(self, kind: type[Any]) -> Any:
        """The one event of this kind."""
        (found,) = [each for each in self.seen if isinstance(each, kind)]
        return found


def test_success_is_three_events() -> None:
    """It began, each request was made, and it has its session; each names user, generation, attempt and request."""
    case = Case(replace(an_answer(), usage=Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10)))

    case.click()

    assert case.names() == ["attempt_began", "provider_called", "attempt_succeeded"]
    for each in case.seen:
        assert (each.user_id, each.generation_id, each.request_id) == (case.user_id, case.generation_id, REQUEST)
        assert each.traceparent == TRACE
        assert isinstance(each, events.AttemptEvent)
        assert (each.attempt, each.is_accepted) == (2, False)
    ended = case.only(events.AttemptSucceeded)
    assert (ended.prompt_tokens, ended.completion_tokens, ended.provider_outcome) == (7, 3, "generated")
    assert None not in (ended.call_seconds, ended.seconds, ended.settle_seconds)


def test_each_request_on_the_wire_is_an_event() -> None:
    """With its own provider, code and duration, in their order."""
    calls = (
        ProviderCall(
            provider="first.example",
            model="a",
            code=FailureCode.RATE_LIMITED,
            http_status=429,
            duration=timedelta(seconds=1),
        ),
        ProviderCall(provider="second.example", model="b", http_status=200, duration=timedelta(seconds=2)),
    )
    case = Case(replace(an_answer(), calls=calls, wire_requests=2))

    case.click()

    called = [each for each in case.seen if isinstance(each, events.ProviderCalled)]
    assert [(each.provider, each.model, each.code, each.http_status, each.call_seconds) for each in called] == [
        ("first.example", "a", "AI_RATE_LIMITED", 429, 1),
        ("second.example", "b", None, 200, 2),
    ]


def test_failure_has_its_code_reason_and_wait() -> None:
    """And says whether it used up an attempt."""
    case = Case(a_failure(code=FailureCode.TIMEOUT, reason="no answer in time"))

    case.click()

    assert case.names() == ["attempt_began", "provider_called", "attempt_failed"]
    failed = case.only(events.AttemptFailed)
    assert (failed.code, failed.reason, failed.counted, failed.goes_on) == (
        "AI_TIMEOUT",
        "no answer in time",
        True,
        False,
    )
    assert failed.next_attempt_at is not None
    assert failed.request_id == REQUEST


def test_refusal_is_one_event() -> None:
    """Nothing began; it has the wait."""
    case = Case(a_failure(), an_answer())
    case.click()
    case.seen.clear()

    case.click()

    assert case.names() == ["refused"]
    refused = case.only(events.Refused)
    assert (refused.action, refused.code, refused.request_id) == ("retry", "RETRY_TOO_SOON", REQUEST)
    assert refused.retry_after_seconds > 0


def test_rejected_session_keeps_its_answer() -> None:
    """The attempt failed, and the next one uses the answer: without a call."""
    case = Case(an_answer())
    case.world.refuse_sessions("completed_at_is_set")
    case.click()
    assert case.names() == ["attempt_began", "provider_called", "attempt_failed", "answer_kept"]
    assert case.only(events.AttemptFailed).code == "SESSION_REJECTED"
    assert case.only(events.AnswerKept).cause == "completed_at_is_set"
    case.world.refuse_sessions(None)
    case.world.advance(timedelta(minutes=10))
    case.seen.clear()

    case.click()

    assert case.names() == ["attempt_began", "attempt_succeeded"]
    assert case.only(events.AttemptSucceeded).answer_from == 2


def test_answer_that_can_not_be_settled_is_kept() -> None:
    """The last resort is reported with what stood in the way."""
    case = Case(an_answer())
    case.storage.hooks = {"settle": raising(StorageUnavailable("55P03"))}

    case.click()

    assert case.names() == ["attempt_began", "provider_called", "answer_kept"]
    assert case.only(events.AnswerKept).cause == "55P03"


def test_storage_that_fails_is_reported() -> None:
    """When no attempt ended, the request did."""
    case = Case(an_answer())
    case.storage.hooks = {"begin": raising(StorageUnavailable("57P01"))}

    case.click()

    assert case.names() == ["request_failed"]
    assert case.only(events.RequestFailed).code == "STORAGE_UNAVAILABLE"


def test_accepted_retry_keeps_its_request_in_the_worker() -> None:
    """From the acceptance over a failure to the session, all events carry the id and the trace of the one request."""
    case = Case(a_failure(), an_answer())

    case.click("enqueue")
    case.work()
    case.world.advance(timedelta(minutes=10))
    case.work()

    reported = [each for each in case.seen if each.generation_id is not None]
    assert [each.name for each in reported] == [
        "generation_accepted",
        *("attempt_began", "provider_called", "attempt_failed"),
        *("attempt_began", "provider_called", "attempt_succeeded"),
    ]
    assert {(each.request_id, each.traceparent) for each in reported} == {(REQUEST, TRACE)}
    assert {each.is_accepted for each in reported if isinstance(each, events.AttemptEvent)} == {True}
    assert case.only(events.AttemptFailed).goes_on
    accepted = case.only(events.GenerationAccepted)
    assert accepted.due_at is not None
    assert accepted.expires_at is not None


def test_route_is_closed_once_and_opened_once() -> None:
    """Whoever asks meanwhile is put back with the route and until when; the first answer opens it."""
    case = Case(UNREACHABLE, default=an_answer())
    others = [(case.world.new_user(), UUID(int=0)) for _ in range(2)]
    others = [(user_id, case.world.new_generation(user_id)) for user_id, _ in others]
    case.click("enqueue")
    for user_id, generation_id in others:
        case.client.enqueue(user_id, generation_id)

    case.work()
    case.world.advance(timedelta(minutes=10))
    case.work()

    closed, opened = case.only(events.RouteClosed), case.only(events.RouteOpened)
    assert closed.route == opened.route
    assert closed.route.startswith("provider.example/")
    assert case.seen.index(closed) < case.seen.index(opened)
    put_back = case.only(events.AttemptPutBack)
    assert (put_back.route, put_back.code) == (closed.route, FailureCode.UNAVAILABLE)
    postponed = [each for each in case.seen if isinstance(each, events.RetryPostponed)]
    assert {(each.code, each.route) for each in postponed} == {("ROUTE_UNAVAILABLE", closed.route)}
    assert all(each.until for each in postponed)


def test_abandoned_attempt_is_reported_by_whoever_closes_it() -> None:
    """A click of the same user, or a worker that tidies."""
    case = Case(an_answer())
    dead = case.world.new_generation(case.user_id)
    begin(case.world, case.user_id, dead)
    case.world.advance(timedelta(hours=1))

    case.click()

    abandoned = case.only(events.AttemptAbandoned)
    assert (abandoned.generation_id, abandoned.attempt) == (dead, 2)


def test_storage_reports_what_it_closed_in_passing() -> None:
    """With its outcome; a second time there is nothing left."""
    case = Case()
    begin(case.world, case.user_id, case.generation_id)
    case.world.advance(timedelta(hours=1))

    first, second = (case.storage.begin(CloseOver(user_id=case.user_id)) for _ in range(2))

    assert [(each.generation_id, each.outcome) for each in first.closed] == [(case.generation_id, Outcome.ABANDONED)]
    assert list(second.closed) == []


def test_cancelled_retry_is_reported() -> None:
    """By its number."""
    case = Case()
    case.click("enqueue")

    case.click("cancel")

    assert case.names() == ["generation_accepted", "attempt_cancelled"]
    assert case.only(events.AttemptCancelled).attempt == 2


def test_first_call_is_an_attempt_like_any_other() -> None:
    """Its number is 1, and all its events name the generation that it created; an accepted one's, too."""
    case = Case(an_answer(), an_answer())
    with hooks.request(request_id=REQUEST):
        now = case.client.generate(case.user_id, "Plan an easy run.")
        case.client.enqueue_generation(case.world.new_user(), "Plan an easy run.")
    case.work()

    reported = [each for each in case.seen if isinstance(each, events.AttemptEvent)]
    assert [each.name for each in reported] == [
        *("attempt_began", "provider_called", "attempt_succeeded"),
        *("generation_accepted", "attempt_began", "provider_called", "attempt_succeeded"),
    ]
    assert {each.attempt for each in reported} == {1}
    assert {each.generation_id for each in reported[:3]} == {now.generation.id}
    assert len({each.generation_id for each in reported[3:]}) == 1
    assert {each.request_id for each in reported} == {REQUEST}


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_hook_that_raises_is_logged_and_changes_nothing(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The retry succeeds, later hooks get the event, and the log has the type of what was raised, not its text."""
    seen: list[Event] = []

    def broken(_: Event) -> None:
        raise kind("a secret prompt")

    case = Case(an_answer(), on_event=[broken, seen.append])

    result = case.client.retry_generation(case.user_id, case.generation_id)

    assert result.session_id
    assert [each.name for each in seen] == ["attempt_began", "provider_called", "attempt_succeeded"]
    failures = [vars(each)["ai_retry"] for each in caplog.records if "hook_failed" in each.getMessage()]
    assert [(each["error"], each["of"]) for each in failures] == [(kind.__name__, each.name) for each in seen]
    assert "secret" not in caplog.text


def test_events_hold_nothing_secret() -> None:
    """No field of any event can hold a prompt, an answer, a token or a key: their names are those of the table."""
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    names = {each.name for kind in kinds for each in fields(kind)}

    assert names == {
        *(
            "user_id",
            "generation_id",
            "request_id",
            "traceparent",
            "attempt",
            "is_accepted",
            "answer_from",
            "action",
            "asked_model",
        ),
        *("due_at", "expires_at", "next_attempt_at", "until", "model", "route", "provider", "http_status", "code"),
        *("reason", "cause", "at", "stack", "outcome", "counted", "goes_on", "provider_outcome", "prompt_tokens"),
        *("completion_tokens", "total_tokens", "cost", "seconds", "call_seconds", "claim_seconds", "settle_seconds"),
        *("wait_seconds", "retry_after_seconds", "failures", "slots", "parked", "concurrency", "taken", "left"),
        *("ended_seconds_ago", "message", "message_id", "tries"),
    }


def test_log_that_raises_loses_its_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A log handler of the app's that raises ends no attempt whose answer was paid for, and stderr says what failed."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 (logging calls it)
            raise ConnectionError("no log server at secret.example")

    case, broken = Case(an_answer()), Broken()
    logging.getLogger("ai_retry").addHandler(broken)
    try:
        case.client.retry_generation(case.user_id, case.generation_id)
        hooks.Events(lambda _: 1 / 0)(events.WorkerStarted(concurrency=1))
    finally:
        logging.getLogger("ai_retry").removeHandler(broken)

    assert case.names()[-1] == "attempt_succeeded"
    said = capsys.readouterr().err
    assert "event=log_failed of=hook_failed error=ConnectionError" in said
    assert "secret" not in said


@pytest.mark.parametrize("odd", ["a b", "", "\n", "x" * 129, "id=1"])
def test_odd_request_id_is_left_out(odd: str) -> None:
    """What can't be read in a log never gets there."""
    with hooks.request(request_id=odd, traceparent=odd) as asked:
        assert (asked.origin.request_id, asked.origin.traceparent) == (None, None)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ("", '""'),
        ('say "x"', '"say \\"x\\""'),
        ("a=b", '"a=b"'),
        ("line\nbreak", '"line\\nbreak"'),
        ("\x1b[31m", '"\\u001b[31m"'),
        (True, "true"),
        (0.123456789, "0.123457"),
        (15.0, "15"),
    ],
)
def test_logfmt_quotes_what_needs_it(value: Any, written: str) -> None:
    """So that a line is one line, and every reader finds the same pairs in it."""
    assert logfmt({"name": plain(value)}) == f"name={written}"


def test_log_line_and_record_say_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """The record has the facts as data, under the same names."""
    caplog.set_level(logging.DEBUG, logger="ai_retry")
    case = Case(an_answer())

    case.click()

    for record in caplog.records:
        assert record.getMessage() == logfmt(vars(record)["ai_retry"])
