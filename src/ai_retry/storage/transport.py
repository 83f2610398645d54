"""How a function in the database is called, and what a failure of the call means, once for all transports."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageOutcomeUnknown, StorageUnavailable

Transport: TypeAlias = Callable[[str, Mapping[str, Any]], Any]
"""Calls ``public.<name>`` with named arguments and returns its JSON; raises ``StorageFailure`` or ``NotConfigured``."""

LOCKED: Final = ("55P03", "40001", "40P01")  # undone by a lock or a conflict over what others are writing
_SOON = timedelta(seconds=1)
_TRANSIENT = (
    *(*LOCKED, "57014", "53"),  # or by a timeout; out of resources
    *("42804", "0A000"),  # a column's type was changed under a plan: another connection has another one
)
_INTERNAL = "XX"
_UNKNOWN = ("08", "57P", _INTERNAL, "58")  # the link or the server went away, perhaps after the commit
_TAKEN = ("23505", "23P01")
_REFUSED = "the app's tables refuse what ai-retry writes: the database's log says why"
_FOR_OPERATORS = (
    (
        ("42883", "42P01", "42703", "3F000"),
        "the database does not know what ai-retry asks for: apply the migrations of this version",
    ),
    (("42501", "28"), "the database refused ai-retry's role: use the service role, or grant it what it needs"),
    (("25000", "25006"), "ai-retry's role must be able to write, in read committed transactions"),
    (("23", "P0"), _REFUSED),
)


class RowTaken(NotConfigured):
    """A unique index or an exclusion constraint of the app refuses what was written, beside what is there.

    To a begin it means that the app lets a user do one thing at a time.
    """


class Fault(StorageOutcomeUnknown):
    """A reply that came from something in between, and looks like a configuration that an operator has to correct.

    One of them is a lost reply, like any other that is not the database's: keys are exchanged, and caches reloaded. It
    is reported, by its remedy, when it lasts.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, retry_after=_SOON)
        self.remedy = remedy


class NeverReached(StorageUnavailable):
    """No connection was ever made, for as long as a read is repeated: it has been waited for already."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, retry_after=_SOON)


def failure_of_sqlstate(sqlstate: str) -> AiRetryError:
    """Say what a SQLSTATE means for the caller (PostgreSQL documentation, appendix A); the message is never read.

    Safe to repeat in every case: functions that write are idempotent by token.
    """
    if sqlstate.startswith(_TRANSIENT):
        return StorageUnavailable(sqlstate, retry_after=_SOON)
    if sqlstate.startswith(_UNKNOWN):
        return StorageOutcomeUnknown(sqlstate, retry_after=_SOON)
    if sqlstate in _TAKEN:
        return RowTaken(f"{_REFUSED} ({sqlstate})")
    for classes, problem in _FOR_OPERATORS:
        if sqlstate.startswith(classes):
            return NotConfigured(f"{problem} ({sqlstate})")
    return StorageUnavailable(sqlstate)


def is_internal(reason: str) -> bool:
    """Whether a failure's reason is an internal error of the server, or of a function in it."""
    return reason.startswith(_INTERNAL)


def unreachable(reason: str) -> StorageUnavailable:
    """Build the failure of a call that never reached the database."""
    return StorageUnavailable(reason, retry_after=_SOON)


def reply_lost(reason: str) -> StorageOutcomeUnknown:
    """Build the failure of a call whose reply never came, or is not the database's."""
    return StorageOutcomeUnknown(reason, retry_after=_SOON)
