"""Durable attempts per second: ours, three engines, and the floor under all of them, in turns."""

from collections.abc import Mapping
from statistics import median

from benchmarks.engines_at_work import FLOOR, OURS, AtWork, engines_at_work
from benchmarks.sampling import short
from benchmarks.section import Aim, Section
from benchmarks.sizes import Sizes
from tools.stack import Stack

WORKERS = (1, 8, 16)
_TRIAL = 64  # attempts, to warm up and to guess how many fill a round

Rates = dict[str, dict[int, list[float]]]

NOTES = [
    "Ours is load, begin, a call that answers at once, and settle, through `PostgresStorage`; the rows that the app "
    "would have written are there before. Procrastinate: jobs are deferred one by one, then its own worker runs them "
    "with that concurrency, both counted; *with the app's writes*, its job does by hand the durable writes that ours "
    "does: the generation's statuses, session and event. DBOS: a workflow of one step. pgmq: send, read, delete. None "
    "of the three knows a user's quota, or fences the finish as ours does: see [the late finisher](late-finisher.md).",
    "The floor is pgbench, which is written in C: two transactions, each begin, one small row, commit, as prepared "
    "statements. Threads of Python share one interpreter lock, and all share the machine's processors with the server.",
]


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Take turns."""
    with engines_at_work(stack, "attempts") as engines:
        rates = _rates(engines, sizes)
        names = {key: engine.name for key, engine in engines.items()}
    found = {key: {workers: median(rates[key][workers]) for workers in WORKERS} for key in rates}
    return Section(
        title="Durable attempts per second",
        header=("", *(f"{workers} at once" for workers in WORKERS)),
        rows=[
            *((names[key], *(_cell(rates[key][workers]) for workers in WORKERS)) for key in rates),
            ("ours, share of the floor", *(f"{found[OURS][each] / found[FLOOR][each]:.0%}" for each in WORKERS)),
        ],
        notes=[f"Median of {sizes.rounds} rounds (slowest to fastest).", *NOTES],
        aims=list(_aims(found)),
        data={"names": names, "rates": rates, "medians": found},
    )


def _rates(engines: Mapping[str, AtWork], sizes: Sizes) -> Rates:
    rates: Rates = {key: {workers: [] for workers in WORKERS} for key in engines}
    counts = {
        (key, workers): max(_TRIAL, int(sizes.seconds * _TRIAL / engine.run(workers, _TRIAL)))
        for workers in WORKERS
        for key, engine in engines.items()
    }
    for _ in range(sizes.rounds):
        for workers in WORKERS:
            for key, engine in engines.items():
                count = counts[key, workers]
                rates[key][workers].append(count / engine.run(workers, count))
    return rates


def _cell(rates: list[float]) -> str:
    return f"{short(median(rates))} ({short(min(rates))} to {short(max(rates))})"


def _aims(found: Mapping[str, Mapping[int, float]]) -> list[Aim]:
    asked = [
        ("procrastinate", 1, 1.5),
        ("dbos", 1, 2.1),
        ("procrastinate", 8, 2.1),
        ("dbos", 8, 3.0),
    ]
    return [
        Aim(
            text=f"ours / {key}, {workers} at once",
            limit=limit,
            measured=found[OURS][workers] / found[key][workers],
        )
        for key, workers, limit in asked
    ]
