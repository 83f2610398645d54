"""How a storage asks the database: a call and the reading of its reply are one thing, repeated while it may pass.

A reply that is not understood, such as the page of something in between, is a lost reply like any other.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.storage.codec import Json, NotOurs
from ai_retry.storage.repeating import Patience, repeat
from ai_retry.storage.transport import Transport, reply_lost

_T = TypeVar("_T")
_NOT_OURS: Final = "a reply that is not ai-retry's"
_TOO_MUCH: Final = "prompt_data, or a session, is nested too deeply or holds too large a number"
_OUT_OF_RANGE: Final = (
    "a row of generations, or of ours, holds a value out of range (an instant, a duration, a number, a depth)"
)
ONCE: Final = timedelta(0)


class Calls:
    """Calls functions of the database.

    Args:
        call: the transport.
        read_for: how long a call is repeated that settles nothing, at least once.
        settle_for: how long a call is repeated that settles something, or waits for no user, at least once.
    """

    def __init__(self, call: Transport, *, read_for: timedelta, settle_for: timedelta) -> None:
        self._transport = call
        self._reading = Patience(usual=read_for, faults=read_for)
        self._polling = Patience(usual=ONCE, faults=read_for)
        self._searching = Patience(usual=settle_for, faults=read_for)
        self._settling = Patience(usual=settle_for, faults=None, stops_at_internal=True)
        self._keeping = Patience(usual=settle_for, faults=None)

    def _ask(self, function: str, arguments: Json, read: Callable[[Any], _T], patience: Patience) -> _T:
        """Call a function, and read what it returns.

        Raises:
            StorageFailure: see ``repeat``.
            NotConfigured: an operator has to act, or what the app wrote is beyond what Python can hold.
        """
        return repeat(lambda: self._asked(function, arguments, read), patience)

    def _look(self, function: str, arguments: Json, read: Callable[[Any], _T], patience: Patience) -> _T:
        """Do the same with a function that can be called as often as it takes: a lost reply matters to no caller."""
        failure: AiRetryError
        try:
            return self._ask(function, arguments, read, patience)
        except StorageOutcomeUnknown as error:
            failure = StorageUnavailable(error.reason, retry_after=error.retry_after)
        raise failure

    def _asked(self, function: str, arguments: Json, read: Callable[[Any], _T]) -> _T:
        failure: AiRetryError
        try:
            reply = self._transport(function, arguments)
        except UnicodeDecodeError:
            failure = reply_lost(_NOT_OURS)
        except (ValueError, RecursionError):
            failure = NotConfigured(_TOO_MUCH)
        else:
            return read_reply_of(read, reply)
        raise failure


def read_reply_of(read: Callable[[Any], _T], reply: Any) -> _T:
    """Read a reply, or a part of one.

    Raises:
        StorageOutcomeUnknown: it is not what the function returns.
        NotConfigured: what the app wrote is beyond what Python can hold.
    """
    failure: AiRetryError
    try:
        return read(reply)
    except (NotOurs, KeyError, AttributeError):
        failure = reply_lost(_NOT_OURS)
    except (ValueError, OverflowError, TypeError, RecursionError):  # beyond Python, such as an infinite instant
        failure = NotConfigured(_OUT_OF_RANGE)
    raise failure
