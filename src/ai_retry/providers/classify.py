"""The one classifier: from a status, headers and a body to an answer or a failure.

Pure: no I/O and no clock. It finds the facts in the order that tells most (a status beats a body, an error beats
content, a finish reason beats whether the content parses); what they mean stands in ``signals``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeAlias

from ai_retry.domain.model import Answer, Failure, FailureCode
from ai_retry.providers import signals, validation
from ai_retry.providers.bodies import (
    ErrorBody,
    mapping,
    parse,
    read_error,
    read_id,
    read_text,
    read_usage,
)
from ai_retry.providers.redaction import Redactor
from ai_retry.providers.signals import WORD_STATUSES, Signal
from ai_retry.providers.waits import retry_after

_LONGEST_REASON = 300
_LONGEST_NAME = 200  # of models and ids


class Ending(Enum):
    """How the reading of a body ended."""

    WHOLE = "whole"
    CUT = "cut"
    LATE = "late"
    TOO_LARGE = "too large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came over the wire."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = field(repr=False)
    ending: Ending = Ending.WHOLE


@dataclass(frozen=True, slots=True)
class _Finding:
    """Why there is no usable answer."""

    signal: Signal
    error: ErrorBody = field(default_factory=ErrorBody)
    detail: str = ""  # in our own words


_Output: TypeAlias = tuple[Any]  # of one element, to tell an output that is null from none


def classify(
    reply: Reply,
    *,
    schema: Mapping[str, Any] | None,
    now: datetime,
    redactor: Redactor,
    added: Collection[str] = (),  # noqa: ARG001
) -> Answer | Failure:
    """Judge an answer.

    Args:
        reply: what came.
        schema: that the output must be valid under; None: the output is the content, as a text.
        now: for waits that are told as an instant.
        redactor: cleans what the provider wrote.
        added: the request's fields that the deployment, and no user, has put there.
    """
    text = read_text(reply.body)
    document = parse(text)
    envelope = mapping(document[0] if isinstance(document, list) and document else document)
    if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        found = _unreadable(reply, text, document) or _read(envelope, schema)
    else:
        found = _from_status(reply.status, document, text)
    model, provider_id = envelope.get("model"), read_id(reply.headers, envelope)
    told: dict[str, Any] = {
        "model": redactor.line(model, _LONGEST_NAME) if isinstance(model, str) and model else None,
        "provider_id": redactor.line(provider_id, _LONGEST_NAME) if provider_id else None,
        "usage": read_usage(envelope, reply.headers),
    }
    if isinstance(found, _Finding):
        return _failure(found, reply, now, redactor, told)
    return Answer(output=found[0], **told)


def _from_status(status: int, document: Any, text: str) -> _Finding:
    """Status and body decide, even if the body is cut or is not JSON."""
    if status < HTTPStatus.OK:
        return _Finding(signals.CUT, detail="an interim status ended it")
    error = read_error(document)
    if document is None and not text.startswith("<"):
        error = ErrorBody(message=text)
    return _Finding(signals.find(status, error.words, error.message), error)


def _unreadable(reply: Reply, text: str, document: Any) -> _Finding | None:
    ended = {Ending.LATE: signals.STALLED, Ending.CUT: signals.CUT, Ending.TOO_LARGE: signals.TOO_LARGE}
    if reply.ending in ended:
        return _Finding(ended[reply.ending])
    if not text:
        return _Finding(signals.CUT, detail="an empty body")
    if text[0] not in "{[":
        return _Finding(signals.NOT_JSON)
    return _Finding(signals.CUT, detail="half an envelope") if document is None else None


def _read(envelope: Mapping[str, Any], schema: Mapping[str, Any] | None) -> _Output | _Finding:
    """Read an envelope; it may hold an error in spite of its status."""
    if envelope.get("error") or "error" in (envelope.get("object"), envelope.get("type")):
        return _inside(read_error(envelope))
    choices = envelope.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else {}
    if not choice:
        return _Finding(signals.NO_CHOICE)
    message = mapping(choice.get("message"))
    content = _content(message.get("content"))
    reason = str(choice.get("finish_reason") or "").lower()
    if choice.get("error") or reason in signals.PARTIAL.words:
        return _inside(read_error({"error": choice.get("error")}), partial=bool(content.strip()))
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip():
        return _Finding(signals.REFUSED, detail="refusal")
    for signal in (signals.REFUSED, signals.TOO_LONG, signals.ABORTED):
        if reason in signal.words:
            return _Finding(signal, detail=f"finish_reason {reason}")
    return _output(content, reason, schema) if content.strip() else _Finding(signals.NO_CONTENT)


def _inside(error: ErrorBody, *, partial: bool = False) -> _Finding:
    """An error in a 2xx: a model had been started, so something may have been generated (OpenRouter, Errors)."""
    status = error.number or 0
    if status < HTTPStatus.BAD_REQUEST:
        named = (WORD_STATUSES[word] for word in error.words if word in WORD_STATUSES)
        status = next(named, HTTPStatus.INTERNAL_SERVER_ERROR)
    if partial and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _Finding(signals.PARTIAL, error)
    return _Finding(replace(signals.find(status, error.words, error.message), not_generated=False), error)


def _content(content: Any) -> str:
    """The text of a message; of a list of parts, their texts. Reasoning is never an answer."""
    if isinstance(content, list):
        texts = [mapping(part).get("text") for part in content if mapping(part).get("type", "text") == "text"]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _output(content: str, reason: str, schema: Mapping[str, Any] | None) -> _Output | _Finding:
    try:
        if schema is None:
            return (validation.storable(content),)
        output = validation.parse(content)
        validation.validate(output, schema)
    except validation.InvalidOutput as problem:
        signal = signals.BROKEN if problem.broken and not reason else signals.INVALID
        return _Finding(signal, detail=str(problem))
    return (output,)


def _failure(found: _Finding, reply: Reply, now: datetime, redactor: Redactor, told: Mapping[str, Any]) -> Failure:
    signal = _as_told(found.signal, found.error, reply.headers)
    used = told["usage"]
    spent = used and any((used.prompt_tokens, used.completion_tokens, used.total_tokens, used.cost))
    return Failure(
        code=signal.code,
        reason=_reason(found, reply, redactor),
        transient=signal.transient,
        certainly_not_generated=signal.not_generated,
        operator_fault=signal.operator_fault,
        overloaded=signal.overloaded,
        retry_after=retry_after(reply.headers, found.error.data, now) if signal.transient else None,
        model=told["model"],
        usage=used if spent else None,  # zeros are told of what nobody counted, too
        provider_id=told["provider_id"],
    )


def _as_told(signal: Signal, error: ErrorBody, headers: Mapping[str, str]) -> Signal:
    """Bow to what the provider says of this very case."""
    if error.retryable is False or headers.get("x-should-retry", "").strip().lower() == "false":
        signal = replace(signal, transient=False)
    elif error.retryable and signal.code is FailureCode.REJECTED:
        signal = replace(signal, code=FailureCode.UNAVAILABLE, transient=True, operator_fault=False)
    if any(
        status != HTTPStatus.TOO_MANY_REQUESTS for status in error.earlier_statuses
    ):  # a router fell back: others may have generated
        signal = replace(signal, not_generated=False)
    return signal


def _reason(found: _Finding, reply: Reply, redactor: Redactor) -> str:
    """Our phrase, then the provider's status and words, then its message."""
    facts = [f"HTTP {reply.status}"]
    if found.signal is signals.NOT_JSON:
        facts.append(redactor.line(reply.headers.get("content-type", ""), 60))
    if found.error.number not in (None, reply.status):
        facts.append(f"code {found.error.number}")
    facts += [redactor.line(word, 60) for word in found.error.words[:2]]
    says = found.detail or redactor.line(found.error.message, _LONGEST_REASON)
    reason = f"{found.signal.shows} ({', '.join(filter(None, facts))})" + (f": {says}" if says else "")
    return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1].rstrip() + "…"
