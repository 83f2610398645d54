"""How settings are written that say which access tokens count.

Each function reads a value, and raises ``ValueError`` with what it must be; the value is never in the message.
"""

from typing import Final

from ai_retry.provider_settings import matching

_NEVER_USERS: Final = ("anon", "service_role")  # roles of API keys


def issuers(text: str) -> tuple[str, ...]:
    """Read the addresses that ``iss`` may hold."""
    problem = "must be an address, or several with commas between them"
    addresses = tuple(matching("[!-~]+", each, problem) for each in _words(text))
    if not addresses:
        raise ValueError(problem)
    return addresses


def roles(text: str) -> frozenset[str]:
    """Read the database roles of users; those of API keys are no user's."""
    problem = "must name roles of signed-in users, with commas between them, and not anon or service_role"
    words = frozenset(matching(r"[^\W\d]\w*", each, problem) for each in _words(text))
    if not words or not words.isdisjoint(_NEVER_USERS):
        raise ValueError(problem)
    return words


def assurance(text: str) -> str:
    """Read an authenticator assurance level."""
    return matching("aal[123]", text, "must be aal1, aal2 or aal3")


def _words(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
