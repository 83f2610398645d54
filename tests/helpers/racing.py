"""Calls at the same moment."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ai_retry.domain.errors import AiRetryError

T = TypeVar("T")


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | AiRetryError]:
    """Make all calls at the same moment, a thread each; an expected refusal is a result."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | AiRetryError:
        barrier.wait()
        try:
            return call()
        except AiRetryError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
