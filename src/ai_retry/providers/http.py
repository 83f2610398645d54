"""Asks an OpenAI-compatible provider over HTTP.

Here is what is known before anything is asked. What sends requests is in ``wire``, which imports ``requests`` and all
that reads an answer: the first call, or ``prepare``, loads it, so that a program that calls no provider does without.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ai_retry.domain.context import reserved_fields
from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, ResponseFormat
from ai_retry.domain.ports import Clock
from ai_retry.providers.arguments import check_headers, check_url, key_header, require

if TYPE_CHECKING:
    import requests

    from ai_retry.providers.wire import Wire

OPENROUTER = "https://openrouter.ai/api/v1"  # OpenRouter, API reference

_HEADERS = {"Accept": "application/json", "User-Agent": "ai-retry"}


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
        session: "requests.Session | None" = None,
    ) -> None:
        sent = {**_HEADERS, **(headers or {})}
        _check(base_url, max_body_bytes, max_requests, response_format, extra_body or {})
        check_headers(sent)
        check_headers(key_header(auth_header, api_key))
        self._base_url, self._model = base_url.rstrip("/"), model
        self._make = partial(
            _wire,
            clock=clock,
            base_url=self._base_url,
            api_key=api_key,
            model=model,
            headers=sent,
            query=dict(query or {}),
            auth_header=auth_header,
            response_format=ResponseFormat(response_format),
            extra_body=dict(extra_body or {}),
            max_body_bytes=max_body_bytes,
            max_requests=max_requests,
            pool_size=pool_size,
            session=session,
        )
        self._wires: dict[str, Wire] = {}  # one at most

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

    def prepare(self) -> None:
        """Import what the first call needs, schemas too, so that no user waits for it. A repeat does nothing."""
        import ai_retry.providers.response_schema  # noqa: F401, PLC0415 - jsonschema; with Jupyter beside it, over a second

        self._wire()

    def close(self) -> None:
        """Close the idle connections. A later call would open new ones."""
        for wire in self._wires.values():
            wire.close()

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Ask for a complete answer that is valid under ``context.response_schema``; see the port.

        Raises:
            GenerationFailed: nothing else; neither its text nor its causes hold the prompt or the key.
        """
        outcome = self._wire().generate(context, timeout.total_seconds(), idempotency_key)
        if isinstance(outcome, Failure):
            raise GenerationFailed(outcome)  # not inside an except block: it would carry what was caught there
        return outcome

    def _wire(self) -> "Wire":
        """Return what sends requests, made once; several first calls at once need no lock, and all get the same."""
        return self._wires.get("") or self._wires.setdefault("", self._make())


def _wire(**arguments: Any) -> "Wire":
    from ai_retry.providers.wire import Wire  # noqa: PLC0415 - imports requests

    return Wire(**arguments)


def _check(
    base_url: str,
    max_body_bytes: int,
    max_requests: int,
    response_format: ResponseFormat,
    extra_body: Mapping[str, Any],
) -> None:
    """Refuse arguments that can never work."""
    check_url(base_url)
    require(max_body_bytes >= 1, "max_body_bytes must be at least 1")
    require(max_requests >= 1, "max_requests must be at least 1")
    require(response_format in tuple(ResponseFormat), f"response_format must be {', '.join(ResponseFormat)}")
    reserved = reserved_fields(extra_body)
    require(not reserved, f"extra_body {reserved}")
