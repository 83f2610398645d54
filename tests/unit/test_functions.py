"""How long each verb is repeated, and what becomes of its reply: over a transport that fails as the test says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import CloseOver, Discard, Keep, Postpone, PutBack, Renew
from ai_retry.domain.errors import (
    AiRetryError,
    NotConfigured,
    StorageOutcomeUnknown,
    StorageUnavailable,
    TooManyParallel,
)
from ai_retry.domain.model import Installation, QuotaRule
from ai_retry.domain.policy import BUSY_WAIT
from ai_retry.domain.queue_model import Message
from ai_retry.domain.recovery import Filter
from ai_retry.storage.functions import FunctionStorage
from ai_retry.storage.recovery import RecoveryFunctions
from ai_retry.storage.transport import Fault, RowTaken, failure_of_sqlstate
from tests.helpers.builders import a_settle
from tests.helpers.scene import Scene

RULE = QuotaRule()
LOST = StorageOutcomeUnknown("connection lost", retry_after=timedelta(seconds=1))
FAULT = Fault("PGRST202", "apply the migrations")
SHORT, NONE = timedelta(milliseconds=1), timedelta(0)  # two tries, and one
IDS = {"user_id": uuid4(), "generation_id": uuid4()}
WAIT = timedelta(seconds=1)


class Storage(RecoveryFunctions, FunctionStorage):
    """All that a storage over SQL has."""


@dataclass
class Transport:
    """Answers or fails, and counts."""

    reply: Any
    calls: list[str] = field(default_factory=list)

    def __call__(self, function: str, _: Mapping[str, Any]) -> Any:
        """See ``storage.transport``."""
        self.calls.append(function)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def a_keep() -> Keep:
    """The last resort of a settle."""
    change = a_settle()
    assert change.call is not None
    return Keep(**IDS, token=uuid4(), answer=change.end.answer, cause="x", wait=WAIT, call=change.call)  # type: ignore[arg-type]


def back() -> PutBack:
    """Put a running attempt back."""
    return PutBack(
        user_id=IDS["user_id"],
        generation_id=IDS["generation_id"],
        token=uuid4(),
        wait=WAIT,
        reason="x",
        wire_requests=0,
        outage=None,
    )


def find(storage: Storage) -> object:
    """Search, as an operator does."""
    return storage.find(Filter(until=datetime(2026, 1, 1, tzinfo=UTC)), before=None, page=1, quota_rule=RULE)


Verb = Callable[[Storage], object]
READS: dict[str, Verb] = {
    "load": lambda storage: storage.load(uuid4(), uuid4(), RULE, None),
    "state": lambda storage: storage.state(),
    "installation": lambda storage: storage.installation(),
}
BEGINS: dict[str, Verb] = {
    "close over": lambda storage: storage.begin(CloseOver(user_id=uuid4())),
    "discard": lambda storage: storage.amend(Discard(**IDS, operator="ann")),
    "postpone": lambda storage: storage.amend(Postpone(message=Message(id=1, **IDS), wait=WAIT)),
}
POLLS: dict[str, Verb] = {
    "take": lambda storage: storage.take(1, WAIT, RULE),
    "overdue": lambda storage: storage.overdue(1),
    "renew": lambda storage: storage.amend(Renew(generation_id=uuid4(), token=uuid4(), lease=WAIT)),
}
SETTLES: dict[str, Verb] = {
    "settle": lambda storage: storage.settle(a_settle()),
    "keep": lambda storage: storage.keep(a_keep()),
    "put back": lambda storage: storage.amend(back()),
}
SEARCHES: dict[str, Verb] = {
    "find": find,
    "find one": lambda storage: storage.find_one(uuid4(), RULE),
    "find attempts": lambda storage: storage.find_attempts("plan:x", after=None, page=1),
    "estimate": lambda storage: storage.estimate(),
    "inspect": lambda storage: storage.inspect(),
    "books": lambda storage: storage.books(),
}


def named(*groups: dict[str, Verb]) -> pytest.MarkDecorator:
    """Make parameters of verbs."""
    verbs = [pytest.param(verb, id=name) for each in groups for name, verb in each.items()]
    return pytest.mark.parametrize("verb", verbs)


def raised(verb: Verb, reply: Any, **budgets: Any) -> tuple[AiRetryError, int]:
    """What a verb raises, and how often it was tried."""
    transport = Transport(reply)
    with pytest.raises(AiRetryError) as caught:
        verb(Storage(transport, **budgets))
    assert caught.value.__context__ is None
    return caught.value, len(transport.calls)


@named(READS, BEGINS)
def test_what_a_user_waits_for_is_repeated_for_the_reading_time(verb: Verb) -> None:
    """It has the reading's time, and not the settle's."""
    assert raised(verb, LOST, read_for=SHORT, settle_for=NONE)[1] >= 2
    assert raised(verb, LOST, read_for=NONE, settle_for=SHORT)[1] == 1


@pytest.mark.parametrize("sqlstate", ["23505", "23P01"])
def test_row_that_the_app_has_no_place_for_is_busy_at_a_begin(sqlstate: str) -> None:
    """A unique index on the app's rows refuses a begin for a moment; elsewhere an operator has to look."""
    refused, scene = failure_of_sqlstate(sqlstate), Scene()
    scene.retry()
    error, tried = raised(lambda storage: storage.begin(scene.storage.begins[0]), refused)

    assert (type(error), error.http_status, error.retry_after, tried) == (TooManyParallel, 429, BUSY_WAIT, 1)
    assert {type(raised(verb, refused)[0]) for verb in (SETTLES["settle"], BEGINS["close over"])} == {RowTaken}
    assert isinstance(refused, NotConfigured)


@named(SETTLES, SEARCHES)
def test_what_was_paid_for_is_repeated_for_the_settles_time(verb: Verb) -> None:
    """It has the settle's time, and so has what an operator searches."""
    assert raised(verb, LOST, read_for=NONE, settle_for=SHORT)[1] >= 2
    assert raised(verb, LOST, read_for=SHORT, settle_for=NONE)[1] == 1


@named(POLLS)
def test_what_comes_again_by_itself_is_tried_once(verb: Verb) -> None:
    """A worker polls again, and a lease is renewed again, soon enough."""
    assert raised(verb, LOST, read_for=WAIT, settle_for=WAIT)[1] == 1


@named(READS, SEARCHES)
def test_lost_reply_of_a_reading_wrote_nothing(verb: Verb) -> None:
    """Nothing needs to be looked up after it."""
    assert isinstance(raised(verb, LOST, read_for=SHORT, settle_for=SHORT)[0], StorageUnavailable)


@named(READS, BEGINS, POLLS, SEARCHES)
def test_fault_that_lasts_is_reported(verb: Verb) -> None:
    """Functions that are missing for all of the reading's time are named, with the remedy, whatever is asked."""
    failure, tries = raised(verb, FAULT, read_for=SHORT, settle_for=timedelta(minutes=10))

    assert isinstance(failure, NotConfigured)
    assert "apply the migrations" in str(failure)
    assert tries >= 2


@named(SETTLES)
def test_fault_is_no_word_on_what_was_paid_for(verb: Verb) -> None:
    """However long it lasts, a settle's reply is lost, so that the last resort comes next."""
    assert raised(verb, FAULT, read_for=SHORT, settle_for=SHORT)[0] is FAULT


@named(READS, BEGINS, POLLS, SETTLES, {name: verb for name, verb in SEARCHES.items() if name != "inspect"})
@pytest.mark.parametrize("reply", ["<html>one moment</html>", 7, {"status": "ok"}], ids=["page", "number", "object"])
def test_reply_that_is_not_ours_is_lost(verb: Verb, reply: Any) -> None:
    """A page, or JSON of something else, in place of a function's reply is repeated like a lost one."""
    failure, tries = raised(verb, reply, read_for=SHORT, settle_for=SHORT)

    assert isinstance(failure, StorageOutcomeUnknown | StorageUnavailable)
    assert failure.retry_after is not None
    assert tries >= (1 if verb in POLLS.values() else 2)


@named(READS)
def test_reply_that_is_too_deep_is_the_apps(verb: Verb) -> None:
    """What JSON can hold and Python can't is not repeated."""
    for error in (RecursionError(), ValueError("4300 digits")):
        failure, tries = raised(verb, error, read_for=SHORT, settle_for=SHORT)
        assert (type(failure), tries) == (NotConfigured, 1)


def test_first_success_is_one_call() -> None:
    """Nothing is asked twice."""
    transport = Transport(None)
    storage = Storage(transport)

    assert storage.load(uuid4(), uuid4(), RULE, None) is None
    assert transport.calls == ["ai_retry_load"]


@pytest.mark.parametrize("reply", [None, "", []])
def test_function_that_returns_nothing(reply: Any) -> None:
    """Each API writes nothing in its own way."""
    Storage(Transport(reply)).keep(a_keep())


def test_settle_says_whether_the_token_is_known() -> None:
    """A storage that does not say it knows the token."""
    for reply, known in (({"applied": False}, True), ({"applied": False, "known": False}, False)):
        assert Storage(Transport(reply)).settle(a_settle()).known is known


def test_installation_is_read_once() -> None:
    """Also by the same storage without repeats."""
    transport = Transport({"id": str(UUID(int=1)), "database": "postgres"})
    storage = Storage(transport)

    found = [storage.installation(), storage.installation(), storage.once().installation()]

    assert found == [Installation(id=str(UUID(int=1)), database="postgres")] * 3
    assert len(transport.calls) == 1
