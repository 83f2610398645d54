"""Hears that messages have come, on a connection of its own, so that a worker need not wait for its next look.

Hearing is no more than a hint. What is due later is not announced, nor is anything while the connection is made anew or
behind a pooler in transaction mode: a worker looks by itself as well.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import WARNING
from typing import Final

import psycopg

from ai_retry.logs import write_line
from ai_retry.storage._connection_string import LINK

_LISTEN: Final = "listen ai_retry"  # the channel that ``ai_retry.line`` notifies
_LOOK_SECONDS: Final = 0.5  # between two looks whether anyone still wants to hear
_WAITS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between tries to connect


@contextmanager
def listening(conninfo: str, heard: Callable[[], object]) -> Iterator[None]:
    """Listen meanwhile, in a thread of its own, which ends soon after.

    Args:
        conninfo: a libpq connection string.
        heard: is called, from that thread, after messages have come, and once for each connection that was made, since
            nothing was heard before.
    """
    ended = threading.Event()
    threading.Thread(target=_listen, args=(conninfo, heard, ended), name="ai-retry-listening", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _listen(conninfo: str, heard: Callable[[], object], ended: threading.Event) -> None:
    failures = 0
    while not ended.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, **LINK) as connection:
                connection.execute(_LISTEN)
                failures = 0
                heard()
                while not ended.is_set():
                    for _ in connection.notifies(timeout=_LOOK_SECONDS, stop_after=1):
                        heard()
        except (psycopg.Error, OSError) as error:  # such as no file that is free
            wait = _WAITS[min(failures, len(_WAITS) - 1)]
            failures += 1
            write_line(WARNING, "listening_failed", error=type(error).__qualname__, wait_seconds=wait)
            ended.wait(wait)
