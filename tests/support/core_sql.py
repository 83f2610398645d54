"""The schemas on an empty database, and the world around the storage of changes."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from ai_retry.domain.model import Snapshot
from ai_retry.domain.ports import QueueStorage, Storage
from ai_retry.storage.functions import FunctionStorage
from ai_retry.testing.contract import Row
from tests.support.old_port import OldPort
from tests.support.world import SqlWorld
from tools.migration import APP, OURS


def apply_schemas(connection: psycopg.Connection) -> None:
    """Create everything from its source, as the migrations do in an empty project."""
    for migration in (OURS, APP):
        for path in migration.files():
            connection.execute(path.read_bytes())


_ATTEMPTS = """
select c.generation_id, c.user_id, c.number, c.token, c.started_at, c.lease_expires_at, c.outcome, c.closed_at, c.code,
  c.counted, c.idempotency_key, c.charge, c.waived, c.operator, c.captured_at, c.next_attempt_at, c.cause as
  refused_constraint, c.provider_outcome, c.wire_requests, c.model, c.usage, c.transient, c.operator_fault,
  c.discarded_by, c.accepted_at, c.expires_at, c.route, c.context_reader, a.answer as stored_answer
from public.ai_retry_attempts c left join public.ai_retry_answers a using (generation_id, number)
where c.generation_id = %(id)s
union all
select o.generation_id, o.user_id, o.number, o.token, o.started_at, o.lease_expires_at, null, null, null,
  o.counted, o.idempotency_key, o.charge, o.waived, o.operator, null,
  coalesce(o.lease_expires_at + make_interval(secs => o.abandoned_wait_seconds), o.due_at), null, o.provider_outcome,
  o.wire_requests, null, null, null, false, null, o.accepted_at, o.expires_at, o.route, o.context_reader, o.answer
from public.ai_retry_open o where o.generation_id = %(id)s
order by number
"""
_MOVES = (
    "update public.ai_retry_open set started_at = started_at - %(by)s, lease_expires_at = lease_expires_at - %(by)s,"
    " renewable_until = renewable_until - %(by)s, due_at = due_at - %(by)s, accepted_at = accepted_at - %(by)s,"
    " expires_at = expires_at - %(by)s where user_id = any(%(users)s)",
    "update public.ai_retry_attempts set started_at = started_at - %(by)s, closed_at = closed_at - %(by)s,"
    " next_attempt_at = next_attempt_at - %(by)s, captured_at = captured_at - %(by)s,"
    " lease_expires_at = lease_expires_at - %(by)s, accepted_at = accepted_at - %(by)s,"
    " expires_at = expires_at - %(by)s where user_id = any(%(users)s)",
    "update public.generations set created_at = created_at - %(by)s, updated_at = updated_at - %(by)s"
    " where user_id = any(%(users)s)",
)


class CoreSqlWorld(SqlWorld):
    """Implements ``ai_retry.testing.contract.World`` for the storage of changes over SQL."""

    def __init__(self, functions: FunctionStorage, connection: psycopg.Connection) -> None:
        self._port = OldPort(functions)
        super().__init__(self._port, connection)

    @property
    def storage(self) -> Storage:
        """Today's port over it."""
        return self._port

    def advance(self, duration: timedelta) -> None:
        """Move every stored instant of this world's users back."""
        for statement in _MOVES:
            self._connection.execute(statement.encode(), {"by": duration, "users": self._users})

    def attempts(self, generation_id: UUID) -> Sequence[Row]:
        """Rows with today's names."""
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return list(cursor.execute(_ATTEMPTS.encode(), {"id": generation_id}).fetchall())


class CoreQueueSqlWorld(CoreSqlWorld):
    """Implements ``ai_retry.testing.queue_contract.QueueWorld``; ends what other worlds left open or in the queue."""

    def __init__(self, functions: FunctionStorage, connection: psycopg.Connection) -> None:
        super().__init__(functions, connection)
        self._port = OldPort(functions, self._message_of)
        for table in ("pgmq.q_ai_retry", "public.ai_retry_outages", "public.ai_retry_open"):
            connection.execute(f"delete from {table}".encode())

    @property
    def storage(self) -> QueueStorage:
        """Today's port over it."""
        return self._port

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
            "select msg_id as id, (select g.id from public.generations g"
            " where g.id::text = message ->> 'generation_id' limit 1) as generation_id,"
            " vt <= clock_timestamp() as ready from pgmq.q_ai_retry order by msg_id"
        )

    def send_message(self, payload: Any) -> None:
        """Send it as anything with the queue's privileges could."""
        self._connection.execute("select pgmq.send('ai_retry', %s::jsonb)", [Jsonb(payload)])

    def lose_messages(self) -> None:
        """Empty the table."""
        self._connection.execute("delete from pgmq.q_ai_retry")

    def _message_of(self, snapshot: Snapshot) -> int | None:
        rows = self._rows("select message_id from public.ai_retry_open where token = %s", snapshot.open_token)
        return rows[0]["message_id"] if rows else None
