"""The one classifier: from a status, headers and a body to an answer or a failure.

Pure: no I/O and no clock. It looks for the facts in the order of their weight (a status beats a body, an error beats
content, a finish reason beats whether the content parses); what they mean is in ``signals`` and ``answer_signals``.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from http import HTTPStatus
from typing import Any

from ai_retry.domain.model import Answer, Failure, FailureCode
from ai_retry.providers import answer_signals
from ai_retry.providers.bodies import ErrorBody, mapping, parse, read_error, read_id, read_text, read_usage, read_words
from ai_retry.providers.reading import Finding, of_error, read, read_plain
from ai_retry.providers.redaction import Redactor
from ai_retry.providers.signal import LONGEST_REASON, Signal
from ai_retry.providers.validation import Wanted
from ai_retry.providers.waits import retry_after

_LONGEST_NAME = 200  # of models and ids
_MOST_LOOKED_AT = 2000  # characters of a page
_PAGE = re.compile(r"<!doctype html|<html|\A<\?xml", re.IGNORECASE)
_JSON_BEGINS = "{["
_WRONG_SCHEME = "http request to an https server"  # as servers written in Go say it, without HTML


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


def classify(
    reply: Reply,
    *,
    schema: "Wanted | None",
    now: datetime,
    redactor: Redactor,
    added: Collection[str] = (),
) -> Answer | Failure:
    """Judge an answer.

    Args:
        reply: what came.
        schema: that the output must be valid under; None: the output is the content, as text.
        now: for waits that are given as an instant.
        redactor: cleans what the provider wrote.
        added: the request's fields that the deployment added, not the user. An error that names one of them, or a part
            of ``response_format`` where that is one, is the operator's fault.
    """
    text = read_text(reply.body)
    document = parse(text)
    envelope = mapping(document[0] if isinstance(document, list) and document else document)
    if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        found = _unreadable(reply, text, document, added) or read(envelope, schema, added)
    else:
        found = _from_status(reply, document, text, now, added)
    model, provider_id = envelope.get("model"), read_id(reply.headers, envelope)
    facts: dict[str, Any] = {
        "model": redactor.line(model, _LONGEST_NAME) if isinstance(model, str) and model else None,
        "provider_id": redactor.line(provider_id, _LONGEST_NAME) if provider_id else None,
        "usage": read_usage(envelope, reply.headers),
    }
    if isinstance(found, Finding):
        return _failure(found, reply, now, redactor, facts)
    return Answer(output=found[0], **facts)


def judge_error(reply: Reply, *, now: datetime, added: Collection[str] = ()) -> tuple[Signal, timedelta | None]:
    """Return the row for an answer that is an error by its status, and the wait that it asks for; see ``classify``."""
    text = read_text(reply.body)
    found = _from_status(reply, parse(text), text, now, added)
    return _as_told(found.signal, found.error, reply.headers), retry_after(reply.headers, found.error.data, now)


def is_web_page(body: str, headers: Mapping[str, str]) -> bool:
    """Whether HTML or XML came where JSON was asked for.

    Args:
        body: its beginning is enough.
        headers: names in lower case.
    """
    if not body.startswith("<"):
        return False
    kind = headers.get("content-type", "").lower()
    return "html" in kind or "xml" in kind or _PAGE.search(body[:_MOST_LOOKED_AT]) is not None


def _from_status(reply: Reply, document: Any, text: str, now: datetime, added: Collection[str]) -> Finding:
    """Judge by status and body, even if the body is cut or is not JSON."""
    if reply.status < HTTPStatus.OK:
        return Finding(answer_signals.CUT, detail="an interim status ended it")
    error = read_words(text) if document is None else read_error(document)
    if is_web_page(text, reply.headers) or _WRONG_SCHEME in text[:_MOST_LOOKED_AT].lower():
        error = replace(error, signs=(*error.signs, "web_page"))
    if retry_after(reply.headers, error.data, now) is not None:
        error = replace(error, signs=(*error.signs, "wait_named"))
    return of_error(reply.status, error, added)


def _unreadable(reply: Reply, text: str, document: Any, added: Collection[str]) -> Finding | None:
    if is_web_page(text, reply.headers):
        return Finding(answer_signals.WEB_PAGE)
    ended = {
        Ending.LATE: answer_signals.STALLED,
        Ending.CUT: answer_signals.CUT,
        Ending.TOO_LARGE: answer_signals.TOO_LARGE,
    }
    if reply.ending in ended:
        return Finding(ended[reply.ending])
    if not text:
        return Finding(answer_signals.CUT, detail="an empty body")
    if text[0] not in _JSON_BEGINS:
        plain = document if isinstance(document, str) else text
        return read_plain(plain, added) or Finding(answer_signals.NOT_JSON)
    return Finding(answer_signals.CUT, detail="half an envelope") if document is None else None


def _failure(found: Finding, reply: Reply, now: datetime, redactor: Redactor, known: Mapping[str, Any]) -> Failure:
    signal = _as_told(found.signal, found.error, reply.headers)
    used = known["usage"]
    spent = used and any((used.prompt_tokens, used.completion_tokens, used.total_tokens, used.cost))
    facts, says = _reason(found, reply, redactor)
    return signal.failure(
        says,
        facts=facts,
        wait=retry_after(reply.headers, found.error.data, now),
        invalid=found.invalid,
        model=known["model"],
        usage=used if spent else None,  # some providers send zeros where they did not count
        provider_id=known["provider_id"],
    )


def _as_told(signal: Signal, error: ErrorBody, headers: Mapping[str, str]) -> Signal:
    """Bow to what the provider says of this very case."""
    if error.retryable is False or headers.get("x-should-retry", "").strip().lower() == "false":
        signal = replace(signal, transient=False)
    elif error.retryable and signal.code is FailureCode.REJECTED:
        signal = replace(signal, code=FailureCode.UNAVAILABLE, transient=True, operator_fault=False, refused=False)
    if any(
        status != HTTPStatus.TOO_MANY_REQUESTS for status in error.earlier_statuses
    ):  # a router fell back: others may have generated
        signal = replace(signal, not_generated=False)
    return signal


def _reason(found: Finding, reply: Reply, redactor: Redactor) -> tuple[str, str]:
    """Return the provider's status and words; and our detail, its message and that of the provider behind it."""
    facts = [f"HTTP {reply.status}"]
    if found.signal in (answer_signals.NOT_JSON, answer_signals.WEB_PAGE):
        facts.append(redactor.line(reply.headers.get("content-type", ""), 60))
    if found.error.number not in (None, reply.status):
        facts.append(f"code {found.error.number}")
    facts += [redactor.line(word, 60) for word in found.error.words[:2]]
    texts = (redactor.line(text, LONGEST_REASON) for text in (found.error.message, found.error.upstream))
    says = filter(None, (found.detail, *texts))
    return ", ".join(filter(None, facts)), ": ".join(says)
