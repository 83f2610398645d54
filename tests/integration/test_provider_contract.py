"""The contract of providers: ours keep it, and adapters that break it are found."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure
from ai_retry.domain.ports import AiProvider
from ai_retry.providers.fallback import FallbackProvider
from ai_retry.providers.http import HttpAiProvider
from ai_retry.providers.reask import ReaskProvider
from ai_retry.testing import provider_contract

KEY = "sk-contract-0123456789"


def http(base_url: str) -> HttpAiProvider:
    """Build ours."""
    return HttpAiProvider(base_url=base_url, api_key=KEY, clock=SystemClock(), max_requests=1)


OURS: dict[str, Callable[[str], AiProvider]] = {
    "http": http,
    "reask": lambda base_url: ReaskProvider(http(base_url)),
    "fallback": lambda base_url: FallbackProvider(
        [ReaskProvider(http(base_url)), http(base_url)], fallback_on={"timeout", "refusal"}
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_ours_keep_the_contract(name: str) -> None:
    """Whatever comes over the wire, within the deadline, and without a word of the prompt."""
    provider_contract(OURS[name], secrets=[KEY])


class Broken:
    """An adapter that keeps one promise less than ours."""

    def __init__(self, how: str, base_url: str) -> None:
        self._how, self._ai = how, http(base_url)

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Ask, and spoil it."""
        try:
            if self._how == "late":
                timeout += timedelta(seconds=60)
            return self._ai.generate(context, timeout=timeout, idempotency_key=idempotency_key)
        except GenerationFailed as failed:
            if self._how == "raises":
                raise RuntimeError("the SDK's own error") from None
            raise GenerationFailed(self._spoilt(failed.failure, context)) from None

    def _spoilt(self, failure: Failure, context: Context) -> Failure:
        fields: dict[str, Any] = {"code": failure.code, "transient": True, "reason": failure.reason}
        if self._how == "leaks":
            fields["reason"] = str(context.messages)
        return Failure(**fields, certainly_not_generated=self._how == "sure" or failure.certainly_not_generated)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "status 500: it raised RuntimeError, where GenerationFailed was due"),
        ("leaks", "status 429: its failure holds a prompt or a secret"),
        ("sure", "silence: it says that certainly nothing was generated"),
        ("late", "silence: it does not end in time"),
    ],
)
def test_broken_adapter_is_found(how: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every broken promise is listed with the case that shows it."""
    monkeypatch.setattr("ai_retry.testing.contract._PATIENCE", 2.0 if how == "late" else 20.0)

    with pytest.raises(AssertionError) as caught:
        provider_contract(lambda base_url: Broken(how, base_url))

    assert says in str(caught.value)


def test_answer_that_is_none_is_found() -> None:
    """An adapter that answers whatever comes, or another output, breaks the contract."""

    class Inventive:
        def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
            return Answer(output={"title": "invented"})

    with pytest.raises(AssertionError, match="an answer: its output is another one") as caught:
        provider_contract(lambda _: Inventive())

    assert "an answer that is not valid: it answered, where GenerationFailed was due" in str(caught.value)
