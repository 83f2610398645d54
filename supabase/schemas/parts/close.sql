create function ai_retry.close(p_generation_id uuid, p_token uuid, p_end jsonb, p_call jsonb, p_at timestamptz)
returns boolean language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_open record;
begin
  -- Only what is open under this token can be closed; only what is over can be abandoned, and a renewal, or an answer
  -- that is kept, may have come.
  with gone as (
    delete from public.ai_retry_open o
    where o.generation_id = p_generation_id and o.token = p_token
      and (p_end ->> 'outcome' <> 'abandoned' or o.lease_expires_at <= p_at and o.kept_cause is null)
    returning o.*, coalesce(o.call, p_call) as its_call, p_end ->> 'outcome' = 'succeeded' as is_success,
      coalesce(
        p_at + pg_catalog.make_interval(secs => (p_end ->> 'wait_seconds')::double precision),
        o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at) as next_at
  ), closed as (
    insert into public.ai_retry_attempts (
      generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, transient,
      operator_fault, next_attempt_at, cause, session_id, charge, captured_at, waived, operator, idempotency_key,
      lease_expires_at, answer_from, route, accepted_at, expires_at, context_reader, provider_outcome, wire_requests,
      model, usage, provider_id, duration_ms, calls, untold)
    select
      o.generation_id, o.number, o.user_id, o.token, o.started_at, p_at, p_end ->> 'outcome', p_end ->> 'code',
      p_end ->> 'reason', coalesce((p_end ->> 'counted')::boolean, o.counted), (p_end ->> 'transient')::boolean,
      coalesce((p_end ->> 'operator_fault')::boolean, false), case when not o.is_success then o.next_at end,
      p_end ->> 'cause', p_end ->> 'session_id', o.charge, case when o.is_success and o.charge then p_at end, o.waived,
      o.operator, o.idempotency_key, o.lease_expires_at, o.answer_from, o.route, o.accepted_at, o.expires_at,
      o.context_reader, coalesce(o.its_call ->> 'provider_outcome', o.provider_outcome),
      o.wire_requests + coalesce((o.its_call ->> 'wire_requests')::integer, 0), o.its_call ->> 'model',
      nullif(o.its_call -> 'usage', 'null'), o.its_call ->> 'provider_id', (o.its_call ->> 'duration_ms')::integer,
      nullif(o.its_call -> 'calls', '[]'), p_end ? 'untold'
    from gone o
  ), used as (
    delete from public.ai_retry_answers a using gone o where a.generation_id = o.generation_id and o.is_success
  ), stored as (
    insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    select o.generation_id, o.number, coalesce(nullif(p_end -> 'answer', 'null'), o.answer), p_at from gone o
    where not o.is_success and coalesce(nullif(p_end -> 'answer', 'null'), o.answer) is not null
  )
  select o.* into v_open from gone o;
  if not found then
    return false;
  end if;
  if v_open.accepted_at is null then
    return true;
  end if;
  if (p_end -> 'goes_on')::boolean then  -- an accepted retry's next attempt keeps the unit
    insert into public.ai_retry_open (
      generation_id, user_id, number, token, started_at, charge, waived, operator, idempotency_key, due_at,
      accepted_at, expires_at, status_before, in_line, context_reader
    ) values (
      p_generation_id, v_open.user_id, v_open.number + 1, pg_catalog.gen_random_uuid(), p_at, v_open.charge,
      v_open.waived, v_open.operator, v_open.idempotency_key,
      least(v_open.next_at, case when v_open.expires_at > p_at then v_open.expires_at end), v_open.accepted_at,
      v_open.expires_at, coalesce(p_end ->> 'status', v_open.status_before), v_open.in_line, v_open.context_reader);
  end if;
  perform ai_retry.line(v_open.user_id, v_open.message_id, null, p_at);
  return true;
end
$$;
revoke all on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) to service_role;
comment on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) is
  'Closes one open attempt, by its token; user, number, hold and key are copied from its row. False: it is not open, or '
  'not over any more. A paid answer without a session is stored. An accepted retry''s next attempt and message follow.';
