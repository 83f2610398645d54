"""The processes of ``benchmarks.rates``, and pgbench: each does as many attempts as it is told."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from benchmarks.server import program
from tests.support.processes import tail
from tests.support.stack import Stack

REPOSITORY = Path(__file__).resolve().parent.parent
PEERS = REPOSITORY / ".cache" / "peers" / "bin" / "python"
OURS, FLOOR = "ours", "floor"
MODULES = {
    OURS: "ours",
    "procrastinate": "procrastinate_jobs",
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
    """An engine that can be told to work."""

    name: str
    database_url: str

    def run(self, workers: int, count: int) -> float:
        """Do so many attempts; return the seconds that they took."""
        ...


class Worker:
    """An engine in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", database_url: str, log: Path) -> None:
        self._process = process
        self._log = log
        self.database_url = database_url
        self.name: str = self._told()["engine"]

    def run(self, workers: int, count: int) -> float:
        """See ``AtWork``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"workers": workers, "count": count}) + "\n")
        self._process.stdin.flush()
        return float(self._told()["seconds"])

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"an engine ended\n{tail(self._log)}")
        told: dict[str, Any] = json.loads(line)
        return told


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
            url = stack.create_database(f"{prefix}_{name}", migrated=name == OURS)
            working[name] = started.enter_context(_worker(module, url, folder / f"{name}.log"))
        yield working


@contextmanager
def _worker(module: str, url: str, log: Path) -> Iterator[Worker]:
    python = sys.executable if module == MODULES[OURS] else str(PEERS)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [python, "-m", f"benchmarks.rates.{module}", url],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Worker(process, url, log)
        finally:
            process.kill()
