"""Procrastinate: defer a job; its own worker runs it, woken by LISTEN."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Any

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from benchmarks.queues.protocol import PRODUCERS, THREADS, Span, call_provider, serve, work
from benchmarks.rates.protocol import versions

_SPANS = """
select extract(epoch from d.at)::float8, extract(epoch from s.at)::float8
from procrastinate_events d join procrastinate_events s using (job_id)
where d.type = 'deferred' and s.type = 'succeeded'
"""


class Procrastinate:
    """Jobs and their events stay in the database."""

    name = versions("procrastinate")

    def __init__(self, url: str) -> None:
        self._app = App(connector=SyncPsycopgConnector(conninfo=url, max_size=PRODUCERS + 1))
        self._app.open()
        self._app.schema_manager.apply_schema()
        self._task = self._app.task(_call, name="retry_generation")
        self._database = psycopg.connect(url, autocommit=True)

    def prepare(self, count: int) -> Sequence[Any]:
        """See the protocol."""
        return range(count)

    def enqueue(self, item: int) -> None:
        """See the protocol."""
        self._task.defer(generation=item)

    def spans(self) -> Sequence[Span]:
        """See the protocol."""
        return [(row[0], row[1]) for row in self._database.execute(_SPANS)]


def _call(generation: int) -> None:  # noqa: ARG001 - the argument of the job
    """Stand for the provider's call."""
    call_provider()


def run_worker(url: str) -> None:
    """Run a worker for ever."""
    logging.disable(logging.CRITICAL)

    async def run() -> None:
        app = App(connector=PsycopgConnector(conninfo=url, max_size=THREADS + 2))
        app.task(_call, name="retry_generation")
        async with app.open_async():
            await app.run_worker_async(concurrency=THREADS, install_signal_handlers=False)

    asyncio.run(run())


if __name__ == "__main__":
    if sys.argv[2] == "work":
        work(lambda: run_worker(sys.argv[1]))
    else:
        serve(Procrastinate(sys.argv[1]))
