"""What the scenario counts, in the engine's own database, and how its two workers are asked to go on.

No engine decides here: the provider and the charge are plain rows, written by whoever runs.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import psycopg

Order = Literal["while", "after"]  # when A finishes: while B is at work, or after B has finished
WAIT = 20.0  # seconds, the longest that anyone waits for anyone

_TABLES = """
create schema if not exists late_finisher;
create table if not exists late_finisher.calls (worker text not null);
create table if not exists late_finisher.charges (worker text not null);
create table if not exists late_finisher.signals (name text primary key);
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """How the engine answered both finishes."""

    engine: str  # with versions
    accepted: bool  # whether A's late finish counted
    late: str  # what A's finish returned
    other: str  # what B's finish returned
    charged: str  # where the scenario charges


class Ledger:
    """Calls of the provider, charges of the user, and signals between processes."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("select pg_advisory_lock(1)")  # two may want to make the schema
        self._connection.execute(_TABLES)
        self._connection.execute("select pg_advisory_unlock(1)")

    def call(self, worker: str) -> None:
        """Count a call of the provider."""
        self._connection.execute("insert into late_finisher.calls values (%s)", [worker])

    def charge(self, worker: str) -> None:
        """Charge the user."""
        charge(self._connection, worker)

    def counts(self) -> tuple[int, int]:
        """Calls and charges so far."""
        row = self._connection.execute(
            "select (select count(*) from late_finisher.calls), (select count(*) from late_finisher.charges)"
        ).fetchone()
        return row or (0, 0)

    def signal(self, name: str) -> None:
        """Let whoever waits for it go on."""
        self._connection.execute("insert into late_finisher.signals values (%s) on conflict do nothing", [name])

    def wait_for_signal(self, name: str) -> None:
        """Wait until it was given."""
        self._wait("select 1 from late_finisher.signals where name = %s", name)

    def wait_for_call(self, worker: str) -> None:
        """Wait until this worker has called the provider."""
        self._wait("select 1 from late_finisher.calls where worker = %s", worker)

    def _wait(self, query: str, name: str) -> None:
        until = time.monotonic() + WAIT
        while not self._connection.execute(query.encode(), [name]).fetchone():
            if time.monotonic() > until:
                raise TimeoutError(name)
            time.sleep(0.05)


def charge(connection: psycopg.Connection, worker: str) -> None:
    """Charge the user in the transaction of this connection."""
    connection.execute("insert into late_finisher.charges values (%s)", [worker])


def play(scenario: Callable[[str, Order], Report]) -> None:
    """Run a scenario with the command line's arguments and print its report."""
    url, order = sys.argv[1:3]
    print(json.dumps(asdict(scenario(url, "after" if order == "after" else "while"))))
