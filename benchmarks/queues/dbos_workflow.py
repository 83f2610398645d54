"""DBOS: a workflow of one step is enqueued by a client; its executors take it from the queue."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.queues.protocol import POLL, THREADS, Span, call_provider, serve, work
from benchmarks.rates.protocol import versions

QUEUE = "retries"
_SPANS = """
select created_at / 1000.0::float8, coalesce(completed_at, updated_at) / 1000.0::float8
from dbos.workflow_status where status = 'SUCCESS' and queue_name = %s
"""


class Dbos:
    """Workflows stay in the database."""

    name = versions("dbos")

    def __init__(self, url: str) -> None:
        _launch(url, "driver", listen=False)  # it makes the tables
        DBOS.destroy()
        self._client = DBOSClient(system_database_url=url)
        self._database = psycopg.connect(url, autocommit=True)

    def prepare(self, count: int) -> Sequence[Any]:
        """See the protocol."""
        return range(count)

    def enqueue(self, item: int) -> None:
        """See the protocol."""
        self._client.enqueue({"queue_name": QUEUE, "workflow_name": "retry_generation", "app_version": "1"}, item)

    def spans(self) -> Sequence[Span]:
        """See the protocol."""
        return [(row[0], row[1]) for row in self._database.execute(_SPANS, [QUEUE])]


def _call(number: int) -> int:
    """Stand for the provider's call."""
    call_provider()
    return number


def _launch(url: str, executor: str, *, listen: bool) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "1",
        "executor_id": executor,
        "console_log_level": "CRITICAL",
    }
    DBOS(config=config)
    if listen:
        call_step = DBOS.step(name="call_provider")(_call)

        def retry_generation(number: int) -> int:
            return int(call_step(number))

        DBOS.workflow(name="retry_generation")(retry_generation)
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=THREADS, polling_interval_sec=POLL)


def run_worker(url: str) -> None:
    """Run an executor for ever."""
    _launch(url, f"executor-{os.getpid()}", listen=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    if sys.argv[2] == "work":
        work(lambda: run_worker(sys.argv[1]))
    else:
        serve(Dbos(sys.argv[1]))
