"""ai-retry: two calls of ``retry_generation`` over PostgreSQL, the first of which stalls in its provider's call.

The charge is the engine's own: the unit captured by the transaction that settles.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import psycopg

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.model import Answer, Context
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.engines.ledger import WAIT, Ledger, Order, Report, play
from benchmarks.rates.protocol import versions
from tests.helpers.world import REFUSALS, SqlWorld

POLICY = RetryPolicy(
    deadline=timedelta(seconds=0.8),
    settle_margin=timedelta(seconds=0.2),
    lease=timedelta(seconds=1),
    backoff_base=timedelta(seconds=0.1),
)


class Provider:
    """Answers when it is allowed to, far past the deadline that it was given."""

    def __init__(self, ledger: Ledger, worker: str) -> None:
        self.called = threading.Event()
        self.may_answer = threading.Event()
        self._ledger = ledger
        self._worker = worker

    def generate(self, context: Context, *, timeout: timedelta, idempotency_key: str) -> Answer:  # noqa: ARG002
        """Count the call and stall."""
        self._ledger.call(self._worker)
        self.called.set()
        if not self.may_answer.wait(WAIT):
            raise TimeoutError(self._worker)
        return Answer(output={"title": f"made by {self._worker}"})


def scenario(url: str, order: Order) -> Report:
    """A begins and stalls past its lease, B begins the same generation; both settle."""
    storage = PostgresStorage(url)
    a, b = (Provider(Ledger(url), worker) for worker in "ab")
    with psycopg.connect(url, autocommit=True) as connection, ThreadPoolExecutor(2) as threads:
        connection.execute(REFUSALS)
        world = SqlWorld(storage, connection)
        user_id = world.new_user()
        generation_id = world.new_generation(user_id)
        try:
            late = threads.submit(_retry, user_id, generation_id, storage, a)
            assert a.called.wait(WAIT)
            time.sleep((POLICY.lease + 2 * POLICY.backoff_base).total_seconds())
            other = threads.submit(_retry, user_id, generation_id, storage, b)
            assert b.called.wait(WAIT)
            first, second = ((a, late), (b, other)) if order == "while" else ((b, other), (a, late))
            for provider, said in (first, second):
                provider.may_answer.set()
                said.result(WAIT)
        finally:
            a.may_answer.set()
            b.may_answer.set()
        captured = sum(row["captured_at"] is not None for row in world.attempts(generation_id))
    for _ in range(captured):
        Ledger(url).charge("captured")
    storage.close()
    return Report(
        engine=versions("ai-retry"),
        accepted=late.result().startswith("returned"),
        late=late.result(),
        other=other.result(),
        charged="by the settle itself",
    )


def _retry(user_id: UUID, generation_id: UUID, storage: PostgresStorage, ai: Provider) -> str:
    try:
        result = retry_generation(user_id, generation_id, storage=storage, ai=ai, clock=SystemClock(), policy=POLICY)
    except AiRetryError as error:
        kept = ", answer kept" if error.details.get("answer_kept") else ""
        return f"raised {type(error).__name__}{kept}"
    return f"returned attempt {result.attempt}"


if __name__ == "__main__":
    play(scenario)
