"""An answer that is not valid under its schema is asked about once more."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Failure, FailureCode, InvalidAnswer, ProviderOutcome, Usage
from ai_retry.providers.reask import ReaskProvider
from ai_retry.testing.ai import AiCall, AiStep, ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from tests.helpers.builders import MESSAGES, SECOND, a_context, a_failure, an_answer

DEADLINE = 15 * SECOND
WRONG = InvalidAnswer(content='{"title": 1}', problems=("/title: type", "/minutes: required"))
INVALID = a_failure(FailureCode.INVALID_OUTPUT, usage=Usage(total_tokens=10, cost=Decimal("0.01")), invalid=WRONG)


def ask(*script: AiStep, reasks: int = 1, clock: ManualClock | None = None) -> tuple[Answer | Failure, list[AiCall]]:
    """Ask; return what came, and the calls that were made."""
    scripted = ScriptedAiProvider(*script)
    ai = ReaskProvider(scripted, reasks=reasks, clock=clock or ManualClock())
    try:
        result: Answer | Failure = ai.generate(a_context(), timeout=DEADLINE, idempotency_key="key")
    except GenerationFailed as failed:
        result = failed.failure
    scripted.assert_finished()
    return result, scripted.calls


def test_conversation_goes_on_with_what_is_wrong() -> None:
    """The model reads its own answer, and the places and rules that it breaks; tokens and cost add up."""
    answer, (first, second) = ask(INVALID, an_answer(usage=Usage(total_tokens=46, cost=Decimal("0.02"))))

    assert isinstance(answer, Answer)
    assert answer.usage == Usage(total_tokens=56, cost=Decimal("0.03"))
    assert (answer.wire_requests, [each.code for each in answer.calls]) == (2, [FailureCode.INVALID_OUTPUT, None])
    assert answer.provider_outcome is ProviderOutcome.GENERATED
    *before, said, demand = second.context.messages
    assert before == list(first.context.messages) == MESSAGES
    assert said == {"role": "assistant", "content": WRONG.content}
    assert demand["role"] == "user"
    assert "- /title: type\n- /minutes: required\n" in demand["content"]
    assert first.idempotency_key == "key" != second.idempotency_key


def test_second_invalid_answer_is_the_end() -> None:
    """One re-ask is one; the failure holds no answer any more."""
    failure, calls = ask(INVALID, INVALID)

    assert isinstance(failure, Failure)
    assert (failure.code, failure.counted, len(calls), failure.wire_requests) == (
        FailureCode.INVALID_OUTPUT,
        True,
        2,
        2,
    )
    assert failure.usage == Usage(total_tokens=20, cost=Decimal("0.02"))
    assert failure.invalid is None


def test_reasks_may_be_turned_off() -> None:
    """Then the provider is asked once."""
    failure, calls = ask(INVALID, reasks=0)

    assert (failure.wire_requests, len(calls)) == (1, 1)
    with pytest.raises(ValueError, match="reasks"):
        ReaskProvider(ScriptedAiProvider(), reasks=-1)


@pytest.mark.parametrize(
    "failure",
    [
        a_failure(FailureCode.INCOMPLETE),
        a_failure(FailureCode.INVALID_OUTPUT),
        a_failure(),
        a_failure(FailureCode.TIMEOUT),
    ],
    ids=["cut off", "nothing to show", "unavailable", "late"],
)
def test_other_failures_are_not_asked_about(failure: Failure) -> None:
    """A cut-off answer would be cut off again."""
    result, calls = ask(failure)

    assert (result, len(calls)) == (failure, 1)


@pytest.mark.parametrize(("seconds", "asked"), [(5, 2), (9.9, 2), (10.1, 1), (14.5, 1)])
def test_too_little_time_is_not_spent(seconds: float, asked: int) -> None:
    """A call that is cut short would turn a failure into an unknown one; it gets half of its time, or none."""
    clock = ManualClock()

    def slow(_: AiCall) -> Any:
        clock.advance(timedelta(seconds=seconds))
        return INVALID

    _, calls = ask(slow, *([an_answer()] * (asked - 1)), clock=clock)

    assert len(calls) == asked
    assert calls[-1].timeout == DEADLINE - timedelta(seconds=seconds) * (asked - 1)


def test_what_is_sent_back_is_bounded() -> None:
    """However long the answer, and however many places are wrong."""
    huge = InvalidAnswer(content="x" * 1_000_000, problems=[f"/{at}: {'y' * 1000}" for at in range(1000)])

    _, (_, second) = ask(a_failure(FailureCode.INVALID_OUTPUT, invalid=huge), an_answer())

    assert sum(len(each["content"]) for each in second.context.messages[-2:]) < 20_000
