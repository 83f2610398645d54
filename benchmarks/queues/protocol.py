"""How the processes of a queue are asked: one JSON object a line in, one out. Standard library alone."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from benchmarks.rates.protocol import write

THREADS = 8  # of a worker
PRODUCERS = 4  # threads that enqueue
POLL = 0.1  # seconds between two looks of a worker that has nothing to do, where the engine lets one choose
CALL_MS = "BENCH_CALL_MS"  # in the environment of a worker: how long the provider's call takes
_PATIENCE = 120.0  # seconds

Span = tuple[float, float]  # enqueued at, settled at: seconds of one clock


def call_seconds() -> float:
    """Give how long the provider's call takes."""
    return float(os.environ.get(CALL_MS, "0")) / 1000


def call_provider() -> None:
    """Take as long as the provider's call does."""
    if seconds := call_seconds():
        time.sleep(seconds)


class Driver(Protocol):
    """Enqueues durable work, and reads when it was settled."""

    name: str
    """With its version."""

    def prepare(self, count: int) -> Sequence[Any]:
        """Make what an app would have made before; each is handed to ``enqueue`` once."""
        ...

    def enqueue(self, item: Any) -> None:
        """Enqueue one, durably."""
        ...

    def spans(self) -> Sequence[Span]:
        """Read those that were settled, of all that were ever enqueued."""
        ...


def serve(driver: Driver) -> None:
    """Say who we are, then do what the lines of stdin ask for until it ends."""
    write({"engine": driver.name})
    for line in sys.stdin:
        asked = json.loads(line)
        spans = _driven(driver, asked["count"], asked["gap"])
        waits = sorted(settled - enqueued for enqueued, settled in spans)
        began, ended = min(enqueued for enqueued, _ in spans), max(settled for _, settled in spans)
        write({"seconds": ended - began, "p50": _rank(waits, 50), "p99": _rank(waits, 99)})


def work(run: Callable[[], object], stop: Callable[[], object] | None = None) -> None:
    """Say that we are ready, work in a thread, and end when stdin does: at once, or as ``stop`` asks."""
    import threading  # noqa: PLC0415 - drivers need it not

    working = threading.Thread(target=run, daemon=True)
    working.start()
    write({"ready": True})
    sys.stdin.read()
    if stop is not None:
        stop()
        working.join(5)


def _driven(driver: Driver, count: int, gap: float) -> Sequence[Span]:
    before = len(driver.spans())
    items = driver.prepare(count)
    if gap:
        for item in items:
            driver.enqueue(item)
            time.sleep(gap)
    else:
        with ThreadPoolExecutor(PRODUCERS) as threads:
            for _ in threads.map(driver.enqueue, items):
                pass
    until = time.monotonic() + _PATIENCE
    while len(spans := driver.spans()) < before + count:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(spans) - before} of {count} were settled")
        time.sleep(0.1)
    return sorted(spans)[before:]


def _rank(waits: Sequence[float], percent: float) -> float:
    return waits[max(1, math.ceil(len(waits) * percent / 100)) - 1]
