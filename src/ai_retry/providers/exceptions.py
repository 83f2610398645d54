"""Reads what an exception of an SDK says by its attributes: its HTTP answer, or what its name and its causes mean.

No SDK is imported. The text of an exception may hold a prompt and is not read; a body is judged, and not kept.
"""

import json
from collections.abc import Iterator, Mapping
from socket import gaierror
from ssl import SSLCertVerificationError
from typing import Any

from ai_retry.providers import answer_signals, signals
from ai_retry.providers.bodies import mapping
from ai_retry.providers.classify import Reply
from ai_retry.providers.signal import Signal

_STATUSES = ("status_code", "http_status", "code", "status")  # OpenAI, Anthropic, Ollama; LiteLLM; Google; aiohttp
_BODIES = ("body", "details", "error")  # OpenAI, Anthropic, Cohere; Google; Ollama
_NAMED = {
    "LengthFinishReasonError": answer_signals.TOO_LONG,  # OpenAI's parse()
    "IncompleteOutputException": answer_signals.TOO_LONG,  # Instructor
    "ContentFilterFinishReasonError": answer_signals.REFUSED,  # OpenAI's parse()
    "BlockedPromptException": answer_signals.REFUSED,  # Google
    "JSONDecodeError": answer_signals.INVALID,
    "ValidationError": answer_signals.INVALID,  # Pydantic, jsonschema
}


def reply_of(error: BaseException) -> Reply | None:
    """Return the HTTP answer that an exception is about; None if it has no status of an error."""
    response = _of(error, "response")
    amazons = _of(response, "ResponseMetadata") if isinstance(response, Mapping) else None  # botocore
    candidates = [_of(each, name) for each in (error, response) for name in _STATUSES]
    candidates.append(_of(amazons, "HTTPStatusCode"))
    status = next((int(each) for each in candidates if isinstance(each, int) and 300 <= each < 600), None)  # noqa: PLR2004
    if status is None:
        return None
    headers = (_of(response, "headers"), _of(error, "headers"), _of(amazons, "HTTPHeaders"))
    named = next((each for each in headers if isinstance(each, Mapping)), {})
    return Reply(
        status=status,
        headers={str(name).lower(): str(value) for name, value in named.items()},
        body=_body(error, response),
    )


def signal_of(error: BaseException) -> Signal:
    """Find the row for an exception without an HTTP answer; in doubt something was generated."""
    for kind in type(error).__mro__:
        if kind.__name__ in _NAMED:
            return _NAMED[kind.__name__]
    links = list(_chain(error))
    if any(isinstance(each, SSLCertVerificationError) for each in links):
        return signals.CERTIFICATE
    if _was_not_connected(links):
        return signals.UNREACHABLE
    late = any(isinstance(each, TimeoutError) or "timeout" in type(each).__name__.lower() for each in links[:1])
    return signals.SILENT if late else signals.DROPPED


def _was_not_connected(links: list[BaseException]) -> bool:
    """Whether a connection was refused, or a name is unknown, and nothing else is behind the exception."""
    refused = any(isinstance(each, ConnectionRefusedError | gaierror) for each in links)
    return refused and all(
        isinstance(each, ConnectionRefusedError | gaierror)
        or any(word in type(each).__name__ for word in ("Connect", "MaxRetryError", "NameResolutionError"))
        for each in links
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(20):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _body(error: BaseException, response: Any) -> bytes:
    amazons = mapping(_of(response, "Error")) if isinstance(response, Mapping) else {}
    if amazons:
        return _written({"error": {"code": amazons.get("Code"), "message": amazons.get("Message")}})
    bodies = (*(_of(error, name) for name in _BODIES), _of(response, "content"), _of(response, "text"))
    return _written(next((each for each in bodies if each and isinstance(each, Mapping | list | str | bytes)), b""))


def _written(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    try:
        text = body if isinstance(body, str) else json.dumps(body)
        return text.encode(errors="replace")
    except (TypeError, ValueError, RecursionError):
        return b""


def _of(source: Any, name: str) -> Any:
    """Return a member or an attribute; None if there is none, or if its property raises."""
    try:
        return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
    except Exception:  # noqa: BLE001 (of a foreign object: httpx raises for a stream that was not read)
        return None
