"""The nouns: immutable, and silent about prompts, answers and tokens."""

import dataclasses
import inspect
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ai_retry.domain import model
from ai_retry.domain.model import (
    Claim,
    FailureCode,
    ProviderOutcome,
    QuotaRule,
    RetryResult,
    Route,
    Settled,
    Usage,
)
from ai_retry.domain.policy import admit
from ai_retry.domain.retry import RetryStatus
from tests.support.builders import (
    AS_OF,
    GENERATION_ID,
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
FULL: list[Any] = [
    SNAPSHOT,
    SNAPSHOT.generation,
    SNAPSHOT.attempts[0],
    SNAPSHOT.quota,
    SNAPSHOT.stored_answer,
    Route(route="one/small", not_before=AS_OF, failures=1, slots=1),
    a_context(messages=({"role": "user", "content": PROMPT},), response_schema={"title": PROMPT}),
    an_answer(output={"title": ANSWER}),
    a_failure(),
    Usage(total_tokens=46),
    QuotaRule(),
    admit(SNAPSHOT),
    admit(a_snapshot(generation=SNAPSHOT.generation)),
    Claim(user_id=USER_ID, generation_id=GENERATION_ID, number=2, token=TOKEN, lease_expires_at=AS_OF),
    Settled(generation=SNAPSHOT.generation, session={"content": ANSWER}, quota=a_quota()),
    RetryResult(generation=SNAPSHOT.generation, session={"content": ANSWER}, quota=a_quota(), attempt=2),
    RetryStatus(snapshot=SNAPSHOT, admission=admit(SNAPSHOT), refusal=None),
]
every_noun = pytest.mark.parametrize("noun", FULL, ids=lambda noun: type(noun).__name__)


def test_examples_show_every_noun() -> None:
    """The tests below leave no noun out."""
    nouns = {cls for _, cls in inspect.getmembers(model, dataclasses.is_dataclass)}

    assert {type(noun) for noun in FULL} == {*nouns, RetryStatus}


@every_noun
def test_noun_keeps_secrets(noun: Any) -> None:
    """No text of a noun holds a prompt, an answer or a fencing token."""
    text = f"{noun!r} {noun!s} {noun}"

    assert not [secret for secret in (PROMPT, ANSWER, str(TOKEN)) if secret in text]


@every_noun
def test_noun_is_immutable(noun: Any) -> None:
    """Nobody changes a noun that somebody else reads."""
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
    """Positive evidence decides; without any, nobody can tell."""
    assert a_failure(**facts).provider_outcome is outcome


@pytest.mark.parametrize(
    ("facts", "counted"),
    [({}, True), ({"certainly_not_generated": True}, False), ({"operator_fault": True}, False)],
)
def test_failure_counts_when_the_users(facts: dict[str, Any], *, counted: bool) -> None:
    """An attempt counts unless nothing was generated or the operator is to blame."""
    assert a_failure(**facts).counted is counted


@pytest.mark.parametrize(("captured", "held", "remaining"), [(0, 0, 5), (2, 1, 2), (5, 0, 0), (3, 2, 0), (5, 4, 0)])
def test_quota_remaining_is_what_may_be_held(captured: int, held: int, remaining: int) -> None:
    """Captured and held units are gone alike; more than the limit is no debt."""
    assert a_quota(captured=captured, held=held).remaining == remaining


def test_default_quota_is_five_a_day() -> None:
    """The default rule, the app's own successes included."""
    assert QuotaRule() == QuotaRule(limit=5, window=timedelta(hours=24), count_own_successes=True)
