"""How the settings of the webhook are written.

Each function reads a value, and raises ``ValueError`` with what it must be; the value is never in the message.
"""

import binascii
from base64 import b64decode
from typing import Final
from urllib.parse import urlsplit

from ai_retry.provider_settings import is_loopback, matching

_PREFIX: Final = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # bytes; Standard Webhooks, symmetric keys


def webhook_url(text: str) -> str:
    """Read the address of a receiver; one elsewhere than on this machine must encrypt."""
    problem = "must be an address such as https://host/path, without credentials or fragment"
    try:
        parts = urlsplit(matching(r"https?://[!-~]+", text, problem))
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text would hold a part of the value
        raise ValueError(problem) from None
    if not is_complete or parts.username is not None or parts.fragment:
        raise ValueError(problem)
    if parts.scheme == "http" and not is_loopback(text):
        raise ValueError("must begin with https:// (http:// is for a receiver on this machine)")
    return text


def webhook_secrets(text: str) -> tuple[str, ...]:
    """Read one secret, or several with blanks between them, while they are rotated."""
    secrets = tuple(text.split())
    for each in secrets:
        key_of(each)
    return secrets


def key_of(secret: str) -> bytes:
    """Decode a secret."""
    problem = (
        f"must hold secrets such as {_PREFIX}…: base64 of {_SHORTEST} to {_LONGEST} random bytes, separated by blanks"
    )
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(problem) from None
    if not secret.startswith(_PREFIX) or not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(problem)
    return key
