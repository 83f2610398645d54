"""When a worker looks for messages: at once after it has found some, as soon as one is announced, and now and then.

All workers hear of a message, and one gets it. So a worker that found nothing the last times looks a little later at
the next announcement: the one that is faster stays faster while it has places, and few looks are in vain.
"""

import threading
import time
from typing import Final

_IDLE_WAITS: Final = (0.1, 0.2, 0.5, 1.0)  # seconds between looks that find no message: no transaction waits for one
_HEAD_STARTS: Final = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)  # seconds for others, the more looks were in vain
_STOP_SECONDS: Final = 0.1  # until a worker that waits for messages sees that it is to stop


class Looks:
    """When the next look is due.

    Args:
        stop: ends every wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._due = threading.Event()
        self._was_announced = False
        self._idle = self._in_vain = 0

    def announced(self) -> None:
        """Look soon: a message may have come, of which all workers hear."""
        self._was_announced = True
        self._due.set()

    def again(self) -> None:
        """Look at once: there may be a message that no other worker hears of."""
        self._due.set()

    def begin(self) -> None:
        """Note that a look begins: what is announced from now on, it may not find."""
        self._due.clear()

    def wait(self, *, found: bool) -> None:
        """Wait until the next look is due, after one that found messages or none; without any, later and later."""
        if found:
            self._idle = self._in_vain = 0
            return
        looks_at = time.monotonic() + _IDLE_WAITS[min(self._idle, len(_IDLE_WAITS) - 1)]
        self._idle += 1
        while not self._stop.is_set() and (left := looks_at - time.monotonic()) > 0:
            if self._due.wait(min(left, _STOP_SECONDS)):
                self._idle = 0
                self._give_head_start()
                return

    def _give_head_start(self) -> None:
        if self._was_announced:
            self._was_announced = False
            self._stop.wait(_HEAD_STARTS[min(self._in_vain, len(_HEAD_STARTS) - 1)])
            self._in_vain += 1
