"""Looks at a direct connection: what its address says, and whether a pooler is behind it, and in which mode."""

from collections.abc import Iterator

import psycopg

from ai_retry.cli.doctor.model import Check, Finding, Level
from ai_retry.storage._connection_string import ConnectionString, read_connection_string

_PATIENCE = 3  # seconds for each connection
_BACKEND = "select pg_catalog.pg_backend_pid()"


def link(database_url: str) -> Iterator[Finding]:
    """Judge the address and the connection. The database was reached by it before."""
    read = read_connection_string(database_url)
    if read.left_out:
        yield _hint(
            f"DATABASE_URL has parameters that are not libpq's, and are left out: {', '.join(read.left_out)}",
            "take them out of it, unless another driver reads the same variable",
        )
    if not (read.is_transaction_pooler or "pooler" in read.host):
        return
    try:
        pools = shares_backends(read)
    except psycopg.Error as error:
        yield _hint(
            f"it can't be found out whether DATABASE_URL leads to a pooler ({error.sqlstate or 'lost'})",
            "try again",
        )
        return
    if not pools:
        yield _hint(
            "DATABASE_URL leads to a pooler in session mode: each of a process's up to 16 connections takes one of the "
            "database's for as long as it is open",
            "use the pooler's port for transaction mode, 6543, which ai-retry is made for",
        )


def shares_backends(read: ConnectionString) -> bool:
    """Whether two clients at once are served by one server process, or one client by several: transaction mode."""
    with _connected(read) as one, _connected(read) as other:
        seen = [_backend(each) for each in (one, other, one, other)]
    return seen[0] != seen[2] or seen[1] != seen[3] or seen[0] == seen[1]


def _connected(read: ConnectionString) -> "psycopg.Connection[tuple[int]]":
    return psycopg.connect(read.conninfo, autocommit=True, prepare_threshold=None, connect_timeout=_PATIENCE)


def _backend(connection: "psycopg.Connection[tuple[int]]") -> int:
    row = connection.execute(_BACKEND).fetchone()
    return row[0] if row is not None else 0


def _hint(problem: str, remedy: str) -> Finding:
    return Finding(Check.CONNECTION, problem, remedy, Level.HINT)
