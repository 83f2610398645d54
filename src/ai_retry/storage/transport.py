"""How a function in the database is called, and what a failure of the call means, once for all transports."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageOutcomeUnknown, StorageUnavailable

Transport: TypeAlias = Callable[[str, Mapping[str, Any]], Any]
"""Calls ``public.<name>`` with named arguments and returns its JSON; raises ``StorageFailure`` or ``NotConfigured``."""

_SOON = timedelta(seconds=1)
_TRANSIENT = (
    *("40001", "40P01", "55P03", "57014", "53"),  # undone by a conflict, a lock, a timeout; out of resources
    *("42804", "0A000"),  # a column's type was changed under a plan: another connection has another one
)
_UNKNOWN = ("08", "57P", "XX", "58")  # the link or the server went away, perhaps after the commit
_FOR_OPERATORS = (
    (
        ("42883", "42P01", "42703", "3F000"),
        "the database does not know what ai-retry asks for: apply the migrations of this version",
    ),
    (("42501", "28"), "the database refused ai-retry's role: use the service role, or grant it what it needs"),
    (("25000", "25006"), "ai-retry's role must be able to write, in read committed transactions"),
    (("23", "P0"), "the app's tables refuse what ai-retry writes: the database's log says why"),
)


def failure_of_sqlstate(sqlstate: str) -> AiRetryError:
    """Say what a SQLSTATE means for the caller (PostgreSQL documentation, appendix A); the message is never read.

    Safe to repeat in every case: functions that write are idempotent by token.
    """
    if sqlstate.startswith(_TRANSIENT):
        return StorageUnavailable(sqlstate, retry_after=_SOON)
    if sqlstate.startswith(_UNKNOWN):
        return StorageOutcomeUnknown(sqlstate, retry_after=_SOON)
    for classes, problem in _FOR_OPERATORS:
        if sqlstate.startswith(classes):
            return NotConfigured(f"{problem} ({sqlstate})")
    return StorageUnavailable(sqlstate)


def unreachable(reason: str) -> StorageUnavailable:
    """Build the failure of a call that never reached the database."""
    return StorageUnavailable(reason, retry_after=_SOON)


def reply_lost(reason: str) -> StorageOutcomeUnknown:
    """Build the failure of a call whose reply never came."""
    return StorageOutcomeUnknown(reason, retry_after=_SOON)
