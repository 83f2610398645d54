"""The processes of ``benchmarks.rates``, and pgbench: each does as many attempts as it is asked for."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import psycopg

from benchmarks.line_process import PEERS, LineProcess
from benchmarks.server import program
from tools.stack import Stack

OURS, FLOOR, WITH_WRITES = "ours", "floor", "procrastinate_app"
MODULES = {
    OURS: "ours",
    "procrastinate": "procrastinate_jobs",
    WITH_WRITES: "procrastinate_jobs",
    "dbos": "dbos_workflow",
    "pgmq": "pgmq_queue",
}

# What any engine has to do that opens an attempt durably and closes it durably: two transactions of one small row.
FLOOR_SCRIPT = """\
begin;
insert into floor (state) values ('open') returning id \\gset
end;
begin;
update floor set state = 'closed' where id = :id;
end;
"""
FLOOR_TABLE = "create table floor (id bigint generated always as identity primary key, state text not null)"


class AtWork(Protocol):
    """An engine that can be asked to work."""

    name: str
    database_url: str

    def run(self, workers: int, count: int) -> float:
        """Do so many attempts; return the seconds that they took."""
        ...


class Worker:
    """An engine in a process of its own."""

    def __init__(self, process: LineProcess, database_url: str) -> None:
        self._process = process
        self.database_url = database_url
        self.name: str = process.said["engine"]

    def run(self, workers: int, count: int) -> float:
        """See ``AtWork``."""
        return float(self._process.ask(workers=workers, count=count)["seconds"])


class Floor:
    """pgbench with prepared statements and one thread."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.name = "floor (pgbench)"
        self.database_url = database_url
        self._script = folder / "floor.sql"
        self._script.write_text(FLOOR_SCRIPT)
        with psycopg.connect(database_url, autocommit=True) as database:
            database.execute(FLOOR_TABLE)

    def run(self, workers: int, count: int) -> float:
        """See ``AtWork``."""
        each = max(1, count // workers)
        ran = subprocess.run(
            [
                *(program("pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={self._script}"),
                *(f"--client={workers}", f"--transactions={each}", self.database_url),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        for line in ran.stdout.splitlines():
            if line.startswith("tps = "):
                return count / float(line.split()[2])
        raise RuntimeError(f"pgbench: {ran.stderr[-500:]}")


@contextmanager
def engines_at_work(stack: Stack, prefix: str) -> Iterator[Mapping[str, AtWork]]:
    """Start all of them, the floor first, each in a database of its own.

    Raises:
        RuntimeError: the peers are not installed, or an engine ended.
    """
    if not PEERS.exists():
        raise RuntimeError("the peers are missing: run `make bench`, which installs them in .cache/peers")
    with ExitStack() as started:
        folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="ai-retry-bench-")))
        floor = Floor(stack.create_database(f"{prefix}_floor", migrated=False), folder)
        working: dict[str, AtWork] = {FLOOR: floor}
        for name, module in MODULES.items():
            url = stack.create_database(f"{prefix}_{name}", migrated=name in (OURS, WITH_WRITES))
            further = ("app",) if name == WITH_WRITES else ()
            process = LineProcess(f"rates.{module}", url, *further, ours=name == OURS)
            started.callback(process.close)
            working[name] = Worker(process, url)
        yield working
