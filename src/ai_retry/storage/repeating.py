"""Repeats of a call whose failure may pass. Once, for every adapter; it reads no error's text and knows no function.

A first success costs nothing: what repeats is imported after a first failure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Final, Protocol, TypeVar, runtime_checkable

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure, StorageOutcomeUnknown
from ai_retry.domain.ports import Storage
from ai_retry.storage.transport import Fault, NeverReached, is_internal

READ_FOR: Final = timedelta(seconds=3)  # a user is waiting, and a snapshot is too old after ten seconds
SETTLE_FOR: Final = timedelta(seconds=20)  # something was paid for
_SAME_INTERNAL: Final = 3  # so often the same internal error is the app's, and no accident of the server
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
    try:
        return call()
    except StorageFailure as error:
        if not _may_pass(error):
            raise
        first = error
    return _Repeats(patience, began, first).run(call)


class _Repeats:
    """What was met so far."""

    def __init__(self, patience: Patience, began: float, first: StorageFailure) -> None:
        self._patience, self._began = patience, began
        self._failures = [first]

    def run(self, call: Callable[[], _T]) -> _T:
        from tenacity import Retrying, retry_if_exception, wait_random_exponential  # noqa: PLC0415 (only now needed)

        known: list[StorageFailure] = list(self._failures)

        def tried() -> _T:
            if known:
                raise known.pop()  # the first try, so that its repeat waits
            try:
                return call()
            except StorageFailure as error:
                self._failures.append(error)
                raise

        repeating = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=lambda _: self._is_enough(),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            reraise=True,
        )
        failure: AiRetryError
        try:
            return repeating(tried)
        except StorageFailure:
            failure = self._verdict()
        raise failure

    def _is_enough(self) -> bool:
        patience, last = self._patience, self._failures[-1]
        limit = patience.usual
        if patience.faults is not None and self._is_fault():
            limit = patience.faults
        if limit == _NEVER:
            return True
        same = [each.reason for each in self._failures].count(last.reason)
        if patience.stops_at_internal and is_internal(last.reason) and same >= _SAME_INTERNAL:
            return True
        return len(self._failures) > 1 and monotonic() - self._began >= limit.total_seconds()

    def _is_fault(self) -> bool:
        return all(isinstance(each, Fault) for each in self._failures)

    def _verdict(self) -> AiRetryError:
        last = self._failures[-1]
        if isinstance(last, Fault) and self._is_fault() and self._patience.faults is not None:
            return NotConfigured(last.remedy)
        unknown = [each for each in self._failures if isinstance(each, StorageOutcomeUnknown)]
        return unknown[-1] if unknown else last


def _may_pass(error: BaseException) -> bool:
    waited_for = isinstance(error, NeverReached)
    return isinstance(error, StorageFailure) and error.retry_after is not None and not waited_for
