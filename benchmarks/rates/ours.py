"""ai-retry: load, begin, a call that answers at once, settle. Every attempt is another user's generation."""

import sys
import time
from uuid import UUID

import psycopg

from ai_retry.clock import SystemClock
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.domain.ports import Storage
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.app_rows import AT_ONCE, failed_generations
from benchmarks.rates.protocol import serve, spread, versions

_CLOCK = SystemClock()


class Ours:
    """Through a storage; the app's rows, which the app would have written, are not part of the attempt."""

    name = versions("ai-retry")

    def __init__(self, storage: Storage, database_url: str) -> None:
        self._storage = storage
        self._database = psycopg.connect(database_url, autocommit=True)

    def run(self, workers: int, count: int) -> float:
        """See the protocol."""
        rows = failed_generations(self._database, count)
        began = time.perf_counter()
        spread(self._one, rows, workers)
        return time.perf_counter() - began

    def _one(self, row: tuple[UUID, UUID]) -> None:
        user_id, generation_id = row
        retry_generation(user_id, generation_id, storage=self._storage, ai=AT_ONCE, clock=_CLOCK, policy=DEFAULT_POLICY)


if __name__ == "__main__":
    serve(Ours(PostgresStorage(sys.argv[1]), sys.argv[1]))
