"""Procrastinate: defer jobs one by one, then its own worker runs them until there are no more.

With ``app`` as a further argument, each job also makes the same durable writes as ours: the status in the transaction
that defers the job; session, event and status in one transaction after the call.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Sequence

import psycopg
from procrastinate import App, PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from benchmarks.rates.app_writes import SET_STATUS, SUCCEED, WITH_WRITES, failed, success
from benchmarks.rates.protocol import serve, versions

MOST_WORKERS = 16


class Procrastinate:
    """Defers with ``workers`` coroutines and runs with a worker of that concurrency; both phases count."""

    def __init__(self, url: str, *, writes: bool) -> None:
        logging.disable(logging.WARNING)
        self.name = versions("procrastinate") + (WITH_WRITES if writes else "")
        self._database = psycopg.connect(url, autocommit=True) if writes else None
        self._loop = asyncio.Runner()
        self._app = App(connector=PsycopgConnector(conninfo=url, max_size=MOST_WORKERS + 2))
        self._loop.run(self._open(url))

    def run(self, workers: int, count: int) -> float:
        """See the protocol."""
        generations = failed(self._database, count) if self._database is not None else [*map(str, range(count))]
        return self._loop.run(self._run(workers, generations))

    async def _open(self, url: str) -> None:
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()
        self._task = self._app.task(self._succeed if self._database is not None else _call, name="retry_generation")
        self._pool = AsyncConnectionPool(url, min_size=0, max_size=MOST_WORKERS, open=False)
        await self._pool.open()

    async def _run(self, workers: int, generations: Sequence[str]) -> float:
        waiting = iter(generations)

        async def defer() -> None:
            for generation in waiting:
                await self._defer(generation)

        began = time.perf_counter()
        await asyncio.gather(*(defer() for _ in range(workers)))
        await self._app.run_worker_async(
            wait=False, concurrency=workers, install_signal_handlers=False, listen_notify=False
        )
        return time.perf_counter() - began

    async def _defer(self, generation: str) -> None:
        if self._database is None:
            await self._task.defer_async(generation=generation)
            return
        async with self._pool.connection() as connection:
            await connection.execute(SET_STATUS, ["processing", generation])
            await self._task.configure(connection=connection).defer_async(generation=generation)

    async def _succeed(self, generation: str) -> None:
        await _call(generation)
        async with self._pool.connection() as connection:
            await connection.execute(SUCCEED, success(generation))


async def _call(generation: str) -> None:
    """Stand for the provider's call."""


if __name__ == "__main__":
    serve(Procrastinate(sys.argv[1], writes="app" in sys.argv[2:]))
