"""The nouns: immutable, and silent about prompts, answers and tokens."""

import dataclasses
import inspect
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain import change, loop, model, queue_model
from ai_retry.domain.change import (
    Acceptance,
    Begin,
    CallRecord,
    CloseOver,
    Closing,
    Discard,
    Expected,
    Found,
    Keep,
    NewGeneration,
    Open,
    Postpone,
    PutBack,
    Rejection,
    Renew,
    Reply,
    Run,
    Running,
    Settle,
    Success,
    Taken,
)
from ai_retry.domain.context import stored_context
from ai_retry.domain.decide.begin import Asked
from ai_retry.domain.decide.route import Reader
from ai_retry.domain.loop import Call, Ended, Load, Setting
from ai_retry.domain.model import (
    ClosedOver,
    FailureCode,
    GenerationStatus,
    Installation,
    InvalidAnswer,
    Origin,
    Outcome,
    ProviderCall,
    ProviderOutcome,
    QuotaRule,
    RetryResult,
    Route,
    Usage,
)
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.policy import RetryPolicy, admit
from ai_retry.domain.queue_model import Message, Outage, QueuedRetry, QueueState, RouteNote, RouteState
from tests.helpers.builders import (
    AS_OF,
    GENERATION_ID,
    SECOND,
    USER_ID,
    a_context,
    a_failure,
    a_generation,
    a_quota,
    a_snapshot,
    a_stored_answer,
    an_answer,
    an_attempt,
)

PROMPT, ANSWER, TOKEN = "the user's own words", "the model's own words", UUID(int=0xC0FFEE)
SNAPSHOT = a_snapshot(
    generation=a_generation(prompt_data={"messages": [{"role": "user", "content": PROMPT}]}),
    attempts=(an_attempt(),),
    stored_answer=a_stored_answer(output=ANSWER),
    session={"content": ANSWER},
)
IDS: dict[str, Any] = {"user_id": USER_ID, "generation_id": GENERATION_ID}
MINE: dict[str, Any] = {**IDS, "token": TOKEN}
SECRET = an_answer(output={"title": ANSWER})
SESSION = {"content": ANSWER}
CALL = CallRecord(provider_outcome=ProviderOutcome.GENERATED)
MESSAGE = Message(id=1, **IDS)
READER = Reader(context_from=stored_context)
START = Running(lease=SECOND, longest=SECOND, abandoned_wait=SECOND, answer_from=None, route=None)
BEGIN = Begin(
    **MINE,
    attempt=Open(start=START),
    expected=Expected(as_of=AS_OF, version="1/error", quota_rule=QuotaRule()),
)
REJECTION = Rejection(message="rejected", wait=SECOND, again_wait=SECOND)
SUCCESS = Success(answer=SECRET, answer_from=None, if_rejected=REJECTION)
CLOSING = Closing(outcome=Outcome.FAILED, code=None, counted=True, wait=None, answer=SECRET)
RESULT = RetryResult(generation=SNAPSHOT.generation, session=SESSION, quota=a_quota(), attempt=2)
FULL: list[Any] = [
    SNAPSHOT,
    SNAPSHOT.generation,
    SNAPSHOT.attempts[0],
    SNAPSHOT.quota,
    SNAPSHOT.stored_answer,
    Route(route="one/small", not_before=AS_OF, failures=1, slots=1),
    a_context(messages=({"role": "user", "content": PROMPT},), response_schema={"title": PROMPT}),
    SECRET,
    a_failure(),
    Usage(total_tokens=46),
    InvalidAnswer(content=ANSWER, problems=("/title: type",)),
    ProviderCall(model="small", code=FailureCode.UNAVAILABLE, failure=a_failure()),
    QuotaRule(),
    Installation(id="0123", database="postgres"),
    Origin(request_id="request-1"),
    ClosedOver(**IDS, number=2, outcome=Outcome.ABANDONED, code=None, is_accepted=False),
    admit(SNAPSHOT),
    admit(a_snapshot(generation=SNAPSHOT.generation)),
    RESULT,
    Outlook(snapshot=SNAPSHOT, refusal=None),
    # What is accepted for later
    MESSAGE,
    Outage(wait=SECOND, failures=1),
    RouteNote(route="one/large"),
    RouteState(route="one/small", not_before=AS_OF, failures=1, slots=1),
    QueueState(
        as_of=AS_OF,
        configured=True,
        queued=0,
        due=0,
        parked=0,
        running=0,
        oldest_accepted_at=None,
        held=0,
        kept=0,
        poisoned=0,
        outages=(),
    ),
    QueuedRetry(
        generation=SNAPSHOT.generation,
        quota=a_quota(),
        attempt=2,
        accepted_at=AS_OF,
        next_attempt_at=AS_OF,
        expires_at=AS_OF,
        as_of=AS_OF,
    ),
    # What a decision wants to become true
    BEGIN,
    BEGIN.expected,
    BEGIN.attempt,
    START,
    NewGeneration(prompt_data={"question": PROMPT}, model=None, columns={"note": PROMPT}, digest="0123"),
    Acceptance(wait=SECOND, expires_after=SECOND, status_before=GenerationStatus.ERROR, in_line=1),
    Run(number=2, start=START),
    CloseOver(user_id=USER_ID),
    CALL,
    REJECTION,
    SUCCESS,
    CLOSING,
    Settle(**MINE, found=Found.READY, end=SUCCESS, quota_rule=QuotaRule()),
    PutBack(**MINE, wait=SECOND, reason="503", wire_requests=1, outage=None),
    Postpone(message=MESSAGE, wait=SECOND),
    Renew(generation_id=GENERATION_ID, token=TOKEN, lease=SECOND),
    Discard(**IDS, operator="ann"),
    Keep(**MINE, answer=SECRET, cause="55P03", wait=SECOND, call=CALL),
    Reply(applied=True, snapshot=SNAPSHOT),
    Taken(message=MESSAGE, snapshot=SNAPSHOT),
    # What a loop is asked for, and asks for
    Asked(**MINE),
    Load(**MINE),
    Call(context=a_context(messages=({"role": "user", "content": PROMPT},)), timeout=SECOND, idempotency_key="key"),
    Ended(result=RESULT),
    RetryPolicy(),
    READER,
    Setting(policy=RetryPolicy(), reader=READER, monotonic=lambda: 0.0, fraction=lambda: 0.0),
]
every_noun = pytest.mark.parametrize("noun", FULL, ids=lambda noun: type(noun).__name__)


def test_examples_show_every_noun() -> None:
    """The tests below leave no noun out."""
    found = (each for module in (model, queue_model, change, loop) for _, each in inspect.getmembers(module))
    nouns = {each for each in found if isinstance(each, type) and dataclasses.is_dataclass(each)}

    assert {type(noun) for noun in FULL} == {*nouns, Outlook}


@every_noun
def test_noun_keeps_secrets(noun: Any) -> None:
    """No string of a noun holds a prompt, an answer or a fencing token."""
    text = f"{noun!r} {noun!s} {noun}"

    assert not [secret for secret in (PROMPT, ANSWER, str(TOKEN)) if secret in text]


@every_noun
def test_noun_is_immutable(noun: Any) -> None:
    """A noun that is read in one place is changed in no other."""
    field = dataclasses.fields(noun)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(noun, field, None)


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        ({"certainly_not_generated": True, "usage": Usage()}, ProviderOutcome.NOT_GENERATED),
        ({"usage": Usage(total_tokens=0)}, ProviderOutcome.GENERATED),
        ({"code": FailureCode.INVALID_OUTPUT}, ProviderOutcome.GENERATED),
        ({"code": FailureCode.INCOMPLETE}, ProviderOutcome.GENERATED),
        ({"code": FailureCode.TIMEOUT}, ProviderOutcome.UNKNOWN),
        ({"code": FailureCode.UNAVAILABLE}, ProviderOutcome.UNKNOWN),
    ],
)
def test_failure_says_what_it_may_have_cost(facts: dict[str, Any], outcome: ProviderOutcome) -> None:
    """Positive evidence decides; without any, it is unknown."""
    assert a_failure(**facts).provider_outcome is outcome


@pytest.mark.parametrize(
    ("facts", "counted"),
    [
        ({}, True),
        ({"certainly_not_generated": True}, False),
        ({"operator_fault": True}, False),
        ({"overloaded": True}, False),
    ],
)
def test_failure_counts_when_the_users(facts: dict[str, Any], *, counted: bool) -> None:
    """An attempt counts unless nothing was generated, or the request can't have caused what failed."""
    assert a_failure(**facts).counted is counted


@pytest.mark.parametrize(
    ("facts", "turned_away"),
    [
        ({"transient": True, "counted": False}, True),
        ({"transient": True, "counted": True}, False),
        ({"transient": False, "counted": False}, False),
        ({"transient": None, "counted": False}, False),
        ({"transient": True, "counted": False, "operator_fault": True}, False),
        ({"transient": True, "counted": False, "outcome": Outcome.ABANDONED}, False),
    ],
    ids=["turned away", "counted", "does not pass", "unknown", "operator's", "abandoned"],
)
def test_attempt_that_was_turned_away_is_known(facts: dict[str, Any], *, turned_away: bool) -> None:
    """A passing failure that cost nothing, and no operator's fault: as if the attempt had not been (row 2.9)."""
    assert an_attempt(**facts).was_turned_away is turned_away


@pytest.mark.parametrize(
    ("session", "session_id"),
    [({"id": 4711}, "4711"), ({"id": "s-1"}, "s-1"), ({}, "s-0")],
    ids=["number", "string", "gone"],
)
def test_session_id_is_a_string(session: dict[str, Any], session_id: str) -> None:
    """Whatever the app's sessions have as ids; the generation's where the session is gone."""
    result = dataclasses.replace(RESULT, session=session, generation=a_generation(session_id="s-0"))

    assert result.session_id == session_id


@pytest.mark.parametrize(("captured", "held", "remaining"), [(0, 0, 5), (2, 1, 2), (5, 0, 0), (3, 2, 0), (5, 4, 0)])
def test_quota_remaining_is_what_may_be_held(captured: int, held: int, remaining: int) -> None:
    """Captured and held units are gone alike; more than the limit is no debt."""
    assert a_quota(captured=captured, held=held).remaining == remaining


def test_default_quota_is_five_a_day() -> None:
    """The default rule, the app's own successes included."""
    assert QuotaRule() == QuotaRule(limit=5, window=timedelta(hours=24), count_own_successes=True)


def test_facts_of_an_outlook_leave_the_session_out() -> None:
    """What people and programs read has plain names, the quota and the decision, and no session."""
    outlook = Outlook(snapshot=SNAPSHOT, refusal=None)

    assert outlook.facts["generation_id"] == str(SNAPSHOT.generation.id)
    assert outlook.facts["refused_by"] is None
    assert ANSWER not in str(outlook.facts)
