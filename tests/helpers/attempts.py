"""Attempts as one table, closed and open, and rows of both: for tests that are witnesses of the database."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

ATTEMPTS: Final = """(
  select c.generation_id, c.user_id, c.number, c.token, c.started_at, c.lease_expires_at, c.outcome, c.closed_at,
    c.code, c.reason, c.counted, c.transient, c.operator_fault, c.next_attempt_at, c.cause, c.session_id, c.charge,
    c.captured_at, c.waived, c.operator, c.idempotency_key, c.answer_from, c.route, c.accepted_at, c.expires_at,
    c.context_reader, c.provider_outcome, c.wire_requests, c.model, c.usage, c.provider_id, c.duration_ms,
    c.calls, c.discarded_by, c.request_digest, null::bigint as message_id, a.answer as stored_answer
  from public.ai_retry_attempts c left join public.ai_retry_answers a using (generation_id, number)
  union all
  select o.generation_id, o.user_id, o.number, o.token, o.started_at, o.lease_expires_at, null, null, null,
    null, o.counted, null, false,
    coalesce(o.lease_expires_at + make_interval(secs => o.abandoned_wait_seconds), o.due_at), null, null, o.charge,
    null, o.waived, o.operator, o.idempotency_key, o.answer_from, o.route, o.accepted_at, o.expires_at,
    o.context_reader, o.provider_outcome, o.wire_requests, null, null, null, null,
    null, null, o.request_digest, o.message_id, o.answer
  from public.ai_retry_open o
)"""
"""A subquery: ``f"select * from {ATTEMPTS} a where a.generation_id = %s order by a.number"``."""


def add_closed(connection: psycopg.Connection, user_id: UUID, generation_id: UUID, **columns: Any) -> None:
    """Add an attempt that has just failed; ``columns`` say what else."""
    now = datetime.now(UTC)
    row = {
        "number": 2,
        "started_at": now,
        "closed_at": now,
        "outcome": "failed",
        "counted": True,
        "charge": True,
        "provider_outcome": "unknown",
    }
    _add(connection, "ai_retry_attempts", user_id, generation_id, row | columns)


def add_running(connection: psycopg.Connection, user_id: UUID, generation_id: UUID, **columns: Any) -> None:
    """Add an open attempt with a lease; ``columns`` say what else."""
    until = datetime.now(UTC) + timedelta(seconds=30)
    row = {"lease_expires_at": until, "renewable_until": until, "abandoned_wait_seconds": 2}
    _add_open(connection, user_id, generation_id, row | columns)


def add_queued(connection: psycopg.Connection, user_id: UUID, generation_id: UUID, **columns: Any) -> None:
    """Add an open attempt that was accepted for later; ``columns`` say what else."""
    now = datetime.now(UTC)
    row = {"due_at": now, "accepted_at": now, "expires_at": now + timedelta(days=1), "status_before": "error"}
    _add_open(connection, user_id, generation_id, row | {"in_line": 2} | columns)


def _add_open(connection: psycopg.Connection, user_id: UUID, generation_id: UUID, columns: dict[str, Any]) -> None:
    row = {"number": 2, "started_at": datetime.now(UTC), "charge": True, "waived": []}
    _add(connection, "ai_retry_open", user_id, generation_id, row | columns)


def _add(
    connection: psycopg.Connection, table: LiteralString, user_id: UUID, generation_id: UUID, columns: dict[str, Any]
) -> None:
    row = {"user_id": user_id, "generation_id": generation_id, "token": uuid4(), **columns}
    connection.execute(
        sql.SQL("insert into public.{} ({}) values ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join([sql.Placeholder()] * len(row)),
        ),
        list(row.values()),
    )
