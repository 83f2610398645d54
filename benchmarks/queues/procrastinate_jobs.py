"""Procrastinate: defer a job; its own worker runs it, woken by LISTEN.

With ``app`` as a further argument, each job also does what an app has to: the same durable writes as ours, in as few
transactions as Procrastinate allows. The status is queued in the transaction that defers the job, and processing
before the call; session, event and status are written in one transaction after it.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from benchmarks.queues.protocol import PRODUCERS, THREADS, Span, call_seconds, serve, work
from benchmarks.rates.app_writes import SET_STATUS, SUCCEED, WITH_WRITES, failed, success
from benchmarks.rates.protocol import versions

_SPANS = """
select extract(epoch from d.at)::float8, extract(epoch from s.at)::float8
from procrastinate_events d join procrastinate_events s using (job_id)
where d.type = 'deferred' and s.type = 'succeeded'
"""
_NAME = "retry_generation"

Job = Callable[[str], Coroutine[Any, Any, None]]


class Procrastinate:
    """Jobs and their events stay in the database."""

    def __init__(self, url: str, *, writes: bool) -> None:
        self.name = versions("procrastinate") + (WITH_WRITES if writes else "")
        self._app = App(connector=SyncPsycopgConnector(conninfo=url, max_size=PRODUCERS + 1))
        self._app.open()
        self._app.schema_manager.apply_schema()
        self._task = self._app.configure_task(_NAME, allow_unknown=True)
        self._database = psycopg.connect(url, autocommit=True)
        self._pool = ConnectionPool(url, min_size=0, max_size=PRODUCERS, open=True) if writes else None

    def prepare(self, count: int) -> Sequence[Any]:
        """See the protocol."""
        if self._pool is None:
            return range(count)
        return failed(self._database, count)

    def enqueue(self, item: object) -> None:
        """See the protocol."""
        if self._pool is None:
            self._task.defer(generation=str(item))
            return
        with self._pool.connection() as connection:
            connection.execute(SET_STATUS, ["queued", item])
            self._app.configure_task(_NAME, allow_unknown=True, connection=connection).defer(generation=str(item))

    def spans(self) -> Sequence[Span]:
        """See the protocol."""
        return [(row[0], row[1]) for row in self._database.execute(_SPANS)]


async def _call(generation: str) -> None:  # noqa: ARG001 - the argument of the job
    """Take as long as the provider's call does."""
    await asyncio.sleep(call_seconds())


@asynccontextmanager
async def _job(url: str, *, writes: bool) -> AsyncIterator[Job]:
    """Give what a job does."""
    if not writes:
        yield _call
        return
    async with AsyncConnectionPool(url, min_size=1, max_size=THREADS) as pool:

        async def retry(generation: str) -> None:
            async with pool.connection() as connection:
                await connection.execute(SET_STATUS, ["processing", generation])
            await _call(generation)
            async with pool.connection() as connection:
                await connection.execute(SUCCEED, success(generation))

        yield retry


def run_worker(url: str, *, writes: bool) -> None:
    """Run a worker for ever."""
    logging.disable(logging.CRITICAL)

    async def run() -> None:
        app = App(connector=PsycopgConnector(conninfo=url, max_size=THREADS + 2))
        async with _job(url, writes=writes) as job, app.open_async():
            app.task(job, name=_NAME)
            await app.run_worker_async(concurrency=THREADS, install_signal_handlers=False)

    asyncio.run(run())


if __name__ == "__main__":
    _writes = "app" in sys.argv[3:]
    if sys.argv[2] == "work":
        work(lambda: run_worker(sys.argv[1], writes=_writes))
    else:
        serve(Procrastinate(sys.argv[1], writes=_writes))
