"""What a request says, read as text and bytes, and bounded."""

import re
from typing import Final

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_list_header

from ai_retry.domain.errors import Unauthenticated
from ai_retry.flask.first_calls import check_media_type
from ai_retry.problems import Refused, body_too_large, invalid_request

_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750, section 2.1
_BROKEN_OFF: Final = invalid_request({"_schema": ["The body is not complete."]})


def access_token() -> str:
    """Take the token out of the one ``Authorization`` header; two of them arrive joined, and match no longer."""
    bearer = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if bearer is None:
        raise Unauthenticated("no bearer token")
    return bearer[1]


def body(most: int) -> bytes:
    """Read the body of a first call, and not more than that.

    Raises:
        Refused: it is no plain JSON, it is too large, or its client went away.
    """
    charset = request.mimetype_params.get("charset", "")
    check_media_type(request.mimetype, charset, request.headers.get("Content-Encoding", ""))
    data = bytearray()
    try:
        while len(data) <= most and (part := request.stream.read(most + 1 - len(data))):
            data += part
    except RequestEntityTooLarge:  # than the host allows
        raise Refused(body_too_large(request.max_content_length or most)) from None
    except Exception:  # noqa: BLE001 - whatever the server raises for a body that breaks off, or is no body
        raise Refused(_BROKEN_OFF) from None
    if len(data) > most:
        raise Refused(body_too_large(most))
    if len(data) < (request.content_length or 0):
        raise Refused(_BROKEN_OFF)
    return bytes(data)


def prefers_async() -> bool:
    """Read ``Prefer``, of which there may be several; what else is preferred is ignored (RFC 7240, section 2)."""
    preferences = parse_list_header(request.headers.get("Prefer", ""))
    names = (each.partition(";")[0].strip().lower() for each in preferences)
    return any(each.removesuffix('=""') == "respond-async" for each in names)  # an empty value is none
