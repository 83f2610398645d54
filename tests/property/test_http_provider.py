"""Whatever a provider sends, there is an answer or a failure: never another exception, never late."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure
from ai_retry.providers import validation
from ai_retry.providers.classify import Ending, Reply, classify
from ai_retry.providers.http import HttpAiProvider
from ai_retry.providers.redaction import Redactor
from ai_retry.providers.waits import duration, retry_after
from ai_retry.testing.provider import Request, Script, ScriptedServer, raw

MORE = int(os.environ.get("FUZZ", "1"))  # times as many examples
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "sk-test-0123456789abcdef"
PROMPT = "Plan a week of running for a beginner whose left knee hurts"
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
CONTEXT = Context(messages=[{"role": "user", "content": PROMPT}], model="m", response_schema=SCHEMA)

WORDS = st.sampled_from(
    [
        "error",
        "message",
        "code",
        "type",
        "status",
        "metadata",
        "details",
        "detail",
        "choices",
        "finish_reason",
        "content",
        "refusal",
        "usage",
        "model",
        "id",
        "availability",
        "retryable",
        "retry_after",
        "previous_errors",
        "headers",
        "limit_source",
        "innererror",
        "error_type",
        "loc",
        "msg",
        "text",
        "cost",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "retryDelay",
        "failed_generation",
        "flagged_input",
        "tool_calls",
        "reasoning",
        "object",
        "stop",
        "length",
        "error",
        "content_filter",
        "insufficient_quota",
        "rate_limit_exceeded",
        "native_finish_reason",
        "content_filter_results",
        "filtered",
        "param",
        "quotaId",
        "violations",
        "SAFETY",
        "moonphase",
        "output_text",
        "<think>",
        "</think>",
        "```json",
        "<|im_end|>",
        "Unexpected endpoint or method.",
        "insufficient balance",
        "429",
        "502",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS | st.just(PROMPT)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=25
)
CHOICE = st.fixed_dictionaries(
    {"message": st.fixed_dictionaries({"content": JSON, "refusal": LEAVES})},
    optional={"finish_reason": LEAVES, "error": JSON},
)
ENVELOPE = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE | JSON, max_size=2)}, optional={"error": JSON, "usage": JSON}
)
HEADER_NAMES = (
    "Retry-After",
    "retry-after-ms",
    "Date",
    "Content-Length",
    "Content-Type",
    "Content-Encoding",
    "Transfer-Encoding",
    "Connection",
    "Location",
    "Set-Cookie",
    "X-Request-Id",
    "X-RateLimit-Reset",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-litellm-response-cost",
    "x-should-retry",
)
HEADER_VALUES = (
    st.sampled_from(
        ["chunked", "gzip", "deflate", "br", "0", "-1", "5", "1e9", "close", "utf-16", "http://[", "9" * 400]
    )
    | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12)
    | st.dates().map(str)
)
HEADERS = st.dictionaries(st.sampled_from(HEADER_NAMES), HEADER_VALUES, max_size=5)
STATUS = st.integers(100, 999) | st.sampled_from([200, 400, 402, 403, 404, 413, 429, 500, 503])
BODIES = (
    st.binary(max_size=60)
    | st.sampled_from([b"<html>", b"<!DOCTYPE html>", b"data: {}", b'{"error": "Unexpected endpoint or method."}'])
    | JSON.map(lambda value: json.dumps(value).encode())
    | ENVELOPE.map(lambda value: json.dumps(value).encode())
)


_HANGS = 30.0  # seconds, for a call that is given one
_NOT_REACHED = "the provider could not be reached"


class _Wire:
    """A server that sends whatever ``reply`` is, and a provider that asks it."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.ai = HttpAiProvider(
            clock=SystemClock(), base_url=server.base_url, api_key=KEY, max_requests=1, max_body_bytes=10_000
        )

    def ask(self) -> Answer | Failure:
        try:
            return self.ai.generate(CONTEXT, timeout=timedelta(seconds=1), idempotency_key="k")
        except GenerationFailed as error:
            return error.failure


_sent: list[Script] = [()]


@pytest.fixture(scope="module")
def wire() -> Iterator[_Wire]:
    """One server and one provider for all examples."""

    def play(_: Request) -> Script:
        return _sent[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        with ScriptedServer(default=play) as server:
            wire = _Wire(server)
            with closing(wire.ai):
                yield wire


def _check(outcome: Answer | Failure, wire: _Wire, before: int, started: float) -> None:
    assert time.monotonic() - started < _HANGS
    arrived = len(wire.server.requests) - before  # fewer than were sent when it had just closed the connection
    assert arrived <= outcome.wire_requests <= 1
    assert outcome.wire_requests == 1 or _NOT_REACHED in getattr(outcome, "reason", "")  # on a busy machine
    if isinstance(outcome, Failure):
        assert len(outcome.reason) <= 300
        assert outcome.reason.isprintable()
        assert KEY not in repr(outcome)
        assert PROMPT not in repr(outcome)
        assert outcome.retry_after is None or outcome.transient


@settings(max_examples=150 * MORE, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"HTTP/1.1 ", b"200 OK", b"\r\n", b": "]), max_size=12))
def test_any_bytes_are_answer_or_failure(wire: _Wire, parts: list[bytes]) -> None:
    """Bytes that need not even be HTTP end as a failure, in time."""
    _sent[0] = raw(b"".join(parts))
    before, started = len(wire.server.requests), time.monotonic()

    _check(wire.ask(), wire, before, started)


@settings(max_examples=250 * MORE, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STATUS, HEADERS, BODIES)
def test_any_http_is_answer_or_failure(wire: _Wire, status: int, headers: dict[str, str], body: bytes) -> None:
    """Any status, headers and body, however they contradict each other, end as an answer or a failure, in time."""
    head = f"HTTP/1.1 {status} Scripted\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    _sent[0] = raw(head.encode("latin-1") + b"\r\n" + body)
    before, started = len(wire.server.requests), time.monotonic()

    _check(wire.ask(), wire, before, started)


@settings(max_examples=600 * MORE, deadline=None)
@given(STATUS, HEADERS, BODIES, st.sampled_from(Ending), st.sampled_from([None, SCHEMA, {}]))
def test_any_reply_is_judged(
    status: int, headers: dict[str, str], body: bytes, ending: Ending, schema: dict[str, Any] | None
) -> None:
    """Every reply has a verdict that holds nothing private; a 2xx is certainly free only where no API answered."""
    lower = {name.lower(): value for name, value in headers.items()}
    reply = Reply(status=status, headers=lower, body=body, ending=ending)
    redactor = Redactor(prompt=CONTEXT.messages, secrets=[KEY])

    outcome = classify(reply, schema=schema, now=NOW, redactor=redactor)

    if isinstance(outcome, Answer):
        assert 200 <= status < 300
        assert ending is Ending.WHOLE
        json.dumps(outcome.output, allow_nan=False).encode()
    else:
        assert not (outcome.certainly_not_generated and 200 <= status < 300 and not outcome.operator_fault)
        assert len(outcome.reason) <= 300
        assert outcome.reason.isprintable()
        assert PROMPT not in repr(outcome)


@settings(max_examples=400 * MORE, deadline=None)
@given(JSON)
def test_what_is_parsed_can_be_stored(value: Any) -> None:
    """Content is either refused or read into the value that it writes, free of what PostgreSQL refuses."""
    content = json.dumps(value)
    try:
        parsed = validation.parse(content)
    except validation.InvalidOutput:
        return

    assert parsed == json.loads(content)
    assert "\\u0000" not in json.dumps(parsed)


@settings(max_examples=400 * MORE, deadline=None)
@given(HEADERS, JSON.filter(lambda value: isinstance(value, dict)))
def test_waits_are_sane_or_none(headers: dict[str, str], error: dict[str, Any]) -> None:
    """A wait is never negative, and never longer than a year."""
    wait = retry_after({name.lower(): value for name, value in headers.items()}, error, NOW)

    assert wait is None or timedelta(0) <= wait <= timedelta(days=366)


@given(st.timedeltas(timedelta(0), timedelta(days=300)))
def test_durations_round_trip(wait: timedelta) -> None:
    """A duration written as hours, minutes and seconds is read as what it was."""
    minutes, seconds = divmod(wait.total_seconds(), 60)

    read = duration(f"{int(minutes // 60)}h{int(minutes % 60)}m{seconds:.6f}s")

    assert read is not None
    assert abs(read - wait) < timedelta(milliseconds=1)


@settings(max_examples=300 * MORE, deadline=None)
@given(st.text(max_size=60), st.text(min_size=20, max_size=60), st.text(max_size=60), st.integers(0, 40))
def test_no_quotation_passes(before: str, prompt: str, after: str, start: int) -> None:
    """No twenty characters of a prompt are ever in a cleaned line."""
    redactor = Redactor(prompt=[{"role": "user", "content": prompt}], secrets=[KEY])

    line = redactor.line(before + prompt[start:] + after + KEY, 300)

    assert not any(prompt[at : at + 20] in line for at in range(len(prompt) - 19))
    assert KEY not in line
    assert line.isprintable()
