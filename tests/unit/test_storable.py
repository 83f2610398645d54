"""Outputs that no database can hold are failures of the provider, found before the settle."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, FailureCode, Usage
from ai_retry.domain.policy import storable
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.documents import document
from ai_retry.testing.ai import ScriptedAiProvider
from ai_retry.testing.clock import ManualClock
from tests.helpers.builders import a_settle, an_answer
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.steps import new_generation

NESTED: list[Any] = []
for _ in range(100_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "output",
    [float("nan"), {"a": float("inf")}, "\ud800", {"\x00": 1}, "a\\\x00", {1, 2}, NESTED],
    ids=["nan", "infinity", "surrogate", "nul-name", "nul-after-backslash", "set", "nested"],
)
def test_unstorable_output_is_noticed(output: Any) -> None:
    """What jsonb refuses, or what is not JSON at all, is not storable."""
    assert not storable(output)


@pytest.mark.parametrize("output", [None, "é \\u0000 \\\\u0000", {"a": [1, 2.5, True]}, "\U0001f600"], ids=repr)
def test_storable_output_passes(output: Any) -> None:
    """Every other JSON value is storable, also one that spells an escape out."""
    assert storable(output)


@pytest.mark.parametrize(
    "usage",
    [*(Usage(cost=Decimal(cost)) for cost in ("1e400", "-1e400", "NaN", "sNaN")), Usage(prompt_tokens=10**5_000)],
    ids=["huge", "negative", "nan", "signalling-nan", "tokens"],
)
def test_usage_that_no_number_holds_is_left_out(usage: Usage) -> None:
    """A paid answer is not lost for what its provider says that it cost: the settle is written without the number."""
    change = a_settle()
    assert change.call is not None

    written = document(
        replace(change, end=replace(change.end, answer=an_answer(usage=usage)), call=replace(change.call, usage=usage))
    )

    expected = replace(change, end=replace(change.end, answer=an_answer(usage=Usage())))
    assert written == document(replace(expected, call=replace(change.call, usage=Usage())))


def test_unstorable_answer_fails_the_attempt() -> None:
    """An answer that can't be stored closes the attempt as invalid output: nothing hangs, nothing is charged."""
    world = MemoryWorld()
    user_id, generation_id = new_generation(world)
    ai = ScriptedAiProvider(Answer(output={"text": "\x00"}))

    with pytest.raises(GenerationFailed) as caught:
        retry_generation(user_id, generation_id, storage=world.storage, ai=ai, clock=ManualClock())

    assert caught.value.code == FailureCode.INVALID_OUTPUT
    assert caught.value.retry_after is not None
    (row,) = world.attempts(generation_id)
    assert (row["outcome"], row["captured_at"], row["provider_outcome"]) == ("failed", None, "generated")


@pytest.mark.parametrize("name", ["idempotency_key", "operator"])
@pytest.mark.parametrize("text", ["", "a\x00", "\ud800", "x" * 256], ids=["empty", "nul", "surrogate", "long"])
def test_unprintable_name_is_refused_before_any_read(name: str, text: str) -> None:
    """A key or an operator that could not be recorded is a clear error, and nothing was read."""
    named: dict[str, Any] = {name: text}
    nothing: Any = None

    with pytest.raises(ValueError, match=name):
        retry_generation(
            "6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11",
            "6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11",
            storage=nothing,
            ai=nothing,
            clock=nothing,
            **named,
        )
