"""Sends a provider's requests: one loop under one deadline.

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
from ai_retry.domain.errors import ContextMissing
from ai_retry.domain.model import Answer, Context, Failure, ProviderCall, ResponseFormat
from ai_retry.domain.ports import Clock
from ai_retry.providers import signals
from ai_retry.providers.address import Address, KeyAuth
from ai_retry.providers.classify import Ending, Reply, classify
from ai_retry.providers.question import Question, question, secrets_in
from ai_retry.providers.redaction import Redactor
from ai_retry.providers.signal import Signal

_CHUNK = 65536  # bytes read at once
_encode = json.JSONEncoder(allow_nan=False).encode

_Outcome: TypeAlias = Answer | Failure


class Wire:
    """Makes the calls of an ``HttpAiProvider``, which says what each argument is. Safe to share between threads."""

    def __init__(
        self,
        *,
        clock: Clock,
        base_url: str,
        api_key: str | None,
        model: str | None,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        auth_header: str,
        response_format: ResponseFormat,
        extra_body: Mapping[str, Any],
        max_body_bytes: int,
        max_requests: int,
        pool_size: int,
        session: requests.Session | None,
    ) -> None:
        self._clock, self._format, self._extra_body = clock, response_format, extra_body
        self._name, self._model = urlsplit(base_url).netloc, model
        self._secrets = [*secrets_in(headers), *([api_key] if api_key else [])]
        self._max_body_bytes, self._max_requests = max_body_bytes, max_requests
        self._adapter = DeadlineAdapter(pool_size=pool_size)
        auth = KeyAuth(auth_header, api_key)
        url = f"{base_url}/chat/completions"
        self._address = Address(session or requests.Session(), url, query=query, headers=headers, auth=auth)

    def close(self) -> None:
        """Close the idle connections. A later call would open new ones."""
        self._adapter.close()

    def generate(self, context: Context, seconds: float, idempotency_key: str) -> Answer | Failure:
        """Ask for a complete answer within so many seconds; its failures are values."""
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
            now = self._clock.now()
            return classify(reply, schema=asked.schema, now=now, redactor=redactor, added=asked.added)

        calls: list[ProviderCall] = []

        def send() -> _Outcome:
            began, before = self._clock.monotonic(), deadline.sent
            outcome, status = self._send(request, deadline, judge)
            outcome = replace(outcome, model=outcome.model or model, wire_requests=deadline.sent - before)
            ended = self._clock.monotonic()
            took = timedelta(seconds=ended - began)
            calls.append(listed(outcome, duration=took, provider=self._name, http_status=status, ended=ended))
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
            body = _encode(asked.body).encode()
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
