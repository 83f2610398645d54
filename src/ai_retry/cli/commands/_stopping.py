"""How commands that run until they are stopped learn of it."""

import os
import signal
import threading
from types import FrameType


def stopped_by_signals() -> threading.Event:
    """Return what the first signal sets; the second ends the process."""
    stop = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop
