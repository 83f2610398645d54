"""How settings are written that shape a request to the provider.

Each function reads a value, and raises ``ValueError`` with what it must be; the value is never in the message.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ai_retry.domain.context import reserved_fields
from ai_retry.domain.model import ResponseFormat


def texts(text: str) -> dict[str, str]:
    """Read a JSON object of strings."""
    problem = 'must be a JSON object of strings, such as {"name": "value"}'
    value = _json_object(text, problem)
    if not all(isinstance(each, str) for each in value.values()):
        raise ValueError(problem)
    return value


def header_name(text: str) -> str:
    """Read the name of a header."""
    return matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", text, "must be the name of an HTTP header")


def headers(text: str) -> dict[str, str]:
    """Read a JSON object of headers."""
    value = texts(text)
    for name, content in value.items():
        header_name(name)
        matching(r"[ -~]*", content, "must hold headers of visible ASCII characters")
    return value


def matching(pattern: str, text: str, problem: str) -> str:
    """Return the string if a pattern matches all of it; ``problem`` is the error otherwise."""
    if re.fullmatch(pattern, text) is None:
        raise ValueError(problem)
    return text


def word(text: str) -> str:
    """Read one word."""
    return matching(r"[!-~]+", text, "must be one word of visible ASCII characters")


def words(text: str) -> frozenset[str]:
    """Read words in any order."""
    return frozenset(ordered_words(text))


def ordered_words(text: str) -> tuple[str, ...]:
    """Read words in their order."""
    found = tuple(word(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("must hold at least one word, separated by commas")
    return found


def http_url(text: str) -> str:
    """Read the address of an API."""
    problem = "must be an address such as https://host/path, without credentials, query or fragment"
    try:
        parts = urlsplit(matching(r"https?://[!-~]+", text, problem))
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text would hold a part of the value
        raise ValueError(problem) from None
    if not complete or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(problem)
    return text.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether the address is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(?:\.\d{1,3}){3}", host) is not None


def import_string(text: str) -> str:
    """Read the name of a function."""
    dotted = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    form = rf"(?!.*\.py:){dotted}:{dotted}"
    return matching(form, text, "must name a function as package.module:function, without .py")


def extra_body(text: str) -> dict[str, Any]:
    """Read further fields of a request."""
    value = _json_object(text, 'must be a JSON object of request fields, such as {"max_tokens": 800}')
    if problem := reserved_fields(value):
        raise ValueError(problem)
    return value


def response_format(text: str) -> ResponseFormat:
    """Read the name of a response format."""
    if text not in tuple(ResponseFormat):
        raise ValueError(f"must be one of {', '.join(ResponseFormat)}")
    return ResponseFormat(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """A further provider, which is asked when those before it fail."""

    number: int = 1  # in the names of its variables
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None  # asked there; None: the model that the generation names


def fallback_on(text: str) -> frozenset[str]:
    """Read on what to fall back that is not passed on by itself."""
    words = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not words <= {"refusal", "timeout"}:
        raise ValueError("must hold refusal, timeout or both, separated by a comma")
    return words


def numbered(names: Iterable[str]) -> tuple[Sequence[int], Sequence[str]]:
    """Find the numbers of the providers that these variables name, in order; with variables that are none of theirs."""
    found, unknown = set(), []
    for name in names:
        matched = re.fullmatch(r"AI_FALLBACK_([1-9]\d?)_(BASE_URL|API_KEY|MODEL)", name, re.ASCII)
        if matched is None:
            unknown.append(name)
        else:
            found.add(int(matched[1]))
    return sorted(found), sorted(unknown)


def _json_object(text: str, problem: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # JSON knows no NaN, and a request can't carry it
    except (ValueError, RecursionError):
        raise ValueError(problem) from None
    if not isinstance(value, dict):
        raise ValueError(problem)  # noqa: TRY004 - one kind of error for every wrong value
    return value
