"""The HTTP provider against real sockets: every known signal, and one deadline for everything."""

import gzip
import json
import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ai_retry import deadline
from ai_retry.clock import SystemClock
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, Usage
from ai_retry.providers.http import HttpAiProvider
from ai_retry.testing.clock import ManualClock
from ai_retry.testing.provider import (
    Request,
    Script,
    ScriptedServer,
    chat,
    close,
    drip,
    pause,
    raw,
    reply,
    reset,
    stall,
)

KEY = "sk-test-0123456789abcdef"
PROMPT = "Plan a week of running for a beginner whose left knee hurts"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}
CONTEXT = Context(messages=[{"role": "user", "content": PROMPT}], model="small", response_schema=SCHEMA)
VALID = json.dumps({"choices": [{"message": {"content": '{"title": "Intervals"}'}, "finish_reason": "stop"}]}).encode()
HTML = "<html><head><title>Sorry</title></head></html>"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach 127.0.0.1 directly, whatever the machine's proxy settings are."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def provider(base_url: str, **more: Any) -> Iterator[HttpAiProvider]:
    """A provider that is closed at the end."""
    ai = HttpAiProvider(**{"clock": SystemClock(), "base_url": base_url, "api_key": KEY, **more})
    with closing(ai):
        yield ai


def ask(ai: HttpAiProvider, context: Context = CONTEXT, *, seconds: float = 5.0) -> Answer | Failure:
    """Call, and return the failure instead of raising it."""
    try:
        return ai.generate(context, timeout=timedelta(seconds=seconds), idempotency_key="g-1")
    except GenerationFailed as error:
        caught = error
    assert caught.__cause__ is None
    assert caught.__context__ is None
    return caught.failure


def ask_scripted(*script: Any, seconds: float = 5.0, context: Context = CONTEXT, **more: Any) -> Answer | Failure:
    """Ask a scripted server; every request on the wire must be counted."""
    with ScriptedServer(*script) as server, provider(server.base_url, **more) as ai:
        outcome = ask(ai, context, seconds=seconds)
        assert outcome.wire_requests == len(server.requests)
    return outcome


@dataclass(frozen=True)
class Expected:
    """What a failure must say; ``free`` None: not asserted."""

    code: FailureCode
    free: bool | None
    transient: bool
    retry_after: float | None = None
    says: str = ""
    id: str | None = None
    tokens: int | None = None


def _error(status: int, headers: Mapping[str, str] | None = None, **members: Any) -> Script:
    return reply(status, json={"error": {"message": "Not today", **members}}, headers=headers)


def _head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *headers, "", ""]).encode()


def _body(**members: Any) -> Script:
    return reply(json=members)


def _dated(offset: timedelta) -> Script:
    now = datetime.now(UTC) + offset
    later = format_datetime(now + timedelta(seconds=30), usegmt=True)
    return reply(503, body=HTML, headers={"Date": format_datetime(now, usegmt=True), "Retry-After": later})


ZIPPED = gzip.compress(VALID)
TIMEOUT, RATE_LIMITED, UNAVAILABLE = FailureCode.TIMEOUT, FailureCode.RATE_LIMITED, FailureCode.UNAVAILABLE
REJECTED, INVALID, INCOMPLETE = FailureCode.REJECTED, FailureCode.INVALID_OUTPUT, FailureCode.INCOMPLETE
MONEY = (
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "insufficient_quota",
)
rejected = Expected(REJECTED, free=True, transient=False)
invalid = Expected(INVALID, free=False, transient=True, tokens=18)

SCENARIOS: dict[str, tuple[Callable[[], Script] | Script, Expected]] = {
    "01 pace": (
        _error(429, {"Retry-After": "7", "x-request-id": "req-7"}, code="rate_limit_exceeded"),
        Expected(RATE_LIMITED, True, True, 7.0, says="rate_limit_exceeded): Not today", id="req-7"),
    ),
    "02 milliseconds first": (
        _error(429, {"Retry-After": "1", "retry-after-ms": "250"}),
        Expected(RATE_LIMITED, True, True, 0.25),
    ),
    **{
        f"03 money {word}": (_error(429, {"Retry-After": "1"}, type="insufficient_quota", code=word), rejected)
        for word in MONEY
    },
    "04 key, object": (_error(401, code="invalid_api_key"), rejected),
    "04 key, detail": (
        reply(401, json={"detail": "Unauthorized"}),
        Expected(REJECTED, True, False, says=": Unauthorized"),
    ),
    "04 key, empty": (reply(401), rejected),
    "05 moderation at the router": (
        _error(403, code=403, metadata={"reasons": ["x"], "flagged_input": "x", "provider_name": "p"}),
        rejected,
    ),
    "06 no model, Ollama": (_error(404, type="not_found_error", param=None, code=None), rejected),
    "06 no model, Azure": (reply(404, json={"error": {"code": "DeploymentNotFound", "message": "None"}}), rejected),
    "07 too long, OpenAI": (_error(400, code="context_length_exceeded", param="messages"), rejected),
    "07 too long, llama.cpp": (
        _error(400, code=400, type="exceed_context_size_error", n_prompt_tokens=9000, n_ctx=4096),
        rejected,
    ),
    "08 moderation, Azure": (
        _error(
            400,
            code="content_filter",
            type=None,
            innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
        ),
        Expected(REJECTED, False, False),
    ),
    "08 moderation, OpenAI": (
        _error(400, type="invalid_request_error", code="invalid_prompt"),
        Expected(REJECTED, False, False),
    ),
    "09 too large a body": (reply(413, body=HTML), rejected),
    "10 field missing": (
        reply(422, json={"detail": [{"loc": ["body", "messages"], "msg": "Field is missing", "type": "missing"}]}),
        Expected(REJECTED, True, False, says="body.messages"),
    ),
    "11 no credit": (_error(402, type="unknown_error", code="invalid_request_error"), rejected),
    "12 vLLM fault": (_error(500, type="InternalServerError", code=500), Expected(UNAVAILABLE, False, True)),
    "13 bad gateway": (reply(502, body=HTML), Expected(UNAVAILABLE, False, True)),
    "13 Cloudflare 520": (reply(520, body=HTML, headers={"CF-RAY": "r1"}), Expected(UNAVAILABLE, False, True, id="r1")),
    "13 Cloudflare 521": (reply(521, body=HTML), Expected(UNAVAILABLE, True, True)),
    "14 loading": (
        reply(503, json={"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
        Expected(UNAVAILABLE, True, True),
    ),
    "14 queue full": (
        reply(503, json={"error": {"message": "server busy. maximum pending requests exceeded", "type": "api_error"}}),
        Expected(UNAVAILABLE, True, True),
    ),
    "15 date": (lambda: _dated(timedelta(0)), Expected(UNAVAILABLE, False, True, 30.0)),
    "15 date, other clock": (lambda: _dated(timedelta(hours=1)), Expected(UNAVAILABLE, False, True, 30.0)),
    **{f"16 time out {status}": (_error(status), Expected(TIMEOUT, False, True)) for status in (504, 524, 408)},
    "17 overloaded": (
        reply(529, json={"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}, "request_id": "r"}),
        Expected(UNAVAILABLE, None, True, id="r"),
    ),
    "20 closed": (close(), Expected(UNAVAILABLE, False, True)),
    "20 reset": (reset(), Expected(UNAVAILABLE, False, True)),
    "20 garbage": (raw(b"SSH-2.0-OpenSSH\r\n\r\n"), Expected(UNAVAILABLE, False, True)),
    "21 cut by length": (
        raw(_head(f"Content-Length: {len(VALID) + 50}"), VALID),
        Expected(INCOMPLETE, False, True),
    ),
    "21 cut by chunks": (
        raw(_head("Transfer-Encoding: chunked"), b"%x\r\n%s\r\n" % (len(VALID), VALID)),
        Expected(INCOMPLETE, False, True),
    ),
    "21 cut, close-delimited": (raw(_head(), VALID[:40]), Expected(INCOMPLETE, False, True)),
    "21 cut gzip": (
        raw(_head("Content-Encoding: gzip", f"Content-Length: {len(ZIPPED) - 20}"), ZIPPED[:-20]),
        Expected(INCOMPLETE, False, True),
    ),
    "21 reset in the body": (
        raw(_head("Content-Length: 900"), VALID, pause(0.05), reset()),
        Expected(INCOMPLETE, False, True),
    ),
    "21 no gzip at all": (
        raw(_head("Content-Encoding: gzip", f"Content-Length: {len(VALID)}"), VALID),
        Expected(INCOMPLETE, False, True),
    ),
    "22 429 inside": (
        _body(id=None, choices=None, error={"code": 429, "message": "Busy"}),
        Expected(RATE_LIMITED, False, True),
    ),
    "22 502 inside": (_body(error={"code": 502, "message": "Down"}), Expected(UNAVAILABLE, False, True)),
    "23 refusal": (
        chat(None, message={"refusal": "I would rather not"}),
        Expected(REJECTED, False, False, tokens=18),
    ),
    "23 content filter": (
        chat(None, finish_reason="content_filter"),
        Expected(REJECTED, False, False, tokens=18),
    ),
    "24 length": (
        chat('{"title": "Interv', finish_reason="length"),
        Expected(INCOMPLETE, False, False, tokens=18),
    ),
    "25 no choices": (_body(choices=[]), Expected(INVALID, False, True)),
    "25 reasoning only": (chat(None, message={"reasoning_content": '{"title": "x"}'}), invalid),
    "25 tool calls only": (chat(None, message={"tool_calls": [{"id": "1"}]}, finish_reason="tool_calls"), invalid),
    "25 blank": (chat(" \n \n"), invalid),
    "26 wrong type": (chat({"title": 5}), Expected(INVALID, False, True, says="/title: type", tokens=18)),
    "26 NaN": (chat('{"title": NaN}'), invalid),
    "26 two objects": (chat('{"title": "x"} {"title": "y"}'), invalid),
    "26 prose": (chat('Here it is: {"title": "x"}'), invalid),
    "26 trailing comma": (chat('{"title": "x",}'), invalid),
    "26 an array": (chat([{"title": "x"}]), invalid),
    "26 over the cap": (reply(body=b'{"a": "' + b"x" * 3_000_000 + b'"}'), Expected(INVALID, False, True)),
    "27 log-in page": (reply(body=HTML, headers={"Content-Type": "text/html"}), rejected),
    "27 redirect": (reply(302, body=HTML, headers={"Location": "/login"}), rejected),
    "27 redirect by 307": (reply(307, headers={"Location": "\xe9\xff://["}), rejected),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_is_judged_as_specified(name: str) -> None:
    """Each known signal has its kind, flags, wait and id, after exactly one request, and shows nothing private."""
    script, expected = SCENARIOS[name]

    found = ask_scripted(script() if callable(script) else script, max_requests=1, max_body_bytes=2_000_000)

    assert isinstance(found, Failure)
    assert (found.code, found.transient) == (expected.code, expected.transient)
    assert expected.free is None or found.certainly_not_generated is expected.free
    asked = found.retry_after and found.retry_after.total_seconds()
    assert asked == (expected.retry_after if expected.retry_after != 30.0 else pytest.approx(30.0, abs=2.0))
    assert expected.says in found.reason
    assert found.provider_id == (expected.id or ("chatcmpl-scripted" if expected.tokens else None))
    assert (found.usage and found.usage.total_tokens) == expected.tokens
    assert found.wire_requests == 1
    assert KEY not in repr(found)
    assert PROMPT[:20] not in repr(found)


@pytest.mark.parametrize(
    "script",
    [
        raw(_head(), b"\n" * 300, VALID),
        raw(_head("Content-Type: application/json; charset=utf-8"), b"\xef\xbb\xbf" + VALID),
        reply(body=VALID, headers={"Content-Type": "text/plain"}),
        chat({"title": "Intervals"}, finish_reason=None),
        chat({"title": "Intervals"}, finish_reason="eos"),
        reply(json={"choices": [{"message": {"content": '{"title": "Intervals"}'}}], "error": None, "x": {"y": 1}}),
        chat({"title": "Intervals"}, usage={}),
        chat({"title": "Intervals"}, usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        raw(_head("Content-Encoding: gzip", f"Content-Length: {len(ZIPPED)}"), ZIPPED),
        raw(_head("Transfer-Encoding: chunked"), b"%x\r\n%s\r\n0\r\n\r\n" % (len(VALID), VALID)),
        raw(_head(f"Content-Length: {len(VALID)}"), VALID, stall()),
        raw(drip(_head(f"Content-Length: {len(VALID)}"), 0.001), VALID),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n", _head(f"Content-Length: {len(VALID)}"), VALID),
        reply(201, body=VALID),
    ],
)
def test_oddities_are_no_failures(script: Script) -> None:
    """An answer that is complete and valid counts, however odd its wrapping is (scenario 28)."""
    answer = ask_scripted(script)

    assert isinstance(answer, Answer)
    assert answer.output == {"title": "Intervals"}
    assert answer.wire_requests == 1


def test_text_arrives_intact_whatever_its_label() -> None:
    """UTF-8 that is labelled as something else keeps its letters."""
    script = raw(_head().replace(b"application/json", b"text/plain"), VALID.replace(b"Intervals", "été".encode()))

    answer = ask_scripted(script)

    assert isinstance(answer, Answer)
    assert answer.output == {"title": "été"}


def test_the_request_is_what_was_asked_for() -> None:
    """The body, the key, the idempotency key, the extra headers and the query arrive as configured."""
    context = Context(messages=CONTEXT.messages, model=None, parameters={"temperature": 0}, response_schema=SCHEMA)
    with (
        ScriptedServer(chat({"title": "x"})) as server,
        provider(server.base_url + "/", model="tiny", headers={"X-Title": "App"}, query={"api-version": "1 2"}) as ai,
    ):
        answer = ask(ai, context)

    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions?api-version=1+2")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["idempotency-key"] == "g-1"
    assert request.headers["x-title"] == "App"
    assert request.headers["content-type"] == "application/json"
    assert request.json() == {
        "model": "tiny",
        "messages": CONTEXT.messages,
        "temperature": 0,
        "stream": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "strict": True, "schema": SCHEMA},
        },
    }
    assert answer == Answer(
        output={"title": "x"},
        model="scripted-model",
        usage=Usage(prompt_tokens=11, completion_tokens=7, total_tokens=18),
        provider_id="chatcmpl-scripted",
        wire_requests=1,
    )


def test_without_a_schema_the_content_is_the_output() -> None:
    """A context without a schema is asked plainly, and its output is the content as a string."""
    context = Context(messages=CONTEXT.messages, model="small")
    with ScriptedServer(chat("Run!")) as server, provider(server.base_url) as ai:
        answer = ask(ai, context)

    assert isinstance(answer, Answer)
    assert answer.output == "Run!"
    assert "response_format" not in server.requests[0].json()


def test_azure_is_reached_by_configuration() -> None:
    """With another header for the key, the key is sent there, bare, and nowhere else."""
    with ScriptedServer(chat({"title": "x"})) as server, provider(server.base_url, auth_header="api-key") as ai:
        ask(ai)

    assert server.requests[0].headers["api-key"] == KEY
    assert "authorization" not in server.requests[0].headers


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A netrc file that knows the host adds no credentials, with a key and without one."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alien password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    with ScriptedServer(chat({"title": "x"}), chat({"title": "x"})) as server:
        with provider(server.base_url, api_key=None) as ai:
            ask(ai)
        with provider(server.base_url) as ai:
            ask(ai)

    assert "authorization" not in server.requests[0].headers
    assert server.requests[1].headers["authorization"] == f"Bearer {KEY}"


# What can't be sent, and what never arrives.


@pytest.mark.parametrize(
    ("context", "says"),
    [
        (Context(messages=CONTEXT.messages, model=None), "model"),
        (Context(messages=CONTEXT.messages, model="m", response_schema={"type": "text"}), "/type is not valid"),
        (Context(messages=CONTEXT.messages, model="m", response_schema={"$ref": "http://x.example"}), "leads to no"),
        (Context(messages=[{"role": "user", "content": object()}], model="m"), "TypeError"),
        (Context(messages=CONTEXT.messages, model="m", parameters={"seed": float("nan")}), "ValueError"),
    ],
)
def test_what_cannot_be_asked_is_not_sent(context: Context, says: str) -> None:
    """A request that can't be made fails at once, free of charge, as the operator's."""
    found = ask_scripted(context=context)

    assert isinstance(found, Failure)
    assert (found.code, found.certainly_not_generated, found.transient) == (REJECTED, True, False)
    assert found.operator_fault
    assert found.wire_requests == 0
    assert says in found.reason


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "ftp://127.0.0.1/v1"},
        {"base_url": "127.0.0.1:80"},
        {"base_url": "http://"},
        {"base_url": "http://[::1"},
        {"base_url": "http://127.0.0.1:99999/"},
        {"base_url": f"http://user:{KEY}@127.0.0.1/v1"},
        {"base_url": "http://127.0.0.1/v1?a=b"},
        {"api_key": f"{KEY}\n"},
        {"api_key": f"{KEY}✓"},
        {"headers": {"X-Title": "a\r\nb"}},
        {"headers": {"X Title": "a"}},
        {"max_requests": 0},
        {"max_body_bytes": 0},
    ],
)
def test_wrong_configuration_is_named_at_once(arguments: dict[str, Any]) -> None:
    """An argument that can never work is a ValueError when the provider is made, and does not show the key."""
    with pytest.raises(ValueError, match=r"must|can't") as caught:
        HttpAiProvider(clock=SystemClock(), **arguments)

    assert KEY not in str(caught.value)


def test_repr_shows_address_and_model_only() -> None:
    """No key, header or query is in the repr."""
    ai = HttpAiProvider(clock=SystemClock(), api_key=KEY, model="m", headers={"api-key": KEY}, query={"key": KEY})

    assert repr(ai) == "HttpAiProvider(base_url='https://openrouter.ai/api/v1', model='m')"


def test_a_closed_port_is_tried_again_and_free() -> None:
    """A refused connection is unavailable, certainly free, and no request on the wire however often it was tried."""
    clock = ManualClock()
    with provider(f"http://127.0.0.1:{_free_port()}/v1", clock=clock) as ai:
        found = ask(ai, seconds=60)

    assert isinstance(found, Failure)
    assert (found.code, found.certainly_not_generated, found.transient) == (UNAVAILABLE, True, True)
    assert found.wire_requests == 0
    assert len(clock.sleeps) == 2
    assert "ConnectionRefusedError" in found.reason


def test_an_unknown_name_is_unavailable_and_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that can't be resolved is unavailable and certainly free."""
    monkeypatch.setattr(socket, "getaddrinfo", _unknown_name)
    with provider("http://provider.invalid/v1", max_requests=1) as ai:
        found = ask(ai)

    assert isinstance(found, Failure)
    assert (found.code, found.certainly_not_generated, found.transient) == (UNAVAILABLE, True, True)
    assert found.wire_requests == 0


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several addresses of a name, the first that answers is used."""
    with ScriptedServer(chat({"title": "x"})) as server:
        tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [(*tcp, ("127.0.0.1", _free_port())), (*tcp, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, flags=0, **__: _unknown_name() if flags else found)
        with provider("http://provider.example/v1") as ai:
            answer = ask(ai)

    assert isinstance(answer, Answer)


# Repeats within a call.


def test_pace_is_waited_for_within_the_call() -> None:
    """A 429 is repeated after its wait, with the same bytes, and every request is counted."""
    clock = ManualClock()
    with (
        ScriptedServer(_error(429, {"Retry-After": "2"}), _error(429), chat({"title": "x"})) as server,
        provider(server.base_url, clock=clock) as ai,
    ):
        answer = ask(ai, seconds=15)

    assert isinstance(answer, Answer)
    assert answer.wire_requests == 3
    assert len({request.body for request in server.requests}) == 1
    assert 2.0 <= clock.sleeps[0] <= 2.5
    assert 0.0 <= clock.sleeps[1] <= 1.0


def test_three_requests_are_the_most() -> None:
    """A provider that keeps turning us away is asked three times in a call, and the last word is handed up."""
    clock = ManualClock()
    with (
        ScriptedServer(default=_error(429, {"Retry-After": "1"})) as server,
        provider(server.base_url, clock=clock) as ai,
    ):
        found = ask(ai, seconds=60)

    assert isinstance(found, Failure)
    assert found.wire_requests == len(server.requests) == 3
    assert found.retry_after == timedelta(seconds=1)


@pytest.mark.parametrize(
    "script",
    [
        _error(429, {"Retry-After": "8"}),
        _error(500),
        _error(503, {"Retry-After": "0"}),
        _error(401),
        close(),
        reset(),
        chat("prose"),
        chat("{", finish_reason="length"),
        _body(error={"code": 429}),
    ],
)
def test_nothing_else_is_repeated(script: Script) -> None:
    """Long waits, permanent errors and whatever may have generated end the call after one request."""
    clock = ManualClock()

    found = ask_scripted(script, seconds=15, clock=clock)

    assert isinstance(found, Failure)
    assert found.wire_requests == 1
    assert clock.sleeps == []


def test_a_repeat_that_ends_otherwise_is_answered_so() -> None:
    """After a free 429 the second request's end counts: here it is unknown whether it generated."""
    found = ask_scripted(_error(429), close(), clock=ManualClock())

    assert isinstance(found, Failure)
    assert (found.code, found.certainly_not_generated, found.wire_requests) == (UNAVAILABLE, False, 2)


# One deadline.


@contextmanager
def _deaf() -> Iterator[int]:
    """A port whose queue of connections is full, so that another one is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
        for filler in fillers:
            filler.close()


HEAD = _head("Content-Length: 500")
SLOW: dict[str, tuple[Script, FailureCode]] = {
    "silent": (stall(), TIMEOUT),
    "dripping headers": (drip(HEAD * 3, 0.02), TIMEOUT),
    "dripping status line": (drip(b"HTTP/1.1 200 " + b"O" * 200, 0.02), TIMEOUT),
    "dripping body": (raw(HEAD, drip(b" " * 400, 0.02)), TIMEOUT),
    "dripping chunks": (raw(_head("Transfer-Encoding: chunked"), drip(b"1\r\n \r\n" * 80, 0.02)), TIMEOUT),
    "stalled after the headers": (raw(HEAD, stall()), TIMEOUT),
    "never closing": (raw(_head(), VALID, stall()), TIMEOUT),
    "endless 100 Continue": (raw(*(raw(b"HTTP/1.1 100 Continue\r\n\r\n", pause(0.02)) * 100), stall()), TIMEOUT),
    "dripping error": (raw(_head("Content-Length: 500", status="500 No"), drip(b" " * 400, 0.02)), UNAVAILABLE),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_slow_answers_end_in_time(name: str, tls: bool, certificate: Path) -> None:
    """However slowly a provider answers, the call ends at its deadline, with its socket closed and no thread left."""
    script, code = SLOW[name]
    context = _server_context(certificate) if tls else None
    before = set(threading.enumerate())
    with ScriptedServer(script, ssl_context=context) as server, _trusting(server.base_url, certificate) as ai:
        with _measured(name, 0.4):
            found = ask(ai, seconds=0.4)
        _until(lambda: len(set(threading.enumerate()) - before) == 1)  # the accepting one: our socket is closed

    assert isinstance(found, Failure)
    assert (found.code, found.certainly_not_generated, found.wire_requests) == (code, False, 1)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("name", ["unanswered connect", "silent handshake", "dripping handshake"])
def test_slow_connects_end_in_time(name: str) -> None:
    """A connection that does not come about ends at the deadline too; nothing was sent, so it was free."""
    drips = name == "dripping handshake"
    with _deaf() as port, _talker(b"\x16\x03\x03\x40\x00" if drips else b"") as talker:
        url = f"http://127.0.0.1:{port}/v1" if name == "unanswered connect" else f"https://127.0.0.1:{talker}/v1"
        with provider(url, max_requests=1) as ai, _measured(name, 0.4):
            found = ask(ai, seconds=0.4)

    assert isinstance(found, Failure)
    assert (found.code, found.certainly_not_generated, found.wire_requests) == (UNAVAILABLE, True, 0)


def test_repeats_share_the_deadline() -> None:
    """A repeat gets what the first request left of the time, no time of its own."""
    with (
        ScriptedServer(_error(429), stall()) as server,
        provider(server.base_url) as ai,
        _measured("a repeat", 1.2),
    ):
        found = ask(ai, seconds=1.2)

    assert isinstance(found, Failure)
    assert (found.code, found.wire_requests) == (TIMEOUT, 2)


def test_a_stuck_resolver_does_not_hold_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name lookup that hangs is left alone at the deadline, and shared by all who wait for the same name."""
    answered = threading.Event()

    def resolve(*_: Any, flags: int = 0, **__: Any) -> Any:
        if not flags:
            answered.wait(10)
        return _unknown_name()

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    before = set(threading.enumerate())
    with provider("http://provider.example/v1", max_requests=1) as ai:
        with _measured("resolver", 0.4), ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(lambda _: ask(ai, seconds=0.4), range(4)))
        assert len(set(threading.enumerate()) - before) == 1
    answered.set()
    _until(lambda: set(threading.enumerate()) <= before)

    assert {(o.code, o.wire_requests) for o in outcomes if isinstance(o, Failure)} == {(UNAVAILABLE, 0)}


def test_no_time_means_no_request() -> None:
    """A call without time left sends nothing, on a new connection or on a kept one."""
    with ScriptedServer(chat({"title": "x"})) as server, provider(server.base_url) as ai:
        first = ask(ai, seconds=0)
        ask(ai)
        second = ask(ai, seconds=0)

    for found in (first, second):
        assert isinstance(found, Failure)
        assert (found.code, found.certainly_not_generated, found.wire_requests) == (UNAVAILABLE, True, 0)


def test_a_zip_bomb_stops_at_the_cap() -> None:
    """A small body that unpacks to a gigabyte is left where the cap is."""
    bomb = gzip.compress(b"{" + b" " * 50_000_000)
    script = raw(_head("Content-Encoding: gzip", f"Content-Length: {len(bomb)}"), bomb)

    found = ask_scripted(script, max_body_bytes=100_000)

    assert isinstance(found, Failure)
    assert found.code is INVALID


# Connections, threads, proxies, TLS.


def test_connections_are_kept_and_shared() -> None:
    """Calls one after the other use the same connection; a failed read gives it up."""
    script = [
        chat({"title": "x"}),
        _error(500),
        chat({"title": "x"}),
        raw(_head("Content-Length: 9")),
        chat({"title": "x"}),
    ]
    with ScriptedServer(*script) as server, provider(server.base_url) as ai:
        for _ in script:
            ask(ai)

        assert server.connections == 2


def test_headers_and_body_leave_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is one write: apart, headers and body would be two packets, and wake the server twice."""
    writes: list[bytes] = []
    sendall = deadline._Socket.sendall

    def counted(connection: deadline._Socket, data: bytes) -> None:
        writes.append(data)
        sendall(connection, data)

    monkeypatch.setattr(deadline._Socket, "sendall", counted)
    with ScriptedServer(chat({"title": "x"}), chat({"title": "x"})) as server, provider(server.base_url) as ai:
        ask(ai)
        ask(ai)

    assert [each.partition(b" ")[0] for each in writes] == [b"POST", b"POST"]


def test_token_in_a_sessions_headers_may_be_exchanged_and_is_not_shown() -> None:
    """Each request carries the session's headers as they are then; what a provider quotes of them reaches no reason."""
    session = requests.Session()
    refusal = {"error": {"message": "Incorrect API key provided: second-token-0123456789", "code": "invalid_api_key"}}
    with (
        ScriptedServer(chat({"title": "x"}), reply(401, json=refusal)) as server,
        provider(server.base_url, session=session, api_key=None) as ai,
    ):
        session.headers["Authorization"] = "Bearer first-token-0123456789"
        ask(ai)
        session.headers["Authorization"] = "Bearer second-token-0123456789"
        outcome = ask(ai)

    assert [each.headers["authorization"] for each in server.requests] == [
        "Bearer first-token-0123456789",
        "Bearer second-token-0123456789",
    ]
    assert isinstance(outcome, Failure)
    assert "Incorrect" in outcome.reason
    assert "second-token" not in outcome.reason


def test_idle_connections_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was idle for long is replaced, since the server may be closing it just now."""
    monkeypatch.setattr("ai_retry.deadline._IDLE_SECONDS", 0.0)
    with ScriptedServer(chat({"title": "x"}), chat({"title": "x"})) as server, provider(server.base_url) as ai:
        outcomes = [ask(ai), ask(ai)]

        assert server.connections == 2
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


def test_many_threads_share_one_provider() -> None:
    """Calls that run at once get each their own answer and count their own requests."""

    def echo(request: Request) -> Script:
        return raw(pause(0.02), *chat({"title": request.headers["idempotency-key"]}))

    with ScriptedServer(default=echo) as server, provider(server.base_url, pool_size=4) as ai:

        def call(number: int) -> Answer:
            return ai.generate(CONTEXT, timeout=timedelta(seconds=10), idempotency_key=f"g-{number}")

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(call, range(64)))

    assert [answer.output["title"] for answer in answers] == [f"g-{number}" for number in range(64)]
    assert sum(answer.wire_requests for answer in answers) == len(server.requests) == 64


def test_a_proxy_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual variables lead through a forward proxy."""
    with ScriptedServer(chat({"title": "x"})) as server, _forward_proxy(1) as (port, seen):
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        with provider(server.base_url) as ai:
            answer = ask(ai)

    assert isinstance(answer, Answer)
    assert seen == [f"POST http://127.0.0.1:{server.port}/v1/chat/completions HTTP/1.1"]


@pytest.mark.parametrize("kind", ["http", "https"])
def test_tls_goes_through_a_tunnel(monkeypatch: pytest.MonkeyPatch, certificate: Path, kind: str) -> None:
    """Behind a proxy TLS is spoken with the provider itself, under the same deadline, even within TLS to the proxy."""
    context = _server_context(certificate)
    with (
        ScriptedServer(chat({"title": "x"}), stall(), ssl_context=context) as server,
        _forward_proxy(2, context if kind == "https" else None) as (port, seen),
    ):
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTPS_PROXY", f"{kind}://127.0.0.1:{port}")
        with _trusting(server.base_url, certificate) as ai:
            answer = ask(ai)
        with _trusting(server.base_url, certificate) as ai, _measured(f"silence behind an {kind} proxy", 0.4):
            late = ask(ai, seconds=0.4)

    assert isinstance(answer, Answer)
    assert isinstance(late, Failure)
    assert (late.code, late.wire_requests) == (TIMEOUT, 1)
    assert [line.split()[:2] for line in seen] == [["CONNECT", f"127.0.0.1:{server.port}"]] * 2


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_an_unusable_proxy_is_free(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A proxy that can't be reached, or one that would escape the deadline, sends nothing."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", f"{kind}://127.0.0.1:{_free_port()}")
    with provider("http://127.0.0.2/v1", max_requests=1) as ai:
        found = ask(ai)

    assert isinstance(found, Failure)
    assert found.certainly_not_generated
    assert found.code is (UNAVAILABLE if kind == "http" else REJECTED)
    assert found.wire_requests == 0


def test_an_unknown_certificate_is_refused(certificate: Path) -> None:
    """A certificate that can't be verified ends the call before anything is sent, and is the operator's."""
    with (
        ScriptedServer(ssl_context=_server_context(certificate)) as server,
        provider(server.base_url) as ai,
    ):
        found = ask(ai)

    assert isinstance(found, Failure)
    assert (found.code, found.certainly_not_generated, found.transient) == (UNAVAILABLE, True, False)
    assert found.operator_fault


# Privacy.


def test_echoes_stay_private(caplog: pytest.LogCaptureFixture) -> None:
    """A provider that sends back all it got puts neither prompt nor key into the error, its traceback or a log."""

    def echo(request: Request) -> Script:
        said = f"{request.headers} {request.body.decode()}"
        return reply(
            400, json={"error": {"message": said, "code": said[:50], "type": KEY}}, headers={"x-request-id": KEY}
        )

    caplog.set_level(logging.DEBUG)
    with ScriptedServer(echo) as server, provider(server.base_url) as ai:
        with pytest.raises(GenerationFailed) as caught:
            ai.generate(CONTEXT, timeout=timedelta(seconds=5), idempotency_key="g-1")
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.failure) + caplog.text

    for private in (KEY, KEY[8:], PROMPT[:20], PROMPT[-20:], "left knee hurts"):
        assert private not in shown


# Plain cases, without sockets of our own.


@responses.activate
def test_a_plain_answer_is_returned() -> None:
    """The documented default address is asked, and its answer returned."""
    responses.post("https://openrouter.ai/api/v1/chat/completions", body=VALID, headers={"X-Generation-Id": "gen-1"})
    with closing(HttpAiProvider(clock=SystemClock(), api_key=KEY)) as ai:
        answer = ask(ai)

    assert answer == Answer(output={"title": "Intervals"}, model="small", provider_id="gen-1")


@responses.activate
@pytest.mark.parametrize(("status", "code"), [(429, RATE_LIMITED), (500, UNAVAILABLE), (401, REJECTED), (504, TIMEOUT)])
def test_a_plain_error_is_raised(status: int, code: FailureCode) -> None:
    """A plain error status becomes a GenerationFailed with its kind."""
    responses.post("https://openrouter.ai/api/v1/chat/completions", status=status)
    with closing(HttpAiProvider(clock=ManualClock(), api_key=KEY, max_requests=1)) as ai:
        found = ask(ai)

    assert isinstance(found, Failure)
    assert found.code is code
    assert found.wire_requests == 1


@responses.activate
def test_unexpected_exceptions_become_failures() -> None:
    """Whatever a transport raises, the port's promise holds."""
    responses.post("https://openrouter.ai/api/v1/chat/completions", body=RuntimeError(KEY))
    with closing(HttpAiProvider(clock=ManualClock(), api_key=KEY)) as ai:
        found = ask(ai)

    assert isinstance(found, Failure)
    assert KEY not in found.reason


# Helpers.


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scripted")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


def _server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@contextmanager
def _trusting(base_url: str, certificate: Path) -> Iterator[HttpAiProvider]:
    with requests.Session() as session:
        session.verify = str(certificate)
        with provider(base_url, session=session) as ai:
            yield ai


@contextmanager
def _measured(what: str, deadline: float) -> Iterator[None]:
    """Print by how much a call overran; 250 ms are promised, a second is allowed to a loaded machine."""
    started = time.monotonic()
    yield
    over = time.monotonic() - started - deadline
    print(f"overshoot of {what}: {over * 1000:.1f} ms")
    assert over < 1.0


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not become true within 4 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _unknown_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "unknown name")


@contextmanager
def _talker(greeting: bytes) -> Iterator[int]:
    """A port that takes one connection and drips a greeting and zeros, or nothing if there is none."""
    ended = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(5)

        def talk() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                for byte in greeting + b"\0" * 200 * bool(greeting):
                    if ended.wait(0.02):
                        return
                    try:
                        connection.send(bytes([byte]))
                    except OSError:
                        return
                ended.wait(5)

        thread = threading.Thread(target=talk)
        thread.start()
        yield int(listener.getsockname()[1])
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def _forward_proxy(connections: int, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """A tiny forward proxy for a few connections, one at a time; it records the first line of each."""
    seen: list[str] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            for _ in range(connections):
                connection, _ = listener.accept()
                with tls.wrap_socket(connection, server_side=True) if tls else connection as client:
                    _relay(client, seen)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1]), seen
        thread.join(10)
        assert not thread.is_alive()


def _relay(client: socket.socket, seen: list[str]) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(65536)
    first = head.split(b"\r\n")[0].decode()
    seen.append(first)
    target = first.split()[1].removeprefix("http://").split("/")[0]
    host, _, port = target.partition(":")
    with socket.create_connection((host, int(port)), 5) as server:
        if first.startswith("CONNECT"):
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            server.sendall(head)
        back = threading.Thread(target=_pump, args=(server, client))
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
