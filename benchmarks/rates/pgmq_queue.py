"""pgmq: send, read with a visibility timeout, delete."""

import sys
import time

from pgmq import Message, PGMQueue
from pgmq.install import get_embedded_sql_version

from benchmarks.rates.protocol import serve, spread, versions

QUEUE = "retries"
VISIBLE_AGAIN = 30  # seconds
MOST_WORKERS = 16


class Pgmq:
    """Each worker sends a message, reads whichever is first, and deletes it."""

    name = f"{versions('pgmq')} (pgmq.sql {get_embedded_sql_version()})"

    def __init__(self, url: str) -> None:
        self._queue = PGMQueue(conn_string=url, init_extension=False, pool_size=MOST_WORKERS)
        self._queue.create_queue(QUEUE)

    def run(self, workers: int, count: int) -> float:
        """See the protocol."""
        began = time.perf_counter()
        spread(self._one, list(range(count)), workers)
        return time.perf_counter() - began

    def _one(self, number: int) -> None:
        self._queue.send(QUEUE, {"generation": number})
        while not isinstance(message := self._queue.read(QUEUE, vt=VISIBLE_AGAIN), Message):
            pass  # another worker has read ours, and not sent its own yet
        assert self._queue.delete(QUEUE, message.msg_id)


if __name__ == "__main__":
    serve(Pgmq(sys.argv[1]))
