"""The durable attempt through the Data API, and how much of it is ours rather than HTTP's."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

import psycopg

from ai_retry.storage.postgres import PostgresStorage
from ai_retry.storage.supabase import SupabaseStorage
from benchmarks.rates.ours import Ours
from benchmarks.sampling import short
from benchmarks.section import Aim, Section
from benchmarks.sizes import Sizes
from tools.stack import Stack

WORKERS = (1, 8)
_TRIAL = 32
_CALLS = 3  # of functions, per attempt
_ATTEMPT, _NOTHING = "attempt, Data API", "three calls of nothing, Data API"

# A function that does nothing, called with about as many bytes as the middle one of an attempt's three.
_ECHO = """
create or replace function public.bench_nothing(p_text text) returns jsonb language sql immutable set search_path = ''
as $$ select pg_catalog.jsonb_build_object('text', p_text) $$;
grant execute on function public.bench_nothing(text) to service_role;
"""
_TEXT = "x" * 700

NOTES = [
    "Supabase Lite takes the place of PostgREST and the gateway, on the same machine: HTTP's part will differ on a "
    "hosted project, ours will not.",
    "HTTP's part is three calls of a function that does nothing, made by the same client in the same rounds; what an "
    "attempt takes beyond them is ours: the work in the database, the two commits, and Python. The direct connection "
    "shows how long that takes: the faster HTTP is, the larger is our share.",
]


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Take turns with calls of nothing, and with the direct connection."""
    with _nothing(stack):
        api = SupabaseStorage(stack.url, stack.secret_key)
        direct = PostgresStorage(stack.database_url)
        ways: dict[str, Callable[[int, int], float]] = {
            _ATTEMPT: Ours(api, stack.database_url).run,
            _NOTHING: lambda workers, count: _call_nothing(api, workers, count),
            "attempt, direct": Ours(direct, stack.database_url).run,
        }
        found = _milliseconds(ways, sizes)
        api.close()
        direct.close()
    shares = {workers: 1 - median(found[_NOTHING, workers]) / median(found[_ATTEMPT, workers]) for workers in WORKERS}
    rows = [(way, *(_cell(found[way, workers], workers) for workers in WORKERS)) for way in ways]
    rows.append(("share of the attempt that is ours", *(f"{shares[workers]:.0%}" for workers in WORKERS)))
    return Section(
        title="Through the Data API",
        header=("", *(f"{workers} at once" for workers in WORKERS)),
        rows=rows,
        notes=NOTES,
        aims=[
            Aim(text=f"share that is ours, {workers} at once", limit=limit, measured=shares[workers], at_most=True)
            for workers, limit in zip(WORKERS, (0.15, 0.3), strict=True)
        ],
        data={
            "milliseconds": {way: {str(workers): found[way, workers] for workers in WORKERS} for way in ways},
            "share_of_ours": {str(workers): share for workers, share in shares.items()},
        },
    )


def _milliseconds(ways: dict[str, Callable[[int, int], float]], sizes: Sizes) -> dict[tuple[str, int], list[float]]:
    keys = [(way, workers) for workers in WORKERS for way in ways]
    counts = {
        (way, workers): max(_TRIAL, int(sizes.seconds * _TRIAL / ways[way](workers, _TRIAL))) for way, workers in keys
    }
    found: dict[tuple[str, int], list[float]] = {key: [] for key in keys}
    for _ in range(sizes.rounds):
        for way, workers in keys:
            count = counts[way, workers]
            found[way, workers].append(1000 * ways[way](workers, count) / count)
    return found


def _call_nothing(api: SupabaseStorage, workers: int, count: int) -> float:
    def one(_: int) -> None:
        for _call in range(_CALLS):
            api._call_function("bench_nothing", {"p_text": _TEXT})  # noqa: SLF001 - the transport alone

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(one, range(count)))
    return time.perf_counter() - began


@contextmanager
def _nothing(stack: Stack) -> Iterator[None]:
    with psycopg.connect(stack.database_url, autocommit=True) as database:
        database.execute(_ECHO.encode())
        stack.restart_data_api()  # it reads the schema once
        yield
        database.execute("drop function public.bench_nothing(text)")


def _cell(samples: list[float], workers: int) -> str:
    each = median(samples)
    return f"{short(1000 / each)}/s, {short(each * workers)} ms each"
