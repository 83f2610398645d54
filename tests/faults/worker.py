"""A process that retries one generation as an app would, and may be killed at any moment.

It reports how the retry ended, as the caller would hear it, in a file; a process that was killed before reports
nothing.
"""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any

from ai_retry.clock import SystemClock
from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.first_call import generate
from ai_retry.domain.model import RetryResult
from ai_retry.domain.ports import AiProvider, Storage
from ai_retry.domain.retry import retry_generation
from ai_retry.providers.http import HttpAiProvider
from ai_retry.renewal import LeaseRenewer
from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from tests.faults.ending import ends_within
from tests.faults.plan import LONGEST_LIFE, POLICY, READ_FOR, SETTLE_FOR, Job, prompt_data
from tests.faults.points import CallsTwice, PointedAi, PointedSpool, Points, filling, unfenced


def work(job: Job) -> None:
    """Be the process: the target of ``multiprocessing``."""
    ends_within(LONGEST_LIFE)
    logging.disable()
    points = Points(job.point, job.signal)
    with ExitStack() as opened:
        storage = opened.enter_context(closing(storage_of(job, points)))
        ai = opened.enter_context(closing(HttpAiProvider(base_url=job.ai_url, model="any", clock=SystemClock())))
        ai.prepare()  # the deadline is short: nothing is imported within it
        report = _retry(job, storage, PointedAi(CallsTwice(ai) if job.broken == "calls twice" else ai, points))
        points.at("before reply")
        job.report.write_text(json.dumps({**report, "at": time.time()}))


def _retry(job: Job, storage: Storage, ai: AiProvider) -> Mapping[str, Any]:
    try:
        result = try_once(job, storage, ai)
    except AiRetryError as error:
        named = error.generation_id == job.generation_id
        return {"code": error.code, "answer_kept": error.details.get("answer_kept", False), "names": named}
    except Exception as error:  # noqa: BLE001 - the outermost place: nothing but AiRetryError may come
        return {"code": f"unexpected {type(error).__name__}: {error}", "answer_kept": False}
    return {"code": "ok", "answer_kept": False, "serial": result.session["content"]["serial"]}


def try_once(job: Job, storage: Storage, ai: AiProvider, **options: Any) -> RetryResult:
    """Make the first call, or a retry."""
    common: dict[str, Any] = {
        "storage": storage,
        "ai": ai,
        "clock": SystemClock(),
        "policy": POLICY,
        "renewing": LeaseRenewer(storage, POLICY.lease).renewing,
    }
    if job.first:
        prompt = prompt_data(job.generation_id)
        return generate(job.user_id, prompt, model="any", generation_id=job.generation_id, **common | options)
    return retry_generation(job.user_id, job.generation_id, **common | options)


def storage_of(job: Job, points: Points | None = None) -> Any:
    """Open the storage that a job names, with its points and its mistakes under the repeats."""
    points = points or Points(None, job.signal)
    spool = PointedSpool(job.spool, points) if job.spool is not None else None
    if job.database_url is None:
        api = SupabaseStorage(
            job.api_url, job.secret_key, timeout=1.5, spool=spool, read_for=READ_FOR, settle_for=SETTLE_FOR
        )
        api._transport = points.around(api._transport)
        return api
    direct = PostgresStorage(
        job.database_url,
        max_connections=1,
        pool_timeout=0.2 if job.full_pool else 2.0,
        spool=spool,
        read_for=READ_FOR,
        settle_for=SETTLE_FOR,
    )
    call = filling(direct, job.full_pool) if job.full_pool else direct._transport
    direct._transport = points.around(unfenced(call, job.database_url) if job.broken == "no fence" else call)
    return direct
