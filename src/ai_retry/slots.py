"""How many provider calls run at once in one process.

A slow provider must not take every thread of the server: refusals, status pages and health checks are to be answered
while calls wait. Limits that belong to a user are the domain's; this one belongs to the process and knows no user.
"""

import os
from datetime import timedelta
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

from ai_retry.domain.change import Begin, Running
from ai_retry.domain.errors import TooManyParallel
from ai_retry.domain.loop import Load, Step
from ai_retry.domain.model import Snapshot
from ai_retry.domain.policy import waiting_helps

_FULL_WAIT: Final = timedelta(seconds=1)


class CallSlots:
    """The process's calls: ``limit`` of them, shared by all its threads. A fork has none of its parent's."""

    def __init__(self, limit: int) -> None:
        """Take the limit, at least 1."""
        self.limit = limit
        self._taken, self._process = 0, os.getpid()
        self._lock = Lock()

    def take(self, *, helps: bool = True) -> None:
        """Take a slot without waiting.

        Args:
            helps: whether it pays to come back later.

        Raises:
            TooManyParallel: all are taken; come back in a second, if that helps.
        """
        with self._lock:
            if self._process != os.getpid():
                self._taken, self._process = 0, os.getpid()
            if self._taken >= self.limit:
                raise TooManyParallel(self.limit, wait=_FULL_WAIT, helps=helps)
            self._taken += 1

    def give_back(self) -> None:
        """Free a taken slot.

        Raises:
            ValueError: none is taken.
        """
        with self._lock:
            if not self._taken:
                raise ValueError("a slot was released too many times")
            self._taken -= 1


class CallSlot:
    """Watches one retry, and takes a call's slot just before it begins an attempt that calls.

    There the slot is taken from no other request without need: a retry that a rule refuses has been refused already,
    a replayed result and a stored answer need none, and no attempt is opened that could not run. It is freed when the
    retry ends, settled or not.
    """

    def __init__(self, slots: CallSlots) -> None:
        self._slots = slots
        self._taken, self._helps = False, True

    def before(self, step: Step) -> None:
        """Take the slot.

        Raises:
            TooManyParallel: no slot is free; nothing was written.
        """
        if not self._taken and isinstance(step, Begin) and _calls(step):
            self._slots.take(helps=self._helps)
            self._taken = True

    def after(self, step: Step, result: Any) -> None:
        """Learn from the snapshot whether coming back helps."""
        if isinstance(step, Load) and isinstance(result, Snapshot):
            self._helps = waiting_helps(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._taken:
            self._slots.give_back()


def _calls(change: Begin) -> bool:
    start = change.attempt.start
    return isinstance(start, Running) and start.answer_from is None
