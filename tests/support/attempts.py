"""Attempts as one table, closed and open: for tests that are witnesses of the database."""

from typing import Final

ATTEMPTS: Final = """(
  select c.generation_id, c.user_id, c.number, c.token, c.started_at, c.lease_expires_at, c.outcome, c.closed_at, c.code,
    c.reason, c.counted, c.transient, c.operator_fault, c.next_attempt_at, c.cause, c.session_id, c.charge,
    c.captured_at, c.waived, c.operator, c.idempotency_key, c.answer_from, c.route, c.accepted_at, c.expires_at,
    c.context_reader, c.provider_outcome, c.wire_requests, c.model, c.usage, c.provider_id, c.duration_ms,
    c.discarded_by, null::bigint as message_id, a.answer as stored_answer
  from public.ai_retry_attempts c left join public.ai_retry_answers a using (generation_id, number)
  union all
  select o.generation_id, o.user_id, o.number, o.token, o.started_at, o.lease_expires_at, null, null, null,
    null, o.counted, null, false,
    coalesce(o.lease_expires_at + make_interval(secs => o.abandoned_wait_seconds), o.due_at), null, null, o.charge,
    null, o.waived, o.operator, o.idempotency_key, o.answer_from, o.route, o.accepted_at, o.expires_at,
    o.context_reader, o.provider_outcome, o.wire_requests, null, null, null, null,
    null, o.message_id, o.answer
  from public.ai_retry_open o
)"""
"""A subquery: ``f"select * from {ATTEMPTS} a where a.generation_id = %s order by a.number"``."""
