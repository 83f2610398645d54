"""Repeats of a call whose failure may pass. Once, for every adapter; it reads no error's text and knows no function."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep
from typing import Final, Protocol, TypeVar, runtime_checkable

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure, StorageOutcomeUnknown
from ai_retry.domain.ports import Storage
from ai_retry.storage.transport import Fault, NeverReached, is_internal

READ_FOR: Final = timedelta(seconds=3)  # a user is waiting, and a snapshot is too old after ten seconds
SETTLE_FOR: Final = timedelta(seconds=20)  # something was paid for
_SAME_INTERNAL: Final = 3  # so often the same internal error is the app's, and no accident of the server
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds at most, before the first repeat and before a late one
_NEVER: Final = timedelta(0)
_T = TypeVar("_T")


@runtime_checkable
class Repeats(Protocol):
    """A storage that repeats its calls by itself."""

    def once(self) -> Storage:
        """Return the same storage without repeats."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a call is repeated: at least once, unless there is no time for it at all."""

    usual: timedelta
    faults: timedelta | None  # where all that was met are faults; then they are reported. None: something was paid for
    stops_at_internal: bool = False  # the same internal error a third time is the app's: repeats don't help


def repeat(call: Callable[[], _T], patience: Patience) -> _T:
    """Call until there is a reply, the call fails for good, or the time is over.

    Raises:
        StorageFailure: the last one; an unknown outcome outweighs what came after it.
        NotConfigured: every try met a fault that an operator may cure, and nothing was paid for.
    """
    began = monotonic()
    failures: list[StorageFailure] = []
    while True:
        try:
            return call()
        except StorageFailure as error:
            failures.append(error)
        if _is_enough(failures, patience, began):
            break
        longest = _FIRST_PAUSE * 2 ** min(len(failures) - 1, 10)
        sleep(random.uniform(0, min(longest, _LONGEST_PAUSE)))  # noqa: S311 (spreads repeats, guards nothing)
    raise _verdict(failures, patience)


def _is_enough(failures: Sequence[StorageFailure], patience: Patience, began: float) -> bool:
    last, limit = failures[-1], patience.usual
    if not _may_pass(last):
        return True
    if patience.faults is not None and _are_faults(failures):
        limit = patience.faults
    if limit == _NEVER:
        return True
    same = [each.reason for each in failures].count(last.reason)
    if patience.stops_at_internal and is_internal(last.reason) and same >= _SAME_INTERNAL:
        return True
    return len(failures) > 1 and monotonic() - began >= limit.total_seconds()


def _verdict(failures: Sequence[StorageFailure], patience: Patience) -> AiRetryError:
    last = failures[-1]
    if isinstance(last, Fault) and _are_faults(failures) and patience.faults is not None:
        return NotConfigured(last.remedy)
    unknown = [each for each in failures if isinstance(each, StorageOutcomeUnknown)]
    return unknown[-1] if unknown else last


def _are_faults(failures: Sequence[StorageFailure]) -> bool:
    return all(isinstance(each, Fault) for each in failures)


def _may_pass(error: StorageFailure) -> bool:
    return error.retry_after is not None and not isinstance(error, NeverReached)
