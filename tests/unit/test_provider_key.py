"""The idempotency key that goes to the provider names one question for as long as its outcome is unknown."""

from dataclasses import replace
from typing import Any

import pytest

from ai_retry.domain.model import Outcome, ProviderOutcome
from ai_retry.domain.policy import provider_key
from tests.helpers.builders import a_context, a_generation, a_snapshot, an_attempt

KNOWN, UNKNOWN = ProviderOutcome.GENERATED, ProviderOutcome.UNKNOWN


def key_after(*outcomes: ProviderOutcome, **context: Any) -> str:
    """Give the key of the attempt after those with these outcomes."""
    attempts = tuple(
        an_attempt(number, provider_outcome=outcome, outcome=Outcome.ABANDONED)
        for number, outcome in enumerate(outcomes, start=2)
    )
    return provider_key(a_snapshot(attempts=attempts), replace(a_context(), **context))


@pytest.mark.parametrize("again", [(UNKNOWN,), (UNKNOWN, UNKNOWN)], ids=len)
def test_key_stays_while_outcome_is_unknown(again: tuple[ProviderOutcome, ...]) -> None:
    """As long as it is unknown what came of the question, it is asked under the same name."""
    assert key_after(*again) == key_after()
    assert key_after(KNOWN, *again) == key_after(KNOWN)


@pytest.mark.parametrize("known", [ProviderOutcome.GENERATED, ProviderOutcome.NOT_GENERATED])
def test_key_changes_with_known_outcome(known: ProviderOutcome) -> None:
    """Once the outcome is known, a provider must not give back the old failure: the name is a new one."""
    assert len({key_after(), key_after(known), key_after(known, known)}) == 3
    assert key_after(UNKNOWN, known) == key_after(known, known)


def test_key_stays_when_a_queued_attempt_was_taken_back() -> None:
    """It asked nothing: what came of the question before it is as unknown as it was."""
    asked = an_attempt(2, provider_outcome=UNKNOWN, outcome=Outcome.ABANDONED)
    taken_back = an_attempt(
        3, provider_outcome=ProviderOutcome.NOT_GENERATED, outcome=Outcome.CANCELLED, lease_expires_at=None
    )

    assert provider_key(a_snapshot(attempts=(asked, taken_back)), a_context()) == key_after(UNKNOWN) == key_after()


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": [{"role": "user", "content": "Something else."}]},
        {"model": "other"},
        {"parameters": {"temperature": 1}},
        {"response_schema": {"type": "object"}},
        {"extra_body": {"max_tokens": 5}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_key_changes_with_context(changed: dict[str, Any]) -> None:
    """Another question has another name."""
    assert key_after(**changed) != key_after()


@pytest.mark.parametrize("route", ["one/small", "two/large", None])
def test_key_is_of_one_route(route: str | None) -> None:
    """What came of the call to one model may be known while that to another is not: only that one keeps its name."""
    attempt = an_attempt(2, provider_outcome=UNKNOWN, in_doubt=["one/small", None])

    key = provider_key(a_snapshot(attempts=(attempt,)), a_context(), route)

    assert (key == key_after()) is (route != "two/large")
    assert (key == key_after(KNOWN)) is (route == "two/large")


def test_key_changes_with_generation() -> None:
    """Two generations that ask the same are two questions."""
    other = a_snapshot(generation=a_generation(id=a_generation().user_id))

    assert provider_key(other, a_context()) != key_after()


def test_key_takes_what_is_no_json() -> None:
    """A context of an app's own that is no JSON has a name, too: finding it must not end an attempt that is open."""
    assert key_after(parameters={"at": object}) != key_after()
