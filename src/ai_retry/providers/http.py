"""Asks an OpenAI-compatible provider over HTTP: one request loop under one deadline.

What an answer means is judged in ``classify``, by the table in ``signals``; ``deadline`` keeps the time.
Waits that do not fit into the call are not made here: they are handed up as ``Failure.retry_after``.
"""

import json
import string
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from ssl import SSLCertVerificationError
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from ai_retry.deadline import Deadline, DeadlineAdapter, bounded_by
from ai_retry.domain.calls import listed
from ai_retry.domain.context import reserved_fields
from ai_retry.domain.errors import ContextMissing, GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, ProviderCall, ResponseFormat
from ai_retry.domain.ports import Clock
from ai_retry.providers import signals
from ai_retry.providers.address import Address, KeyAuth
from ai_retry.providers.arguments import check_headers, check_url, require
from ai_retry.providers.classify import Ending, Reply, classify
from ai_retry.providers.question import Question, question, secrets_in
from ai_retry.providers.redaction import Redactor
from ai_retry.providers.signal import Signal

OPENROUTER = "https://openrouter.ai/api/v1"  # OpenRouter, API reference

_HEADERS = {"Accept": "application/json", "User-Agent": "ai-retry"}
_CHUNK = 65536  # bytes read at once

_Outcome: TypeAlias = Answer | Failure


class HttpAiProvider:
    """The port ``AiProvider`` over ``POST {base_url}/chat/completions``.

    With a ``response_schema`` in the context the output is a JSON value, valid under it, however the provider was asked
    for it. Without one, the output is the content without thoughts: a JSON string.

    A request is sent again within the call only if the provider certainly did not generate and the cause may pass:
    after its ``Retry-After`` plus full jitter, at most ``max_requests`` in all, and only while at least half of the
    time would be left for it, since a call that is cut short turns a free failure into a paid one. Redirects are not
    followed; proxies are taken from the usual environment variables, credentials never from a netrc file.

    ``wire_requests`` counts the requests that were begun on an established connection: a server sees that many or,
    where a connection broke, fewer. One that could not be connected counts nothing.

    Thread-safe; all calls share one connection pool.

    Args:
        clock: measures the deadline and makes the waits between repeats.
        base_url: of the API, without ``/chat/completions``.
        api_key: None for local servers that want none.
        model: asked for when a context names none.
        headers: sent along, such as OpenRouter's ``HTTP-Referer`` and ``X-Title``.
        query: of the URL, such as Azure's ``api-version``; not for keys, since URLs are logged.
        auth_header: carries the key: after ``Bearer`` if it is ``Authorization``, else bare (Azure's ``api-key``).
        response_format: how an output under a schema is asked for; see ``ResponseFormat``.
        extra_body: further fields of each request, such as ``max_tokens`` or OpenRouter's ``models``. They replace a
            context's parameters; its own ``extra_body`` replaces them.
        max_body_bytes: of an answer, decoded; reading stops there.
        max_requests: in one call.
        pool_size: idle connections kept per host; more may be in use.
        session: its headers, ``verify``, ``cert``, ``proxies`` and ``trust_env`` apply; its adapters and hooks do not,
            since only our connections keep the deadline. It is not closed.

    Raises:
        ValueError: names the argument that can't be used, never its value.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        base_url: str = OPENROUTER,
        api_key: str | None = None,
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        auth_header: str = "Authorization",
        response_format: ResponseFormat = ResponseFormat.JSON_SCHEMA,
        extra_body: Mapping[str, Any] | None = None,
        max_body_bytes: int = 4 * 1024 * 1024,
        max_requests: int = 3,
        pool_size: int = 32,
        session: requests.Session | None = None,
    ) -> None:
        check_url(base_url)
        require(max_body_bytes >= 1, "max_body_bytes must be at least 1")
        require(max_requests >= 1, "max_requests must be at least 1")
        require(response_format in tuple(ResponseFormat), f"response_format must be {', '.join(ResponseFormat)}")
        reserved = reserved_fields(extra_body or {})
        require(not reserved, f"extra_body {reserved}")
        self._format = ResponseFormat(response_format)
        self._extra_body = dict(extra_body or {})
        self._base_url, self._model = base_url.rstrip("/"), model
        headers, auth = {**_HEADERS, **(headers or {})}, KeyAuth(auth_header, api_key)
        check_headers(headers)
        check_headers(auth.headers)
        self._secrets = [*secrets_in(headers), *([api_key] if api_key else [])]
        self._max_body_bytes, self._max_requests = max_body_bytes, max_requests
        self._clock = clock
        self._adapter = DeadlineAdapter(pool_size=pool_size)
        url = f"{self._base_url}/chat/completions"
        self._address = Address(session or requests.Session(), url, query=query or {}, headers=headers, auth=auth)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._base_url!r}, model={self._model!r})"

    @property
    def name(self) -> str:
        """The provider's name in routes and records: where it is."""
        return urlsplit(self._base_url).netloc

    @property
    def model(self) -> str | None:
        """The model that is asked where a context names none."""
        return self._model

    def close(self) -> None:
        """Close the idle connections. A later call would open new ones."""
        self._adapter.close()

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Ask for a complete answer that is valid under ``context.response_schema``; see the port.

        Raises:
            GenerationFailed: nothing else; neither its text nor its causes hold the prompt or the key.
        """
        outcome = self._generate(context, timeout.total_seconds(), idempotency_key)
        if isinstance(outcome, Failure):
            raise GenerationFailed(outcome)  # not inside an except block: it would carry what was caught there
        return outcome

    def _generate(self, context: Context, seconds: float, idempotency_key: str) -> _Outcome:
        deadline = Deadline(self._clock, seconds)
        model = context.model or self._model
        built = self._request(context, model, idempotency_key)
        if isinstance(built, Failure):
            return built
        asked, request = built
        redactor = Redactor(
            prompt=asked.body["messages"], secrets=[*self._secrets, *self._address.secrets, *asked.secrets]
        )

        def judge(reply: Reply) -> _Outcome:
            schema, now = context.response_schema, self._clock.now()
            return classify(reply, schema=schema, now=now, redactor=redactor, added=asked.added)

        calls: list[ProviderCall] = []

        def send() -> _Outcome:
            began, before = self._clock.monotonic(), deadline.sent
            outcome, status = self._send(request, deadline, judge)
            outcome = replace(outcome, model=outcome.model or model, wire_requests=deadline.sent - before)
            ended = self._clock.monotonic()
            took = timedelta(seconds=ended - began)
            calls.append(listed(outcome, duration=took, provider=self.name, http_status=status, ended=ended))
            return outcome

        outcome = self._repeat(send, deadline, seconds)
        return replace(outcome, wire_requests=deadline.sent, calls=tuple(calls))

    def _request(
        self, context: Context, model: str | None, idempotency_key: str
    ) -> tuple[Question, requests.PreparedRequest] | Failure:
        """Build the request, once: its repeats are the same to the byte."""
        if model is None:
            return signals.UNSENDABLE.failure(
                "neither the context nor the configuration names a model", wire_requests=0
            )
        try:
            asked = question(context, model=model, response_format=self._format, extra_body=self._extra_body)
            body = json.dumps(asked.body, allow_nan=False).encode()
            key = quote(idempotency_key, safe=string.punctuation)
            return asked, self._address.request(body, {"Idempotency-Key": key})
        except ContextMissing as error:
            problem = str(error.details["problem"])
        except (TypeError, ValueError, RecursionError, OSError) as error:
            problem = f"it can't be written ({type(error).__name__})"
        return signals.UNSENDABLE.failure(problem, model=model, wire_requests=0)

    def _repeat(self, send: Callable[[], _Outcome], deadline: Deadline, seconds: float) -> _Outcome:
        """Send, and again while that is free, useful and in time."""
        first = send()
        if not _may_be_repeated(first):
            return first
        from ai_retry.providers.repeats import repeats  # noqa: PLC0415 - most processes never need it

        def in_time(pause: float) -> bool:
            return deadline.left - pause >= seconds / 2

        return repeats(
            first, send, may=_may_be_repeated, most=self._max_requests, in_time=in_time, sleep=self._clock.sleep
        )

    def _send(
        self, request: requests.PreparedRequest, deadline: Deadline, judge: Callable[[Reply], _Outcome]
    ) -> tuple[_Outcome, int | None]:
        """Put the request on the wire, once, and judge what comes; with its status, if there is one."""
        before = deadline.sent
        try:
            settings = self._address.settings
            with bounded_by(deadline), closing(self._adapter.send(request, timeout=None, **settings)) as response:
                deadline.sent = before + 1  # also where a test has put something else in the place of our connections
                reply = self._read(response)
            return judge(reply), reply.status
        except Exception as error:  # noqa: BLE001 (the port promises GenerationFailed alone, and garbage may raise anything)
            sent = deadline.sent > before
            return _signal_of(error, deadline, sent=sent).failure(type(_origin(error)).__name__), None

    def _read(self, response: requests.Response) -> Reply:
        body, ending = bytearray(), Ending.WHOLE
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                body += chunk
                if len(body) > self._max_body_bytes:
                    ending = Ending.TOO_LARGE
                    break
        except ReadTimeoutError:
            ending = Ending.LATE
        except (HTTPError, OSError):
            ending = Ending.CUT
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(status=response.status_code, headers=headers, body=bytes(body), ending=ending)


def _may_be_repeated(outcome: _Outcome) -> bool:
    """Whether a request may be sent again: it cost nothing, and its cause may pass."""
    return isinstance(outcome, Failure) and outcome.certainly_not_generated and outcome.transient


def _signal_of(error: Exception, deadline: Deadline, *, sent: bool) -> Signal:
    """Which row of ``signals.BEFORE`` an exception shows."""
    if sent:
        timed_out = deadline.left <= 0 or isinstance(error, requests.Timeout)
        return signals.SILENT if timed_out else signals.DROPPED
    if isinstance(_origin(error), SSLCertVerificationError):
        return signals.CERTIFICATE
    if isinstance(error, ValueError) or not isinstance(error, requests.RequestException):
        return signals.UNSENDABLE  # an address, proxy or certificate file that can't be used
    return signals.UNREACHABLE


def _origin(error: BaseException) -> BaseException:
    """The exception with which it began; the others only wrap it."""
    for _ in range(20):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error
