"""How settings are written that shape a request to the provider.

Each function reads a value, and raises ``ValueError`` with what it must be; the value is never in the message.
"""

import json
import re
from typing import Any

from ai_retry.domain.context import reserved_fields
from ai_retry.domain.model import ResponseFormat


def texts(text: str) -> dict[str, str]:
    """Read a JSON object of strings."""
    problem = 'must be a JSON object of texts, such as {"name": "value"}'
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


def _json_object(text: str, problem: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # JSON knows no NaN, and a request can't carry it
    except (ValueError, RecursionError):
        raise ValueError(problem) from None
    if not isinstance(value, dict):
        raise ValueError(problem)  # noqa: TRY004 - one kind of error for every wrong value
    return value
