"""A function is judged as HTTP is: what it returns, and what the exceptions of SDKs carry."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure
from ai_retry.providers.classify import Reply, classify
from ai_retry.providers.function import FunctionProvider
from ai_retry.providers.redaction import Redactor
from tests.property.test_answers import MORE, NOW, PROMPT, SCHEMA, Wrapped, wrapped_json, wrapped_text
from tests.property.test_http_provider import JSON, WORDS

CONTEXT = Context(messages=[{"role": "user", "content": PROMPT}], model="small", extra_body={"top_k": 5})
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "retry-after-ms", "x-should-retry", "Content-Type"]),
    st.sampled_from(["1", "7.5", "true", "false", "text/html", "application/xml", "soon"]),
    max_size=3,
)
BODIES = st.dictionaries(WORDS, JSON, max_size=5).map(lambda error: {"error": error}) | st.dictionaries(
    WORDS, JSON, min_size=1, max_size=5
)


class Response:
    """What SDKs keep of an answer."""

    def __init__(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.status_code, self.headers, self.content = status, headers, content


class StatusError(Exception):
    """An exception with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(PROMPT)
        self.response = response


def ask(returned: Any = None, *, error: Exception | None = None, schema: Any = None) -> Answer | Failure:
    """Ask a function that returns, or raises."""

    def function(_: Context, __: float) -> Any:
        if error is not None:
            raise error
        return returned

    context = replace(CONTEXT, response_schema=schema)
    try:
        return FunctionProvider(function).generate(context, timeout=timedelta(seconds=30), idempotency_key="k")
    except GenerationFailed as failed:
        return failed.failure


@settings(max_examples=150 * MORE, deadline=None)
@given(wrapped_json() | wrapped_text(), st.booleans())
def test_function_answers_only_what_is_whole(wrapped: Wrapped, schema: bool) -> None:
    """What is returned becomes an answer if it is whole and valid, and else never."""
    outcome = ask(wrapped.content, schema=SCHEMA if schema else None)

    if schema and isinstance(wrapped.output, dict):
        assert isinstance(outcome, Answer)
        assert outcome.output == wrapped.output
    if not schema and isinstance(wrapped.output, str):
        assert isinstance(outcome, Answer)
        assert outcome.output == wrapped.output
    if schema and not isinstance(wrapped.output, dict):
        assert isinstance(outcome, Failure)
        assert (outcome.counted, outcome.transient) == (True, True)
    if isinstance(outcome, Answer) and not schema:
        assert isinstance(outcome.output, str)
        assert outcome.output.strip()


@settings(max_examples=300 * MORE, deadline=None)
@given(st.integers(300, 599) | st.sampled_from([400, 403, 429, 503]), HEADERS, st.binary(max_size=40) | BODIES)
def test_exception_means_what_its_answer_means(status: int, headers: dict[str, str], body: Any) -> None:
    """The same status, headers and body lead to the same failure, with or without an SDK between."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lower = {name.lower(): value for name, value in headers.items()}
    redactor = Redactor(prompt=CONTEXT.messages, secrets=[])

    direct = classify(
        Reply(status=status, headers=lower, body=content), schema=None, now=NOW, redactor=redactor, added=["top_k"]
    )
    wrapped = ask(error=StatusError(Response(status, headers, content)))

    assert isinstance(direct, Failure)
    assert isinstance(wrapped, Failure)
    for name in (
        "code",
        "transient",
        "certainly_not_generated",
        "operator_fault",
        "overloaded",
        "refused",
        "retry_after",
    ):
        assert getattr(direct, name) == getattr(wrapped, name), name
    assert PROMPT not in repr(wrapped)
