"""What a worker has to do, and the numbers of the game: leases so short that abandoned attempts are soon resolved."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL
from typing import Any
from uuid import UUID

from ai_retry.domain.model import QuotaRule
from ai_retry.domain.policy import RetryPolicy

POLICY = RetryPolicy(
    max_attempts=12,
    backoff_base=timedelta(milliseconds=50),
    backoff_cap=timedelta(milliseconds=300),
    max_parallel=2,
    quota=QuotaRule(limit=5),
    deadline=timedelta(seconds=1.2),
    lease=timedelta(seconds=2),
    settle_margin=timedelta(seconds=0.3),
)
READ_FOR = timedelta(seconds=1.5)
SETTLE_FOR = timedelta(seconds=1.5)
LONGEST_LIFE = 30  # seconds of a worker, whatever happens

SCHEMA = {
    "type": "object",
    "properties": {"serial": {"type": "integer"}},
    "required": ["serial"],
    "additionalProperties": False,
}


def prompt_data(generation_id: UUID) -> dict[str, Any]:
    """Ask a question that names the generation, so that the provider can attribute its calls."""
    return {"messages": [{"role": "user", "content": str(generation_id)}], "response_schema": SCHEMA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One retry, or one first call, by one process."""

    user_id: UUID
    generation_id: UUID
    database_url: str | None  # None: over the Data API
    api_url: str
    secret_key: str
    ai_url: str
    spool: Path | None
    report: Path  # written when the caller has its reply
    point: str | None = None  # where the process gets ``signal``, by itself
    signal: int = SIGKILL
    full_pool: str | None = None  # the function during whose first call the pool has no connection free
    broken: str | None = None  # a mistake that the checker must find
    first: bool = False  # it makes the generation's first call
