"""How an engine's process is asked: one JSON object a line in, one out.

Standard library alone: it runs in the peers' environment, too.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, Protocol


class Engine(Protocol):
    """Does attempts: whatever is left when they are done, nothing of theirs waits."""

    name: str
    """With its version."""

    def run(self, workers: int, count: int) -> float:
        """Do ``count`` attempts with so many workers; return the seconds that they took."""
        ...


def serve(engine: Engine) -> None:
    """Say who we are, then run what the lines of stdin ask for until it ends."""
    write({"engine": engine.name})
    for line in sys.stdin:
        asked = json.loads(line)
        write({"seconds": engine.run(asked["workers"], asked["count"])})


def spread(one: Callable[[Any], object], items: list[Any], workers: int) -> None:
    """Do one after the other, or with threads; what one raises ends it."""
    if workers == 1:
        for item in items:
            one(item)
        return
    with ThreadPoolExecutor(workers) as threads:
        for _ in threads.map(one, items):
            pass


def versions(*packages: str) -> str:
    """Name packages with the versions that are installed."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def write(what: dict[str, Any]) -> None:
    """Answer."""
    print(json.dumps(what), flush=True)
