"""A provider over HTTP lists every request of a call, also those that were repeated, or that found no connection."""

from datetime import timedelta

import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import FailureCode, ProviderOutcome
from ai_retry.providers.http import HttpAiProvider
from ai_retry.testing.provider import ScriptedServer, chat, reply
from tests.helpers.builders import a_context

TIMEOUT = timedelta(seconds=20)
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "minutes": {"type": "integer"}, "km": {"type": "number"}},
    "required": ["title", "minutes", "km"],
}


def test_repeats_of_a_request_are_listed() -> None:
    """With its status and the model that answered."""
    busy = reply(429, json={"error": {"message": "slow down"}}, headers={"Retry-After": "0"})
    with ScriptedServer(busy, chat("easy", model="small-1")) as server:
        ai = HttpAiProvider(base_url=server.base_url, clock=SystemClock())
        answer = ai.generate(a_context(), timeout=TIMEOUT, idempotency_key="key")

    assert [(each.provider, each.model, each.code, each.http_status) for each in answer.calls] == [
        (ai.name, "small", FailureCode.RATE_LIMITED, 429),
        (ai.name, "small-1", None, 200),
    ]
    assert answer.wire_requests == 2
    assert answer.provider_outcome is ProviderOutcome.GENERATED


def test_request_without_a_connection_is_listed() -> None:
    """It was not sent, and has no status."""
    with ScriptedServer() as gone:
        ai = HttpAiProvider(base_url=gone.base_url, clock=SystemClock(), max_requests=1)

    with pytest.raises(GenerationFailed) as caught:
        ai.generate(a_context(), timeout=TIMEOUT, idempotency_key="key")

    failure = caught.value.failure
    assert [(each.code, each.http_status) for each in failure.calls] == [(FailureCode.UNAVAILABLE, None)]
    assert (failure.wire_requests, failure.provider_outcome) == (0, ProviderOutcome.NOT_GENERATED)


def test_invalid_answer_says_what_is_wrong_with_it() -> None:
    """Every place and rule, for whoever asks again; the answer is in no text of the failure."""
    secret = "an answer that no text may hold"
    with ScriptedServer(chat({"title": 1, "note": secret})) as server:
        ai = HttpAiProvider(base_url=server.base_url, clock=SystemClock())
        with pytest.raises(GenerationFailed) as caught:
            ai.generate(a_context(response_schema=SCHEMA), timeout=TIMEOUT, idempotency_key="key")

    failure = caught.value.failure
    assert failure.invalid is not None
    assert set(failure.invalid.problems) == {"/title: type", "/minutes: required", "/km: required"}
    assert secret in failure.invalid.content
    assert secret not in f"{failure!r} {caught.value}"
