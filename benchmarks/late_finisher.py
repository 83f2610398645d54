"""Who accepts the finish of a worker that was given up for dead? Ours, Procrastinate, pgmq and DBOS on one PostgreSQL.

Run it with ``make late-finisher``. Worker A takes a job, calls the provider and stalls past its lease; B takes over and
calls too; then A finishes, either while B is still at work or after B has finished. Each run has a database of its own.
The peers are found in ``.cache/peers``; what they mean is in ``docs/late-finisher.md``.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product

from benchmarks.engines.ledger import Ledger, Report
from benchmarks.line_process import PEERS
from benchmarks.report import table
from tools.npm import REPOSITORY
from tools.stack import Stack, running_stack

LONGEST_RUN = 50  # seconds, of one engine in one order
ENGINES = ("ours", "procrastinate_jobs", "pgmq_queue", "dbos_workflow")
ORDERS = {"while": "while B is at work", "after": "after B has finished"}


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    order: str
    report: Report
    calls: int
    charges: int

    def cells(self) -> tuple[str, ...]:
        """Give its texts."""
        accepted = "accepted" if self.report.accepted else "refused"
        return (
            self.report.engine,
            ORDERS[self.order],
            accepted,
            self.report.late,
            self.report.other,
            self.report.charged,
            str(self.calls),
            str(self.charges),
        )


HEADER = (
    "engine",
    "A finishes",
    "A's late finish",
    "A's answer",
    "B's answer",
    "charged",
    "calls",
    "charges",
)


def main() -> int:
    """Play all, print the table."""
    if not PEERS.exists():
        print("late-finisher: run `make late-finisher`, which installs the peers in .cache/peers", file=sys.stderr)
        return 1
    try:
        with running_stack() as stack, ThreadPoolExecutor(2) as threads:
            lines = list(threads.map(lambda run: _play(stack, *run), product(ENGINES, ORDERS)))
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"late-finisher: failed: {error}", file=sys.stderr)
        return 1
    print(f"late-finisher, {datetime.now(UTC):%Y-%m-%d}\n")
    print("\n".join(table(HEADER, [line.cells() for line in lines])))
    print("\ncalls: requests at the provider; charges: units that the user paid.")
    return 0


def _play(stack: Stack, engine: str, order: str) -> Line:
    url = stack.create_database(f"late_{engine}_{order}", migrated=engine == "ours")
    python = sys.executable if engine == "ours" else str(PEERS)
    ran = subprocess.run(
        [python, "-m", f"benchmarks.engines.{engine}", url, order],
        cwd=REPOSITORY,
        timeout=LONGEST_RUN,
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise RuntimeError(f"{engine}, {order}:\n{ran.stdout}{ran.stderr}")
    return Line(order, Report(**json.loads(ran.stdout.splitlines()[-1])), *Ledger(url).counts())


if __name__ == "__main__":
    sys.exit(main())
