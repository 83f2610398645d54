"""The world around a storage over SQL and pgmq, for the contract of retries that are accepted for later."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.domain.ports import QueueStorage
from ai_retry.testing.contract import Row
from tests.support.world import SqlWorld

_EMPTY = """
delete from pgmq.q_ai_retry;
delete from public.ai_retry_outages;
update public.ai_retry_attempts
  set state = 'closed', outcome = 'cancelled', closed_at = clock_timestamp(), counted = false where outcome is null;
"""


def empty_queue(connection: psycopg.Connection) -> None:
    """Leave no message, no outage and no open attempt of earlier tests: a worker would take care of them."""
    connection.execute(_EMPTY)


class SqlQueueWorld(SqlWorld):
    """Implements ``ai_retry.testing.queue_contract.QueueWorld``; ends what other worlds left open or in the queue."""

    def __init__(self, storage: QueueStorage, connection: psycopg.Connection) -> None:
        super().__init__(storage, connection)
        self._queue_storage = storage
        empty_queue(connection)

    @property
    def storage(self) -> QueueStorage:
        """The adapter under test."""
        return self._queue_storage

    def advance(self, duration: timedelta) -> None:
        """Move messages and outages back, too."""
        super().advance(duration)
        self._connection.execute("update pgmq.q_ai_retry set vt = vt - %s", [duration])
        self._connection.execute(
            "update public.ai_retry_outages set not_before = not_before - %(by)s, since = since - %(by)s",
            {"by": duration},
        )

    def messages(self) -> Sequence[Row]:
        """Rows of the queue; a payload that names no generation has none."""
        return self._rows(
            "select msg_id as id, (select a.generation_id from public.ai_retry_attempts a"
            " where a.generation_id::text = message ->> 'generation_id' limit 1) as generation_id,"
            " vt <= clock_timestamp() as ready from pgmq.q_ai_retry order by msg_id"
        )

    def send_message(self, payload: Any) -> None:
        """Send it as anybody with the queue's privileges could."""
        self._connection.execute("select pgmq.send('ai_retry', %s::jsonb)", [Jsonb(payload)])

    def lose_messages(self) -> None:
        """Empty the table."""
        self._connection.execute("delete from pgmq.q_ai_retry")
