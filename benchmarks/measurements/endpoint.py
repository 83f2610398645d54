"""The endpoint under load: gunicorn with threads, a slow provider, clients in one light process; beside others."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat, takewhile
from statistics import median
from uuid import UUID

import psycopg

from benchmarks.app_rows import failed_generations
from benchmarks.asking import chat_request
from benchmarks.clients import Reply, Request, closed_loop, post
from benchmarks.contenders import MAX_CALLS, NOW, THREADS, Contender, contenders, provider_env, retry
from benchmarks.sampling import percentile, short
from benchmarks.section import Aim, Section
from benchmarks.sizes import Sizes
from tools.app_server import running_app
from tools.npm import REPOSITORY
from tools.stack import Stack

PROVIDER_MS = 300
CLIENTS = MAX_CALLS
REFUSED_CLIENTS = 8
SUCCEEDING_CLIENTS = 16
_PER_CLIENT = 3  # requests of each client per second of the measurement, at 300 ms and some
_ASKED_BY = (1, 16, CLIENTS)
_FEW = 3  # requests of each client in a round, where they are few
_PLAIN, _SHAPED = "processor ms", "processor ms, schema"
_PLAIN_RATE, _SHAPED_RATE = "per second", "per second, schema"
_COLUMNS = (_PLAIN, _SHAPED, _PLAIN_RATE, _SHAPED_RATE, *(f"p50 added, {count} at once (ms)" for count in _ASKED_BY))

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
    f"One gunicorn worker with {THREADS} threads, `AI_RETRY_MAX_CALLS={MAX_CALLS}`, straight to PostgreSQL, tokens "
    f"verified, {CLIENTS} clients; server, database, provider and clients share the machine. Processor time is that of "
    "all processes of the app, per request, and not that of PostgreSQL. Added is what a client waits beyond what it "
    f"waits for the provider itself, which takes {PROVIDER_MS} ms, asked directly by as many clients: they can't make "
    f"more than {CLIENTS * 1000 / PROVIDER_MS:.0f} requests a second, whatever serves them.",
    "What each does: ours verifies a token, reads the generation, checks every rule, opens an attempt durably, "
    "calls, checks the answer under its schema, and writes session, event, status and quota in one transaction. Only "
    "*with its log* it writes lines of log: two for each retry. The bare view calls the provider with `requests` and "
    "returns the answer: no token, no database, no check. LiteLLM's proxy passes a completion on, with its routing and "
    "its own checks: one key, no database, no session and no quota here; uvicorn serves it. The schema has ten "
    "properties.",
]


@dataclass(frozen=True)
class _Seen:
    """What one round of one contender gave."""

    rate: float
    cost: float  # ms of processor time per request
    p50: float  # ms


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Put all contenders under the same load, and ours under refusals and clicks."""
    with _provider() as provider, contenders(stack, provider) as found:
        running = [each for each in found if isinstance(each, Contender)]
        for each in running:
            _loaded(each, CLIENTS, 2 * CLIENTS, shaped=True)  # its threads have their connections then
        rounds = [_round(running, provider, sizes) for _ in range(sizes.rounds)]  # in turns
    table = {each.name: _medians([one[each.name] for one in rounds]) for each in running}
    with _place(stack) as place:
        refused = [_refused(place, sizes) for _ in range(sizes.rounds)]
        clicked = _clicked(place, sizes.clicks)
    refusals, refused_p99, successes = (median(column) for column in zip(*refused, strict=True))
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(clicked.statuses.items()))
    ours = (
        f"Refused (429) by {REFUSED_CLIENTS} clients, while {SUCCEEDING_CLIENTS} others succeed: {short(refusals)}/s, "
        f"p99 {short(refused_p99)} ms; successes meanwhile: {short(successes)}/s. One generation, {sizes.clicks} "
        f"clicks at once: {short(clicked.rate)} answers a second ({statuses}), calls of the provider: {clicked.calls}."
    )
    return Section(
        title="The endpoint",
        header=("", *_COLUMNS),
        rows=[(name, *(short(number) for number in numbers.values())) for name, numbers in table.items()],
        notes=[
            *NOTES,
            ours,
            f"Medians of {sizes.rounds} rounds; the clicks once.",
            *(each for each in found if isinstance(each, str)),
        ],
        aims=_aims(table),
        data={
            "contenders": table,
            "refused_per_second": refusals,
            "refused_p99_ms": refused_p99,
            "clicks": {"per_second": clicked.rate, "statuses": clicked.statuses, "calls": clicked.calls},
        },
    )


def _round(running: Sequence[Contender], provider: str, sizes: Sizes) -> Mapping[str, Mapping[str, float]]:
    """Ask each of them once, with and without a schema, by as many clients as the columns say."""
    count = CLIENTS * max(2, round(_PER_CLIENT * sizes.seconds))  # as many of each client: none waits for the others
    alone = {clients: _alone(provider, clients) for clients in _ASKED_BY}
    found = {}
    for each in running:
        plain, shaped = (_loaded(each, CLIENTS, count, shaped=shaped) for shaped in (False, True))
        few = {clients: _loaded(each, clients, _FEW * clients, shaped=False).p50 for clients in _ASKED_BY[:-1]}
        waits = [p50 - alone[clients] for clients, p50 in (*few.items(), (CLIENTS, plain.p50))]
        numbers = (plain.cost, shaped.cost, plain.rate, shaped.rate, *waits)
        found[each.name] = dict(zip(_COLUMNS, numbers, strict=True))
    return found


def _loaded(contender: Contender, clients: int, count: int, *, shaped: bool) -> _Seen:
    """Let so many clients make so many requests."""
    requests = contender.requests(count, shaped)
    used, began = contender.processor_seconds(), time.perf_counter()
    replies = asyncio.run(closed_loop(clients, requests))
    seconds = time.perf_counter() - began
    _require(replies, {200})
    cost = 1000 * (contender.processor_seconds() - used) / count
    return _Seen(count / seconds, cost, percentile([1000 * reply.seconds for reply in replies], 50))


def _alone(provider: str, clients: int) -> float:
    body = json.dumps(chat_request(shaped=False)).encode()
    asked: list[Request] = [partial(post, provider, "/v1/chat/completions", "key", body)] * (8 * clients)
    replies = asyncio.run(closed_loop(clients, asked))
    return percentile([1000 * reply.seconds for reply in replies], 50)


def _medians(rounds: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    return {column: median(one[column] for one in rounds) for column in _COLUMNS}


def _aims(table: Mapping[str, Mapping[str, float]]) -> list[Aim]:
    """Compare with what CONTRIBUTING asks for, as far as those it names ran."""
    now = table[NOW]
    aims = [
        Aim(text="processor ms per retry", limit=3.5, measured=now[_PLAIN], at_most=True),
        Aim(text="ms that the schema adds", limit=0.1, measured=now[_SHAPED] - now[_PLAIN], at_most=True),
    ]
    for name, column, limit in (("before", _PLAIN_RATE, 1.25), ("long before", _SHAPED_RATE, 2.5)):
        other = next((numbers for key, numbers in table.items() if key.startswith(f"{name} (")), None)
        if other is not None:
            aims.append(Aim(text=f"{column}, times {name}", limit=limit, measured=now[column] / other[column]))
    return aims


@dataclass(frozen=True)
class _Place:
    """What refusals and clicks are aimed at."""

    app: str
    provider: str
    jwt_secret: str
    database: psycopg.Connection

    def retry(self, user_id: UUID, generation_id: UUID) -> Request:
        """Prepare a request of this user's."""
        return retry(self.app, self.jwt_secret, user_id, generation_id)

    def retries(self, count: int) -> list[Request]:
        """Prepare so many that will succeed, each of another user."""
        return [self.retry(*row) for row in failed_generations(self.database, count)]

    def calls(self) -> int:
        """Ask the provider how often it answered."""
        with urllib.request.urlopen(f"{self.provider}/calls") as reply:
            counted: dict[str, int] = json.load(reply)
        return counted["calls"]


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
        said = await asyncio.gather(*clicks)
        return [reply for replies in said for reply in replies], await succeeding, time.perf_counter() - began

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
def _provider() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.slow_provider", str(PROVIDER_MS)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@contextmanager
def _place(stack: Stack) -> Iterator[_Place]:
    url = stack.create_database("endpoint", migrated=True)
    with _provider() as provider:
        env = {**stack.env(), "DATABASE_URL": url, **provider_env(provider)}
        with running_app(env, threads=THREADS) as app, psycopg.connect(url, autocommit=True) as database:
            place = _Place(app, provider, stack.jwt_secret, database)
            asyncio.run(closed_loop(CLIENTS, place.retries(CLIENTS)))
            yield place
