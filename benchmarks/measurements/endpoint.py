"""The endpoint under load: gunicorn with threads, a provider that takes 200 ms, clients in one light process."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat, takewhile
from statistics import median
from uuid import UUID

import jwt
import psutil
import psycopg

from benchmarks.app_rows import LARGER_OUTPUT, PROMPT_DATA, PROMPT_WITH_SCHEMA, failed_generations
from benchmarks.clients import Reply, Request, closed_loop, post
from benchmarks.sampling import percentile, short
from benchmarks.section import Section
from benchmarks.sizes import Sizes
from tools.app_server import running_app
from tools.npm import REPOSITORY
from tools.stack import Stack

PROVIDER_MS = 200
CLIENTS = 64
THREADS = 72  # of gunicorn's one worker: the calls, and some for refusals
REFUSED_CLIENTS = 8
SUCCEEDING_CLIENTS = 16
_PER_CLIENT = 4  # requests of each client per second of the measurement, at 200 ms and some

_JUST_FAILED = """
insert into public.ai_retry_attempts (
  user_id, generation_id, number, token, started_at, lease_expires_at, outcome, code, closed_at, counted, charge,
  provider_outcome, next_attempt_at
)
select g.user_id, g.id, 2, gen_random_uuid(), clock_timestamp(), clock_timestamp(), 'failed', 'AI_UNAVAILABLE',
  clock_timestamp(), true, true, 'unknown', clock_timestamp() + interval '1 hour'
from public.generations g where g.id = %s
"""

NOTES = [
    f"One gunicorn worker with {THREADS} threads, `AI_RETRY_MAX_CALLS={CLIENTS}`, straight to PostgreSQL, tokens "
    "verified; server, database, provider and clients share the machine. Added is what a client waits beyond what it "
    "waits for the provider alone, asked directly by as many clients.",
]


@dataclass(frozen=True)
class _Place:
    """What the load is aimed at."""

    app: str
    provider: str
    stack: Stack
    database: psycopg.Connection

    def retry(self, user_id: UUID, generation_id: UUID) -> Request:
        """Prepare a request of this user's."""
        now = int(time.time())
        claims = {"sub": str(user_id), "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 3600}
        token = jwt.encode(claims, self.stack.jwt_secret, "HS256")
        return partial(post, self.app, f"/sessions/ai/{generation_id}/retry", token)

    def retries(self, count: int, prompt_data: object = PROMPT_DATA) -> list[Request]:
        """Prepare so many that will succeed, each of another user."""
        return [self.retry(*row) for row in failed_generations(self.database, count, prompt_data)]

    def calls(self) -> int:
        """Ask the provider how often it answered."""
        with urllib.request.urlopen(f"{self.provider}/calls") as reply:
            told: dict[str, int] = json.load(reply)
        return told["calls"]


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Put it under four kinds of load."""
    with _place(stack) as place:
        asyncio.run(closed_loop(CLIENTS, place.retries(CLIENTS)))  # its threads have their connections then
        plain: list[tuple[float, float]] = []
        shaped: list[tuple[float, float]] = []
        for _ in range(sizes.rounds):  # in turns
            plain.append(_retried(place, sizes, PROMPT_DATA))
            shaped.append(_retried(place, sizes, PROMPT_WITH_SCHEMA))
        added = [_added(place, sizes) for _ in range(sizes.rounds)]
        refused = [_refused(place, sizes) for _ in range(sizes.rounds)]
        clicked = _clicked(place, sizes.clicks)
    p50, p99, rate, alone = (median(column) for column in zip(*added, strict=True))
    refusals, refused_p99, successes = (median(column) for column in zip(*refused, strict=True))
    plain_rate, plain_cost = (median(column) for column in zip(*plain, strict=True))
    shaped_rate, shaped_cost = (median(column) for column in zip(*shaped, strict=True))
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(clicked.statuses.items()))
    return Section(
        title="The endpoint",
        header=("", "measured"),
        rows=[
            (f"{CLIENTS} clients: added to the provider's {short(alone)} ms, p50", f"{short(p50)} ms"),
            (f"{CLIENTS} clients: added, p99", f"{short(p99)} ms"),
            (f"{CLIENTS} clients: successes", f"{short(rate)}/s"),
            (
                f"refused (429) by {REFUSED_CLIENTS} clients, {SUCCEEDING_CLIENTS} others succeed",
                f"{short(refusals)}/s",
            ),
            ("refused: p99", f"{short(refused_p99)} ms"),
            ("successes meanwhile", f"{short(successes)}/s"),
            (f"one generation, {sizes.clicks} clicks at once: answers", f"{short(clicked.rate)}/s ({statuses})"),
            ("one generation: calls of the provider", str(clicked.calls)),
            (f"{CLIENTS} clients, no schema: successes", f"{short(plain_rate)}/s"),
            ("no schema: processor time of the app, per retry", f"{short(plain_cost)} ms"),
            (f"{CLIENTS} clients, a schema of {len(LARGER_OUTPUT)} properties: successes", f"{short(shaped_rate)}/s"),
            ("with that schema: processor time of the app, per retry", f"{short(shaped_cost)} ms"),
        ],
        notes=[*NOTES, f"Medians of {sizes.rounds} rounds; the clicks once."],
        data={
            "added_p50_ms": p50,
            "added_p99_ms": p99,
            "successes_per_second": rate,
            "refused_per_second": refusals,
            "refused_p99_ms": refused_p99,
            "plain": {"per_second": plain_rate, "processor_ms": plain_cost},
            "under_schema": {"per_second": shaped_rate, "processor_ms": shaped_cost},
            "clicks": {"per_second": clicked.rate, "statuses": clicked.statuses, "calls": clicked.calls},
        },
    )


def _added(place: _Place, sizes: Sizes) -> tuple[float, float, float, float]:
    """Give p50 and p99 of what is added, successes per second, and the provider's own p50; in ms."""
    count = max(2 * CLIENTS, int(CLIENTS * _PER_CLIENT * sizes.seconds))
    requests = place.retries(count)
    began = time.perf_counter()
    through = asyncio.run(closed_loop(CLIENTS, requests))
    rate = count / (time.perf_counter() - began)
    _require(through, {200})
    directly: list[Request] = [partial(post, place.provider, "/v1/chat/completions", "key", b"{}")] * count
    alone = asyncio.run(closed_loop(CLIENTS, directly))
    ours, theirs = ([1000 * reply.seconds for reply in replies] for replies in (through, alone))
    return (
        percentile(ours, 50) - percentile(theirs, 50),
        percentile(ours, 99) - percentile(theirs, 99),
        rate,
        percentile(theirs, 50),
    )


def _retried(place: _Place, sizes: Sizes, prompt_data: object) -> tuple[float, float]:
    """Give successes per second, and the app's processor time for each in ms."""
    requests = place.retries(max(2 * CLIENTS, int(CLIENTS * _PER_CLIENT * sizes.seconds)), prompt_data)
    used, began = _processor_seconds(), time.perf_counter()
    _require(asyncio.run(closed_loop(CLIENTS, requests)), {200})
    seconds = time.perf_counter() - began
    return len(requests) / seconds, 1000 * (_processor_seconds() - used) / len(requests)


def _processor_seconds() -> float:
    """Sum up what the app's processes have used so far."""
    app = [each for each in psutil.Process().children(recursive=True) if "gunicorn" in " ".join(each.cmdline())]
    return sum(each.cpu_times().user + each.cpu_times().system for each in app)


def _refused(place: _Place, sizes: Sizes) -> tuple[float, float, float]:
    """Give refusals per second, their p99 in ms, and successes per second meanwhile."""
    succeed = place.retries(max(2 * SUCCEEDING_CLIENTS, int(SUCCEEDING_CLIENTS * _PER_CLIENT * sizes.seconds)))
    blocked: list[Request] = []
    for user_id, generation_id in failed_generations(place.database, REFUSED_CLIENTS):
        place.database.execute(_JUST_FAILED, [generation_id])
        blocked.append(place.retry(user_id, generation_id))

    async def both() -> tuple[list[Reply], list[Reply], float]:
        began = time.perf_counter()
        succeeding = asyncio.create_task(closed_loop(SUCCEEDING_CLIENTS, succeed))
        clicks = (closed_loop(1, takewhile(lambda _: not succeeding.done(), repeat(one))) for one in blocked)
        told = await asyncio.gather(*clicks)
        return [reply for replies in told for reply in replies], await succeeding, time.perf_counter() - began

    refused, succeeded, seconds = asyncio.run(both())
    _require(refused, {429})
    _require(succeeded, {200})
    return len(refused) / seconds, percentile([1000 * reply.seconds for reply in refused], 99), len(succeeded) / seconds


@dataclass(frozen=True)
class _Clicked:
    rate: float
    statuses: dict[int, int]
    calls: int


def _clicked(place: _Place, clicks: int) -> _Clicked:
    calls = place.calls()
    request = place.retry(*failed_generations(place.database, 1)[0])
    began = time.perf_counter()
    replies = asyncio.run(closed_loop(clicks, [request] * clicks))
    rate = clicks / (time.perf_counter() - began)
    return _Clicked(rate, dict(Counter(reply.status for reply in replies)), place.calls() - calls)


def _require(replies: list[Reply], statuses: set[int]) -> None:
    others = Counter(reply.status for reply in replies if reply.status not in statuses)
    if others:
        raise RuntimeError(f"the endpoint answered {dict(others)}, not {statuses} alone")


@contextmanager
def _place(stack: Stack) -> Iterator[_Place]:
    url = stack.create_database("endpoint", migrated=True)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.slow_provider", str(PROVIDER_MS)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            provider = f"http://127.0.0.1:{int(process.stdout.readline())}"
            env = {
                **stack.env(),
                "DATABASE_URL": url,
                "AI_BASE_URL": f"{provider}/v1",
                "AI_API_KEY": "key",
                "AI_MODEL": "small",
                "AI_RETRY_MAX_CALLS": str(CLIENTS),
            }
            with running_app(env, threads=THREADS) as app, psycopg.connect(url, autocommit=True) as database:
                yield _Place(app, provider, stack, database)
        finally:
            process.kill()
