"""Import, connect and the first retry, each in a process that has done nothing before."""

import compileall
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import psycopg

import ai_retry
from ai_retry.testing.provider import ScriptedServer, chat
from benchmarks.app_rows import failed_generations
from benchmarks.sampling import short
from benchmarks.section import Aim, Section
from benchmarks.sizes import Sizes
from tools.npm import REPOSITORY
from tools.stack import Stack

_STEPS = ("import ai_retry", "connect()", "first retry", "second retry")
_PROGRAM = """
import json, sys, time
steps = [time.perf_counter()]
def done(): steps.append(time.perf_counter())
import ai_retry; done()
client = ai_retry.connect(); done()
for row in json.loads(sys.argv[1]): client.retry_generation(*row); done()
print(json.dumps([1000 * (end - start) for start, end in zip(steps, steps[1:])]))
"""

NOTES = [
    "Files are in the system's cache, and ours are compiled to byte code, as an installer does. The provider answers "
    "at once, over HTTP on this machine. By far the most of `connect()` is the import of modules: Python's, ours, and "
    "with PostgreSQL its driver. What only a call needs is imported by the first retry here: what asks the provider, "
    "events and, over the Data API, its client. Servers and workers let `client.prepare()` do it as they start. "
    "Libraries for schemas, repeats and recovery are imported by the first call that needs them.",
]


def measure(stack: Stack, sizes: Sizes) -> Section:
    """Start new processes, in turns."""
    ways = {"PostgreSQL": True, "Data API": False}
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    compileall.compile_dir(Path(ai_retry.__file__).parent, quiet=2)  # else each process may compile it anew
    with (
        ScriptedServer(default=chat({"title": "Easy run", "minutes": 30})) as provider,
        psycopg.connect(stack.database_url, autocommit=True) as database,
    ):
        for _ in range(sizes.rounds):
            for way, direct in ways.items():
                found[way].append(_steps(stack, database, provider.base_url, direct=direct))
    medians = {way: [median(column) for column in zip(*found[way], strict=True)] for way in ways}
    return Section(
        title="Import and first call, cold (ms)",
        header=("", *_STEPS),
        rows=[(way, *map(short, medians[way])) for way in ways],
        aims=[
            Aim(text=f"{step}, {way}", limit=limit, measured=max(medians[way][index], 0.001), at_most=True)
            for way in ways
            for index, (step, limit) in enumerate((("import ai_retry (ms)", 50), ("connect() (ms)", 250)))
        ],
        notes=[f"Medians of {sizes.rounds} processes each.", *NOTES],
        data={way: dict(zip(_STEPS, medians[way], strict=True)) for way in ways},
    )


def _steps(stack: Stack, database: psycopg.Connection, provider: str, *, direct: bool) -> list[float]:
    rows = [[str(user_id), str(generation_id)] for user_id, generation_id in failed_generations(database, 2)]
    settings = {name: value for name, value in stack.env().items() if direct or name != "DATABASE_URL"}
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(rows)],
        cwd=REPOSITORY,
        env=os.environ | settings | {"AI_BASE_URL": provider, "AI_API_KEY": "key", "AI_MODEL": "small"},
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise RuntimeError(f"the cold process failed: {ran.stderr[-500:]}")
    steps: list[float] = json.loads(ran.stdout)
    return steps
