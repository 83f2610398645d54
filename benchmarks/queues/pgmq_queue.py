"""pgmq alone: send; read with a visibility timeout, delete. Nothing of what was settled stays, so workers note it."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pgmq import Message, PGMQueue
from pgmq.install import get_embedded_sql_version

from benchmarks.queues.protocol import POLL, THREADS, Span, call_provider, serve, work
from benchmarks.rates.protocol import versions

QUEUE = "retries"
VISIBLE_AGAIN = 40  # seconds


class Pgmq:
    """Notes of workers lie in a folder, a file each."""

    name = f"{versions('pgmq')} (pgmq.sql {get_embedded_sql_version()})"

    def __init__(self, url: str, notes: Path) -> None:
        self._queue = PGMQueue(conn_string=url, init_extension=False)
        self._queue.create_queue(QUEUE)
        self._notes = notes

    def prepare(self, count: int) -> Sequence[Any]:
        """See the protocol."""
        return range(count)

    def enqueue(self, item: int) -> None:
        """See the protocol."""
        self._queue.send(QUEUE, {"generation": item, "at": time.time()})

    def spans(self) -> Sequence[Span]:
        """See the protocol."""
        lines = [line for each in self._notes.glob("*.txt") for line in each.read_text().splitlines()]
        return [(float(line.split()[0]), float(line.split()[1])) for line in lines]


def run_worker(url: str, notes: Path) -> None:
    """Read and delete for ever."""
    queue = PGMQueue(conn_string=url, init_extension=False, pool_size=THREADS + 1)
    with (notes / f"{time.time_ns()}.txt").open("a", buffering=1) as note, ThreadPoolExecutor(THREADS) as threads:

        def settle(message: Message) -> None:
            call_provider()
            assert queue.delete(QUEUE, message.msg_id)
            note.write(f"{message.message['at']} {time.time()}\n")

        while True:
            found = queue.read_with_poll(
                QUEUE, vt=VISIBLE_AGAIN, qty=THREADS, max_poll_seconds=2, poll_interval_ms=int(POLL * 1000)
            )
            list(threads.map(settle, found or ()))


if __name__ == "__main__":
    if sys.argv[2] == "work":
        work(lambda: run_worker(sys.argv[1], Path(sys.argv[3])))
    else:
        serve(Pgmq(sys.argv[1], Path(sys.argv[3])))
