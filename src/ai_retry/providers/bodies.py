"""Reads what providers write into bodies, leniently: whatever arrives, a reader returns what it could make out.

This module knows shapes; ``signals`` knows what they mean. Nothing raises, and nothing is cleaned: see ``redaction``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from ai_retry.domain.model import Usage

_IDS = (
    "x-generation-id",  # OpenRouter; an operator can look the generation up by it
    "x-request-id",  # OpenAI and most others
    "request-id",  # Anthropic
    "apim-request-id",  # Azure
    "x-ds-trace-id",  # DeepSeek
    "x-litellm-call-id",
)
_LARGEST_COUNT = 2**31 - 1  # PostgreSQL's integer; no honest count of tokens is larger
_COST = re.compile(r"[0-9]{1,12}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,2})?", re.ASCII)
_LIMIT = re.compile(r"\bLimit:? ([0-9]{1,12})\b.{0,60}?\bRequested:? ([0-9]{1,12})\b", re.ASCII)
_CONTEXT_LENGTH = re.compile(r"(maximum|model's) context length", re.IGNORECASE)  # vLLM, SGLang, DeepSeek, OpenRouter
_MAX_TOKENS = re.compile(r"too large: ([0-9]{1,12})\b.{0,60}?context length is ([0-9]{1,12})\b", re.ASCII)  # vLLM
_PER_TIME = re.compile(r"per[ _-]?(second|minute|hour|day)", re.IGNORECASE)
_ANSWER = re.compile(r'"(?:choices|content|delta|failed_generation|text)"\s*:')
_MESSAGES = (
    *(
        "message",
        "msg",
        "error_msg",
        "error_message",
        "errorMessage",
        "status_msg",
        "faultstring",
        "error_description",
        "error",
    ),
)  # OpenAI and most; Chinese gateways; Baidu; AWS; MiniMax; Apigee; OAuth
_STATUSES = ("code", "http_status", "status", "raw_status_code", "status_code", "statusCode", "http_code")
_LEADING = re.compile(r"\s*(?::[^\n]*\n\s*)*")  # blank lines, and comments of a stream that was none


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error says about itself."""

    data: Mapping[str, Any] = field(default_factory=dict)  # the error object
    message: str = ""
    words: tuple[str, ...] = ()  # machine words in lower case, the most specific first
    number: int | None = None  # a ``code`` that is an HTTP status
    param: str = ""  # the request's field that it is about
    upstream: str = ""  # the message of the provider that a router had asked
    signs: tuple[str, ...] = ()  # words of ours for what it shows without a machine word

    @property
    def retryable(self) -> bool | None:
        """OpenRouter's own verdict, None when it gives none."""
        flag = mapping(self.data.get("availability")).get("retryable")
        return flag if isinstance(flag, bool) else None

    @property
    def earlier_statuses(self) -> list[Any]:
        """Statuses of the providers that a router tried before (OpenRouter's ``metadata.previous_errors``)."""
        previous = mapping(self.data.get("metadata")).get("previous_errors")
        return [mapping(entry).get("status") for entry in previous] if isinstance(previous, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def read_text(body: bytes) -> str:
    """Decode as UTF-8 whatever the headers say, without a byte order mark; then skip what may precede JSON.

    Bytes that are not UTF-8 become lone surrogates, which no valid content may hold.
    """
    text = body.decode("utf-8-sig", errors="surrogateescape")
    found = _LEADING.match(text)
    return text[found.end() if found else 0 :].rstrip()


_decode = json.JSONDecoder(parse_constant=lambda _: None).decode


def parse(text: str) -> Any:
    """Read an envelope; None when it does not parse. Constants that are not JSON are read as null."""
    try:
        return _decode(text)
    except (ValueError, RecursionError):
        return None


def read_error(value: Any, *, levels: int = 5) -> ErrorBody:
    """Find the error in the shapes that providers use; an empty one when there is none.

    Args:
        value: JSON.
        levels: of errors within errors that are looked into.
    """
    value = mapping(_first(value))  # Gemini answers errors in a list
    error = next(filter(None, _errors(value)), value)
    if isinstance(error, str):  # Ollama's native API, xAI, LM Studio
        text = ErrorBody(message=error, words=_words(value, value), number=_number(value), signs=("error_text",))
        return _wrapped(error, text, levels) or text
    error = mapping(error)
    said = (error.get(name) for name in _MESSAGES)
    message = next((each for each in said if isinstance(each, str)), None) or _detail(error.get("detail"))
    upstream = _upstream(mapping(error.get("metadata")).get("raw"), levels)
    found = ErrorBody(
        data=error,
        message=message,
        words=_words(error, value),
        number=_number(error),
        param=_param(error) or upstream.param,
        upstream=upstream.message,
        signs=("limit_per_time",) if _is_per_time(error.get("details")) else (),
    )
    wrapped = (_wrapped(error.get(name), found, levels) for name in ("error", "detail", "message"))
    return next(filter(None, wrapped), found)


def _wrapped(value: Any, around: ErrorBody, levels: int) -> ErrorBody | None:
    """Read an error that is the text, or the message, of another one, as gateways and Mistral write it."""
    inner = parse(value) if isinstance(value, str) and value.lstrip()[:1] == "{" else value
    if not isinstance(inner, Mapping) or not levels:
        return None
    found = read_error(inner, levels=levels - 1)
    return replace(
        found,
        message=found.message or (around.message if around.message != value else ""),
        words=tuple(dict.fromkeys((*found.words, *around.words))),
        number=found.number or around.number,
        param=found.param or around.param,
        signs=tuple(sign for sign in (*found.signs, *around.signs) if sign != "error_text"),
    )


def is_error(envelope: Mapping[str, Any]) -> bool:
    """Whether an envelope says that it is an error, whatever else it holds."""
    return (
        any(_errors(envelope))
        or "error" in (envelope.get("object"), envelope.get("type"))
        or envelope.get("success") is False
    )


def _errors(value: Mapping[str, Any]) -> Iterator[Any]:
    """Give what may be the error in an object, of which the first that is not empty counts."""
    yield _first(value.get("error"))
    yield _first(value.get("errors"))  # Cloudflare
    yield value.get("fault")  # Apigee
    minimax = mapping(value.get("base_resp"))
    yield minimax if minimax.get("status_code") else None


def _first(value: Any) -> Any:
    """Give the first member of a list that is not empty; anything else as it is."""
    return next(filter(None, value), None) if isinstance(value, list) else value


def read_words(text: str) -> ErrorBody:
    """Read an error that is not JSON; an empty one for a web page, and for what may hold a part of an answer."""
    return ErrorBody() if text.startswith("<") or _ANSWER.search(text) else ErrorBody(message=text)


def _upstream(raw: Any, levels: int) -> ErrorBody:
    """Read OpenRouter's ``metadata.raw``: what the provider behind it answered, JSON as a rule, else words."""
    inner = parse(raw) if isinstance(raw, str) else raw
    if inner is None:
        return read_words(raw) if isinstance(raw, str) else ErrorBody()
    return read_error(inner, levels=levels - 1) if levels else ErrorBody()


def _param(error: Mapping[str, Any]) -> str:
    """OpenAI's ``param``, or the places of FastAPI's ``detail``."""
    param, detail = error.get("param"), error.get("detail")
    if isinstance(param, str):
        return param if param[:1].isalpha() and param != "None" else ""  # LiteLLM's null; One API writes the status
    entries = [mapping(entry) for entry in detail] if isinstance(detail, list) else []
    return " ".join(_place(entry.get("loc")) for entry in entries[:5])


def _is_per_time(details: Any) -> bool:
    """Whether Google's ``details`` name a wait (``RetryInfo``) or a quota per time (``QuotaFailure``)."""
    entries = [mapping(entry) for entry in details] if isinstance(details, list) else []
    violations = [entry["violations"] for entry in entries if isinstance(entry.get("violations"), list)]
    quotas = (mapping(each).get("quotaId") for some in violations for each in some)
    return any("retryDelay" in entry for entry in entries) or any(_PER_TIME.search(str(quota)) for quota in quotas)


def _detail(detail: Any) -> str:
    """FastAPI's ``detail``: a string, or a list of places and messages."""
    if isinstance(detail, str):
        return detail
    entries = [mapping(entry) for entry in detail] if isinstance(detail, list) else []
    return "; ".join(f"{_place(entry.get('loc'))}: {entry.get('msg')}" for entry in entries[:5])


def _place(loc: Any) -> str:
    return ".".join(str(part) for part in loc) if isinstance(loc, list) else ""


def _number(error: Mapping[str, Any]) -> int | None:
    for name in _STATUSES:
        text = str(error.get(name))
        if re.fullmatch("[1-5][0-9]{2}", text, re.ASCII):
            return int(text)
    return None


def _words(error: Mapping[str, Any], outer: Mapping[str, Any]) -> tuple[str, ...]:
    """Collect the machine words, and name the fields whose mere presence means something."""
    metadata, availability = mapping(error.get("metadata")), mapping(error.get("availability"))
    details = error.get("details")
    candidates: Iterator[Any] = iter(
        (
            metadata.get("limit_source"),
            error.get("code"),
            mapping(details).get("error_code"),
            availability.get("code"),
            metadata.get("error_type"),
            error.get("error_type"),
            error.get("type"),
            error.get("status"),
            mapping(error.get("innererror")).get("code"),
            *(mapping(entry).get("reason") for entry in (details if isinstance(details, list) else ())),
        )
    )
    words = [word.lower() for word in candidates if isinstance(word, str) and word and not word.isdigit()]
    words += ["failed_generation"] if "failed_generation" in error or "failed_generation" in outer else []
    words += ["flagged_input"] if "flagged_input" in metadata else []
    words += ["requested_over_limit"] if _is_over_limit(error.get("message")) else []
    words += ["context_length_exceeded"] if _is_too_long(error.get("message")) else []
    return tuple(dict.fromkeys(words))


def _is_over_limit(message: Any) -> bool:
    """Whether it says ``Limit 8000, Requested 9500``: OpenAI and Groq say it in the text only."""
    found = _LIMIT.search(message) if isinstance(message, str) else None
    return found is not None and int(found[2]) > int(found[1])


def _is_too_long(message: Any) -> bool:
    """Whether it says that the prompt does not fit into the context, beside which ``max_tokens`` may be named."""
    if not isinstance(message, str) or _CONTEXT_LENGTH.search(message) is None:
        return False
    found = _MAX_TOKENS.search(message)
    return found is None or int(found[1]) < int(found[2])  # else no prompt would fit


def read_usage(envelope: Mapping[str, Any], headers: Mapping[str, str]) -> Usage | None:
    """Tokens and cost as reported: OpenAI's ``usage``, OpenRouter's ``usage.cost``, LiteLLM's cost header."""
    usage = mapping(envelope.get("usage"))
    cost = _cost(usage.get("cost"))
    reported = Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        total_tokens=_count(usage.get("total_tokens")),
        cost=_cost(headers.get("x-litellm-response-cost")) if cost is None else cost,
    )
    return None if reported == Usage() else reported


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT else None


def _cost(value: Any) -> Decimal | None:
    """Through text, since the binary value of 0.1 is not what was meant."""
    text = str(value).strip()
    return Decimal(text) if _COST.fullmatch(text) else None


def read_id(headers: Mapping[str, str], envelope: Mapping[str, Any]) -> str | None:
    """The id under which the provider knows the request, for its support and its logs."""
    ids = [headers.get(name) for name in _IDS]
    ids += [envelope.get("request_id"), envelope.get("id"), headers.get("cf-ray")]
    return next((name for name in ids if isinstance(name, str) and name.strip()), None)
