"""A process that retries one generation as an app would, and may be killed at any moment.

It tells how the retry ended, as the caller would hear it, in a file; who was killed before that tells nothing.
"""

import json
import logging
import time
from contextlib import ExitStack, closing
from typing import Any

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.ports import AiProvider, Storage
from ai_retry.domain.retry import retry_generation
from ai_retry.providers.http import HttpAiProvider
from ai_retry.storage.spool import Spool
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.repeating import RepeatingStorage
from ai_retry.storage.supabase import SupabaseStorage
from tests.faults.ending import ends_within
from tests.faults.plan import LONGEST_LIFE, POLICY, READ_FOR, SETTLE_FOR, Job
from tests.faults.ports import CallsTwice, PointedAi, PointedStorage, Points, Unfenced, filling


def work(job: Job) -> None:
    """Be the process: the target of ``multiprocessing``."""
    ends_within(LONGEST_LIFE)
    logging.disable()
    points = Points(job.point, job.signal)
    with ExitStack() as opened:
        adapter, storage = _storage(job, points)
        opened.enter_context(closing(adapter))
        ai = opened.enter_context(closing(HttpAiProvider(base_url=job.ai_url, model="any", clock=SystemClock())))
        spool = None if job.broken == "no spool" else Spool(job.spool)
        repeating = RepeatingStorage(storage, spool, read_for=READ_FOR, settle_for=SETTLE_FOR)
        report = _retry(job, repeating, PointedAi(CallsTwice(ai) if job.broken == "calls twice" else ai, points))
        points.at("before reply")
        job.report.write_text(json.dumps({**report, "at": time.time()}))


def _retry(job: Job, storage: Storage, ai: AiProvider) -> dict[str, Any]:
    try:
        result = retry_generation(
            job.user_id, job.generation_id, storage=storage, ai=ai, clock=SystemClock(), policy=POLICY
        )
    except AiRetryError as error:
        return {"code": error.code, "answer_kept": error.details.get("answer_kept", False)}
    except Exception as error:  # noqa: BLE001 - the outermost place: nothing but AiRetryError may come
        return {"code": f"unexpected {type(error).__name__}: {error}", "answer_kept": False}
    return {"code": "ok", "answer_kept": False, "serial": result.session["content"]["serial"]}


def _storage(job: Job, points: Points) -> tuple[Any, Storage]:
    if job.database_url is None:
        api = SupabaseStorage(job.api_url, job.secret_key, timeout=1.5)
        return api, PointedStorage(api, points)
    direct = PostgresStorage(job.database_url, max_connections=1, pool_timeout=0.2 if job.full_pool else 2.0)
    if job.broken == "no fence":
        unfenced = Unfenced(direct, points)
        unfenced.database_url = job.database_url
        return direct, unfenced
    if job.full_pool:
        return direct, PointedStorage(direct, points, filling(direct, job.full_pool))
    return direct, PointedStorage(direct, points)
