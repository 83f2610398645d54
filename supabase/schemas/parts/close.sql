create function ai_retry.close(p_generation_id uuid, p_token uuid, p_end jsonb, p_call jsonb, p_at timestamptz)
returns boolean language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_is_success constant boolean := p_end ->> 'outcome' = 'succeeded';
  v_open public.ai_retry_open%rowtype;
  v_call jsonb;
  v_answer jsonb;
  v_next_at timestamptz;
begin
  -- Only what is open under this token can be closed; only what is over can be abandoned, and a renewal, or an answer
  -- that is kept, may have come.
  delete from public.ai_retry_open o
    where o.generation_id = p_generation_id and o.token = p_token
      and (p_end ->> 'outcome' <> 'abandoned' or o.lease_expires_at <= p_at and o.kept_cause is null)
    returning o.* into v_open;
  if not found then
    return false;
  end if;
  v_call := coalesce(v_open.call, p_call);
  v_answer := coalesce(nullif(p_end -> 'answer', 'null'), v_open.answer);
  v_next_at := coalesce(
    p_at + pg_catalog.make_interval(secs => (p_end ->> 'wait_seconds')::double precision),
    v_open.lease_expires_at + pg_catalog.make_interval(secs => v_open.abandoned_wait_seconds), v_open.due_at);
  insert into public.ai_retry_attempts (
    generation_id, number, user_id, token, started_at, closed_at, outcome, code, reason, counted, transient,
    operator_fault, next_attempt_at, cause, session_id, charge, captured_at, waived, operator, idempotency_key,
    lease_expires_at, answer_from, route, accepted_at, expires_at, context_reader, request_id, traceparent,
    provider_outcome, wire_requests, model, usage, provider_id, duration_ms, calls, unreported, request_digest
  ) values (
    p_generation_id, v_open.number, v_open.user_id, p_token, v_open.started_at, p_at, p_end ->> 'outcome',
    p_end ->> 'code', p_end ->> 'reason', coalesce((p_end ->> 'counted')::boolean, v_open.counted),
    (p_end ->> 'transient')::boolean, coalesce((p_end ->> 'operator_fault')::boolean, false),
    case when not v_is_success then v_next_at end, p_end ->> 'cause', p_end ->> 'session_id', v_open.charge,
    case when v_is_success and v_open.charge then p_at end, v_open.waived, v_open.operator, v_open.idempotency_key,
    v_open.lease_expires_at, v_open.answer_from, v_open.route, v_open.accepted_at, v_open.expires_at,
    v_open.context_reader, v_open.request_id, v_open.traceparent, coalesce(v_call ->> 'provider_outcome', v_open.provider_outcome),
    v_open.wire_requests + coalesce((v_call ->> 'wire_requests')::integer, 0), v_call ->> 'model',
    nullif(v_call -> 'usage', 'null'), v_call ->> 'provider_id', (v_call ->> 'duration_ms')::integer,
    nullif(v_call -> 'calls', '[]'), p_end ? 'unreported', v_open.request_digest);
  if v_is_success then
    delete from public.ai_retry_answers a where a.generation_id = p_generation_id;
  elsif v_answer is not null then
    insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    values (p_generation_id, v_open.number, v_answer, p_at);
  end if;
  if v_open.accepted_at is null then
    return true;
  end if;
  if (p_end -> 'goes_on')::boolean then  -- an accepted retry's next attempt keeps the unit
    insert into public.ai_retry_open (
      generation_id, user_id, number, token, started_at, charge, waived, operator, idempotency_key, due_at,
      accepted_at, expires_at, status_before, in_line, context_reader, request_id, traceparent, provider_outcome
    ) values (
      p_generation_id, v_open.user_id, v_open.number + 1, pg_catalog.gen_random_uuid(), p_at, v_open.charge,
      v_open.waived, v_open.operator, v_open.idempotency_key,
      least(v_next_at, case when v_open.expires_at > p_at then v_open.expires_at end), v_open.accepted_at,
      v_open.expires_at, coalesce(p_end ->> 'status', v_open.status_before), v_open.in_line, v_open.context_reader,
      v_open.request_id, v_open.traceparent, 'not_generated');
  else
    perform ai_retry.announce(
      'generation.' || case when p_end ->> 'code' = 'RETRY_EXPIRED' then 'expired' else p_end ->> 'outcome' end,
      p_generation_id::text, pg_catalog.jsonb_build_object(
        'user_id', v_open.user_id, 'generation_id', p_generation_id, 'attempt', v_open.number,
        'session_id', p_end -> 'session_id', 'code', p_end -> 'code', 'request_id', v_open.request_id,
        'accepted_at', v_open.accepted_at), p_at, p_generation_id, v_open.number);
  end if;
  perform ai_retry.line(v_open.user_id, v_open.message_id, null, p_at);
  return true;
end
$$;
revoke all on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) to service_role;
comment on function ai_retry.close(uuid, uuid, jsonb, jsonb, timestamptz) is
  'Closes one open attempt, by its token; user, number, hold and key are copied from its row. False: it is not open, or '
  'not over any more. A paid answer without a session is stored. An accepted retry''s next attempt and message follow; '
  'its end is announced.';
