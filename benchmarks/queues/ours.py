"""ai-retry: a retry is accepted for later, and a worker runs it. Every one is another user's generation.

The URL is a database's, or that of a Data API with its secret key in front: ``KEY@http://...``.
"""

import logging
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from ai_retry.clock import SystemClock
from ai_retry.domain.context import stored_context
from ai_retry.domain.model import Answer, Context
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.domain.ports import QueueStorage
from ai_retry.domain.queue import enqueue_generation
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from ai_retry.worker import Worker
from benchmarks.app_rows import AT_ONCE, failed_generations
from benchmarks.queues.protocol import THREADS, Span, call_provider, serve, work
from benchmarks.rates.protocol import versions

_SPANS = """
select extract(epoch from accepted_at)::float8, extract(epoch from closed_at)::float8
from public.ai_retry_attempts where outcome = 'succeeded' and accepted_at is not null
"""


class Provider:
    """Takes as long as the other engines' calls do."""

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:
        """Answer."""
        call_provider()
        return AT_ONCE.generate(context, timeout=timeout, idempotency_key=idempotency_key)


class Ours:
    """Through a storage."""

    name = versions("ai-retry")

    def __init__(self, storage: QueueStorage, database_url: str) -> None:
        self._storage = storage
        self._database = psycopg.connect(database_url, autocommit=True)
        storage.state()  # several first requests at once are more than Supabase Lite bears

    def prepare(self, count: int) -> Sequence[Any]:
        """See the protocol."""
        return failed_generations(self._database, count)

    def enqueue(self, item: tuple[UUID, UUID]) -> None:
        """See the protocol."""
        enqueue_generation(*item, storage=self._storage)

    def spans(self) -> Sequence[Span]:
        """See the protocol."""
        return [(row[0], row[1]) for row in self._database.execute(_SPANS)]


def storage_of(address: str) -> QueueStorage:
    """Open the storage that the address names."""
    key, _, url = address.partition("@http")
    if url:
        return SupabaseStorage(f"http{url}", key)
    return PostgresStorage(address, max_connections=THREADS + 2)


def run_worker(storage: QueueStorage, stop: threading.Event) -> None:
    """Run a worker until it is asked to stop: one that is killed leaves its messages hidden for a while."""
    logging.getLogger("ai_retry").setLevel(logging.CRITICAL)
    Worker(
        storage=storage,
        ai=Provider(),
        clock=SystemClock(),
        policy=DEFAULT_POLICY,
        context_from=stored_context,
        route_of=lambda context: str(context.model),
        concurrency=THREADS,
    ).run(stop)


if __name__ == "__main__":
    if sys.argv[2] == "work":
        stop = threading.Event()
        work(lambda: run_worker(storage_of(sys.argv[1]), stop), stop.set)
    else:
        serve(Ours(storage_of(sys.argv[1]), sys.argv[3]))
