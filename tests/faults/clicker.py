"""A process of the race: it clicks at random until its time is over, sometimes twice at once."""

import json
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from uuid import UUID

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.policy import RetryPolicy
from ai_retry.domain.ports import AiProvider, Storage
from ai_retry.domain.retry import retry_generation
from ai_retry.providers.http import HttpAiProvider
from ai_retry.storage.postgres import PostgresStorage
from tests.faults.ending import ends_within

_DOUBLE_CLICKS = 0.3
_GRACE = 30  # seconds after its time, then the kernel ends it


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicker:
    """What a process of the race has to do."""

    seed: int
    database_url: str
    ai_url: str
    policy: RetryPolicy
    rounds: tuple[tuple[tuple[UUID, UUID], ...], ...]  # of (user, generation), one after the other
    begins: float  # wall clock
    round_seconds: float
    pause: float  # seconds between two clicks, on average
    report: Path


def click(job: Clicker) -> None:
    """Be the process."""
    ends = job.begins + job.round_seconds * len(job.rounds)
    ends_within(int(ends - time.time()) + _GRACE)
    logging.disable()
    random, codes = Random(job.seed), Counter[str]()
    with (
        closing(PostgresStorage(job.database_url, max_connections=2)) as storage,
        closing(HttpAiProvider(base_url=job.ai_url, model="any", clock=SystemClock())) as ai,
        ThreadPoolExecutor(2) as threads,
    ):
        ai.prepare()
        time.sleep(max(0.0, job.begins - time.time()))
        while (now := time.time()) < ends:
            target = random.choice(job.rounds[int((now - job.begins) / job.round_seconds)])
            key = f"click-{random.getrandbits(32)}" if random.random() < 0.5 else None
            times = 2 if random.random() < _DOUBLE_CLICKS else 1
            codes.update(threads.map(lambda _: _retry(job, storage, ai, target, key), range(times)))  # noqa: B023
            time.sleep(random.uniform(0, 2 * job.pause))
    job.report.write_text(json.dumps(codes))


def _retry(job: Clicker, storage: Storage, ai: AiProvider, target: tuple[UUID, UUID], key: str | None) -> str:
    try:
        result = retry_generation(
            *target, storage=storage, ai=ai, clock=SystemClock(), policy=job.policy, idempotency_key=key
        )
    except AiRetryError as error:
        return f"{error.http_status} {error.code}"
    except Exception as error:  # noqa: BLE001 - the outermost place: nothing but AiRetryError may come
        return f"500 unexpected {type(error).__name__}: {error}"
    return "200 replayed" if result.replayed else "200 ok"
