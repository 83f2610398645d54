"""pgmq: ``read`` with a visibility timeout, ``archive`` by message id.

The charge is made in the transaction of ``archive`` and only if it returned True: the best that its API allows.
"""

import time

from pgmq import Message, PGMQueue
from pgmq.install import get_embedded_sql_version

from benchmarks.engines.ledger import Ledger, Order, Report, charge, play
from benchmarks.rates.protocol import versions

QUEUE = "retries"
VISIBLE_AGAIN = 1  # seconds


def scenario(url: str, order: Order) -> Report:
    """A reads and stalls past the timeout, B reads the same message; both archive it."""
    ledger = Ledger(url)
    queue = PGMQueue(conn_string=url, init_extension=False)
    try:
        queue.create_queue(QUEUE)
        queue.send(QUEUE, {"generation": 1})
        message_of_a = _take(queue, ledger, "a", VISIBLE_AGAIN)
        time.sleep(VISIBLE_AGAIN + 0.5)
        message_of_b = _take(queue, ledger, "b", 30)
        assert message_of_a == message_of_b
        if order == "while":
            late = _finish(queue, message_of_a, "a")
            other = _finish(queue, message_of_b, "b")
        else:
            other = _finish(queue, message_of_b, "b")
            late = _finish(queue, message_of_a, "a")
    finally:
        queue.close()
    return Report(
        engine=f"{versions('pgmq')} (pgmq.sql {get_embedded_sql_version()})",
        accepted=late,
        late=f"archive returned {late}",
        other=f"archive returned {other}",
        charged="with archive, if it returned True",
    )


def _take(queue: PGMQueue, ledger: Ledger, worker: str, seconds: int) -> int:
    message = queue.read(QUEUE, vt=seconds)
    assert isinstance(message, Message)
    ledger.call(worker)
    return int(message.msg_id)


def _finish(queue: PGMQueue, message: int, worker: str) -> bool:
    assert queue.pool is not None
    with queue.pool.connection() as connection, connection.transaction():
        archived = bool(queue.archive(QUEUE, message, conn=connection))
        if archived:
            charge(connection, worker)
    return archived


if __name__ == "__main__":
    play(scenario)
