"""Procrastinate: defer jobs one by one, then its own worker runs them until none is left."""

import asyncio
import logging
import sys
import time

from procrastinate import App, PsycopgConnector

from benchmarks.rates.protocol import serve, versions

MOST_WORKERS = 16


class Procrastinate:
    """Defers with ``workers`` coroutines and runs with a worker of that concurrency; both phases count."""

    name = versions("procrastinate")

    def __init__(self, url: str) -> None:
        logging.disable(logging.WARNING)
        self._loop = asyncio.Runner()
        self._app = App(connector=PsycopgConnector(conninfo=url, max_size=MOST_WORKERS + 2))
        self._task = self._app.task(_call, name="retry_generation")
        self._loop.run(self._open())

    def run(self, workers: int, count: int) -> float:
        """See the protocol."""
        return self._loop.run(self._run(workers, count))

    async def _open(self) -> None:
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()

    async def _run(self, workers: int, count: int) -> float:
        numbers = iter(range(count))

        async def defer() -> None:
            for number in numbers:
                await self._task.defer_async(generation=number)

        began = time.perf_counter()
        await asyncio.gather(*(defer() for _ in range(workers)))
        await self._app.run_worker_async(
            wait=False, concurrency=workers, install_signal_handlers=False, listen_notify=False
        )
        return time.perf_counter() - began


async def _call(generation: int) -> None:
    """Stand for the provider's call."""


if __name__ == "__main__":
    serve(Procrastinate(sys.argv[1]))
