"""How the adapter asks, over real sockets: the form of the output, and the deployment's own fields."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, ResponseFormat
from ai_retry.providers.classify import classify
from ai_retry.providers.http import HttpAiProvider
from ai_retry.testing.provider import ScriptedServer, chat, reply

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "description": "a short title of the whole session"}},
    "required": ["title"],
    "additionalProperties": False,
}
CONTEXT = Context(messages=[{"role": "user", "content": "An easy run."}], model="small", response_schema=SCHEMA)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach 127.0.0.1 directly, whatever the machine's proxy settings are."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def provider(server: ScriptedServer, **more: Any) -> Iterator[HttpAiProvider]:
    """A provider that is closed at the end."""
    with closing(HttpAiProvider(clock=SystemClock(), base_url=server.base_url, **more)) as ai:
        yield ai


def ask(*script: Any, context: Context = CONTEXT, **more: Any) -> tuple[Answer | Failure, list[Any]]:
    """Ask a scripted server; return what came of it, and the bodies that arrived."""
    outcome: Answer | Failure
    with ScriptedServer(*script) as server, provider(server, **more) as ai:
        try:
            outcome = ai.generate(context, timeout=timedelta(seconds=5), idempotency_key="g-1")
        except GenerationFailed as error:
            outcome = error.failure
    return outcome, [request.json() for request in server.requests]


@pytest.mark.parametrize("response_format", ResponseFormat)
def test_answer_is_validated_in_every_format(response_format: ResponseFormat) -> None:
    """However the provider was asked, a valid answer is a value, and another is no answer."""
    valid, (body,) = ask(chat({"title": "Easy run"}), response_format=response_format)
    invalid, _ = ask(chat({"name": "Easy run"}), response_format=response_format)

    assert isinstance(valid, Answer)
    assert valid.output == {"title": "Easy run"}
    assert body.get("response_format", {"type": "none"})["type"] == response_format
    assert ("JSON Schema" in body["messages"][0]["content"]) is (response_format == "json_object")
    assert isinstance(invalid, Failure)
    assert invalid.code is FailureCode.INVALID_OUTPUT


def test_schema_outside_subset_is_sent_without_strict() -> None:
    """A provider that checks the subset would refuse it as strict, each time."""
    schema = {"type": "object", "required": ["title"]}

    _, (body,) = ask(chat({"title": "x"}), context=replace(CONTEXT, response_schema=schema))

    assert body["response_format"]["json_schema"] == {"name": "output", "strict": False, "schema": schema}


def test_model_that_answered_is_read_from_answer() -> None:
    """Among the models that the deployment lists, the one that the answer names is recorded."""
    answer, (body,) = ask(chat({"title": "x"}, model="second"), extra_body={"models": ["small", "second"]})

    assert (body["model"], body["models"]) == ("small", ["small", "second"])
    assert answer.model == "second"


def test_fields_of_context_replace_those_of_deployment() -> None:
    """Parameters of the user come first, then the deployment's fields, then the code's."""
    context = replace(CONTEXT, parameters={"max_tokens": 9000, "seed": 1}, extra_body={"temperature": 1})

    _, (body,) = ask(chat({"title": "x"}), context=context, extra_body={"max_tokens": 800, "temperature": 0})

    assert (body["max_tokens"], body["seed"], body["temperature"]) == (800, 1, 1)


def test_reserved_field_is_not_sent() -> None:
    """A context that would replace the prompt fails at once, free of charge, and nothing is sent."""
    outcome, bodies = ask(context=replace(CONTEXT, extra_body={"messages": []}))

    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.operator_fault, outcome.certainly_not_generated) == (FailureCode.REJECTED, True, True)
    assert "extra_body must not hold messages" in outcome.reason
    assert bodies == []


@pytest.mark.parametrize(
    "quoted", ["the key sk-0123456789abcdef is wrong", "unknown: a short title of the whole session"]
)
def test_secrets_and_quoted_schema_reach_no_reason(quoted: str) -> None:
    """A provider that quotes a key of the extra fields, or the schema in the message, does not get it into a log."""
    outcome, _ = ask(
        reply(400, json={"error": {"message": quoted}}),
        response_format=ResponseFormat.JSON_OBJECT,
        extra_body={"provider": {"api_key": "sk-0123456789abcdef"}},
    )

    assert isinstance(outcome, Failure)
    assert "…" in outcome.reason
    assert "0123456789" not in outcome.reason
    assert "whole session" not in outcome.reason


def test_judge_knows_what_deployment_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fields that no user wrote are known where the answer is judged: a complaint about them is the operator's."""
    judged: list[Any] = []

    def watched(*given: Any, **named: Any) -> Answer | Failure:
        judged.append(named)
        return classify(*given, **named)

    monkeypatch.setattr("ai_retry.providers.wire.classify", watched)

    ask(
        chat({"title": "x"}),
        context=replace(CONTEXT, parameters={"seed": 1}, extra_body={"temperature": 1}),
        extra_body={"max_tokens": 800},
    )

    assert judged[0]["added"] == {"response_format", "max_tokens", "temperature"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"response_format": "secret-1"}, "response_format must be json_schema, json_object, none"),
        ({"extra_body": {"stream": "secret-1"}}, r"extra_body must not hold stream \("),
        ({"extra_body": {"model": "secret-1", "messages": []}}, r"extra_body must not hold messages \(.*\), model \("),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], problem: str) -> None:
    """What can never work is refused when the provider is made, without its value."""
    with pytest.raises(ValueError, match=problem) as refused:
        HttpAiProvider(clock=SystemClock(), **arguments)

    assert "secret-1" not in str(refused.value)


def test_repr_shows_no_extra_field() -> None:
    """Extra fields may hold keys."""
    ai = HttpAiProvider(clock=SystemClock(), extra_body={"api_key": "sk-0123456789"})

    assert "sk-" not in repr(ai)
