create view ai_retry.attempts with (security_invoker = true) as
  select c.generation_id, c.user_id, c.number, c.token, c.session_id, false as is_open, pg_catalog.jsonb_build_object(
    'number', c.number, 'started_at', c.started_at, 'lease_expires_at', c.lease_expires_at, 'outcome', c.outcome,
    'closed_at', c.closed_at, 'code', c.code, 'counted', c.counted, 'next_attempt_at', c.next_attempt_at,
    'idempotency_key', c.idempotency_key, 'refused_constraint', c.cause, 'provider_outcome', c.provider_outcome,
    'accepted_at', c.accepted_at, 'expires_at', c.expires_at, 'transient', c.transient, 'operator_fault',
    c.operator_fault, 'context_reader', c.context_reader, 'answer_from', c.answer_from,
    'request_digest', c.request_digest, 'in_doubt',
    pg_catalog.jsonb_path_query_array(c.calls, '$[*] ? (@.outcome == "unknown").route'),
    'request_id', c.request_id, 'traceparent', c.traceparent) as attempt,
    null::timestamptz as open_until, c.next_attempt_at, (
      select w.answer || pg_catalog.jsonb_build_object('number', w.number, 'stored_at', w.stored_at)
      from public.ai_retry_answers w where w.generation_id = c.generation_id and w.number = c.number) as stored_answer
  from public.ai_retry_attempts c
  union all
  select o.generation_id, o.user_id, o.number, o.token, null, true, pg_catalog.jsonb_build_object(
    'number', o.number, 'started_at', o.started_at, 'lease_expires_at', o.lease_expires_at, 'outcome', null,
    'closed_at', null, 'code', null, 'counted', o.counted, 'next_attempt_at', coalesce(
      o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at),
    'idempotency_key', o.idempotency_key, 'refused_constraint', null, 'provider_outcome', o.provider_outcome,
    'accepted_at', o.accepted_at, 'expires_at', o.expires_at, 'transient', null, 'operator_fault', false,
    'context_reader', o.context_reader, 'answer_from', o.answer_from, 'request_digest', o.request_digest,
    'request_id', o.request_id, 'traceparent', o.traceparent),
    o.lease_expires_at, coalesce(o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at),
    o.answer || pg_catalog.jsonb_build_object('number', o.number, 'stored_at', o.started_at)
  from public.ai_retry_open o;
revoke all on table ai_retry.attempts from public, anon, authenticated;
grant select on table ai_retry.attempts to service_role;
comment on view ai_retry.attempts is 'ai-retry: attempts, closed and open, as decisions see them.';
