"""The schemas of the new core on a database that has the migrations, and the world around its storage."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import psycopg

from ai_retry.domain.ports import Storage
from ai_retry.storage._changes import ChangeFunctions
from ai_retry.testing.contract import Row
from tests.support.npm import REPOSITORY
from tests.support.old_port import OldPort
from tests.support.world import SqlWorld

SCHEMAS = REPOSITORY / "supabase" / "schemas"
_ORDER = ("tables/open", "tables/closed", "tables/answers", "app", "parts/*", "verbs/*", "grants")


def apply_schemas(connection: psycopg.Connection) -> None:
    """Create everything of the core; PL/pgSQL looks a function's names up when it runs, so that parts have no order."""
    for pattern in _ORDER:
        for path in sorted(SCHEMAS.glob(f"{pattern}.sql")):
            connection.execute(path.read_text().encode())


_ATTEMPTS = """
select c.generation_id, c.user_id, c.number, c.token, c.started_at, c.lease_expires_at, c.outcome, c.closed_at, c.code,
  c.counted, c.idempotency_key, c.charge, c.waived, c.operator, c.captured_at, c.next_attempt_at, c.cause as
  refused_constraint, c.provider_outcome, c.wire_requests, c.model, c.usage, c.transient, c.operator_fault,
  c.discarded_by, a.answer as stored_answer
from public.ai_retry_closed c left join public.ai_retry_answers a using (generation_id, number)
where c.generation_id = %(id)s
union all
select o.generation_id, o.user_id, o.number, o.token, o.started_at, o.lease_expires_at, null, null, null,
  o.counted, o.idempotency_key, o.charge, o.waived, o.operator, null,
  o.lease_expires_at + make_interval(secs => o.abandoned_wait_seconds), null, o.provider_outcome, o.wire_requests,
  null, null, null, false, null, o.answer
from public.ai_retry_open o where o.generation_id = %(id)s
order by number
"""
_MOVES = (
    "update public.ai_retry_open set started_at = started_at - %(by)s, lease_expires_at = lease_expires_at - %(by)s,"
    " renewable_until = renewable_until - %(by)s where user_id = any(%(users)s)",
    "update public.ai_retry_closed set started_at = started_at - %(by)s, closed_at = closed_at - %(by)s,"
    " next_attempt_at = next_attempt_at - %(by)s, captured_at = captured_at - %(by)s,"
    " lease_expires_at = lease_expires_at - %(by)s where user_id = any(%(users)s)",
    "update public.generations set created_at = created_at - %(by)s, updated_at = updated_at - %(by)s"
    " where user_id = any(%(users)s)",
)


class CoreSqlWorld(SqlWorld):
    """Implements ``ai_retry.testing.contract.World`` for the storage of changes over SQL."""

    def __init__(self, functions: ChangeFunctions, connection: psycopg.Connection) -> None:
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
