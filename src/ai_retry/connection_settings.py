"""How settings are written that name the database and its keys.

Each function reads a value, and raises ``ValueError`` with what it must be; the value is never in the message.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from ai_retry.provider_settings import http_url, matching, word

_MIN_JWT_SECRET: Final = 32  # bytes; RFC 7518, section 3.2
_LONE_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_UNTIL_HOST: Final = re.compile(r"\w+://[^@/]*@")


def project_url(text: str) -> str:
    """Read the address of a Supabase project."""
    if urlsplit(http_url(text)).path.rstrip("/"):
        raise ValueError("must be the project's address without a path")
    return text.rstrip("/")


def postgres_url(text: str) -> str:
    """Refuse what libpq would take apart elsewhere than its author: the first "@" or "/" ends its user and password."""
    matching(r"postgres(ql)?://\S+", text, "must be an address that starts with postgresql://")
    if _LONE_PERCENT.search(text) or "@" in _UNTIL_HOST.sub("", text):
        raise ValueError('is ambiguous: percent-encode the password in it ("@" is %40, "/" is %2F, "%" is %25)')
    return text


def secret_key(text: str) -> str:
    """Read a secret key of the project."""
    if text.startswith("sb_publishable_"):
        raise ValueError("holds a publishable key, and a secret one is needed")
    return word(text)


def publishable_key(text: str) -> str:
    """Read a publishable key of the project."""
    if text.startswith("sb_secret_"):
        raise ValueError("holds a secret key, and the publishable one is needed")
    return word(text)


def jwt_secret(text: str) -> str:
    """Read the secret that signs access tokens."""
    if len(text.encode()) < _MIN_JWT_SECRET:
        raise ValueError(f"must have at least {_MIN_JWT_SECRET} bytes")
    return text
