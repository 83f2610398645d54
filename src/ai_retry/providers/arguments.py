"""Arguments that can never work, refused at once: by name, and never with their value.

Each function raises ``ValueError``.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, section 5.5


def check_url(url: str) -> None:
    """Refuse an address that can't be asked, or that would put a secret where addresses are logged."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    require(usable, "base_url must be an http or https URL")
    require(not (parts.username or parts.password), "base_url must not hold credentials; use api_key or headers")
    require(not (parts.query or parts.fragment), "base_url must have no query; use the argument query")


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that HTTP can't carry."""
    for name, value in headers.items():
        require(bool(_HEADER_NAME.fullmatch(name)), "a header's name can't be sent")
        require(bool(_HEADER_VALUE.fullmatch(value)), f"the value of the header {name} can't be sent")


def key_header(name: str, api_key: str | None) -> dict[str, str]:
    """Write the header that carries a key: after ``Bearer`` if it is ``Authorization``, else bare."""
    bearer = "Bearer " if name.lower() == "authorization" else ""
    return {name: f"{bearer}{api_key}"} if api_key else {}


def require(condition: bool, message: str) -> None:  # noqa: FBT001 (reads as a sentence)
    """Refuse what does not hold."""
    if not condition:
        raise ValueError(message)
