"""What one attempt writes: bytes of the write-ahead log, and transactions that wrote."""

import json
import random
from collections.abc import Iterable
from functools import partial

import psycopg

from ai_retry.clock import SystemClock
from ai_retry.domain.retry import retry_generation
from ai_retry.storage.postgres import PostgresStorage
from benchmarks.app_rows import OUTPUT, PROMPT_DATA, AtOnce, failed_generations
from benchmarks.engines_at_work import OURS, engines_at_work
from benchmarks.sampling import short
from benchmarks.section import Aim, Section
from benchmarks.server import Written, written
from benchmarks.sizes import Sizes
from tools.stack import Stack, running_stack

_ATTEMPTS = 300
_WARM_UP = 50
_LONG = 1000  # bytes more in an answer, that don't compress
_MOST_BYTES = 2500
_MOST_TRANSACTIONS = 2

NOTES = [
    "Counted between two positions of the log, on a server that does nothing else, one attempt after the other, right "
    "after a checkpoint. Transactions that wrote are commit records in `pg_waldump`'s count.",
    "Our attempt writes the app's session, event and status in the same two transactions; the others' jobs leave that "
    "to the app.",
    "A prompt below about 2 kB is part of the generation's row, and every new version of that row copies it: once for "
    "`processing`, once for `success`. PostgreSQL keeps longer ones elsewhere, and doesn't copy them.",
    "With full_page_writes, pages are logged whole once per checkpoint, so the number falls with every further attempt "
    "on the same pages; random UUIDs as keys hit many pages.",
]


def measure(stack: Stack, _: Sizes) -> Section:
    """Count without full_page_writes, on a server of its own, and ours with them, too."""
    with running_stack(postgres_settings={"fsync": "on", "full_page_writes": "off"}) as bare:
        names, found = _peers(bare)
        ours = _ours(bare)
        long_answer = _ours(bare, output=OUTPUT | {"text": _long_text()})
        long_prompt = _ours(bare, prompt_data=PROMPT_DATA | _long_prompt())
    whole = _ours(stack)
    answers, prompts = ((longer.size - ours.size) / _LONG for longer in (long_answer, long_prompt))
    rows: list[tuple[str, ...]] = [(names[key], *_cells(found[key])) for key in found]
    rows += [
        (names[OURS], *_cells(ours)),
        (f"{names[OURS]}, answer {_LONG} bytes longer", *_cells(long_answer)),
        (f"{names[OURS]}, prompt {_LONG} bytes longer", *_cells(long_prompt)),
        (f"{names[OURS]}, full_page_writes on", *_cells(whole)),
    ]
    return Section(
        title="What one attempt writes",
        header=("full_page_writes off, unless named", "bytes of WAL", "writing transactions"),
        rows=rows,
        notes=[*NOTES, f"Of ours, by kind: {_by_kind(ours)}."],
        aims=[
            Aim(text="writing transactions of ours", limit=_MOST_TRANSACTIONS, measured=ours.commits, at_most=True),
            Aim(
                text="bytes of WAL of ours, less the answer",
                limit=_MOST_BYTES,
                measured=round(ours.size - len(json.dumps(OUTPUT))),
                at_most=True,
            ),
            Aim(text="times that a longer answer is written", limit=1.1, measured=answers, at_most=True),
        ],
        data={
            "bytes": {key: one.size for key, one in found.items()} | {OURS: ours.size},
            "transactions": {key: one.commits for key, one in found.items()} | {OURS: ours.commits},
            "with_full_page_writes": whole.size,
            "answer_written": answers,
            "prompt_written": prompts,
            "records": ours.records,
        },
    )


def _peers(stack: Stack) -> tuple[dict[str, str], dict[str, Written]]:
    """Count all engines but ours; name ours, too."""
    found: dict[str, Written] = {}
    with engines_at_work(stack, "wal") as engines:
        for key, engine in engines.items():
            if key != OURS:
                engine.run(1, _WARM_UP)
                found[key] = written(engine.database_url, partial(engine.run, 1, _ATTEMPTS), _ATTEMPTS)
        return {key: engine.name for key, engine in engines.items()}, found


def _ours(stack: Stack, output: object = OUTPUT, prompt_data: object = PROMPT_DATA) -> Written:
    """Count ours in an empty database: what a storage's own process did before is no part of it."""
    name = "wal_counted"
    url = stack.create_database(name, migrated=True)
    storage = PostgresStorage(url)
    ai, clock = AtOnce(output), SystemClock()

    def attempts(rows: Iterable[tuple[object, object]]) -> None:
        for user_id, generation_id in rows:
            retry_generation(str(user_id), str(generation_id), storage=storage, ai=ai, clock=clock)

    with psycopg.connect(url, autocommit=True) as database:
        attempts(failed_generations(database, _WARM_UP, prompt_data))
        rows = failed_generations(database, _ATTEMPTS, prompt_data)
    try:
        return written(url, partial(attempts, rows), _ATTEMPTS)
    finally:
        storage.close()
        stack.drop_database(name)


def _long_prompt() -> dict[str, object]:
    return {"messages": [*PROMPT_DATA["messages"], {"role": "user", "content": _long_text()}]}


def _long_text() -> str:
    return random.Random(1).randbytes(_LONG // 2).hex()


def _cells(one: Written) -> tuple[str, str]:
    return short(round(one.size)), short(round(one.commits, 2))


def _by_kind(one: Written) -> str:
    kinds: dict[str, tuple[float, float]] = {}
    for kind, (count, size) in one.records.items():
        group = kind.split("/")[0] if kind.startswith("Btree/SPLIT") else kind
        group = "B-tree splits" if group == "Btree" else group
        kinds[group] = (kinds.get(group, (0, 0))[0] + count, kinds.get(group, (0, 0))[1] + size)
    largest = sorted(kinds.items(), key=lambda item: -item[1][1])
    return ", ".join(f"{kind} {short(round(count, 1))} x, {round(size)} B" for kind, (count, size) in largest[:8])
